"""Everything a report says, as sections: the decision, and what run folders and throughput tables add.

In: a certificate as data, `Evidence`, throughput tables as data. Out: sections; the same as JSON data.
May not know: files; how a number was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evalkit.report.certificate import certificate_sections
from evalkit.report.document import certificate_view, checked
from evalkit.report.evidence import Evidence
from evalkit.report.extras import extra_sections
from evalkit.report.power import PowerCurve, power_curves
from evalkit.report.sections import Section, Table
from evalkit.report.unpaired import unpaired_sections

Data = Mapping[str, Any]


def whole_sections(
    document: Data,
    evidence: Evidence | None = None,
    throughput: Data | None = None,
    curves: Sequence[PowerCurve] | None = None,
) -> list[Section]:
    """Return everything a report says; `curves` are power curves that are known already."""
    data = checked(document)
    view = certificate_view(data)
    if not view.paired:
        return unpaired_sections(data)
    known = power_curves(data) if curves is None else curves
    extras = extra_sections(data, view, evidence or Evidence(), curves=known, throughput=throughput)
    return [*certificate_sections(data, view), *extras]


def as_data(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return sections as JSON data: title, level, and a body of texts and tables."""
    return [
        {
            "title": section.title,
            "level": section.level,
            "body": [asdict(part) if isinstance(part, Table) else part for part in section.body],
        }
        for section in sections
    ]
