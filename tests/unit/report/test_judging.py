"""What stands beside a mean rating, for people: gates, panels, bounds, where the noise comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.records import TextReply, text_digest
from evalkit.report import as_text, comparison_sections

TASK = "mt-bench"
RNG = np.random.default_rng(4)
BASE = RNG.integers(3, 8, size=(24, 2, 2)).astype(float)
MORE = np.clip(BASE + RNG.integers(-1, 2, size=BASE.shape), 1, 10)


def shown(comparison: Any) -> str:
    plain = json.loads(json.dumps(comparison.to_dict(), sort_keys=True))
    return " ".join(as_text(comparison_sections(plain)).split())


def judged(made: ModuleType, name: str, first: np.ndarray, second: np.ndarray) -> Any:
    """A run with two judges, each of whom judged every answer twice."""
    run = made.make_run(name, scores=first)
    other = replace(
        made.judge_run(second.size, 2), identity=made.identity("none", model="other"), profile_sha256=text_digest("o")
    )
    return replace(
        run,
        manifest=replace(run.manifest, judges={**run.manifest.judges, f"{TASK}@other": other}),
        judgments={**run.judgments, f"{TASK}@other": made.judgments(run.records[TASK], second)},
    )


@pytest.fixture(scope="module")
def panel(made: ModuleType) -> Any:
    candidate = MORE.copy()
    candidate[0, 0, 0] = np.nan
    return compare(judged(made, "baseline", BASE, MORE), judged(made, "candidate", candidate, BASE), TASK)


def test_a_panel_is_shown_judge_by_judge_and_without_each(panel: Any) -> None:
    text = shown(panel)
    assert "judge, rating 24 " in text
    assert "other, rating 24 " in text
    assert f"without {TASK} 24 " in text
    assert f"without {TASK}@other 24 " in text
    alone = {row.judge: row.difference for row in panel.rating.panel.judges}
    left = {row.name: row.difference for row in panel.rating.panel.without}
    assert left == {TASK: alone["other"], f"{TASK}@other": alone["judge"]}
    assert "Krippendorff's alpha of the judges: " in text


def test_worst_cases_stand_beside_the_estimate(panel: Any) -> None:
    text = shown(panel)
    low, high = panel.rating.bounds.difference
    assert low < panel.rating.mean.difference < high
    assert f"missing judgments: 1; the difference lies between {low:+.2f} (all of them against the" in text
    assert f"and {high:+.2f} (all for it)" in text


def test_the_noise_is_split_and_what_to_buy_is_said(made: ModuleType) -> None:
    runs = made.make_run("baseline", scores=BASE), made.make_run("candidate", scores=MORE)
    text = shown(compare(*runs, TASK))
    assert "variance of a question's difference: " in text
    assert "the judge's noise" in text
    assert "standard error at twice the judge's work: twice as many judgments of each answer x0." in text
    assert "besides more questions, buy twice as many judgments of each answer first" in text
    assert "not known yet: answer each question twice" in text
    once = made.make_run("baseline", scores=BASE[:, :, :1]), made.make_run("candidate", scores=MORE[:, :, :1])
    assert "not known yet: judge each answer twice to see the judge's noise" in shown(compare(*once, TASK))


BAD = {
    "repetition": "and so on it goes, " * 40,
    "empty": " ",
    "garbled": "\ufffd" * 30 + "ab",
    "special-tokens": "Sure.<|im_end|>",
}


@pytest.mark.parametrize("gate", [*BAD, "truncated"])
def test_a_gate_that_is_tripped_more_often_for_sure_is_marked(made: ModuleType, gate: str) -> None:
    base, run = made.make_run("baseline", scores=BASE), made.make_run("candidate", scores=MORE)
    records = list(run.records[TASK])
    for at in range(12):
        turns = records[at].reply.turns
        how = {"finish": "length"} if gate == "truncated" else {"text": BAD[gate]}
        records[at] = replace(records[at], reply=TextReply(turns=(turns[0], replace(turns[1], **how))))
    found = compare(base, replace(run, records={**run.records, TASK: tuple(records)}), TASK)
    rows = {row.gate: row for row in found.gates.gates}
    assert (rows[gate].baseline, rows[gate].candidate, rows[gate].gained) == (0, 12, 12)
    assert rows[gate].interval.lower > 0
    assert f"{gate} * " in shown(found)
    assert [name for name, row in rows.items() if row.candidate] == [gate]
