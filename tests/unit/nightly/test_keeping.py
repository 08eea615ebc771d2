"""Nights into the history, whatever happens to the history."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from evalkit.history import open_history, read_nights


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'h.sqlite'}"


def nights(url):
    with open_history(url) as history:
        return [(row.night, row.outcome) for row in read_nights(history)]


def test_a_night_brings_what_earlier_ones_could_not_write(night, url):
    file = night.suite({"good": night.candidate("good"), "bad": night.candidate("bad", seed=3)})
    night.run(file, label="n1")
    code, _, error = night.run(file, "--history", url, label="n2")
    assert code == 1
    assert error.count("history: night n1") == error.count("history: night n2") == 2
    assert sorted(nights(url)) == [("n1", "ALARM"), ("n1", "OK"), ("n2", "ALARM"), ("n2", "OK")]
    _, _, error = night.run(file, "--history", url, label="n2")
    assert "history: night" not in error
    with open_history(url) as history:
        rows = read_nights(history, recipe="bad")
    assert rows[0].whole.counts[1:3] == (60, 4)
    assert sum(rows[0].whole.counts) == rows[0].whole.n == 800
    assert rows[0].whole.outcome == "REJECTED"
    assert rows[0].full == "FAIL"
    assert rows[0].subjects


def test_a_plan_knows_what_the_history_knows(night, url):
    file = night.suite({"bad": night.candidate("bad")})
    night.run(file, "--history", url, label="n1")
    code, plan, _ = night.run(file, "--history", url, "--plan", label="n2")
    assert code == 0
    known = plan["endpoints"][0]["known"]
    assert known["discordance"] == pytest.approx(64 / 800)
    assert known["source"] == "seen in the full comparison of night n1"
    assert known["rate"] > 0


def test_history_is_not_rewritten(night, url):
    file = night.suite({"good": night.candidate("good")})
    night.run(file, "--history", url, label="n1")
    changed = night.nights / "n1" / "good" / "result.json"
    document = json.loads(changed.read_text())
    document["endpoints"]["mmlu"]["outcome"] = document["outcome"] = "ALARM"
    del document["content_sha256"]  # with it the change is refused, by name
    changed.write_text(json.dumps(document))
    code, _, error = night.run(file, "--history", url, label="n2")
    assert code == 0
    assert "night n1 of small, good, mmlu (site default) is there with another result (OK, now ALARM)" in error
    assert nights(url) == [("n1", "OK"), ("n2", "OK")]


def test_a_database_that_is_down_costs_no_night(night):
    file = night.suite({"good": night.candidate("good")})
    code, (result,), error = night.run(file, "--history", "postgresql://u:pw@127.0.0.1:1/d", "--quiet")
    assert (code, result["outcome"]) == (0, "OK")
    assert error.count("WARNING: history") == 2  # before the plan, and after the night
    assert "pw" not in error


def test_a_wrong_database_is_refused_before_anything_is_run(night):
    file = night.suite({"good": night.candidate("good")})
    code, out, error = night.run(file, "--history", "mysql://h/d")
    assert (code, out) == (2, None)
    assert "sqlite and postgresql" in " ".join(error.split())
    assert not night.nights.exists()


def test_without_the_extra_nights_go_on_and_say_so(night, monkeypatch):
    monkeypatch.delenv("EVALKIT_HISTORY")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    file = night.suite({"good": night.candidate("good")})
    code, (result,), error = night.run(file)
    assert (code, result["outcome"]) == (0, "OK")
    assert "no history is kept" in error
    assert "evalkit-quant[history]" in error


def test_a_night_that_was_stopped_is_named(night, url):
    file = night.suite({"good": night.candidate("good")})
    night.run(file, label="n1")
    (night.nights / "n1" / "good" / "result.json").unlink()
    _, _, error = night.run(file, "--history", url, label="n2")
    assert "night n1 was begun and has no result; next step: the same command with --night n1" in error
    _, _, error = night.run(file, "--history", url, "--site", "h200", label="n2")
    assert "n1 was begun" not in error  # another site's


def test_two_endpoints_are_two_cases(night, url):
    second = {"kind": "paired_proportion", "task": "watch", "metric": "acc", "protocol": "ll-0shot", "items": 800}
    second |= {"gating": True, "alpha": 0.025, "margins_points": [5.0], "chance": 0.25, "population": 800}
    file = night.suite({"bad": night.candidate("bad")})
    policy = yaml.safe_load((file.parent / "nightly.policy.yaml").read_text())
    policy["endpoints"]["again"] = second
    (file.parent / "nightly.policy.yaml").write_text(yaml.safe_dump(policy))
    code, (result,), _ = night.run(file, "--history", url, label="n1")
    assert code == 1
    assert set(result["endpoints"]) == {"mmlu", "again"}
    assert len(nights(url)) == 2
    assert (night.nights / "n1" / "junit.xml").read_text().count("<testcase") == 2
