"""Reports: what a decision says, for people.

In: comparisons, decisions and certificates as plain JSON data. Out: Markdown and terminal text.
May not know: how a number was made. Rounding happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.report.certificate import certificate_sections
from evalkit.report.comparison import comparison_sections
from evalkit.report.sections import Section, as_markdown, as_text
from evalkit.report.unpaired import unpaired_sections

__all__ = [
    "Section",
    "as_markdown",
    "as_text",
    "certificate_sections",
    "comparison_sections",
    "document_sections",
    "unpaired_sections",
]


def document_sections(document: Mapping[str, Any], *, evidence: bool = True) -> list[Section]:
    """Return the sections of what `certificate.json` holds: a certificate, or a run against published numbers."""
    if document.get("kind") == "unpaired":
        return unpaired_sections(document)
    return certificate_sections(document, evidence=evidence)
