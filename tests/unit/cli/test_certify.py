"""The verbs `certify` and `report` on run folders: what they read, write and print, and what they refuse."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evalkit import cli
from evalkit.errors import ExitCode

FILE = Path(__file__).resolve().parents[2] / "synthetic_runs.py"

FOREIGN = ("torch", "transformers", "lm_eval", "modelopt", "vllm", "tensorrt_llm", "datasets")
HTTP = ("requests", "httpx", "aiohttp", "urllib3", "openai", "http.client", "urllib.request", "huggingface_hub")


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


@pytest.fixture(scope="module")
def release(made: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy, a suite and the four runs of a release that certifies."""
    folder = tmp_path_factory.mktemp("release")
    policy = made.bound(folder / "policy.yaml")
    made.write_release(folder / "runs", made.small_release(policy.sha256))
    (folder / "suite.yaml").write_text(
        "name: trial\ntitle: A trial\npolicy: ./policy.yaml\nengine: {adapter: modelopt, model: model}\n"
        f"baseline: {{name: {made.OFFICIAL}}}\nrerun: {{}}\ncandidates: [{{name: {made.RECIPE}}}]\n"
        f"controls: [{{name: {made.CONTROL}}}]\ntasks: [mmlu]\noutputs: {folder / 'runs'}\n"
    )
    return folder


@pytest.fixture
def argv(made: ModuleType, release: Path) -> list[str]:
    runs = release / "runs"
    return [
        *("certify", "--baseline", str(runs / made.OFFICIAL), "--candidate", str(runs / made.RECIPE)),
        *("--rerun", str(runs / f"{made.OFFICIAL}-rerun"), "--control", str(runs / made.CONTROL)),
        *("--policy", str(release / "policy.yaml")),
    ]


def test_certificate_and_report_are_written_and_the_first_screen_printed(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*argv, "--output", str(tmp_path)]) == ExitCode.CERTIFIED
    captured = capsys.readouterr()
    assert {file.name for file in tmp_path.iterdir()} == {
        "certificate.json",
        "certificate.ledger.jsonl",
        "report.md",
        "report.html",
    }
    assert "int4-awq: CERTIFIED (comparable under a weaker policy)" in captured.out
    assert str(tmp_path / "report.md") in captured.err
    assert "By subject" not in captured.out
    assert "By subject" in (tmp_path / "report.md").read_text("utf-8")


def test_json_on_stdout_is_the_certificate_and_nothing_else(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*argv, "--output", str(tmp_path), "--json"]) == ExitCode.CERTIFIED
    assert capsys.readouterr().out == (tmp_path / "certificate.json").read_text("utf-8")


def test_json_on_stdout_cannot_command_the_terminal(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (release / "suite.yaml").read_text("utf-8").replace("title: A trial", 'title: "A \\x9b2J trial"')
    (release / "odd.yaml").write_text(text, "utf-8")
    argv = ["certify", "--from", "--output", str(tmp_path), "--json"]
    assert cli.main([*argv, str(release / "odd.yaml")]) == ExitCode.USAGE
    assert "without U+009B" in capsys.readouterr().err
    assert cli.main([*argv, str(release / "suite.yaml")]) == 0
    capsys.readouterr()
    file = tmp_path / "certificate.json"  # and one that somebody else wrote
    changed = json.loads(file.read_text("utf-8")) | {"title": "A \x9b2J trial"}
    file.write_text(json.dumps(changed), "utf-8")
    assert cli.main(["report", str(file), "--format", "line"]) == ExitCode.INVALID
    assert "changed after it was written" in capsys.readouterr().err
    del changed["content_sha256"]
    file.write_text(json.dumps(changed, ensure_ascii=False), "utf-8")
    assert cli.main(["report", str(tmp_path / "certificate.json"), "--format", "line"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert all(word in line for word in ("CERTIFIED", "n = ", "margin ", "alpha ", "CAUTION"))
    assert cli.main(["report", str(tmp_path / "certificate.json"), "--format", "json", "--no-evidence"]) == 0
    assert "\x9b" not in capsys.readouterr().out


def test_a_suites_runs_give_the_certificate_that_the_same_folders_give(
    release: Path, argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*argv, "--output", str(tmp_path / "one")]) == ExitCode.CERTIFIED
    suite = ["certify", str(release / "suite.yaml"), "--from", "--output", str(tmp_path / "two")]
    assert cli.main(suite) == ExitCode.CERTIFIED
    one, two = (json.loads((tmp_path / name / "certificate.json").read_text("utf-8")) for name in ("one", "two"))
    assert one.pop("content_sha256") != two.pop("content_sha256")
    assert (one.pop("title"), two.pop("title")) == ("", "A trial")
    assert one == two


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("model: model", "model: meta-llama/Llama-3.1-405B-Instruct", "engine.model: the folder has 'model'"),
        ("adapter: modelopt", "adapter: scripted", "engine.adapter: the folder has 'modelopt'"),
        ("name: int4-awq", "name: int4-awq, recipe: modelopt-fp8-kv", "engine.recipe: the folder has 'int4-awq'"),
    ],
)
def test_a_suite_does_not_decide_on_runs_of_another(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, named: str
) -> None:
    text = (release / "suite.yaml").read_text("utf-8")
    assert old in text
    (release / "other.yaml").write_text(text.replace(old, new, 1), "utf-8")
    argv = ["certify", str(release / "other.yaml"), "--from", "--output", str(tmp_path / "out")]
    assert cli.main(argv) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "wrong-run" in said
    assert named in said
    assert not (tmp_path / "out" / "certificate.json").exists()


