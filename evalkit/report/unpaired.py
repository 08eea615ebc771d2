"""A run against published numbers, for people: loud about what it cannot say.

In: the document of an unpaired decision as data. Out: sections.
May not know: files; how anything was computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.report.document import checked
from evalkit.report.figures import count, interval, percent, points
from evalkit.report.sections import Section, Table

Data = Mapping[str, Any]


def unpaired_sections(data: Data) -> list[Section]:
    """Return the sections of a run against published numbers: outcome, numbers, why, what is missing."""
    document = checked(data)
    decision = document["decision"]
    title = document["title"] or f"{decision['recipe']} against published numbers"
    return [
        Section(title=f"UNPAIRED: {title}", level=1, body=[*_sentences(document), _results(decision)]),
        Section(title="Why", body=[f"- {reason['code']}: {reason['message']}" for reason in decision["reasons"]]),
        Section(title="Next step", body=list(_next(decision))),
    ]


def _sentences(document: Data) -> Iterator[str]:
    decision = document["decision"]
    engine = document["runs"][decision["recipe"]]["engine"]
    yield f"- {decision['recipe']}: {decision['outcome']}. This is no certificate and cannot become one."
    yield (
        f"Candidate: {engine['model']}, recipe {engine['recipe']}, fidelity {engine['fidelity']}. Margins of policy "
        f"'{decision['policy']}'. The baseline is a published number: no answer is paired, and a difference in "
        "prompts, marking or items hides in every figure below."
    )


def _results(decision: Data) -> Table:
    rows = []
    for found in decision["results"]:
        comparison, published = found["comparison"], found["comparison"]["published"]
        scored = f"{count(comparison['coverage']['scored'])} of {count(comparison['coverage']['planned'])}"
        rows.append(
            (
                f"{found['endpoint']} ({comparison['task']}, {comparison['metric']})",
                f"{percent(published['accuracy'], 2)} (n = {count(published['items'])}; {published['source']})",
                f"{percent(comparison['candidate_accuracy'], 2)} (n = {scored})",
                f"{points(comparison['difference'])} {interval(comparison['interval'], 'points')}",
                f"{100 * found['margin']:g} points",
                found["state"],
            )
        )
    headers = ("endpoint", "published", "candidate", "difference, unpaired", "margin", "state")
    caption = (
        "Difference: candidate minus published. FAIL: the interval's upper limit at level 1 - 2 alpha is below the "
        "margin even if every missing answer were right; otherwise OPEN. There is no PASS."
    )
    return Table(headers=headers, rows=rows, caption=caption)


def _next(decision: Data) -> Iterator[str]:
    if decision["not_compared"]:
        yield f"- not compared, for want of a published number: {', '.join(decision['not_compared'])}"
    yield "- run the official baseline on the same items and certify on the two runs"
