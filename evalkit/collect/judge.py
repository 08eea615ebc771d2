"""Judging runs: every answer put to one judge, every verdict written down at once.

In: run folders with answers, a judge profile, the judge's engine. Out: judgments in each folder, and a count.
May not know: which run is the baseline.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.adapters.base import Engine
from evalkit.assets import AssetStore
from evalkit.collect.progress import Progress
from evalkit.collect.verdicts import verdicts
from evalkit.collect.writing import uninterrupted
from evalkit.definitions import JudgeProfile
from evalkit.errors import EngineError, InterruptedRunError, StoreError, UsageError
from evalkit.judging import JudgingPlan, Question, load_words, plan_judging
from evalkit.judging.plan import Place, Verdict
from evalkit.records import JudgeRun, Judgment
from evalkit.store import RunFolder

BATCH = 16
BATCH_S = 5.0
STREAK = 32
"""Questions in a row without any reply after which the judge is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class JudgingSummary:
    """What came of judging one task.

    Attributes:
        task: name.
        planned: judgments of all runs when complete.
        found: judgments that were there before.
        by_status: judgments written now, by status.
        reused: of those, how many took their verdict from an equal question and cost nothing.
    """

    task: str
    planned: int
    found: int
    by_status: Mapping[str, int]
    reused: int

    @property
    def ok(self) -> int:
        """Judgments written now with a rating of the judge's own."""
        return self.by_status.get("ok", 0)


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

    Raises:
        UsageError: the task is not judged, or the profile does not fit it.
        IdentityMismatchError: a run was judged by another judge or in other words.
        EngineError: 32 questions in a row got no reply.
        InterruptedRunError: stopped on request; the same call resumes.
        StoreError: the disk failed.
    """
    samples = _samples(folders, task)
    session = _Session(folders, task, retry_failed=retry_failed)
    words = load_words(profile, assets)
    runs = [folder.records(task) for folder in folders]
    plan = plan_judging(
        folders[0].items(task) if folders else (),
        runs,
        words,
        engine.identity,
        references=references,
        samples=samples,
        repeats=repeats,
        seed=seed,
    )
    for folder in folders:
        folder.set_judge(
            task,
            JudgeRun(
                profile=profile.name,
                profile_sha256=words.sha256,
                references_sha256=plan.references_sha256,
                identity=engine.identity,
                repeats=repeats,
                planned=plan.planned,
                scale=(float(profile.scale[0]), float(profile.scale[1])),
                requested=requested or {},
            ),
        )
    return session.run(plan, profile, engine, progress=progress)


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


class _Session:
    """Judgments of one task on their way into several folders."""

    def __init__(self, folders: Sequence[RunFolder], task: str, *, retry_failed: bool) -> None:
        self._folders, self._task = folders, task
        self._waiting: list[tuple[int, Judgment]] = []
        self._counts: Counter[str] = Counter()
        self._reused = 0
        self._written_at = time.monotonic()
        self._streak = 0
        if retry_failed:
            for folder in folders:
                folder.drop_failed_judgments(task)

    def run(self, plan: JudgingPlan, profile: JudgeProfile, engine: Engine, *, progress: bool) -> JudgingSummary:
        done, known = self._found()
        missing = {
            question.key: [place for place in question.places if (place.run, place.name) not in done]
            for question in plan.questions
        }
        asked = [question for question in plan.questions if missing[question.key]]
        total = plan.planned * len(self._folders)
        self._bar = Progress(f"{self._task}: judge", total=total, done=len(done), shown=progress and bool(asked))
        try:
            fresh = []
            for question in asked:
                verdict = _rule(question, profile) or known.get(question.key)
                if verdict is None:
                    fresh.append(question)
                else:
                    self._add(question.key, missing[question.key], verdict, paid=0)
            for question, verdict in verdicts(engine, profile, fresh):
                self._add(question.key, missing[question.key], verdict, paid=1)
            self._flush()
        except KeyboardInterrupt:
            self._flush()
            raise InterruptedRunError(
                f"stopped on request: {len(done) + sum(self._counts.values())} of {total} judgments of task "
                f"'{self._task}' are on the disk; next step: the same command resumes"
            ) from None
        except StoreError:
            raise
        except BaseException:
            self._flush()
            raise
        finally:
            self._bar.close()
        for folder in self._folders:
            folder.finish_judgments(self._task)
        return JudgingSummary(
            task=self._task,
            planned=total,
            found=len(done),
            by_status=dict(sorted(self._counts.items())),
            reused=self._reused,
        )

    def _found(self) -> tuple[set[tuple[int, str]], dict[str, Verdict]]:
        """Return the places that have a judgment, and the verdicts that equal questions may share."""
        done: set[tuple[int, str]] = set()
        known: dict[str, Verdict] = {}
        for run, folder in enumerate(self._folders):
            for found in folder.judgments(self._task):
                record = f"{found.task}/{found.subject}/{found.item_sha256}/{found.occurrence}/{found.sample}"
                done.add((run, f"{record}/{found.turn}/{found.repeat}"))
                if found.status not in ("api_error", "rule"):
                    known[found.key] = Verdict(
                        status=found.status, score=found.score, text=found.text, details=found.details
                    )
        return done, known

    def _add(self, key: str, places: Sequence[Place], verdict: Verdict, *, paid: int) -> None:
        self._waiting += [(place.run, verdict.at(place, key)) for place in places]
        self._counts[verdict.status] += len(places)
        self._reused += len(places) - paid if verdict.status != "rule" else 0
        self._streak = self._streak + 1 if verdict.status == "api_error" else 0
        if self._streak >= STREAK:
            self._waiting = [(run, judgment) for run, judgment in self._waiting if judgment.status != "api_error"]
            raise EngineError(
                f"task '{self._task}': {STREAK} questions in a row got no reply from the judge; the last failure: "
                f"{verdict.details.get('failure')}; next step: repair the judge and repeat the same command"
            )
        if len(self._waiting) >= BATCH or time.monotonic() - self._written_at >= BATCH_S:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        with uninterrupted():
            for run, folder in enumerate(self._folders):
                folder.append_judgments(self._task, [judgment for owner, judgment in batch if owner == run])
        self._written_at = time.monotonic()
        self._bar.add(len(batch), sum(judgment.status == "api_error" for _, judgment in batch))


def _rule(question: Question, profile: JudgeProfile) -> Verdict | None:
    """Score an answer that nobody can read with the lowest rating; dropping it would flatter the worse engine."""
    if question.rule is None:
        return None
    return Verdict(status="rule", score=float(profile.scale[0]), details={"rule": question.rule})
