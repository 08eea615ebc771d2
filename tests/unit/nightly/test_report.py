from __future__ import annotations

from xml.etree import ElementTree

import pytest

from evalkit.nightly.report import job_summary, junit_xml, night_sections, one_line, payload
from evalkit.nightly.trends import triage
from evalkit.records import ChoiceReply, Item, Record, TextReply, Turn, canonical_json
from evalkit.report import as_markdown, as_text


def watch(**changes):
    interval = {"lower": -0.02, "upper": 0.01, "level": 0.95, "method": "betting"}
    made = {"state": "OK", "used": 500, "missing_baseline": 0, "missing_candidate": 0, "log_e": 3.0, "log_e_loss": -1.0}
    return {**made, "n11": 490, "n10": 5, "n01": 4, "n00": 1, "interval": interval, **changes}


def result(recipe="r1", outcome="OK", *, endpoints=None, reasons=None, **changes):
    found = {
        "task": "mmlu",
        "metric": "acc",
        "outcome": outcome,
        "reasons": [],
        "population": 14042,
        "asked": 512,
        "probe": None,
        "watch": watch(),
        "confirm": None,
        "full": None,
        "triage": {"largest": [], "subjects": [], "mean_change": 0.0, "unreadable": None},
    }
    why = {"OK": "clear", "ALARM": "loss", "UNDECIDED": "cap"}.get(outcome, "engine")
    return {
        "suite": "s",
        "site": "default",
        "night": "2026-03-01",
        "recipe": recipe,
        "outcome": outcome,
        "reasons": reasons
        or [{"code": why, "message": f"{recipe} says why", "endpoint": None if outcome == "INVALID" else "mmlu"}],
        "policy": {"name": "nightly", "sha256": "0" * 64},
        "watched": {"mmlu": {"task": "mmlu", "metric": "acc", "protocol": "p"}},
        "margin_points": 1.0,
        "identity_sha256": "1" * 64,
        "endpoints": {"mmlu": found} if endpoints is None else endpoints,
        **changes,
    }


def test_one_line_has_the_worst_first_and_stays_one_line():
    results = [result("a"), result("b", "ALARM"), result("c", "INVALID", endpoints={})]
    line = one_line(results)
    assert line.index("ALARM b") < line.index("INVALID c (c says why)") < line.index("OK a")
    assert "mmlu -0.20 points after 500 items, e = 20" in line
    assert ", margin 1 points: " in line
    long = [
        result("x", "INVALID", endpoints={}, reasons=[{"code": "engine", "message": "a\nb " * 900, "endpoint": None}])
    ]
    assert "\n" not in one_line(long)
    assert len(one_line(long)) <= 600


def test_junit_has_a_case_for_each_recipe_and_endpoint_with_its_reason():
    results = [result("a"), result("b", "ALARM"), result("c", "INVALID", endpoints={}), result("d", "UNDECIDED")]
    root = ElementTree.fromstring(junit_xml(results))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "2", "1")
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert list(cases) == ["a: mmlu", "b: mmlu", "c: mmlu", "d: mmlu"]
    assert cases["a: mmlu"].find("failure") is None
    assert "b says why" in cases["b: mmlu"].find("failure").get("message")
    assert cases["c: mmlu"].find("error").get("type") == "invalid"
    assert "no regression" in cases["c: mmlu"].find("error").get("message")


def test_a_general_reason_spoils_every_endpoint():
    both = {
        "mmlu": {"task": "t", "metric": "acc", "protocol": "p"},
        "other": {"task": "t", "metric": "x", "protocol": "p"},
    }
    one = result("a", "INVALID", watched=both)
    root = ElementTree.fromstring(junit_xml([one]))
    assert root.get("errors") == "2"


