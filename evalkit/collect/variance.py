"""How much an engine's replies depend on what is asked beside them.

In: an engine and requests, or a finished run and its benchmark. Out: `BatchVariance`.
Must not depend on: baselines, policies, how a batch is made.

Every batch is another shape of matrix products, and rounds otherwise; near-ties then turn over, and answers part at
their first near-tie. So the same requests are asked again, each one alone: what changes has no other cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.adapters.base import Engine, Failure, GenerateRequest, Generation, ScoreReply, ScoreRequest
from evalkit.benchmarks.benchmark import Benchmark
from evalkit.collect.asking import Wanted, ask
from evalkit.collect.ratings import Budget, ask_judge
from evalkit.collect.session import BATCH, STREAK
from evalkit.collect.writing import Progress, uninterrupted
from evalkit.definitions.judge import JudgeProfile
from evalkit.errors import EngineError, InterruptedRunError
from evalkit.judging.plan import Question, Rating
from evalkit.judging.probing import Asked
from evalkit.judging.reading import estimate
from evalkit.records.canonical import text_digest
from evalkit.records.record import ChoiceReply, JudgmentStatus, ProbeRow, Record, TextReply
from evalkit.store.folder import RunFolder
from evalkit.store.reading import RatingStore

# Tokens per second of any engine, for given lengths of prompt and answer.
#
# Prompts are made of plain words that differ from request to request, so that no engine can reuse one prompt's work for
# the next. They are raw text that goes on counting, because models rarely end such a text on their own.


TOLERANCE = 0.1
"""How far, as a share, mean lengths may lie from what was asked."""

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "red", "blue", "green", "cold")
_ATTEMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured.

    Attributes:
        input_tokens, output_tokens: mean length of a prompt and of an answer, tokens.
        tokens_per_second: output tokens of all requests over the wall time of the fastest round.
        rounds: the same of every round, in order.
        requests: requests of one round.
        one_at_a_time: whether each request waited for the one before.
    """

    input_tokens: float
    output_tokens: float
    tokens_per_second: float
    rounds: tuple[float, ...]
    requests: int
    one_at_a_time: bool


def measure_speed(
    engine: Engine,
    input_tokens: int,
    output_tokens: int,
    *,
    requests: int,
    one_at_a_time: bool,
    rounds: int,
    seed: int,
    clock: Callable[[], float],
) -> Speed:
    """Measure one engine; one request goes ahead to warm it up.

    Args:
        engine: loaded.
        input_tokens: wanted length of a prompt.
        output_tokens: wanted length of an answer.
        requests: of one round.
        one_at_a_time: each request waits for the one before ("batch 1"); else the engine gets all at once.
        rounds: repetitions; the fastest one is reported, for only disturbances make a round slower.
        seed: of the words.
        clock: seconds, never going back.

    Raises:
        EngineError: a request failed, or prompts or answers of the wanted length cannot be had.
    """
    rng = np.random.default_rng(seed)
    words = _words_needed(engine, input_tokens, rng)
    _answers(engine, [_request(words, output_tokens, rng)])
    speeds, found = [], []
    for _ in range(rounds):
        asked = [_request(words, output_tokens, rng) for _ in range(requests)]
        began = clock()
        answers = [_answers(engine, [one])[0] for one in asked] if one_at_a_time else _answers(engine, asked)
        elapsed = clock() - began
        if elapsed <= 0:
            raise EngineError("the clock did not move while the engine worked; next step: measure longer answers")
        speeds.append(sum(answer.completion_tokens for answer in answers) / elapsed)
        found += answers
    prompt = float(np.mean([answer.prompt_tokens for answer in found]))
    answer = float(np.mean([answer.completion_tokens for answer in found]))
    _check("prompts", prompt, input_tokens)
    _check("answers", answer, output_tokens)
    return Speed(
        input_tokens=prompt,
        output_tokens=answer,
        tokens_per_second=max(speeds),
        rounds=tuple(speeds),
        requests=requests,
        one_at_a_time=one_at_a_time,
    )


def _words_needed(engine: Engine, tokens: int, rng: np.random.Generator) -> int:
    """Find how many words make a prompt of so many tokens, by asking the engine."""
    words = max(1, tokens)
    best, distance = words, None
    for _ in range(_ATTEMPTS):
        length = _answers(engine, [_request(words, 1, rng)])[0].prompt_tokens
        if distance is None or abs(length - tokens) < distance:
            best, distance = words, abs(length - tokens)
        if length == tokens or length <= 0:
            break
        step = round(words * tokens / length)
        words = max(1, step if step != words else words + (1 if length < tokens else -1))
    return best


def _request(words: int, max_tokens: int, rng: np.random.Generator) -> GenerateRequest:
    text = " ".join(_WORDS[at] for at in rng.integers(0, len(_WORDS), size=words))
    return GenerateRequest(prompt=text, max_tokens=max_tokens)


def _answers(engine: Engine, requests: Sequence[GenerateRequest]) -> list[Generation]:
    found: dict[int, Generation] = {}
    for index, reply in engine.generate(requests):
        if isinstance(reply, Failure):
            raise EngineError(f"a request failed while speed was measured: {reply.kind}: {reply.message}")
        found[index] = reply
    if len(found) != len(requests):
        raise EngineError(f"the engine answered {len(found)} of {len(requests)} requests")
    return [found[at] for at in range(len(requests))]


def _check(what: str, seen: float, wanted: int) -> None:
    if abs(seen - wanted) > max(2.0, TOLERANCE * wanted):
        raise EngineError(
            f"{what} have {seen:.1f} tokens on average where {wanted} were asked for; next step: ask for a length that "
            "this model reaches"
        )


# Trying a judge: probes put to it, every rating kept at once.


