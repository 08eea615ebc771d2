"""The HTML page as text: what is in it, what can never be in it, and how large it may be."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evalkit.report.evidence import Change, Changes, Evidence, Reply
from evalkit.report.html import html_report
from evalkit.report.html.page import MOST_CHANGES, MOST_CHARACTERS, changes_data, cut, script_data

BUDGET_BYTES = 15_000_000


class Page(HTMLParser):
    """Tags, attributes and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[str, list[list[Any]]] = {"script": [], "style": []}
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.inner:
            self.inner[tag].append([dict(attrs), ""])

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.inner:
            self.inner[self.cdata_elem][-1][1] += data
        self.words.append(data)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, release_folders):
    release = release_folders.make_release(tmp_path_factory.mktemp("html") / "release", items=300)
    release.certify()
    return release


@pytest.fixture(scope="module")
def text(release) -> str:
    return (release.folder / "report.html").read_text("utf-8")


def test_the_policy_allows_exactly_this_script_and_this_style(text: str) -> None:
    page = Page(text)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    (style,) = [inner for _, inner in page.inner["style"]]
    (script,) = [inner for attrs, inner in page.inner["script"] if attrs.get("type") is None]
    for kind, inner in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_nothing_in_the_page_needs_the_network_or_an_inline_handler(text: str) -> None:
    page = Page(text)
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "foreignobject"), tag
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", "the policy would drop it"
            if name in ("href", "src", "xlink:href"):
                assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"https?://", text.replace("http://www.w3.org", "")), "no address of anything"


def test_ids_are_unique_and_every_link_inside_leads_somewhere(text: str) -> None:
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for _, attrs in page.tags for name, value in attrs.items() if name == "href"}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(ids)


def test_the_first_screen_says_outcome_subject_baseline_certainty_and_limits(text: str) -> None:
    words = " ".join(" ".join(Page(text).words).split())
    assert "equal is certified; worse is rejected." in words
    assert "compared answer by answer with the baseline 'official' (recipe official-fp8)" in words
    assert "mmlu (ll-5shot, 300 items)" in words
    assert "Certified means that a true loss of 3 points of accuracy (mmlu) is ruled out." in words
    assert "a recipe with such a loss would be certified with a chance of at most 2.5 % (mmlu)" in words
    assert "What this does not say" in words
    assert "margin 3 points" in words


def test_the_page_says_where_plots_are_missing(release) -> None:
    document = json.loads((release.folder / "certificate.json").read_text())
    without = html_report(document, pictures="none")
    assert "<svg" not in without
    assert "pip install &#39;evalkit-quant[plots]&#39;" in without
    assert "equal is certified; worse is rejected." in without


def test_the_same_certificate_gives_the_same_page(release, text: str) -> None:
    release.certify()
    assert (release.folder / "report.html").read_text("utf-8") == text


def test_without_run_folders_the_page_says_so(release) -> None:
    document = json.loads((release.folder / "certificate.json").read_text())
    page = html_report(document, evidence=Evidence(absent=("equal",)), pictures="blank")
    assert "The run folders of equal do not lie beside the certificate" in page


@pytest.mark.parametrize("nasty", ["</script><script>x", "<!--", "]]>", "\u2028", "&lt;", "\ud800", "\x00"])
def test_data_in_the_page_cannot_end_its_block(nasty: str) -> None:
    text = str(script_data({"a": nasty}))
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": nasty}


def test_long_texts_are_cut_and_say_so() -> None:
    assert cut("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    assert cut("x" * (MOST_CHARACTERS + 7)).endswith("[cut here: 7 more characters in the run folder]")


def _change(at: int, run: int) -> Change:
    """An item of MMLU's size: five worked examples of 2,000 characters, a question of 350, four choices of 40."""
    subject = f"subject-{at % 57:02d}"
    shots = f"The following are questions about {subject}.\n\n" + f"{subject} example text. " * 90 + "\n\n"
    side = Reply(mark=float(run % 2), logprobs=(-1.2345, -2.3456, -3.4567, -4.5678), chosen=at % 4)
    other = Reply(mark=float(1 - run % 2), logprobs=(-1.3345, -2.2456, -3.5567, -4.4678), chosen=(at + 1) % 4)
    return Change(
        subject=subject,
        item_sha256=hashlib.sha256(f"{at}".encode()).hexdigest(),
        occurrence=0,
        sample=0,
        prompt=shots + f"{at} words of a question " * 16 + "\nAnswer:",
        choices=tuple(f" choice {k} of item {at}, some words long" for k in range(4)),
        target=at % 4,
        baseline=side,
        candidate=other,
        shift=0.5 - at / 30_000,
    )


def test_six_candidates_on_the_whole_of_mmlu_fit_the_budget() -> None:
    """Far more flips than any real recipe has: 4,000 of 14,042 items for each of six candidates."""
    changes = [
        Changes(
            run=f"candidate-{run}",
            endpoint="mmlu",
            task="mmlu",
            metric="acc",
            items=tuple(_change((at * 37 + run * 2340) % 14_042, run) for at in range(MOST_CHANGES + 10)),
        )
        for run in range(6)
    ]
    data = changes_data(changes)
    assert len(data["rows"]) == 6 * MOST_CHANGES
    assert len(data["items"]) > 10_000
    assert data["left_out"] == {f"candidate-{run}, mmlu": 10 for run in range(6)}
    assert len(data["prefixes"]) == 57, "worked examples are written once for each subject"
    item = data["items"][0]
    assert data["prefixes"][item[3]] + item[4] == changes[0].items[0].prompt
    assert len(str(script_data(data)).encode()) < BUDGET_BYTES - 1_500_000  # the rest of the page


def test_report_verb_writes_page_and_json(
    release, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    from evalkit import cli  # noqa: PLC0415

    certificate = release.folder / "certificate.json"
    assert cli.main(["report", str(certificate), "--html", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text("utf-8") == text
    capsys.readouterr()
    assert cli.main(["report", str(certificate), "--format", "json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    titles = [section["title"] for section in sections]
    for title in ("Why", "Items that changed", "Gates", "The judge", "Exclusions", "Provenance", "To reproduce"):
        assert title in titles
    assert cli.main(["report", str(certificate)]) == 0
    markdown = capsys.readouterr().out
    assert markdown == (release.folder / "report.md").read_text("utf-8")
    assert all(f"# {title}" in markdown for title in ("Items that changed", "Exclusions"))


def test_other_records_than_the_certificate_s_are_never_shown(release, tmp_path: Path, capsys) -> None:
    import shutil  # noqa: PLC0415

    from evalkit import cli  # noqa: PLC0415

    shutil.copytree(release.folder, tmp_path / "copy")
    file = tmp_path / "copy" / "worse" / "records" / "mmlu.jsonl"
    file.write_text(file.read_text().replace('"acc":0.0', '"acc":1.0', 1))
    code = cli.main(["report", str(tmp_path / "copy" / "certificate.json"), "--html", str(tmp_path / "x.html")])
    assert code == 4
    assert "not those of the certificate" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