def test_the_summary_escapes_what_comes_from_outside():
    nasty = result("a", "ALARM", reasons=[{"code": "loss", "message": "<img src=x> | @all `x`", "endpoint": "mmlu"}])
    text = job_summary([nasty])
    assert text.startswith("## ALARM: s, night 2026-03-01")
    assert "<img" not in text
    assert "&#124; &#64;all" in text
    assert len(job_summary([nasty] * 50, limit_bytes=2000).encode()) <= 2000


def test_the_payload_is_json():
    told = payload([result("a"), result("b", "ALARM")])
    assert (told["outcome"], told["exit_code"]) == ("ALARM", 1)
    assert canonical_json(told)


@pytest.mark.parametrize("write", [as_markdown, as_text])
def test_the_report_says_what_it_does_not_say(write):
    full = {"state": "FAIL", "n": 14042, "n11": 1, "n10": 2, "n01": 3, "n00": 4, "difference": -0.02, "reasons": []}
    full["interval"] = {"lower": -0.03, "upper": -0.01, "level": 0.95, "method": "tango"}
    bad = result("b", "ALARM")
    bad["endpoints"]["mmlu"] |= {"full": full, "confirm": watch(state="ALARM"), "watch": watch(state="ALARM")}
    text = " ".join(write(night_sections([result("a"), bad])).split())
    for words in (
        "certifies nothing",
        "mmlu, confirming",
        "mmlu, all items",
        "What to look at first: b",
        "[-3.00, -1.00]",
    ):
        assert words in text
    assert "What to look at first: a" not in text


def choice(at, logprobs, mark, target=0, subject="s1"):
    return Record(
        task="t", subject=subject, item_sha256=f"{at:064d}", occurrence=0, prompt_sha256="p", target_sha256="t",
        status="ok", marks={"acc": mark},
        reply=ChoiceReply(logprobs=logprobs, greedy=(True, False), target=target, lengths=(1, 1)),
    )  # fmt: skip


def test_triage_puts_the_largest_losses_first_and_groups_flips():
    left, right, items = {}, {}, {}
    for at in range(30):
        key, subject = f"t/s/{at:064d}/0", "s1" if at < 20 else "s2"
        left[key] = choice(at, (-1.0, -1.0), 1.0, subject=subject)
        lost = 1.0 + at / 10 if at % 2 else 0.0
        right[key] = choice(at, (-1.0 - lost, -1.0), 0.0 if lost > 2.5 else 1.0, subject=subject)
        items[key] = Item(
            task="t", subject=subject, item_sha256=f"{at:064d}", occurrence=0, prompt_sha256="p", target_sha256="t",
            doc={"question": f"question {at} " + "x" * 300},
        )  # fmt: skip
    del items[f"t/s/{29:064d}/0"]
    found = triage(left, right, "acc", items)
    assert [row.key[4:68].lstrip("0") for row in found.largest] == [str(at) for at in range(29, 9, -2)]
    assert found.largest[0].question == ""
    assert found.largest[1].question.startswith("question 27 ")
    assert found.largest[1].question.endswith("...")
    assert [row.flipped for row in found.largest][:8] == [True] * 7 + [False]
    assert [(row.subject, row.losses, row.gains, row.items) for row in found.subjects] == [
        ("s2", 5, 0, 10),
        ("s1", 2, 0, 20),
    ]
    assert found.mean_change < 0
    assert found.unreadable is None


def test_triage_of_generated_answers_counts_what_cannot_be_read():
    def text(at, invalid):
        turn = Turn(text="x", finish="stop", prompt_tokens=1, completion_tokens=1)
        return Record(
            task="t", subject="s", item_sha256=f"{at:064d}", occurrence=0, prompt_sha256="p", target_sha256="t",
            status="ok", marks={"acc": 0.0}, reply=TextReply(turns=(turn,)), invalid=invalid,
        )  # fmt: skip

    left = {str(at): text(at, None) for at in range(4)}
    right = {str(at): text(at, "empty" if at == 0 else None) for at in range(4)}
    found = triage(left, right, "acc", {})
    assert found.unreadable == 0.25
    assert (found.largest, found.subjects, found.mean_change) == ((), (), None)
