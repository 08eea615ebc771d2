"""Secrets are found by value wherever they turn up, by shape where no value is known, and ordinary text stays."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.openai.transport import read_secret
from evalkit.records import EngineIdentity, Judgment, Manifest, Record, TaskRun, text_digest
from evalkit.redaction import REDACTED, redact_settings, redact_text, redact_values, remember, remember_secrets
from evalkit.store import RunFolder

CANARY = 'cnry-"One"/2+3=&<4>é'


@pytest.fixture(autouse=True)
def _forget():
    yield
    remember_secrets({})


@pytest.mark.parametrize(
    "form",
    [
        lambda v: v,
        lambda v: json.dumps({"x": v}),
        lambda v: json.dumps({"x": v}, ensure_ascii=False),
        lambda v: f"https://host/?q={quote(v, safe='')}",
        html.escape,
        lambda v: repr([v]),
        lambda v: f"Authorization: Basic {base64.b64encode(v.encode()).decode()}",
    ],
)
def test_a_value_is_found_in_every_form(form) -> None:
    remember_secrets({"SOME_API_KEY": CANARY})
    text = redact_values(f"before {form(CANARY)} after")
    assert REDACTED in text
    for known in (CANARY, json.dumps(CANARY)[1:-1], quote(CANARY, safe=""), html.escape(CANARY), repr(CANARY)[1:-1]):
        assert known not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "HF_TOKEN",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "EVALKIT_SIGNING_KEY",
        "MY_PASSPHRASE",
        "key",
    ],
)
def test_secret_variables_are_known_by_name(name: str) -> None:
    remember_secrets({name: "zz-99-yy-88"})
    assert redact_values("a zz-99-yy-88 b") == f"a {REDACTED} b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONKEY", "zz-99-yy-88"),
        ("PATH", "zz-99-yy-88"),
        ("API_KEY", "short"),
        ("PASSWORD", "password"),
        ("TOKEN", "12345678"),
        ("SSH_KEY", "/home/me/.ssh/id_ed25519"),
        ("API_KEY", ""),
    ],
)
def test_ordinary_values_and_words_are_left_alone(name: str, value: str) -> None:
    remember_secrets({name: value})
    assert redact_values(f"a {value} b zz-99-yy-88") == f"a {value} b zz-99-yy-88"


def test_every_line_of_a_key_file_is_known() -> None:
    remember_secrets(
        {"EVALKIT_SIGNING_KEY": "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI\n-----END PRIVATE KEY-----\n"}
    )
    assert "MC4CAQAwBQYDK2VwBCIEI" not in redact_values("x MC4CAQAwBQYDK2VwBCIEI y")


def test_the_last_environment_counts() -> None:
    remember_secrets({"API_KEY": "first-value-1"})
    remember_secrets({"API_KEY": "second-value-2"})
    assert redact_values("first-value-1 second-value-2") == f"first-value-1 {REDACTED}"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("curl -H 'Authorization: Bearer abc.def.ghi.jkl.mno.pqr' x", "'Authorization: [redacted]' x"),
        ('{"x-api-key": "abc"}', '"x-api-key": "[redacted]"'),
        ("https://me:pass@host/v1", "https://[redacted]@host/v1"),
        ("https://host/?a=1&api_key=zzz&b=2", "?a=1&api_key=[redacted]&b=2"),
        ("key sk-abcdefghijklmnopqrstuv here", "key [redacted] here"),
        ("hf_ABCDEFGHIJKLMNOPQRSTUVW", "[redacted]"),
        ("Basic dXNlcjpwYXNz", "[redacted]"),
        ("Basic understanding of tokens", "Basic understanding of tokens"),
        ("a // comment, mail@example.org", "a // comment, mail@example.org"),
        ("sk-learn and hf_model", "sk-learn and hf_model"),
    ],
)
def test_secrets_are_known_by_shape(text: str, left: str) -> None:
    assert left in redact_text(text)


def test_settings_lose_secrets_by_name_and_nothing_else() -> None:
    settings = {
        "headers": {"Authorization": "abc", "X-Trace": "on"},
        "access_token": ["a", "b"],
        "password": "",
        "max_tokens": 5,
        "end_tokens": [2],
        "tokenizer": "org/tok",
        "api_key_env": "NAME",
        "base_url": "http://u:p@h/v1",
        "nothing": None,
        "flag": True,
    }
    assert redact_settings(settings) == {
        **settings,
        "headers": {"Authorization": REDACTED, "X-Trace": "on"},
        "access_token": [REDACTED, REDACTED],
        "base_url": f"http://{REDACTED}@h/v1",
    }


@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_redacting_twice_changes_nothing_more(value) -> None:
    once = redact_settings(value)
    assert redact_settings(once) == once


def _manifest() -> Manifest:
    engine = EngineIdentity(
        adapter="a",
        model="m",
        weights_sha256="w",
        recipe="none",
        recipe_sha256=None,
        fidelity="engine",
        quantization={},
        dtype="float32",
        tokenizer_sha256="t",
        chat_template_sha256=None,
        versions={},
        device="cpu",
        options={"url": "http://u:zz-99-yy-88@h"},
    )
    task = TaskRun(
        definition_sha256="d",
        kind="text",
        protocol="p",
        shots=0,
        metric="acc",
        chance=None,
        planned=2,
        item_set_sha256="i",
        prompts_sha256="p",
        dataset={},
    )
    return Manifest(
        evalkit="0",
        engine=engine,
        tasks={"t": task},
        requested={"engine": {"options": {"api_key": "zz-99-yy-88"}}},
        created_at="2026-01-01T00:00:00+00:00",
        command="evalkit run --option key=zz-99-yy-88",
    )


def test_a_run_folder_holds_no_secret_and_is_resumed_by_the_same_request(tmp_path) -> None:
    remember_secrets({"THE_KEY": "zz-99-yy-88"})
    common = {"task": "t", "subject": "s", "occurrence": 0, "prompt_sha256": "p", "target_sha256": "x"}
    failed = Record(**common, item_sha256="1", status="failed", failure="transport: said zz-99-yy-88 to http://a:b@c/")
    judgment = Judgment(
        key="k",
        task="t",
        subject="s",
        item_sha256="1",
        occurrence=0,
        sample=0,
        turn=1,
        repeat=0,
        answer_sha256=text_digest("x"),
        status="api_error",
        score=None,
        text="",
        details={"failure": "Authorization: Bearer 0123456789abcdef"},
    )
    for _ in range(2):
        with RunFolder.create_or_resume(tmp_path / "run", _manifest()) as folder:
            if not folder.done_keys("t"):
                folder.append_records("t", [failed])
                folder.append_judgments("t", [judgment])
                folder.append_timing({"note": "zz-99-yy-88"})
    text = "".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    for secret in ("zz-99-yy-88", "a:b@", "0123456789abcdef"):
        assert secret not in text
    assert text.count(REDACTED) >= 6


PIECES = (
    "?key",
    "&token",
    "?",
    "//",
    "//a",
    "@",
    "authorization",
    "cookie ",
    "api-key: ",
    "Bearer ",
    "Basic ",
    "sk-",
    "hf_",
)


@pytest.mark.parametrize("piece", [*PIECES, " ", "\n", "=", "?key=", "keytoken", "?keykey"])
def test_patterns_read_any_repetition_in_linear_time(piece):
    """A cubic pattern needs hours for this length; no clock is asked."""
    for start in ("", "?", "//", "cookie", "?key="):
        redact_text(start + piece * (30_000 // len(piece)))


@pytest.mark.parametrize(
    "address", ["http://h/?a=1&my_api_key=abc", "http://h/?x?token=abc", "http://h/?client_secret_v2=abc"]
)
def test_secrets_in_queries_are_still_found(address):
    assert "abc" not in redact_text(address)


@pytest.mark.parametrize(
    "value", ["abcdefghijklmnopqrstuvwx", "/run/secret/thing", "12345678", "https://hooks.example.com/T/B/x9"]
)
def test_a_secret_that_is_registered_where_it_is_read_is_hidden_whatever_it_looks_like(value):
    remember_secrets({"JUDGE_LOGIN": value})
    assert redact_values(f"said {value}") == f"said {value}"  # neither its name nor its shape tells
    remember(value)
    assert redact_values(f"said {value} and {json.dumps(value)}") == f'said {REDACTED} and "{REDACTED}"'
    remember_secrets({})
    assert redact_values(value) == value


def test_the_key_of_a_server_is_registered_whatever_its_variable_is_called():
    read_secret("JUDGE_LOGIN", {"JUDGE_LOGIN": "wordsofonecase"})
    assert redact_values("it repeats wordsofonecase") == f"it repeats {REDACTED}"
    remember_secrets({})
