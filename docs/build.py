"""Write the generated blocks of README.md and docs/*.md, or check that they are current.

`python docs/build.py` rewrites; with `--check` it exits 1 and names each stale block. A block stands between
`<!-- begin: NAME ARGUMENTS -->` and `<!-- end -->`; NAME is one of the functions below.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- begin: ([a-z]+)(?: ([^\n]*?))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FOLDERS = ("evalkit", "tasks", "judges", "examples", "benchmarks", "docs", "tests")


def tracked() -> list[str]:
    """Return the files of the project, sorted; files git ignores are none of them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(out.splitlines()) if (ROOT / name).is_file())


def first_line(name: str) -> str:
    """Return what a file says of itself in its first line."""
    path = ROOT / name
    if path.suffix == ".png":
        return "picture"
    text = path.read_text("utf-8").removeprefix("#!/usr/bin/env bash\n")
    if path.suffix == ".txt":
        return "text"
    if path.suffix in (".css", ".html", ".js", ".xsd"):
        return text.strip().split("\n")[0].strip("/*{#}<!-> ").rstrip(".")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0].rstrip(".")
    if path.suffix in (".yaml", ".yml"):
        row = yaml.safe_load(text)
        return str(row["title"]) if isinstance(row, dict) and "title" in row else text.split("\n")[0].lstrip("# ")
    return text.split("\n")[0].lstrip("# ").split(": ", 1)[-1]


def house(_arguments: str) -> str:
    """One line for each file of the house; tests are listed by folder."""
    lines, folder = [], None
    for name in tracked():
        top = name.split("/")[0]
        if top not in FOLDERS or (name.endswith("__init__.py") and not (ROOT / name).read_text("utf-8").strip()):
            continue
        parent = str(Path(name).parent)
        if top == "tests":
            parent = "/".join(name.split("/")[:3]) if name.count("/") > 2 else parent
            if parent == folder:
                continue
            lines.append(f"{parent}/")
        else:
            if parent != folder:
                lines.append(f"{parent}/")
            lines.append(f"  {Path(name).name:<28} {first_line(name)}".rstrip())
        folder = parent
    return "```\n" + "\n".join(lines) + "\n```\n"


def help(arguments: str) -> str:  # noqa: A001 - the block's name in the documents
    """Return the real `--help` of a command."""
    command = [sys.executable, "-m", "evalkit", *arguments.split(), "--help"]
    env = {**os.environ, "COLUMNS": "100"}
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env).stdout
    return f"```\n{out.rstrip()}\n```\n"


def shown(arguments: str) -> str:
    """Return the real output of an evalkit command that runs anywhere."""
    command = [sys.executable, "-m", "evalkit", *arguments.split()]
    env = {**os.environ, "COLUMNS": "120"}
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env).stdout
    return f"```\n$ evalkit {arguments}\n{out.rstrip()}\n```\n"


def failclosed(_arguments: str) -> str:
    """Return the rows of the fail-closed test as a table: what is wrong, exit code, reason code."""
    names: dict[str, Any] = {}
    for node in ast.parse((ROOT / "tests/system/test_fail_closed.py").read_text("utf-8")).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and target.id.isupper() and target.id not in ("ROOT",):
            names[target.id] = _value(node.value, names)
    lines = ["| what is wrong | exit code | reason |", "|---|---|---|"]
    for what, (code, why) in names["ROWS"].items():
        lines.append(f"| {what} | {code} | {f'`{why}`' if why else ''} |")
    return "\n".join(lines) + "\n"


def _value(node: ast.expr | None, names: dict[str, Any]) -> Any:
    """Evaluate a literal that may use names of other literals; None for anything else."""
    if isinstance(node, ast.Dict):
        return {_value(key, names): _value(value, names) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Tuple):
        return tuple(_value(part, names) for part in node.elts)
    if isinstance(node, ast.Name):
        return names.get(node.id)
    return node.value if isinstance(node, ast.Constant) else None


WRITERS = {"house": house, "help": help, "shown": shown, "failclosed": failclosed}


def built(text: str) -> str:
    """Return a document with every block written anew."""
    return BLOCK.sub(lambda m: m[1] + WRITERS[m[2]](m[3] or "") + m[5], text)


def main() -> int:
    """Rewrite or check every document."""
    check, stale = "--check" in sys.argv[1:], []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        old = path.read_text("utf-8")
        new = built(old)
        if new != old:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, "utf-8")
    for name in stale:
        print(f"{name}: {'stale; run: make docs' if check else 'rewritten'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
