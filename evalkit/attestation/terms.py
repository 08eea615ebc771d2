"""The terms of a certificate: what was asked, how strictly, on how much, and what was not checked.

In: a certificate as data. Out: the same facts as plain JSON data, for the signed statement and for whoever gates on it.
May not know: signatures, folders. Nothing is decided here; a "passed" without its terms says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from evalkit.errors import DataError
from evalkit.policy import Policy, standing
from evalkit.policy.binding import without_names
from evalkit.policy.model import Check
from evalkit.records import digest

Data = Mapping[str, Any]

UNPAIRED = "unpaired"


def verdicts(document: Data) -> list[Data]:
    """Return the verdicts; a run against published numbers has one, about itself."""
    decision = document["decision"]
    return [decision] if document.get("kind") == UNPAIRED else list(decision["verdicts"])


def policy_of(document: Data) -> Policy:
    """Return the policy of a certificate.

    Raises:
        DataError: it is none.
    """
    try:
        return Policy.model_validate(document["policy"]["document"])
    except ValidationError as error:
        raise DataError(f"policy.document: {error.errors()[0]['msg']}") from error


def terms(document: Data) -> dict[str, Any]:
    """Return under which terms a certificate was reached.

    `policy_sha256` is the digest of the policy bound to its release; `rules_sha256` leaves out whom it judges, so it is
    the same for every release judged by one policy file.

    Raises:
        DataError, KeyError, TypeError: this is no certificate.
    """
    raw, decision = document["policy"]["document"], document["decision"]
    against = standing(policy_of(document))
    return {
        "policy_sha256": document["policy"]["sha256"],
        "rules_sha256": digest(without_names(raw)),
        "tier": raw["tier"],
        "certifies": raw["certifies"],
        "exploratory": bool(decision.get("exploratory", False)),
        "claims": {str(one["recipe"]): one.get("claim") for one in verdicts(document)},
        "family_alpha": raw["multiplicity"]["family_alpha"],
        "endpoints": [_endpoint(document, name) for name in raw["endpoints"]],
        "checks": _checks(decision.get("assay")),
        "tolerances": list(raw["overrides"]),
        "fidelity_mixing": raw["fidelity"]["mixing"],
        "standard": None
        if against is None
        else {
            "name": against.standard,
            "rules_sha256": against.standard_sha256,
            "weaker": [one.message for one in against.weaknesses],
        },
        "cautions": [
            *({"recipe": None, **_caution(one)} for one in decision.get("cautions") or ()),
            *(
                {"recipe": str(verdict["recipe"]), **_caution(one)}
                for verdict in verdicts(document)
                for one in verdict.get("cautions") or ()
            ),
        ],
    }


def borrowed_words(document: Data) -> frozenset[str]:
    """Return the recipes that are certified in the standard's words by a policy that asks less than the standard."""
    against = standing(policy_of(document))
    if against is None or not against.weaknesses:
        return frozenset()
    return frozenset(str(one["recipe"]) for one in verdicts(document) if plain_claim(one) in against.claims)


def plain_claim(verdict: Data) -> str | None:
    """Return the claim of a verdict without what qualifies it; None if nothing is certified. A name has no blank."""
    claim = verdict.get("claim")
    return str(claim).split(" ", 1)[0] if claim else None


def _caution(one: Data) -> dict[str, Any]:
    return {"code": one["code"], "message": one["message"]}


def _endpoint(document: Data, name: str) -> dict[str, Any]:
    """Return what an endpoint asks, and on how many pairs each recipe answers."""
    asked, decision = document["policy"]["document"]["endpoints"][name], document["decision"]
    rated = asked["kind"] == "paired_mean"
    seen = {
        str(verdict["recipe"]): found
        for verdict in decision.get("verdicts", ())
        for found in verdict["endpoints"]
        if found["name"] == name
    }
    return {
        "name": name,
        "kind": asked["kind"],
        "task": asked["task"],
        "metric": asked["metric"],
        "protocol": asked["protocol"],
        "decides": name in decision["gating"] if "gating" in decision else bool(asked["gating"]),
        "alpha": asked["alpha"],
        "margins": [asked["margin"]] if rated else list(asked["margins_points"]),
        "unit": "rating" if rated else "points",
        "n": {recipe: found["pairs"] for recipe, found in seen.items()},
        "n_unique": {recipe: n for recipe in seen if (n := _unique(document, recipe, name)) is not None},
    }


def _unique(document: Data, recipe: str, name: str) -> int | None:
    """Return how many different questions the pairs of a recipe ask; None where nobody counted."""
    comparison = document.get("comparisons", {}).get(recipe, {}).get(name) or {}
    units = (comparison.get("proportion") or {}).get("units")
    return int(units["contents"]) if units else None


def _checks(assay: Data | None) -> dict[str, list[str]]:
    """Sort every check that evalkit knows into passed, failed and not made; the last must not vanish."""
    found: dict[str, list[str]] = {"passed": [], "failed": [], "not_made": []}
    made = set()
    for one in (assay or {}).get("checks", ()):
        where = " ".join(str(part) for part in (one.get("run"), one.get("endpoint")) if part)
        word = "not_made" if one["passed"] is None else "passed" if one["passed"] else "failed"
        found[word].append(f"{one['check']} ({where})" if where else str(one["check"]))
        made.add(one["check"])
    found["not_made"] += [check for check in get_args(Check) if check not in made]
    return {word: sorted(names) for word, names in found.items()}
