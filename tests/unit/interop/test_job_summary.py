"""Job summaries: the verdict first, nothing hostile in them, never too large."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit import cli
from evalkit.errors import DataError
from evalkit.interop.junit import LIMIT_BYTES, cut, escaped, job_summary
from evalkit.report import certificate_view


def test_the_verdict_is_the_first_line(certificate) -> None:
    lines = job_summary(certificate).splitlines()
    assert lines[0] == "## REJECTED: worse; CERTIFIED: equal"
    (row,) = [line for line in lines if line.startswith("| equal | **CERTIFIED** (within-demo-margin) | mmlu: PASS |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == "300"
    assert cells[7:] == ["3 points", "0.025"]
    assert "&#91;" in cells[6]
    assert any(line.startswith("- endpoint-fail: ") for line in lines)


def test_the_worst_comes_first_and_nothing_is_no_pass(certificate) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["verdicts"][0]["outcome"] = "INVALID"
    assert certificate_view(changed).headline.startswith("INVALID: equal; REJECTED: worse")
    changed["decision"]["verdicts"] = []
    assert certificate_view(changed).headline.startswith("INVALID")
    changed["decision"]["exploratory"] = True
    assert certificate_view(changed).headline.startswith("EXPLORATORY")


@pytest.mark.parametrize("word", ["PASSED", "", None])
def test_an_outcome_that_no_decision_has_is_refused(certificate, word: str | None) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["verdicts"][0]["outcome"] = word
    with pytest.raises(DataError, match=r"certificate.json is damaged: 'decision.verdicts\[0\].outcome' is "):
        job_summary(changed)


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_escaped_text_can_open_nothing(text: str) -> None:
    shown = escaped(text)
    assert not set(shown) & set("\\`*_{}[]<>|@~$\n\r\x1b\x00")
    shown.encode()


def test_hostile_names_and_reasons_stay_text(certificate) -> None:
    changed = copy.deepcopy(certificate)
    changed["title"] = "# x\n<script>|`@everyone`"
    changed["decision"]["verdicts"][0]["reasons"] = [
        {"code": "coverage", "message": "a | b\n## REJECTED <img src=x> ![x](http://evil)", "endpoint": None}
    ]
    text = job_summary(changed)
    assert text.count("\n## ") == 0
    for bad in ("<script>", "<img", "@everyone", "](http"):
        assert bad not in text


@pytest.mark.parametrize("limit", [100, 1000, LIMIT_BYTES])
def test_long_summaries_are_cut_and_say_so(certificate, limit: int) -> None:
    changed = copy.deepcopy(certificate)
    reason = {"code": "coverage", "message": "ü" * 200, "endpoint": None}
    changed["decision"]["verdicts"][0]["reasons"] = [reason] * 1000
    text = job_summary(changed, limit_bytes=limit)
    assert len(text.encode()) <= limit
    assert "cut: the whole report" in text
    assert text.startswith("## ")


def test_short_texts_are_whole() -> None:
    assert cut("abc", 3) == "abc"


def test_it_is_appended_where_the_server_says(release, certificate, tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert cli.main(["report", "export", str(release), "--format", "job-summary"]) == 0
    assert file.read_text("utf-8") == "before\n" + job_summary(certificate)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    capsys.readouterr()
    assert cli.main(["report", "export", str(release), "--format", "job-summary"]) == 0
    assert capsys.readouterr().out == job_summary(certificate)
    assert cli.main(["report", "export", str(release), "--format", "job-summary", "--output", str(tmp_path)]) == 5
