"""Where weights come from: digests decide, names are only names."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.records import EngineIdentity, Origin, model_key, origin_of


def identity(**changes: Any) -> EngineIdentity:
    made: dict[str, Any] = {
        "adapter": "tensorrt_llm",
        "model": "405b-int4-awq",
        "weights_sha256": "1" * 64,
        "recipe": "int4-awq",
        "recipe_sha256": None,
        "fidelity": "engine",
        "quantization": {"algorithm": "W4A16_AWQ"},
        "dtype": "bfloat16",
        "tokenizer_sha256": "2" * 64,
        "chat_template_sha256": None,
        "versions": {},
        "device": "gpu",
    }
    return EngineIdentity(**{**made, **changes})


def test_an_exported_checkpoint_comes_from_what_its_trace_says() -> None:
    trace = {"source": "meta-llama/Llama-3.1-405B-Instruct", "source_weights_sha256": "a" * 64}
    found = origin_of(identity(quantization={"algorithm": "W4A16_AWQ", "trace": trace}))
    assert found == Origin(model="meta-llama/Llama-3.1-405B-Instruct", weights_sha256="a" * 64)


def test_weights_quantized_in_memory_are_the_original_ones() -> None:
    assert origin_of(identity(fidelity="simulated")).weights_sha256 == "1" * 64


def test_what_a_server_loaded_says_nothing_of_its_origin() -> None:
    assert origin_of(identity(quantization={"algorithm": "FP8", "trace": None})).weights_sha256 is None


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (("one", A), ("another", A), True),  # a folder may be called anything
        (("one", A), ("one", B), False),  # and two models may have one name
        (("llama-3.1-405b-fp8", None), ("Llama-3.1-405B-AWQ-INT4", A), None),
        (("llama-3.1-405b", A), ("llama-3.1-405b-pruned", None), False),
    ],
)
def test_digests_decide_and_names_only_where_there_are_none(
    left: tuple[str, str | None], right: tuple[str, str | None], same: bool | None
) -> None:
    one, other = (Origin(model=model, weights_sha256=sha) for model, sha in (left, right))
    assert one.same_as(other) is same
    assert other.same_as(one) is same


@pytest.mark.parametrize(
    ("published", "plain"),
    [  # names of real repositories
        ("nvidia/Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b-instruct"),
        ("hugging-quants/Meta-Llama-3.1-405B-Instruct-AWQ-INT4", "llama-3.1-405b-instruct"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "llama-3.1-8b-instruct"),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama-3.2-1b-instruct"),
        ("nvidia/DeepSeek-R1-FP4", "deepseek-r1"),
        ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "smollm2-135m-instruct"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("moonshotai/Kimi-K2-Instruct", "kimi-k2-instruct"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "llama-3-3-nemotron-super-49b-v1"),
    ],
)
def test_a_name_is_known_without_owner_and_format(published: str, plain: str) -> None:
    assert model_key(published) == plain
