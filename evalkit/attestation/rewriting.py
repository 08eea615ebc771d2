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
from evalkit.attestation.findings import Finding
from evalkit.errors import EvalkitError
from evalkit.report import as_markdown
from evalkit.report.evidence import Evidence, read_evidence, run_folders
from evalkit.report.html import html_report, plots
from evalkit.report.whole import whole_sections
from evalkit.throughput import read_throughput, throughput_tables

_PICTURE = re.compile(r"<svg.*?</svg>", re.DOTALL)


def rewritten(document: Mapping[str, Any], folder: Path) -> tuple[list[Finding], list[str]]:
    """Write the reports again and compare; a report that is not there is no finding.

    Plots are compared by what stands around them: another version of the plotting library draws other lines.
    """
    there = {name: folder / name for name in ("report.md", "report.html") if (folder / name).exists()}
    if not there:
        return [], ["there is no report beside the certificate"]
    if document.get("evalkit") != __version__:
        return [], ["the reports were not written again: another evalkit made them, in its own words"]
    try:
        evidence, tables = _added(document, folder)
        found = [
            Finding(code="report-differs", where=name, message=_first_difference(made, path))
            for name, path in there.items()
            for made in [_made(name, path, document, evidence, tables)]
            if made is not None and made != _comparable(path)
        ]
    except EvalkitError as error:
        return [Finding(code="report-differs", where="report", message=f"cannot be written again: {error}")], []
    page = there.get("report.html")
    if page is not None and "<svg" in page.read_text(encoding="utf-8", errors="replace") and not plots.available():
        return found, ["report.html was not written again: its plots need matplotlib, which is not installed here"]
    return found, []


def _added(document: Mapping[str, Any], folder: Path) -> tuple[Evidence, Mapping[str, Any] | None]:
    paired = "comparisons" in document
    evidence = read_evidence(document, run_folders(document, folder)) if paired else Evidence()
    path = folder / "throughput.json"
    if not path.exists():
        return evidence, None
    baseline = document["policy"]["document"]["release"]["baseline"] if paired else ""
    return evidence, throughput_tables(read_throughput(path), baseline=baseline)


def _made(
    name: str, path: Path, document: Mapping[str, Any], evidence: Evidence, tables: Mapping[str, Any] | None
) -> str | None:
    """Return a report as it should be; None where it cannot be made here."""
    if name == "report.md":
        return as_markdown(whole_sections(document, evidence, tables))
    drawn = "<svg" in path.read_text(encoding="utf-8", errors="replace")
    if drawn and not plots.available():
        return None
    return _PICTURE.sub("<svg/>", html_report(document, evidence=evidence, throughput=tables, with_plots=drawn))


def _comparable(path: Path) -> str:
    return _PICTURE.sub("<svg/>", path.read_text(encoding="utf-8", errors="replace"))


def _first_difference(made: str, path: Path) -> str:
    pairs = zip(made.splitlines(), _comparable(path).splitlines(), strict=False)
    at, (expected, found) = next(((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]), (0, ("", "")))
    if not at:
        return "it is longer or shorter than the report of this certificate"
    return f"line {at} reads {found[:160]!r}, the certificate gives {expected[:160]!r}"
