"""A rating from the probabilities a judge gives to the numbers of the scale, or a choice from those of three letters.

In: the log-probability of each as the judge's next words. Out: the mean rating or the choice, and the distribution.
May not know: what was judged.

Small judges often fail to write a rating, and never fail to have probabilities. The mean is also finer than a whole
number (G-Eval, Liu et al. 2023, arXiv:2303.16634, section 2, uses the same weighting).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.errors import DataError
from evalkit.judging.ratings import Choice, as_choice

CUE = "\n\nRating:"
"""What follows the question, so that a number is the natural next word."""

CHOICE_CUE = "\n\nBetter answer:"
"""The same for a letter."""

CHOICES = (" A", " B", " C")
"""The letters to score, as they follow `CHOICE_CUE`; C is a tie."""


@dataclass(frozen=True, kw_only=True)
class WeightedRating:
    """A probability-weighted rating.

    Attributes:
        score: mean of the numbers under `probabilities`.
        probabilities: of each number of the scale, lowest first; they sum to 1.
        mass: probability of any number of the scale as the next words, before normalising, in [0, 1]; a judge that
            wanted to say something else has little of it.
    """

    score: float
    probabilities: tuple[float, ...]
    mass: float


def continuations(scale: tuple[int, int]) -> tuple[str, ...]:
    """Return the texts to score: every whole number of the scale after a space, as it follows `CUE`."""
    return tuple(f" {number}" for number in range(scale[0], scale[1] + 1))


def weighted_rating(scale: tuple[int, int], logprobs: Sequence[float], tokens: Sequence[int]) -> WeightedRating:
    """Return the mean rating.

    A tokenizer that writes "10" as "1" and "0" gives "1" the probability of everything that begins with 1. Where a
    longer number of the scale has more tokens than its beginning, its probability is therefore taken off.

    Args:
        scale: lowest and highest rating, whole numbers.
        logprobs: of each number of the scale, lowest first, natural logarithm, shape (n,).
        tokens: length of each number, tokens, shape (n,).

    Raises:
        DataError: a wrong number of values, a non-finite one, or no probability at all.

    >>> weighted_rating((1, 2), [math.log(0.3), math.log(0.1)], [1, 1]).score
    1.25
    """
    numbers = list(range(scale[0], scale[1] + 1))
    if not len(numbers) == len(logprobs) == len(tokens) or not all(map(math.isfinite, logprobs)):
        raise DataError(f"{len(numbers)} finite log-probabilities were needed, not {list(logprobs)}")
    words = [str(number) for number in numbers]
    top = max(logprobs)
    relative = [math.exp(value - top) for value in logprobs]
    alone = []
    for word, weight, length in zip(words, relative, tokens, strict=True):
        longer = (
            other
            for text, other, size in zip(words, relative, tokens, strict=True)
            if len(text) == len(word) + 1 and text.startswith(word) and size > length
        )
        alone.append(max(0.0, weight - sum(longer)))
    total = math.fsum(alone)
    if total <= 0:
        raise DataError(f"no probability is left for any rating: {list(logprobs)}")
    probabilities = tuple(weight / total for weight in alone)
    return WeightedRating(
        score=math.fsum(number * weight for number, weight in zip(numbers, probabilities, strict=True)),
        probabilities=probabilities,
        mass=min(1.0, math.exp(top) * total),
    )


@dataclass(frozen=True, kw_only=True)
class WeightedChoice:
    """The likeliest choice.

    Attributes:
        choice: "A", "B" or "tie"; a tie too where the likeliest two are equal.
        probabilities: of A, B and C; they sum to 1.
        mass: probability of any of them as the next word, before normalising, in [0, 1].
    """

    choice: Choice
    probabilities: tuple[float, ...]
    mass: float


def likeliest_choice(logprobs: Sequence[float]) -> WeightedChoice:
    """Return the likeliest of A, B and C.

    Args:
        logprobs: of `CHOICES`, natural logarithm, shape (3,).

    Raises:
        DataError: a wrong number of values, or a non-finite one.

    >>> likeliest_choice([math.log(0.2), math.log(0.1), math.log(0.1)]).choice
    'A'
    """
    if len(logprobs) != len(CHOICES) or not all(map(math.isfinite, logprobs)):
        raise DataError(f"{len(CHOICES)} finite log-probabilities were needed, not {list(logprobs)}")
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    best = [letter for letter, value in zip("ABC", logprobs, strict=True) if value == top]
    return WeightedChoice(
        choice=as_choice(best[0]) if len(best) == 1 else "tie",
        probabilities=tuple(weight / math.fsum(weights) for weight in weights),
        mass=min(1.0, math.exp(top) * math.fsum(weights)),
    )
