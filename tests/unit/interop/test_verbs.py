"""The verbs `export` and `import`, from argv to exit code."""

from __future__ import annotations

import json
import shutil

from evalkit.cli import main
from evalkit.errors import ExitCode
from evalkit.ledger import Ledger, citations
from evalkit.ledger.standing import weights_of
from evalkit.store import read_run


def test_export_counts_what_it_leaves_out(runs, tmp_path, capsys):
    assert main(["report", "export", str(runs.quiz()), "--output", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"] == {"quiz": {"written": 7, "failed": 1, "absent": 1}}
    assert len(told["files"]) == 3


def test_import_writes_a_run_that_can_be_read(theirs, tmp_path, capsys):
    folder = theirs.write({"quiz": [theirs.sample(n) for n in range(3)]})
    argv = [
        "run",
        "import",
        str(folder),
        "--output",
        str(tmp_path / "run"),
        "--recipe",
        "fp8",
        "--fidelity",
        "dequantised",
    ]
    assert main(argv) == 0
    run = read_run(tmp_path / "run")
    assert (run.manifest.engine.recipe, run.manifest.engine.fidelity) == ("fp8", "dequantised")
    assert len(run.records["lm_eval:quiz"]) == 3
    assert "lm_eval:quiz" in capsys.readouterr().out


def test_what_cannot_be_judged_is_invalid_and_what_is_not_there_is_a_wrong_request(theirs, tmp_path, capsys):
    folder = theirs.write({"quiz": [theirs.sample(0)]})
    next(folder.rglob("samples_*")).unlink()
    assert main(["run", "import", str(folder), "--output", str(tmp_path / "run")]) == ExitCode.INVALID
    assert main(["run", "import", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == ExitCode.USAGE
    assert not (tmp_path / "run").exists()
    assert "--log_samples" in capsys.readouterr().err


def test_an_import_is_on_record_once_and_another_of_the_same_weights_is_counted(theirs, tmp_path):
    folder = theirs.write({"quiz": [theirs.sample(n) for n in range(3)]})

    def bring(name, source=folder):
        assert main(["run", "import", str(source), "--output", str(tmp_path / "runs" / name), "--recipe", "fp8"]) == 0

    def entries():
        return Ledger(tmp_path / "runs" / "ledger.jsonl").entries()

    for _ in range(2):
        bring("first")
    assert [entry.kind for entry in entries()] == ["opened", "import"]
    (cited,) = citations(tmp_path / "runs" / "first")
    assert cited.sha256 == entries()[1].sha256
    bring("moved")  # the same records in another folder are the same import
    assert len(entries()) == 2
    data = entries()[1].data
    assert (data["found"], list(data["records_sha256"])) == (3, ["lm_eval:quiz"])
    assert data["weights"] == weights_of(read_run(tmp_path / "runs" / "first").manifest.engine)
    shutil.rmtree(folder)
    bring("second", theirs.write({"quiz": [theirs.sample(n) for n in range(2)]}))
    assert [entry.kind for entry in entries()] == ["opened", "import", "import"]
    assert entries()[2].data["weights"] == data["weights"]
