"""The report as one HTML file that needs nothing else.

In: a certificate as data, evidence, throughput tables. Out: HTML text.
May not know: files to write; how a number was made.

Model output, names and the judge's words are hostile: every text is escaped by the template engine, data for the script
lies in a block that no browser runs, and the policy in the page's head allows the one script and the one style by their
digests and nothing else: no network, no inline handler, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evalkit.report.certificate import (
    ASSAY,
    caption,
    certainty_sentence,
    certificate_sections,
    meaning_sentence,
    not_said,
    report_title,
    tested_sentence,
)
from evalkit.report.document import Document, certificate_view, checked
from evalkit.report.evidence import Evidence
from evalkit.report.extras import extra_sections
from evalkit.report.html import plots
from evalkit.report.html.data import changes_data, conversations_data
from evalkit.report.html.figures import category_plots, endpoint_plots, power_plots, subject_plots
from evalkit.report.judging import QUALIFICATION
from evalkit.report.power import PowerCurve, power_curves
from evalkit.report.sections import Section, Table, printable
from evalkit.report.unpaired import unpaired_sections
from evalkit.report.view import WORDS, View

Data = Mapping[str, Any]

Pictures = Literal["drawn", "blank", "none"]

FOLDER = Path(__file__).resolve().parent / "assets"


def html_report(
    document: Data,
    *,
    evidence: Evidence | None = None,
    throughput: Data | None = None,
    curves: Sequence[PowerCurve] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Write a certificate, or a run against published numbers, as one HTML page.

    Args:
        document: what `certificate.json` holds.
        evidence: what the run folders add; None for a report from the certificate alone.
        throughput: tables as `throughput_sections` takes them.
        curves: power curves, if they are known already.
        pictures: "drawn", "none", or "blank" places for them; None draws where matplotlib is installed, and the page
            says so where it is not.
    """
    found = evidence or Evidence()
    how = pictures or ("drawn" if plots.available() else "none")
    data = checked(document)
    view = certificate_view(data)
    shown = _paired(data, view, found, throughput, curves, how) if view.paired else _unpaired(data)
    script, style = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    return (
        _environment()
        .get_template("report.html")
        .render(
            **shown,
            view=view,
            drawn_by=plots.drawn_by() if how == "drawn" and view.paired else "",
            policy_header=content_policy(script, style),
            script=Markup(script),  # noqa: S704 (our own file)
            style=Markup(style),  # noqa: S704 (our own file)
            marks={outcome.value: words.mark for outcome, words in WORDS.items()},
        )
    )


def content_policy(script: str, style: str) -> str:
    """Return the content security policy that allows one script and one style and nothing from anywhere."""
    return (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def script_data(value: Any) -> Markup:
    r"""Write data for a script block that is not run: no character in it can end the block.

    >>> str(script_data({"a": "</script><!--"}))
    '{"a":"\\u003c/script\\u003e\\u003c!--"}'
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 (escaped above)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = lambda text: " ".join(printable(str(text)).split())
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.filters["groups"] = _groups
    return environment


def _groups(body: Sequence[str | Table]) -> list[tuple[str, Any]]:
    """Return the parts of a section as ("table", Table), ("list", items) and ("text", paragraph)."""
    found: list[tuple[str, Any]] = []
    for part in body:
        if isinstance(part, Table):
            found.append(("table", part))
        elif part.startswith("- "):
            if not found or found[-1][0] != "list":
                found.append(("list", []))
            found[-1][1].append(part[2:])
        else:
            found.append(("text", part))
    return found


def _paired(
    document: Document,
    view: View,
    evidence: Evidence,
    throughput: Data | None,
    known: Sequence[PowerCurve] | None,
    pictures: Pictures,
) -> dict[str, Any]:
    curves = power_curves(document) if known is None else known
    drawn, blank = pictures != "none", pictures == "blank"
    _first, *rest = certificate_sections(document, view)
    extras = [
        section
        for section in extra_sections(document, view, evidence, curves=curves, throughput=throughput)
        if not _is_change(section)
    ]
    return {
        "title": report_title(view),
        "tested": tested_sentence(view),
        "meaning": meaning_sentence(view),
        "certainty": certainty_sentence(view),
        "caption": caption(view),
        "fidelity": {run.name: run.fidelity for run in view.runs},
        "strips": endpoint_plots(view, blank=blank) if drawn else {},
        "not_said": [line.removeprefix("- ") for line in not_said(view)],
        "no_plots": None if drawn else plots.MISSING,
        "forests": subject_plots(view, document, blank=blank) if drawn else [],
        "powers": power_plots(curves, blank=blank) if drawn else {},
        "categories": category_plots(document, blank=blank) if drawn else [],
        "sections": _ordered([*rest, *extras]),
        "changes": script_data(changes_data(evidence.changes)),
        "changed": sum(len(found.items) for found in evidence.changes),
        "conversations": script_data(conversations_data(evidence.conversations)),
        "conversed": bool(evidence.conversations),
        "absent": evidence.absent,
    }


def _unpaired(document: Document) -> dict[str, Any]:
    first, *rest = unpaired_sections(document)
    return {"title": first.title, "sections": {"rest": [Section(title="Outcome", body=first.body), *rest]}}


def _is_change(section: Section) -> bool:
    """The page has a browser for changed items in place of their tables."""
    return section.title == "Items that changed" or any(
        isinstance(part, Table) and part.headers[:2] == ("subject", "change") for part in section.body
    )


def _ordered(sections: Sequence[Section]) -> dict[str, list[Section]]:
    """Return sections by the place in the page where they are shown; a smaller heading follows its larger one."""
    places = {
        "Why": "why",
        ASSAY: "assay",
        "Gates": "gates",
        "The judge": "judge",
        QUALIFICATION: "judge",
        "Power: what a true difference would have led to": "power",
        "Exclusions": "exclusions",
        "Throughput": "throughput",
        "Tests": "tests",
        "Provenance": "provenance",
        "To reproduce": "provenance",
    }
    found: dict[str, list[Section]] = {name: [] for name in (*places.values(), "rest")}
    place = "rest"
    for section in sections:
        if section.level <= 2:
            place = places.get(section.title, "rest")
        found[place].append(section)
    return found
