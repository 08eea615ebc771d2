"""Certificates read, and reports written, for the verbs that need both.

In: paths. Out: a certificate as data; texts of reports by file name.
May not know: how anything was decided.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError, StoreError

if TYPE_CHECKING:
    from evalkit.report.evidence import Evidence

THROUGHPUT = "throughput.json"
"""Measured throughput, beside the certificate it is shown with."""


def read_certificate(path: Path) -> dict[str, Any]:
    """Read `certificate.json`.

    Raises:
        StoreError: it cannot be read.
        DataError: it is no certificate of this version, or damaged; names the file and the key.
    """
    from evalkit.records import parse_object
    from evalkit.report.document import checked

    try:
        document = parse_object(path.read_text(encoding="utf-8"), f"{path}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; next step: certify again") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    if document.get("certificate_version") != 1:
        raise DataError(f"{path}: certificate_version is {document.get('certificate_version')!r}, not 1")
    return checked(document, str(path))


def read_tables(path: Path | None, document: dict[str, Any]) -> dict[str, Any] | None:
    """Read measured throughput as the tables a report shows; None without a file."""
    if path is None or not path.exists():
        return None
    from evalkit.throughput import read_throughput, throughput_tables

    baseline = document["policy"]["document"]["release"]["baseline"] if "comparisons" in document else ""
    return throughput_tables(read_throughput(path), baseline=baseline)


def find_evidence(document: dict[str, Any], runs: dict[str, Path]) -> Evidence:
    """Read the run folders of a certificate, if it is one of paired runs; `runs` is name to folder."""
    from evalkit.report.evidence import Evidence, read_evidence

    return read_evidence(document, runs) if "comparisons" in document else Evidence()


def report_texts(document: dict[str, Any], evidence: Evidence, throughput: dict[str, Any] | None) -> dict[str, str]:
    """Return `report.md` and `report.html`."""
    from evalkit.report import as_markdown
    from evalkit.report.html import html_report
    from evalkit.report.power import power_curves
    from evalkit.report.whole import whole_sections

    curves = power_curves(document) if "comparisons" in document else ()
    return {
        "report.md": as_markdown(whole_sections(document, evidence, throughput, curves)),
        "report.html": html_report(document, evidence=evidence, throughput=throughput, curves=curves),
    }


def write_named(path: Path, text: str) -> None:
    """Write a file that was named by hand; what is there already with other content is kept beside it, and named.

    Raises:
        StoreError: it cannot be written, or what is there cannot be kept.
    """
    from evalkit.certify.deciding import write_certificate
    from evalkit.cli.options import say, with_urls
    from evalkit.records import text_digest

    try:
        before = path.read_bytes().decode(errors="replace") if path.is_file() else text
        if before != text:
            aside = path.with_name(f"{path.stem}.before-{text_digest(before)[:8]}{path.suffix}")
            path.replace(aside)
            say(f"{with_urls(path)} was there with other content; it is kept as {aside.name}")
    except OSError as error:
        raise StoreError(
            f"{path}: what is there cannot be kept: {error.strerror or error}; nothing was lost"
        ) from error
    write_certificate(path.parent, {path.name: text})
