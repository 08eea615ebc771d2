"""Place judgments: one score for each question, turn, generation and repeat.

In: aligned records and the judgments of one side. Out: an array of scores with NaN for what is missing, and faults.
Must not depend on: the other side's scores, margins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evalkit.comparison.means import FilledDifferences, fill
from evalkit.comparison.pairing import SideCoverage
from evalkit.comparison.runs import Fault
from evalkit.records.canonical import digest
from evalkit.records.manifest import JudgeRun
from evalkit.records.record import Judgment, Record, TextReply
from evalkit.statistics.checks import Floats

Question: TypeAlias = tuple[str, str, int]
"""Subject, digest, occurrence."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where scores have their place.

    Attributes:
        questions: sorted, shape (q,).
        turns: turns of each question, shape (q,).
        generations: answers to each question.
        repeats: judgments of each answer.
    """

    questions: tuple[Question, ...]
    turns: tuple[int, ...]
    generations: int
    repeats: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Questions, turns of the longest question, generations, repeats."""
        return (len(self.questions), max(self.turns, default=1), self.generations, self.repeats)

    @property
    def places(self) -> np.ndarray:
        """True where a score belongs, of `shape`."""
        turns = np.arange(self.shape[1])[np.newaxis, :] < np.array(self.turns, dtype=np.int64)[:, np.newaxis]
        return np.broadcast_to(turns[:, :, np.newaxis, np.newaxis], self.shape)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one side.

    Attributes:
        values: of the grid's shape, NaN where missing.
        coverage: judgments planned and scored.
        faults: judgments that belong nowhere, twice, or to another answer.
        ruled: True where a rule gave the score without asking, of the grid's shape; None if not looked at.
    """

    values: Floats
    coverage: SideCoverage
    faults: tuple[Fault, ...]
    ruled: NDArray[np.bool_] | None = None


def score_grid(sides: Sequence[Sequence[Record | None]], judge: JudgeRun, planned: int, generations: int) -> Grid:
    """Lay out the questions either side has seen.

    A question's turns are those of the longest answer on either side; where nothing arrived, the plan's average.

    Args:
        sides: aligned records of each side.
        judge: who judged.
        planned: questions of a complete run.
        generations: answers to each question.
    """
    turns: dict[Question, int] = {}
    average = max(1, round(judge.planned / max(1, planned * generations * judge.repeats)))
    for records in sides:
        for record in records:
            if record is not None:
                seen = len(record.reply.turns) if isinstance(record.reply, TextReply) else 0
                key = (record.subject, record.item_sha256, record.occurrence)
                turns[key] = max(turns.get(key, 0), seen)
    questions = tuple(sorted(turns))
    return Grid(
        questions=questions,
        turns=tuple(turns[question] or average for question in questions),
        generations=generations,
        repeats=judge.repeats,
    )


def place_scores(
    side: str,
    grid: Grid,
    records: Sequence[Record | None],
    judgments: Sequence[Judgment],
    judge: JudgeRun,
    *,
    opponent: Sequence[Record | None] | None = None,
) -> Scores:
    """Place one side's judgments on the grid; a judgment without a rating leaves its place missing.

    `opponent` are the records a pairwise judging compared with: then a judgment is about the answers of both.
    """
    values, ruled = np.full(grid.shape, np.nan), np.zeros(grid.shape, dtype=bool)
    rows = {question: at for at, question in enumerate(grid.questions)}
    answers = _answers(records)
    others = _answers(opponent) if opponent is not None else None
    faults: dict[str, str] = {}
    unrated: Counter[str] = Counter()
    taken: set[tuple[int, int, int, int]] = set()
    for judgment in judgments:
        question = (judgment.subject, judgment.item_sha256, judgment.occurrence)
        name = f"{'/'.join(map(str, question))}/{judgment.sample}/{judgment.turn}/{judgment.repeat}"
        given = answers.get((*question, judgment.sample))
        if given is None or not (1 <= judgment.turn <= len(given) and 0 <= judgment.repeat < grid.repeats):
            faults.setdefault("judgment(s) of no answer of this run", name)
            continue
        place = (rows[question], judgment.turn - 1, judgment.sample, judgment.repeat)
        if place[2] >= grid.generations or place in taken:
            faults.setdefault("second judgment(s) of one and the same answer", name)
            continue
        taken.add(place)
        if judgment.answer_sha256 != _judged(given, others, (*question, judgment.sample), judgment.turn):
            faults.setdefault("judgment(s) of an answer that is no longer there", name)
        elif judgment.score is None:
            unrated[judgment.status] += 1
        elif not judge.scale[0] <= judgment.score <= judge.scale[1]:
            faults.setdefault(f"score(s) off the scale {judge.scale[0]:g} to {judge.scale[1]:g}", name)
        else:
            values[place], ruled[place] = judgment.score, judgment.status == "rule"
    return Scores(
        values=values,
        coverage=_coverage(judge.planned, int(np.count_nonzero(~np.isnan(values))), unrated),
        faults=tuple(
            Fault(code="pairing", message=f"{side}: {what}, the first {name}; next step: judge the run again")
            for what, name in faults.items()
        ),
        ruled=ruled,
    )


def _judged(given: Sequence[str], others: _Answers | None, key: tuple[str, str, int, int], turn: int) -> str:
    """Return the digest of the texts that a judgment of a turn must be about."""
    texts = list(given[:turn])
    return digest(texts) if others is None else digest([texts, list(others.get(key, ())[:turn])])


_Answers: TypeAlias = Mapping[tuple[str, str, int, int], tuple[str, ...]]
"""Subject, digest, occurrence, sample to the answers of all turns."""


def _answers(records: Sequence[Record | None]) -> _Answers:
    return {
        (record.subject, record.item_sha256, record.occurrence, record.sample): tuple(
            turn.text for turn in record.reply.turns
        )
        for record in records
        if record is not None and isinstance(record.reply, TextReply)
    }


def _coverage(planned: int, scored: int, unrated: Counter[str]) -> SideCoverage:
    return SideCoverage(
        planned=planned,
        scored=scored,
        failed=dict(sorted(unrated.items())),
        absent=max(0, planned - scored - sum(unrated.values())),
    )


def question_means(values: Floats) -> Floats:
    """Return each question's mean of what is there, shape (q,); NaN where nothing is."""
    return mean_of_present(values, axis=(1, 2, 3))


