"""Pairwise judgments: net win over the baseline, and what the order of showing does to it.

In: aligned records and the games of the candidate against the baseline. Out: `PairwiseComparison`.
Must not depend on: margins, verdicts.

A game is 1 (the candidate's answer is better), 0 or -1; every pair is played in both orders. A question's score is the
mean over turns, generations, repeats and orders. A pair with one order missing is missing: half of it would carry the
judge's liking for a place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.comparison.means import Attempts, FilledDifferences, GroupMean, MeanComparison, mean_comparison
from evalkit.comparison.pairing import SideCoverage
from evalkit.comparison.ratings import Grid, Scores, mean_of_present, place_scores, question_means, score_grid
from evalkit.comparison.runs import Fault
from evalkit.records.manifest import JudgeRun
from evalkit.records.record import Judgment, Record, TextReply
from evalkit.statistics.checks import Floats, Interval
from evalkit.statistics.clusters import cluster_wilson, clustered_mean
from evalkit.statistics.paired_means import Line, fitted_line

SCALE = (-1.0, 1.0)
ORDERS = 2
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Games:
    """Single choices of the judge, and pairs of them.

    Attributes:
        wins, ties, losses: games of the candidate, rule-scored ones included.
        ruled: of these, games without a question: equal texts, or an answer that nobody can read.
        identical: of these, games of texts that are equal to the letter.
        pairs: pairs with both orders.
        pairs_won, pairs_lost: pairs won, lost, in both orders; every other pair is a tie, as FastChat counts.
        win_rate: (won + half of the ties) / pairs, FastChat's adjusted win rate; None without any.
    """

    wins: int
    ties: int
    losses: int
    ruled: int
    identical: int
    pairs: int
    pairs_won: int
    pairs_lost: int
    win_rate: float | None


@dataclass(frozen=True, kw_only=True)
class PairwiseComparison:
    """A pairwise judging of the candidate against the baseline.

    Attributes:
        name: name of the judging.
        judge, judge_profile: model and profile.
        repeats: games of each pair in each order.
        net_win: mean of the question scores, from -1 to 1, as a difference from 0; the fills take missing games as lost
            and as won.
        worst, best: net win if every missing game was lost, and if it was won.
        games: counts.
        inconsistent: pairs whose two orders gave different verdicts, as a share of those asked; None without any.
        inconsistent_interval: 95 %, by question.
        position_bias: mean verdict in favour of the answer shown first, from -1 to 1, over games asked; None without.
        position_interval: 95 %, clustered by question; None where it cannot be made.
        at_equal_length: net win where both answers are equally long, from a line over log length ratios; None where it
            cannot be made.
        turns, categories: net win of parts (`candidate`), for reading.
        coverage: games planned and scored.
        faults: games that belong nowhere, or to other answers.
        unavailable: what could not be estimated, and why.
    """

    name: str
    judge: str
    judge_profile: str
    repeats: int
    net_win: MeanComparison
    worst: float | None
    best: float | None
    games: Games
    inconsistent: float | None
    inconsistent_interval: Interval | None
    position_bias: float | None
    position_interval: Interval | None
    at_equal_length: Line | None
    turns: tuple[GroupMean, ...]
    categories: tuple[GroupMean, ...]
    coverage: SideCoverage
    faults: tuple[Fault, ...]
    unavailable: Mapping[str, str]


def compare_pairs(
    name: str,
    judge: JudgeRun,
    judgments: Sequence[Judgment],
    baseline: Sequence[Record | None],
    candidate: Sequence[Record | None],
    *,
    planned: int,
    generations: int,
    level: float,
) -> PairwiseComparison:
    """Compare by the games of one pairwise judging.

    Args:
        name: name of the judging.
        judge: who judged the candidate's answers against the baseline's.
        judgments: its games.
        baseline, candidate: aligned records.
        planned: questions of a complete comparison.
        generations: answers to each question.
        level: of the interval of the net win.
    """
    games = _as_games(judge)
    grid = score_grid((baseline, candidate), games, max(1, planned), generations)
    scores = place_scores("candidate", grid, candidate, judgments, games, opponent=baseline)
    values = _both_orders(scores.values)
    filled = _filled(grid, values, max(0, planned - len(grid.questions)))
    zeros = np.where(np.isnan(question_means(values)), np.nan, 0.0)
    asked = np.where(_ruled(scores), np.nan, values)
    attempts = Attempts()
    position = _first_shown(asked)
    clusters = np.repeat(np.arange(len(grid.questions)), int(np.prod(grid.shape[1:])))
    kept = ~np.isnan(position)
    differing, asked_twice = _inconsistent(asked)
    of = sum(asked_twice)
    lengths = _log_lengths(grid, baseline, candidate)
    w = question_means(values)
    both = ~np.isnan(w) & ~np.isnan(lengths)
    return PairwiseComparison(
        name=name,
        judge=judge.identity.model,
        judge_profile=judge.profile,
        repeats=judge.repeats,
        net_win=mean_comparison("net win", zeros, w, filled, scale=SCALE, level=level),
        worst=float(filled.unfavourable.mean()) if filled.unfavourable.size else None,
        best=float(filled.favourable.mean()) if filled.favourable.size else None,
        games=_count(scores, values, judgments),
        inconsistent=differing / of if of else None,
        inconsistent_interval=attempts.make("inconsistent", lambda: cluster_wilson(differing / of, asked_twice, LEVEL))
        if of
        else None,
        position_bias=float(position[kept].mean()) if kept.any() else None,
        position_interval=attempts.make(
            "position", lambda: clustered_mean(position[kept], clusters[kept.ravel()]).interval(LEVEL)
        ),
        at_equal_length=attempts.make("at_equal_length", lambda: fitted_line(lengths[both], w[both], level)),
        turns=_turns(values),
        categories=_categories(grid, values),
        coverage=scores.coverage,
        faults=scores.faults,
        unavailable=attempts.unavailable,
    )


def _as_games(judge: JudgeRun) -> JudgeRun:
    """Return the judging with games instead of repeats: each pair is played in both orders."""
    return JudgeRun(
        profile=judge.profile,
        profile_sha256=judge.profile_sha256,
        references_sha256=judge.references_sha256,
        identity=judge.identity,
        repeats=judge.repeats * ORDERS,
        planned=judge.planned,
        scale=SCALE,
        mode=judge.mode,
        opponent_sha256=judge.opponent_sha256,
    )


def _both_orders(values: Floats) -> Floats:
    """Return games with those of a pair gone whose other order is missing."""
    pairs = values.reshape(*values.shape[:3], -1, ORDERS)
    lacking = np.isnan(pairs).any(axis=4, keepdims=True)
    whole: Floats = np.where(lacking, np.nan, pairs).reshape(values.shape)
    return whole


def _ruled(scores: Scores) -> np.ndarray:
    return scores.ruled if scores.ruled is not None else np.zeros(scores.values.shape, dtype=bool)


def _filled(grid: Grid, values: Floats, unseen: int) -> FilledDifferences:
    w = question_means(values)
    low, high = (question_means(np.where(grid.places & np.isnan(values), end, values)) for end in SCALE)
    return FilledDifferences(
        observed=w[~np.isnan(w)],
        unfavourable=np.concatenate([low, np.full(unseen, SCALE[0])]),
        favourable=np.concatenate([high, np.full(unseen, SCALE[1])]),
    )


def _first_shown(games: Floats) -> Floats:
    """Return each verdict as one on the answer shown first: even games show the candidate first."""
    signs = np.where(np.arange(games.shape[3]) % ORDERS == 0, 1.0, -1.0)
    shown: Floats = games * signs
    return shown


def _inconsistent(asked: Floats) -> tuple[int, list[int]]:
    """Return pairs whose two orders differ, and the number of pairs with both orders of each question that has any."""
    pairs = asked.reshape(asked.shape[0], -1, ORDERS)
    known = ~np.isnan(pairs).any(axis=2)
    sizes = known.sum(axis=1)
    return int(np.count_nonzero((pairs[..., 0] != pairs[..., 1]) & known)), sizes[sizes > 0].tolist()


def _count(scores: Scores, values: Floats, judgments: Sequence[Judgment]) -> Games:
    games = scores.values[~np.isnan(scores.values)]
    pairs = values.reshape(-1, ORDERS)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    won = int(np.count_nonzero((pairs > 0).all(axis=1)))
    lost = int(np.count_nonzero((pairs < 0).all(axis=1)))
    n = int(pairs.shape[0])
    identical = sum(found.status == "rule" and found.details.get("rule") == "identical" for found in judgments)
    return Games(
        wins=int(np.count_nonzero(games > 0)),
        ties=int(np.count_nonzero(games == 0)),
        losses=int(np.count_nonzero(games < 0)),
        ruled=int(_ruled(scores).sum()),
        identical=identical,
        pairs=n,
        pairs_won=won,
        pairs_lost=lost,
        win_rate=(won + (n - won - lost) / 2) / n if n else None,
    )


def _log_lengths(grid: Grid, baseline: Sequence[Record | None], candidate: Sequence[Record | None]) -> Floats:
    """Return the logarithm of candidate over baseline tokens of each question, NaN where a side wrote nothing."""
    sums = np.zeros((2, len(grid.questions)))
    rows = {question: at for at, question in enumerate(grid.questions)}
    for left, right in zip(baseline, candidate, strict=True):
        for side, record in enumerate((left, right)):
            other = (right, left)[side]
            if record is None or other is None or not isinstance(record.reply, TextReply):
                continue
            at = rows[record.subject, record.item_sha256, record.occurrence]
            sums[side, at] += sum(turn.completion_tokens for turn in record.reply.turns)
    known = (sums > 0).all(axis=0)
    lengths = np.full(len(grid.questions), np.nan)
    lengths[known] = np.log(sums[1, known] / sums[0, known])
    return lengths


def _turns(values: Floats) -> tuple[GroupMean, ...]:
    rows = []
    for turn in range(values.shape[1]):
        means = mean_of_present(values[:, turn], axis=(1, 2))
        rows += _group(f"turn {turn + 1}", means)
    return tuple(rows)


def _categories(grid: Grid, values: Floats) -> tuple[GroupMean, ...]:
    subjects = np.array([question[0] for question in grid.questions], dtype=str)
    w, rows = question_means(values), []
    for name in sorted(set(subjects.tolist())):
        rows += _group(name, w[subjects == name])
    return tuple(rows)


def _group(name: str, means: Floats) -> list[GroupMean]:
    there = means[~np.isnan(means)]
    if not there.size:
        return []
    return [GroupMean(name=name, n=int(there.size), baseline=0.0, candidate=float(there.mean()))]
