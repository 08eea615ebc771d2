from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import Comparison, compare_endpoints
from evalkit.policy import Reference, ResolvedPolicy, bind, load_policy
from evalkit.verdict import Decision, Evidence, Tried, Verdict, decide

FILE = Path(__file__).resolve().parents[2] / "synthetic_runs.py"
ITEMS, QUESTIONS, REPEATS = 800, 80, 3
PUBLISHED = Reference(accuracy=0.74, source="a model card of the bench")


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


def flipped(marks: np.ndarray, *, losses: int, gains: int, seed: int = 5) -> np.ndarray:
    """Outcomes of a candidate that loses and gains exactly so many items, at random places."""
    rng = np.random.default_rng(seed)
    changed = marks.copy()
    changed[rng.choice(np.flatnonzero(marks == 1.0), losses, replace=False)] = 0.0
    changed[rng.choice(np.flatnonzero(marks == 0.0), gains, replace=False)] = 1.0
    return changed


def spread(n: int, *, mean: float, sd: float, seed: int = 6) -> np.ndarray:
    """Differences with exactly this mean and standard deviation."""
    drawn = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (drawn - drawn.mean()) / drawn.std(ddof=1)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A sound evaluation of 800 items and 80 questions under margins of 3 and 2 points and of 0.3.

    Its parts are replaced one at a time: whatever a test then sees comes from that part.
    """

    made: ModuleType
    policy: ResolvedPolicy
    marks: np.ndarray
    scores: np.ndarray

    @classmethod
    def build(
        cls,
        made: ModuleType,
        *,
        recipes: Sequence[str] = ("candidate",),
        controls: Sequence[str] = ("broken",),
        mmlu: Mapping[str, Any] | None = None,
        mt_bench: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        **rules: Any,
    ) -> Bench:
        """A bench under a changed policy; `mmlu` and `mt_bench` change endpoints, `extra` adds some."""
        loaded = load_policy("release").model_copy(update={"judge": None})
        known = {"baseline_recipes": ("baseline",), "reference_accuracy": {"mmlu": PUBLISHED}}
        loaded = loaded.model_copy(update={"assay": loaded.assay.model_copy(update=known)})
        changes = {
            "mmlu": {"items": ITEMS, "population": 20_000, "margins_points": (3.0, 2.0), **(mmlu or {})},
            "mt_bench": {**made.GREEDY, "planning_sd": 1.0, **(mt_bench or {})},
        }
        endpoints = {name: loaded.endpoints[name].model_copy(update=changes[name]) for name in changes}
        changed = {
            name: getattr(loaded, name).model_copy(update=value) if isinstance(value, Mapping) else value
            for name, value in rules.items()
        }
        policy = loaded.model_copy(update={**changed, "endpoints": {**endpoints, **(extra or {})}})
        marks = np.repeat([1.0, 0.0], [600, 200])
        np.random.default_rng(1).shuffle(marks)
        scores = np.random.default_rng(2).integers(5, 7, size=(QUESTIONS, 2, REPEATS)).astype(float)
        return cls(made=made, policy=bind(policy, "baseline", recipes, controls), marks=marks, scores=scores)

    def run(
        self,
        name: str = "candidate",
        *,
        losses: int = 12,
        gains: int = 12,
        mean: float = 0.0,
        sd: float = 0.8,
        **how: Any,
    ) -> Any:
        """A run that lost and gained so many items and whose question scores moved so far."""
        given: dict[str, Any] = {"policy_sha256": self.policy.sha256, "seed": sum(name.encode()), **how}
        if "marks" not in how:
            given["marks"] = flipped(self.marks, losses=losses, gains=gains)
        if "scores" not in how:
            moved = spread(len(self.scores), mean=mean, sd=sd)
            given["scores"] = self.scores + moved[:, np.newaxis, np.newaxis]
        return self.made.make_run(name, **given)

    @cached_property
    def baseline(self) -> Any:
        return self.made.make_run("baseline", marks=self.marks, scores=self.scores, seed=1)

    @property
    def rerun(self) -> Any:
        """The baseline again, with four flips each way and scores that wobble."""
        return self.run("baseline-rerun", losses=4, gains=4, sd=0.3, recipe="baseline", policy_sha256=None)

    @property
    def broken(self) -> Any:
        return self.run("broken", losses=100, gains=10, mean=-1.2)

    @cached_property
    def compared_rerun(self) -> dict[str, Comparison]:
        return self.compare(self.rerun)

    @cached_property
    def compared_broken(self) -> dict[str, Comparison]:
        return self.compare(self.broken)

    def compare(self, run: Any, baseline: Any = None) -> dict[str, Comparison]:
        return compare_endpoints(self.policy, baseline or self.baseline, run)

    def evidence(self, *runs: Any, **changes: Any) -> Evidence:
        """Evidence for these candidates, the sound one if none is given; changes are fields of `Evidence`.

        `qualifications` stands for trials whose files are here.
        """
        if "qualifications" in changes:
            changes["tried"] = Tried(files=changes.pop("qualifications"))
        parts: dict[str, Callable[[], Any]] = {
            "candidates": lambda: {
                run.manifest.requested["engine"]["name"]: self.compare(run) for run in runs or [self.run()]
            },
            "rerun": lambda: self.compared_rerun,
            "controls": lambda: {"broken": self.compared_broken},
        }
        given = {name: part() for name, part in parts.items() if name not in changes}
        return Evidence(**{**given, **changes})

    def decide(self, *runs: Any, **changes: Any) -> Decision:
        return decide(self.policy, self.evidence(*runs, **changes))

    def verdict(self, *runs: Any, **changes: Any) -> Verdict:
        """The verdict on the only recipe, or on the first by name."""
        return self.decide(*runs, **changes).verdicts[0]

    @staticmethod
    def codes(verdict: Verdict) -> list[str]:
        """The reason codes of a verdict, in their order, each once."""
        return list(dict.fromkeys(reason.code for reason in verdict.reasons))

    @staticmethod
    def hide(run: Any, task: str, count: int, failure: str = "transport: no reply") -> Any:
        """The run with its first records of a task failed."""
        records = [
            replace(record, status="failed", failure=failure, reply=None, marks={}) if at < count else record
            for at, record in enumerate(run.records[task])
        ]
        return replace(run, records={**run.records, task: tuple(records)})

    @staticmethod
    def reload(run: Any, **changes: Any) -> Any:
        """The run of an engine with a changed identity."""
        return replace(run, manifest=replace(run.manifest, engine=replace(run.manifest.engine, **changes)))

    @staticmethod
    def retask(run: Any, name: str, **changes: Any) -> Any:
        """The run with a changed description of one task."""
        tasks = {**run.manifest.tasks, name: replace(run.manifest.tasks[name], **changes)}
        return replace(run, manifest=replace(run.manifest, tasks=tasks))

    @staticmethod
    def only(run: Any, *tasks: str) -> Any:
        """The run without its other tasks."""
        manifest = replace(
            run.manifest,
            tasks={name: run.manifest.tasks[name] for name in tasks},
            judges={name: judge for name, judge in run.manifest.judges.items() if name in tasks},
        )
        return replace(run, manifest=manifest, records={name: run.records[name] for name in tasks})

    @staticmethod
    def truncated(run: Any, count: int) -> Any:
        """The run whose first answers of MT-Bench stopped at the token limit."""
        records = []
        for at, record in enumerate(run.records["mt-bench"]):
            turns = tuple(replace(turn, finish="length") for turn in record.reply.turns)
            records.append(replace(record, reply=replace(record.reply, turns=turns)) if at < count else record)
        return replace(run, records={**run.records, "mt-bench": tuple(records)})


@pytest.fixture(scope="session")
def make_bench(made: ModuleType) -> Callable[..., Bench]:
    """Build a bench under a changed policy."""
    return lambda **changes: Bench.build(made, **changes)


@pytest.fixture(scope="session")
def bench(made: ModuleType) -> Bench:
    """The bench under its own policy."""
    return Bench.build(made)
