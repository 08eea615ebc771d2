"""Judged tasks of several runs: one judge, one mixed order, or nothing to do.

In: run folders, a judge specification. Out: judgments in the folders.
May not know: which run is the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evalkit.adapters.registry import load_engine
from evalkit.certify.running import Workshop
from evalkit.collect.judge import judge
from evalkit.errors import EvalkitError, UsageError
from evalkit.store import RunFolder, read_judgments, read_manifest
from evalkit.suite import JudgeSpec


def judge_runs(
    paths: Sequence[Path], task: str, spec: JudgeSpec, workshop: Workshop, *, retry_failed: bool = False
) -> None:
    """Have every answer of a task rated in all folders, loading the judge only if a rating is missing.

    Raises:
        UsageError: a folder lacks the task.
        IdentityMismatchError: a folder was judged by somebody else.
        EvalkitError: the judge could not be loaded or broke; finished judgments are kept.
    """
    profile = workshop.definitions.judge(spec.profile)
    asked = {**workshop.request(spec.engine, None), "profile_sha256": profile.sha256, "repeats": spec.repeats}
    if not retry_failed and all(_judged(path, task, asked) for path in paths):
        workshop.say(f"{task}: judged before, ratings reused")
        return
    definition = workshop.definitions.task(task)
    if definition.mt_bench is None:
        raise UsageError(f"task '{task}' is of kind '{definition.kind}'; only conversations are judged")
    workshop.say(f"{task}: loading the judge, {spec.engine.model} with {spec.engine.adapter}, profile {spec.profile}")
    engine = load_engine(spec.engine, workshop.resources)
    try:
        with ExitStack() as stack:
            folders = [stack.enter_context(RunFolder.create_or_resume(path, read_manifest(path))) for path in paths]
            summary = judge(
                folders,
                task,
                profile,
                engine,
                references=definition.mt_bench.references,
                assets=workshop.assets,
                repeats=spec.repeats,
                retry_failed=retry_failed,
                requested=asked,
                progress=workshop.progress,
            )
    finally:
        engine.close()
    written = ", ".join(f"{n} {status}" for status, n in summary.by_status.items()) or "none"
    workshop.say(f"{task}: judgments written: {written}; {summary.reused} shared by equal answers")


def _judged(path: Path, task: str, asked: dict[str, Any]) -> bool:
    try:
        judge = read_manifest(path).judges.get(task)
        return judge is not None and dict(judge.requested) == asked and len(read_judgments(path, task)) >= judge.planned
    except EvalkitError:
        return False
