"""What an engine behind an address is called: stable from start to start, and different where something differs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest

from evalkit.adapters.openai.options import ServerOptions
from evalkit.errors import UsageError
from evalkit.suite import EngineSpec

pytest.importorskip("httpx")
cards = pytest.importorskip("evalkit.adapters.openai.tokenizing")
identities = pytest.importorskip("evalkit.adapters.openai.engine")

SHA = "ab" * 32


def test_the_identity_is_the_same_from_one_start_to_the_next(doubles, serve, connect):
    for quirks in (doubles.vllm(), doubles.trtllm()):
        server = serve(quirks)
        first = connect(server.url)
        list(first.score([]))
        assert connect(server.url, concurrency=2, retries=1, max_requests=1000).identity == first.identity


def test_two_addresses_are_two_engines_unless_the_weights_are_declared(doubles, serve, connect):
    one, two = serve(doubles.vllm()), serve(doubles.vllm())
    left, right = connect(one.url).identity, connect(two.url).identity
    assert left.sha256 != right.sha256
    assert {**asdict(left), "weights_sha256": ""} == {**asdict(right), "weights_sha256": ""}
    assert connect(one.url, weights_sha256=SHA).identity == connect(two.url, weights_sha256=SHA).identity


def test_the_tokenizer_and_the_template_are_told_apart_by_what_they_do(doubles, serve, connect):
    class Other(doubles.Toy):
        def encode(self, text, special=True):
            return super().encode(text.replace("Grüße", "Gruss").replace("Hello", "Hello "), special)

    for quirks in (doubles.vllm(), doubles.vllm(tokenize=False)):
        left = connect(serve(quirks).url).identity
        right = connect(serve(quirks, brain=Other()).url).identity
        assert left.tokenizer_sha256 != right.tokenizer_sha256
        assert left.chat_template_sha256 != right.chat_template_sha256


def test_a_quantization_is_told_declared_or_unknown_and_says_which(doubles, serve, connect):
    server = serve(doubles.vllm())
    silent = connect(server.url)
    assert silent.identity.quantization == {
        "algorithm": "unknown",
        "kv_cache": "unknown",
        "enabled": {},
        "evidence": "none",
    }
    assert any("does not say how its model is quantized; it is unknown" in line for line in silent.warnings)
    declared = connect(server.url, quantization="FP8").identity.quantization
    assert (declared["algorithm"], declared["evidence"]) == ("FP8", "declared, not read back")


def test_a_recipe_is_declared_and_a_warning_says_so(doubles, serve, connect):
    engine = connect(serve(doubles.trtllm()).url, recipe="llama-official-fp8")
    assert engine.identity.recipe == "llama-official-fp8"
    assert re.fullmatch("[0-9a-f]{64}", engine.identity.recipe_sha256)
    assert any("recipe 'llama-official-fp8' is declared, not read back" in line for line in engine.warnings)
    with pytest.raises(UsageError, match="no such file"):
        connect(serve(doubles.trtllm()).url, recipe="./no-such-recipe.yaml")


def test_a_key_reaches_the_server_and_nothing_else(doubles, serve, connect, monkeypatch):
    server = serve(doubles.vllm(key="k-0123456789"))
    monkeypatch.setenv("THE_KEY", "k-0123456789")
    engine = connect(server.url, api_key_env="THE_KEY")
    shown = [json.dumps(asdict(engine.identity)), repr(engine), *engine.warnings, json.dumps(engine.findings)]
    assert not any("0123456789" in text for text in shown)
    assert all(headers.get("authorization", headers.get("Authorization")) for headers in server.headers)


def test_a_key_over_a_plain_connection_to_another_machine_is_a_warning():
    card = cards.ServerCard(
        model="m",
        family="vllm",
        version="1",
        facts={},
        max_length=1,
        quantization="fp8",
        kv_cache="auto",
        start_text=None,
        chat_template_sha256=None,
    )
    spec = EngineSpec(name="a", adapter="openai_server", model="m")
    for url, warned in (("http://far:1", True), ("https://far:1", False), ("http://127.0.0.1:1", False)):
        lines = identities.identity_warnings(spec, ServerOptions(base_url=url, api_key_env="K"), card)
        assert any("not encrypted" in line for line in lines) == warned
