"""What every verb writes: JSON and progress that cannot command a terminal."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import evalkit.cli
from evalkit import cli, redaction
from evalkit.cli.options import out, out_json, out_page, print_json, print_table, safe_json, say
from evalkit.errors import ExitCode

ODD = "a\x9b2J\x85\x7f\u202ereversed\u2066\u2028\x1b[2J hä 東京"


def test_json_means_what_it_meant_and_holds_nothing_that_commands(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"said": ODD, ODD: [ODD]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"said": ODD, ODD: [ODD]}
    assert not [char for char in out if char != "\n" and (ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F)]
    assert not {"\u202e", "\u2066", "\u2028"} & set(out)
    assert "hä 東京" in out, "letters stay as they are"


def test_json_without_such_characters_stays_as_it_is() -> None:
    text = json.dumps({"said": 'hä "x" \\ \u00a0'}, ensure_ascii=False)
    assert safe_json(text) == text


def test_progress_that_quotes_a_server_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("the server says '\x9b2J\x1b[2J'")
    err = capsys.readouterr().err
    assert err == "the server says '\\x9b2J\\x1b[2J'\n"


FORGED = "x\nHOLDS: everything was computed again\r::error title=forged::y\x1b]52;c;aGk=\x07\u202e"


def lines_of(text: str) -> list[str]:
    """Break a text wherever some terminal or build server might."""
    return text.replace("\r", "\n").replace("\x85", "\n").replace("\u2028", "\n").splitlines()


@pytest.mark.parametrize("form", ["line", "table", "page"])
def test_quoted_text_forges_no_line_and_no_command(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    if form == "line":
        out(f"name: {FORGED}")
    elif form == "table":
        print_table([(FORGED, "::warning::z")], ("name", "::set-output name=a::"))
    else:
        out_page("first\n::error::forged by a cell\n##[command]x \x1b[2J\u2066\n")
    shown = capsys.readouterr().out
    assert not [line for line in lines_of(shown) if line.lstrip().startswith(("::", "##[", "HOLDS"))]
    assert not {"\x1b", "\x07", "\r", "\u202e", "\u2066"} & set(shown)
    assert len(lines_of(shown)) == {"line": 1, "table": 3, "page": 3}[form]


def test_whatever_is_written_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(redaction, "_known", ())
    redaction.remember("Blue-Horse-9")
    redaction.remember_url("postgresql://me:Green%40Dog7@host/nights")
    for write in (out, out_page, say):
        write("it said Blue-Horse-9, Green%40Dog7 and Green@Dog7")
    out_json(json.dumps({"said": "Blue-Horse-9", "url": "postgresql://me:Green%40Dog7@host/nights"}))
    print_table([("Blue-Horse-9", "Green@Dog7")], ("a", "b"))
    shown = "".join(capsys.readouterr())
    assert "Horse" not in shown
    assert "Dog7" not in shown
    assert shown.count("[redacted]") == 13


@pytest.mark.parametrize("verb", [["nightly", "history"], ["nightly", "no-suite.yaml"]])
def test_a_password_in_the_address_of_the_history_is_never_shown(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)
    Path("no-suite.yaml").write_text("name: 5\n")
    url = "postgresql://me:Blue-Horse-9@127.0.0.1:9/nights"
    assert cli.main([*verb, "--history", url]) != 0
    assert "Horse" not in "".join(capsys.readouterr())
    assert redaction.redact_values("Blue-Horse-9") == "[redacted]"


def test_nothing_else_in_the_command_line_writes_to_stdout() -> None:
    """Every other writer would be a way around what `out` does."""
    found = []
    for file in sorted(Path(evalkit.cli.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            to_stderr = any(keyword.arg == "err" for keyword in node.keywords)
            if name in ("print", "sys.stdout.write", "click.secho", "click.print") or (
                name == "click.echo" and not to_stderr and file.name != "options.py"
            ):
                found.append(f"{file.name}:{node.lineno}")
    assert found == []


def piped(*arguments: str, lines: int = 0) -> tuple[int, str, str]:
    """Run the program and close its stdout after so many lines; return exit code, what was read, stderr."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "evalkit", *arguments]
    process = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        said = "".join(pipe.readline() for _ in range(lines))
    _, err = process.communicate(timeout=120)
    return process.returncode, said, err or ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list", "recipes"), 0),
        (("list", "--json"), 0),
        (("--help",), 0),
        (("compare", "--help"), 0),
        (("list", "no-such-kind"), ExitCode.USAGE),
    ],
)
def test_a_reader_that_leaves_ends_nothing_and_changes_no_exit_code(arguments: tuple[str, ...], code: int) -> None:
    found, _, err = piped(*arguments)
    assert found == code
    assert "Traceback" not in err
    assert "internal error" not in err


def test_a_broken_pipe_to_another_process_is_no_reader_that_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("evalkit.definitions.find_definitions", broken)
    assert cli.main(["list", "recipes"]) == ExitCode.FAILED
    assert "a process that evalkit talked to has gone" in capsys.readouterr().err
