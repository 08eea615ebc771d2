"""Could the evaluation have seen a loss? Checks of the rerun, of controls and of the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalkit.policy import Reference, SoftAccuracyEndpoint
from evalkit.verdict import AssayCheck, AssayReport, EndpointState
from evalkit.verdict.assay import assess, noise_floor

Make = Callable[..., Any]
GATING = ("mmlu", "mt_bench")
SOFT = SoftAccuracyEndpoint(
    kind="soft_accuracy",
    task="mmlu",
    metric="acc",
    protocol="ll-5shot",
    items=800,
    gating=True,
    alpha=0.025,
    margins_points=(3.0, 2.0),
)


def assayed(bench: Any, gating: tuple[str, ...] = GATING, **changes: Any) -> AssayReport:
    given = {
        "rerun": bench.compared_rerun,
        "controls": {"broken": bench.compared_broken},
        "samples": [bench.compare(bench.run())],
        **changes,
    }
    return assess(bench.policy, gating, **given)


def check(report: AssayReport, name: str, endpoint: str | None = None) -> AssayCheck:
    (found,) = (one for one in report.checks if one.check == name and one.endpoint == endpoint)
    return found


def codes(report: AssayReport) -> list[str]:
    """The codes that checks gave; the near control's is left out, for it follows what happens to a lone control."""
    found = [reason.code for reason in report.reasons if not reason.message.startswith("near_control")]
    return list(dict.fromkeys(found))


def test_a_sound_evaluation_passes_every_check(bench: Any) -> None:
    report = assayed(bench)
    assert report.passed
    assert [(found.check, found.endpoint, found.run, found.status) for found in report.checks] == [
        ("aa", "mmlu", None, "passed"),
        ("above_chance", "mmlu", None, "passed"),
        ("headroom", "mmlu", None, "passed"),
        ("anchor", "mmlu", None, "passed"),
        ("readable", "mmlu", None, "passed"),
        ("aa", "mt_bench", None, "passed"),
        ("readable", "mt_bench", None, "passed"),
        ("control", None, "broken", "passed"),
        ("near_control", "mmlu", "broken", "passed"),
        ("near_control", "mt_bench", "broken", "passed"),
        ("baseline_recipe", None, None, "passed"),
        ("origin", None, "broken", "passed"),
    ]
    assert report.cautions == ()
    assert {result.name: result.state for result in report.controls["broken"]} == {
        "mmlu": EndpointState.FAIL,
        "mt_bench": EndpointState.FAIL,
    }


# ---- the rerun


def test_a_required_rerun_that_is_not_there_is_missing_on_every_gating_endpoint(bench: Any) -> None:
    report = assayed(bench, rerun=None)
    assert [(reason.code, reason.endpoint) for reason in report.reasons] == [
        ("assay-missing", "mmlu"),
        ("assay-missing", "mt_bench"),
    ]


def test_a_rerun_that_nobody_requires_may_be_missing(make_bench: Make) -> None:
    bench = make_bench(assay={"required": ("control", "above_chance")})
    report = assayed(bench, rerun=None)
    assert report.passed
    assert [found.status for found in report.checks if found.check == "aa"] == ["not made", "not made"]
    (caution,) = (found for found in report.cautions if found.code == "check-not-made")
    assert caution.message.startswith("NOT MADE: aa (mmlu): the baseline was not run a second time; aa (mt_bench)")


def test_an_identical_rerun_passes(bench: Any) -> None:
    again = bench.run("baseline-rerun", marks=bench.marks, scores=bench.scores, recipe="baseline")
    report = assayed(bench, rerun=bench.compare(again))
    assert report.passed
    (accuracy, rating) = report.noise
    assert (accuracy.discordance, rating.sd, rating.drops) == (0.0, 0.0, 0)


def test_an_identical_rerun_passes_on_soft_accuracy_too(make_bench: Make) -> None:
    bench = make_bench(extra={"soft": SOFT})
    again = bench.run("baseline-rerun", marks=bench.marks, scores=bench.scores, recipe="baseline", seed=1)
    report = assayed(bench, (*GATING, "soft"), rerun=bench.compare(again))
    found = check(report, "aa", "soft")
    assert (found.passed, found.message) == (True, "every item has the same score in both runs")


