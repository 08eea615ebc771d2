"""Parts of a report beside the decision: exclusions, power, changed items, throughput, how to repeat it.

In: a certificate as data, `Evidence`, throughput tables as data. Out: sections.
Must not depend on: how a number was made, or in which form it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.planning.designs import TruePoint
from evalkit.planning.plan import plan
from evalkit.policy.model import Policy
from evalkit.report.certificate import certificate_sections, unpaired_sections
from evalkit.report.document import certificate_view, checked
from evalkit.report.evidence import Change, Changes, Evidence
from evalkit.report.sections import Section, Table, count, percent
from evalkit.report.view import View
from evalkit.signed import signed

# What a true difference would have led to: the power curves of a certificate.


Data = Mapping[str, Any]

_TOLD = (-2.0, -1.5, -1.0, -0.5, -0.25, 0.0)
"""True differences that a table tells, in margins."""


@dataclass(frozen=True, kw_only=True)
class PowerCurve:
    """One endpoint under one assumption.

    Attributes:
        endpoint: name.
        assumption: the spread it rests on, in words.
        margin: the deciding margin, in the endpoint's unit.
        points: the unit is points of accuracy; else the judge's scale.
        steps: from a large loss to a small gain.
    """

    endpoint: str
    assumption: str
    margin: float
    points: bool
    steps: tuple[TruePoint, ...]

    def unit_text(self, difference: float) -> str:
        """Write a true difference with its unit."""
        return f"{signed(difference)} points" if self.points else signed(difference)

    def is_told(self, step: TruePoint) -> bool:
        """Whether a table tells this step."""
        return any(abs(step.true_difference / self.margin - told) < 1e-9 for told in _TOLD)


def power_curves(document: Data) -> tuple[PowerCurve, ...]:
    """Return the curve of every endpoint: at the policy's assumption, and at the largest spread that was seen.

    An endpoint that cannot be planned has no curve.
    """
    try:
        policy = Policy.model_validate(document["policy"]["document"])
    except ValueError:
        return ()
    recipes = max(1, len(document["decision"]["verdicts"]))
    sizes = {
        name: max(found[name]["planned"] for found in document["comparisons"].values() if name in found)
        for name in policy.endpoints
        if any(name in found for found in document["comparisons"].values())
    }
    if set(sizes) != set(policy.endpoints) or not all(sizes.values()):
        return ()
    curves: list[PowerCurve] = []
    for seen in (False, True):
        shares, deviations = _seen(document) if seen else ({}, {})
        if seen and not shares and not deviations:
            continue
        try:
            made = plan(policy, sizes, discordance=shares, planning_sd=deviations, recipes=recipes, simulated=False)
        except EvalkitError:
            continue
        curves += [
            PowerCurve(
                endpoint=one.name,
                assumption=_assumption(one.kind, one.spread, seen=seen),
                margin=one.margins[0].margin,
                points=one.kind != "paired_mean",
                steps=one.curve,
            )
            for one in made.endpoints
            if not seen or one.name in shares or one.name in deviations
        ]
    return tuple(sorted(curves, key=lambda curve: list(policy.endpoints).index(curve.endpoint)))


def _assumption(kind: str, spread: float, *, seen: bool) -> str:
    what = f"{percent(spread)} of items flip" if kind == "paired_proportion" else f"SD of a difference {spread:.2f}"
    return f"{what}, {'the most seen here' if seen else 'as the policy assumes'}"


def _seen(document: Data) -> tuple[dict[str, float], dict[str, float]]:
    """Return the largest share of flips and standard deviation seen of a candidate, by endpoint."""
    shares: dict[str, float] = {}
    deviations: dict[str, float] = {}
    for endpoint, comparison in _candidates(document):
        effects = (comparison["proportion"] or {}).get("effects")
        if effects and effects["flips"]["rate"] > 0:
            shares[endpoint] = max(shares.get(endpoint, 0.0), effects["flips"]["rate"])
        rated = (comparison["rating"] or {}).get("mean")
        if rated and rated["sd"]:
            deviations[endpoint] = max(deviations.get(endpoint, 0.0), rated["sd"])
    return shares, deviations


def _candidates(document: Data) -> Iterator[tuple[str, Data]]:
    recipes = document["policy"]["document"]["release"]["recipes"]
    for name, found in document["comparisons"].items():
        if name in recipes:
            yield from found.items()


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


# Everything a report says, as sections: the decision, and what run folders and throughput tables add.


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
