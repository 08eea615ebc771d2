"""The gate on plain arrays: states, one p-value for each recipe, Holm, outcomes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from evalkit.verdict import EndpointState, Outcome
from evalkit.verdict.outcome import OUTCOMES, STATES, endpoint_states, holm_rejections, outcomes, recipe_p

PASS, FAIL, OPEN = 1, -1, 0


@pytest.mark.parametrize(
    ("certifying", "rejecting", "state"),
    [
        (2.0, 2.5, PASS),
        (1.96, 2.5, OPEN),  # equality is no pass
        (1.0, 2.5, OPEN),  # passes under the favourable fill alone
        (-3.0, -1.96, OPEN),  # equality is no failure
        (-3.0, -1.0, OPEN),  # fails under the unfavourable fill alone
        (-3.0, -2.5, FAIL),
        (2.5, -2.5, FAIL),  # a contradiction is never a pass
        (np.nan, np.nan, OPEN),
        (np.inf, np.inf, PASS),
        (-np.inf, -np.inf, FAIL),
    ],
)
def test_a_state_needs_its_own_fill_and_more_than_the_quantile(certifying: float, rejecting: float, state: int) -> None:
    assert endpoint_states(certifying, rejecting, 1.96) == state


def test_states_are_found_for_many_releases_at_once() -> None:
    z = np.array([[3.0, 0.0], [-3.0, 1.7]])
    assert endpoint_states(z, z, [1.96, 1.66]).tolist() == [[PASS, OPEN], [FAIL, PASS]]


def test_codes_stand_for_their_words() -> None:
    words = {code: STATES[code + 1] for code in (FAIL, OPEN, PASS)}
    assert words == {FAIL: EndpointState.FAIL, OPEN: EndpointState.OPEN, PASS: EndpointState.PASS}
    assert OUTCOMES[0] is Outcome.INVALID
    assert set(OUTCOMES) == set(Outcome)


def test_the_p_value_of_a_recipe_is_its_worst_endpoint_on_the_scale_of_the_family() -> None:
    # Protocol, section 8: max(2 p_MMLU, p_MT), at most 1.
    p = np.array([[0.01, 0.01], [0.001, 0.04], [0.7, 0.2]])
    assert recipe_p(p, [0.025, 0.05], 0.05).tolist() == pytest.approx([0.02, 0.04, 1.0])


def step_down(p: list[float], alpha: float) -> list[bool]:
    """Holm's procedure as it is described: the smallest of those left against alpha over their number."""
    rejected = [False] * len(p)
    for left, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if not p[at] < alpha / (len(p) - left):
            break
        rejected[at] = True
    return rejected


def test_holm_is_applied_along_the_last_axis() -> None:
    p = np.random.default_rng(3).uniform(0.0, 0.1, size=(40, 4))
    p[0] = [0.0125, 0.0, 0.0, 0.0]
    assert holm_rejections(p, 0.05).tolist() == [step_down(row, 0.05) for row in p.tolist()]


@pytest.mark.parametrize(("p", "rejected"), [(0.0499, True), (0.05, False), (1.0, False)])
def test_one_recipe_needs_no_correction(p: float, rejected: bool) -> None:
    assert holm_rejections([p], 0.05).tolist() == [rejected]


def test_a_recipe_that_was_not_run_makes_it_harder_for_the_others() -> None:
    assert holm_rejections([0.03], 0.05).tolist() == [True]
    assert holm_rejections([0.03, 1.0], 0.05).tolist() == [False, False]
    assert holm_rejections([0.02, 1.0], 0.05).tolist() == [True, False]


@pytest.mark.parametrize("states", list(product((FAIL, OPEN, PASS), repeat=2)))
@pytest.mark.parametrize("holm", [True, False])
@pytest.mark.parametrize("invalid", [True, False])
@pytest.mark.parametrize("demoted", [True, False])
def test_the_first_outcome_that_fits_wins(states: tuple[int, int], holm: bool, invalid: bool, demoted: bool) -> None:
    if invalid:
        expected = Outcome.INVALID
    elif FAIL in states:
        expected = Outcome.REJECTED
    elif states == (PASS, PASS) and holm and not demoted:
        expected = Outcome.CERTIFIED
    else:
        expected = Outcome.INCONCLUSIVE
    assert OUTCOMES[outcomes(states, holm, invalid, demoted)] is expected


def test_nothing_measured_is_never_a_pass() -> None:
    assert OUTCOMES[outcomes([], True, False, False)] is Outcome.INVALID


def test_outcomes_are_found_for_many_recipes_at_once() -> None:
    states = np.array([[[1, 1], [1, 0]], [[1, -1], [1, 1]]])
    codes = outcomes(states, [[True, True], [True, True]], [[False, False], [False, True]], False)
    assert [[OUTCOMES[code].value for code in row] for row in codes] == [
        ["CERTIFIED", "INCONCLUSIVE"],
        ["REJECTED", "INVALID"],
    ]