def test_a_rerun_of_soft_accuracy_must_not_move_the_mean(make_bench: Make) -> None:
    bench = make_bench(extra={"soft": SOFT})
    assert check(assayed(bench, (*GATING, "soft")), "aa", "soft").passed
    worse = bench.run("baseline-rerun", losses=60, gains=0, recipe="baseline")
    assert not check(assayed(bench, (*GATING, "soft"), rerun=bench.compare(worse)), "aa", "soft").passed


def test_a_rerun_on_which_every_rating_moves_alike_fails(bench: Any) -> None:
    again = bench.run("baseline-rerun", scores=bench.scores + 1.0, recipe="baseline")
    report = assayed(bench, rerun=bench.compare(again))
    assert codes(report) == ["assay-failed"]
    assert "differs alike" in check(report, "aa", "mt_bench").message


def test_a_rerun_must_pass_the_first_margin(bench: Any) -> None:
    # z(-0.03) of 30 losses and 20 gains in 800 is near 1.95.
    again = bench.run("baseline-rerun", losses=30, gains=20, recipe="baseline")
    report = assayed(bench, rerun=bench.compare(again))
    assert codes(report) == ["assay-failed"]
    assert "OPEN" in check(report, "aa", "mmlu").message


def test_a_rerun_must_lose_about_as_much_as_it_gains(bench: Any) -> None:
    # 14 gains without a loss pass the margin with ease, and happen by chance once in 2^13: mid-p 2^-14.
    again = bench.run("baseline-rerun", losses=0, gains=14, recipe="baseline")
    report = assayed(bench, rerun=bench.compare(again))
    assert codes(report) == ["assay-failed"]
    assert "PASS" in check(report, "aa", "mmlu").message
    lucky = bench.run("baseline-rerun", losses=0, gains=9, recipe="baseline")  # mid-p 2^-9 = 0.002
    assert assayed(bench, rerun=bench.compare(lucky)).passed


@pytest.mark.parametrize(("mean", "passed"), [(0.2, True), (0.25, False), (-0.2, True), (-0.25, False)])
def test_the_99_percent_interval_of_rerun_ratings_must_contain_zero(bench: Any, mean: float, passed: bool) -> None:
    # 2.640 * 0.8 / sqrt(80) = 0.236
    again = bench.run("baseline-rerun", mean=mean, sd=0.8, losses=4, gains=4, recipe="baseline")
    report = assayed(bench, rerun=bench.compare(again))
    assert check(report, "aa", "mt_bench").passed is passed
    assert report.passed is passed


def test_a_rerun_with_missing_items_is_no_rerun(bench: Any) -> None:
    report = assayed(bench, rerun=bench.compare(bench.hide(bench.rerun, "mmlu", 5)))
    assert codes(report) == ["assay-failed"]
    assert "missing" in check(report, "aa", "mmlu").message


def test_another_recipe_is_no_rerun(bench: Any) -> None:
    stranger = bench.run("candidate", losses=4, gains=4, sd=0.3)
    report = assayed(bench, rerun=bench.compare(stranger))
    assert codes(report) == ["assay-failed"]
    assert "the second run is of recipe 'candidate'" in report.reasons[0].message


def begun(run: Any, **changes: Any) -> Any:
    return replace(run, manifest=replace(run.manifest, **changes))


def test_a_run_with_the_baselines_own_id_is_a_copy_of_it(bench: Any) -> None:
    baseline, again = begun(bench.baseline, run_id="one"), begun(bench.rerun, run_id="one")
    report = assayed(bench, rerun=bench.compare(again, baseline))
    assert codes(report) == ["assay-failed"]
    assert "copy of the baseline" in check(report, "aa", "mmlu").message
    assert assayed(bench, rerun=bench.compare(begun(again, run_id="two"), baseline)).passed


