"""The standard's words cannot be borrowed by a policy that asks less, in whichever field."""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import pytest

from evalkit.configuration import Section
from evalkit.policy import Policy, bind, load_policy, standing, weaknesses
from evalkit.policy import binding as directions
from evalkit.policy.binding import rule_of

EASY = "gsm8k-easy"

WEAKER: dict[str, tuple[Any, str]] = {
    "overrides": (["chat_template", "versions"], "2 tolerances: chat_template, versions (standard: none)"),
    "endpoints.mmlu.task": (EASY, f"task of mmlu {EASY} (standard: mmlu)"),
    "endpoints.mmlu.metric": ("acc_norm", "metric of mmlu acc_norm (standard: acc)"),
    "endpoints.mmlu.protocol": ("ll-0shot", "protocol of mmlu ll-0shot"),
    "endpoints.mmlu.gating": (False, "mmlu is advisory and decides nothing"),
    "endpoints.mmlu.alpha": (0.03, "one-sided alpha of mmlu 0.03 (standard: 0.025)"),
    "endpoints.mmlu.items": (400, "items of mmlu 400 (standard: 14042)"),
    "endpoints.mmlu.chance": (0.0, "chance level of mmlu 0 (standard: 0.25)"),
    "endpoints.mmlu.strata": (["subject", "passage"], "strata of mmlu [subject, passage] (standard: [subject])"),
    "endpoints.mt_bench.strata": (["subject"], "strata of mt_bench [subject] (standard: [])"),
    "endpoints.mmlu.margins_points": ([7.0, 0.5], "margin 7 points of mmlu for 'comparable' (standard: 1)"),
    "endpoints.mt_bench.margin": (2.0, "margin 2 rating of mt_bench for 'comparable' (standard: 0.3)"),
    "endpoints.mt_bench.questions": (9, "questions of mt_bench 9"),
    "endpoints.mt_bench.generations": (1, "answers to a question of mt_bench 1"),
    "endpoints.mt_bench.planning_sd": (0.2, "planning SD of mt_bench 0.2"),
    "endpoints.mt_bench.planned_power_min": (0.1, "planned power of mt_bench 0.1"),
    "endpoints.mt_bench.low_power_choice": ("advisory", "choice at low power of mt_bench advisory"),
    "multiplicity.family_alpha": (0.2, "alpha of the family 0.2 (standard: 0.05)"),
    "multiplicity.subjects_bh_q": (0.0001, "list of subjects 0.0001"),
    "missing.items_max": (0.3, "share of items that may be missing 0.3 (standard: 0.005)"),
    "missing.judgments_max": (0.3, "share of judgments that may be missing 0.3"),
    "assay.required": ([], "rerun of the baseline not required"),
    "assay.aa_midp_min": (1e-9, "p-value of the rerun 1e-09 (standard: 0.001)"),
    "assay.control": ("not-certified", "what must come of a control not-certified (standard: fail)"),
    "assay.chance_plus_points": (0.0, "baseline above guessing by 0 points (standard: 10)"),
    "assay.baseline_lower_min": ({"mmlu": 0.01}, "least accuracy of the baseline on mmlu 0.01 (standard: 0.35)"),
    "assay.near_margins": ([0.1, 60.0], "loss of a control that is near, in margins [0.1, 60] (standard: [1, 5])"),
    "assay.error_increase_max": (2.0, "share of the baseline's wrong answers 2 (standard: 0.25)"),
    "assay.ability_loss_max": (0.9, "share of the accuracy above guessing 0.9 (standard: 0.1)"),
    "assay.unreadable_max": (0.5, "unreadable answers of the baseline 0.5 (standard: 0.1)"),
    "assay.baseline_recipes": (["int4-awq"], "recipes of a baseline [int4-awq] (standard: [llama-official-fp8])"),
    "guards.unreadable_max": (0.5, "guard on unreadable answers, as a share 0.5 (standard: 0.1)"),
    "assay.reference_accuracy": ({"mmlu": {"accuracy": 0.37}}, "published accuracy of mmlu 0.37 without a source"),
    "assay.reference_tolerance_points": (60.0, "distance from the published accuracy 60 points"),
    "guards.invalid_points": (99.0, "guard on unreadable answers 99 points (standard: 0.5)"),
    "guards.length_ratio": ([0.1, 1.1], "guard on the length of answers [0.1, 1.1] (standard: [0.9, 1.1])"),
    "guards.catastrophic_drop": (9.0, "drop that counts as catastrophic 9"),
    "guards.catastrophic_p": (1e-9, "p-value of the guard on catastrophic questions 1e-09"),
    "guards.catastrophic_floor": (0.9, "share of catastrophic questions taken for normal 0.9"),
    "guards.gain_points": (50.0, "guard on implausible gains 50 points"),
    "guards.gain_rating": (9.0, "guard on implausible gains in rating 9"),
    "judge.qualification": ("advisory", "qualification of judges advisory (standard: required)"),
    "judge.bars.ranking_lower_min": (0.0, "judge: ranking 0 "),
    "judge.bars.resistance_lower_min": (0.0, "judge: resistance 0 "),
    "judge.bars.noise_sd_max": (9.0, "judge: noise 9 "),
    "judge.bars.position_bias_max": (1.0, "judge: position bias 1 "),
    "judge.bars.questions_min": (2, "judge: questions 2 "),
    "fidelity.mixing": ("allow", "mixing of fidelities allow (standard: refuse)"),
}
"""Place in the file to a weaker value, and what must be said of it."""

