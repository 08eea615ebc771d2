from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.adapters.base import Resources, ScoreReply
from evalkit.adapters.scripted import ScriptedEngine
from evalkit.assets import AssetStore
from evalkit.doctor import KNOWN, LETTERS, RIGHT, as_rows, check_engine
from evalkit.errors import UsageError
from evalkit.suite import EngineSpec

RESOURCES = Resources(assets=AssetStore(Path(__file__).resolve().parents[3]))


def check(**options):
    return check_engine(EngineSpec(name="tried", adapter="scripted", model="none", options=options), RESOURCES)


def test_an_engine_that_works_is_described_and_sound():
    found = check()
    assert found.sound
    assert set(found.trials) == {"score four letters", "continue a text", "answer a message", "the same, each alone"}
    rows = {(area, name): seen for area, name, seen in as_rows(found)}
    assert rows["identity", "fidelity"] == "simulated"
    assert rows["identity", "adapter"] == "scripted"
    assert rows["identity", "identity sha256"] == found.identity.sha256
    assert found.scoring == "not said"


def test_easy_questions_that_are_missed_are_a_warning():
    missed = [found for found in (check(favour="first"), check(favour="first", accuracy=0.0)) if found.warnings]
    assert missed
    assert all("easy questions were answered right" in found.warnings[-1] for found in missed)


def test_an_engine_that_does_nothing_is_not_sound_and_says_why():
    found = check(fail_every=1, fail_kind="refused")
    assert not found.sound
    assert all(seen.startswith("FAILED: ") and "refused" in seen for seen in found.trials.values())
    assert len([line for line in found.warnings if "FAILED" in line]) == len(found.trials)


def test_numbers_that_are_none_are_a_failed_trial():
    found = check(break_every=1)
    assert found.trials["score four letters"].startswith("FAILED: ")


def test_a_wrong_specification_is_refused():
    with pytest.raises(UsageError):
        check(acuracy=1.0)


def test_the_known_questions_have_their_answers():
    for question, place in zip(KNOWN, RIGHT, strict=True):
        assert f"{LETTERS[place].strip()}. " in question
        assert question.endswith("Answer:")


def test_what_depends_on_the_company_is_said_and_warned_about(monkeypatch):
    assert check().trials["the same, each alone"] == (
        "0 of 12 choices change, largest difference of a log-probability 0 nats; 0 of 4 answers change"
    )
    plain = ScriptedEngine.score

    def moody(self, requests):
        for index, reply in plain(self, requests):
            values = reply.logprobs[::-1] if len(requests) == 1 else reply.logprobs
            yield index, ScoreReply(logprobs=values, greedy=reply.greedy, tokens=reply.tokens)

    monkeypatch.setattr(ScriptedEngine, "score", moody)
    found = check()
    assert found.trials["the same, each alone"].startswith("12 of 12 choices change")
    assert any("replies depend on what is asked beside them (12 of 12" in line for line in found.warnings)
    assert found.sound


def test_an_engine_that_does_nothing_is_not_asked_for_the_company():
    assert "the same, each alone" not in check(fail_every=1).trials