def test_a_copy_of_a_run_from_before_ids_is_known_by_when_and_how_it_began(bench: Any) -> None:
    report = assayed(bench, rerun=bench.compare(bench.baseline))
    assert "copy of the baseline" in check(report, "aa", "mmlu").message


def test_an_engine_that_repeats_itself_exactly_is_no_copy_and_is_named(bench: Any) -> None:
    same = begun(bench.baseline, run_id="two", requested={"engine": {"name": "baseline-rerun"}})
    report = assayed(bench, rerun=bench.compare(same, begun(bench.baseline, run_id="one")))
    assert report.passed
    assert [found.code for found in report.cautions] == ["rerun-identical"]


@pytest.mark.parametrize(
    ("order_seed", "options", "alike"),
    [(None, {"max_batch_size": 8}, True), (1, {"max_batch_size": 8}, False), (None, {"max_batch_size": 4}, False)],
)
def test_a_rerun_in_the_same_order_and_batches_is_named(
    bench: Any, order_seed: int | None, options: dict[str, int], alike: bool
) -> None:
    def asked(run: Any, name: str, seed: int | None, given: dict[str, int]) -> Any:
        return begun(run, requested={"engine": {"name": name, "options": given}, "order_seed": seed}, run_id=name)

    baseline = asked(bench.baseline, "baseline", None, {"max_batch_size": 8})
    again = asked(bench.rerun, "baseline-rerun", order_seed, options)
    report = assayed(bench, rerun=bench.compare(again, baseline))
    assert [found.code for found in report.cautions] == (["rerun-alike"] if alike else [])


# ---- controls


def test_a_mild_control_need_not_fail_everywhere_beside_one_that_does(make_bench: Make) -> None:
    bench = make_bench(controls=("broken", "mild"))
    dead = bench.compare(bench.run("broken", losses=400, gains=0, mean=-1.2))
    mild = bench.compare(bench.run("mild", losses=60, gains=5, mean=-0.2))  # FAILs accuracy alone, with 2.3 margins
    report = assayed(bench, controls={"broken": dead, "mild": mild})
    assert [(one.run, one.status) for one in report.checks if one.check == "control"] == [
        ("broken", "passed"),
        ("mild", "passed"),
    ]
    assert check(report, "near_control", "mmlu").run == "mild"
    assert check(report, "near_control", "mt_bench").run == "broken"
    alone = assayed(make_bench(controls=("mild",)), controls={"mild": mild})
    assert [one.status for one in alone.checks if one.check == "control"] == ["failed"]


@pytest.mark.parametrize(("losses", "gains", "status"), [(25, 5, "failed"), (60, 5, "passed"), (150, 10, "failed")])
def test_a_near_control_fails_with_one_to_five_margins_of_loss(
    make_bench: Make, losses: int, gains: int, status: str
) -> None:
    # Of 800 items at a margin of 3 points: 2.5 points (0.8 margins), 6.9 (2.3) and 17.5 (5.8).
    bench = make_bench(mt_bench={"gating": False})
    control = bench.compare(bench.run("broken", losses=losses, gains=gains))
    assert check(assayed(bench, ("mmlu",), controls={"broken": control}), "near_control", "mmlu").status == status


def test_a_check_that_nobody_requires_and_that_fails_is_a_caution(make_bench: Make) -> None:
    bench = make_bench(assay={"required": ("aa", "control", "above_chance"), "baseline_recipes": ("other",)})
    report = assayed(bench)
    assert report.passed
    (caution,) = report.cautions
    assert (caution.code, "the policy allows other" in caution.message) == ("check-failed", True)


# ---- margins and what there is to lose


@pytest.mark.parametrize(("right", "passed"), [(703, True), (705, False), (439, False), (441, True)])
def test_the_margin_is_small_against_errors_and_against_knowledge(make_bench: Make, right: int, passed: bool) -> None:
    # A margin of 3 points: at most a quarter of the errors asks for 12 %, at most a tenth of knowledge for 55 %.
    bench = make_bench(assay={"reference_accuracy": {}})
    other = replace(bench, marks=np.repeat([1.0, 0.0], [right, 800 - right]))
    found = check(assayed(other, samples=[other.compare(other.run(losses=2, gains=2))]), "headroom", "mmlu")
    assert (found.passed, found.required) == (passed, True)


