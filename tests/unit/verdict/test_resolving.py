"""What would resolve an open endpoint, in numbers a reader can act on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalkit.policy import SoftAccuracyEndpoint
from evalkit.verdict import EndpointState
from evalkit.verdict.decide import resolution
from evalkit.verdict.endpoints import evaluate

Make = Callable[..., Any]


def sentence(bench: Any, name: str, comparison: Any) -> str:
    result = evaluate(bench.policy, name, comparison)
    assert result.state is EndpointState.OPEN
    return resolution(result, bench.policy.endpoints[name], comparison)


def items_for_80_percent(rho: float, margin: float) -> int:
    """Section 12 of the protocol, normal approximation: n = (z_0.975 + z_0.80)^2 rho / margin^2."""
    return math.ceil((stats.norm.ppf(0.975) + stats.norm.ppf(0.80)) ** 2 * rho / margin**2)


def questions_for_80_percent(sd: float, margin: float, alpha: float) -> int:
    for n in range(2, 100_000):
        if stats.nct.sf(stats.t.ppf(1 - alpha, n - 1), n - 1, margin * math.sqrt(n) / sd) >= 0.80:
            return n
    raise AssertionError


def test_more_items_are_counted_at_the_flip_rate_that_was_seen(bench: Any) -> None:
    said = sentence(bench, "mmlu", bench.compare(bench.run(losses=70, gains=60))["mmlu"])
    more = items_for_80_percent(130 / 800, 0.03) - 800
    assert said == (
        f"mmlu: about {more:,} more items would give 80% power to certify an equal recipe, if flips stay at 16.2%"
    )


def test_items_that_do_not_exist_are_not_asked_for(make_bench: Make) -> None:
    bench = make_bench(mmlu={"population": 1000})
    said = sentence(bench, "mmlu", bench.compare(bench.run(losses=70, gains=60))["mmlu"])
    assert said.startswith(f"mmlu: {items_for_80_percent(130 / 800, 0.03):,} items would be needed")
    assert said.endswith("only 1,000 exist")


def test_a_loss_near_the_margin_is_not_a_lack_of_items(bench: Any) -> None:
    said = sentence(bench, "mmlu", bench.compare(bench.run(losses=30, gains=8))["mmlu"])
    assert "800 items already give 80% power" in said
    assert said.endswith("probably near the margin, and only many more would decide")


def test_when_all_items_are_used_it_says_that_no_more_exist(make_bench: Make) -> None:
    bench = make_bench(mmlu={"population": 800})
    said = sentence(bench, "mmlu", bench.compare(bench.run(losses=30, gains=8))["mmlu"])
    assert said.endswith("probably near the margin, and no more exist")


def test_where_nothing_flips_the_missing_items_are_what_is_missing(bench: Any) -> None:
    run = bench.hide(bench.run(losses=0, gains=0), "mmlu", 40)
    assert sentence(bench, "mmlu", bench.compare(run)["mmlu"]) == "mmlu: complete the 40 missing items"


def test_more_questions_are_counted_at_the_spread_that_was_seen(bench: Any) -> None:
    run = bench.run(mean=-0.1, sd=1.3)
    said = sentence(bench, "mt_bench", bench.compare(run)["mt_bench"])
    needed = questions_for_80_percent(1.3, 0.3, 0.05)
    assert said == (
        f"mt_bench: {needed} questions would be needed, if the SD of a question's difference stays at 1.30, "
        "and only 80 exist"
    )


def test_soft_accuracy_is_resolved_by_its_own_spread_not_by_flips(make_bench: Make) -> None:
    soft = SoftAccuracyEndpoint(
        kind="soft_accuracy",
        task="mmlu",
        metric="acc",
        protocol="ll-5shot",
        items=800,
        gating=True,
        alpha=0.025,
        margins_points=(3.0, 2.0),
    )
    bench = make_bench(extra={"soft": soft})
    comparison = bench.compare(bench.run(losses=30, gains=8))["soft"]
    sd = float(np.std(comparison.soft.differences.observed, ddof=1))
    said = sentence(bench, "soft", comparison)
    needed = questions_for_80_percent(sd, 0.03, 0.025)
    assert f"the SD of an item's difference stays at {sd:.2f}" in said
    assert needed < 800
    assert "800 items already give 80% power" in said


@pytest.mark.parametrize("name", ["mmlu", "mt_bench"])
def test_numbers_are_asked_for_only_where_a_verdict_is_inconclusive(bench: Any, name: str) -> None:
    assert bench.verdict().resolve == ()
    opened = {"mmlu": {"losses": 36}, "mt_bench": {"mean": -0.2}}[name]
    (said,) = bench.verdict(bench.run(**opened)).resolve
    assert said.startswith(f"{name}: ")
    assert bench.verdict(bench.run(**opened, policy_sha256=None)).resolve == ()
