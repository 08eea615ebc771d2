"""Pairwise judgings: net win, orders that disagree, the advantage of being shown first, missing games."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison import PairwiseComparison, compare
from evalkit.records import Judgment, TextReply, digest, text_digest

TASK, NAME = "mt-bench", "mt-bench@pair"
Verdict = Callable[[int, int, int], float | None]
"""Question, turn (0-based), game (even: candidate first) to a score of the candidate, None for no verdict."""


def paired(made: ModuleType, verdict: Verdict, *, questions: int = 12, repeats: int = 1, rule: Any = None) -> Any:
    """A baseline and a candidate whose answers were compared by `verdict`."""
    scores = np.full((questions, 2, 1), 6.0)
    scores[:, 0, 0] += np.arange(questions) % 2
    baseline = made.make_run("baseline", scores=scores)
    candidate = made.make_run("candidate", scores=scores[::-1].copy(), tokens=120)
    judgments = [
        judgment
        for at, record in enumerate(candidate.records[TASK])
        for turn in range(2)
        for game in range(2 * repeats)
        if (judgment := game_of(baseline, record, at, turn, game, verdict, rule)) is not None
    ]
    judge = replace(
        made.judge_run(questions * 4 * repeats, repeats),
        profile="pair",
        mode="pairwise",
        scale=(-1.0, 1.0),
        opponent_sha256=baseline.manifest.engine.sha256,
    )
    manifest = replace(candidate.manifest, judges={**candidate.manifest.judges, NAME: judge})
    judged = {**candidate.judgments, NAME: tuple(judgments)}
    return baseline, replace(candidate, manifest=manifest, judgments=judged)


def game_of(
    baseline: Any, record: Any, at: int, turn: int, game: int, verdict: Verdict, rule: Any = None
) -> Judgment | None:
    score = verdict(at, turn, game)
    other = baseline.records[TASK][at]
    texts = [[one.text for one in side.reply.turns[: turn + 1]] for side in (record, other)]
    ruled = rule is not None and rule(at, turn)
    return Judgment(
        key=text_digest(f"{at}/{turn}/{game}"),
        task=TASK,
        subject=record.subject,
        item_sha256=record.item_sha256,
        occurrence=record.occurrence,
        sample=0,
        turn=turn + 1,
        repeat=game,
        answer_sha256=digest(texts),
        status="rule" if ruled else "ok" if score is not None else "unparsed",
        score=score,
        text="",
        details={"rule": ruled} if ruled else {},
    )


def result(made: ModuleType, verdict: Verdict, **how: Any) -> PairwiseComparison:
    comparison = compare(*paired(made, verdict, **how), TASK)
    assert comparison.faults == ()
    (found,) = comparison.pairwise
    return found


def test_a_judge_that_always_prefers_the_first_answer_gives_zero_and_a_bias_of_one(made: ModuleType) -> None:
    found = result(made, lambda _at, _turn, game: 1.0 if game % 2 == 0 else -1.0)
    assert found.net_win.difference == 0.0
    assert found.position_bias == 1.0
    assert found.inconsistent == 1.0
    assert (found.games.wins, found.games.losses, found.games.pairs_won, found.games.win_rate) == (24, 24, 0, 0.5)
    assert found.net_win.interval is None  # nothing varies, and no interval is made up


def test_a_judge_that_always_prefers_the_second_has_the_opposite_bias(made: ModuleType) -> None:
    found = result(made, lambda _at, _turn, game: -1.0 if game % 2 == 0 else 1.0)
    assert (found.net_win.difference, found.position_bias) == (0.0, -1.0)


def test_a_consistent_judge_has_no_bias(made: ModuleType) -> None:
    found = result(made, lambda at, _turn, _game: 1.0 if at < 9 else -1.0)
    assert found.net_win.difference == pytest.approx(0.5)
    assert (found.position_bias, found.inconsistent) == (0.0, 0.0)
    assert (found.games.pairs_won, found.games.pairs_lost, found.games.win_rate) == (18, 6, 0.75)
    w = np.repeat([1.0, -1.0], [9, 3])
    assert found.net_win.interval is not None
    low, high = stats.t.interval(0.90, 11, loc=w.mean(), scale=stats.sem(w))
    assert (found.net_win.interval.lower, found.net_win.interval.upper) == pytest.approx((low, high))


def test_a_question_is_the_mean_over_orders_and_turns(made: ModuleType) -> None:
    def verdict(at: int, turn: int, game: int) -> float:
        return {0: 1.0, 1: 0.0}[game] if (at, turn) == (0, 0) else 0.0

    found = result(made, verdict)
    assert found.net_win.difference == pytest.approx(0.25 / 12)
    assert found.inconsistent == pytest.approx(1 / 24)
    assert found.position_bias == pytest.approx(1 / 48)


def test_a_pair_with_one_order_missing_is_missing(made: ModuleType) -> None:
    def verdict(at: int, _turn: int, game: int) -> float | None:
        return None if (at, game) == (0, 1) else 1.0 if at < 6 else -1.0

    found = result(made, verdict)
    assert (found.coverage.planned, found.coverage.scored, dict(found.coverage.failed)) == (48, 46, {"unparsed": 2})
    assert found.games.pairs == 22
    assert found.net_win.n == 11
    assert found.net_win.difference == pytest.approx(-1 / 11)
    assert (found.worst, found.best) == pytest.approx(((5 - 1 - 6) / 12, (5 + 1 - 6) / 12))


def test_games_by_rule_count_and_say_nothing_of_the_judge(made: ModuleType) -> None:
    def verdict(at: int, _turn: int, game: int) -> float:
        return 0.0 if at < 4 else (1.0 if game % 2 == 0 else -1.0)

    found = result(made, verdict, rule=lambda at, _turn: "identical" if at < 4 else None)
    assert (found.games.ruled, found.games.identical, found.games.ties) == (16, 16, 16)
    assert (found.position_bias, found.inconsistent) == (1.0, 1.0)


def test_repeats_are_played_in_both_orders_too(made: ModuleType) -> None:
    found = result(made, lambda at, _turn, game: 1.0 if game % 2 == 0 or at < 6 else -1.0, repeats=3)
    assert (found.coverage.planned, found.coverage.scored, found.repeats) == (144, 144, 3)
    assert found.net_win.difference == pytest.approx(0.5)
    assert found.position_bias == pytest.approx(0.5)


def test_games_of_other_answers_or_against_another_run_are_not_counted(made: ModuleType) -> None:
    baseline, candidate = paired(made, lambda at, _turn, _game: 1.0 if at < 6 else 0.0)
    other = replace(baseline, manifest=replace(baseline.manifest, engine=made.identity("another")))
    assert compare(other, candidate, TASK).pairwise == ()
    changed = list(baseline.records[TASK])
    turns = (replace(changed[0].reply.turns[0], text="another answer"), changed[0].reply.turns[1])
    changed[0] = replace(changed[0], reply=TextReply(turns=turns))
    moved = replace(baseline, records={TASK: tuple(changed)})
    (found,) = compare(moved, candidate, TASK).pairwise
    assert "no longer there" in found.faults[0].message
    assert found.net_win.n == 11


def test_net_win_at_equal_length_takes_out_what_length_explains(made: ModuleType) -> None:
    baseline, candidate = paired(made, lambda at, _turn, _game: 1.0 if at % 3 else -1.0, questions=30)
    lengths = np.where(np.arange(30) % 3 > 0, 200, 50)
    records = [
        replace(
            record,
            reply=TextReply(turns=tuple(replace(turn, completion_tokens=int(tokens)) for turn in record.reply.turns)),
        )
        for record, tokens in zip(candidate.records[TASK], lengths, strict=True)
    ]
    jitter = np.random.default_rng(3).integers(90, 111, size=30)
    theirs = [
        replace(
            record,
            reply=TextReply(turns=tuple(replace(turn, completion_tokens=int(tokens)) for turn in record.reply.turns)),
        )
        for record, tokens in zip(baseline.records[TASK], jitter, strict=True)
    ]
    left = replace(baseline, records={TASK: tuple(theirs)})
    right = replace(candidate, records={TASK: tuple(records)})
    (found,) = compare(left, right, TASK).pairwise
    assert found.net_win.difference == pytest.approx(1 / 3)
    assert found.at_equal_length is not None
    x, y = np.log(lengths / jitter), np.where(np.arange(30) % 3 > 0, 1.0, -1.0)
    fit = stats.linregress(x, y)
    assert found.at_equal_length.slope == pytest.approx(fit.slope)
    assert found.at_equal_length.intercept == pytest.approx(fit.intercept)
    half = stats.t.ppf(0.95, 28) * fit.intercept_stderr
    assert found.at_equal_length.interval.upper == pytest.approx(fit.intercept + half)


def test_a_run_without_pairs_has_none(made: ModuleType) -> None:
    scores = np.full((12, 2, 1), 6.0)
    runs = (made.make_run(name, scores=scores) for name in ("baseline", "candidate"))
    assert compare(*runs, TASK).pairwise == ()
