"""Judged conversations: the question is the unit, and every judgment that should be there is accounted for."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison import Comparison, ComparisonSettings, compare

NAN = np.nan


def scores(*questions: Any) -> np.ndarray:
    """Scores given as question, turn, repeat; a bare number stands for one repeat."""
    array = np.array(questions, dtype=float)
    return array[..., np.newaxis] if array.ndim == 2 else array


def compared(made: ModuleType, left: np.ndarray, right: np.ndarray, **settings: Any) -> Comparison:
    baseline, candidate = made.make_run("baseline", scores=left), made.make_run("candidate", scores=right)
    return compare(baseline, candidate, "mt-bench", ComparisonSettings(**settings))


def without_judgments(run: Any, keep: Any) -> Any:
    return replace(run, judgments={"mt-bench": tuple(j for j in run.judgments["mt-bench"] if keep(j))})


def changed_judgment(run: Any, at: int, **changes: Any) -> Any:
    judged = list(run.judgments["mt-bench"])
    judged[at] = replace(judged[at], **changes)
    return replace(run, judgments={"mt-bench": tuple(judged)})


def test_a_questions_score_is_the_mean_over_turns_and_repeats(made: ModuleType) -> None:
    left = scores([[4, 6], [8, 10]], [[5, 5], [5, 5]])
    right = scores([[4, 4], [8, 8]], [[7, 8], [7, 8]])
    rating = compared(made, left, right).rating
    assert rating is not None
    assert sorted((q.baseline, q.candidate, q.difference) for q in rating.questions) == [
        (5.0, 7.5, 2.5),
        (7.0, 6.0, -1.0),
    ]
    assert rating.mean.difference == pytest.approx(0.75)
    assert (rating.mean.n, rating.repeats, rating.generations) == (2, 2, 1)
    assert (rating.mean.higher, rating.mean.equal, rating.mean.lower) == (1, 0, 1)
    assert [(g.name, g.n, g.baseline, g.candidate) for g in rating.turns] == [
        ("turn 1", 2, 5.0, 5.75),
        ("turn 2", 2, 7.0, 7.75),
    ]


def test_the_interval_is_students_over_questions_at_the_level_asked_for(made: ModuleType) -> None:
    left, right = made.chat_scores(20, shift=-0.2, seed=1, repeats=2)
    rating = compared(made, left, right, level=0.90).rating
    assert rating is not None
    d = (right - left).mean(axis=(1, 2))
    low, high = stats.t.interval(0.90, 19, loc=d.mean(), scale=stats.sem(d))
    assert rating.mean.interval is not None
    assert (rating.mean.interval.lower, rating.mean.interval.upper) == pytest.approx((low, high))
    assert rating.mean.sd == pytest.approx(d.std(ddof=1))
    wide = stats.t.interval(0.99, 19, loc=d.mean(), scale=stats.sem(d))
    assert rating.mean.wide_interval is not None
    assert (rating.mean.wide_interval.lower, rating.mean.wide_interval.upper) == pytest.approx(wide)


def test_several_answers_to_a_question_are_averaged_before_they_count(made: ModuleType) -> None:
    def twice(name: str, first: np.ndarray, second: np.ndarray) -> Any:
        run = made.make_run(name, scores=first)
        again = tuple(replace(record, sample=1) for record in run.records["mt-bench"])
        task = replace(run.manifest.tasks["mt-bench"], planned=4, settings={"generations": 2})
        judge = replace(run.manifest.judges["mt-bench"], planned=8)
        return replace(
            run,
            manifest=replace(run.manifest, tasks={"mt-bench": task}, judges={"mt-bench": judge}),
            records={"mt-bench": (*run.records["mt-bench"], *again)},
            judgments={"mt-bench": (*run.judgments["mt-bench"], *made.judgments(again, second))},
        )

    left = twice("baseline", scores([4, 6], [5, 5]), scores([8, 10], [5, 5]))
    right = twice("candidate", scores([4, 4], [6, 6]), scores([8, 8], [8, 10]))
    comparison = compare(left, right, "mt-bench")
    assert comparison.faults == ()
    assert comparison.planned == 2
    rating = comparison.rating
    assert rating is not None
    assert rating.generations == 2
    assert sorted((q.baseline, q.candidate) for q in rating.questions) == [(5.0, 7.5), (7.0, 6.0)]
    assert comparison.coverage is not None
    assert comparison.coverage.baseline.planned == 4


def test_a_missing_judgment_is_the_lowest_or_highest_score_never_a_missing_question(made: ModuleType) -> None:
    left = scores([5, 5], [6, 8], [4, NAN])
    right = scores([7, NAN], [6, 6], [4, 5])
    comparison = compared(made, left, right)
    rating = comparison.rating
    assert rating is not None
    d = rating.mean.differences
    assert sorted(d.observed) == pytest.approx([-1.0, 0.5, 2.0])
    # candidate's gap 1, baseline's gap 10: (7+1)/2 - 5, 6 - 7, 4.5 - (4+10)/2
    assert sorted(d.unfavourable) == pytest.approx(sorted([-1.0, -1.0, -2.5]))
    # candidate's gap 10, baseline's gap 1: (7+10)/2 - 5, 6 - 7, 4.5 - (4+1)/2
    assert sorted(d.favourable) == pytest.approx(sorted([3.5, -1.0, 2.0]))
    coverage = comparison.coverage
    assert coverage is not None
    assert coverage.candidate_judgments is not None
    assert (coverage.candidate_judgments.planned, coverage.candidate_judgments.scored) == (6, 5)
    assert (coverage.candidate_judgments.failed, coverage.candidate_judgments.absent) == ({"unparsed": 1}, 0)
    assert coverage.candidate.missing == 0
    assert coverage.excluded == {}


def test_a_judgment_that_was_never_made_is_absent(made: ModuleType) -> None:
    left, right = scores([5, 5], [6, 8]), scores([7, 7], [6, 6])
    baseline, candidate = made.make_run("baseline", scores=left), made.make_run("candidate", scores=right)
    lost = without_judgments(candidate, lambda judgment: judgment.turn == 1)
    comparison = compare(baseline, lost, "mt-bench")
    assert comparison.coverage is not None
    judged = comparison.coverage.candidate_judgments
    assert judged is not None
    assert (judged.planned, judged.scored, judged.failed, judged.absent) == (4, 2, {}, 2)


def test_a_question_without_any_rating_on_a_side_is_excluded_by_reason_and_filled(made: ModuleType) -> None:
    left, right = scores([5, 5], [6, 8], [4, 4]), scores([7, 7], [NAN, NAN], [5, 5])
    comparison = compared(made, left, right)
    assert comparison.coverage is not None
    assert comparison.coverage.excluded == {"candidate-unrated": 1}
    assert comparison.rating is not None
    mean = comparison.rating.mean
    assert (mean.n, mean.planned) == (2, 3)
    assert mean.difference == pytest.approx(1.5)
    assert sorted(mean.differences.unfavourable) == pytest.approx([1 - 7, 1.0, 2.0])
    assert sorted(mean.differences.favourable) == pytest.approx([1.0, 2.0, 10 - 7])


def test_questions_that_neither_run_asked_are_filled_over_the_whole_scale(made: ModuleType) -> None:
    left, right = scores([5, 5], [6, 8]), scores([7, 7], [6, 6])

    def longer(run: Any) -> Any:
        task = replace(run.manifest.tasks["mt-bench"], planned=3)
        return replace(run, manifest=replace(run.manifest, tasks={"mt-bench": task}))

    comparison = compare(
        longer(made.make_run("baseline", scores=left)), longer(made.make_run("candidate", scores=right)), "mt-bench"
    )
    assert comparison.rating is not None
    assert sorted(comparison.rating.mean.differences.unfavourable) == pytest.approx([-9.0, -1.0, 2.0])
    assert sorted(comparison.rating.mean.differences.favourable) == pytest.approx([-1.0, 2.0, 9.0])
    assert comparison.coverage is not None
    assert comparison.coverage.excluded == {"baseline-unrated": 1, "candidate-unrated": 1}


def test_a_loss_of_exactly_the_drop_is_a_drop(made: ModuleType) -> None:
    left = scores([9, 9], [9, 9], [5, 5], [2, 2])
    right = scores([5, 5], [6, 5], [5, 5], [6, 7])
    rating = compared(made, left, right, drop=4.0).rating
    assert rating is not None
    assert (rating.drop, rating.drops, rating.gains) == (4.0, 1, 1)  # -4, -3.5, 0, +4.5
    assert [q.difference for q in rating.questions] == [-4.0, -3.5, 0.0, 4.5]


def test_equal_scores_throughout_have_no_interval_and_say_why(made: ModuleType) -> None:
    same = scores([5, 5], [6, 8], [4, 4])
    rating = compared(made, same, same).rating
    assert rating is not None
    assert rating.mean.difference == 0.0
    assert rating.mean.interval is None
    assert rating.mean.sd is None
    assert "standard error of zero" in rating.mean.unavailable["interval"]


def test_the_spread_of_repeated_judgments_is_pooled_over_answers(made: ModuleType) -> None:
    left = scores([[4, 6], [5, 5]], [[7, 7], [7, 9]])
    right = scores([[4, 4], [5, 5]], [[7, 7], [7, 7]])
    rating = compared(made, left, right).rating
    assert rating is not None
    assert rating.judgment_sd == pytest.approx(math.sqrt((2 + 0 + 0 + 2 + 0 * 4) / 8))  # variances with divisor J - 1
    once = compared(made, scores([4, 5], [7, 8]), scores([4, 4], [7, 7])).rating
    assert once is not None
    assert once.judgment_sd is None


def test_categories_are_the_subjects_of_the_questions(made: ModuleType) -> None:
    left, right = scores(*[[5, 5]] * 9), scores(*[[6, 6]] * 8, [2, 2])
    rating = compared(made, left, right).rating
    assert rating is not None
    assert [(g.name, g.n) for g in rating.categories] == [
        ("subject-00", 2),
        *((f"subject-0{k}", 1) for k in range(1, 8)),
    ]
    assert rating.categories[0].candidate == pytest.approx((6 + 2) / 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_sha256": "0" * 64}, "an answer that is no longer there"),
        ({"score": 11.0}, "off the scale 1 to 10"),
        ({"score": 0.5}, "off the scale 1 to 10"),
        ({"turn": 3}, "no answer of this run"),
        ({"turn": 10**12}, "no answer of this run"),
        ({"repeat": 1}, "no answer of this run"),
        ({"sample": 1}, "no answer of this run"),
        ({"item_sha256": "1" * 64}, "no answer of this run"),
    ],
)
def test_a_judgment_that_belongs_nowhere_is_a_fault_and_counts_for_nothing(
    made: ModuleType, change: dict[str, Any], said: str
) -> None:
    baseline = made.make_run("baseline", scores=scores([5, 5], [6, 8]))
    candidate = changed_judgment(made.make_run("candidate", scores=scores([7, 7], [6, 6])), 0, **change)
    comparison = compare(baseline, candidate, "mt-bench")
    (fault,) = comparison.faults
    assert fault.code == "pairing"
    assert fault.message.startswith("candidate: ")
    assert said in fault.message
    assert comparison.coverage is not None
    assert comparison.coverage.candidate_judgments is not None
    assert comparison.coverage.candidate_judgments.scored == 3


def test_a_second_judgment_of_one_answer_is_a_fault(made: ModuleType) -> None:
    baseline = made.make_run("baseline", scores=scores([5, 5], [6, 8]))
    candidate = made.make_run("candidate", scores=scores([7, 7], [6, 6]))
    first = candidate.judgments["mt-bench"][0]
    twice = replace(candidate, judgments={"mt-bench": (*candidate.judgments["mt-bench"], replace(first, score=9.0))})
    (fault,) = compare(baseline, twice, "mt-bench").faults
    assert fault.code == "pairing"
    assert "second judgment" in fault.message


def test_a_run_that_was_not_judged_is_a_coverage_fault(made: ModuleType) -> None:
    baseline = made.make_run("baseline", scores=scores([5, 5], [6, 8]))
    candidate = made.make_run("candidate", scores=scores([7, 7], [6, 6]))
    unjudged = replace(candidate, manifest=replace(candidate.manifest, judges={}), judgments={})
    comparison = compare(baseline, unjudged, "mt-bench")
    assert [fault.code for fault in comparison.faults] == ["coverage"]
    assert comparison.rating is None


def test_no_judgment_that_could_be_read_leaves_no_mean_and_no_crash(made: ModuleType) -> None:
    comparison = compared(made, scores([5, 5], [6, 8]), np.full((2, 2, 1), NAN))
    assert comparison.rating is not None
    mean = comparison.rating.mean
    assert (mean.n, mean.difference, mean.candidate_mean) == (0, None, None)
    assert comparison.coverage is not None
    assert comparison.coverage.candidate_judgments is not None
    assert comparison.coverage.candidate_judgments.missing_share == 1.0
    assert comparison.coverage.candidate_judgments.failed == {"unparsed": 4}
