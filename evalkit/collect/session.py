"""Judgments of one judging on their way into several run folders.

In: a plan, folders, a judge's engine, a judgment store, a budget. Out: judgments on the disk, and a count.
Must not depend on: how a question is worded, which run is the baseline.

What is on the disk is kept only for the very question that would be asked now: a judgment of an answer that is no
longer there is dropped and redone, every other one is reused.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapters.base import Engine
from evalkit.assets.store import AssetStore
from evalkit.collect.ratings import Budget, ask_judge
from evalkit.collect.writing import Progress, uninterrupted
from evalkit.definitions.judge import JudgeProfile
from evalkit.errors import EngineError, InterruptedRunError, StoreError, UsageError
from evalkit.judging.plan import JudgingPlan, Place, Question, Rating, plan_judging, plan_pairs
from evalkit.judging.ratings import JudgeWords, load_words
from evalkit.judging.reading import UNREAD, JudgingEstimate, estimate, next_step
from evalkit.records.manifest import EngineIdentity, JudgeRun
from evalkit.records.record import Item, Judgment, Record
from evalkit.store.folder import RunFolder
from evalkit.store.reading import RatingStore

BATCH = 16
BATCH_S = 5.0
STREAK = 32
"""Questions in a row without any reply after which the judge is taken for dead."""

FEW = 0.1
"""Share of the judge's replies that may be unreadable before it is worth a warning."""

_UNSHARED = ("api_error", "rule")
"""Statuses that say nothing about an equal question: no reply came, or none was asked for."""


