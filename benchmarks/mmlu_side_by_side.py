"""MMLU items scored by evalkit and by lm-eval with one and the same loaded model.

In: a loaded model and items. Out: log-probabilities of each item's options, choices, and how much work there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit.adapters.base import Engine, Failure, Resources, ScoreRequest
from evalkit.adapters.causal.engine import CausalEngine
from evalkit.adapters.causal.forward import Path as ScoringPath
from evalkit.adapters.causal.loading import LoadedModel, identify, load_model
from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.causal.selfcheck import agreed_path
from evalkit.adapters.registry import load_engine
from evalkit.adapters.tokens import EncodedRequest, encode_requests
from evalkit.assets import AssetStore
from evalkit.benchmarks import load_benchmark
from evalkit.definitions import find_definitions
from evalkit.records import Item
from evalkit.suite import EngineSpec

Scores = list[tuple[float, ...]]
"""Log-probabilities of the options, item by item."""


@dataclass(kw_only=True)
class Bench:
    """Where models and items come from."""

    model: str
    threads: int
    mmlu: Path | None
    subjects: Sequence[str]
    _assets: AssetStore = field(init=False)

    def __post_init__(self) -> None:
        overrides = {"mmlu": [{"local": str(self.mmlu)}]} if self.mmlu else {}
        self._assets = AssetStore(find_definitions().root, overrides=overrides)

    def items(self, task: str, per_subject: int) -> tuple[Item, ...]:
        """Load items of a task file; the same ones every time."""
        wanted = {"items_per_subject": per_subject, "subjects": tuple(self.subjects)}
        return load_benchmark(find_definitions().task(task).model_copy(update=wanted), self._assets).items

    def load(self, dtype: str) -> LoadedModel:
        """Load the unquantized model."""
        options = CausalOptions(threads=self.threads)
        return load_model(self._spec("hf", dtype, "none"), options, Resources(assets=self._assets))

    def quantized(self, recipe: str) -> Engine:
        """Load the model in bf16 and apply a recipe."""
        return load_engine(self._spec("modelopt", "bfloat16", recipe), Resources(assets=self._assets))

    def _spec(self, adapter: str, dtype: str, recipe: str) -> EngineSpec:
        return EngineSpec.model_validate(
            {
                "name": "bench",
                "adapter": adapter,
                "model": self.model,
                "recipe": recipe,
                "dtype": dtype,
                "device": "cpu",
                "options": {"threads": self.threads},
            }
        )


def evalkit_engine(loaded: LoadedModel, *, unbatched: bool = False) -> Engine:
    """Return evalkit's engine on a loaded model: as users get it, or plain and one sequence at a time."""
    path: ScoringPath = "plain" if unbatched else agreed_path(loaded.model, "auto")
    options = CausalOptions(max_batch_tokens=1) if unbatched else CausalOptions()
    return CausalEngine(loaded, identify("hf", loaded, options={"scoring": path}), options, path)


def requests_of(items: Iterable[Item]) -> list[ScoreRequest]:
    """Return one request for each item, as a run makes them."""
    return [ScoreRequest(context=item.context or "", continuations=item.continuations) for item in items]


def score(engine: Engine, items: Sequence[Item]) -> Scores:
    """Score items as a run does."""
    return _collected(engine, requests_of(items))


def score_unbatched(engine: Engine, items: Sequence[Item]) -> Scores:
    """Score each option by a request of its own."""
    singles = [
        ScoreRequest(context=item.context or "", continuations=(text,)) for item in items for text in item.continuations
    ]
    values = iter(_collected(engine, singles))
    return [tuple(next(values)[0] for _ in item.continuations) for item in items]


def _collected(engine: Engine, requests: Sequence[ScoreRequest]) -> Scores:
    found: dict[int, tuple[float, ...]] = {}
    for index, reply in engine.score(requests):
        if isinstance(reply, Failure):
            raise TypeError(f"request {index}: {reply}")
        found[index] = reply.logprobs
    return [found[index] for index in range(len(requests))]


def lm_eval_model(loaded: LoadedModel, batch_size: int) -> Any:
    """Return lm-eval's own model class around a loaded model."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - slow to import

    for noisy in ("lm_eval", "transformers"):  # advice that repeats with every model and every text
        logging.getLogger(noisy).setLevel(logging.ERROR)

    return HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size, device="cpu")


def score_by_lm_eval(model: Any, items: Sequence[Item]) -> Scores:
    """Score items as lm-eval does, its requests in its own form."""
    from lm_eval.api.instance import Instance  # noqa: PLC0415

    pairs = [(item.context, text) for item in items for text in item.continuations]
    instances = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=at) for at, pair in enumerate(pairs)
    ]
    values = iter(model.loglikelihood(instances, disable_tqdm=True))
    return [tuple(float(next(values)[0]) for _ in item.continuations) for item in items]


def choices(items: Sequence[Item], scores: Scores, metric: str) -> list[int]:
    """Return the option each item's metric takes: the likeliest, for each of its characters with `acc_norm`."""
    lengths = [item.details["lengths"] if metric == "acc_norm" else [1] * len(item.continuations) for item in items]
    return [int(np.argmax(np.divide(row, by))) for row, by in zip(scores, lengths, strict=True)]


def flips(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the items on which two scorings choose differently."""
    return sum(a != b for a, b in zip(left, right, strict=True))


def largest_difference(left: Scores, right: Scores) -> float:
    """Return the largest difference of two log-probabilities of the same option, nats."""
    return max(abs(a - b) for rows in zip(left, right, strict=True) for a, b in zip(*rows, strict=True))


def unique_work(loaded: LoadedModel, items: Sequence[Item]) -> Mapping[str, float]:
    """Count the work that no exact scorer can avoid.

    Returns:
        tokens: nodes of the tree of all fed sequences, a shared prefix counted once.
        fed_one_by_one: tokens of all sequences, each fed whole, equal sequences once.
        flops: of the linear layers for each unique token and of the output layer for each distinct predicting place;
            attention's own products and everything else are left out, so the true bound is a little higher.
    """
    sequences: dict[tuple[int, ...], None] = {}
    places: set[tuple[int, ...]] = set()
    for encoded in encode_requests(loaded.tokenizer, requests_of(items)):
        assert isinstance(encoded, EncodedRequest)
        context = tuple(encoded.context.tolist())
        for continuation in encoded.continuations:
            fed = context + tuple(continuation[:-1])
            sequences[fed] = None
            places.update(fed[:end] for end in range(len(context), len(fed) + 1))
    ordered = sorted(sequences)
    tokens = len(ordered[0]) + sum(len(after) - _common(before, after) for before, after in pairwise(ordered))
    head = loaded.model.get_output_embeddings()
    linear = [layer for layer in loaded.model.modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    body, out = sum(layer.weight.numel() for layer in linear), head.weight.numel()
    flops = 2.0 * tokens * body + 2.0 * len(places) * out
    return {"tokens": tokens, "fed_one_by_one": sum(map(len, sequences)), "flops": flops}


def layer_shapes(loaded: LoadedModel, rows: int = 1024) -> list[tuple[int, int, int]]:
    """Return the shapes of one block's matrix products, `rows` tokens at a time."""
    block = next(part for part in loaded.model.modules() if isinstance(part, torch.nn.ModuleList))[0]
    return [(rows, m.in_features, m.out_features) for m in block.modules() if isinstance(m, torch.nn.Linear)]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def kept(into: dict[str, Scores], name: str, work: Callable[[], Scores]) -> Callable[[], None]:
    """Return a contestant that keeps its scores of the last round."""

    def run() -> None:
        into[name] = work()

    return run
