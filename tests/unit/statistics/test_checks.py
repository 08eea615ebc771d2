from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Interval, checked_between, checked_count, checked_outcomes, checked_vector


@pytest.mark.parametrize("value", [-1, 2.0, True, "3", None, float("nan")])
def test_a_count_is_a_non_negative_integer(value):
    with pytest.raises(EstimateError, match="n10 is"):
        checked_count("n10", value)


def test_numpy_integers_are_counts():
    assert checked_count("n10", np.int64(7)) == 7


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan"), float("inf"), "x", None])
def test_an_open_range_excludes_its_ends_and_everything_that_is_no_number(value):
    with pytest.raises(EstimateError, match="level"):
        checked_between("level", value, 0.0, 1.0)


@pytest.mark.parametrize("values", [[1.0], [], [[1.0, 2.0]], [1.0, float("nan")], [1.0, float("inf")], ["a", "b"]])
def test_a_vector_is_flat_long_enough_and_finite(values):
    with pytest.raises(EstimateError, match="scores"):
        checked_vector("scores", values)


def test_a_non_finite_value_is_named_with_its_position():
    with pytest.raises(EstimateError, match=r"scores\[2\] is .*nan.* \(1 of 3 values"):
        checked_vector("scores", [0.0, 1.0, float("nan")])


@pytest.mark.parametrize("values", [[0, 1, 2], [0.5, 1.0], [0, float("nan")]])
def test_outcomes_are_zero_or_one(values):
    with pytest.raises(EstimateError):
        checked_outcomes("candidate", values)


@pytest.mark.parametrize(
    ("lower", "upper", "level"),
    [(0.2, 0.1, 0.95), (float("nan"), 0.1, 0.95), (0.0, float("inf"), 0.95), (0.0, 0.1, 95)],
)
def test_an_interval_is_ordered_finite_and_has_a_level(lower, upper, level):
    with pytest.raises(EstimateError):
        Interval(lower=lower, upper=upper, level=level, method="test")


def test_the_modules_start_without_the_slow_parts_of_scipy():
    program = (
        "import importlib, pkgutil, sys, evalkit.statistics as room\n"
        "assert not [m for m in sys.modules if m.startswith('evalkit.statistics.')], 'the package loads its modules'\n"
        "for module in pkgutil.iter_modules(room.__path__): importlib.import_module(f'{room.__name__}.{module.name}')\n"
        "slow = {'scipy.stats', 'scipy.optimize', 'evalkit.records', 'evalkit.policy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
