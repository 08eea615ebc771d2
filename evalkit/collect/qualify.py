"""Trying a judge: probes put to it, every verdict kept at once.

In: probes with their questions, a judge's engine, a judgment store, a budget. Out: rows.
May not know: what follows from them, which run the answers came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evalkit.adapters.base import Engine
from evalkit.collect.budget import Budget
from evalkit.collect.progress import Progress
from evalkit.collect.session import BATCH, STREAK
from evalkit.collect.verdicts import verdicts
from evalkit.collect.writing import uninterrupted
from evalkit.definitions import JudgeProfile
from evalkit.errors import EngineError, InterruptedRunError
from evalkit.judging import Question, Verdict
from evalkit.judging.estimate import estimate
from evalkit.judging.probing import Asked
from evalkit.probes import ProbeRow
from evalkit.records import JudgmentStatus
from evalkit.store import VerdictStore


def qualify(
    probes: Sequence[Asked],
    profile: JudgeProfile,
    engine: Engine,
    *,
    store: VerdictStore,
    budget: Budget | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda _line: None,
) -> list[ProbeRow]:
    """Put every probe to a judge, and return what came of each, in the order of the probes.

    Equal questions are put once, and verdicts of the store are taken. A judge that gives no reply is asked again by the
    next call; every other verdict is final.

    Raises:
        EngineError: 32 questions in a row got no reply.
        InterruptedRunError: stopped on request or at the cap; the same call resumes.
        StoreError: the disk failed.
    """
    questions = {asked.question.key: asked.question for asked in probes}
    found: dict[str, tuple[JudgmentStatus, float | None]] = {
        key: (row["status"], row["score"]) for key, row in store.find(questions.keys()).items()
    }
    fresh = [question for key, question in questions.items() if key not in found]
    if fresh:
        price = budget.price if budget is not None else None
        say(f"judge {profile.name}, qualification: {estimate(profile, fresh).told(price)}")
    done = len(questions) - len(fresh)
    bar = Progress("qualification", total=len(questions), done=done, shown=progress and bool(fresh))
    asking = _Asking(store, bar)
    try:
        for question, verdict in verdicts(engine, profile, fresh, budget):
            found[question.key] = (verdict.status, verdict.score)
            asking.add(question, verdict)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped on request: {len(found)} of {len(questions)} probes are done; next step: the same command resumes"
        ) from None
    finally:
        asking.flush()
        bar.close()
    return [
        ProbeRow(
            probe=asked.probe,
            key=asked.question.key,
            status=found[asked.question.key][0],
            score=found[asked.question.key][1],
        )
        for asked in probes
    ]


class _Asking:
    """Verdicts on their way into the store; those without a reply stay out of it."""

    def __init__(self, store: VerdictStore, bar: Progress) -> None:
        self._store, self._bar = store, bar
        self._waiting: list[Mapping[str, object]] = []
        self._streak = 0

    def add(self, question: Question, verdict: Verdict) -> None:
        failed = verdict.status == "api_error"
        self._bar.add(1, int(failed))
        self._streak = self._streak + 1 if failed else 0
        if self._streak >= STREAK:
            raise EngineError(
                f"{STREAK} probes in a row got no reply from the judge; the last failure: "
                f"{verdict.details.get('failure')}; next step: repair the judge and repeat the same command"
            )
        if not failed:
            row = {"status": verdict.status, "score": verdict.score, "text": verdict.text}
            self._waiting.append({"key": question.key, **row, "details": dict(verdict.details)})
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        batch, self._waiting = self._waiting, []
        with uninterrupted():
            self._store.add(batch)
