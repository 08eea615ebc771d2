"""Items and records made from lm-eval's sample rows.

In: the rows of one item, one for each filter. Out: an `Item` and a `Record`, as evalkit's own runs have them.
May not know: files, comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from evalkit.errors import DataError
from evalkit.interop.foreign_files import NotFinite
from evalkit.interop.lm_eval_files import STEP
from evalkit.interop.lm_eval_format import NO_MARKS, doc_hash, split_mark
from evalkit.interop.lm_eval_samples import Sample
from evalkit.interop.row_rules import NO_ANSWER, unreadable, unusable_scores
from evalkit.records import ChoiceReply, Item, Record, TextReply, Turn, digest, text_digest

FALLBACK = "[invalid]"
"""What lm-eval's filters write where they find no answer in a text."""


def make_item(
    task: str, subject: str, name: str, identity: tuple[str, int], sample: Sample, *, indexed: bool, delimiter: str
) -> Item:
    """Make an item with the digests that evalkit's own run of the same task would give it.

    Args:
        task, subject: where it belongs.
        name: lm-eval's task.
        identity: digest of the row and its occurrence.
        sample: one of its rows.
        indexed: whether the task's targets are indices of options (`targets_are_indices`).
        delimiter: what stands before each option.
    """
    contexts = sample.contexts if len(sample.contexts) > 1 else sample.contexts * max(1, len(sample.continuations))
    details: dict[str, Any] = {
        "lm_eval_task": name,
        "doc_id": sample.doc_id,
        **(sample.hashes or _own_hashes(sample)),
        "target": sample.target,
    }
    if sample.generation is not None:
        details["generation"] = dict(sample.generation)
    else:
        details["lengths"] = _lengths(sample, delimiter)
    if len(sample.contexts) > 1:
        details["contexts"] = list(sample.contexts)
    return Item(
        task=task,
        subject=subject,
        item_sha256=identity[0],
        occurrence=identity[1],
        prompt_sha256=digest([list(contexts), list(sample.continuations), details.get("generation")]),
        target_sha256=text_digest(sample.target),
        doc=sample.doc,
        context=sample.contexts[0],
        continuations=sample.continuations,
        target=_target(sample, indexed),
        details=details,
    )


def make_record(item: Item, samples: Mapping[str, Sample], metric: str) -> Record:
    """Make a record; a row with a number that is not finite, or without the deciding one, is a failed record.

    Args:
        item: the item.
        samples: filter to row; with one filter marks have plain names, else `metric,filter`.
        metric: name of the mark that decides.

    Raises:
        DataError: a response is not what lm-eval writes.
    """
    marks: dict[str, float] = {}
    failure = None
    for part, sample in samples.items():
        for name, value in sample.values.items():
            if name in NO_MARKS:
                continue
            if isinstance(value, NotFinite) or (isinstance(value, Real) and not math.isfinite(float(value))):
                failure = failure or f"non-finite: lm-eval wrote {value!s} for '{name}'"
            elif isinstance(value, Real):
                marks[name if len(samples) == 1 else f"{name},{part}"] = float(value)
    sample = samples.get(split_mark(metric)[1]) or next(iter(samples.values()))
    reply = _text_reply(sample) if sample.generation is not None else _choice_reply(item, sample)
    if isinstance(reply, str):
        failure = failure or reply
    elif metric not in marks:
        failure = failure or f"marking: lm-eval wrote no number for '{metric}'"
    invalid = None
    if failure is None and isinstance(reply, TextReply):
        invalid = unreadable(reply, marks[metric])
        if invalid is None and marks[metric] <= 0 and sample.filtered == FALLBACK:
            invalid = "unparsable"
    return Record(
        task=item.task,
        subject=item.subject,
        item_sha256=item.item_sha256,
        occurrence=item.occurrence,
        prompt_sha256=item.prompt_sha256,
        target_sha256=item.target_sha256,
        status="failed" if failure else "ok",
        failure=failure,
        reply=None if failure or isinstance(reply, str) else reply,
        marks={} if failure else marks,
        invalid=invalid,
    )


