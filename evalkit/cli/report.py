"""`evalkit report`: the report of a certificate, written again.

In: `certificate.json`. Out: Markdown or text on stdout.
May not know: how anything was decided.
"""

from __future__ import annotations

from pathlib import Path

import click

from evalkit.cli.options import existing_file
from evalkit.errors import DataError


@click.command(epilog="Example: evalkit report outputs/cpu-demo/certificate.json --format text")
@click.argument("certificate", type=existing_file)
@click.option("--format", "form", type=click.Choice(("markdown", "text")), default="markdown", show_default=True)
@click.option("--evidence/--no-evidence", default=True, show_default=True, help="All comparisons and provenance.")
def command(certificate: Path, form: str, evidence: bool) -> None:
    """Write the report of a certificate again, from the certificate alone."""
    from evalkit.records import parse_object
    from evalkit.report import as_markdown, as_text, document_sections

    document = parse_object(certificate.read_text(encoding="utf-8"), f"{certificate}")
    if document.get("certificate_version") != 1:
        raise DataError(f"{certificate}: certificate_version is {document.get('certificate_version')!r}, not 1")
    sections = document_sections(document, evidence=evidence)
    click.echo(as_markdown(sections) if form == "markdown" else as_text(sections), nl=False)