ASKS_NOTHING = {
    "endpoints.mmlu.item_set_sha256",
    "endpoints.mt_bench.item_set_sha256",
    "endpoints.mmlu.cluster",
    "endpoints.mmlu.recovery_min",
    "endpoints.mmlu.higher_is_better",
    "endpoints.mt_bench.higher_is_better",
    "endpoints.mt_bench.cluster",
    "endpoints.mt_bench.judge",
    "endpoints.mt_bench.judge_profile_sha256",
    "endpoints.mt_bench.assumption",
    "endpoints.mt_bench.reference_set_sha256",
    "judge.bars.agreement_lower_min",
    "judge.gate_increase_max",
}
"""Fields that the standard leaves open: any value there asks more, never less."""

AT_THE_LEAST: set[str] = set()
"""Fields in which the standard has the smallest value there is."""


def changed(place: str, value: Any, name: str = "release") -> Policy:
    """A shipped policy with one value changed."""
    document = load_policy(name).model_dump(mode="json")
    parts, part = place.split("."), document
    for key in parts[:-1]:
        part = part[key]
    part[parts[-1]] = value
    return parsed(document)


def parsed(document: dict[str, Any]) -> Policy:
    return Policy.model_validate_json(json.dumps(document), strict=True)


def sections(kind: Any) -> Iterator[type[Section]]:
    """Every section that a type can hold, however it is wrapped."""
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    elif get_origin(kind) is not None or isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        for part in get_args(kind):
            yield from sections(part)


def decided(policy: Policy, prefix: str = "") -> Iterator[str]:
    """The place of every field whose value can weaken a policy."""
    for field in type(policy).model_fields:
        value = getattr(policy, field)
        if field == "endpoints":
            for name, endpoint in value.items():
                yield from decided(endpoint, f"endpoints.{name}.")
        elif isinstance(value, Section):
            yield from decided(value, f"{prefix}{field}.")
        else:
            rule = rule_of(type(policy), field)
            assert rule is not None
            if not rule.free or rule.free.startswith("compared claim") or rule.free.startswith("compared endpoint"):
                yield f"{prefix}{field}"


def test_every_field_of_every_section_of_a_policy_has_a_direction() -> None:
    """A field that is added later and has no rule fails here; state in policy/directions.py which way is weaker."""
    found = set(sections(Policy))
    assert len(found) >= 14
    missing = [f"{kind.__name__}.{field}" for kind in found for field in kind.model_fields if not rule_of(kind, field)]
    assert not missing


def test_no_rule_is_left_of_a_field_that_is_gone() -> None:
    stale = [
        f"{kind.__name__}.{field}"
        for kind, rules in directions.RULES.items()
        for field in rules
        if field not in kind.model_fields
    ]
    assert not stale


