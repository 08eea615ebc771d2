"""Judged tasks of several runs: one judge, one mixed order, or nothing to do.

In: run folders, a judge specification. Out: judgments in the folders.
May not know: which run is the baseline; a pairwise judging is told which one to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.adapters.base import Engine
from evalkit.certify.recording import record_judging
from evalkit.certify.running import Workshop
from evalkit.collect.budget import Budget
from evalkit.collect.judge import Opponent, Readable, Request, estimate_judging, judge
from evalkit.errors import EvalkitError, UsageError
from evalkit.judging import load_words
from evalkit.judging.estimate import JudgingEstimate
from evalkit.judging.pairs import ORDERS, pair_sha256
from evalkit.records import Record, TextReply, digest, judging_name
from evalkit.store import RunFolder, judgment_key, read_items, read_judgments, read_manifest, read_records
from evalkit.suite import EngineSpec, JudgeSpec, Panelist

STORE = "_judgments"
"""Folder of a suite's judgment store, below its outputs; no engine has a name that begins like this."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One judging of one task.

    Attributes:
        task: name.
        judging: name of the judging; see `judging_name`.
        judge: profile, engine and repeats.
        opponent: folder of the run to compare with, for a pairwise profile; None otherwise.
    """

    task: str
    judging: str
    judge: Panelist
    opponent: Path | None = None


class Bench:
    """Where judges sit: an engine is loaded when a question needs it, and kept for the next judging of the same one.

    Attributes:
        workshop: what runs share.
        store: folder of the judgment store; None for none.
        budget: cap on everything asked here.
    """

    def __init__(self, workshop: Workshop, *, store: Path | None = None, budget: Budget | None = None) -> None:
        self.workshop, self.store, self.budget = workshop, store, budget or Budget()
        self._asked: dict[str, Any] | None = None
        self._engine: Engine | None = None

    def engine(self, spec: EngineSpec) -> Engine:
        """Load an engine, or return it if it is the one that sits here.

        Raises:
            EvalkitError: it cannot be loaded.
        """
        asked = self.workshop.request(spec, None)
        if self._engine is None or self._asked != asked:
            self.close()
            self.workshop.say(f"loading the judge, {spec.model} with {spec.adapter}")
            self._engine = self.workshop.opener.open(spec, self.workshop.resources, judge=True)
            self._asked = asked
        return self._engine

    def judge(self, paths: Sequence[Path], job: Job, *, retry_failed: bool = False) -> None:
        """Have every answer of a task judged in all folders, loading the judge only if a judgment is missing.

        Raises:
            UsageError: a folder lacks the task.
            IdentityMismatchError: a folder was judged by somebody else.
            EvalkitError: the judge could not be loaded or broke; finished judgments are kept.
        """
        workshop = self.workshop
        profile = workshop.definitions.judge(job.judge.profile)
        asked = {
            **workshop.request(job.judge.engine, None),
            "profile_sha256": profile.sha256,
            "repeats": job.judge.repeats,
        }
        if not retry_failed and all(_judged(path, job, asked) for path in paths):
            workshop.say(f"{job.judging}: judged before, ratings reused")
            return
        definition = workshop.definitions.task(job.task)
        if definition.mt_bench is None:
            raise UsageError(f"task '{job.task}' is of kind '{definition.kind}'; only conversations are judged")
        engine = self.engine(job.judge.engine)
        before = (self.budget.calls, self.budget.prompt_tokens, self.budget.completion_tokens)
        with ExitStack() as stack:
            folders = [stack.enter_context(RunFolder.create_or_resume(path, read_manifest(path))) for path in paths]
            who = {
                "judge_sha256": engine.identity.sha256,
                "profile_sha256": load_words(profile, workshop.assets).sha256,
                "model": engine.identity.model,
                "profile": profile.name,
            }
            record_judging(workshop.ledger, paths, job.task, job.judging, who, begun=True)
            summary = judge(
                folders,
                job.task,
                profile,
                engine,
                references=definition.mt_bench.references,
                assets=workshop.assets,
                repeats=job.judge.repeats,
                retry_failed=retry_failed,
                requested=asked,
                progress=workshop.progress,
                judging=job.judging,
                opponent=_opponent(job),
                store=self.store,
                budget=self.budget,
                say=workshop.say,
            )
            record_judging(workshop.ledger, paths, job.task, job.judging, who, begun=False)
        written = ", ".join(f"{n} {status}" for status, n in summary.by_status.items()) or "none"
        workshop.say(
            f"{job.judging}: judgments written: {written}; {summary.reused} shared by equal answers; "
            f"{summary.calls - before[0]} questions asked{self._used(before)}"
            + (f"; {summary.stale} of answers that are no longer there were redone" if summary.stale else "")
        )

    def _used(self, before: tuple[int, int, int]) -> str:
        """Say what was read and written since, and what everything has cost so far where prices are known."""
        budget = self.budget
        if budget.calls == before[0]:
            return ""
        read, written = budget.prompt_tokens - before[1], budget.completion_tokens - before[2]
        cost = "" if budget.cost is None else f"; {budget.cost:.2f} spent so far"
        return f" ({read:,} tokens read, {written:,} written{cost})"

    def close(self) -> None:
        """Free the engine; a second call does nothing."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._asked = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def jobs_of(task: str, spec: JudgeSpec, opponent: Path) -> list[Job]:
    """Return every judging that a judge specification asks for: the judge's, the panel's, then pairs."""
    jobs = [Job(task=task, judging=judging_name(task), judge=spec)]
    jobs += [Job(task=task, judging=judging_name(task, one.engine.name), judge=one) for one in spec.panel]
    if spec.pairwise is not None:
        paired = Panelist(profile=spec.pairwise, engine=spec.engine, repeats=spec.repeats)
        jobs.append(Job(task=task, judging=judging_name(task, spec.pairwise), judge=paired, opponent=opponent))
    return jobs