def mean_of_present(values: Floats, axis: tuple[int, ...]) -> Floats:
    """Return the mean over some axes of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    counts = there.sum(axis=axis)
    sums = np.where(there, values, 0.0).sum(axis=axis)
    means: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means


def spread_of_judgments(values: Floats) -> float | None:
    """Return the standard deviation of repeated judgments of one answer, pooled; None without repeats."""
    flat = values.reshape(-1, values.shape[-1])
    return _pooled_sd(flat)


def spread_of_generations(values: Floats, judgments_sd: float | None) -> float | None:
    """Return the standard deviation of a question's mean over generations of an answer, without that of judging.

    None without several generations, or without repeats to tell the judge's spread from the model's.
    """
    if values.shape[2] < 2 or judgments_sd is None:
        return None
    complete = values[~np.isnan(values).any(axis=(1, 2, 3))]
    if not complete.size:
        return None
    total = _pooled_sd(complete.mean(axis=(1, 3)))
    if total is None:
        return None
    judging = judgments_sd**2 / (values.shape[1] * values.shape[3])
    return float(np.sqrt(max(0.0, total**2 - judging)))


def _pooled_sd(rows: Floats) -> float | None:
    complete = rows[~np.isnan(rows).any(axis=1)]
    if complete.shape[0] == 0 or complete.shape[1] < 2:
        return None
    return float(np.sqrt(complete.var(axis=1, ddof=1).mean()))


# How far missing judgments, and answers scored by rule, could move a mean rating.


@dataclass(frozen=True, kw_only=True)
class RatingBounds:
    """Limits that no missing judgment could push a mean past.

    Attributes:
        baseline, candidate: lowest and highest mean rating: everything missing at the end of the scale.
        difference: lowest and highest mean difference: everything missing against the candidate, and for it.
        missing: judgments missing on either side.
    """

    baseline: tuple[float, float]
    candidate: tuple[float, float]
    difference: tuple[float, float]
    missing: int


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """What scoring unreadable answers by rule does to the difference.

    Attributes:
        baseline, candidate: answers (turns and repeats) scored by rule.
        without: mean difference if every place where either side was scored by rule is left out; None if none is left.
    """

    baseline: int
    candidate: int
    without: float | None


def filled_differences(
    grid: Grid, left: Floats, right: Floats, unseen: int, scale: tuple[float, float]
) -> FilledDifferences:
    """Fill judgment by judgment, then average: one missing judgment is not a missing question."""
    low, high = scale
    seen = fill(question_means(left), question_means(right), unseen, scale)

    def filled(values: Floats, value: float) -> Floats:
        return question_means(np.where(grid.places & np.isnan(values), value, values))

    worst, best = filled(right, low) - filled(left, high), filled(right, high) - filled(left, low)
    return FilledDifferences(
        observed=seen.observed,
        unfavourable=np.concatenate([worst, np.full(unseen, low - high)]),
        favourable=np.concatenate([best, np.full(unseen, high - low)]),
    )


def rating_bounds(
    grid: Grid, baseline: Floats, candidate: Floats, filled: FilledDifferences, scale: tuple[float, float]
) -> RatingBounds | None:
    """Return the bounds; None without any planned question."""
    if filled.unfavourable.size == 0:
        return None
    unseen = filled.unfavourable.size - len(grid.questions)
    missing = sum(int((grid.places & np.isnan(values)).sum()) for values in (baseline, candidate))
    return RatingBounds(
        baseline=_limits(grid, baseline, unseen, scale),
        candidate=_limits(grid, candidate, unseen, scale),
        difference=(float(filled.unfavourable.mean()), float(filled.favourable.mean())),
        missing=missing,
    )


def panel_bounds(judges: Sequence[RatingBounds]) -> RatingBounds:
    """Return the bounds of a panel, in which each judge has the same weight; none of its repeats is averaged away."""
    count = len(judges)

    def middle(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return math.fsum(low for low, _ in limits) / count, math.fsum(high for _, high in limits) / count

    return RatingBounds(
        baseline=middle([one.baseline for one in judges]),
        candidate=middle([one.candidate for one in judges]),
        difference=middle([one.difference for one in judges]),
        missing=sum(one.missing for one in judges),
    )


def _limits(grid: Grid, values: Floats, unseen: int, scale: tuple[float, float]) -> tuple[float, float]:
    means = []
    for end in scale:
        questions = question_means(np.where(grid.places & np.isnan(values), end, values))
        means.append(float(np.concatenate([questions, np.full(unseen, end)]).mean()))
    return means[0], means[1]


def rule_effect(baseline: Scores, candidate: Scores) -> RuleEffect | None:
    """Return what the rule does; None where no answer was scored by rule."""
    left, right = baseline.ruled, candidate.ruled
    if left is None or right is None or not (left.any() or right.any()):
        return None
    either = left | right
    means = [question_means(np.where(either, np.nan, side.values)) for side in (baseline, candidate)]
    differences = means[1] - means[0]
    kept = differences[~np.isnan(differences)]
    return RuleEffect(
        baseline=int(left.sum()),
        candidate=int(right.sum()),
        without=float(kept.mean()) if kept.size else None,
    )
