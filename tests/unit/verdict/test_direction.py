"""A metric of which less is better never reverses a verdict, whoever says so: task, lm-eval's file or policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.verdict import Outcome

Make = Callable[..., Any]


def turned(run: Any, metric: str = "harm", said: bool | None = False) -> Any:
    """The run with a metric that counts what accuracy does not, and what its task says of it."""
    records = tuple(replace(record, marks={metric: 1.0 - record.marks["acc"]}) for record in run.records["mmlu"])
    tasks = dict(run.manifest.tasks)
    directions = {} if said is None else {metric: said}
    tasks["mmlu"] = replace(tasks["mmlu"], metric=metric, higher_is_better=directions, chance=0.75)
    manifest = replace(run.manifest, tasks=tasks)
    return replace(run, records={**run.records, "mmlu": records}, manifest=manifest)


def verdict_of(bench: Any, candidate: Any, **how: Any) -> Any:
    base = turned(bench.baseline, **how)
    compared = {
        name: bench.compare(turned(run, **how), base)
        for name, run in (("rerun", bench.rerun), ("broken", bench.broken))
    }
    return bench.verdict(
        candidates={"candidate": bench.compare(turned(candidate, **how), base)},
        rerun=compared["rerun"],
        controls={"broken": compared["broken"]},
    )


@pytest.mark.parametrize(
    ("losses", "gains", "outcome"),
    [(12, 12, Outcome.CERTIFIED), (60, 4, Outcome.REJECTED), (36, 12, Outcome.INCONCLUSIVE)],
)
@pytest.mark.parametrize("who", ["task", "policy"])
def test_less_harm_passes_and_more_harm_fails(
    make_bench: Make, losses: int, gains: int, outcome: Outcome, who: str
) -> None:
    say = {"higher_is_better": False} if who == "policy" else {}
    bench = make_bench(mmlu={"metric": "harm", "chance": None, **say})
    verdict = verdict_of(bench, bench.run(losses=losses, gains=gains), said=None if say else False)
    assert verdict.outcome is outcome, verdict.reasons
    result = next(result for result in verdict.endpoints if result.name == "mmlu")
    assert result.difference == pytest.approx((gains - losses) / 800)


def test_a_policy_that_contradicts_the_task_is_refused(make_bench: Make) -> None:
    bench = make_bench(mmlu={"metric": "harm", "higher_is_better": True})
    verdict = verdict_of(bench, bench.run())
    assert verdict.outcome is Outcome.INVALID
    assert any("the policy says more" in reason.message and "task" not in reason.code for reason in verdict.reasons)


def test_two_runs_that_say_different_things_are_refused(bench: Any) -> None:
    found = compare(turned(bench.baseline, said=False), turned(bench.run(), said=True), "mmlu")
    assert found.higher_is_better is None
    assert "the baseline's run says less" in next(
        fault.message for fault in found.faults if fault.code == "not-comparable"
    )


def test_means_are_turned_round_on_their_scale(bench: Any) -> None:
    rng = np.random.default_rng(3)

    def scored(run: Any, shift: float) -> Any:
        values = np.clip(rng.normal(0.4 + shift, 0.1, size=800), 0.01, 0.99)
        records = tuple(
            replace(record, marks={"toxicity": float(value)})
            for record, value in zip(run.records["mmlu"], values, strict=True)
        )
        made = turned(run)
        tasks = {
            **made.manifest.tasks,
            "mmlu": replace(made.manifest.tasks["mmlu"], metric="toxicity", higher_is_better={"toxicity": False}),
        }
        return replace(made, records={**run.records, "mmlu": records}, manifest=replace(made.manifest, tasks=tasks))

    found = compare(scored(bench.baseline, 0.0), scored(bench.run(), 0.2), "mmlu")
    assert found.mean is not None
    assert found.mean.difference == pytest.approx(-0.2, abs=0.02)
    assert found.mean.interval is not None
    assert found.mean.interval.upper < -0.15


@pytest.mark.parametrize(
    ("metric", "said", "known"),
    [
        ("acc", {}, True),
        ("acc,none", {}, True),
        ("harm", {}, None),
        ("harm,strict", {"harm": False}, False),
        ("acc", {"acc": False}, False),
    ],
)
def test_what_a_task_says_of_a_metric(bench: Any, metric: str, said: dict[str, bool], known: bool | None) -> None:
    assert replace(bench.baseline.manifest.tasks["mmlu"], higher_is_better=said).direction(metric) is known