def test_every_field_that_can_weaken_the_standard_is_tried_below() -> None:
    places = set(decided(load_policy("release")))
    assert places == set(WEAKER) | ASKS_NOTHING | AT_THE_LEAST | {"multiplicity.recipes"} | _more_tried()


def _more_tried() -> set[str]:
    return {"endpoints.mt_bench.task", "endpoints.mt_bench.metric", "endpoints.mt_bench.protocol"} | {
        f"endpoints.mt_bench.{name}" for name in ("gating", "alpha", "judgments")
    }


@pytest.mark.parametrize("place", WEAKER)
def test_one_weaker_field_is_named_with_both_values(place: str) -> None:
    value, said = WEAKER[place]
    found = weaknesses(changed(place, value))
    assert found, place
    assert any(said in one.message for one in found), [one.message for one in found]
    assert {one.field for one in found} <= {place, f"{place}.mmlu"}


def test_the_shipped_policies_have_no_weakness_and_bound_ones_neither() -> None:
    for name in ("release", "demo", "nightly"):
        assert weaknesses(load_policy(name)) == ()
    bound = bind(load_policy("release"), "official", ["int4", "fp8"], ["broken"])
    found = standing(bound.policy)
    assert found is not None
    assert (found.same, found.weaknesses) == (True, ())


def test_a_stricter_policy_is_no_weaker_one() -> None:
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"]["mmlu"] |= {"margins_points": [0.9, 0.4], "alpha": 0.01, "item_set_sha256": "a" * 64}
    document["assay"] |= {
        "reference_accuracy": {"mmlu": {"accuracy": 0.8, "source": "a model card"}},
        "error_increase_max": 0.2,
        "near_margins": [1.5, 3.0],
    }
    document["guards"]["length_ratio"] = [0.95, 1.05]
    document["judge"]["bars"]["agreement_lower_min"] = 0.6
    document["endpoints"]["gsm8k"] = document["endpoints"]["mmlu"] | {"task": "gsm8k", "chance": None, "items": None}
    found = standing(parsed(document))
    assert found is not None
    assert (found.same, found.named, found.weaknesses) == (False, True, ())


def test_a_whole_section_that_is_left_out_is_a_weakness() -> None:
    document = load_policy("release").model_dump(mode="json")
    del document["judge"]
    assert [one.field for one in weaknesses(parsed(document))] == ["judge.qualification"]
    del document["endpoints"]["mt_bench"]
    assert {one.field for one in weaknesses(parsed(document))} == {"judge.qualification", "endpoints.mt_bench"}


def test_the_task_under_another_name_is_found_and_another_task_under_its_name_too() -> None:
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"]["knowledge"] = document["endpoints"].pop("mmlu")
    assert weaknesses(parsed(document)) == ()
    document["endpoints"]["knowledge"] |= {"margins_points": [6.0, 5.0]}
    assert [one.field for one in weaknesses(parsed(document))] == ["endpoints.knowledge.margins_points"] * 2


def test_an_endpoint_that_is_added_keeps_the_margin_and_alpha_of_its_kind() -> None:
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"]["extra"] = document["endpoints"]["mmlu"] | {"task": EASY, "margins_points": [30.0, 0.5]}
    document["endpoints"]["extra"]["alpha"] = 0.04
    said = [one.message for one in weaknesses(parsed(document))]
    assert said == [
        "margin 30 points of extra for 'comparable' (standard: 1)",
        "one-sided alpha of extra 0.04 (standard: 0.025)",
    ]
    document["endpoints"]["extra"]["gating"] = False
    assert weaknesses(parsed(document)) == ()


def test_a_score_on_another_scale_has_no_margin_of_the_standard() -> None:
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"]["rouge"] = document["endpoints"]["mt_bench"] | {"task": "summaries", "metric": "rougeL"}
    assert [one.message for one in weaknesses(parsed(document))] == [
        "margin 0.3 of rouge on a scale of 'rougeL' (standard: none)"
    ]


def test_another_kind_of_test_is_named() -> None:
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"]["mmlu"] |= {"kind": "soft_accuracy"}
    del document["endpoints"]["mmlu"]["chance"]
    assert "mmlu is tested as soft_accuracy (standard: paired_proportion)" in [
        one.message for one in weaknesses(parsed(document))
    ]


