"""The site (`make site`): every page is in its navigation, and no page asks anybody else for anything."""

import re
from pathlib import Path
from typing import Any

import yaml

from evalkit import __version__

ROOT = Path(__file__).resolve().parents[3]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    here = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    here = {page for page in here if not re.match(r"decisions/\d", page)}  # they have an index of their own
    elsewhere = {"index.md", "changelog.md", "security.md"}
    assert sorted(pages(SITE["nav"])) == sorted(here | elsewhere)
    hook = (ROOT / "docs" / "pages.py").read_text("utf-8")
    assert all(f'"{page}"' in hook for page in elsewhere)


def test_the_site_asks_nobody_else() -> None:
    assert SITE["theme"]["font"] is False
    assert SITE["plugins"] == ["search"], "the plugin `offline` loads a script from elsewhere"
    assert not {"extra_javascript", "extra_css", "repo_url"} & SITE.keys()
    assert SITE["strict"] is True
    for page in (ROOT / "docs").rglob("*.md"):
        assert "```mermaid" not in page.read_text("utf-8"), f"{page.name}: the theme loads mermaid from elsewhere"
        assert not re.search(r"!\[[^\]]*\]\(https?:", page.read_text("utf-8")), f"{page.name}: a picture from elsewhere"


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_make_site_is_strict() -> None:
    (line,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text("utf-8"))
    assert line == "mkdocs build --strict", "with --quiet no warning is counted, and a dead link passes"
