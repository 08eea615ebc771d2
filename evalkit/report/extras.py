"""Parts of a report beside the decision: exclusions, power, changed items, throughput, how to repeat it.

In: a certificate as data, `Evidence`, throughput tables as data. Out: sections.
May not know: how a number was made, or in which form it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.report.evidence import Evidence
from evalkit.report.figures import count, percent
from evalkit.report.flips import Change, Changes
from evalkit.report.sections import Section, Table
from evalkit.report.view import View

if TYPE_CHECKING:
    from evalkit.report.power import PowerCurve

Data = Mapping[str, Any]

SHOWN_CHANGES = 20
"""Changed items of one run that a Markdown report names; the HTML report has them all."""

_PROMPT_CHARACTERS = 160


def extra_sections(
    document: Data, view: View, evidence: Evidence, *, curves: Sequence[PowerCurve] = (), throughput: Data | None = None
) -> list[Section]:
    """Return everything a whole report says beside the decision."""
    return [
        *changes_sections(evidence.changes),
        *gate_sections(view, document),
        *judge_sections(view, document),
        *power_sections(curves),
        exclusions_section(document),
        *throughput_sections(throughput),
        reproduce_section(document, evidence),
    ]


def exclusions_section(document: Data) -> Section:
    """Say what was planned and is in no estimate, run by run, and which differences the policy tolerates."""
    rows, notes = [], []
    for name, found in document["comparisons"].items():
        for endpoint, comparison in found.items():
            rows += list(_coverage_rows(name, endpoint, comparison["coverage"]))
            notes += [
                f"- tolerated by the policy, {name}, {endpoint}: {one['name']} is {one['baseline']} for the baseline "
                f"and {one['candidate']} here"
                for one in comparison["differences"]
                if one["tolerated"]
            ]
    headers = ("run", "endpoint", "side", "planned", "scored", "failed", "absent")
    caption = "Missing is not wrong: it is filled against the claim wherever a verdict is made."
    return Section(title="Exclusions", body=[Table(headers=headers, rows=rows, caption=caption), *notes])


def _coverage_rows(name: str, endpoint: str, coverage: Data | None) -> Iterator[tuple[str, ...]]:
    if coverage is None:
        yield (name, endpoint, "both", "", "0", "", "not run")
        return
    for side in ("baseline", "candidate", "baseline_judgments", "candidate_judgments"):
        found = coverage[side]
        if found is not None:
            failed = ", ".join(f"{n} {why}" for why, n in found["failed"].items()) or "0"
            told = (count(found["planned"]), count(found["scored"]), failed, count(found["absent"]))
            yield (name, endpoint, side.replace("_", ", "), *told)


def gate_sections(view: View, document: Data) -> list[Section]:
    """Show every guard, those that held too: a breach turns CERTIFIED into INCONCLUSIVE."""
    rows: list[tuple[str, ...]] = [
        (guard.recipe, guard.endpoint, guard.guard, "BREACHED" if guard.breached else "held", guard.message)
        for verdict in view.verdicts
        for guard in verdict.guards
    ]
    rows += list(_degenerate_rows(document))
    if not rows:
        return []
    headers = ("recipe", "endpoint", "gate", "state", "observed")
    caption = "A breached gate turns CERTIFIED into INCONCLUSIVE, never the reverse."
    return [Section(title="Gates", body=[Table(headers=headers, rows=rows, caption=caption)])]


def _degenerate_rows(document: Data) -> Iterator[tuple[str, ...]]:
    for name, found in document["comparisons"].items():
        for endpoint, comparison in found.items():
            answers = comparison["answers"]
            if answers is None:
                continue
            seen = ", ".join(
                f"{side} {sum(answers[f'{side}_invalid'].values())} of {answers['n']}"
                + "".join(f" ({n} {why})" for why, n in answers[f"{side}_invalid"].items())
                for side in ("baseline", "candidate")
            )
            yield (name, endpoint, "unreadable answers", "counted", seen)


def judge_sections(view: View, document: Data) -> list[Section]:
    """Say who judged, how noisy that is, and whether the judge was ever tested."""
    rows: dict[str, tuple[str, ...]] = {}
    for found in document["comparisons"].values():
        for endpoint, comparison in found.items():
            judge, rating = comparison["judge_run"], comparison["rating"]
            if judge is None or endpoint in rows:
                continue
            noise = (rating or {}).get("judgment_sd")
            rows[endpoint] = (
                endpoint,
                str(judge["identity"]["model"]),
                str(judge["profile"]),
                str(judge["repeats"]),
                f"SD {noise:.2f}" if noise is not None else "unknown: no repeats",
            )
    if not rows:
        return []
    headers = ("endpoint", "judge", "profile", "judgments of each answer", "noise of one judgment")
    body: list[str | Table] = [Table(headers=headers, rows=list(rows.values()))]
    tried = {judge.endpoint for judge in view.judges if judge.checks}
    untried = sorted(set(rows) - tried)
    if untried:
        body.append(
            f"The judge of {', '.join(untried)} has not been qualified: nothing here shows that it ranks a good answer "
            "above a spoilt one, or that it resists instructions in an answer (evalkit judge qualify)."
        )
    return [Section(title="The judge", body=body)]


def power_sections(curves: Sequence[PowerCurve]) -> list[Section]:
    """Say how large a loss this evaluation would have seen."""
    rows = [
        (
            curve.endpoint,
            curve.assumption,
            curve.unit_text(step.true_difference),
            percent(step.passes),
            percent(step.fails),
        )
        for curve in curves
        for step in curve.steps
        if curve.is_told(step)
    ]
    if not rows:
        return []
    caption = "Chance of passing and of failing the deciding margin at one recipe's own level, by the true difference."
    table = Table(headers=("endpoint", "assumed", "true difference", "passes", "fails"), rows=rows, caption=caption)
    return [Section(title="Power: what a true difference would have led to", body=[table])]


def changes_sections(changes: Sequence[Changes]) -> list[Section]:
    """Name the items that changed most, run by run."""
    sections = [
        Section(title=f"{found.run}, {found.endpoint}", body=list(_change_parts(found)), level=3)
        for found in changes
        if found.items
    ]
    return [Section(title="Items that changed", body=[]), *sections] if sections else []


def _change_parts(found: Changes) -> Iterator[str | Table]:
    gained = sum(change.gained for change in found.items)
    yield f"{len(found.items)} items changed: {len(found.items) - gained} lost, {gained} gained."
    rows = [
        (
            change.subject,
            "gained" if change.gained else "lost",
            _shortened(change.prompt),
            _choice(change, change.target),
            _choice(change, change.baseline.chosen),
            _choice(change, change.candidate.chosen),
        )
        for change in found.items[:SHOWN_CHANGES]
    ]
    caption = f"The {len(rows)} with the largest change of probability; the HTML report has them all."
    headers = ("subject", "change", "item", "right", "baseline says", "candidate says")
    yield Table(headers=headers, rows=rows, caption=caption)


def _choice(change: Change, index: int | None) -> str:
    if index is None:
        return ""
    return change.choices[index].strip() if index < len(change.choices) else f"choice {index + 1}"


def _shortened(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= _PROMPT_CHARACTERS else f"...{text[-_PROMPT_CHARACTERS:]}"


def throughput_sections(throughput: Data | None) -> list[Section]:
    """Show measured throughput, imported apart from evalkit's own.

    Args:
        throughput: `{"tables": [{"title", "headers", "rows", "caption"}], "notes": [...]}`; None without any.
    """
    if not throughput or not throughput["tables"]:
        return []
    told = (
        "What a recipe buys. Speed is no part of the verdict: nothing here was paired, tested or held against a margin."
    )
    sections = [Section(title="Throughput", body=[told, *(f"- {note}" for note in throughput["notes"])])]
    for table in throughput["tables"]:
        shown = Table(headers=table["headers"], rows=table["rows"], caption=table["caption"])
        sections.append(Section(title=table["title"], body=[shown], level=3))
    return sections


def reproduce_section(document: Data, evidence: Evidence) -> Section:
    """Say how to make the runs, the certificate and the check again."""
    lines = [f"- {name} was made by: {command}" for name, command in evidence.commands.items()]
    lines += [f"- {name}: its run folder does not lie beside the certificate" for name in evidence.absent]
    if document.get("kind") != "unpaired":
        lines += [
            "- decide again on the same records: evalkit certify SUITE --from",
            "- check signature, digests and every number: evalkit verify FOLDER --key signer.pub.pem",
        ]
    return Section(title="To reproduce", body=lines)
