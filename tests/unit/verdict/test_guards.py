"""Tripwires against their rules in section 10 of the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalkit.policy import JudgeRules
from evalkit.records import TextReply, Turn
from evalkit.verdict.assay import noise_floor
from evalkit.verdict.endpoints import evaluate
from evalkit.verdict.guards import GuardResult, guard_results
from evalkit.verdict.outcome import NoiseFloor

Make = Callable[..., Any]
QUIET = NoiseFloor(
    endpoint="mt_bench",
    discordance=None,
    discordance_upper=None,
    sd=0.3,
    judgment_sd=None,
    generation_sd=None,
    drops=0,
    questions=80,
    invalid_items=0,
)


def guards(bench: Any, run: Any, name: str = "mt_bench", noise: NoiseFloor | None = QUIET) -> dict[str, GuardResult]:
    comparison = bench.compare(run)[name]
    result = evaluate(bench.policy, name, comparison)
    return {found.guard: found for found in guard_results(bench.policy, result, comparison, noise)}


def dropped(bench: Any, count: int, drop: float = 4.0) -> Any:
    """A run in which so many questions lost so much and the others wobble."""
    changes = np.tile([0.2, 0.0], 40)
    changes[:count] = -drop
    return bench.run(scores=bench.scores + changes[:, np.newaxis, np.newaxis])


def test_a_sound_run_breaches_nothing(bench: Any) -> None:
    assert set(guards(bench, bench.run())) == {
        *("implausible-gain", "length", "invalid-answers", "unreadable", "catastrophic", "design-effect"),
    }
    assert not any(found.breached for found in guards(bench, bench.run()).values())
    assert set(guards(bench, bench.run(), "mmlu")) == {"implausible-gain", "design-effect"}


@pytest.mark.parametrize(("tokens", "breached"), [(89, True), (90, False), (110, False), (111, True)])
def test_answers_may_be_a_tenth_shorter_or_longer(bench: Any, tokens: int, breached: bool) -> None:
    found = guards(bench, bench.run(tokens=tokens))["length"]
    assert found.breached is breached
    assert found.value == pytest.approx(tokens / 100)
    assert found.limit == (0.9 if tokens < 90 else 1.1)


def test_a_baseline_without_a_token_is_a_breach(bench: Any) -> None:
    comparison = bench.compare(bench.run())["mt_bench"]
    comparison = replace(comparison, answers=replace(comparison.answers, length_ratio=None))
    result = evaluate(bench.policy, "mt_bench", comparison)
    found = {guard.guard: guard for guard in guard_results(bench.policy, result, comparison, QUIET)}
    assert found["length"].breached


@pytest.mark.parametrize(("count", "breached"), [(0, False), (3, False), (4, True)])
def test_four_ruined_questions_of_eighty_are_catastrophic(bench: Any, count: int, breached: bool) -> None:
    found = guards(bench, dropped(bench, count))["catastrophic"]
    assert found.breached is breached
    assert found.value == pytest.approx(stats.binom.sf(count - 1, 80, 0.01))


def test_a_drop_of_four_points_counts_and_less_does_not(bench: Any) -> None:
    assert guards(bench, dropped(bench, 4, 4.0))["catastrophic"].breached
    assert not guards(bench, dropped(bench, 4, 3.99))["catastrophic"].breached


def test_a_mean_of_thirds_that_drops_by_four_counts(bench: Any) -> None:
    """44/6 less 20/6 is 4 on paper and a little less in floating point."""
    base, after = bench.scores.copy(), bench.scores + np.tile([0.2, 0.0], 40)[:, np.newaxis, np.newaxis]
    base[:4], after[:4] = [[8, 8, 7], [7, 7, 7]], [[4, 4, 3], [3, 3, 3]]
    assert 20 / 6 - 44 / 6 > -4.0
    thirds = replace(bench, scores=base)
    assert guards(thirds, thirds.run(scores=after))["catastrophic"].breached


def test_drops_that_happen_without_any_change_are_expected(bench: Any) -> None:
    noisy = replace(QUIET, drops=3)
    found = guards(bench, dropped(bench, 4), noise=noisy)["catastrophic"]
    assert not found.breached
    assert found.value == pytest.approx(stats.binom.sf(3, 80, 3.5 / 81))


def test_a_question_that_was_not_judged_may_be_a_ruined_one(bench: Any) -> None:
    run = dropped(bench, 4)
    judged = {**run.judgments, "mt-bench": run.judgments["mt-bench"][6:]}  # of the first question none is left
    hidden = replace(run, judgments=judged)
    assert bench.compare(hidden)["mt_bench"].rating.drops == 3
    assert guards(bench, hidden)["catastrophic"].breached


@pytest.mark.parametrize(("count", "breached"), [(3, False), (4, True)])
def test_four_unreadable_answers_of_eighty_are_too_many(bench: Any, count: int, breached: bool) -> None:
    found = guards(bench, bench.truncated(bench.run(), count))["invalid-answers"]
    assert found.breached is breached
    assert found.value == pytest.approx(stats.binom.sf(count - 1, 80, 0.01))


def test_unreadable_answers_of_the_baseline_itself_are_normal(bench: Any) -> None:
    noisy = replace(QUIET, invalid_items=6)
    found = guards(bench, bench.truncated(bench.run(), 8), noise=noisy)["invalid-answers"]
    assert not found.breached
    assert found.value == pytest.approx(stats.binom.sf(7, 80, 6.5 / 81))


def test_without_a_rerun_the_baselines_own_unreadable_answers_are_normal(bench: Any) -> None:
    baseline = bench.truncated(bench.baseline, 6)
    comparison = bench.compare(bench.truncated(bench.run(), 8), baseline)["mt_bench"]
    result = evaluate(bench.policy, "mt_bench", comparison)
    found = {guard.guard: guard for guard in guard_results(bench.policy, result, comparison, None)}
    assert found["invalid-answers"].value == pytest.approx(stats.binom.sf(7, 80, 6.5 / 81))


def generated(run: Any, invalid: int) -> Any:
    """The run with its letters written as text, the first so many of them unreadable."""
    records = []
    for at, record in enumerate(run.records["mmlu"]):
        text = Turn(text=f"{run.manifest.engine.recipe} {at}", finish="stop", prompt_tokens=9, completion_tokens=1)
        reason = "no letter" if at < invalid else None
        records.append(replace(record, reply=TextReply(turns=(text,)), invalid=reason))
    return replace(run, records={**run.records, "mmlu": tuple(records)})


@pytest.mark.parametrize(("invalid", "breached"), [(0, False), (4, True)])
def test_unreadable_letters_may_not_increase_by_half_a_point(make_bench: Make, invalid: int, breached: bool) -> None:
    # Without an increase the upper limit on 800 items is z^2/(n + z^2) = 0.48 points.
    bench = make_bench()
    comparison = bench.compare(generated(bench.run(), invalid), generated(bench.baseline, 0))["mmlu"]
    result = evaluate(bench.policy, "mmlu", comparison)
    found = {guard.guard: guard for guard in guard_results(bench.policy, result, comparison, None)}["invalid-answers"]
    assert found.breached is breached
    if not invalid:
        assert found.value == pytest.approx(1.959964**2 / (800 + 1.959964**2), rel=1e-5)


@pytest.mark.parametrize(("mean", "breached"), [(0.4, False), (0.5, True)])
def test_a_rating_that_is_surely_better_is_suspect(bench: Any, mean: float, breached: bool) -> None:
    # The lower limit is mean - 1.664 * 0.8 / sqrt(80) = mean - 0.149; the limit is 0.3.
    assert guards(bench, bench.run(mean=mean))["implausible-gain"].breached is breached


@pytest.mark.parametrize(("gains", "breached"), [(20, False), (40, True)])
def test_an_accuracy_that_is_surely_better_is_suspect(bench: Any, gains: int, breached: bool) -> None:
    found = guards(bench, bench.run(losses=4, gains=gains), "mmlu")["implausible-gain"]
    assert found.breached is breached
    assert found.limit == pytest.approx(0.01)


def test_the_rerun_says_what_is_normal(bench: Any) -> None:
    rerun = bench.truncated(bench.rerun, 2)
    floor = noise_floor("mt_bench", bench.policy.endpoints["mt_bench"], bench.compare(rerun)["mt_bench"])
    assert (floor.drops, floor.questions, floor.invalid_items) == (0, 80, 2)


@pytest.mark.parametrize(("count", "breached"), [(3, False), (4, True)])
def test_failing_instead_of_answering_badly_hides_nothing(bench: Any, count: int, breached: bool) -> None:
    found = guards(bench, bench.hide(bench.run(), "mt-bench", count))["invalid-answers"]
    assert found.breached is breached
    assert found.value == pytest.approx(stats.binom.sf(count - 1, 80, 0.01))
    assert f"{count} of 80 questions with an unreadable answer or none" in found.message


@pytest.mark.parametrize(("tokens", "hidden", "breached"), [(91, 0, False), (91, 1, True), (109, 1, False)])
def test_answers_that_are_missing_may_be_the_short_or_long_ones(
    bench: Any, tokens: int, hidden: int, breached: bool
) -> None:
    # 79 answers of 91 tokens and an empty one are 0.899 times 80 of 100.
    run = bench.hide(bench.run(tokens=tokens), "mt-bench", hidden)
    found = guards(bench, run)["length"]
    assert (found.breached, "that are missing" in found.message) == (breached, hidden > 0)
    low, high = bench.compare(run)["mt_bench"].answers.worst.length_ratios
    assert low == pytest.approx((80 - hidden) * tokens / 8000)
    assert high == pytest.approx(((80 - hidden) * tokens + hidden * max(2 * tokens, 200) / 2) / 8000)


def test_a_gain_is_looked_at_with_the_missing_answers_in_its_favour(bench: Any) -> None:
    """A gain that is nearly suspect is so for sure if what failed may have been right."""
    seen = bench.run(losses=4, gains=20)
    hidden = bench.hide(seen, "mmlu", 40)
    assert not guards(bench, seen, "mmlu")["implausible-gain"].breached
    assert guards(bench, hidden, "mmlu")["implausible-gain"].breached
    rated = bench.run(mean=0.4)
    assert not guards(bench, rated)["implausible-gain"].breached
    assert guards(bench, bench.hide(rated, "mt-bench", 4))["implausible-gain"].breached


@pytest.mark.parametrize(("hidden", "breached"), [(0, False), (4, True)])
def test_letters_that_never_came_are_not_readable_ones(make_bench: Make, hidden: int, breached: bool) -> None:
    bench = make_bench()
    comparison = bench.compare(bench.hide(generated(bench.run(), 0), "mmlu", hidden), generated(bench.baseline, 0))
    result = evaluate(bench.policy, "mmlu", comparison["mmlu"])
    found = {guard.guard: guard for guard in guard_results(bench.policy, result, comparison["mmlu"], None)}
    assert found["invalid-answers"].breached is breached
    assert (f", {hidden} missing" in found["invalid-answers"].message) is (hidden > 0)


@pytest.mark.parametrize(("hidden", "breached"), [(0, False), (6, True)])
def test_an_answer_that_never_came_may_have_tripped_every_gate(make_bench: Make, hidden: int, breached: bool) -> None:
    bench = make_bench(judge=JudgeRules(gate_increase_max=0.0))
    run = bench.hide(bench.run(), "mt-bench", hidden)
    assert guards(bench, run)["gates"].breached is breached
    assert all(row.candidate == 0 for row in bench.compare(run)["mt_bench"].gates.gates)
