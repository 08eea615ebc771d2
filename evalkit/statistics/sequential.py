"""Evidence that may be read after every item: a betting e-process for the mean of a finite list.

In: paired differences in [-1, 1], one after another in random order, and the length of the list. Out: e-values.
Must not depend on: what is compared, when to stop, or which threshold matters.

Estimand: the mean difference (candidate minus baseline) over exactly the N items of the list, not a wider population.
Assumption: the order is a random permutation drawn before anything is seen. Then each process is a non-negative
supermartingale that starts at 1 under its null, and by Ville's inequality P(e ever >= 1/a) <= a, whatever the stopping
rule. Source: betting on sampling without replacement (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical
Society B 86:1), with one fixed bet g of the largest allowed stake, averaged over a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import (
    Floats,
    Integers,
    Interval,
    checked_between,
    checked_count,
    checked_vector,
    refuse_non_finite,
)

GRID = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9)
"""Default stakes, as shares of the largest stake that cannot lose everything."""

# In items. null_mean * N is exact to far less in floats, so a shortage this small is rounding, not proof.
_SLACK = 1e-9


def relative_gain(d: Any, left: Any, needed: Any) -> Any:
    """Return (d - m)/(1 + m) for m = needed/left: what a full stake wins or loses on the value `d`.

    Works on floats, arrays and fractions alike. `left` counts the values still to come, `d` included, and `needed` is
    the sum they must have if the null mean holds exactly. Never below -1 for d >= -1.

    >>> relative_gain(0.0, 1000.0, -10.0), relative_gain(-1.0, 1000.0, -10.0)
    (0.010101010101010102, -1.0)
    """
    return (d * left - needed) / (left + needed)


def log_e_path(differences: ArrayLike, *, population: int, null_mean: float, grid: Sequence[float] = GRID) -> Floats:
    """Return log e after every item for one or many orders: one betting process for each.

    `differences` has shape (T,) or (runs, T) with T <= population; the result has the same shape. Memory is about
    len(grid) times that of the input.

    >>> np.exp(log_e_path([0, 0, 0, -1, 0, 1], population=1000, null_mean=-0.01))[-1].round(9)
    np.float64(0.817055295)

    Raises:
        EstimateError: no population, a stake outside (0, 1), a value outside [-1, 1] or more values than items.
    """
    population, stakes = checked_count("population", population, minimum=1), _checked_grid(grid)
    d = np.asarray(differences, dtype=np.float64)
    refuse_non_finite("differences", d)
    if d.ndim not in (1, 2) or d.shape[-1] > population or (np.abs(d) > 1.0).any():
        raise EstimateError(
            f"differences has shape {d.shape} and reaches {np.abs(d).max(initial=0.0):g}; allowed: (T,) or (runs, T) "
            f"with T at most {population}, values from -1 to 1"
        )
    left = population - np.arange(d.shape[-1], dtype=np.float64)
    null_sum = checked_between("null mean", null_mean, -1.0, 1.0) * population
    needed = null_sum - (np.cumsum(d, axis=-1) - d)
    open_bet = left + needed > _SLACK
    gain = np.where(open_bet, relative_gain(d, left, np.where(open_bet, needed, 0.0)), 0.0)
    log_wealth = np.stack([np.cumsum(np.log1p(stake * gain), axis=-1) for stake in stakes])
    log_e = np.where(left - needed < -_SLACK, -np.inf, _log_mean_exp(log_wealth))
    return np.where(left + needed < -_SLACK, np.inf, log_e)


def _checked_grid(grid: Sequence[float]) -> Floats:
    stakes = checked_vector("grid", list(grid), minimum=1)
    for stake in stakes:
        checked_between("stake", stake, 0.0, 1.0)
    return stakes


def _log_mean_exp(values: Floats) -> Floats:
    """Return log(mean(exp(values))) over the first axis of finite values."""
    top = values.max(axis=0)
    mean: Floats = top + np.log(np.exp(values - top).mean(axis=0))
    return mean


# An interval that may be read after every item: every mean that the betting process has not refuted.
#
# Estimand: the mean difference (candidate minus baseline) over exactly the N items of the list. Assumption: as for
# `log_e_path`. A mean m is refuted from below if the evidence against "the mean is at most m" ever reached 2/(1 -
# level), and from above likewise. By Ville's inequality the true mean is ever refuted with probability 1 - level at
# most, whatever the stopping rule: an interval for a fixed number of items would be too short here. Source:
# confidence sequences by betting (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical Society B 86:1).


_HALVINGS = 30
_EDGE = 1e-9


def betting_interval(
    low: ArrayLike,
    high: ArrayLike | None = None,
    *,
    population: int,
    level: float = 0.95,
    grid: Sequence[float] = GRID,
) -> Interval:
    """Return the interval of means after the differences seen so far, shape (T,).

    Args:
        low: differences, where an unknown one has the lowest value it may have; for the lower limit.
        high: the same with the highest value; None where all are known.
        population: length of the list.
        level: two-sided.
        grid: stakes.

    It closes on the mean itself when the whole list was seen:

    >>> interval = betting_interval([0, 0, -1, 0], population=4)
    >>> round(interval.lower, 6), round(interval.upper, 6)
    (-0.25, -0.25)

    Raises:
        EstimateError: nothing was seen, or as `log_e_path`.
    """
    lows = checked_vector("differences", low, minimum=1)
    highs = lows if high is None else checked_vector("differences", high, minimum=1)
    if lows.shape != highs.shape or (lows > highs).any():
        raise EstimateError("low and high must have one shape, and low must be at most high")
    threshold = math.log(2.0 / (1.0 - checked_between("level", level, 0.0, 1.0)))
    return Interval(
        lower=_lowest_open(lows, population, threshold, grid),
        upper=-_lowest_open(-highs, population, threshold, grid),
        level=level,
        method="betting",
    )


def _lowest_open(d: Floats, population: int, threshold: float, grid: Sequence[float]) -> float:
    """Return the smallest mean m for which "the mean is at most m" was never refuted; evidence falls as m rises."""
    seen, rest = float(d.sum()), population - d.size
    refuted, open_ = max(-1.0 + _EDGE, (seen - rest) / population - _EDGE), (seen + rest) / population
    if not _refutes(d, population, refuted, threshold, grid):
        return max(-1.0, refuted)
    for _ in range(_HALVINGS):
        middle = 0.5 * (refuted + open_)
        if _refutes(d, population, middle, threshold, grid):
            refuted = middle
        else:
            open_ = middle
    return open_


def _refutes(d: Floats, population: int, mean: float, threshold: float, grid: Sequence[float]) -> bool:
    if mean >= 1.0:
        return False
    path = log_e_path(d, population=population, null_mean=mean, grid=grid)
    return bool(np.max(path) >= threshold)


# What a sequential run will do, before it is run: simulated nights.
#
# Estimand: the distribution of the stopping item over random orders of a list that holds exactly the assumed losses and
# gains. Nothing is approximated but by the number of simulated nights; the same seed gives the same numbers.


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