def estimate_job(paths: Sequence[Path], job: Job, workshop: Workshop) -> JudgingEstimate:
    """Estimate what a judging would cost if nothing was judged before; no judge is loaded.

    Raises:
        UsageError: a folder lacks the task, or the task is not judged.
    """
    definition = workshop.definitions.task(job.task)
    if definition.mt_bench is None:
        raise UsageError(f"task '{job.task}' is of kind '{definition.kind}'; only conversations are judged")
    wanted = Request(
        task=job.task,
        profile=workshop.definitions.judge(job.judge.profile),
        references=definition.mt_bench.references,
        assets=workshop.assets,
        repeats=job.judge.repeats,
        opponent=_opponent(job),
    )
    runs = []
    for path in paths:
        task = read_manifest(path).tasks.get(job.task)
        if task is None:
            raise UsageError(f"{path}: task '{job.task}' is not in this run")
        runs.append(
            Readable(
                items=read_items(path, job.task), records=read_records(path, job.task), task_settings=task.settings
            )
        )
    return estimate_judging(runs, wanted)


def _opponent(job: Job) -> Opponent | None:
    if job.opponent is None:
        return None
    manifest = read_manifest(job.opponent)
    if job.task not in manifest.tasks:
        raise UsageError(f"{job.opponent}: task '{job.task}' is not in this run, so nothing can be compared with it")
    return Opponent(identity=manifest.engine, records=read_records(job.opponent, job.task))


def _judged(path: Path, job: Job, asked: Mapping[str, Any]) -> bool:
    """Say whether a folder holds every judgment of a judging, each of an answer as it is there now."""
    try:
        found = read_manifest(path).judges.get(job.judging)
        if found is None or dict(found.requested) != dict(asked):
            return False
        opponent = _opponent(job)
        if opponent is not None and found.opponent_sha256 != opponent.identity.sha256:
            return False
        wanted = _answers(read_records(path, job.task), opponent, found.repeats)
        have = {judgment_key(judgment): judgment.answer_sha256 for judgment in read_judgments(path, job.judging)}
        return have == wanted
    except EvalkitError:
        return False


def _answers(records: Sequence[Record], opponent: Opponent | None, repeats: int) -> dict[str, str]:
    """Return `judgment_key` to the digest of the answers it must be about."""
    others = {record.key: record.reply for record in opponent.records} if opponent is not None else {}
    wanted: dict[str, str] = {}
    for record in records:
        if not isinstance(record.reply, TextReply):
            continue
        texts, other = [turn.text for turn in record.reply.turns], others.get(record.key)
        if opponent is None:
            digests, games = [digest(texts[:turn]) for turn in range(1, len(texts) + 1)], repeats
        elif isinstance(other, TextReply):
            theirs = [turn.text for turn in other.turns]
            turns = range(1, min(len(texts), len(theirs)) + 1)
            digests, games = [pair_sha256(texts[:turn], theirs[:turn]) for turn in turns], repeats * ORDERS
        else:
            continue
        for turn, sha256 in enumerate(digests, start=1):
            wanted |= {f"{record.key}/{turn}/{game}": sha256 for game in range(games)}
    return wanted
