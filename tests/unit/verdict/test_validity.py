"""What forbids judging data: runs that differ, keys that do not match, too much that is missing, the wrong policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evalkit.verdict.checks import (
    data_reasons,
    has_no_variation,
    identity_reasons,
    name_reasons,
    policy_reasons,
    variance_reasons,
)

Make = Callable[..., Any]


def found(bench: Any, run: Any, name: str = "mmlu", baseline: Any = None) -> list[str]:
    return [reason.code for reason in data_reasons(bench.policy, name, bench.compare(run, baseline)[name])]


def messages(bench: Any, run: Any, name: str = "mmlu") -> str:
    return " ".join(reason.message for reason in data_reasons(bench.policy, name, bench.compare(run)[name]))


def test_sound_data_have_no_reason(bench: Any) -> None:
    assert found(bench, bench.run()) == []
    assert found(bench, bench.run(), "mt_bench") == []


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"chat_template_sha256": None},
        {"versions": {"torch": "2.12", "transformers": "5.14"}},
        {"options": {"scoring": "shared-prefix", "max_length": 8192}},
        {"fidelity": "engine"},
        {"adapter": "hf"},
    ],
)
def test_engines_must_agree_in_all_that_a_recipe_does_not_change(bench: Any, change: dict[str, Any]) -> None:
    assert set(found(bench, bench.reload(bench.run(), **change))) == {"not-comparable"}


@pytest.mark.parametrize(
    "change",
    [{"shots": 0}, {"metric": "acc_norm"}, {"prompts_sha256": "0" * 64}, {"definition_sha256": "0" * 64}],
)
def test_tasks_must_agree(bench: Any, change: dict[str, Any]) -> None:
    assert set(found(bench, bench.retask(bench.run(), "mmlu", **change))) == {"not-comparable"}


def test_a_policy_may_tolerate_one_difference_by_its_name(make_bench: Make) -> None:
    other = {"versions": {"torch": "2.12", "transformers": "5.14"}}
    for overrides, codes in [
        (("versions.torch",), []),
        (("versions",), []),
        (("versions.transformers",), ["not-comparable"]),
    ]:
        bench = make_bench(overrides=overrides)
        assert found(bench, bench.reload(bench.run(), **other)) == codes


def test_simulated_and_real_kernels_mix_only_if_the_policy_says_so(make_bench: Make) -> None:
    for mixing, codes in [("refuse", ["not-comparable"]), ("allow", [])]:
        bench = make_bench(fidelity={"mixing": mixing})
        assert found(bench, bench.reload(bench.run(), fidelity="engine")) == codes


def test_the_next_step_names_the_override(bench: Any) -> None:
    assert "tolerate 'dtype' in the policy" in messages(bench, bench.reload(bench.run(), dtype="float16"))


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("mmlu", {"protocol": "cloze-0shot"}, "protocol cloze-0shot"),
        ("mmlu", {"item_set_sha256": "0" * 64}, "item_set_sha256"),
        ("mt_bench", {"generations": 3}, "generations 3"),
        ("mt_bench", {"judgments": 5}, "judgments 5"),
        ("mt_bench", {"judge": "another"}, "judge another"),
        ("mt_bench", {"judge": "judge@000"}, "judge judge@000"),
        ("mt_bench", {"judge_profile_sha256": "0" * 64}, "judge_profile_sha256"),
        ("mt_bench", {"reference_set_sha256": "0" * 64}, "reference_set_sha256"),
    ],
)
def test_both_runs_may_agree_and_yet_not_be_what_the_policy_asks_for(
    make_bench: Make, name: str, change: dict[str, Any], what: str
) -> None:
    bench = make_bench(**{name: change})
    reasons = data_reasons(bench.policy, name, bench.compare(bench.run())[name])
    assert [reason.code for reason in reasons] == ["not-comparable"]
    assert f"the policy wants {what}" in reasons[0].message


def test_a_judge_is_named_as_precisely_as_the_policy_names_it(make_bench: Make, bench: Any) -> None:
    sha256 = bench.baseline.manifest.judges["mt-bench"].identity.sha256
    for judge in (None, "judge", f"judge@{sha256[:8]}", f"judge@{sha256}"):
        assert found(make_bench(mt_bench={"judge": judge}), bench.run(), "mt_bench") == []


def test_the_number_of_items_is_the_policys(make_bench: Make) -> None:
    bench = make_bench(mmlu={"items": 14_042})
    assert found(bench, bench.run()) == ["coverage"]
    assert "the policy wants 14042 items, the runs planned 800" in messages(bench, bench.run())


@pytest.mark.parametrize(("missing", "codes"), [(4, []), (5, ["coverage"])])
@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_half_a_percent_of_items_may_be_missing_on_either_side(
    bench: Any, side: str, missing: int, codes: list[str]
) -> None:
    left, right = bench.baseline, bench.run()
    if side == "baseline":
        left = bench.hide(left, "mmlu", missing)
    else:
        right = bench.hide(right, "mmlu", missing)
    assert found(bench, right, baseline=left) == codes


@pytest.mark.parametrize(("missing", "codes"), [(4, []), (5, ["coverage"])])
def test_one_percent_of_judgments_may_be_missing(bench: Any, missing: int, codes: list[str]) -> None:
    scores = bench.scores + np.linspace(-1, 1, 80)[:, np.newaxis, np.newaxis]  # 480 judgments
    scores[:missing, 0, 0] = np.nan
    assert found(bench, bench.run(scores=scores), "mt_bench") == codes


def test_a_quarter_of_the_items_is_no_run(bench: Any) -> None:
    run = bench.run()
    part = replace(run, records={**run.records, "mmlu": run.records["mmlu"][:200]})
    assert found(bench, part) == ["coverage"]
    assert "600 of 800 candidate items are missing (75.00%)" in messages(bench, part)


def test_a_task_that_one_run_lacks_is_no_coverage(bench: Any) -> None:
    assert "coverage" in found(bench, bench.only(bench.run(), "mt-bench"))


def test_one_number_that_is_not_finite_is_enough(bench: Any) -> None:
    assert "non-finite" in found(bench, bench.hide(bench.run(), "mmlu", 1, "non-finite: nan"))
    assert "non-finite" in found(bench, bench.hide(bench.run(), "mmlu", 1, "missing-token: no token for B"))
    assert found(bench, bench.hide(bench.run(), "mmlu", 1, "timeout: 60 s")) == []


def test_items_of_another_set_are_no_pairs(bench: Any) -> None:
    run = bench.run()
    records = tuple(replace(record, item_sha256=record.item_sha256[::-1]) for record in run.records["mmlu"])
    assert "pairing" in found(bench, replace(run, records={**run.records, "mmlu": records}))


def test_nothing_planned_is_no_endpoint(make_bench: Make) -> None:
    bench = make_bench(mmlu={"items": None})
    empty = bench.compare(bench.run())["mmlu"]
    empty = replace(empty, planned=0, proportion=None)
    assert {reason.code for reason in data_reasons(bench.policy, "mmlu", empty)} == {"no-endpoint", "too-few"}


# ---- variation and identity


@pytest.mark.parametrize("shift", [0.0, -0.5, 1 / 3])
def test_equal_differences_on_every_question_are_no_variation(bench: Any, shift: float) -> None:
    comparison = bench.compare(bench.run(scores=bench.scores + shift))["mt_bench"]
    (reason,) = variance_reasons("mt_bench", bench.policy.endpoints["mt_bench"], comparison)
    assert reason.code == "zero-variance"


def test_accuracies_need_no_variation(bench: Any) -> None:
    comparison = bench.compare(bench.run(losses=0, gains=0))["mmlu"]
    assert not has_no_variation(bench.policy.endpoints["mmlu"], comparison)
    assert variance_reasons("mmlu", bench.policy.endpoints["mmlu"], comparison) == []


def test_identical_replies_on_a_gating_endpoint_are_the_same_model(bench: Any) -> None:
    comparisons = bench.compare(bench.run(marks=bench.marks, seed=1))
    assert [reason.code for reason in identity_reasons(comparisons, {"mmlu": True})] == ["same-model"]
    assert identity_reasons(comparisons, {"mt_bench": True}) == []


def test_identical_replies_on_every_endpoint_are_the_same_model_whatever_gates(bench: Any) -> None:
    run = bench.run(marks=bench.marks, seed=1)
    run = replace(run, records={**run.records, "mt-bench": bench.baseline.records["mt-bench"]})
    assert [reason.code for reason in identity_reasons(bench.compare(run), {})] == ["same-model"]


def test_one_engine_loaded_twice_is_the_same_model_although_its_replies_differ(bench: Any) -> None:
    comparisons = bench.compare(bench.run(recipe="baseline"))
    assert not any(comparison.same_model for comparison in comparisons.values())
    (reason,) = identity_reasons(comparisons, {"mmlu": True, "mt_bench": True})
    assert reason.code == "same-model"
    assert "one and the same engine" in reason.message


def test_another_recipe_is_another_model(bench: Any) -> None:
    assert identity_reasons(bench.compare(bench.run()), {"mmlu": True, "mt_bench": True}) == []


# ---- policies and names


def test_a_run_answers_to_the_policy_it_began_under(bench: Any) -> None:
    label = bench.compare(bench.run())["mmlu"].candidate
    assert policy_reasons(bench.policy, {"candidate": label}) == []
    for sha256, code in [(None, "policy-missing"), ("0" * 64, "policy-changed")]:
        (reason,) = policy_reasons(bench.policy, {"candidate": replace(label, policy_sha256=sha256)})
        assert reason.code == code


def test_any_change_of_a_policy_is_a_changed_policy(make_bench: Make, bench: Any) -> None:
    label = bench.compare(bench.run())["mmlu"].candidate
    wider = make_bench(mmlu={"margins_points": (3.5, 2.0)})
    assert [reason.code for reason in policy_reasons(wider.policy, {"candidate": label})] == ["policy-changed"]


def test_names_must_be_the_policys(bench: Any) -> None:
    comparison = bench.compare(bench.run())["mmlu"]
    runs = {"baseline": comparison.baseline, "candidate": comparison.candidate}
    assert name_reasons(bench.policy, "candidate", runs) == []
    swapped = {"baseline": comparison.candidate, "candidate": comparison.baseline}
    assert [reason.code for reason in name_reasons(bench.policy, "candidate", swapped)] == ["wrong-run"] * 2
    nameless = {"candidate": replace(comparison.candidate, name=None)}
    assert name_reasons(bench.policy, "candidate", nameless) == []
