"""The first sentences of a report: the outcome, what was tested against what, and how sure it is.

In: a certificate as data. Out: sentences.
May not know: how anything was computed, or in which form it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.report.figures import count, percent

Data = Mapping[str, Any]

OUTCOMES = ("CERTIFIED", "REJECTED", "INCONCLUSIVE", "INVALID")

_WORDS = {
    "CERTIFIED": ("is certified", "are certified"),
    "REJECTED": ("is rejected", "are rejected"),
    "INCONCLUSIVE": ("stays undecided", "stay undecided"),
    "INVALID": ("could not be judged", "could not be judged"),
}


def outcome_sentence(document: Data) -> str:
    """Return the verdict in one sentence, recipes by name.

    >>> verdicts = [{"recipe": "fp8", "outcome": "CERTIFIED"}, {"recipe": "int4", "outcome": "REJECTED"}]
    >>> outcome_sentence({"decision": {"exploratory": False, "verdicts": verdicts}})
    'fp8 is certified; int4 is rejected.'
    """
    decision = document["decision"]
    parts = []
    for outcome in OUTCOMES:
        names = [str(verdict["recipe"]) for verdict in decision["verdicts"] if verdict["outcome"] == outcome]
        if names:
            parts.append(f"{_listed(names)} {_WORDS[outcome][len(names) > 1]}")
    told = "; ".join(parts) or "no recipe was judged"
    return f"Exploratory, decides nothing: {told}." if decision["exploratory"] else f"{told}."


def tested_sentence(document: Data) -> str:
    """Return what was compared with what, on what."""
    engine = document["runs"]["baseline"]["engine"]
    return (
        f"{_recipes(document)} of {engine['model']}, compared answer by answer with the baseline "
        f"'{document['policy']['document']['release']['baseline']}' (recipe {engine['recipe']}) on "
        f"{_listed([_endpoint(document, name) for name in document['policy']['document']['endpoints']])}."
    )


def meaning_sentence(document: Data) -> str:
    """Return what "certified" claims under this policy."""
    decision = document["decision"]
    margins = [_margin(document, name) for name in decision["gating"]]
    if not margins:
        return "No endpoint takes part in the verdict."
    return f"Certified means that a true loss of {', or of '.join(margins)} is ruled out."


def certainty_sentence(document: Data) -> str:
    """Return how sure a certificate is: the largest chance of a false one, and the number of items behind it."""
    policy, decision = document["policy"]["document"], document["decision"]
    risks = [f"{percent(policy['endpoints'][name]['alpha'])} ({name})" for name in decision["gating"]]
    if not risks:
        return "Nothing is claimed."
    family = percent(policy["multiplicity"]["family_alpha"])
    recipes = len(policy["release"]["recipes"])
    over = f"; over all {recipes} recipes together at most {family}" if recipes > 1 else ""
    return f"How sure: a recipe with such a loss would be certified with a chance of at most {_listed(risks)}{over}."


def _recipes(document: Data) -> str:
    names = [str(verdict["recipe"]) for verdict in document["decision"]["verdicts"]]
    kind = sorted({str(run["engine"]["fidelity"]) for run in document["runs"].values()})
    return f"{len(names)} quantized recipe{'s' if len(names) != 1 else ''} (fidelity {_listed(kind)})"


def _endpoint(document: Data, name: str) -> str:
    endpoint = document["policy"]["document"]["endpoints"][name]
    sizes = [found[name]["planned"] for found in document["comparisons"].values() if name in found]
    unit = "questions" if endpoint["kind"] == "paired_mean" else "items"
    size = f", {count(max(sizes))} {unit}" if sizes else ", not measured"
    decides = "" if name in document["decision"]["gating"] else ", for information only"
    return f"{endpoint['task']} ({endpoint['protocol']}{size}{decides})"


def _margin(document: Data, name: str) -> str:
    endpoint = document["policy"]["document"]["endpoints"][name]
    if endpoint.get("margin") is not None:
        return f"{endpoint['margin']:g} on the judge's scale ({name})"
    margins = endpoint["margins_points"]
    return f"{margins[0]:g} point{'s' if margins[0] != 1 else ''} of accuracy ({name})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"
