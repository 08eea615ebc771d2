"""What a sequential run will do, before it is run: simulated nights.

In: the rules of the run and assumed numbers of losses and gains in the list. Out: when each night stops, and why.
May not know: what is compared, or what a stop leads to.

Estimand: the distribution of the stopping item over random orders of a list that holds exactly the assumed losses and
gains. Nothing is approximated but by the number of simulated nights; the same seed gives the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, Integers, checked_between, checked_count
from evalkit.statistics.sequential import GRID, log_e_path

OK, ALARM, CAP = 0, 1, 2
"""Why a night stopped: evidence for a small loss, evidence for a large one, or the cap."""

_ROWS = 50
"""Nights simulated at once; bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class SequentialRules:
    """When a sequential run stops.

    Attributes:
        population: length of the list.
        margin: positive proportion.
        ok: evidence against a loss of the margin or more that ends the run.
        alarm: evidence against a smaller loss that ends it.
        cap: items after which it ends undecided; the whole list at most.
        grid: stakes.

    Raises:
        EstimateError: a value makes no sense; names it.
    """

    population: int
    margin: float
    ok: float
    alarm: float
    cap: int
    grid: tuple[float, ...] = GRID

    def __post_init__(self) -> None:
        checked_count("population", self.population, minimum=1)
        checked_count("cap", self.cap, minimum=1)
        checked_between("margin", self.margin, 0.0, 1.0)
        for name in ("ok", "alarm"):
            checked_between(name, getattr(self, name), 1.0, math.inf)

    @property
    def items(self) -> int:
        """Most items a run asks."""
        return min(self.cap, self.population)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Simulated nights in numbers.

    Attributes:
        nights: simulated.
        discordance, difference: assumed shares of the list.
        ok, alarm, cap: shares of nights by why they stopped.
        items: mean number of items used.
        items_p90: items that nine of ten nights need at most.
    """

    nights: int
    discordance: float
    difference: float
    ok: float
    alarm: float
    cap: float
    items: float
    items_p90: int


@lru_cache(maxsize=256)
def outlook(
    rules: SequentialRules, *, discordance: float, difference: float = 0.0, nights: int = 300, seed: int = 0
) -> Outlook:
    """Simulate nights on a list with given shares of flips.

    >>> rules = SequentialRules(population=14042, margin=0.01, ok=20, alarm=100, cap=4000)
    >>> outlook(rules, discordance=0.0, nights=1).items
    505.0

    Raises:
        EstimateError: more net loss or gain than flips, or a share outside [0, 1].
    """
    if not abs(difference) <= discordance <= 1.0:
        raise EstimateError(
            f"a difference of {difference:g} needs at least as many flips; the assumed share is {discordance:g}"
        )
    n = rules.population
    losses, gains = round(n * (discordance - difference) / 2.0), round(n * (discordance + difference) / 2.0)
    rng = np.random.default_rng(seed)
    states, stops = simulate_nights(rules, np.full(nights, losses), np.full(nights, gains), rng)
    return Outlook(
        nights=nights,
        discordance=discordance,
        difference=difference,
        ok=float(np.mean(states == OK)),
        alarm=float(np.mean(states == ALARM)),
        cap=float(np.mean(states == CAP)),
        items=float(stops.mean()),
        items_p90=int(np.quantile(stops, 0.9, method="inverted_cdf")),
    )


def simulate_nights(
    rules: SequentialRules, losses: ArrayLike, gains: ArrayLike, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Return why (OK, ALARM, CAP) and after how many items each night stops, both of shape (nights,).

    Args:
        rules: when a run stops.
        losses: items of the list that only the baseline has right, one number for each night.
        gains: items that only the candidate has right.
        rng: draws the orders.

    Raises:
        EstimateError: more flips than the list has items.
    """
    lost, won = np.atleast_1d(losses).astype(np.int64), np.atleast_1d(gains).astype(np.int64)
    if (lost + won > rules.population).any() or (lost < 0).any() or (won < 0).any():
        raise EstimateError(f"losses and gains do not fit into a list of {rules.population} items")
    parts = [
        first_stops(_orders(rules, lost[at : at + _ROWS], won[at : at + _ROWS], rng), rules)
        for at in range(0, lost.size, _ROWS)
    ]
    return np.concatenate([why for why, _ in parts]), np.concatenate([stop for _, stop in parts])


def _orders(rules: SequentialRules, losses: Integers, gains: Integers, rng: np.random.Generator) -> Floats:
    rows = np.zeros((losses.size, rules.population), dtype=np.int8)
    for row, lost, won in zip(rows, losses, gains, strict=True):
        row[:lost] = -1
        row[lost : lost + won] = 1
    return rng.permuted(rows, axis=1)[:, : rules.items].astype(np.float64)


def first_stops(differences: Floats, rules: SequentialRules) -> tuple[Integers, Integers]:
    """Return why and where each row of differences, shape (nights, T), stops; a row that does not is at its cap."""
    n, margin, grid = rules.population, rules.margin, rules.grid
    at_ok = _first(log_e_path(differences, population=n, null_mean=-margin, grid=grid), rules.ok)
    at_alarm = _first(log_e_path(-differences, population=n, null_mean=margin, grid=grid), rules.alarm)
    why = np.where(at_ok < at_alarm, OK, np.where(at_alarm < at_ok, ALARM, CAP)).astype(np.int64)
    return why, np.minimum(np.minimum(at_ok, at_alarm), differences.shape[1]).astype(np.int64)


def _first(path: Floats, threshold: float) -> Integers:
    """Return the item at which each path reaches a threshold; one more than its length if it never does."""
    reached = path >= math.log(threshold)
    first: Integers = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, path.shape[1] + 1).astype(np.int64)
    return first
