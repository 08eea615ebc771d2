"""Tokens per second of batched MT-Bench answers against one prompt per call, on one loaded model.

Both hold the same two-turn conversations greedily, each on its own earlier answer. evalkit holds them as a run does:
many rows at once, rows leaving as they end and new ones joining. The peer calls transformers' `generate` with one
prompt at a time, which is how FastChat's answer script works; since its calls do not influence one another, it may hold
every k-th conversation only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import measuring as m
import torch

from evalkit.adapters.base import Message, Resources
from evalkit.adapters.causal.engine import CausalEngine
from evalkit.adapters.causal.loading import LoadedModel, end_tokens, identify, load_model
from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.tokens import encode_prompt
from evalkit.assets import AssetStore
from evalkit.benchmarks import Benchmark, load_benchmark
from evalkit.collect.asking import ask
from evalkit.definitions import find_definitions
from evalkit.records import Item, TextReply
from evalkit.suite import EngineSpec

GROUPS = {
    "matrix products": ("mm", "linear", "mkldnn"),
    "attention": ("attention",),
    "copies and casts": ("copy", "cat", "_to_copy", "contiguous"),
}
OURS, PEER = "evalkit, batched", "transformers, one prompt per call"


@dataclass(kw_only=True)
class Held:
    """What conversations came to: answer tokens by round, and the last round's texts by item key."""

    tokens: list[int] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)


def main() -> int:
    """Time both, interleaved."""
    args = _arguments()
    assets = AssetStore(find_definitions().root)
    spec = EngineSpec(name="bench", adapter="hf", model=args.model, dtype="bfloat16", device="cpu")
    loaded = load_model(spec, CausalOptions(threads=args.threads), Resources(assets=assets))
    benchmark = _benchmark(args.max_tokens, assets)
    items = _spread(benchmark.items, args.questions)
    few = _spread(items, args.peer_questions)
    engine = _engine(loaded, args.rows)
    held = {OURS: Held(), PEER: Held()}
    contestants: dict[str, Callable[[], object]] = {
        OURS: lambda: _hold_batched(engine, benchmark, items, held[OURS]),
        PEER: lambda: _hold_one_by_one(loaded, few, args.max_tokens, held[PEER]),
    }
    seconds = m.interleave(contestants, args.repeats)
    rates = {name: [n / s for n, s in zip(held[name].tokens, seconds[name], strict=True)] for name in held}
    ratio = m.median_ratio(rates[OURS], rates[PEER])
    shares: dict[str, float] = {}
    with m.profiled(shares, GROUPS):
        _hold_batched(engine, benchmark, _spread(items, 8), Held())
    bf16 = _equal(held[OURS], held[PEER], few)
    fp32 = _equal_in_fp32(spec, assets, benchmark, _spread(few, args.exact_questions), args)
    results = {
        "seconds": seconds,
        "answer_tokens": {name: found.tokens for name, found in held.items()},
        "tokens_per_s": rates,
        "ratio": ratio,
        "n_conversations": {OURS: len(items), PEER: len(few)},
        "equal_answers": {"fp32": fp32, "bf16": bf16},
        "profile": shares,
    }
    rows = [
        [name, str(count), f"{held[name].tokens[-1]:,}", f"{statistics.median(rates[name]):.1f}"]
        for name, count in ((OURS, len(items)), (PEER, len(few)))
    ]
    rows[0].append("")
    rows[1].append(f"{m.times(ratio)} as fast")
    heads = ["who", "conversations", "answer tokens", "tokens/s", "evalkit is"]
    agreement = [[dtype, str(equal), str(count)] for dtype, (equal, count) in (("fp32", fp32), ("bf16", bf16))]
    found = m.Findings(
        settings=vars(args),
        results=results,
        tables=[
            m.Table(name="generate", headers=heads, rows=rows),
            m.Table(name="generate-agreement", headers=["dtype", "equal answers", "answers"], rows=agreement),
            m.Table(
                name="generate-profile",
                headers=["where evalkit's time goes", "share"],
                rows=[[what, f"{share:.0%}"] for what, share in shares.items()],
            ),
        ],
    )
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=2)
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--peer-questions", type=int, default=16, help="of those, asked one by one")
    parser.add_argument("--exact-questions", type=int, default=4, help="of those, asked again in fp32")
    parser.add_argument("--max-tokens", type=int, default=64, help="limit of each answer")
    parser.add_argument("--rows", type=int, default=32, help="answers generated at once")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="asset or folder")
    parser.add_argument("--threads", type=int, default=m.cores())
    return parser.parse_args()


