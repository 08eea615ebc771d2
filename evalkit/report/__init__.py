"""Reports: what a decision says, for people.

In: comparisons, decisions and certificates as plain JSON data. Out: Markdown and terminal text.
May not know: how a number was made. Rounding happens here and nowhere else.
"""

from __future__ import annotations

from evalkit.report.certificate import certificate_sections
from evalkit.report.comparison import comparison_sections
from evalkit.report.sections import Section, as_markdown, as_text

__all__ = ["Section", "as_markdown", "as_text", "certificate_sections", "comparison_sections"]
