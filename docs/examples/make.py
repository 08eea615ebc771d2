"""Write the certificates that docs/protocol.md and README.md show, from the runs of `make demo`.

`python docs/examples/make.py` reads `outputs/cpu-demo`, whose runs must be complete; nothing is run. Besides a copy of
the demo's own certificate it makes two that a release would never ask for: the recipe broken on purpose offered as a
candidate, and the baseline's own run offered as one. The runs are real; only what they are offered as is staged.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from evalkit import cli
from evalkit.store.lines import SUMS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RUNS = ROOT / "outputs" / "cpu-demo"
BASELINE, RERUN, CONTROL = "official-fp8", "official-fp8-rerun", "control-rtn2"


def decided(target: Path, *argv: str) -> None:
    """Decide, keep the certificate under a name of its own, and stop at anything that is no verdict."""
    with tempfile.TemporaryDirectory() as folder:
        code = cli.main(["certify", *argv, "--quiet", "--output", folder])
        if code in (2, 5):
            sys.exit(code)
        shutil.copyfile(Path(folder) / "certificate.json", target)


def offered(run: Path, folder: Path, name: str, policy_sha256: str | None) -> Path:
    """Copy a run under another name and policy: the staged part of the two examples."""
    copy = folder / str(policy_sha256)[:8] / name
    shutil.copytree(run, copy)
    manifest = copy / "manifest.json"
    row = json.loads(manifest.read_text("utf-8"))
    row["requested"]["engine"]["name"] = name
    row["policy_sha256"] = policy_sha256
    manifest.write_text(json.dumps(row, indent=1, sort_keys=True) + "\n", "utf-8")
    (copy / SUMS).unlink(missing_ok=True)  # the manifest is another one now
    return copy


def staged(target: Path, run: str, name: str) -> None:
    """Decide on a run that is offered as a candidate under the demo's policy."""
    runs = ["--baseline", str(RUNS / BASELINE), "--rerun", str(RUNS / RERUN), "--control", str(RUNS / CONTROL)]
    sha = None
    with tempfile.TemporaryDirectory() as folder:
        for target_now in (Path(folder) / "first.json", target):  # the first tells the digest of the bound policy
            candidate = offered(RUNS / run, Path(folder), name, sha)
            decided(target_now, *runs, "--policy", "demo", "--candidate", str(candidate))
            sha = json.loads(target_now.read_text("utf-8"))["policy"]["sha256"]


def main() -> int:
    """Write the three certificates."""
    shutil.copyfile(RUNS / "certificate.json", HERE / "demo.json")  # with the ledger that lay beside it
    staged(HERE / "rejected.json", CONTROL, "broken-recipe")
    staged(HERE / "invalid.json", BASELINE, "never-quantized")
    return 0


if __name__ == "__main__":
    sys.exit(main())
