"""The outermost edge: help without imports, and exit codes that mean one thing each."""

import re
import shlex
import subprocess
import sys

import click
import pytest

from evalkit import cli
from evalkit.errors import DataError, EngineError, ExitCode, UsageError


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "evalkit", *argv], capture_output=True, text=True, check=False)


def test_help_names_every_verb_and_imports_no_engine() -> None:
    code = "import sys, evalkit.cli as c; c.main(['--help']); print(sorted(m for m in sys.modules if m in HEAVY))"
    heavy = {"torch", "lm_eval", "transformers", "scipy", "numpy", "pydantic"}
    out = subprocess.run(
        [sys.executable, "-c", code.replace("HEAVY", repr(heavy))], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "[]"
    for verb in cli.VERBS:
        assert re.search(rf"^  {verb} ", out.stdout, re.MULTILINE)


def test_a_person_can_remember_the_verbs() -> None:
    assert 10 <= len(cli.VERBS) <= 12
    assert [title for title, verbs in cli.GROUPS.items() if not 1 <= len(verbs) <= 3] == []
    assert set(cli.INNER) <= set(cli.VERBS)


COMMANDS = cli.program.list_commands(click.Context(cli.program))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_runs_as_it_is_printed_at_80_columns(name: str) -> None:
    command = cli.program.get_command(click.Context(cli.program), name)
    with click.Context(command, info_name=f"evalkit {name}", terminal_width=80, max_content_width=80) as context:
        printed = command.get_help(context).split("Example:\n")[1]
    assert max(map(len, printed.splitlines())) <= 80
    read = subprocess.run(["bash", "-c", f"evalkit() {{ printf '%s\\0' evalkit \"$@\"; }}\n{printed}"],
        capture_output=True, text=True, check=True).stdout.split("\0")[:-1]  # fmt: skip
    assert read == shlex.split(command.example), "a shell reads what is printed as what is meant"
    found, _, words = cli.program.resolve_command(click.Context(cli.program), read[1:])
    assert found == name
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_further_commands_are_found_from_the_help_of_their_verb(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: evalkit {name} ")
    for word in cli.INNER.get(name, ()):
        assert f"evalkit {name} {word}" in shown


@pytest.mark.parametrize(("word", "meant"), [("history", "nightly history"), ("keygen", "sign keygen")])
def test_a_further_command_without_its_verb_is_told_where_it_is(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word]) == ExitCode.USAGE
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


def test_version() -> None:
    assert "evalkit, version" in run("--version").stdout


def test_unknown_verb_is_a_usage_error_with_a_suggestion() -> None:
    out = run("certfy")
    assert out.returncode == ExitCode.USAGE
    assert "did you mean 'certify'?" in out.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("x"), ExitCode.USAGE),
        (DataError("x"), ExitCode.INVALID),
        (EngineError("x"), ExitCode.FAILED),
        (click.UsageError("x"), ExitCode.USAGE),
        (click.FileError("x"), ExitCode.USAGE),
        (click.Abort(), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.FAILED),
        (RuntimeError("x"), ExitCode.FAILED),
        (ZeroDivisionError("x"), ExitCode.FAILED),
    ],
)
def test_no_error_ever_exits_with_rejected(
    error: BaseException, expected: ExitCode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def boom(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(cli.program, "main", boom)
    assert cli.main(["list"]) == expected
    assert capsys.readouterr().err


@pytest.mark.parametrize("missing", ["click", "evalkit.cli", "evalkit.redaction"])
def test_a_program_that_cannot_be_imported_ends_with_5_and_never_with_a_verdict(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from evalkit.__main__ import start; sys.exit(start())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == ExitCode.FAILED
    assert "evalkit: error: cannot start: ModuleNotFoundError" in found.stderr
    assert "Traceback" not in found.stderr
