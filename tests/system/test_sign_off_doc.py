"""The commands of docs/sign-off.md, run in their order on a small release."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.attestation.envelope import FINDINGS

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sign-off.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
EXPECTED = {"certify": 1}
"""One of the two recipes is rejected; every other command succeeds."""


def test_every_command_does_what_the_page_says(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("cryptography")
    importlib.import_module("release_folders").make_release(tmp_path / "outputs" / "release", items=300)
    row = "official,2048,128,maximum,10,a machine\nequal,2048,128,maximum,14,a machine\n"
    (tmp_path / "throughput.csv").write_text(
        f"recipe,input_tokens,output_tokens,mode,tokens_per_second,hardware\n{row}"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("EVALKIT_SIGNING_KEY", "EVALKIT_SIGNING_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        program, *argv = shlex.split(command)
        assert program == "evalkit"
        assert cli.main(argv) == EXPECTED.get(argv[0], 0), (command, capsys.readouterr())
    assert "1.40x" in (tmp_path / "outputs" / "release" / "report.html").read_text("utf-8")
    assert "HOLDS" in capsys.readouterr().out
    for name in ("junit.xml", "summary.md", "published"):
        assert (tmp_path / name).exists()


def test_the_page_explains_every_finding() -> None:
    for word in FINDINGS:
        assert f"`{word}`" in PAGE, word