def qualify(
    probes: Sequence[Asked],
    profile: JudgeProfile,
    engine: Engine,
    *,
    store: RatingStore,
    budget: Budget | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda _line: None,
) -> list[ProbeRow]:
    """Put every probe to a judge, and return what came of each, in the order of the probes.

    Equal questions are put once, and ratings of the store are taken. A judge that gives no reply is asked again by the
    next call; every other rating is final.

    Raises:
        EngineError: 32 consecutive requests failed.
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
        for question, rating in ask_judge(engine, profile, fresh, budget):
            found[question.key] = (rating.status, rating.score)
            asking.add(question, rating)
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
    """Ratings on their way into the store; those without a reply stay out of it."""

    def __init__(self, store: RatingStore, bar: Progress) -> None:
        self._store, self._bar = store, bar
        self._waiting: list[Mapping[str, object]] = []
        self._streak = 0

    def add(self, question: Question, rating: Rating) -> None:
        failed = rating.status == "api_error"
        self._bar.add(1, int(failed))
        self._streak = self._streak + 1 if failed else 0
        if self._streak >= STREAK:
            raise EngineError(
                f"{STREAK} consecutive judge requests failed; the last failure: "
                f"{rating.details.get('failure')}; next step: repair the judge and repeat the same command"
            )
        if not failed:
            row = {"status": rating.status, "score": rating.score, "text": rating.text}
            self._waiting.append({"key": question.key, **row, "details": dict(rating.details)})
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        batch, self._waiting = self._waiting, []
        with uninterrupted():
            self._store.add(batch)


_SEED = "batches"


@dataclass(frozen=True, kw_only=True)
class BatchVariance:
    """What changed when the same was asked in another company.

    Attributes:
        scored: requests scored both ways.
        choices_changed: of those, how many prefer another continuation.
        largest_difference: between two log-probabilities of one continuation, nats; 0 without any.
        answers: answers generated both ways.
        answers_changed: of those, how many are not equal to the letter.
        unanswered: requests without a reply, either way.
    """

    scored: int = 0
    choices_changed: int = 0
    largest_difference: float = 0.0
    answers: int = 0
    answers_changed: int = 0
    unanswered: int = 0

    def __str__(self) -> str:
        """Return the counts in words.

        >>> str(BatchVariance(scored=16, choices_changed=1, largest_difference=0.0312))
        '1 of 16 choices change, largest difference of a log-probability 0.031 nats'
        """
        parts = []
        if self.scored:
            parts.append(
                f"{self.choices_changed} of {self.scored} choices change, largest difference of a log-probability "
                f"{self.largest_difference:.2g} nats"
            )
        if self.answers:
            parts.append(f"{self.answers_changed} of {self.answers} answers change")
        if self.unanswered:
            parts.append(f"{self.unanswered} without a reply")
        return "; ".join(parts) or "nothing was asked"


def batch_variance(
    engine: Engine, scores: Sequence[ScoreRequest] = (), prompts: Sequence[GenerateRequest] = ()
) -> BatchVariance:
    """Ask requests together, then each alone.

    Raises:
        EngineError: the engine broke.
    """
    pairs: list[tuple[object, object]] = []
    for together, alone in (
        (dict(engine.score(scores)) if scores else {}, lambda at: engine.score([scores[at]])),
        (dict(engine.generate(prompts)) if prompts else {}, lambda at: engine.generate([prompts[at]])),
    ):
        for at, reply in sorted(together.items()):
            ((_, other),) = alone(at)
            pairs.append((reply, other))
    return _summary(pairs)


def run_variance(folder: RunFolder, engine: Engine, benchmark: Benchmark, count: int) -> BatchVariance:
    """Ask items of a finished run again, each alone, and compare with its records.

    Args:
        folder: the run; nothing is written to it.
        engine: the one that made it.
        benchmark: what was asked.
        count: how many items; always the same ones.
    """
    keys = sorted((text_digest(f"{_SEED}:{item.key}"), place) for place, item in enumerate(benchmark.items))
    chosen: list[Wanted] = [(benchmark.items[place], 0) for _, place in keys[:count]]
    records = _records(folder, benchmark.task, {f"{item.key}/0" for item, _ in chosen})
    pairs: list[tuple[object, object]] = []
    for item, sample in chosen:
        ((_, _, again),) = ask(engine, benchmark, [(item, sample)])
        record = records.get(f"{item.key}/{sample}")
        pairs.append((None if record is None else record.reply, again))
    return _summary(pairs)


def _records(folder: RunFolder, task: str, keys: set[str]) -> Mapping[str, Record]:
    return {record.key: record for record in folder.each_record(task) if record.key in keys}


def _summary(pairs: Sequence[tuple[object, object]]) -> BatchVariance:
    scored = changed = answers = other = unanswered = 0
    furthest = 0.0
    for left, right in pairs:
        if isinstance(left, (ScoreReply, ChoiceReply)) and isinstance(right, (ScoreReply, ChoiceReply)):
            scored += 1
            changed += _best(left.logprobs) != _best(right.logprobs)
            furthest = max(furthest, *(abs(a - b) for a, b in zip(left.logprobs, right.logprobs, strict=True)))
        elif isinstance(left, (Generation, TextReply)) and isinstance(right, (Generation, TextReply)):
            answers += 1
            other += _texts(left) != _texts(right)
        else:
            unanswered += 1
    return BatchVariance(
        scored=scored,
        choices_changed=changed,
        largest_difference=furthest,
        answers=answers,
        answers_changed=other,
        unanswered=unanswered,
    )


def _best(values: Sequence[float]) -> int:
    return values.index(max(values))


def _texts(reply: Generation | TextReply) -> tuple[str, ...]:
    return (reply.text,) if isinstance(reply, Generation) else tuple(turn.text for turn in reply.turns)