def test_without_output_a_suite_writes_beside_its_runs(
    release: Path, made: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["certify", str(release / "suite.yaml"), "--from"]) == ExitCode.CERTIFIED
    assert (release / "runs" / "certificate.json").is_file()


def test_the_report_can_be_written_again_to_the_letter(
    argv: list[str], release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([*argv, "--output", str(tmp_path)])
    first_screen = capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "certificate.json"), "--runs", str(release / "runs")]) == 0
    assert capsys.readouterr().out == (tmp_path / "report.md").read_text("utf-8")
    assert cli.main(["report", str(tmp_path / "certificate.json"), "--format", "text", "--no-evidence"]) == 0
    assert capsys.readouterr().out.strip() == first_screen.strip()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"certificate_version": 2}',
        b'{"certificate_version": 1}',
        b'{"certificate_version": 1, "decision": []}',
        b'{"certificate_version": 1, "decision": NaN}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_certificate_has_no_report(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "certificate.json"
    file.write_bytes(content)
    assert cli.main(["report", str(file)]) == ExitCode.INVALID
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"evalkit: error: {file}")


@pytest.mark.parametrize(
    ("left_out", "added", "said"),
    [
        ("--baseline", [], "name a suite, or --baseline"),
        ("--candidate", [], "name a suite, or --baseline"),
        ("--policy", [], "name a suite, or --baseline"),
        (None, ["--from"], "--from needs a suite"),
        (None, ["--unknown"], "No such option"),
        ("--policy", ["--policy", "relase"], "did you mean 'release'?"),
        ("--policy", ["--policy", "./nowhere.yaml"], "there is no such file"),
    ],
)
def test_an_incomplete_request_is_refused_before_anything_is_written(
    argv: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    left_out: str | None,
    added: list[str],
    said: str,
) -> None:
    kept = list(argv)
    if left_out is not None:
        at = kept.index(left_out)
        del kept[at : at + 2]
    assert cli.main([*kept, *added, "--output", str(tmp_path / "out")]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--baseline", "--candidate", "--rerun", "--control"])
def test_a_suite_refuses_run_folders_rather_than_ignore_them(
    release: Path, made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    folder = str(release / "runs" / made.CONTROL)
    suite = ["certify", str(release / "suite.yaml"), "--from", option, folder, "--output", str(tmp_path / "out")]
    assert cli.main(suite) == ExitCode.USAGE
    assert f"leave out {option}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_imported_run_goes_by_its_folders_name(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = made.bound(tmp_path / "policy.yaml")
    paths = made.write_release(tmp_path / "runs", made.small_release(policy.sha256))
    for name, asked in ((made.RECIPE, {}), (made.OFFICIAL, {"engine": "lm-eval"})):
        file = tmp_path / "runs" / name / "manifest.json"
        row = json.loads(file.read_text("utf-8"))
        row["requested"] = asked
        file.write_text(json.dumps(row), "utf-8")
    named = [word for role, path in paths.items() for word in (f"--{role}", str(path))]
    argv = ["certify", *named, "--policy", str(tmp_path / "policy.yaml"), "--output", str(tmp_path / "out")]
    assert cli.main(argv) == ExitCode.CERTIFIED


def test_an_error_that_quotes_a_damaged_file_cannot_command_the_terminal(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = made.bound(tmp_path / "policy.yaml")
    paths = made.write_release(tmp_path / "runs", made.small_release(policy.sha256))
    file = paths["candidate"] / "records" / "mmlu.jsonl"
    file.write_text(json.dumps({"task": "mmlu", "\x1b[2Jpwned": 1}) + "\n", "utf-8")
    named = [word for role, path in paths.items() for word in (f"--{role}", str(path))]
    argv = ["certify", *named, "--policy", str(tmp_path / "policy.yaml"), "--output", str(tmp_path / "out")]
    assert cli.main(argv) == ExitCode.INVALID
    err = capsys.readouterr().err
    assert "pwned" in err
    assert "\x1b" not in err


def test_deciding_imports_no_engine_no_lm_eval_and_no_http_client(argv: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from evalkit.cli import main; code = main(sys.argv[1:])\n"
        f"loaded = [m for m in {FOREIGN + HTTP!r} if m in sys.modules]\n"
        "print(f'\\nexit {code}, loaded {loaded}')"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *argv, "--output", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "exit 0, loaded []"
