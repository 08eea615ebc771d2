"""A verdict for the page of a model: a block of Markdown for its card, and a badge in SVG.

In: `certificate.json` as data, and which recipe. Out: text.
Must not depend on: files, clocks; how anything was decided. Whoever asks names the date and the address.

A badge is all that many readers see, so it says outcome, margin, date and the number of cautions, and what was decided
after the runs says so. Text from outside is escaped; none of it can open a tag or a link.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from evalkit.errors import DataError, UsageError, suggestion
from evalkit.interop.junit import escaped
from evalkit.report.document import certificate_view
from evalkit.report.view import EndpointRow, VerdictRow, View, claimed
from evalkit.verdict import Outcome

BEGIN, END = "<!-- evalkit: begin -->", "<!-- evalkit: end -->"
"""Lines around the block, between which a later verdict takes its place."""

_COLOURS = {
    Outcome.CERTIFIED: "#1a7f37",
    Outcome.REJECTED: "#b42318",
    Outcome.INCONCLUSIVE: "#6e5494",
    Outcome.INVALID: "#57606a",
}
"""White text on each has a contrast of at least 4.5 to 1."""

_HEIGHT, _PADDING, _SIZE = 20, 8, 11
_WIDTHS = ((r"[ilI.,:;|'! ]", 0.35), (r"[A-Z0-9%+−-]", 0.68), (r"[mwMW@]", 0.92))
"""Kind of character to its width, as a share of the size of the letters; all others are 0.6 wide."""


def model_card(document: Mapping[str, Any], recipe: str | None, *, date: datetime.date, link: str = "") -> str:
    """Write what a certificate says of one recipe as a block for a model card.

    Args:
        document: what `certificate.json` holds.
        recipe: which recipe; None for the only one.
        date: printed as the day of the block.
        link: address at which readers find the certificate; "" for none.

    Raises:
        DataError: the document is incomplete or damaged, or compares with a published number alone.
        UsageError: no such recipe, or several and none named; the link is no http address.
    """
    view, verdict = _chosen(document, recipe)
    baseline = next(run for run in view.runs if run.name == "baseline")
    lines = [
        BEGIN,
        f"### Accuracy against {escaped(baseline.recipe)}: {_word(verdict)}",
        "",
        f"{escaped(verdict.meaning[:1].upper() + verdict.meaning[1:])}.",
        "",
        *(f"- **{escaped(line)}**" for line in _cautions(view, verdict)),
        *([""] if _cautions(view, verdict) else []),
        "| endpoint | pairs | baseline → recipe | difference | interval | margin | result |",
        "|---|---|---|---|---|---|---|",
        *(_row(row) for row in verdict.endpoints),
        "",
        _provenance(view, verdict, date, link),
        END,
    ]
    return "\n".join(lines) + "\n"


def _provenance(view: View, verdict: VerdictRow, date: datetime.date, link: str) -> str:
    """Return what was compared with what, by which rules, by which program, and when the block was written."""
    baseline = next(run for run in view.runs if run.name == "baseline")
    told = next((run for run in view.runs if run.name == verdict.recipe), baseline)
    engines = [f"{one.recipe} of {one.model}, fidelity {one.fidelity}" for one in (told, baseline)]
    policy = view.policy
    return (
        f"Recipe {escaped(engines[0])}; baseline {escaped(engines[1])}. Paired item by item, decided by policy "
        f"{escaped(policy.name)} (tier {escaped(policy.tier)}, sha256 {escaped(policy.sha256[:12])}), "
        f"{escaped(policy.timing)}. evalkit {escaped(view.evalkit)}, {date.isoformat()}{_linked(link)}."
    )


def with_card(text: str, block: str, source: str) -> str:
    """Return a model card with the block in the place of the one that is there.

    Raises:
        UsageError: there is no place for it, or more than one.
    """
    places = [(found.start(), found.end()) for found in re.finditer(_between(), text, re.DOTALL)]
    if len(places) != 1 or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(
            f"{source}: found {text.count(BEGIN)} lines '{BEGIN}' and {text.count(END)} lines '{END}'; next step: "
            "write the two lines once, one below the other, where the block belongs"
        )
    ((start, end),) = places
    block = block.replace("\n", "\r\n") if "\r\n" in text else block
    return text[:start] + block + text[end:]


def _between() -> str:
    return rf"(?m:^){re.escape(BEGIN)}\r?\n(?:.*?\n)?{re.escape(END)}(?:\r?\n|\Z)"


def badge(document: Mapping[str, Any], recipe: str | None, *, date: datetime.date) -> str:
    """Draw what a certificate says of one recipe as an SVG of one line.

    Args:
        document: what `certificate.json` holds.
        recipe: which recipe; None for the only one.
        date: printed as the day of the badge.

    Raises:
        DataError, UsageError: as `model_card`.
    """
    view, verdict = _chosen(document, recipe)
    baseline = next(run for run in view.runs if run.name == "baseline")
    told = next((run for run in view.runs if run.name == verdict.recipe), baseline)
    cautions = len(_cautions(view, verdict))
    more = f", {cautions} caution{'s' if cautions > 1 else ''}" if cautions else ""
    left, right = f"accuracy vs {baseline.recipe}", f"{_said(view, verdict, told.fidelity)}{more}, {date.isoformat()}"
    widths = [round(2 * _PADDING + _width(text)) for text in (left, right)]
    root = ElementTree.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "width": str(sum(widths)), "height": str(_HEIGHT), "role": "img"}
        | {"aria-label": f"{left}: {right}"},
    )
    ElementTree.SubElement(root, "title").text = f"{left}: {right}. {verdict.recipe}: {verdict.meaning}."
    shown = verdict.would_be or verdict.outcome
    colour = _COLOURS[Outcome.INVALID if verdict.would_be else shown]
    for start, width, fill, text in ((0, widths[0], "#24292f", left), (widths[0], widths[1], colour, right)):
        box = {"x": str(start), "width": str(width), "height": str(_HEIGHT), "fill": fill}
        ElementTree.SubElement(root, "rect", box)
        place = {"x": str(start + _PADDING), "y": "14", "fill": "#fff", "font-size": str(_SIZE)}
        place |= {"font-family": "Verdana,DejaVu Sans,sans-serif", "textLength": str(width - 2 * _PADDING)}
        ElementTree.SubElement(root, "text", place).text = text
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _chosen(document: Mapping[str, Any], recipe: str | None) -> tuple[View, VerdictRow]:
    view = certificate_view(document)
    if not view.paired:
        raise DataError("the baseline is a published number, so there is no certificate to show; next step: run it")
    names = [verdict.recipe for verdict in view.verdicts]
    if recipe is None and len(names) == 1:
        return view, view.verdicts[0]
    if recipe is None:
        raise UsageError(f"the certificate speaks of {', '.join(names) or 'no recipe'}; next step: --recipe NAME")
    if recipe not in names:
        raise UsageError(f"the certificate does not speak of '{recipe}'{suggestion(recipe, names)}")
    return view, view.verdicts[names.index(recipe)]


def _word(verdict: VerdictRow) -> str:
    return escaped(verdict.said)


def _said(view: View, verdict: VerdictRow, fidelity: str) -> str:
    """Return outcome, margins, fidelity and policy; a claim is only as wide as the margin that it stands for."""
    if verdict.would_be is not None:
        return "EXPLORATORY, decides nothing"
    if verdict.outcome is Outcome.CERTIFIED:
        margins = [row.margin_words(claimed(row, verdict.claim)) for row in verdict.deciding]
    else:
        margins = [row.margin_words(*(one.margin for one in row.margins)) for row in verdict.deciding]
    within = "within" if verdict.outcome is Outcome.CERTIFIED else "at margin"
    told = [verdict.outcome.value]
    if margins and verdict.outcome is not Outcome.INVALID:
        told = [f"{told[0]} {within} {' and '.join(dict.fromkeys(margins))}"]
    return ", ".join([*told, *([] if fidelity == "engine" else [fidelity]), f"policy {view.policy.name}"])


def _cautions(view: View, verdict: VerdictRow) -> list[str]:
    found = [*view.cautions, *verdict.cautions]
    return [f"Caution, {caution.code}: {caution.message}" for caution in found]


def _row(row: EndpointRow) -> str:
    cells = (row.endpoint, row.n_text, row.levels_text.replace("->", "→"), row.difference_text, row.interval_text)
    return f"| {' | '.join(escaped(cell) for cell in (*cells, row.margin_text, row.state_text))} |"


def _linked(link: str) -> str:
    if not link:
        return ""
    if not re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&+,;=%-]+", link):
        raise UsageError(f"{link[:80]!r} is no http(s) address; next step: --report-url https://...")
    return f", [certificate](<{link}>)"


def _width(text: str) -> float:
    return _SIZE * sum(next((width for kind, width in _WIDTHS if re.match(kind, char)), 0.6) for char in text)
