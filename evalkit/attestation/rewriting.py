"""The reports written again from the certificate, and compared with those that lie beside it.

In: a certificate as data, its folder. Out: findings and notes.
May not know: signatures. A report is read by people who never open the certificate, so it must say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.attestation.covering import REPORTS
from evalkit.attestation.findings import Finding
from evalkit.attestation.pictures import compare_pictures, page_of
from evalkit.errors import EvalkitError
from evalkit.report import as_markdown
from evalkit.report.evidence import Evidence, read_evidence, run_folders
from evalkit.report.html import html_report
from evalkit.report.html.figures import BLANK
from evalkit.report.html.page import Pictures
from evalkit.report.html.plots import available
from evalkit.report.power import power_curves
from evalkit.report.whole import whole_sections
from evalkit.store.door import exists, read_text
from evalkit.throughput import read_throughput, throughput_tables


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """What came of writing the reports again.

    Attributes:
        findings: what is wrong with them.
        notes: what a reader must also know.
        unchecked: what was not compared, one sentence each.
    """

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def rewritten(document: Mapping[str, Any], folder: Path, *, signed: bool, signing: bool = False) -> Rewriting:
    """Write the reports again and compare them byte for byte, pictures as `pictures` says.

    Args:
        document: what `certificate.json` holds, of this version of evalkit.
        folder: where it lies.
        signed: a trusted signature covers these bytes; whoever signed compared the pictures with pictures of their own.
        signing: somebody is about to sign, and must compare them.

    Raises:
        DataError: a report is a link, no regular file or no UTF-8.
    """
    there = [name for name in REPORTS if exists(folder / name)]
    absent = tuple(f"there is no {name} beside the certificate" for name in REPORTS if name not in there)
    if not there:
        return Rewriting(notes=absent)
    found = {name: read_text(folder / name, below=folder) for name in there}
    page = page_of(found.get("report.html", ""), BLANK)
    undrawn = 'id="no-plots"' in page.words  # the page says so itself; one without pictures may have nothing to draw
    drawn: Pictures = "none" if undrawn else "drawn" if available() else "blank"
    try:
        made = _made(document, folder, drawn)
    except EvalkitError as error:
        return Rewriting(
            findings=(Finding(code="report-differs", where="report", message=f"cannot be written again: {error}"),)
        )
    again = page_of(made["report.html"], BLANK)
    words = {**found, "report.html": page.words}, {**made, "report.html": again.words}
    findings = [
        Finding(code="report-differs", where=name, message=_first_difference(words[1][name], words[0][name]))
        for name in there
        if words[0][name] != words[1][name]
    ]
    unchecked: tuple[str, ...] = ()
    if page.pictures:
        wrong, other = compare_pictures(page, again if drawn == "drawn" else None)
        findings += [Finding(code="report-differs", where="report.html", message=message) for message in wrong]
        if other and (signing or (drawn == "blank" and not signed)):
            message = f"{other[0]}; next step: pip install 'evalkit-quant[plots]', or write the report again here"
            findings.append(Finding(code="report-unchecked", where="report.html", message=message))
        unchecked = tuple(other)
    return Rewriting(findings=tuple(findings), notes=absent, unchecked=unchecked)


def _made(document: Mapping[str, Any], folder: Path, drawn: Pictures) -> dict[str, str]:
    """Return the reports as they should be."""
    paired = "comparisons" in document
    evidence = read_evidence(document, run_folders(document, folder)) if paired else Evidence()
    curves = power_curves(document) if paired else ()
    path, tables = folder / "throughput.json", None
    if exists(path):
        baseline = document["policy"]["document"]["release"]["baseline"] if paired else ""
        tables = throughput_tables(read_throughput(path), baseline=baseline)
    return {
        "report.md": as_markdown(whole_sections(document, evidence, tables, curves)),
        "report.html": html_report(document, evidence=evidence, throughput=tables, curves=curves, pictures=drawn),
    }


def _first_difference(made: str, found: str) -> str:
    pairs = zip(made.splitlines(), found.splitlines(), strict=False)
    at, (expected, read) = next(((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]), (0, ("", "")))
    if not at:
        return "it is longer or shorter than the report of this certificate"
    return f"line {at} reads {read[:160]!r}, the certificate gives {expected[:160]!r}"
