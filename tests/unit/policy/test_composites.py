"""Composites of a policy file: what is refused, by name, and which digest they leave alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from evalkit.configuration import validate
from evalkit.errors import ConfigError
from evalkit.policy import Policy, load_policy, rules_sha256, weaknesses


def endpoint(task: str, **changes: Any) -> dict[str, Any]:
    made = {"kind": "paired_proportion", "task": task, "metric": "acc", "protocol": "chat", "gating": False}
    return {**made, "alpha": 0.025, "margins_points": [5.0], **changes}


DOCUMENT: dict[str, Any] = {
    "policy_version": 1,
    "name": "six",
    "tier": "test",
    "claims": ["close", "closer"],
    "endpoints": {name: endpoint(f"task-{name}") for name in ("a", "b", "c")},
    "composites": {
        "overall": {
            "alpha": 0.025,
            "margins_points": [1.0, 0.5],
            "parts": {
                "a": {"weight": 0.5, "floor_points": 5.0},
                "b": {"weight": 0.3, "floor_points": 5.0},
                "c": {"weight": 0.2, "floor_points": 8.0},
            },
        }
    },
}


def read(change: Any = None) -> Policy:
    document = copy.deepcopy(DOCUMENT)
    if change is not None:
        change(document)
    return validate(Policy, document, "policy.yaml")


def parts(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["composites"]["overall"]["parts"]
    return found


def test_a_composite_is_read_with_its_weights_and_margins() -> None:
    overall = read().composites["overall"]
    assert overall.gating
    assert overall.weights == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert overall.margins == (0.01, 0.005)


def test_without_any_weight_all_are_equal() -> None:
    def drop(document: dict[str, Any]) -> None:
        for part in parts(document).values():
            del part["weight"]

    weights = read(drop).composites["overall"].weights
    assert weights == dict.fromkeys("abc", pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: parts(d)["a"].update(weight=0.6), r"weights sum to 1\.1 \(0\.6 \+ 0\.3 \+ 0\.2\), not to 1"),
        (lambda d: parts(d)["a"].pop("weight"), "weight is missing for a; give every part a weight"),
        (lambda d: parts(d)["a"].update(weight=0.0), "greater than 0"),
        (lambda d: parts(d)["a"].update(weight=1.0), "less than 1"),
        (lambda d: parts(d).update(aa=parts(d).pop("a")), "part 'aa' is no endpoint of the policy; did you mean 'a'"),
        (lambda d: d["endpoints"]["b"].update(task="task-a"), "parts 'a' and 'b' are of one task, 'task-a'"),
        (lambda d: parts(d)["c"].update(floor_points=0.5), "floor_points 0.5 of 'c' is below the composite's margin"),
        (lambda d: parts(d)["c"].update(floor_points=100.0), "less than 100"),
        (lambda d: d["composites"]["overall"].update(parts={"a": {"floor_points": 5.0}}), "at least two tasks"),
        (lambda d: d["composites"]["overall"].update(margins_points=[0.5, 1.0]), "margins must fall strictly"),
        (lambda d: d["composites"]["overall"].update(margins_points=[3.0, 2.0, 1.0]), "3 margins for 2 claim"),
        (lambda d: d["composites"]["overall"].update(alpha=0.2), "alpha 0.2 is above family_alpha"),
        (lambda d: d["composites"]["overall"].update(floors=3), "floors"),
        (lambda d: d["composites"].update(a=d["composites"].pop("overall")), "'a' is an endpoint and a composite"),
        (
            lambda d: d["endpoints"].update(
                c={**endpoint("task-c"), "kind": "paired_mean", "margin": 0.3, "margins_points": None}
            ),
            "margins_points",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(change)


def test_a_rating_is_no_part() -> None:
    def rated(document: dict[str, Any]) -> None:
        rating = {**endpoint("task-c"), "kind": "paired_mean", "margin": 0.3, "metric": "rating"}
        del rating["margins_points"]
        document["endpoints"]["c"] = rating

    with pytest.raises(ConfigError, match="'c' is of kind 'paired_mean', whose scale is not percentage points"):
        read(rated)


def test_a_policy_without_composites_keeps_its_digest_and_one_with_them_has_another() -> None:
    plain = read(lambda document: document.pop("composites"))
    assert "composites" not in plain.model_dump(mode="json")
    assert "composites" in read().model_dump(mode="json")
    assert rules_sha256(plain) != rules_sha256(read())
    assert rules_sha256(read()) != rules_sha256(read(lambda document: parts(document)["c"].update(floor_points=9.0)))
    assert "composites" not in load_policy("release").model_dump(mode="json")


def test_a_wide_composite_does_not_borrow_the_standard_s_words() -> None:
    def borrowed(document: dict[str, Any]) -> None:
        document.update(claims=["comparable", "near-lossless"])
        document["composites"]["overall"].update(margins_points=[4.0, 0.5], alpha=0.04)

    said = [one.message for one in weaknesses(read(borrowed))]
    assert "margin 4 points of overall for 'comparable' (standard: 1)" in said
    assert "one-sided alpha of overall 0.04 (standard: 0.025)" in said
