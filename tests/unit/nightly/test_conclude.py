from __future__ import annotations

import pytest

from evalkit.errors import ExitCode
from evalkit.nightly.watch import (
    EXIT_CODES,
    REASONS,
    Full,
    NightOutcome,
    NightReason,
    State,
    Watch,
    conclude,
    night_exit_code,
    plain_e,
    worst,
)

OK, ALARM, UNDECIDED, INVALID = NightOutcome


def seen(state):
    return Watch(
        state=state,
        used=100,
        missing_baseline=0,
        missing_candidate=0,
        log_e=1.0,
        log_e_loss=2.0,
        n11=90,
        n10=6,
        n01=4,
        n00=0,
    )


def full(state):
    interval = {"lower": -0.02, "upper": 0.01, "level": 0.95, "method": "tango"}
    return Full(state=state, n=1000, n11=900, n10=60, n01=40, difference=-0.02, interval=interval)


TABLE = [
    ("OK", None, None, OK, "clear"),
    ("OK", None, "FAIL", OK, "clear"),  # another endpoint started it
    ("OK", None, "INVALID", INVALID, "full-invalid"),
    ("CAP", None, None, UNDECIDED, "cap"),
    ("CAP", None, "PASS", OK, "clear-in-full"),
    ("CAP", None, "FAIL", ALARM, "loss-in-full"),
    ("CAP", None, "OPEN", UNDECIDED, "full-open"),
    ("CAP", None, "INVALID", INVALID, "full-invalid"),
    ("ALARM", None, None, ALARM, "loss"),
    ("ALARM", "ALARM", None, ALARM, "loss"),
    ("ALARM", "CAP", None, ALARM, "loss"),
    ("ALARM", "OK", None, UNDECIDED, "not-borne-out"),
    ("ALARM", "ALARM", "FAIL", ALARM, "loss"),
    ("ALARM", "OK", "FAIL", ALARM, "loss"),
    ("ALARM", "CAP", "OPEN", ALARM, "loss"),
    ("ALARM", "OK", "OPEN", UNDECIDED, "not-borne-out"),
    ("ALARM", "ALARM", "PASS", UNDECIDED, "not-borne-out"),
    ("ALARM", "ALARM", "INVALID", INVALID, "full-invalid"),
]


@pytest.mark.parametrize(("state", "confirm", "whole", "outcome", "code"), TABLE)
def test_the_table(state, confirm, whole, outcome, code):
    found, (reason,) = conclude(
        "mmlu",
        1.0,
        seen(State(state)),
        seen(State(confirm)) if confirm else None,
        full(whole) if whole else None,
    )
    assert (found, reason.code, reason.endpoint) == (outcome, code, "mmlu")
    assert reason.message.startswith("mmlu: ")
    if whole and code != "full-invalid":
        assert "all 1,000 items: -2.00 points [-2.00, +1.00]" in reason.message
    if confirm:
        assert "fresh items" in reason.message or code == "full-invalid"


def test_an_alarm_is_never_an_ok():
    assert all(outcome is not OK for state, _, _, outcome, _ in TABLE if state == "ALARM")


def test_the_worst_recipe_decides_and_an_alarm_is_never_hidden():
    assert worst([OK, UNDECIDED, INVALID, ALARM]) is ALARM
    assert worst([OK, UNDECIDED, INVALID]) is INVALID
    assert worst([OK, UNDECIDED]) is UNDECIDED
    assert worst([OK, OK]) is OK
    assert worst([]) is INVALID
    assert night_exit_code([]) == ExitCode.INVALID
    assert {outcome.value: int(code) for outcome, code in EXIT_CODES.items()} == {
        "OK": 0,
        "ALARM": 1,
        "UNDECIDED": 3,
        "INVALID": 4,
    }


def test_only_known_reasons():
    with pytest.raises(ValueError, match="no reason code"):
        NightReason(code="weather", message="")
    assert {code for *_, code in TABLE} <= set(REASONS)


def test_evidence_as_people_read_it():
    assert [plain_e(value) for value in (0.0, 3.0, -2.0, -9.0, 14.0)] == ["1", "20", "0.14", "below 0.01", "over 1e+06"]