def test_a_stronger_claim_cannot_have_the_weaker_claim_s_margin() -> None:
    document = load_policy("release").model_dump(mode="json")
    document["claims"] = ["near-lossless"]
    document["endpoints"]["mmlu"]["margins_points"] = [1.0]
    assert [one.message for one in weaknesses(parsed(document))] == [
        "margin 1 points of mmlu for 'near-lossless' (standard: 0.5)"
    ]


def test_a_second_endpoint_does_not_lend_its_margin_to_the_first() -> None:
    """The stronger claim is reached as soon as any endpoint has a margin for it; each must have the standard's."""
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"]["extra"] = document["endpoints"]["mmlu"] | {"task": EASY}
    document["endpoints"]["mmlu"]["margins_points"] = [1.0]
    assert "margin 1 points of mmlu for 'near-lossless' (standard: 0.5)" in [
        one.message for one in weaknesses(parsed(document))
    ]


@pytest.mark.parametrize(
    "claim",
    [
        "comparable",
        "Comparable",
        "COMPARABLE",
        "c0mparable",
        "comparab1e",
        "cornparable",
        "comparable.",
        "comparable-v2",
        "fully-comparable",
        "near-lossless",
        "near_lossless",
        "nearlossless",
        "Near.LossIess",
        "lossless",
        "virtually-lossless",
        "release-grade",
    ],
)
def test_a_word_spelt_otherwise_is_the_same_word(claim: str) -> None:
    document = load_policy("demo").model_dump(mode="json") | {"tier": "anything", "name": "mine", "claims": [claim]}
    found = standing(parsed(document))
    assert found is not None
    assert found.claims == (claim,)
    assert any("margin 3 points of mmlu" in one.message for one in found.weaknesses)


@pytest.mark.parametrize(
    "tier", ["release", "Release", "RELEASE", "re1ease", "reIease", "re-lease", "release.2", "prerelease"]
)
@pytest.mark.parametrize("key", ["tier", "name"])
def test_the_tier_and_the_name_bring_the_standard_into_force_however_spelt(key: str, tier: str) -> None:
    document = load_policy("demo").model_dump(mode="json") | {"tier": "own", "name": "own", key: tier}
    found = standing(parsed(document))
    assert found is not None
    assert found.claims == ("within-demo-margin",)
    assert "claim 'within-demo-margin' (standard: comparable, near-lossless)" in [
        one.message for one in found.weaknesses
    ]


@pytest.mark.parametrize("word", ["relеase", "compаrable", "near‑lossless", "comparable ", "comparable\n", " release"])
def test_letters_of_other_alphabets_and_blanks_are_no_names(word: str) -> None:
    for change in ({"tier": word}, {"name": word}, {"claims": [word]}):
        with pytest.raises(ValueError, match=r"should match pattern"):
            parsed(load_policy("demo").model_dump(mode="json") | change)


def test_a_policy_in_its_own_words_is_measured_against_nothing() -> None:
    document = load_policy("demo").model_dump(mode="json")
    document["endpoints"]["mmlu"]["margins_points"] = [20.0]
    assert standing(parsed(document)) is None


def test_only_the_claims_in_the_standard_s_words_are_held_against_it() -> None:
    document = load_policy("release").model_dump(mode="json")
    document |= {"tier": "team", "name": "team", "claims": ["within-five", "comparable"]}
    document["endpoints"]["mmlu"]["margins_points"] = [5.0, 1.0]
    found = standing(parsed(document))
    assert found is not None
    assert (found.claims, found.weaknesses) == (("comparable",), ())


def test_a_policy_that_never_certifies_claims_nothing() -> None:
    assert standing(changed("certifies", False)) is None


def test_a_field_without_a_direction_is_weaker_as_soon_as_it_differs(monkeypatch) -> None:
    """Planted: the rule of a field is taken away, as if somebody had added the field and forgotten it."""
    rules = copy.copy(dict(directions.RULES))
    rules[directions.Seeds] = {}
    monkeypatch.setattr(directions, "RULES", rules)
    assert rule_of(directions.Seeds, "order") is None
    assert [one.field for one in weaknesses(changed("seeds.order", 99))] == ["seeds.order"]
