"""The largest batch that is tried when scoring.

In: limits in tokens and bytes, what a token costs, batches that did not fit. Out: how many rows are tried next.
May not know: torch, models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_PLAIN_PART = 4
"""The plain path keeps full logits and repeats each context, so it gets a quarter of the tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCost:
    """Bytes that a token takes, estimated.

    Attributes:
        fed: activations of a token that is fed, in the layer where they are largest, and its logits where all are kept.
        seen: keys and values of a token that attention looks at, in one layer, with the copies made for it.
        pair: attention mask, or weights, for each pair of a token that is fed and one that is looked at.
        kept: keys and values of a token in all layers.
    """

    fed: int
    seen: int
    pair: int
    kept: int

    def row(self, longest: int, prefix: int) -> int:
        """Return the bytes of one row of `longest` fed tokens behind `prefix` computed ones.

        >>> TokenCost(fed=100, seen=10, pair=1, kept=40).row(2, 3)
        260
        """
        return longest * self.fed + (prefix + longest) * (self.seen + longest * self.pair)


class BatchLimit:
    """How many rows are fed at once.

    Attributes:
        tokens: limit of rows times longest row; halved whenever memory ran out.
        cramped: whether a lack of memory has made a batch smaller than the first limit of tokens asks for.
    """

    def __init__(self, tokens: int, *, memory: int | None = None, cost: TokenCost | None = None) -> None:
        """Begin with limits.

        Args:
            tokens: rows times longest row.
            memory: bytes that a batch may take; None for no such limit.
            cost: what a token takes of it.
        """
        self.tokens, self._memory, self._cost, self.cramped = tokens, memory, cost, False

    def rows(self, longest: int, waiting: int | None = None, *, prefix: int = 0) -> int:
        """Return how many rows of `longest` tokens fit behind `prefix` computed ones; one is always tried.

        Args:
            longest: tokens of the longest row.
            waiting: rows that there are; None for many.
            prefix: tokens computed before.

        >>> BatchLimit(1000).rows(300), BatchLimit(1000).rows(5000)
        (3, 1)
        """
        wanted, affordable = self.tokens // max(1, longest), self._affordable(longest, prefix)
        self.cramped |= affordable < min(wanted, wanted if waiting is None else waiting)
        return max(1, min(wanted, affordable))

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of these lengths, each fed whole as on the plain path, fit together."""
        longest = max(lengths)
        within = len(lengths) * longest <= max(1, self.tokens // _PLAIN_PART)
        affordable = len(lengths) <= self._affordable(longest, 0)
        self.cramped |= within and not affordable
        return within and affordable

    def halve(self, rows: int, longest: int) -> None:
        """Take note of a batch that did not fit: from now on half as many tokens are fed at once.

        >>> limit = BatchLimit(1000)
        >>> limit.halve(4, 50)
        >>> limit.tokens
        100
        """
        self.tokens = max(1, min(self.tokens, rows * max(1, longest)) // 2)
        self.cramped = True

    def _affordable(self, longest: int, prefix: int) -> int:
        if self._memory is None or self._cost is None:
            return self.tokens
        return self._memory // max(1, self._cost.row(longest, prefix))