def test_a_control_that_does_not_fail_everywhere_fails_the_assay(bench: Any) -> None:
    for control in (bench.run("broken", losses=100), bench.run("broken", mean=-1.2)):
        report = assayed(bench, controls={"broken": bench.compare(control)})
        assert codes(report) == ["assay-failed"]
        assert "every gating endpoint must FAIL" in report.reasons[0].message


def test_a_milder_rule_asks_only_that_the_control_is_not_certified(make_bench: Make) -> None:
    bench = make_bench(assay={"control": "not-certified", "required": ("aa", "control", "above_chance")})
    milder = bench.compare(bench.run("broken", losses=36))
    assert [result.state for result in assayed(bench, controls={"broken": milder}).controls["broken"]] == [
        EndpointState.OPEN,
        EndpointState.PASS,
    ]
    assert assayed(bench, controls={"broken": milder}).passed
    blind = bench.compare(bench.run("broken"))
    assert codes(assayed(bench, controls={"broken": blind})) == ["assay-failed"]


def test_no_control_at_all_is_missing(make_bench: Make) -> None:
    bench = make_bench(controls=())
    assert codes(assayed(bench, controls={})) == ["assay-missing"]


def test_every_control_the_policy_names_must_be_run(make_bench: Make) -> None:
    bench = make_bench(controls=("broken", "inconvenient"))
    report = assayed(bench)
    assert codes(report) == ["assay-missing"]
    assert "inconvenient" in report.reasons[0].message


def test_every_control_counts(make_bench: Make) -> None:
    bench = make_bench(controls=("broken", "mild"))
    mild = bench.compare(bench.run("mild"))
    assert codes(assayed(bench, controls={"broken": bench.compared_broken, "mild": mild})) == ["assay-failed"]


def test_a_control_without_an_endpoint_is_missing(bench: Any) -> None:
    report = assayed(bench, controls={"broken": {"mmlu": bench.compared_broken["mmlu"]}})
    assert codes(report) == ["assay-missing"]
    assert "endpoint mt_bench was not run" in report.reasons[0].message


def test_a_control_with_damaged_data_fails_the_assay(bench: Any) -> None:
    report = assayed(bench, controls={"broken": bench.compare(bench.hide(bench.broken, "mmlu", 100))})
    assert codes(report) == ["assay-failed"]


def test_a_control_whose_ratings_do_not_vary_shows_nothing(bench: Any) -> None:
    flat = bench.run("broken", losses=100, gains=10, scores=bench.scores - 2.0)
    assert codes(assayed(bench, controls={"broken": bench.compare(flat)})) == ["assay-failed"]


def test_without_a_gating_endpoint_there_is_nothing_to_check(bench: Any) -> None:
    assert assayed(bench, ()).checks == ()


# ---- the baseline


def wilson_lower(right: int, n: int, level: float) -> float:
    z = stats.norm.ppf((1 + level) / 2)
    p = right / n
    return (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)


@pytest.mark.parametrize("right", [320, 321, 322, 323, 324, 325])
def test_the_baseline_must_be_surely_above_chance_by_ten_points(bench: Any, right: int) -> None:
    other = replace(bench, marks=np.repeat([1.0, 0.0], [right, 800 - right]))
    found = check(assayed(other), "above_chance", "mmlu")
    assert found.passed == (wilson_lower(right, 800, 0.998) > 0.35)


def test_both_sides_of_that_line_are_reached() -> None:
    assert wilson_lower(320, 800, 0.998) < 0.35 < wilson_lower(325, 800, 0.998)


def test_the_policy_may_give_the_line_itself(make_bench: Make) -> None:
    bench = make_bench(assay={"baseline_lower_min": {"mmlu": 0.72}})
    report = assayed(bench)  # 600 of 800 right, lower limit 0.700
    assert codes(report) == ["baseline-sanity"]
    assert "must be above 72.00%" in report.reasons[0].message


