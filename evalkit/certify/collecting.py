"""Everything a suite still misses: runs, then ratings.

In: a suite and its bound policy. Out: complete run folders under the suite's outputs.
May not know: what will be concluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evalkit.certify.judging import STORE, Bench, jobs_of
from evalkit.certify.qualifying import qualification_file, qualify_for_suite
from evalkit.certify.running import Workshop, run_engine
from evalkit.certify.together import run_together
from evalkit.collect.budget import Budget
from evalkit.errors import UsageError
from evalkit.execution import LOCAL
from evalkit.policy import ResolvedPolicy
from evalkit.policy.judging import JudgeRules
from evalkit.suite import EngineSpec, Suite

Planned = tuple[EngineSpec, int | None, str | None]
"""An engine, the seed of its order of items, the policy it is bound to."""


def collect_suite(suite: Suite, resolved: ResolvedPolicy, workshop: Workshop, *, retry_failed: bool = False) -> None:
    """Run every engine of a suite and have the answers judged; what is finished is reused.

    Candidates and controls are bound to the policy from their first request on. The baseline and its rerun are not:
    they promise nothing, and one baseline may serve several releases.

    Raises:
        UsageError: a task is judged but the suite names no judge.
        EvalkitError: an engine failed; finished records are kept and the same call resumes.
    """
    judged = [task for task in suite.tasks if workshop.definitions.task(task).kind == "conversation"]
    if judged and suite.judge is None:
        raise UsageError(f"suite '{suite.name}': task '{judged[0]}' is judged; name a 'judge' or leave the task out")
    judges = [] if suite.judge is None else [suite.judge.engine, *(one.engine for one in suite.judge.panel)]
    workshop.opener.check([spec for spec, _, _ in _order(suite, resolved)], judges)
    _run_all(suite, _order(suite, resolved), workshop, retry_failed=retry_failed)
    if suite.judge is not None and judged:
        paths = [run_path(suite, spec) for spec, _, _ in _order(suite, resolved)]
        caps = {name: getattr(suite.judge, name) for name in ("max_calls", "max_tokens", "price", "max_cost")}
        budget = Budget(**caps)
        with Bench(workshop, store=suite.outputs / STORE, budget=budget) as bench:
            for task in judged:
                _judge_task(task, suite, paths, bench, resolved.policy.judge, retry_failed=retry_failed)


def _run_all(suite: Suite, order: Sequence[Planned], workshop: Workshop, *, retry_failed: bool) -> None:
    """Run every engine, one after the other, or on a cluster at the same time where the suite wants that."""

    def one(spec: EngineSpec, order_seed: int | None, policy_sha256: str | None) -> None:
        run_engine(
            spec,
            suite.tasks,
            run_path(suite, spec),
            workshop,
            order_seed=order_seed,
            policy_sha256=policy_sha256,
            retry_failed=retry_failed,
        )

    if workshop.execution.on == LOCAL or not workshop.execution.concurrent:
        for planned in order:
            one(*planned)
        return
    jobs = {planned[0].name: partial(one, *planned) for planned in order}
    run_together(jobs, workshop.opener.stop, say=workshop.say, command=workshop.command)


def _judge_task(
    task: str, suite: Suite, paths: Sequence[Path], bench: Bench, rules: JudgeRules | None, *, retry_failed: bool
) -> None:
    """Have a task judged in every run, then try the judges on the first one's answers."""
    judge = suite.judge
    if judge is None:
        return
    first, *others = paths
    jobs = jobs_of(task, judge, first)
    for job in jobs:
        bench.judge(paths if job.opponent is None else others, job, retry_failed=retry_failed)
    for job in jobs if judge.qualify is not None else ():
        file = qualification_file(suite.outputs, job.judging)
        judged = first if job.opponent is None else others[0]
        qualify_for_suite(first, job, bench, file, judged, answers=judge.qualify or 0, rules=rules)


def run_path(suite: Suite, spec: EngineSpec) -> Path:
    """Return the folder of one engine's run."""
    return suite.outputs / spec.name


def _order(suite: Suite, resolved: ResolvedPolicy) -> list[Planned]:
    """Return engine, item order and policy of each run: first what every verdict needs."""
    runs: list[Planned] = [(suite.baseline, None, None)]
    if suite.rerun_engine is not None:
        runs.append((suite.rerun_engine, resolved.policy.seeds.order, None))
    runs += [(spec, None, resolved.sha256) for spec in (*suite.controls, *suite.candidates)]
    return runs
