"""`evalkit report`: the report of a certificate, written again.

In: `certificate.json`, the run folders and `throughput.json` beside it. Out: Markdown, text or JSON on stdout, or HTML.
May not know: how anything was decided.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import any_path, existing_file, out, safe_json, say
from evalkit.cli.remote import read_file, read_folder, with_places


@click.command(epilog="Example: evalkit report outputs/cpu-demo/certificate.json --format text")
@click.argument("certificate", type=read_file)
@click.option(
    "--format",
    "form",
    type=click.Choice(("markdown", "text", "json", "line")),
    default="markdown",
    show_default=True,
    help="line: verdicts, n, margins, alphas and cautions in one line, for a chat.",
)
@click.option("--html", "page", type=any_path, help="Write one self-contained HTML file instead.")
@click.option("--evidence/--no-evidence", default=True, show_default=True, help="All comparisons and provenance.")
@click.option("--runs", type=read_folder, help="Where the run folders lie; beside the certificate by default.")
@click.option("--throughput", type=existing_file, help="Measured throughput; throughput.json beside it by default.")
@with_places
def command(certificate: Path, form: str, page: Path | None, evidence: bool, **given: Path | None) -> None:
    """Write the report of a certificate again.

    Everything that was decided comes from the certificate. Items that changed, conversations and commands come from the
    run folders beside it, which must be those it was decided on; without them the report says so.
    """
    from evalkit.cli.report_files import read_certificate, write_named

    document = read_certificate(certificate)
    text = _text(document, certificate, form, page, evidence=evidence, given=given)
    if page is None:
        if form == "line":
            out(text.rstrip("\n"))
        else:
            click.echo(text, nl=False)
        return
    write_named(page, text)
    say(f"written: {page}")


def _text(
    document: dict[str, Any],
    certificate: Path,
    form: str,
    page: Path | None,
    *,
    evidence: bool,
    given: dict[str, Path | None],
) -> str:
    from evalkit.cli.report_files import THROUGHPUT, find_evidence, read_tables
    from evalkit.report import as_markdown, as_text, document_sections
    from evalkit.report.document import certificate_view
    from evalkit.report.evidence import run_folders

    if form == "line" and page is None:
        return certificate_view(document).chat_line + "\n"
    if not evidence and page is None:
        sections = document_sections(document, evidence=False)
    else:
        found = find_evidence(document, run_folders(document, given["runs"] or certificate.parent))
        tables = read_tables(given["throughput"] or certificate.parent / THROUGHPUT, document)
        if page is not None:
            from evalkit.report.html import html_report

            return html_report(document, evidence=found, throughput=tables)
        from evalkit.report.whole import whole_sections

        sections = whole_sections(document, found, tables)
    if form == "json":
        from evalkit.report.whole import as_data

        return safe_json(json.dumps(as_data(sections), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"
    return as_markdown(sections) if form == "markdown" else as_text(sections)
