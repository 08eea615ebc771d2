"""What an author may write above a verdict: one visible line, and no verdict of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit import cli
from evalkit.configuration import OUTCOMES, one_line, skeleton
from evalkit.errors import UsageError
from evalkit.policy import Policy, bind, load_policy, title_words
from evalkit.verdict.words import title_cautions

BAD = [
    "Certified release-grade",
    "c.e.r.t.i.f.i.e.d by the release team",
    "C\u0415RT\u0406FIED",
    "\uff23\uff25\uff32\uff34\uff29\uff26\uff29\uff25\uff24",
    "CERT1F13D",
    "\u1d04\u1d07\u0280\u1d1b\u026a\u0493\u026a\u1d07\u1d05",
    "not rejected",
    "Approved by QA",
    "a\n::error title=x::y",
    "::error::stop",
    "  ##[error]stop",
    "safe \u202edeifitrec",
    "\u2066hidden\u2069",
    "two\u2028lines",
    "bell\x07",
    "csi\x9b2J",
    "zero\u200bwidth",
    "x" * 201,
]
GOOD = [
    "",
    "Llama 3.1 405B on H200: FP8 \u2014 against the official recipe",
    "\u30e2\u30c7\u30eb\u306e\u8a55\u4fa1",
    "Certification run 12, release candidate 3",
    "a :: b # c",
]


@pytest.mark.parametrize("title", BAD)
def test_no_title_says_a_verdict_commands_a_reader_or_hides_text(title: str) -> None:
    with pytest.raises(ValueError, match=r"title|verdict|command"):
        one_line(title)


@pytest.mark.parametrize("title", GOOD)
def test_titles_in_plain_words_of_any_language_stay(title: str) -> None:
    assert one_line(title) == title


@given(st.sampled_from(OUTCOMES), st.data())
def test_no_spelling_of_an_outcome_gets_through(word: str, data: st.DataObject) -> None:
    alike = {
        "i": "iI1l|!\u0456\u0131",
        "e": "eE3\u0435\u03b5",
        "o": "oO0\u043e\u03bf",
        "a": "aA4@\u0430",
        "c": "cC\u0441",
        "t": "tT7",
    }
    letters = [data.draw(st.sampled_from(alike.get(letter, letter + letter.upper()))) for letter in word]
    text = data.draw(st.sampled_from(["", "-", " ", "_", ". "])).join(letters)
    assert skeleton(word) in skeleton(text)
    with pytest.raises(ValueError, match="only a verdict may"):
        one_line(f"run {text} 3")


@pytest.mark.parametrize("name", ["certified", "CERTIFIED-by-us", "cert1f1ed", "re_jected"])
def test_no_recipe_is_called_like_an_outcome(name: str) -> None:
    with pytest.raises(UsageError, match="only a verdict may"):
        bind(load_policy("demo"), "official", [name])
    with pytest.raises(UsageError, match="only a verdict may"):
        bind(load_policy("demo"), name, ["candidate"])


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Lossless int4", ("lossless",)),
        ("near l0ssless, release grade", ("near-lossless", "release-grade")),
        ("C0mparable to FP8", ("comparable",)),
        ("A release of March", ()),
    ],
)
def test_a_title_that_borrows_the_standards_words_is_named_unless_the_policy_is_the_standard(
    title: str, words: tuple[str, ...]
) -> None:
    demo, standard = load_policy("demo"), load_policy("release")
    assert title_words(title, demo) == words
    assert title_words(title, standard) == ()
    cautions = title_cautions(demo, title)
    assert [one.code for one in cautions] == ["title-words"] * bool(words)
    assert all(word in cautions[0].message for word in words)
    assert title_cautions(standard, title) == ()
    own = Policy.model_validate({**demo.model_dump(), "title": title})
    assert ("the policy's title says" in "".join(one.message for one in title_cautions(own, ""))) is bool(words)


@pytest.mark.parametrize("key", ["title", "name"])
def test_a_suite_and_a_policy_are_refused_by_file_and_key(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "evalkit/policy/library/demo.yaml").read_text()
    lines = [f"{key}: Certified" if line.startswith(f"{key}:") else line for line in text.splitlines()]
    file = tmp_path / "policy.yaml"
    file.write_text("\n".join(lines) + "\n")
    assert cli.main(["plan", "--policy", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"policy.yaml: {key}: 'Certified'" in said
    assert "only a verdict may" in said
