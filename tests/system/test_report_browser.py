"""The report in a real browser: what a person sees, what hostile text can do, what leaves the page."""

from __future__ import annotations

import functools
import http.server
import importlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

FILE = Path(__file__).resolve().parents[1] / "release_folders.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

EVIL = (
    "<script>window.ran('script')</script><img src=x onerror=\"window.ran('img')\">"
    "<svg onload=\"window.ran('svg')\"></svg><a href=\"javascript:window.ran('link')\">a</a>"
    "</script><script>window.ran('end')</script>--><style>body{display:none}</style>"
    "'\"><iframe srcdoc=\"<script>parent.ran('frame')</script>\"></iframe>{{7*7}}${alert(1)}"
)


@dataclass
class Seen:
    """What a page did."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def folders() -> Any:
    return importlib.import_module("release_folders")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(folders: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose every text is hostile: subjects, questions, choices, answers, the judge's words, the model."""
    texts = folders.Texts(
        subject=lambda name: f"{name} {EVIL}",
        context=lambda at: f"Question {at} about {'oaks' if at % 3 else 'elms'}: {EVIL}",
        choice=lambda at: f" choice {at} {EVIL}",
        question=lambda at, turn: f"Question {at}, turn {turn + 1} {EVIL}",
        answer=lambda text: f"{text} {EVIL}",
        judged=f"Well rated {EVIL}",
        model=f"model {EVIL}",
    )
    release = folders.make_release(tmp_path_factory.mktemp("hostile") / "release", items=300, texts=texts)
    assert release.certify() == 1
    return release.folder / "report.html"


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(browser: Any, report: Path, seen: Seen) -> Iterator[Any]:
    """The report, served by a real web server."""
    handler = functools.partial(_Quiet, directory=str(report.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    opened = context.new_page()
    opened.on("request", lambda request: seen.requests.append(request.url))
    opened.on("pageerror", lambda error: seen.errors.append(str(error)))
    opened.on("dialog", lambda dialog: (seen.ran.append("dialog"), dialog.dismiss()))
    opened.expose_function("ran", lambda what: seen.ran.append(what))  # noqa: PLW0108 (playwright marks it)
    opened.goto(f"http://127.0.0.1:{server.server_port}/{report.name}")
    yield opened
    context.close()
    server.shutdown()
    server.server_close()
    thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_the_first_screen_has_verdicts_and_cautions(page: Any, seen: Seen) -> None:
    for what in ("#verdict", "#outcome .badge", "#cautions li"):
        top = page.evaluate("what => document.querySelector(what).getBoundingClientRect().top", what)
        assert top < 860, f"verdicts and what weakens them begin on the first screen: {what}"
    assert "equal is certified; worse is rejected." in page.inner_text("#verdict")
    badges = page.locator("#outcome .badge").all_inner_texts()
    assert [badge.split()[-1] for badge in badges] == ["CERTIFIED", "REJECTED"]
    rows = page.locator("table.recipes tbody tr").all_inner_texts()
    assert len(rows) == 6, "two endpoints of two recipes, and the gating one of both reference runs"
    assert page.locator("table.recipes svg.plot").count() == 7, "an axis, and one picture for each row"
    assert seen.errors == []


def test_what_is_hostile_is_shown_and_never_runs(page: Any, seen: Seen, report: Path) -> None:
    for select in ("#change-run", "#change-endpoint", "#change-subject", "#change-kind"):
        assert page.locator(select).is_visible()
    for details in page.locator("details").all():
        details.evaluate("node => node.open = true")
    page.wait_for_timeout(200)
    for _ in range(3):
        page.click("#talk-after")
    words = page.inner_text("body")
    assert words.count("<script>window.ran('script')</script>") > 50
    for place in ("#change-list", "#talk", "#provenance", "#verdict"):
        assert "<img src=x onerror=" in page.inner_text(place), place
    assert "{{7*7}}" in words
    assert page.locator("iframe, img, script:not([type]) ~ script:not([type])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).display") != "none"
    assert seen.ran == []
    assert seen.errors == []
    assert len(seen.requests) == 1, seen.requests


def test_the_content_security_policy_stops_what_would_get_in(page: Any, seen: Seen) -> None:
    """A second line: even markup that reached the page could not run, load or send anything."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x"
        sent = page.evaluate(
            """async address => {
                const bad = document.createElement('div');
                bad.innerHTML = `<img src="${address}" onerror="window.ran('img')">`;
                document.body.appendChild(bad);
                const script = document.createElement('script');
                script.textContent = "window.ran('inline')";
                document.body.appendChild(script);
                return await fetch(address).then(() => 'sent', error => 'stopped');
            }""",
            address,
        )
        page.wait_for_timeout(200)
        elsewhere.settimeout(0.2)
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    assert sent == "stopped"
    assert seen.ran == []


def _searched(page: Any, words: str, unlike: int) -> int:
    """Type words and wait until the count is another one; return it."""
    from playwright.sync_api import expect  # noqa: PLC0415

    page.fill("#change-search", words)
    expect(page.locator("#change-count")).not_to_contain_text(re.compile(rf"^{unlike} of"))
    return _count(page)


def _count(page: Any) -> int:
    return int(page.inner_text("#change-count").split()[0])


def test_changes_are_searched_and_filtered(page: Any, report: Path) -> None:
    certificate = json.loads((report.parent / "certificate.json").read_text())
    tables = {run: found["mmlu"]["proportion"]["observed"] for run, found in certificate["comparisons"].items()}
    lost = {run: table["n10"] for run, table in tables.items() if run != "broken"}
    gained = {run: table["n01"] for run, table in tables.items() if run != "broken"}
    everything = sum(lost.values()) + sum(gained.values())
    assert _count(page) == everything
    page.select_option("#change-kind", label="lost")
    assert _count(page) == sum(lost.values())
    page.select_option("#change-run", label="worse")
    assert _count(page) == lost["worse"]
    assert set(page.locator("#change-list .lost").all_inner_texts()) == {"▼ lost"}
    page.select_option("#change-kind", "")
    page.select_option("#change-run", "")
    oaks = _searched(page, "oaks", everything)
    elms = _searched(page, "elms", oaks)
    assert 0 < oaks < everything
    assert oaks + elms == everything
    assert _searched(page, "no such words anywhere", elms) == 0
    assert page.locator("#change-list > *").count() == 0


def test_an_item_shows_prompt_choices_and_both_sides_numbers(page: Any, report: Path) -> None:
    entry = page.locator("#change-list details").first
    entry.locator("summary").first.click()
    rows = entry.locator("table.choices tbody tr")
    rows.first.wait_for()
    assert rows.count() == 4
    assert rows.filter(has_text="(right)").count() == 1
    chosen = [row.locator("td").last.inner_text() for row in rows.all()]
    assert sorted(filter(None, chosen)) == ["baseline", "candidate"], "they chose differently, or it were no change"
    shares = [float(row.locator("td").nth(4).inner_text().split()[0]) for row in rows.all()]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert "Both sides were asked the same" in entry.inner_text()


def test_conversations_stand_side_by_side_with_their_judgments(page: Any) -> None:
    talk = page.locator("#talk")
    assert talk.locator("h3").all_inner_texts() == ["Turn 1", "Turn 2"]
    assert talk.locator(".judgment").count() == 2 * 2 * 3
    assert "Well rated" in talk.inner_text()
    first = talk.inner_text()
    page.click("#talk-after")
    assert talk.inner_text() != first
    page.click("#talk-before")
    assert talk.inner_text() == first
    page.select_option("#talk-run", label="worse")
    assert "Candidate: worse" in talk.inner_text()


def test_the_page_can_be_used_with_the_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#change-list details summary")
    page.keyboard.press("Enter")
    page.locator("#change-list details[open] table.choices").first.wait_for()
    page.focus("#talk-after")
    before = page.input_value("#talk-question")
    page.keyboard.press("Enter")
    assert page.input_value("#talk-question") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Any, report: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(report.as_uri())
    ratios = page.evaluate(
        """() => {
            const parts = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
            const paper = getComputedStyle(document.body).backgroundColor;
            const names = ['body', '.caption', '.badge.certified', '.badge.rejected', 'nav a', 'aside', 'thead th'];
            return names.map(name => {
                const style = getComputedStyle(document.querySelector(name));
                const under = style.backgroundColor === 'rgba(0, 0, 0, 0)' ? paper : style.backgroundColor;
                const [a, b] = [light(parts(style.color)), light(parts(under))].sort((x, y) => y - x);
                return [name, (a + 0.05) / (b + 0.05)];
            });
        }"""
    )
    assert all(ratio >= 4.5 for _, ratio in ratios), ratios
    page.close()


def test_it_prints_with_everything_and_without_controls(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#change-filters").is_visible()
    assert page.locator("table.recipes").is_visible()
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    page.close()


def test_without_scripts_every_number_is_still_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert "equal is certified; worse is rejected." in page.inner_text("#verdict")
    assert page.locator("#evidence").is_visible()
    assert "needs the page's own script" in page.inner_text("#changes")
    context.close()
