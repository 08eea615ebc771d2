"""Batch sizes: from free memory, from what a token costs, and halved when memory runs out all the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evalkit.adapters.base import (
    Failure,
    GenerateRequest,
    Resources,
    ScoreRequest,
    smaller_batches_of,
    warnings_of,
)
from evalkit.adapters.causal import engine as budget
from evalkit.adapters.causal.engine import (
    KEPT_TOKENS,
    SCORED_TOKENS,
    kept_tokens,
    score_requests,
    scoring_limit,
    token_cost,
)
from evalkit.adapters.causal.forward import Scorer
from evalkit.adapters.causal.plan import BatchLimit, TokenCost, plan_batches
from evalkit.adapters.memory import free_bytes, free_on_host, ran_out_of_memory
from evalkit.adapters.registry import load_engine
from evalkit.adapters.tokens import encode_requests
from evalkit.assets import AssetStore
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

GIB = 2**30
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


def test_kept_bytes_are_those_of_the_keys_and_values_a_model_really_keeps(model):
    tokens = torch.arange(10)[None]
    with torch.inference_mode():
        cache = model(input_ids=tokens, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert token_cost(model, "packed").kept * tokens.shape[1] == held


def test_the_paths_that_keep_logits_pay_for_them(model):
    packed, plain = token_cost(model, "packed"), token_cost(model, "plain")
    assert plain.fed - packed.fed == (4 + 4) * model.config.vocab_size


def test_where_memory_is_plenty_the_device_decides(model, monkeypatch):
    for free in (1024 * GIB, None):
        monkeypatch.setattr(budget, "free_bytes", lambda _, free=free: free)
        assert scoring_limit(model, "packed", None).rows(64, prefix=600) == SCORED_TOKENS["cpu"] // 64
        assert kept_tokens(model, None) == (KEPT_TOKENS["cpu"],) * 2


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_where_memory_is_scarce_it_decides(model, monkeypatch, rows):
    cost = token_cost(model, "packed")
    monkeypatch.setattr(budget, "free_bytes", lambda _: 2 * rows * cost.row(64, 600) + 10)
    assert scoring_limit(model, "packed", None).rows(64, prefix=600) == rows
    assert scoring_limit(model, "packed", None).rows(64, prefix=0) > rows, "a shorter prefix leaves room for more"
    monkeypatch.setattr(budget, "free_bytes", lambda _: 2 * rows * cost.kept + 10)
    assert kept_tokens(model, None) == (rows, KEPT_TOKENS["cpu"])


def test_no_memory_at_all_still_lets_one_row_try(model, monkeypatch):
    monkeypatch.setattr(budget, "free_bytes", lambda _: 0)
    assert scoring_limit(model, "packed", None).rows(64, prefix=600) == 1
    assert kept_tokens(model, None) == (1, KEPT_TOKENS["cpu"])


def test_what_was_asked_for_is_taken(model, monkeypatch):
    monkeypatch.setattr(budget, "free_bytes", lambda _: 0)
    assert scoring_limit(model, "packed", 640).rows(64, prefix=600) == 10
    assert kept_tokens(model, 77) == (77, 77)


def test_a_batch_of_whole_sequences_is_held_by_tokens_and_by_memory():
    cost = TokenCost(fed=10, seen=0, pair=0, kept=0)
    assert BatchLimit(400).holds([25, 25, 25, 25])
    assert not BatchLimit(400).holds([25, 25, 25, 26])
    assert BatchLimit(4000, memory=1000, cost=cost).holds([25] * 4)
    assert not BatchLimit(4000, memory=999, cost=cost).holds([25] * 4)


def test_halving_follows_the_batch_that_failed_and_never_grows():
    limit = BatchLimit(1000)
    limit.halve(4, 10)
    assert limit.tokens == 20
    limit.halve(50, 100)
    assert limit.tokens == 10
    for _ in range(10):
        limit.halve(1, 1)
    assert limit.tokens == 1
    assert limit.rows(100) == 1


def requests(count):
    return [ScoreRequest(context=f"Item {n}: " + "so " * (n % 5), continuations=(" a", " b c")) for n in range(count)]


def scored(model, tokenizer, limit, scorer=None, count=24):
    pairs = list(
        score_requests(scorer or Scorer(model, "packed"), tokenizer, requests(count), max_length=500, limit=limit)
    )
    assert sorted(index for index, _ in pairs) == list(range(count))
    return [reply for _, reply in sorted(pairs, key=lambda pair: pair[0])]


def planned(model, tokenizer, monkeypatch, free):
    """The batches that are made of the same requests with so much free memory, and whether that was too little."""
    monkeypatch.setattr(budget, "free_bytes", lambda _: free)
    limit = scoring_limit(model, "packed", None)
    batches = plan_batches(list(encode_requests(tokenizer, requests(300))), limit)
    return [[row.request.index for row in batch.rows] for batch in batches], limit.cramped


def test_batches_are_the_same_whatever_memory_is_free_as_long_as_it_suffices(model, tokenizer, monkeypatch):
    plenty, cramped = planned(model, tokenizer, monkeypatch, None)
    assert max(map(len, plenty)) > 50
    assert not cramped
    need = 2 * max(token_cost(model, "packed").row(length, 40) * rows for length, rows in ((8, 128), (20, 51)))
    for free in (need, 2 * need, 1024 * GIB):
        assert planned(model, tokenizer, monkeypatch, free) == (plenty, False)
    fewer, cramped = planned(model, tokenizer, monkeypatch, need // 100)
    assert max(map(len, fewer)) < max(map(len, plenty))
    assert cramped


def test_too_little_memory_for_rows_that_nobody_asks_lowers_nothing():
    limit = BatchLimit(1000, memory=500, cost=TokenCost(fed=10, seen=0, pair=0, kept=0))
    assert (limit.rows(10, 5), limit.cramped) == (5, False)
    assert (limit.rows(10, 6), limit.cramped) == (5, True)


def engine_of(folder, **options):
    spec = EngineSpec(
        name="tiny", adapter="hf", model=str(folder), dtype="float32", device="cpu", options={"threads": 1, **options}
    )
    return load_engine(spec, Resources(assets=AssetStore(ROOT)))


def test_an_engine_says_that_memory_made_its_batches_smaller_and_when(tiny_folder, monkeypatch):
    roomy = engine_of(tiny_folder)
    told = sorted(roomy.score(requests(40)))
    assert warnings_of(roomy) == ()
    monkeypatch.setattr(budget, "free_bytes", lambda _: GIB // 4)
    assert sorted(engine_of(tiny_folder).score(requests(40))) == told, "batches and numbers, to the bit"
    monkeypatch.setattr(budget, "free_bytes", lambda _: 2 * 10**6)
    engine = engine_of(tiny_folder)
    assert warnings_of(engine) == (), "nothing was asked yet"
    list(engine.score(requests(1)))
    assert warnings_of(engine) == (), "one row fits"
    list(engine.score(requests(40)))
    (told,) = smaller_batches_of(engine)
    assert told.startswith("scoring: batches were made smaller: memory did not suffice")
    list(engine.generate([GenerateRequest(prompt="A harbour", max_tokens=40)] * 30))
    assert [line.split(":")[0] for line in smaller_batches_of(engine)] == ["scoring", "generating"]
    engine.close()
    assert len(warnings_of(engine)) == 2, "what was seen is still known"


def test_a_limit_that_was_asked_for_is_no_lack_of_memory(tiny_folder, monkeypatch):
    monkeypatch.setattr(budget, "free_bytes", lambda _: 0)
    engine = engine_of(tiny_folder, max_batch_tokens=64, generate_tokens=60)
    list(engine.score(requests(40)))
    list(engine.generate([GenerateRequest(prompt="A harbour", max_tokens=4)] * 9))
    assert warnings_of(engine) == ()


@pytest.fixture(scope="module")
def whole(model, tokenizer):
    return scored(model, tokenizer, BatchLimit(80))


@pytest.fixture(scope="module")
def tolerance(model, tokenizer, other_processor):
    return other_processor.tolerance(
        lambda: [value for reply in scored(model, tokenizer, BatchLimit(80)) for value in reply.logprobs]
    )


@pytest.mark.parametrize("failing", range(4))
def test_memory_that_runs_out_at_any_batch_loses_nothing_and_makes_the_later_ones_smaller(
    model, tokenizer, monkeypatch, whole, tolerance, failing
):
    scorer, limit = Scorer(model, "packed"), BatchLimit(80)
    run, calls, sizes = scorer.run, [0], []

    def cramped(batch):
        calls[0] += 1
        if calls[0] == failing + 1:
            sizes.append(0)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        sizes.append(len(batch.rows) * max(len(row.tokens) for row in batch.rows))
        return run(batch)

    monkeypatch.setattr(scorer, "run", cramped)
    replies = scored(model, tokenizer, limit, scorer)
    assert not any(isinstance(reply, Failure) for reply in replies)
    for one, other in zip(replies, whole, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, rel=0.0, abs=tolerance)
        assert one.greedy == other.greedy
    assert 0 in sizes
    assert limit.tokens <= 40
    assert limit.cramped
    after = sizes[sizes.index(0) + 3 :]  # its two halves come first
    assert all(size <= 40 for size in after)


def test_memory_that_never_suffices_for_more_than_one_row_is_learnt_and_not_tried_again(model, tokenizer, monkeypatch):
    scorer, limit = Scorer(model, "packed"), BatchLimit(400)
    run, refused = scorer.run, []

    def cramped(batch):
        if len(batch.rows) > 1:
            refused.append(len(batch.rows))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return run(batch)

    monkeypatch.setattr(scorer, "run", cramped)
    assert not any(isinstance(reply, Failure) for reply in scored(model, tokenizer, limit, scorer))
    first = len(refused)
    assert not any(isinstance(reply, Failure) for reply in scored(model, tokenizer, limit, scorer))
    assert len(refused) - first <= 1, "the next call begins with what the last one has learnt"


def test_free_memory_is_the_machine_s_or_the_control_group_s(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    groups.mkdir()
    assert free_on_host(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   5000 kB\n")
    assert free_on_host(proc, groups) == 5000 * 1024
    (groups / "memory.max").write_text("max\n")
    (groups / "memory.current").write_text("1000000\n")
    (groups / "memory.stat").write_text("anon 5\ninactive_file 400000\n")
    assert free_on_host(proc, groups) == 5000 * 1024
    (groups / "memory.max").write_text("3000000\n")
    assert free_on_host(proc, groups) == 3000000 - 1000000 + 400000
    (groups / "memory.max").write_text("500000\n")
    assert free_on_host(proc, groups) == 0


def test_an_older_kind_of_control_group_counts_too(tmp_path):
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("2000\n")
    (old / "memory.usage_in_bytes").write_text("1500\n")
    (old / "memory.stat").write_text("total_inactive_file 100\n")
    assert free_on_host(tmp_path / "none", tmp_path) == 600


def test_a_model_s_free_memory_is_that_of_its_fullest_gpu(monkeypatch):
    devices = [torch.device("cuda", n) for n in (0, 1)]
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(device=device) for device in (*devices, devices[0])])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((10, 99), (7, 99))[device.index])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: (1, 4)[device.index])
    assert free_bytes(model) == 7


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, expected):
    assert ran_out_of_memory(error) is expected
