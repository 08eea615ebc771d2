"""What a certificate's author could do before anybody signs, and without a key: nothing of it is signed or holds.

Every case is put to `sign`, which must refuse it, and to `verify --unsigned`, which must name it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from evalkit import __version__, cli
from evalkit.attestation import ENVELOPE, check_folder, sign_folder
from evalkit.attestation.pictures import compare_pictures, page_of
from evalkit.errors import DataError, ExitCode
from evalkit.report.html.page import BLANK

LIE = "<!doctype html><title>worse</title><h1>worse is CERTIFIED</h1>"
PICTURE = re.compile(r"<svg.*?</svg>", re.DOTALL)
OVER = (
    '<svg viewBox="0 0 700 170" overflow="visible" class="plot" role="img" aria-label="x"><g>'
    '<rect x="0" y="-900" width="1200" height="80" fill="#fff" />'
    '<text x="10" y="-880">worse is certified</text></g></svg>'
)


def _text(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        before = (folder / name).read_text("utf-8")
        after = change(before)
        assert after != before, "the change changes nothing"
        (folder / name).write_text(after, "utf-8")

    return apply


def _document(**changes: object) -> Callable[[Path], None]:
    def change(text: str) -> str:
        row = {**json.loads(text), **changes}
        del row["content_sha256"]  # as of before there was such a digest: what is changed must be seen without it
        return json.dumps(row, sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    return _text("certificate.json", change)


def _picture(at: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(text: str) -> str:
        found = list(PICTURE.finditer(text))[at]
        return text[: found.start()] + change(found[0]) + text[found.end() :]

    return _text("report.html", apply)


def _other_version_and_a_lie(version: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        _document(evalkit=version)(folder)
        (folder / "report.html").write_text(LIE, "utf-8")

    return apply


def _moved_outside(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return apply


def _fifo(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return apply


def _secret(folder: Path) -> None:
    (folder / "report.md").unlink()
    (folder / "report.md").symlink_to("/proc/self/environ")


TRICKS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "another version, and a report of another verdict": (_other_version_and_a_lie("9.9.9"), "report-unchecked"),
    "no version, and a report of another verdict": (_other_version_and_a_lie(None), "report-unchecked"),
    "the version with a blank behind it": (_document(evalkit=f"{__version__} "), "report-unchecked"),
    "the version in a list": (_document(evalkit=[__version__]), "report-unchecked"),
    "a key more in the certificate": (_document(approved=True), "number-differs"),
    "another title": (_document(title="all of them certified"), "report-differs"),
    "a certificate with blanks more": (
        _text("certificate.json", lambda text: text.replace('": ', '":  ', 1)),
        "certificate-format",
    ),
    "a certificate of no bytes": (_text("certificate.json", lambda _: ""), "certificate-format"),
    "a report of no bytes": (_text("report.html", lambda _: ""), "report-differs"),
    "another text report": (_text("report.md", lambda _: "# worse is CERTIFIED\n"), "report-differs"),
    "a style more": (
        _text("report.html", lambda text: text.replace("</head>", "<style>table{display:none}</style></head>")),
        "report-differs",
    ),
    "line ends of another system": (_text("report.md", lambda text: text.replace("\n", "\r\n", 1)), "report-differs"),
    "a picture that covers the page": (_picture(5, lambda _: OVER), "report-differs"),
    "an empty picture": (_picture(5, lambda _: "<svg/>"), "report-differs"),
    "a picture in a picture": (_picture(5, lambda text: text.replace("</svg>", OVER + "</svg>")), "report-differs"),
    "other words in a picture": (
        _text("report.html", lambda text: re.sub(r"(<text[^>]*>)[^<]+", r"\1certified, all of it", text, count=1)),
        "report-differs",
    ),
    "a picture of another size": (
        _picture(5, lambda text: re.sub(r'viewBox="0 0 ', 'viewBox="0 0 99999', text)),
        "report-differs",
    ),
    "a picture whose bar lies elsewhere": (
        _picture(2, lambda text: re.sub(r'd="M (\d+)', lambda m: f'd="M {int(m[1]) + 40}', text)),
        "report-differs",
    ),
    "a second report in capitals": (lambda folder: _write(folder / "REPORT.HTML", LIE), "file-stranger"),
    "a report with a number": (lambda folder: _write(folder / "report (1).html", LIE), "file-stranger"),
    "a report with an invisible letter": (lambda folder: _write(folder / "re\u200bport.md", LIE), "file-stranger"),
    "a page of another name": (lambda folder: _write(folder / "index.html", LIE), "file-stranger"),
    "records of a run outside": (_moved_outside("equal/records"), "file-irregular"),
    "a run outside": (_moved_outside("worse"), "file-irregular"),
    "one file of items outside": (_moved_outside("official/items/mmlu.jsonl"), "file-irregular"),
    "a lock that is a link": (_moved_outside("equal/lock"), "file-irregular"),
    "a report that is the environment": (_secret, "file-irregular"),
    "a report that never ends": (_fifo("report.md"), "file-irregular"),
    "judgments that never come": (_fifo("equal/judgments/mt-bench.jsonl"), "file-irregular"),
}


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


@pytest.fixture
def release(signed, tmp_path) -> Path:
    shutil.copytree(signed.folder, tmp_path / "release")
    (tmp_path / "release" / ENVELOPE).unlink()
    return tmp_path / "release"


@pytest.mark.parametrize("what", TRICKS)
def test_a_trick_before_the_signature_is_named_and_not_signed(release, signed, what, monkeypatch) -> None:
    trick, code = TRICKS[what]
    monkeypatch.setenv("A_DEPLOY_PASSWORD", "open-sesame-7351")
    trick(release)
    with pytest.raises(DataError, match=code) as refused:
        sign_folder(release, signed.key)
    assert "open-sesame-7351" not in str(refused.value)


def test_another_version_is_never_called_sound_unless_it_is_asked_for(release, capsys) -> None:
    _other_version_and_a_lie("0.0.1")(release)
    assert cli.main(["verify", str(release), "--unsigned"]) == ExitCode.INVALID
    assert "report-unchecked" in capsys.readouterr().out
    assert cli.main(["verify", str(release), "--unsigned", "--other-version"]) == 0
    said = capsys.readouterr().out
    assert "not checked: the reports" in said
    assert "HOLDS:" not in said


def test_lines_drawn_by_another_library_are_told_and_not_signed(release, signed) -> None:
    drawn = page_of((release / "report.html").read_text("utf-8"), BLANK).drawn_by
    assert drawn.startswith("matplotlib ")
    _text("report.html", lambda text: text.replace(drawn, "matplotlib 0.0.1"))(release)
    assert not any("lines of" in one for one in check_folder(release, None).unchecked), "the same, whoever drew them"
    _picture(2, lambda text: re.sub(r'd="M (\d+)', lambda m: f'd="M {int(m[1]) + 4}', text))(release)
    check = check_folder(release, None)
    assert check.sound
    assert any("were not compared: drawn by matplotlib 0.0.1" in one for one in check.unchecked)
    with pytest.raises(DataError, match="report-unchecked"):
        sign_folder(release, signed.key)
    page = page_of((release / "report.html").read_text("utf-8"), BLANK)
    assert compare_pictures(page, None)[0] == [], "a machine that draws nothing sees that nothing foreign is in them"


def test_what_lies_beside_is_told(release) -> None:
    (release / "another-run").mkdir()
    notes = " ".join(check_folder(release, None).notes)
    assert "no part of it: another-run, policy.yaml" in notes
    assert "the title is" not in notes, "this release has none"


def test_a_name_in_the_folder_forges_no_line(release, capsys) -> None:
    (release / "equal" / "x\nHOLDS: everything agrees\n::error title=y").write_text("", "utf-8")
    assert cli.main(["verify", str(release), "--unsigned"]) == 0
    (release / "r\n::error::report.html").write_text(LIE, "utf-8")
    capsys.readouterr()
    assert cli.main(["verify", str(release), "--unsigned"]) == ExitCode.INVALID
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith(("::", "HOLDS")) for line in lines)
    assert any("file-stranger" in line for line in lines)


def test_a_file_that_is_no_signature_is_not_written_over(release, signed, tmp_path) -> None:
    _write(release / ENVELOPE, "somebody's notes\n")
    with pytest.raises(DataError, match="left as it is"):
        sign_folder(release, signed.key)
    assert (release / ENVELOPE).read_text("utf-8") == "somebody's notes\n"
