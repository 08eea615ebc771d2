"""What the site does beside reading docs/: README.md is its first page, and files outside docs/ become pages.

A hook of MkDocs (`mkdocs.yml`), which imports nothing of evalkit: `make site` works in any checkout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FIRST = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
"""Page of the site to the file of the repository that it is."""

_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_FOLDERS = ("evalkit", "examples", "judges", "outputs", "tasks", "benchmarks", "tests")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/: the first ones, and every file that a page links to."""
    for page, name in FIRST.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    sources = [(DOCS / file.src_uri, file.content_string) for file in files.documentation_pages()]
    wanted = [_outside(_target(_source(path), link)) for path, text in sources for link, _ in _links(text)]
    while wanted:
        found = wanted.pop()
        if found is None or files.get_file_from_path(_page(found)):
            continue
        text = found.read_text("utf-8")
        shown = text if found.suffix == ".md" else f"# {found.relative_to(ROOT)}\n\n````\n{text}\n````\n"
        files.append(File.generated(config, _page(found), content=shown))
        wanted += [_outside(_target(found, link)) for link, _ in _links(shown)] if found.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001 - MkDocs' signature
    """Turn links of the repository into links of the site."""
    source, here = _source(DOCS / page.file.src_uri), Path(page.file.src_uri).parent
    parts = _FENCE.split(markdown)
    for place in range(0, len(parts), 2):
        parts[place] = _LINK.sub(lambda link: _rewritten(source, here, link), parts[place])
    return "".join(parts)


def _links(text: str) -> list[tuple[str, str]]:
    return _LINK.findall("".join(_FENCE.split(text)[::2]))


def _source(path: Path) -> Path:
    """Return the file of the repository that a page of the site is made of."""
    name = path.relative_to(DOCS).as_posix()
    if name in FIRST:
        return ROOT / FIRST[name]
    if name.startswith("files/"):
        inner = ROOT / name.removeprefix("files/")
        return inner if inner.is_file() else inner.with_suffix("")
    return path


def _target(source: Path, link: str) -> Path:
    path = Path(os.path.normpath(source.parent / link))
    return path / "README.md" if path.is_dir() and (path / "README.md").is_file() else path


def _outside(path: Path) -> Path | None:
    """Return a file that needs a page of its own on the site: it is in the repository and not in docs/."""
    inside = path.is_relative_to(DOCS) or path in {ROOT / name for name in FIRST.values()}
    return path if path.is_file() and path.is_relative_to(ROOT) and not inside else None


def _page(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return f"files/{name}" if path.suffix == ".md" else f"files/{name}.md"


def _rewritten(source: Path, here: Path, link: re.Match[str]) -> str:
    path = _target(source, link[1])
    first = {ROOT / name: page for page, name in FIRST.items()}
    if path in first:
        page = first[path]
    elif _outside(path) is not None:
        page = _page(path)
    elif path.is_relative_to(DOCS):
        page = path.relative_to(DOCS).as_posix()
    else:
        return link[0]  # leads nowhere: MkDocs says so
    return os.path.relpath(page, here) + (link[2] or "")
