"""What a true difference would have led to: the power curves of a certificate.

In: a certificate as data. Out: `PowerCurve`s, one for each endpoint and assumption.
May not know: how a curve is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.planning import TruePoint, plan
from evalkit.policy import Policy
from evalkit.report.figures import percent
from evalkit.signed import signed

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
