from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from evalkit.configuration import Section, content_sha256, parse_yaml, read_yaml, validate
from evalkit.errors import ConfigError


class Part(Section):
    wheel: str
    member: str | None = None


class Sample(Section):
    kind: Literal["multiple_choice", "conversation"]
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = Field(default_factory=dict)
    count: int = 0
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.5
    folder: Path | None = None

    @field_validator("count")
    @classmethod
    def _few(cls, count: int) -> int:
        if count > 3:
            raise ValueError("at most three are allowed")
        return count


def faults(data: object) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        validate(Sample, data, "f.yaml")
    assert caught.value.source == "f.yaml"
    return caught.value.faults


def test_a_good_mapping_becomes_a_model() -> None:
    sample = validate(Sample, {"kind": "conversation", "parts": [{"wheel": "a"}], "margin": 1e-2, "folder": "x"}, "f")
    assert sample.parts == (Part(wheel="a"),)
    assert sample.folder == Path("x")


def test_every_fault_of_a_file_is_reported_together() -> None:
    found = faults({"kind": "mutliple_choice", "prts": 1, "count": "2", "named": {"a": {"wheel": "b", "membr": "c"}}})
    assert set(found) == {
        "unknown kind 'mutliple_choice'; did you mean 'multiple_choice'?",
        "unknown key 'prts'; did you mean 'parts'?",
        "'count' should be a valid integer, not '2'",
        "unknown key 'named.a.membr'; did you mean 'member'?",
    }


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "missing key 'kind'"),
        ({"kind": 3}, "unknown kind 3; allowed: conversation, multiple_choice"),
        ({"kind": "conversation", "count": True}, "'count' should be a valid integer, not True"),
        ({"kind": "conversation", "count": 4}, "count: at most three are allowed"),
        ({"kind": "conversation", "margin": 1}, "'margin' should be less than 1, not 1"),
        ({"kind": "conversation", "parts": [{}]}, "missing key 'parts.0.wheel'"),
        ({"kind": "conversation", "parts": [7]}, "'parts.0' should be a mapping, not 7"),
        (None, "is empty; a mapping of keys to values was expected"),
        ([1], "holds [1]; a mapping of keys to values was expected"),
    ],
)
def test_each_kind_of_fault_names_the_place_and_the_value(data: object, fault: str) -> None:
    assert faults(data) == (fault,)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: repeated key 'a'"),
        ("a: {b: .nan}", "'a.b' is nan; only finite numbers are allowed"),
        ("a: [1, .inf]", "'a.1' is inf; only finite numbers are allowed"),
        ("? [a]\n: 1", "line 1, column 3: a key must be a word"),
    ],
)
def test_yaml_that_would_be_misread_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert caught.value.faults == (fault,)


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object:os.system x", "\x00", "a: 2024-99-99", "a: b: c"])
def test_what_is_not_plain_yaml_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_yaml(text, "f.yaml")


def test_exponents_are_numbers_and_merges_work() -> None:
    assert parse_yaml("a: 1e-3\nb: -2.5E+3\nc: e5\n", "f") == {"a": 1e-3, "b": -2500.0, "c": "e5"}
    assert parse_yaml("x: &x {q: 1, r: 2}\ny: {<<: *x, q: 3}", "f")["y"] == {"q": 3, "r": 2}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xff")
    for path, words in [
        (tmp_path / "none", "no such file"),
        (tmp_path / "latin", "cannot be read"),
        (tmp_path, "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=words):
            read_yaml(path)


def test_the_digest_is_of_content_alone() -> None:
    one = validate(Sample, parse_yaml("kind: conversation # why\ncount: 1", "f"), "f")
    two = validate(Sample, parse_yaml("count: 1\nmargin: 0.5\nkind: conversation", "f"), "f")
    assert content_sha256(one) == content_sha256(two)
    assert content_sha256(one) != content_sha256(one.model_copy(update={"count": 2}))
    assert content_sha256(one, exclude=["count"]) == content_sha256(
        one.model_copy(update={"count": 2}), exclude=["count"]
    )
