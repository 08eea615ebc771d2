"""The verb `run`: the name of a run, and requests that contradict themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit import cli
from evalkit.cli.run import Options, _engine
from evalkit.errors import ExitCode

UNSAID = dict.fromkeys(("suite_engine", "template", "ledger", "history", "on", "replicas", "definitions"))
GIVEN = {"adapter": "scripted", "model": "none", "recipe": "none", "dtype": "bfloat16", "device": "auto", **UNSAID}
GIVEN |= {
    "adapter_options": (),
    "tasks": (),
    "retry_failed": False,
    "check_batches": 0,
    "quiet": True,
    "as_json": False,
}


@pytest.mark.parametrize(
    ("output", "name", "expected"),
    [
        ("outputs/int4", None, "int4"),
        ("outputs/int4", "mine", "mine"),
        ("outputs/int4/", None, "int4"),
        ("outputs/.hidden", None, "run"),
        ("outputs/a b", None, "run"),
        (None, None, "run"),
    ],
)
def test_a_run_has_the_name_it_is_given_or_that_of_its_folder(
    output: str | None, name: str | None, expected: str
) -> None:
    suite, spec = _engine(Options(**GIVEN, output=Path(output) if output else None, name=name))
    assert (suite, spec.name) == (None, expected)


ENGINE = ["--adapter", "scripted", "--model", "none", "--output", "x"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["suite.yaml#a", "--name", "b"], "leave out --name: the suite describes its engine"),
        ([*ENGINE, "--name", "a/b", "--task", "mmlu"], "'name' "),
        ([*ENGINE, "--template", "fastchat:zero_shot", "--task", "mmlu"], "none of the tasks holds any"),
        ([*ENGINE, "--template", "vicuna", "--task", "mt-bench"], "write fastchat:<name>"),
    ],
)
def test_a_request_that_contradicts_itself_is_a_wrong_request(
    words: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *words]) == ExitCode.USAGE
    assert fault in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
