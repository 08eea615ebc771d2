from __future__ import annotations

import math

import numpy as np
import pytest
from betting_process import MarginProcess
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.nightly.watch import LARGEST, State, bounds, night_order, order_sha256, watch
from evalkit.statistics.sequential import SequentialRules

RULES = SequentialRules(population=1000, margin=0.03, ok=20.0, alarm=100.0, cap=400)


def keys(n=1000):
    return [f"item-{at:04d}" for at in range(n)]


def marks(values):
    return dict(zip(keys(), values, strict=False))


def test_the_watch_is_the_process_read_item_by_item():
    rng = np.random.default_rng(5)
    left = (rng.random(1000) < 0.8).astype(float)
    right = np.where(rng.random(1000) < 0.05, 1.0 - left, left)
    found = watch(keys(), marks(left), marks(right[:300]), RULES)
    process = MarginProcess(population=1000, margin=0.03)
    for d in (right - left)[: found.used]:
        evidence = process.update(float(d))
    assert found.log_e == pytest.approx(math.log(evidence.e_above))
    assert found.log_e_loss == pytest.approx(math.log(evidence.e_below))
    assert found.n == found.used
    assert found.difference == pytest.approx((right - left)[: found.used].mean())


def test_states():
    right = np.ones(1000)
    same = watch(keys(), marks(right), marks(right), RULES)
    assert same.state is State.OK
    assert same.interval.level == pytest.approx(0.9)
    assert same.interval.lower >= -0.03  # OK and the limits agree
    assert math.exp(same.log_e) >= 20.0 > 1.0 > math.exp(same.log_e_loss)
    lost = watch(keys(), marks(right), marks(np.arange(1000) % 5 > 0), RULES)
    assert lost.state is State.ALARM
    assert lost.interval.upper < -0.03
    assert lost.used < 400
    middle = np.ones(1000)
    middle[::33] = 0.0
    assert watch(keys(), marks(right), marks(middle), RULES).state is State.CAP
    assert watch(keys(), marks(right), marks(middle[:10]), RULES).state is State.OPEN
    nothing = watch(keys(), marks(right), {}, RULES)
    assert (nothing.state, nothing.used, nothing.difference, nothing.interval) == (State.OPEN, 0, None, None)


def test_only_items_before_the_first_gap_count():
    right = marks(np.ones(50))
    del right[keys()[7]]
    assert watch(keys(), marks(np.ones(1000)), right, RULES).used == 7


@given(st.integers(0, 2**32 - 1), st.integers(1, 399))
@settings(max_examples=25, deadline=None)
def test_a_stop_does_not_depend_on_how_much_more_was_asked(seed, asked):
    rng = np.random.default_rng(seed)
    left = (rng.random(1000) < 0.8).astype(float)
    right = np.where(rng.random(1000) < rng.choice([0.0, 0.02, 0.2]), 1.0 - left, left)
    whole = watch(keys(), marks(left), marks(right), RULES)
    part = watch(keys(), marks(left), marks(right[:asked]), RULES)
    if part.state is State.OPEN:
        assert asked < whole.used or whole.state is State.CAP
    else:
        assert part == whole


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.sampled_from(["candidate", "baseline", "both"]))
@settings(max_examples=25, deadline=None)
def test_missing_answers_never_make_an_ok_or_an_alarm(seed, share, side):
    rng = np.random.default_rng(seed)
    left = (rng.random(400) < 0.8).astype(float)
    right = np.where(rng.random(400) < 0.05, 1.0 - left, left)
    gone = rng.random(400) < share
    known_left = [None if side != "candidate" and lost else b for b, lost in zip(left, gone, strict=True)]
    known_right = [None if side != "baseline" and lost else c for c, lost in zip(right, gone, strict=True)]
    whole = watch(keys(), marks(left), marks(right), RULES)
    part = watch(keys(), marks(known_left), marks(known_right), RULES)
    # The evidence with gaps is at no item larger than without them, on either side.
    low, high = bounds(keys()[:400], marks(known_left), marks(known_right))
    assert (low <= right - left).all()
    assert (high >= right - left).all()
    if part.state is State.OK:
        assert whole.state is State.OK
        assert whole.used <= part.used
    if part.state is State.ALARM:
        assert whole.state is State.ALARM


def test_an_outage_is_no_alarm():
    down = watch(keys(), marks(np.ones(1000)), marks([None] * 400), RULES)
    assert down.state is State.CAP
    assert down.missing_candidate == 400
    assert (down.n, down.difference) == (0, None)


def test_proof_is_finite_in_json():
    rules = SequentialRules(population=40, margin=0.3, ok=1e9, alarm=1e9, cap=40)
    found = watch(keys(40), marks(np.ones(40)), marks(np.ones(40)), rules)
    assert found.log_e == LARGEST
    assert found.state is State.OK


def test_the_interval_of_all_items_is_their_mean():
    rules = SequentialRules(population=200, margin=0.5, ok=1e306, alarm=1e306, cap=200)
    right = np.ones(200)
    right[:10] = 0.0
    found = watch(keys(200), marks(np.ones(200)), marks(right), rules)
    assert found.interval.lower == pytest.approx(-0.05, abs=1e-6)
    assert found.interval.upper == pytest.approx(-0.05, abs=1e-6)


def test_every_night_has_an_order_of_its_own():
    first, again = night_order(3, "2026-03-01", keys()), night_order(3, "2026-03-01", reversed(keys()))
    assert first == again
    assert sorted(first) == keys()
    others = [night_order(3, "2026-03-02", keys()), night_order(4, "2026-03-01", keys())]
    assert all(order_sha256(order) != order_sha256(first) for order in others)
    # Positions in two nights are unrelated: the correlation of 1,000 pairs stays within four standard errors.
    place = {key: at for at, key in enumerate(others[0])}
    r = np.corrcoef(np.arange(1000), [place[key] for key in first])[0, 1]
    assert abs(r) < 4 / math.sqrt(1000)
