"""What the page's script shows: changed items and conversations, as compact JSON data.

In: `Evidence`. Out: plain data; texts that many items share are written once.
May not know: HTML.

A report of 14,042 items and six candidates must stay small: only changed items are in it, the worked examples that the
items of a subject share are a prefix written once, and very long texts are cut and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.report.conversations import Answered, Conversations
from evalkit.report.flips import Change, Changes, Reply

MOST_CHANGES = 4000
"""Changed items of one run and endpoint, the largest change first; what is beyond is counted and left out."""

MOST_CHARACTERS = 6000
"""Longest text of one answer, judgment or part of a prompt."""

RULES = {
    "acc": "a side chooses the choice with the highest log-probability",
    "acc_norm": "a side chooses the choice with the highest log-probability for each character of it",
}
"""How a metric takes an answer out of log-probabilities."""

_SHARED_FROM = 200
"""Prefixes shorter than this are not worth a reference."""


def changes_data(changes: Sequence[Changes]) -> dict[str, Any]:
    """Return the data of the flip browser.

    `items` holds each item once: [endpoint, subject, digest, prefix, prompt, choices, target]; `rows` each change:
    [run, item, gained, baseline, candidate, shift], where a side is [log-probabilities, chosen, text, other prompt].
    """
    prefixes = _Prefixes(changes)
    runs, endpoints, subjects = _Names(), _Names(), _Names()
    items: dict[tuple[str, str, str, int], int] = {}
    told: list[list[Any]] = []
    rows: list[list[Any]] = []
    left_out: dict[str, int] = {}
    for found in changes:
        for change in found.items[:MOST_CHANGES]:
            place = (found.task, change.subject, change.item_sha256, change.occurrence)
            if place not in items:
                items[place] = len(told)
                prefix, rest = prefixes.split(found.task, change)
                told.append(
                    [
                        endpoints.index(_endpoint(found)),
                        subjects.index(change.subject),
                        change.item_sha256[:12],
                        prefix,
                        cut(rest),
                        [cut(choice) for choice in change.choices],
                        change.target,
                    ]
                )
            sides = [_side(change.baseline), _side(change.candidate)]
            rows.append([runs.index(found.run), items[place], int(change.gained), *sides, round(change.shift, 4)])
        if len(found.items) > MOST_CHANGES:
            left_out[f"{found.run}, {found.endpoint}"] = len(found.items) - MOST_CHANGES
    return {
        "runs": runs.names,
        "endpoints": [name.split(": ")[0] for name in endpoints.names],
        "rules": endpoints.names,
        "subjects": subjects.names,
        "prefixes": prefixes.texts,
        "items": told,
        "rows": rows,
        "left_out": left_out,
    }


def _endpoint(found: Changes) -> str:
    """Return the endpoint and, where it is known, how its metric takes an answer."""
    return f"{found.endpoint}: {RULES[found.metric]}" if found.metric in RULES else found.endpoint


def conversations_data(conversations: Mapping[str, Conversations]) -> list[dict[str, Any]]:
    """Return the data of the conversation browser, one entry for each judged task."""
    return [
        {
            "task": task,
            "runs": list(found.runs),
            "questions": [
                {
                    "category": question.category,
                    "id": question.item_sha256[:12],
                    "turns": [cut(turn) for turn in question.turns],
                    "answers": {name: _answered(answer) for name, answer in question.answers.items()},
                }
                for question in found.questions
            ],
        }
        for task, found in conversations.items()
    ]


def cut(text: str) -> str:
    """Return a text, or its beginning and a word about the rest."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}\n[cut here: {len(text) - MOST_CHARACTERS} more characters in the run folder]"


def _side(reply: Reply) -> list[Any]:
    logprobs = [round(value, 4) for value in reply.logprobs]
    side: list[Any] = [logprobs, reply.chosen, cut(reply.text), cut(reply.prompt) if reply.prompt is not None else None]
    while side and side[-1] in (None, ""):
        side.pop()
    return side


def _answered(answer: Answered) -> dict[str, Any]:
    return {
        "turns": [cut(turn) for turn in answer.turns],
        "invalid": answer.invalid,
        "generations": answer.generations,
        "said": [
            {
                "by": said.by,
                "turn": said.turn,
                "repeat": said.repeat,
                "status": said.status,
                "score": said.score,
                "text": cut(said.text),
                "details": {
                    name: value for name, value in said.details.items() if isinstance(value, (str, int, float))
                },
            }
            for said in answer.said
        ],
    }


class _Names:
    """Names in the order in which they were met."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def index(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    @property
    def names(self) -> list[str]:
        return list(self._places)


class _Prefixes:
    """The beginning that all prompts of one subject share, up to the last empty line in it."""

    def __init__(self, changes: Sequence[Changes]) -> None:
        prompts: dict[tuple[str, str], set[str]] = {}
        for found in changes:
            for change in found.items[:MOST_CHANGES]:
                prompts.setdefault((found.task, change.subject), set()).add(change.prompt)
        self.texts: list[str] = []
        self._lengths: dict[tuple[str, str], tuple[int, int]] = {}
        for place, texts in prompts.items():
            shared = _beginning(min(texts), max(texts))
            shared = shared[: shared.rfind("\n\n") + 2] if len(texts) > 1 else ""
            if len(shared) >= _SHARED_FROM:
                self._lengths[place] = (len(self.texts), len(shared))
                self.texts.append(cut(shared))

    def split(self, task: str, change: Change) -> tuple[int | None, str]:
        """Return the number of the shared prefix, None without one, and the rest of the prompt."""
        at, length = self._lengths.get((task, change.subject), (None, 0))
        return at, change.prompt[length:]


def _beginning(first: str, last: str) -> str:
    """Return the beginning of two texts; of the smallest and the largest, it is that of all between."""
    at = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:at]
