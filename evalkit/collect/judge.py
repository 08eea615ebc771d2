"""Judging runs: every answer put to one judge, every verdict written down at once.

In: run folders with answers, a judge profile, the judge's engine. Out: judgments in each folder, and a count.
May not know: which run is the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapters.base import Engine
from evalkit.assets import AssetStore
from evalkit.collect.budget import Budget
from evalkit.collect.session import BATCH, BATCH_S, STREAK, JudgingSummary, Session
from evalkit.definitions import JudgeProfile
from evalkit.errors import UsageError
from evalkit.judging import JudgeWords, JudgingPlan, load_words, plan_judging, plan_pairs
from evalkit.judging.estimate import JudgingEstimate, estimate
from evalkit.records import EngineIdentity, Item, JudgeRun, Record
from evalkit.store import RunFolder, VerdictStore

__all__ = ["BATCH", "BATCH_S", "STREAK", "Budget", "JudgingSummary", "Opponent", "estimate_judging", "judge"]


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """Whose answers the judged ones are compared with, for a pairwise profile.

    Attributes:
        identity: of the engine that gave them.
        records: the answers.
    """

    identity: EngineIdentity
    records: Sequence[Record]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be judged, but for who judges it.

    Attributes:
        task: name of a task of kind "conversation".
        profile: in which words the judge is asked.
        references: name of the set of reference answers; None for none.
        assets: where the profile's prompts come from, if it names an asset.
        repeats: judgments of each answer.
        seed: of the order of questions.
        opponent: for a pairwise profile.
    """

    task: str
    profile: JudgeProfile
    references: str | None
    assets: AssetStore | None = None
    repeats: int = 1
    seed: int = 0
    opponent: Opponent | None = None


def judge(  # noqa: PLR0913 (all but four are options with a name)
    folders: Sequence[RunFolder],
    task: str,
    profile: JudgeProfile,
    engine: Engine,
    *,
    references: str | None,
    assets: AssetStore | None = None,
    repeats: int = 1,
    seed: int = 0,
    retry_failed: bool = False,
    requested: Mapping[str, Any] | None = None,
    progress: bool = True,
    judging: str | None = None,
    opponent: Opponent | None = None,
    store: Path | None = None,
    budget: Budget | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> JudgingSummary:
    """Have a judge rate every answer of some runs that it has not rated yet.

    Args:
        folders: runs of the task, all judged in one mixed order, so that the judge drifts alike for all.
        task: name of a task of kind "conversation".
        profile: in which words the judge is asked.
        engine: the judge.
        references: name of the set of reference answers; None for none.
        assets: where the profile's prompts come from, if it names an asset.
        repeats: judgments of each answer.
        seed: of the order of questions.
        retry_failed: ask again where the judge gave no reply.
        requested: what was asked for of the judge engine, for `JudgeRun.requested`.
        progress: show progress on stderr.
        judging: name of the judging (`judging_name`); None for the task's own.
        opponent: whose answers a pairwise profile compares with.
        store: folder of a judgment store to take verdicts from and to add them to; None for none.
        budget: cap on what may be asked now; None for none.
        say: takes the estimate before the first question.

    Raises:
        UsageError: the task is not judged, or the profile does not fit it.
        IdentityMismatchError: a run was judged by another judge or in other words.
        EngineError: 32 questions in a row got no reply.
        InterruptedRunError: stopped on request or at the cap; the same call resumes.
        StoreError: the disk failed.
    """
    wanted = Request(
        task=task,
        profile=profile,
        references=references,
        assets=assets,
        repeats=repeats,
        seed=seed,
        opponent=opponent,
    )
    words, plan = _plan(folders, wanted, engine.identity)
    name = judging or task
    for folder in folders:
        folder.set_judge(name, _judge_run(wanted, words, plan, engine.identity, requested or {}))
    held = VerdictStore(store, engine.identity.sha256, words.sha256) if store is not None else None
    try:
        session = Session(folders, name, held)
        work = session.prepare(plan, retry_failed=retry_failed)
        if work.fresh:
            say(f"{name}: {estimate(profile, work.fresh).told(budget.price if budget is not None else None)}")
        return session.run(plan, work, profile, engine, budget or Budget(), progress=progress, say=say)
    finally:
        if held is not None:
            held.close()


def _judge_run(
    wanted: Request, words: JudgeWords, plan: JudgingPlan, identity: EngineIdentity, requested: Mapping[str, Any]
) -> JudgeRun:
    profile, opponent = wanted.profile, wanted.opponent
    return JudgeRun(
        profile=profile.name,
        profile_sha256=words.sha256,
        references_sha256=plan.references_sha256,
        identity=identity,
        repeats=wanted.repeats,
        planned=plan.planned,
        scale=(float(profile.scale[0]), float(profile.scale[1])),
        requested=requested,
        mode=profile.mode,
        opponent_sha256=opponent.identity.sha256 if opponent is not None else None,
    )


@dataclass(kw_only=True)
class Readable:
    """What an estimate needs of a run folder, without holding its lock."""

    items: Sequence[Item]
    records: Sequence[Record]
    task_settings: Mapping[str, Any] = field(default_factory=dict)


def estimate_judging(runs: Sequence[Readable], wanted: Request) -> JudgingEstimate:
    """Estimate what judging some runs would cost if nothing was judged before; no judge is loaded."""
    words = load_words(wanted.profile, wanted.assets)
    samples = int(runs[0].task_settings.get("generations", 1)) if runs else 1
    plan = _questions(words, wanted, runs[0].items if runs else (), [run.records for run in runs], None, samples)
    return estimate(wanted.profile, plan.questions)


def _plan(folders: Sequence[RunFolder], wanted: Request, identity: EngineIdentity) -> tuple[JudgeWords, JudgingPlan]:
    samples = _samples(folders, wanted.task)
    words = load_words(wanted.profile, wanted.assets)
    items = folders[0].items(wanted.task) if folders else ()
    runs = [folder.records(wanted.task) for folder in folders]
    return words, _questions(words, wanted, items, runs, identity, samples)


def _questions(
    words: JudgeWords,
    wanted: Request,
    items: Sequence[Item],
    runs: Sequence[Sequence[Record]],
    identity: EngineIdentity | None,
    samples: int,
) -> JudgingPlan:
    options: dict[str, Any] = {
        "references": wanted.references,
        "samples": samples,
        "repeats": wanted.repeats,
        "seed": wanted.seed,
    }
    pairwise = words.profile.mode == "pairwise"
    if pairwise != (wanted.opponent is not None):
        what = "compares two runs; name the one to compare with" if pairwise else "rates single answers"
        raise UsageError(f"judge '{words.profile.name}' {what}")
    if wanted.opponent is not None:
        return plan_pairs(items, runs, wanted.opponent.records, words, identity, **options)
    return plan_judging(items, runs, words, identity, **options)


def _samples(folders: Sequence[RunFolder], task: str) -> int:
    for folder in folders:
        run = folder.manifest.tasks.get(task)
        if run is None or run.kind != "conversation":
            have = "is not in this run" if run is None else f"is of kind '{run.kind}'"
            raise UsageError(f"{folder.path}: task '{task}' {have}; only conversations are judged")
    digests = {folder.manifest.tasks[task].prompts_sha256 for folder in folders}
    if len(digests) > 1:
        raise UsageError(f"task '{task}': the runs were asked different questions; judge them apart")
    return int(folders[0].manifest.tasks[task].settings.get("generations", 1)) if folders else 1