def _choice_reply(item: Item, sample: Sample) -> ChoiceReply | str:
    """Return the reply, or a failure where there is none or its numbers are no log-probabilities."""
    if not sample.responses:
        return NO_ANSWER
    scores, greedy = [], []
    for response in sample.responses:
        if not isinstance(response, list) or len(response) != 2:
            raise DataError(
                f"{sample.where}: a response must be [log-probability, greedy], not {response!r:.80}; {STEP}"
            )
        if response[0] in (None, "None"):
            return NO_ANSWER
        try:
            scores.append(float(response[0]))
            greedy.append({"True": True, "False": False}[str(response[1])])
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{sample.where}: cannot read the response {response!r:.80}; {STEP}") from None
    wrong = [score for score in scores if not math.isfinite(score)]
    if wrong:
        return f"non-finite: log-probability {wrong[0]}"
    conditional = len(scores) // 2 if _is_mutual(sample) else len(scores)
    unusable = unusable_scores(scores[:conditional], sample.continuations[:conditional], sample.contexts)
    for at in range(conditional, len(scores)):  # an option without its question may well have another one's number
        unusable = unusable or unusable_scores(scores[at : at + 1], sample.continuations[at : at + 1], ("",))
    if unusable is not None:
        return unusable
    lengths = tuple(item.details["lengths"])
    return ChoiceReply(logprobs=tuple(scores), greedy=tuple(greedy), target=item.target, lengths=lengths)


def _is_mutual(sample: Sample) -> bool:
    """Say whether the second half of the requests are the options alone, which `acc_mutual_info` subtracts."""
    return "acc_mutual_info" in sample.values and len(sample.continuations) % 2 == 0


def _text_reply(sample: Sample) -> TextReply | str:
    if not sample.responses:
        return NO_ANSWER
    text = sample.responses[0]
    if not isinstance(text, str):
        raise DataError(f"{sample.where}: a generated answer must be text, not {text!r:.80}; {STEP}")
    # lm-eval says neither how many tokens there were nor why the answer ended.
    return TextReply(turns=(Turn(text=text, finish="stop", prompt_tokens=0, completion_tokens=0),))


def _own_hashes(sample: Sample) -> dict[str, str]:
    return {
        "doc_hash": doc_hash(sample.doc),
        "prompt_hash": text_digest(sample.contexts[0]),
        "target_hash": text_digest(sample.target),
    }


def targets_are_indices(samples: Iterable[Sample]) -> bool:
    """Return whether a task's targets, which lm-eval writes as text, are indices of options.

    "1" may be the second option or the option that reads 1; what holds for all rows of a task decides, and where both
    can be, the reading that agrees with more of the marks.
    """
    rows = [sample for sample in samples if len(sample.continuations) > 1]
    if not all(sample.target.isdecimal() and int(sample.target) < len(sample.continuations) for sample in rows):
        return False
    if any(sample.target not in _options(sample) for sample in rows):
        return True
    return sum(_agrees(sample, int(sample.target)) for sample in rows) > sum(
        _agrees(sample, _options(sample).index(sample.target)) for sample in rows
    )


def _agrees(sample: Sample, target: int) -> bool:
    """Say whether a row's `acc` is that of its log-probabilities if `target` is the right option."""
    count = len(sample.responses) // 2 if _is_mutual(sample) else len(sample.responses)
    try:
        scores = [float(response[0]) for response in sample.responses[:count]]
    except (IndexError, TypeError, ValueError):
        return False
    return bool(scores) and (scores.index(max(scores)) == target) == bool(sample.values.get("acc"))


def _options(sample: Sample) -> list[str]:
    return [text.strip() for text in sample.continuations]


def _target(sample: Sample, indexed: bool) -> int | None:
    """Return the index of the right continuation where the target's text says it."""
    if sample.generation is not None:
        return None
    if len(sample.continuations) == 1:
        return 0
    if indexed:
        return int(sample.target)
    matching = [at for at, text in enumerate(_options(sample)) if text == sample.target.strip()]
    return matching[0] if len(matching) == 1 else None


def _lengths(sample: Sample, delimiter: str) -> list[int]:
    """Return the characters of each continuation, without what lm-eval puts before an option."""
    options = len(sample.continuations) > 1
    return [len(text.removeprefix(delimiter)) if options else len(text) for text in sample.continuations]