def test_an_unknown_chance_level_is_a_missing_check(make_bench: Make) -> None:
    bench = make_bench(mmlu={"chance": None})
    sample = bench.compare(bench.run())
    sample = {**sample, "mmlu": replace(sample["mmlu"], task_run=replace(sample["mmlu"].task_run, chance=None))}
    assert codes(assayed(bench, samples=[sample])) == ["assay-missing"]


def test_missing_baseline_answers_count_as_wrong(bench: Any) -> None:
    baseline = bench.hide(bench.baseline, "mmlu", 4)
    right = int(bench.marks[4:].sum())
    found = check(assayed(bench, samples=[bench.compare(bench.run(), baseline)]), "above_chance", "mmlu")
    assert f"{right} of 800 right" in found.message


def test_a_damaged_candidate_does_not_make_the_baseline_look_bad(bench: Any) -> None:
    other = replace(bench, marks=np.repeat([1.0, 0.0], [480, 320]))
    run = other.run()
    strangers = tuple(replace(record, item_sha256=record.item_sha256[::-1]) for record in run.records["mmlu"])
    damaged = other.compare(replace(run, records={**run.records, "mmlu": strangers}))
    assert codes(assayed(other, samples=[damaged])) == ["baseline-sanity", "no-headroom"]
    assert codes(assayed(other, samples=[damaged, other.compare(run)])) == ["baseline-sanity"]  # 60 %, published 74 %


def test_a_baseline_without_accuracy_is_a_missing_check(bench: Any) -> None:
    assert codes(assayed(bench, samples=[])) == ["assay-missing"]


@pytest.mark.parametrize(("reference", "passed"), [(0.71, True), (0.79, True), (0.69, False), (0.81, False)])
def test_the_baseline_must_be_within_five_points_of_what_was_published(
    make_bench: Make, reference: float, passed: bool
) -> None:
    bench = make_bench(assay={"reference_accuracy": {"mmlu": Reference(accuracy=reference, source="a paper")}})
    report = assayed(bench)
    assert check(report, "anchor", "mmlu").passed is passed
    assert codes(report) == ([] if passed else ["baseline-sanity"])
    assert report.notes == ()


def test_without_a_published_accuracy_the_report_says_unanchored(make_bench: Make) -> None:
    (note,) = assayed(make_bench(assay={"reference_accuracy": {}})).notes
    assert note.startswith("mmlu is unanchored")


def test_a_required_anchor_without_a_published_accuracy_is_missing(make_bench: Make) -> None:
    bench = make_bench(assay={"required": ("aa", "control", "anchor"), "reference_accuracy": {}})
    assert codes(assayed(bench)) == ["assay-missing"]


# ---- the noise floor


def test_the_noise_floor_is_what_the_rerun_shows(bench: Any) -> None:
    accuracy, rating = assayed(bench).noise
    assert (accuracy.endpoint, accuracy.discordance, accuracy.sd) == ("mmlu", 8 / 800, None)
    assert (rating.endpoint, rating.discordance, rating.questions) == ("mt_bench", None, 80)
    assert rating.sd == pytest.approx(0.3)


def test_the_spread_of_generations_is_solved_from_the_planning_formula(bench: Any) -> None:
    comparison = bench.compare(bench.rerun)["mt_bench"]
    floor = noise_floor("mt_bench", bench.policy.endpoints["mt_bench"], comparison)
    both = np.concatenate([bench.scores, bench.scores])
    sj = math.sqrt(both.var(axis=2, ddof=1).mean())  # moved questions keep the spread of their judgments
    assert floor.judgment_sd == pytest.approx(sj)
    # sigma^2 = (2/G) sg^2 + (2/(T G J)) sj^2 with G = 1, T = 2, J = 3 and no true effect
    inside = (0.3**2 - 2 / 6 * sj**2) / 2
    assert floor.generation_sd == pytest.approx(math.sqrt(max(0.0, inside)))
