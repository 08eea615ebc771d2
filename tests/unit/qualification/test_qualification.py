"""What the rows of a trial show, which bars a judge reaches, and the file that says so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from evalkit.errors import DataError, UsageError
from evalkit.policy import JudgeBars
from evalkit.qualification import (
    Qualification,
    check_qualification,
    estimates_of,
    read_qualification,
    write_qualification,
)
from evalkit.records.record import Probe, ProbeRow

TWINS = ("truncated", "shuffled", "looped")
PLANTS = ("verdict", "order")


def row(question, kind, score, name="", repeat=0, order=None, status=None):
    probe = Probe(question=f"q{question}", turn=1, kind=kind, name=name, repeat=repeat, order=order)
    return ProbeRow(probe=probe, key="k", status=status or ("ok" if score is not None else "unparsed"), score=score)


def singles(questions=30, *, original=8.0, again=8.0, twin=3.0, bad=2.0, planted=2.0):
    found = []
    for question in range(questions):
        found += [row(question, "original", original), row(question, "original", again, repeat=1)]
        found += [row(question, "twin", twin, name) for name in TWINS]
        found += [row(question, "bad", bad)]
        found += [row(question, "injection", planted, name) for name in PLANTS]
    return found


def pairs(questions=30, *, twin=(-1, -1), bad=(-1, -1), planted=(-1, -1), again=(-1, -1)):
    found = []
    for question in range(questions):
        for order in range(2):
            found += [row(question, "twin", twin[order], name, order=order) for name in TWINS]
            found += [row(question, "bad", bad[order], order=order)]
            found += [row(question, "bad", again[order], repeat=1, order=order)]
            found += [row(question, "injection", planted[order], name, order=order) for name in PLANTS]
    return found


def checks(rows, **bars):
    return {one.check: one.passed for one in check_qualification(estimates_of(rows), JudgeBars(**bars))}


def test_a_good_judge_reaches_every_bar():
    assert checks(singles()) == {"questions": True, "ranking": True, "resistance": True, "noise": True}
    assert checks(pairs()) == {
        "questions": True,
        "ranking": True,
        "resistance": True,
        "noise": True,
        "position": True,
    }


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        (singles(questions=10), {"questions", "ranking", "resistance"}),
        (singles(twin=8.0), {"ranking"}),
        (singles(twin=9.0), {"ranking"}),
        (singles(planted=9.0), {"resistance"}),
        (singles(original=8.0, again=5.0), {"noise"}),
        (pairs(twin=(1, 1)), {"ranking"}),
        (pairs(planted=(1, -1)), {"resistance"}),
        (pairs(twin=(1, -1), bad=(1, -1), again=(1, -1), planted=(1, -1)), {"ranking", "position"}),
    ],
)
def test_a_bad_judge_fails_the_bar_it_should(rows, failed):
    assert {name for name, passed in checks(rows, ranking_lower_min=0.75).items() if not passed} == failed


def test_a_tie_with_a_twin_is_not_above_it():
    (everything, *_) = estimates_of(singles(twin=8.0)).ranking
    assert (everything.successes, everything.n) == (0, 90)


def test_an_answer_without_a_verdict_is_not_ranked_and_a_plant_without_one_gained_nothing():
    found = estimates_of(singles(twin=None, planted=None))
    assert (found.ranking[0].successes, found.ranking[0].unread) == (0, 90)
    assert (found.resistance[0].successes, found.resistance[0].unread) == (60, 60)
    assert found.statuses == {"ok": 90, "unparsed": 150}


def test_half_a_step_of_the_scale_is_no_rise():
    assert estimates_of(singles(planted=2.5)).resistance[0].rate == 1.0
    assert estimates_of(singles(planted=3.0)).resistance[0].rate == 0.0


def test_the_unit_is_the_question():
    found = estimates_of(singles(questions=30)).ranking[0]
    assert (found.n, found.questions) == (90, 30)
    assert found.interval is not None
    assert found.interval.lower == pytest.approx(30 / (30 + 1.959964**2), rel=1e-6)


def test_noise_is_that_of_one_verdict():
    found = estimates_of(singles(original=8.0, again=6.0)).noise
    assert (found.n, found.equal) == (30, 0)
    assert found.sd == pytest.approx(2 / 2**0.5)


def test_position_bias_leaves_plants_and_repeats_out():
    found = estimates_of(pairs(twin=(1, -1), bad=(-1, -1), planted=(1, 1))).position
    assert found is not None
    assert found.n == 30 * 2 * 4
    assert found.bias == pytest.approx(3 / 4)
    assert found.inconsistent.rate == pytest.approx(3 / 4)
    assert found.interval is None  # every question shows the same


def test_agreement_counts_only_where_the_policy_asks_for_it():
    found = estimates_of(singles())
    assert "agreement" not in {one.check for one in check_qualification(found, JudgeBars())}
    bars = JudgeBars(agreement_lower_min=0.8)
    assert not check_qualification(found, bars)[-1].passed
    people = {"rate_without_ties": 0.9, "n_without_ties": 500, "interval_without_ties": {"lower": 0.85, "upper": 0.95}}
    assert check_qualification(found, bars, people)[-1].passed
    lower = {**people, "interval_without_ties": {"lower": 0.79, "upper": 0.95}}
    assert not check_qualification(found, bars, lower)[-1].passed


def qualification(**changes):
    made = Qualification(
        judge={"model": "judge", "sha256": "j" * 64},
        profile="strict",
        profile_sha256="p" * 64,
        references_sha256=None,
        source={"task": "talk", "identity_sha256": "i", "records_sha256": "r", "answers": 30, "seed": 0},
        rows=tuple(singles()),
    )
    return replace(made, **changes)


def test_the_file_gives_back_what_was_written_and_equal_rows_are_equal_bytes(tmp_path):
    write_qualification(tmp_path / "a.json", qualification())
    write_qualification(tmp_path / "b.json", qualification())
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_qualification(tmp_path / "a.json") == qualification()
    assert qualification(profile="other").sha256 != qualification().sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["rows"].pop(),
        lambda data: data["rows"][0].update(score=9.0),
        lambda data: data["estimates"]["ranking"][0].update(successes=1),
        lambda data: data["judge"].update(model="another"),
        lambda data: data.update(sha256="0" * 64),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path, change):
    file = tmp_path / "q.json"
    write_qualification(file, qualification())
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match="changed after it was written"):
        read_qualification(file)


def test_what_is_no_qualification_is_said(tmp_path):
    with pytest.raises(UsageError, match="evalkit judge qualify"):
        read_qualification(tmp_path / "none.json")
    file = tmp_path / "q.json"
    for text, said in (("[]", "must be a JSON object"), ('{"kind": "x"}', "not a file of"), ("{", "not valid JSON")):
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            read_qualification(file)
    file.write_text(json.dumps({"kind": "judge-qualification", "version": 1}))
    with pytest.raises(DataError, match="not a whole qualification"):
        read_qualification(file)
