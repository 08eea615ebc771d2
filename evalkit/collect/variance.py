"""How much an engine's replies depend on what is asked beside them.

In: an engine and requests, or a finished run and its benchmark. Out: `BatchVariance`.
May not know: baselines, policies, how a batch is made.

Every batch is another shape of matrix products, and rounds otherwise; near-ties then turn over, and answers part at
their first near-tie. So the same requests are asked again, each one alone: what changes has no other cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.adapters.base import Engine, GenerateRequest, Generation, ScoreReply, ScoreRequest
from evalkit.benchmarks import Benchmark
from evalkit.collect.asking import Wanted, ask
from evalkit.records import ChoiceReply, Record, TextReply, text_digest
from evalkit.store import RunFolder

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
