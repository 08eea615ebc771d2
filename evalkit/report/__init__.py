"""Reports: what a decision says, for people.

In: comparisons and certificates as plain JSON data; all that was decided comes from one `View`. Out: Markdown, HTML
and terminal text.
Must not depend on: how a number was made. Rounding happens here and nowhere else.
"""

from __future__ import annotations

from evalkit.report.certificate import certificate_sections, document_sections, unpaired_sections
from evalkit.report.comparison import comparison_sections
from evalkit.report.document import certificate_view
from evalkit.report.sections import Section, as_markdown, as_text

__all__ = [
    "Section",
    "as_markdown",
    "as_text",
    "certificate_sections",
    "certificate_view",
    "comparison_sections",
    "document_sections",
    "unpaired_sections",
]
