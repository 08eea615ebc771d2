"""Runs every benchmark, keeps its JSON, and writes the tables of docs/performance.md anew.

A table stands between `<!-- measured: NAME -->` and `<!-- /measured -->`; no figure in it is typed by hand. Run it on
an idle machine. `--parts` runs some scripts only; `--tables-only` measures nothing and rewrites the tables from JSON
files that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measuring as m
from goals import goals_table

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- measured: ([a-z-]+) -->\n)(.*?)(<!-- /measured -->)", re.DOTALL)
BUSY = 0.5
"""Load above which the machine is not idle enough."""

RECIPES = [f"--recipe={recipe}" for recipe in ("llama-official-fp8", "modelopt-fp8-kv", "int4-awq")]
PARTS: dict[str, list[str]] = {
    "decide": [],
    "store": [],
    "scale": [],
    "collect": [],
    "parity": [],
    "generate": [],
    "mmlu": RECIPES,
}
"""Part to the options its script gets; the cheap ones first."""

TINY: dict[str, list[str]] = {
    "decide": ["--repeats=2"],
    "store": ["--repeats=2", "--timed-records=2000", "--records=5000"],
    "generate": ["--repeats=1", "--questions=4", "--peer-questions=2", "--exact-questions=1", "--max-tokens=8"],
    "collect": ["--repeats=1", "--items=2", "--records=5000"],
    "parity": ["--items=1", "--tasks=mmlu-cloze-demo"],
    "scale": ["--replicas=1,64", "--shards=1", "--mmlu-replicas=0", "--ray=2", "--ray-shards=1"],
    "mmlu": ["--repeats=1", "--items=2", "--parity-items=1", "--recipe-items=1"],
}
"""Options that only show that a script runs; its figures mean nothing."""


def main() -> int:
    """Run the parts, then rewrite the document."""
    args = _arguments()
    parts = [part for part in PARTS if part in args.parts.split(",")]
    if not args.tables_only:
        load = os.getloadavg()[0]
        if load > BUSY and not args.busy:
            m.say(f"the machine is busy (load {load:.1f}); wait, or pass --busy and do not believe the figures")
            return 1
        for part in parts:
            _run(part, args)
    found = _found(args.folder)
    documents = {part: found[part] for part in parts if part in found}
    tables = {
        table["name"]: m.Table(name=table["name"], headers=table["headers"], rows=table["rows"])
        for document in documents.values()
        for table in document["tables"]
    }
    blocks = {name: table.text("github") for name, table in tables.items()}
    if documents:
        blocks["machine"] = _machine(documents)
        blocks["goals"] = goals_table(found).text("github")
    if args.dry:
        print("\n\n".join(f"{name}\n{text}" for name, text in blocks.items()))
    else:
        args.document.write_text(filled(args.document.read_text("utf-8"), blocks), "utf-8")
        m.say(f"written: {args.document}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    parser.add_argument("--mmlu", type=Path, metavar="DIR", help="MMLU with worked examples, Hendrycks' CSV layout")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"), help="where JSON files go")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="document whose tables are rewritten")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, rewrite the tables")
    parser.add_argument("--dry", action="store_true", help="print the tables and leave the document alone")
    parser.add_argument("--busy", action="store_true", help="measure although the machine is busy")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to see that everything runs")
    return parser.parse_args()


def _run(part: str, args: argparse.Namespace) -> None:
    more = [f"--mmlu={args.mmlu}"] if part in ("mmlu", "collect") and args.mmlu else []
    options = [*PARTS[part], *more, *(TINY[part] if args.tiny else [])]
    command = [sys.executable, str(HERE / f"bench_{part}.py"), *options, "--json", str(_file(args.folder, part))]
    m.say(f"{part}: {' '.join(command[1:])}")
    begun = time.monotonic()
    subprocess.run(command, check=True)
    m.say(f"{part}: {(time.monotonic() - begun) / 60:.1f} min")


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}.json"


def _found(folder: Path) -> dict[str, Any]:
    """Return every part's JSON file that is there: goals are told together, whatever was measured just now."""
    files = {part: _file(folder, part) for part in PARTS}
    return {part: json.loads(file.read_text("utf-8")) for part, file in files.items() if file.exists()}


def _machine(documents: Mapping[str, Any]) -> str:
    """Return the machine in words; parts measured on different machines are told apart."""
    lines: dict[str, list[str]] = {}
    for part, document in documents.items():
        found = document["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        lines.setdefault(
            f"{found['cpu_count']} cores of a cloud CPU, {found['cpu']}, {found['memory_gib']} GiB; Python "
            f"{found['python']}, evalkit {found['evalkit']}, {versions}",
            [],
        ).append(part)
    if len(lines) == 1:
        return next(iter(lines)) + "."
    return "\n".join(f"* {', '.join(parts)}: {line}." for line, parts in lines.items())


def filled(text: str, blocks: Mapping[str, str]) -> str:
    r"""Return a document with every block that was measured written anew.

    >>> filled("<!-- measured: a -->\nold\n<!-- /measured -->", {"a": "new"})
    '<!-- measured: a -->\n\nnew\n\n<!-- /measured -->'
    """
    return BLOCK.sub(lambda at: f"{at[1]}\n{blocks[at[2]]}\n\n{at[4]}" if at[2] in blocks else at[0], text)


if __name__ == "__main__":
    sys.exit(main())
