"""What an item asks, whatever it is called."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.records import Item, item_facts


def item(doc: dict[str, Any], context: str, subject: str = "anatomy", **more: Any) -> Item:
    given = {"continuations": (" A", " B"), "details": {"doc_id": 7}, **more}
    return Item(
        task="t", subject=subject, item_sha256="0" * 64, occurrence=0, prompt_sha256="p", target_sha256="q", doc=doc,
        context=context, **given,
    )  # fmt: skip


ROW = {"question": "Which nerve  moves the tongue?", "choices": ["Vagus", "The hypoglossal nerve"], "answer": 1}
ASKED = "Which nerve  moves the tongue?\nA. Vagus\nB. The hypoglossal nerve\nAnswer:"
HEAD = "The following are multiple choice questions about {}.\n\nWhat is a worked example?\nA. x\nB. y\nAnswer: A\n\n"
SAME = item(ROW, HEAD.format("anatomy") + ASKED)


@pytest.mark.parametrize(
    ("doc", "subject", "context"),
    [
        ({**ROW, "id": "anatomy-0001"}, "anatomy", HEAD.format("anatomy") + ASKED),
        ({**ROW, "salt": "never shown to any model", "uid": 99}, "anatomy", ASKED),
        ({**ROW, "subject": "virology"}, "virology", HEAD.format("virology") + ASKED),
        ({**ROW, "topic": "college_biology"}, "college_biology", HEAD.format("college biology") + ASKED),
        ({**ROW, "choices": ROW["choices"][::-1], "answer": 0}, "anatomy", ASKED),
        (
            {**ROW, "question": " which nerve moves the tongue "},
            "anatomy",
            " which nerve moves the tongue \nA. Vagus\nB. The hypoglossal nerve\nAnswer:",
        ),
    ],
    ids=["identifier", "hidden fields", "subject", "subject's words", "order of options", "case and white space"],
)
def test_another_name_is_no_other_question(doc: dict[str, Any], subject: str, context: str) -> None:
    assert item_facts(item(doc, context, subject)).content == item_facts(SAME).content


@pytest.mark.parametrize(
    ("doc", "context"),
    [
        ({**ROW, "choices": ["Vagus", "The facial nerve"]}, ASKED.replace("hypoglossal", "facial")),
        ({**ROW, "question": "Which nerve moves the eye?"}, ASKED.replace("  moves the tongue", " moves the eye")),
        ({**ROW, "passage": "A long text that is shown first."}, "A long text that is shown first.\n" + ASKED),
    ],
)
def test_another_question_is_another(doc: dict[str, Any], context: str) -> None:
    assert item_facts(item(doc, context)).content != item_facts(SAME).content


def test_a_row_that_is_rewritten_before_it_is_shown_counts_as_its_prompt() -> None:
    """Winogrande: the sentence has a gap, and the two options alone would make many items look alike."""

    def gap(sentence: str) -> Item:
        doc = {"sentence": sentence, "option1": "the big old house", "option2": "the small new flat", "answer": "1"}
        before, after = sentence.split("_")
        return item(doc, f"{before}{doc['option1']}", continuations=(after,), details={})

    one, other = gap("She sold it and liked _ better than that."), gap("He could not pay for _ in the end.")
    assert item_facts(one).content != item_facts(other).content
    assert item_facts(one).content == item_facts(gap("She sold it and liked _ better than that.")).content


def test_conversations_count_as_their_turns() -> None:
    first = item({"question_id": 81}, "", turns=("Write a poem.", "Again, shorter."), continuations=())
    again = item({"question_id": 281}, "", "writing", turns=("write a  poem", "Again, shorter."), continuations=())
    other = item({"question_id": 81}, "", turns=("Write a poem.", "Longer."), continuations=())
    assert item_facts(first).content == item_facts(again).content != item_facts(other).content


def test_every_short_field_is_a_label_and_a_long_one_is_its_digest() -> None:
    facts = item_facts(item({**ROW, "meta": {"passage_id": 12, "none": None}, "passage": "word " * 99}, ASKED))
    assert facts.labels["meta.passage_id"] == "12"
    assert len(facts.labels["passage"]) == 64
    assert facts.labels["row"] == "7"
    assert {"choices", "meta.none"}.isdisjoint(facts.labels)
