"""Everything a suite still misses: runs, then ratings.

In: a suite and its bound policy. Out: complete run folders under the suite's outputs.
May not know: what will be concluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evalkit.certify.judging import STORE, Bench, jobs_of
from evalkit.certify.qualifying import qualification_file, qualify_for_suite
from evalkit.certify.running import Workshop, run_engine
from evalkit.collect.budget import Budget
from evalkit.errors import UsageError
from evalkit.policy import ResolvedPolicy
from evalkit.suite import EngineSpec, JudgeSpec, Suite


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
    for spec, order_seed, policy_sha256 in _order(suite, resolved):
        workshop.policy_sha256 = policy_sha256
        run_engine(
            spec,
            suite.tasks,
            run_path(suite, spec),
            workshop,
            order_seed=order_seed,
            retry_failed=retry_failed,
        )
    workshop.policy_sha256 = None
    if suite.judge is not None and judged:
        paths = [run_path(suite, spec) for spec, _, _ in _order(suite, resolved)]
        budget = Budget(max_calls=suite.judge.max_calls, max_tokens=suite.judge.max_tokens)
        with Bench(workshop, store=suite.outputs / STORE, budget=budget) as bench:
            for task in judged:
                _judge_task(task, suite.judge, paths, bench, suite.outputs, retry_failed=retry_failed)


def _judge_task(
    task: str, judge: JudgeSpec, paths: Sequence[Path], bench: Bench, outputs: Path, *, retry_failed: bool
) -> None:
    """Have a task judged in every run, then try the judges on the first one's answers."""
    first, *others = paths
    jobs = jobs_of(task, judge, first)
    for job in jobs:
        bench.judge(paths if job.opponent is None else others, job, retry_failed=retry_failed)
    for job in jobs if judge.qualify is not None else ():
        file = qualification_file(outputs, job.judging)
        judged = first if job.opponent is None else others[0]
        qualify_for_suite(first, job, bench, file, judged, answers=judge.qualify or 0)


def run_path(suite: Suite, spec: EngineSpec) -> Path:
    """Return the folder of one engine's run."""
    return suite.outputs / spec.name


def _order(suite: Suite, resolved: ResolvedPolicy) -> list[tuple[EngineSpec, int | None, str | None]]:
    """Return engine, item order and policy of each run: first what every verdict needs."""
    runs: list[tuple[EngineSpec, int | None, str | None]] = [(suite.baseline, None, None)]
    if suite.rerun_engine is not None:
        runs.append((suite.rerun_engine, resolved.policy.seeds.order, None))
    runs += [(spec, None, resolved.sha256) for spec in (*suite.controls, *suite.candidates)]
    return runs
