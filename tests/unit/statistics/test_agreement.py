from __future__ import annotations

import numpy as np
import pytest

from evalkit.statistics.agreement import flip_rate


def test_flips_are_counted_both_ways():
    result = flip_rate([1, 0, 1, 0], [0, 1, 1, 0])
    assert (result.flips, result.n, result.rate) == (2, 4, 0.5)
    assert result.interval.lower + result.interval.upper == pytest.approx(1.0)


def test_a_run_against_itself_has_no_flip_but_an_upper_limit():
    result = flip_rate(np.ones(100), np.ones(100))
    assert (result.rate, result.interval.lower) == (0.0, 0.0)
    assert result.interval.upper == pytest.approx(0.037, abs=0.0005)
