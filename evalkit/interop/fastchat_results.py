"""What FastChat's `show_result` reports, from its own files.

In: rows of judgment files. Out: its means and win rates, with what it leaves unsaid.
May not know: evalkit's own estimates, which differ on purpose.

FastChat drops scores of -1, averages all rows that are left (so "average" is no mean of the two turns where one lost
more rows), and mixes judges, answers and duplicates of one model name. The numbers here are the same to the last
digits; `dropped`, `judges` and `duplicates` say what they hide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from evalkit.errors import DataError
from evalkit.interop.fastchat_rows import Row, whole, words


@dataclass(frozen=True, kw_only=True)
class FastChatMean:
    """One model's row of the table for single answers.

    Attributes:
        model: name.
        turns: turn to mean score.
        average: mean of all rows that are left.
        rows: rows that are left.
        dropped: rows with a score of -1, which FastChat passes over in silence.
        judges: judges whose scores are mixed.
        duplicates: rows beyond the first for one judge, prompt, question and turn.
    """

    model: str
    turns: dict[int, float]
    average: float | None
    rows: int
    dropped: int
    judges: tuple[str, ...]
    duplicates: int


def fastchat_means(rows: Iterable[Row]) -> list[FastChatMean]:
    """Return FastChat's table for single answers, by model name.

    Raises:
        DataError: a row is no judgment.
    """
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[words(row, "model")].append(row)
    return [_mean(model, found) for model, found in sorted(by_model.items())]


def _mean(model: str, rows: list[Row]) -> FastChatMean:
    scores: dict[int, list[float]] = defaultdict(list)
    keys: Counter[str] = Counter()
    dropped = 0
    for row in rows:
        score = row.data.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise DataError(f"{row.place}: 'score' is {score!r}, not a number")
        turn = whole(row, "turn")
        keys[f"{row.data.get('judge')}/{whole(row, 'question_id')}/{turn}"] += 1
        if score == -1:
            dropped += 1
        else:
            scores[turn].append(float(score))
    left = [score for found in scores.values() for score in found]
    return FastChatMean(
        model=model,
        turns={turn: sum(found) / len(found) for turn, found in sorted(scores.items())},
        average=sum(left) / len(left) if left else None,
        rows=len(left),
        dropped=dropped,
        judges=tuple(sorted({str(row.data.get("judge")) for row in rows})),
        duplicates=sum(count - 1 for count in keys.values()),
    )


@dataclass(frozen=True, kw_only=True)
class FastChatWins:
    """One model's row of the table for pairs.

    Attributes:
        model: name.
        win, loss, tie: rows, both orders together: won or lost in both orders, everything else a tie.
        win_rate, loss_rate: shares of the rows.
        win_rate_adjusted: (win + half of the ties) / rows.
        dropped: rows with an error in either order, which FastChat passes over in silence.
    """

    model: str
    win: int
    loss: int
    tie: int
    win_rate: float
    loss_rate: float
    win_rate_adjusted: float
    dropped: int


def fastchat_wins(rows: Iterable[Row], baseline: str | None = None) -> list[FastChatWins]:
    """Return FastChat's table for pairs, of all rows or of those with a baseline, without the baseline's own row.

    Raises:
        DataError: a row is no pair.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        models = words(row, "model_1"), words(row, "model_2")
        if baseline is not None and baseline not in models:
            continue
        games = row.data.get("g1_winner", row.data.get("winner")), row.data.get("g2_winner", row.data.get("winner"))
        if "error" in games:
            for model in models:
                counts[model]["dropped"] += 1
            continue
        first = None if games[0] == "tie" or games[0] != games[1] else games[0]
        for model, own, other in zip(models, ("model_1", "model_2"), ("model_2", "model_1"), strict=True):
            counts[model]["win" if first == own else "loss" if first == other else "tie"] += 1
    return [
        _wins(model, found)
        for model, found in sorted(counts.items())
        if model != baseline and found["win"] + found["loss"] + found["tie"]
    ]


def _wins(model: str, found: Counter[str]) -> FastChatWins:
    n = found["win"] + found["loss"] + found["tie"]
    return FastChatWins(
        model=model,
        win=found["win"],
        loss=found["loss"],
        tie=found["tie"],
        win_rate=found["win"] / n,
        loss_rate=found["loss"] / n,
        win_rate_adjusted=(found["win"] + 0.5 * found["tie"]) / n,
        dropped=found["dropped"],
    )
