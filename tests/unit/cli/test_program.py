"""The outermost edge: help without imports, and exit codes that mean one thing each."""

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
        assert verb in out.stdout


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
