"""Reasoning at the beginning of a text is told from the answer, or it is said that it cannot be."""

from __future__ import annotations

import pytest

from evalkit.degeneration import leaks_reasoning, part_reasoning, tripped
from evalkit.records import Turn


@pytest.mark.parametrize(
    ("text", "form", "answer"),
    [
        ("<think>\nPerhaps 4?\n</think>\n\nFive.", "closed", "Five."),
        ("  <THINK>Perhaps</THINK>Five.", "closed", "Five."),
        ("Perhaps 4?\n</think>\n\nFive.", "closed", "Five."),
        ("<think>\n\n</think>\n\n", "closed", ""),
        ("<thinking>a</thinking>b", "closed", "b"),
        ("<reasoning>a</reasoning>b", "closed", "b"),
        ("<seed:think>a</seed:think>b", "closed", "b"),
        ("[THINK]a[/THINK]b", "closed", "b"),
        ("◁think▷a◁/think▷b", "closed", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "closed", "b"),
        ("<think>Perhaps 4? [[9]]", "unclosed", ""),
        ("[THINK]", "unclosed", ""),
        ("<think>he wrote '</think> [[10]]' himself</think>[[2]]", "unclear", ""),
        ("Five.", "none", "Five."),
        ("", "none", ""),
        ("Write <think> before you think.", "none", "Write <think> before you think."),
    ],
)
def test_forms(text, form, answer):
    found = part_reasoning(text)
    assert (found.form, found.answer) == (form, answer)
    assert leaks_reasoning(text) == (form != "none")


def test_a_gate_shows_reasoning_left_in_answers():
    def flags(text, question=None):
        return "reasoning" in tripped(Turn(text=text, finish="stop", prompt_tokens=1, completion_tokens=9), question)

    assert flags("<think>Hm.</think>Yes.", "Is it?")
    assert flags("<think>Hm. Hm. Hm.")
    assert not flags("Yes.", "Is it?")
    assert not flags("<think>Hm.</think>Yes.", "Show how a model writes <think>.")
