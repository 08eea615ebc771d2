"""What can be wrong with an answer without reading it: one flag for each gate.

In: the text of one answer, how it ended, the question. Out: the names of the gates it trips.
Must not depend on: who wrote it, or what another engine wrote.

A flag decides nothing about one answer: good answers trip gates too. The same gates on the same questions for two
engines show a change that a judge is too coarse to see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from evalkit.degeneration.loops import GARBLED_LIMIT, RATIO_LIMIT, language, scripts, signals
from evalkit.degeneration.reasoning import leaks_reasoning
from evalkit.records.canonical import fold
from evalkit.records.record import Turn

GATES: Mapping[str, str] = {
    "repetition": "compresses more than five times, whole or at its end",
    "truncated": "stopped at the token limit",
    "empty": "nothing but white space",
    "garbled": "control, unassigned or undecodable characters",
    "language": "another script or language than the question",
    "echo": "begins with the question",
    "special-tokens": "markers of a chat template in the text",
    "reasoning": "a reasoning block (<think> and the like) left in the answer, or never closed",
}
"""Each gate with its meaning."""

NEEDS_QUESTION = ("language", "echo")
"""Gates that compare the answer with its question."""

FOREIGN_SHARE = 0.2
FEWEST_LETTERS = 20
"""Share of letters of a script the question does not use, and how many at least, that count as a change of script."""

ECHO_CHARACTERS = 200
FEWEST_ECHOED = 20
"""Characters of the question that an answer must begin with to echo it, at most and at least."""

SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_\- ]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:pad|unk|bos|eos|mask)>|\[UNK\]|"
    r"<(?:start|end)_of_turn>|<｜[^｜\s]{1,40}｜>"
)
"""Markers of chat templates and special tokens that no answer to a person holds."""


@lru_cache(maxsize=4096)  # the answers of a baseline are looked at once for each candidate
def tripped(turn: Turn, question: str | None) -> frozenset[str]:
    """Return the gates an answer trips; without its question the gates that need it are never tripped.

    >>> sorted(tripped(Turn(text="Yes.<|im_end|>", finish="length", prompt_tokens=1, completion_tokens=4), "Is it?"))
    ['special-tokens', 'truncated']
    """
    found, text = signals(turn), turn.text
    flags = {
        "repetition": found.ratio > RATIO_LIMIT,
        "truncated": found.at_limit,
        "empty": found.empty,
        "garbled": found.garbled_share > GARBLED_LIMIT,
        "language": question is not None and changes_language(text, question),
        "echo": question is not None and echoes(text, question),
        "special-tokens": leaks_special_tokens(text, question or ""),
        "reasoning": leaks_reasoning(text, question or ""),
    }
    return frozenset(name for name, flag in flags.items() if flag)


def changes_language(text: str, question: str) -> bool:
    """Say whether an answer is in another script or language than its question.

    >>> changes_language("да " * 20, "Is it so?"), changes_language("Yes, it is.", "Is it so?")
    (True, False)
    """
    used, letters = scripts(question), scripts(text)
    foreign = sum(count for script, count in letters.items() if script not in used)
    total = sum(letters.values())
    if used and foreign >= FEWEST_LETTERS and foreign > FOREIGN_SHARE * total:
        return True
    asked, said = language(question), language(text)
    return asked is not None and said is not None and asked != said


def echoes(text: str, question: str) -> bool:
    """Say whether an answer begins with its question, white space and case aside.

    >>> echoes("What is the capital of France? Paris.", "What is the capital of  France?")
    True
    """
    asked, said = fold(question).casefold(), fold(text).casefold()
    return len(asked) >= FEWEST_ECHOED and said.startswith(asked[:ECHO_CHARACTERS])


def leaks_special_tokens(text: str, question: str) -> bool:
    """Say whether an answer holds a marker of a chat template that its question does not.

    >>> leaks_special_tokens("</s> Sure", "Hello"), leaks_special_tokens("use <s>", "what is <s>?")
    (True, False)
    """
    asked = set(SPECIAL.findall(question))
    return any(marker not in asked for marker in SPECIAL.findall(text))
