from __future__ import annotations

import pytest

from evalkit.redaction import REDACTED, redacted


@pytest.mark.parametrize(
    "name", ["api_key", "apikey", "token", "hf_token", "auth_token", "password", "Authorization", "headers", "secret"]
)
def test_secrets_are_known_by_name(name):
    assert redacted({name: "s3cr3t"}) == {name: REDACTED}
    assert redacted({"inner": [{name: {"x": "s3cr3t"}}]}) == {"inner": [{name: REDACTED}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer", "org/tok"),
        ("add_bos_token", "True"),
        ("use_auth_token", False),
        ("max_gen_toks", 5),
        ("keypath", "x"),
        ("dtype", "bfloat16"),
        ("monkey", "george"),
    ],
)
def test_settings_are_kept(name, value):
    assert redacted({name: value}) == {name: value}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("hf_abcdefghijklmnopqrst", REDACTED),
        ("Bearer abcdefghijklmnop1234", REDACTED),
        ("http://u:p@h:1/v1", f"http://{REDACTED}@h:1/v1"),
        ("https://h/v1?a=1&access_token=zz&b=2", f"https://h/v1?a=1&access_token={REDACTED}&b=2"),
        ("meta-llama/Llama-3.1-405B", "meta-llama/Llama-3.1-405B"),
    ],
)
def test_secrets_are_known_by_shape(text, kept):
    assert redacted({"model": text}) == {"model": kept}
