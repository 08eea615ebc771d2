"""The recipe table of the first screen, row by row.

In: a certificate as data. Out: `Row`s: text for each cell, and the numbers that its picture is drawn from.
May not know: HTML, plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.report.figures import count, percent, points, rating
from evalkit.signed import signed
from evalkit.statistics.proportions import wilson_interval

Data = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run.

    Attributes:
        name: of the run.
        role: "baseline", "candidate", "baseline again" or "broken on purpose".
        recipe: of the engine.
        outcome, claim: of a candidate, else "".
        accuracy, accuracy_limits: with its 95 % interval.
        difference, difference_limits: of accuracy, with its interval.
        drawn: (difference, lower, upper) in points; None where nothing can be drawn.
        lost, gained: items that flipped; None where not measured.
        rating, rating_limits: difference on the judge's scale with its interval.
        rating_means: mean rating of this run.
        fidelity: of the engine.
    """

    name: str
    role: str
    recipe: str = ""
    outcome: str = ""
    claim: str = ""
    accuracy: str = "not measured"
    accuracy_limits: str = ""
    difference: str = ""
    difference_limits: str = ""
    drawn: tuple[float, float, float] | None = None
    lost: int | None = None
    gained: int | None = None
    rating: str = ""
    rating_limits: str = ""
    rating_means: str = ""
    fidelity: str = ""


def recipe_rows(document: Data) -> list[Row]:
    """Return the baseline, the candidates, then the runs that check the evaluation itself."""
    release = document["policy"]["document"]["release"]
    verdicts = {verdict["recipe"]: verdict for verdict in document["decision"]["verdicts"]}
    name = main_endpoint(document)
    found = document["comparisons"]
    rows = [_baseline_row(document, name)]
    rows += [_row(document, name, recipe, "candidate", verdicts[recipe]) for recipe in verdicts]
    rows += [_row(document, name, "rerun", "baseline again", None)] if "rerun" in found else []
    rows += [_row(document, name, run, "broken on purpose", None) for run in release["controls"] if run in found]
    return rows


def main_endpoint(document: Data) -> str | None:
    """Return the endpoint whose accuracy the table shows: the first one that counts right and wrong."""
    endpoints = document["policy"]["document"]["endpoints"]
    return next((name for name, endpoint in endpoints.items() if endpoint["kind"] == "paired_proportion"), None)


def rated_endpoint(document: Data) -> str | None:
    """Return the first judged endpoint."""
    endpoints = document["policy"]["document"]["endpoints"]
    return next((name for name, endpoint in endpoints.items() if endpoint["kind"] == "paired_mean"), None)


def margin_points(document: Data) -> float | None:
    """Return the deciding margin of the table's endpoint, in points."""
    name = main_endpoint(document)
    return float(document["policy"]["document"]["endpoints"][name]["margins_points"][0]) if name else None


def limits(document: Data, rows: list[Row]) -> tuple[float, float]:
    """Return the range of the pictures: both sides of zero, wide enough for every candidate, not for broken runs."""
    margin = margin_points(document) or 1.0
    drawn = [row.drawn for row in rows if row.drawn is not None and row.role == "candidate"]
    reach = max([1.6 * margin, *(1.15 * abs(limit) for values in drawn for limit in values)])
    return -reach, reach


def _effects(document: Data, run: str, name: str | None) -> Data | None:
    comparison = document["comparisons"].get(run, {}).get(name) if name else None
    effects: Data | None = ((comparison or {}).get("proportion") or {}).get("effects")
    return effects


def _baseline_row(document: Data, name: str | None) -> Row:
    engine = document["runs"]["baseline"]["engine"]
    found = next((e for e in (_effects(document, run, name) for run in document["comparisons"]) if e), None)
    rated = next(_rated(document, document["comparisons"]), None)
    told: dict[str, Any] = _accuracy(found["baseline_accuracy"], found["n"]) if found else {}
    return Row(
        **told,
        name=str(document["policy"]["document"]["release"]["baseline"]),
        role="baseline",
        recipe=str(engine["recipe"]),
        fidelity=str(engine["fidelity"]),
        rating_means=f"{rated['baseline_mean']:.2f}" if rated else "",
    )


def _row(document: Data, name: str | None, run: str, role: str, verdict: Data | None) -> Row:
    engine = document["runs"].get(run, {}).get("engine", {})
    told: dict[str, Any] = {"recipe": str(engine.get("recipe", "")), "fidelity": str(engine.get("fidelity", ""))}
    if verdict is not None:
        told |= {"outcome": str(verdict["outcome"]), "claim": str(verdict["claim"] or "")}
    if run not in document["comparisons"]:
        return Row(name=run, role=role, **{**told, "accuracy": "not run"})
    effects = _effects(document, run, name)
    if effects:
        told |= _accuracy(effects["candidate_accuracy"], effects["n"])
        interval, table = effects["interval"], document["comparisons"][run][name]["proportion"]["observed"]
        told |= {"difference": points(effects["difference"]), "lost": table["n10"], "gained": table["n01"]}
        if interval is not None:
            told["difference_limits"] = f"[{signed(100 * interval['lower'])}, {signed(100 * interval['upper'])}]"
            told["drawn"] = tuple(
                100 * value for value in (effects["difference"], interval["lower"], interval["upper"])
            )
    rated = next(_rated(document, [run]), None)
    if rated and rated["difference"] is not None:
        interval = rated["interval"]
        told["rating"] = rating(rated["difference"])
        told["rating_means"] = f"{rated['candidate_mean']:.2f}"
        if interval is not None:
            told["rating_limits"] = f"[{signed(interval['lower'])}, {signed(interval['upper'])}]"
    return Row(name=run, role=role, **told)


def _accuracy(value: float, n: int) -> dict[str, str]:
    shown = {"accuracy": percent(value)}
    if n > 0:
        interval = wilson_interval(round(value * n), n)
        shown["accuracy_limits"] = f"[{100 * interval.lower:.1f}, {100 * interval.upper:.1f}]"
    return shown


def _rated(document: Data, runs: Any) -> Iterator[Data]:
    name = rated_endpoint(document)
    for run in runs:
        rating_found = (document["comparisons"][run].get(name) or {}).get("rating") if name else None
        if rating_found:
            yield rating_found["mean"]


def caption(document: Data) -> str:
    """Say what the numbers of the table are."""
    name = main_endpoint(document)
    parts = []
    if name is not None:
        endpoint = document["policy"]["document"]["endpoints"][name]
        found = next((e for e in (_effects(document, run, name) for run in document["comparisons"]) if e), None)
        n = f"n = {count(found['n'])} paired items; " if found else ""
        margins = " and ".join(f"{margin:g}" for margin in endpoint["margins_points"])
        parts.append(
            f"Accuracy: {endpoint['task']}, {endpoint['protocol']}, {endpoint['metric']}; {n}95 % intervals (Wilson; "
            f"Tango for the difference); margin {margins} points. Flips: items only the baseline (−) or only the "
            "candidate (+) has right."
        )
    judged = rated_endpoint(document)
    rated = next(_rated(document, document["comparisons"]), None)
    if judged is not None and rated:
        level = rated["interval"]["level"] if rated["interval"] else 0.9
        margin = document["policy"]["document"]["endpoints"][judged]["margin"]
        role = "" if judged in document["decision"]["gating"] else "; for information only"
        parts.append(
            f"Ratings: mean and difference over {rated['n']} questions, {100 * level:g} % interval, margin "
            f"{margin:g}{role}."
        )
    return " ".join(parts)
