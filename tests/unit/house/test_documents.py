"""README.md and docs/: short enough, links that lead somewhere, commands and suites that are accepted."""

import ast
import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from evalkit.cli import VERBS, program
from evalkit.configuration import parse_yaml
from evalkit.suite import load_suite

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text("utf-8")
OUTSIDE = ("http://", "https://", "mailto:")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith(OUTSIDE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(other), f"{page.name}: no heading for {target}"


def test_readme_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 180
    assert README.index("make demo") < README.index("| CERTIFIED |") < 2000, "the first screen says what it is"


def test_readme_s_suite_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "suite.yaml").write_text(text)
    suite = load_suite(tmp_path / "suite.yaml")
    assert [engine.name for engine in suite.engines] == ["official-fp8", "my-fp8", "broken"]


def commands() -> list[tuple[str, str]]:
    """Return every command line of evalkit that a page shows, with its page."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"```(?:sh|console)?\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        found += [(page.name, line.removeprefix("$ ")) for line in lines if re.match(r"(\$ )?evalkit [a-z]", line)]
    return found


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())))
def test_every_command_and_option_that_is_shown_exists(page: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("[OPTIONS]", "COMMAND", "[ARGS]...")]
    command: click.Command = program
    if words and not words[0].startswith("-"):
        _, command, words = program.resolve_command(click.Context(program), words)
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    for word in words:
        if word.startswith("--") or re.fullmatch(r"-[a-z]", word):
            assert word.split("=")[0] in known, f"{page}: {line}: no option {word}"


PROSE = (
    "again", "asks", "cannot", "did", "does", "failed", "is", "itself", "made", "probe", "sets", "talked", "that",
    "writes", "wrote",
)  # fmt: skip
"""Words behind the name where an error text speaks of evalkit and names no command."""


def said_commands() -> list[tuple[str, str]]:
    """Return what stands behind `evalkit` in the texts of the code, with the file: errors, helps, next steps."""
    found = []
    for file in sorted((ROOT / "evalkit").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if id(node) in docstrings:
                continue
            text = ast.unparse(node)[2:-1] if isinstance(node, ast.JoinedStr) else getattr(node, "value", None)
            if isinstance(text, str):
                text = " ".join(text.replace("\\n", " ").split())
                found += [(file.name, m[1]) for m in re.finditer(r"\bevalkit ((?:[a-z]+|--[a-z-]+|[A-Z]+| )+)", text)]
    return sorted(set(found))


def test_every_command_that_the_code_names_exists() -> None:
    said = said_commands()
    assert len({text.split()[0] for _, text in said} & set(VERBS)) >= 10, "the texts are found"
    for file, text in said:
        words = text.split()
        if words and (words[0] in PROSE or words[0].startswith("--")):
            continue
        assert words, file
        _, command, rest = program.resolve_command(click.Context(program), words)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        options = list(itertools.takewhile(lambda word: word.startswith("--") or word.isupper(), rest))
        assert {word for word in options if word.startswith("--")} <= known, f"{file}: evalkit {text}"


def test_architecture_names_files_and_names_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tasks = text.split("## Where do I change X?")[1].split("## Core types")[0]
    paths = [path for path in re.findall(r"`([\w./<>-]+/[\w./<>-]*)`", tasks) if "<" not in path]
    assert len(paths) > 15
    assert not [path for path in paths if not (ROOT / path).exists()]
    named = (("REASONS", "verdict/outcome"), ("guard_results", "verdict/guards"), ("ANSWERS", "definitions/judge"))
    for name, path in named:
        assert f"`{name}`" in tasks
        assert re.search(rf"^(def )?{name}\b", (ROOT / f"evalkit/{path}.py").read_text(), re.MULTILINE)


def test_yaml_that_is_shown_can_be_read() -> None:
    for page in PAGES:
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            parse_yaml(text, page.name)