@dataclass(frozen=True, kw_only=True)
class JudgingSummary:
    """What came of judging one task.

    Attributes:
        task: name.
        planned: judgments of all runs when complete.
        found: judgments that were there before.
        by_status: judgments written now, by status.
        reused: of those, how many took their rating from an equal question and cost nothing.
        stale: judgments that were dropped because their answer is no longer there.
        calls, prompt_tokens, completion_tokens: what the judge was asked and used now.
    """

    task: str
    planned: int
    found: int
    by_status: Mapping[str, int]
    reused: int
    stale: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def ok(self) -> int:
        """Judgments written now with a rating of the judge's own."""
        return self.by_status.get("ok", 0)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to do.

    Attributes:
        missing: question key to places without a judgment.
        done: judgments that are there.
        ready: ratings that cost nothing: by rule, or known of an equal question.
        fresh: questions to ask.
    """

    missing: Mapping[str, Sequence[Place]]
    done: int
    ready: Sequence[tuple[Question, Rating]]
    fresh: Sequence[Question]


class Session:
    """Judgments of one judging on their way into several folders."""

    def __init__(self, folders: Sequence[RunFolder], judging: str, store: RatingStore | None = None) -> None:
        self._folders, self._judging, self._store = folders, judging, store
        self._waiting: list[tuple[int, Judgment]] = []
        self._held: list[tuple[int, Judgment]] = []
        self._learnt: list[dict[str, object]] = []
        self._counts: Counter[str] = Counter()
        self._reused = self._told = self._stale = 0
        self._written_at = time.monotonic()
        self._streak = 0
        self._asked = self._unread = 0
        self._first_unread: Rating | None = None
        self._warned = False

    def prepare(self, plan: JudgingPlan, *, retry_failed: bool = False) -> Work:
        """Drop what is stale or to be retried, and return what is left to do."""
        planned = {(place.run, place.name): question.key for question in plan.questions for place in question.places}
        done: set[tuple[int, str]] = set()
        known: dict[str, Rating] = {}
        for run, folder in enumerate(self._folders):
            kept, shared, stale = _on_disk(folder, self._judging, run, planned, retry_failed=retry_failed)
            done |= kept
            known |= shared
            self._stale += stale
        missing = {
            question.key: [place for place in question.places if (place.run, place.name) not in done]
            for question in plan.questions
        }
        asked = [question for question in plan.questions if missing[question.key]]
        if self._store is not None:
            rows = self._store.find({question.key for question in asked} - known.keys())
            known |= {key: _rating(row) for key, row in rows.items()}
        ready, fresh = [], []
        for question in asked:
            rating = _by_rule(question) or known.get(question.key)
            if rating is None:
                fresh.append(question)
            else:
                ready.append((question, rating))
        return Work(missing=missing, done=len(done), ready=ready, fresh=fresh)

    def run(
        self,
        plan: JudgingPlan,
        work: Work,
        profile: JudgeProfile,
        engine: Engine,
        budget: Budget,
        *,
        progress: bool,
        say: Callable[[str], None] = lambda _line: None,
    ) -> JudgingSummary:
        """Ask what is left and write every rating as it comes; `say` takes a warning where too many are unreadable."""
        total = plan.planned * len(self._folders)
        some = bool(work.ready or work.fresh)
        self._bar = Progress(f"{self._judging}: judge", total=total, done=work.done, shown=progress and some)
        try:
            for question, rating in work.ready:
                self._add(question.key, work.missing[question.key], rating, paid=0)
            for question, rating in ask_judge(engine, profile, work.fresh, budget):
                self._learn(question.key, rating)
                self._add(question.key, work.missing[question.key], rating, paid=1)
                self._watch(rating, say)
            self._waiting, self._held = self._waiting + self._held, []
            self._flush()
            self._watch(None, say)
        except KeyboardInterrupt:
            self._flush()
            written = work.done + sum(self._counts.values()) - len(self._held)
            raise InterruptedRunError(
                f"stopped on request: {written} of {total} judgments of task '{self._judging}' are on the disk; "
                "next step: the same command resumes"
            ) from None
        except StoreError:
            raise
        except BaseException:
            self._flush()
            raise
        finally:
            self._bar.close()
        for folder in self._folders:
            folder.finish_judgments(self._judging)
        return JudgingSummary(
            task=self._judging,
            planned=total,
            found=work.done,
            by_status=dict(sorted(self._counts.items())),
            reused=self._reused,
            stale=self._stale,
            calls=budget.calls,
            prompt_tokens=budget.prompt_tokens,
            completion_tokens=budget.completion_tokens,
        )

    def _watch(self, rating: Rating | None, say: Callable[[str], None]) -> None:
        """Count what a judge was asked; after the first batch, or at the end, say if too much of it is unreadable."""
        if rating is not None:
            self._asked += 1
            if rating.status in UNREAD:
                self._unread += 1
                self._first_unread = self._first_unread or rating
            if self._asked < BATCH:
                return
        if self._warned or self._first_unread is None or self._unread <= FEW * self._asked:
            return
        self._warned, first = True, self._first_unread
        said = first.text or str(first.details.get("failure") or "")
        say(
            f"warning: {self._judging}: {self._unread} of {self._asked} replies of the judge hold no rating "
            f"({first.status}); the first one begins {said[:160]!r}; next step: {next_step(first)}"
        )

    def _learn(self, key: str, rating: Rating) -> None:
        if self._store is not None and rating.status not in _UNSHARED:
            row = {"status": rating.status, "score": rating.score, "text": rating.text}
            self._learnt.append({"key": key, **row, "details": dict(rating.details)})

    def _add(self, key: str, places: Sequence[Place], rating: Rating, *, paid: int) -> None:
        self._held += [(place.run, rating.at(place, key)) for place in places]
        if rating.status != "api_error":  # the judge works, so that what failed before failed for itself
            self._waiting, self._held = self._waiting + self._held, []
        self._counts[rating.status] += len(places)
        self._reused += len(places) - paid if rating.status != "rule" else 0
        self._streak = self._streak + 1 if rating.status == "api_error" else 0
        if self._streak >= STREAK:
            self._held = []
            raise EngineError(
                f"task '{self._judging}': {STREAK} consecutive judge requests failed; the last failure: "
                f"{rating.details.get('failure')}; next step: repair the judge and repeat the same command"
            )
        if len(self._waiting) >= BATCH or time.monotonic() - self._written_at >= BATCH_S:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        learnt, self._learnt = self._learnt, []
        with uninterrupted():
            if self._store is not None:
                self._store.add(learnt)
            for run, folder in enumerate(self._folders):
                folder.append_judgments(self._judging, [judgment for owner, judgment in batch if owner == run])
        self._written_at = time.monotonic()
        failed = sum(judgment.status == "api_error" for _, judgment in batch)
        self._bar.add(len(batch), failed, reused=self._reused - self._told)
        self._told = self._reused


def _on_disk(
    folder: RunFolder, judging: str, run: int, planned: Mapping[tuple[int, str], str], *, retry_failed: bool
) -> tuple[set[tuple[int, str]], dict[str, Rating], int]:
    """Return the places that have a judgment, the ratings that equal questions may share, and how many were stale."""
    done: set[tuple[int, str]] = set()
    known: dict[str, Rating] = {}
    stale = retried = 0
    for found in folder.judgments(judging):
        if found.status not in _UNSHARED:
            known[found.key] = Rating(status=found.status, score=found.score, text=found.text, details=found.details)
        if planned.get((run, _place(found))) != found.key:
            stale += 1
        elif retry_failed and found.status == "api_error":
            retried += 1
        else:
            done.add((run, _place(found)))
    if stale or retried:
        folder.drop_judgments(judging, lambda judgment: (run, _place(judgment)) in done)
    return done, known, stale


def _place(found: Judgment) -> str:
    record = f"{found.task}/{found.subject}/{found.item_sha256}/{found.occurrence}/{found.sample}"
    return f"{record}/{found.turn}/{found.repeat}"


def _rating(row: Mapping[str, object]) -> Rating:
    return Rating(**{name: value for name, value in row.items() if name != "key"})  # type: ignore[arg-type]


def _by_rule(question: Question) -> Rating | None:
    """Score an answer that nobody can read, or an exact tie; dropping it would flatter the worse engine."""
    if question.rule is None:
        return None
    return Rating(status="rule", score=question.rule_score, details={"rule": question.rule})


# Judging runs: every answer put to one judge, every rating written down at once.


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
        store: folder of a judgment store to take ratings from and to add them to; None for none.
        budget: cap on what may be asked now; None for none.
        say: takes the estimate before the first question.

    Raises:
        UsageError: the task is not judged, or the profile does not fit it.
        IdentityMismatchError: a run was judged by another judge or in other words.
        EngineError: 32 consecutive requests failed.
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
    held = RatingStore(store, engine.identity.sha256, words.sha256) if store is not None else None
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
