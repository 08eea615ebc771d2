"""Everything a suite still misses: runs, then ratings.

In: a suite and its bound policy. Out: complete run folders under the suite's outputs.
May not know: what will be concluded.
"""

from __future__ import annotations

from pathlib import Path

from evalkit.certify.judging import judge_runs
from evalkit.certify.running import Workshop, run_engine
from evalkit.errors import UsageError
from evalkit.policy import ResolvedPolicy
from evalkit.suite import EngineSpec, Suite


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
    for task in judged:
        if suite.judge is not None:
            paths = [run_path(suite, spec) for spec, _, _ in _order(suite, resolved)]
            judge_runs(paths, task, suite.judge, workshop, retry_failed=retry_failed)


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
