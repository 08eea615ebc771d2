"""The reports written again from the certificate, and compared with those that lie beside it.

In: a certificate as data, its folder. Out: findings and notes.
May not know: signatures. A report is read by people who never open the certificate, so it must say the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.attestation.covering import REPORTS
from evalkit.attestation.findings import Finding
from evalkit.errors import EvalkitError
from evalkit.report import as_markdown
from evalkit.report.evidence import Evidence, read_evidence, run_folders
from evalkit.report.html import html_report
from evalkit.report.html.figures import BLANK
from evalkit.report.power import power_curves
from evalkit.report.whole import whole_sections
from evalkit.throughput import read_throughput, throughput_tables

_PICTURE = re.compile(r"<svg.*?</svg>", re.DOTALL)


def rewritten(document: Mapping[str, Any], folder: Path) -> tuple[list[Finding], list[str]]:
    """Write the reports again and compare; a report that is not there is no finding.

    Pictures are left out on both sides: another version of the plotting library draws other lines.
    """
    there = {name: folder / name for name in REPORTS if (folder / name).exists()}
    if not there:
        return [], ["there is no report beside the certificate"]
    if document.get("evalkit") != __version__:
        return [], ["the reports were not written again: another evalkit made them, in its own words"]
    found = {name: _PICTURE.sub(BLANK, path.read_text("utf-8", errors="replace")) for name, path in there.items()}
    try:
        made = _made(document, folder, drawn=BLANK in found.get("report.html", ""))
    except EvalkitError as error:
        return [Finding(code="report-differs", where="report", message=f"cannot be written again: {error}")], []
    return [
        Finding(code="report-differs", where=name, message=_first_difference(made[name], text))
        for name, text in found.items()
        if text != made[name]
    ], []


def _made(document: Mapping[str, Any], folder: Path, *, drawn: bool) -> dict[str, str]:
    """Return the reports as they should be, without pictures."""
    paired = "comparisons" in document
    evidence = read_evidence(document, run_folders(document, folder)) if paired else Evidence()
    curves = power_curves(document) if paired else ()
    path, tables = folder / "throughput.json", None
    if path.exists():
        baseline = document["policy"]["document"]["release"]["baseline"] if paired else ""
        tables = throughput_tables(read_throughput(path), baseline=baseline)
    pictures: Any = "blank" if drawn else "none"
    return {
        "report.md": as_markdown(whole_sections(document, evidence, tables, curves)),
        "report.html": html_report(document, evidence=evidence, throughput=tables, curves=curves, pictures=pictures),
    }


def _first_difference(made: str, found: str) -> str:
    pairs = zip(made.splitlines(), found.splitlines(), strict=False)
    at, (expected, read) = next(((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]), (0, ("", "")))
    if not at:
        return "it is longer or shorter than the report of this certificate"
    return f"line {at} reads {read[:160]!r}, the certificate gives {expected[:160]!r}"