def _benchmark(max_tokens: int, assets: AssetStore) -> Benchmark:
    definition = find_definitions().task("mt-bench")
    assert definition.mt_bench is not None
    settings = definition.mt_bench.model_copy(update={"generation": "greedy", "max_tokens": max_tokens})
    return load_benchmark(definition.model_copy(update={"mt_bench": settings}), assets)


def _spread(items: Any, count: int) -> list[Item]:
    """Return `count` items, evenly over all categories."""
    count = min(count, len(items))
    return [items[at * len(items) // count] for at in range(count)]


def _engine(loaded: LoadedModel, rows: int) -> CausalEngine:
    options = CausalOptions(generate_rows=rows)
    return CausalEngine(loaded, identify("hf", loaded, options={"generate_rows": rows}), options, "plain")


def _hold_batched(engine: CausalEngine, benchmark: Benchmark, items: list[Item], held: Held) -> None:
    held.texts, tokens = {}, 0
    for item, _, reply in ask(engine, benchmark, [(item, 0) for item in items]):
        if not isinstance(reply, TextReply):
            raise TypeError(f"{item.key}: {reply}")
        held.texts[item.key] = [turn.text for turn in reply.turns]
        tokens += sum(turn.completion_tokens for turn in reply.turns)
    held.tokens.append(tokens)


def _hold_one_by_one(loaded: LoadedModel, items: list[Item], max_tokens: int, held: Held) -> None:
    held.texts, tokens, ends = {}, 0, end_tokens(loaded)
    for item in items:
        messages: list[Message] = []
        texts: list[str] = []
        for question in item.turns:
            messages.append(Message(role="user", content=question))
            answer = _answer(loaded, messages, max_tokens)
            kept = [token for token in answer if token not in ends]
            tokens += len(kept)
            texts.append(loaded.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            messages.append(Message(role="assistant", content=texts[-1]))
        held.texts[item.key] = texts
    held.tokens.append(tokens)


def _equal(ours: Held, theirs: Held, items: list[Item]) -> tuple[int, int]:
    """Return how many answers are equal letter for letter, and of how many."""
    pairs = [pair for item in items for pair in zip(ours.texts[item.key], theirs.texts[item.key], strict=True)]
    return sum(mine == other for mine, other in pairs), len(pairs)


def _equal_in_fp32(
    spec: EngineSpec, assets: AssetStore, benchmark: Benchmark, items: list[Item], args: argparse.Namespace
) -> tuple[int, int]:
    exact = spec.model_copy(update={"dtype": "float32"})
    loaded = load_model(exact, CausalOptions(threads=args.threads), Resources(assets=assets))
    ours, theirs = Held(), Held()
    _hold_batched(_engine(loaded, args.rows), benchmark, items, ours)
    _hold_one_by_one(loaded, items, args.max_tokens, theirs)
    return _equal(ours, theirs, items)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
def _answer(loaded: LoadedModel, messages: list[Message], max_tokens: int) -> list[int]:
    prompt = torch.tensor([encode_prompt(loaded.tokenizer, tuple(messages))])
    ends = list(end_tokens(loaded))
    found = loaded.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    return [int(token) for token in found[0, prompt.shape[1] :]]


if __name__ == "__main__":
    sys.exit(main())
