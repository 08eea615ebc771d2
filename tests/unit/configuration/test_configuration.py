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
        ("? [a]\n: 1", "line 1, column 3: YAML keys must be strings"),
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


def nines(levels: int, width: int = 9) -> str:
    lines = [f"a0: &a0 [{','.join('x' * width)}]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels))])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (nines(10), "line 5.*stands for more than 50,000 values"),
        (nines(40, 2), "stands for more than 50,000 values"),
        (nines(200, 1), r"nested deeper than 100 levels, aliases included"),
        (
            "a0: &a0 {x: 1}\n" + "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)),
            "stands for",
        ),
        ("a: &a [*a]", "an alias inside of what it names"),
        ("&a {b: {c: *a}}", "an alias inside of what it names"),
        ("? &a [*a]\n: 1", "an alias inside of what it names"),
        ("[" * 5000, "nested deeper than 100 levels"),
        ("{a: " * 5000, "nested deeper than 100 levels"),
        ("a: 0x" + "f" * 200_000, "a number of 200002 characters"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: 1" + ":59" * 500, "a number of 1501 characters"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!int ''", "is not valid YAML"),
        ("a: 2026-13-45", "is not valid YAML"),
        ('a: "\\ud83d"', "half of a surrogate pair"),
    ],
    ids=lambda value: value[:24],
)
def test_a_file_that_stands_for_too_much_or_for_nothing_is_refused_by_place(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"^bad.yaml: .*{fault}"):
        parse_yaml(text, "bad.yaml")


def test_aliases_are_allowed_and_mean_what_they_name() -> None:
    assert parse_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}", "f") == {
        "a": {"x": [1, 2]},
        "b": {"x": [1, 2]},
        "c": {"x": [1, 2], "y": 3},
    }
