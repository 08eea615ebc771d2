"""A file named by hand is written, and what was there is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.cli.report import write_named


def test_other_content_is_kept_beside_and_equal_content_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.xml"
    file.write_text("somebody's notes")
    write_named(file, "a report")
    assert file.read_text() == "a report"
    (kept,) = tmp_path.glob("report.before-*.xml")
    assert kept.read_text() == "somebody's notes"
    assert kept.name in capsys.readouterr().err
    write_named(file, "a report")
    assert len(list(tmp_path.iterdir())) == 2
    assert capsys.readouterr().err == ""
