"""Take the pictures of the report that the documents show, from the certificate of `make demo`.

`python docs/pictures/make.py [FOLDER]` writes the report of FOLDER (`outputs/cpu-demo` by default) again, opens it in
Chromium without a window and takes three pictures: the first screen, an item that changed, a judged conversation.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from evalkit import cli

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SIZE = {"width": 1280, "height": 860}


def first_screen(page: Page) -> None:
    """Leave the page where it opens."""


def changed_item(page: Page) -> None:
    """Open the item that changed most among those a candidate lost."""
    page.select_option("#change-kind", label="lost")
    page.locator("#changes").scroll_into_view_if_needed()
    page.locator("#change-list details summary").first.click()
    page.evaluate("document.querySelector('#changes').scrollIntoView()")


def conversation(page: Page) -> None:
    """Show the first question that was judged."""
    page.evaluate("document.querySelector('#talk-filters').scrollIntoView()")


PICTURES = {"first-screen": first_screen, "changed-item": changed_item, "conversation": conversation}


def main() -> int:
    """Take the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "outputs" / "cpu-demo"
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        report = Path(temporary) / "report.html"
        code = cli.main(["report", str(folder / "certificate.json"), "--html", str(report)])
        if code:
            return code
        opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        for name, act in PICTURES.items():
            page = opened.new_page(viewport=SIZE)
            page.goto(report.as_uri())
            act(page)
            page.wait_for_timeout(200)
            page.screenshot(path=HERE / f"{name}.png")
            page.close()
        opened.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
