"""Judgments of one judging on their way into several run folders.

In: a plan, folders, a judge's engine, a judgment store, a budget. Out: judgments on the disk, and a count.
May not know: how a question is worded, which run is the baseline.

What is on the disk is kept only for the very question that would be asked now: a judgment of an answer that is no
longer there is dropped and redone, every other one is reused.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evalkit.adapters.base import Engine
from evalkit.collect.budget import Budget
from evalkit.collect.progress import Progress
from evalkit.collect.verdicts import verdicts
from evalkit.collect.writing import uninterrupted
from evalkit.definitions import JudgeProfile
from evalkit.errors import EngineError, InterruptedRunError, StoreError
from evalkit.judging import JudgingPlan, Place, Question, Verdict
from evalkit.judging.reading import UNREAD, next_step
from evalkit.records import Judgment
from evalkit.store import RunFolder, VerdictStore

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
        reused: of those, how many took their verdict from an equal question and cost nothing.
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
        ready: verdicts that cost nothing: by rule, or known of an equal question.
        fresh: questions to ask.
    """

    missing: Mapping[str, Sequence[Place]]
    done: int
    ready: Sequence[tuple[Question, Verdict]]
    fresh: Sequence[Question]


class Session:
    """Judgments of one judging on their way into several folders."""

    def __init__(self, folders: Sequence[RunFolder], judging: str, store: VerdictStore | None = None) -> None:
        self._folders, self._judging, self._store = folders, judging, store
        self._waiting: list[tuple[int, Judgment]] = []
        self._learnt: list[dict[str, object]] = []
        self._counts: Counter[str] = Counter()
        self._reused = self._told = self._stale = 0
        self._written_at = time.monotonic()
        self._streak = 0
        self._asked = self._unread = 0
        self._first_unread: Verdict | None = None
        self._warned = False

    def prepare(self, plan: JudgingPlan, *, retry_failed: bool = False) -> Work:
        """Drop what is stale or to be retried, and return what is left to do."""
        planned = {(place.run, place.name): question.key for question in plan.questions for place in question.places}
        done: set[tuple[int, str]] = set()
        known: dict[str, Verdict] = {}
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
            known |= {key: _verdict(row) for key, row in rows.items()}
        ready, fresh = [], []
        for question in asked:
            verdict = _by_rule(question) or known.get(question.key)
            if verdict is None:
                fresh.append(question)
            else:
                ready.append((question, verdict))
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
        """Ask what is left and write every verdict as it comes; `say` takes a warning where too many are unreadable."""
        total = plan.planned * len(self._folders)
        some = bool(work.ready or work.fresh)
        self._bar = Progress(f"{self._judging}: judge", total=total, done=work.done, shown=progress and some)
        try:
            for question, verdict in work.ready:
                self._add(question.key, work.missing[question.key], verdict, paid=0)
            for question, verdict in verdicts(engine, profile, work.fresh, budget):
                self._learn(question.key, verdict)
                self._add(question.key, work.missing[question.key], verdict, paid=1)
                self._watch(verdict, say)
            self._flush()
            self._watch(None, say)
        except KeyboardInterrupt:
            self._flush()
            raise InterruptedRunError(
                f"stopped on request: {work.done + sum(self._counts.values())} of {total} judgments of task "
                f"'{self._judging}' are on the disk; next step: the same command resumes"
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

    def _watch(self, verdict: Verdict | None, say: Callable[[str], None]) -> None:
        """Count what a judge was asked; after the first batch, or at the end, say if too much of it is unreadable."""
        if verdict is not None:
            self._asked += 1
            if verdict.status in UNREAD:
                self._unread += 1
                self._first_unread = self._first_unread or verdict
            if self._asked < BATCH:
                return
        if self._warned or self._first_unread is None or self._unread <= FEW * self._asked:
            return
        self._warned, first = True, self._first_unread
        said = first.text or str(first.details.get("failure") or "")
        say(
            f"warning: {self._judging}: {self._unread} of {self._asked} replies of the judge hold no verdict "
            f"({first.status}); the first one begins {said[:160]!r}; next step: {next_step(first)}"
        )

    def _learn(self, key: str, verdict: Verdict) -> None:
        if self._store is not None and verdict.status not in _UNSHARED:
            row = {"status": verdict.status, "score": verdict.score, "text": verdict.text}
            self._learnt.append({"key": key, **row, "details": dict(verdict.details)})

    def _add(self, key: str, places: Sequence[Place], verdict: Verdict, *, paid: int) -> None:
        self._waiting += [(place.run, verdict.at(place, key)) for place in places]
        self._counts[verdict.status] += len(places)
        self._reused += len(places) - paid if verdict.status != "rule" else 0
        self._streak = self._streak + 1 if verdict.status == "api_error" else 0
        if self._streak >= STREAK:
            self._waiting = [(run, judgment) for run, judgment in self._waiting if judgment.status != "api_error"]
            raise EngineError(
                f"task '{self._judging}': {STREAK} questions in a row got no reply from the judge; the last failure: "
                f"{verdict.details.get('failure')}; next step: repair the judge and repeat the same command"
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
) -> tuple[set[tuple[int, str]], dict[str, Verdict], int]:
    """Return the places that have a judgment, the verdicts that equal questions may share, and how many were stale."""
    done: set[tuple[int, str]] = set()
    known: dict[str, Verdict] = {}
    stale = retried = 0
    for found in folder.judgments(judging):
        if found.status not in _UNSHARED:
            known[found.key] = Verdict(status=found.status, score=found.score, text=found.text, details=found.details)
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


def _verdict(row: Mapping[str, object]) -> Verdict:
    return Verdict(**{name: value for name, value in row.items() if name != "key"})  # type: ignore[arg-type]


def _by_rule(question: Question) -> Verdict | None:
    """Score an answer that nobody can read, or an exact tie; dropping it would flatter the worse engine."""
    if question.rule is None:
        return None
    return Verdict(status="rule", score=question.rule_score, details={"rule": question.rule})
