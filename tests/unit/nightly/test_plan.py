from __future__ import annotations

import pytest

from evalkit.errors import EstimateError, UsageError
from evalkit.nightly.night import Known, NightSettings, plan_lines, plan_night, watched
from evalkit.policy import load_policy
from evalkit.statistics.sequential import SequentialRules, outlook, simulate_nights

NIGHTLY = load_policy("nightly")


def test_a_policy_that_certifies_is_refused():
    with pytest.raises(UsageError, match=r"policy 'release' can certify; nightly runs need.*--policy nightly"):
        watched(load_policy("release"))


def test_only_right_and_wrong_can_be_watched():
    release = load_policy("release").model_copy(update={"certifies": False})
    with pytest.raises(UsageError, match="endpoint 'mt_bench' is of kind 'paired_mean'"):
        watched(release)
    advisory = {
        name: endpoint.model_copy(update={"gating": name == "mmlu"}) for name, endpoint in release.endpoints.items()
    }
    assert list(watched(release.model_copy(update={"endpoints": advisory}))) == ["mmlu"]
    nothing = {name: endpoint.model_copy(update={"gating": False}) for name, endpoint in release.endpoints.items()}
    with pytest.raises(UsageError, match="no gating endpoint"):
        watched(release.model_copy(update={"endpoints": nothing}))


def test_the_expected_cost_counts_full_comparisons_and_hours():
    known = {("r", "mmlu"): Known(discordance=0.06, source="a test", rate=10.0)}
    (one,) = plan_night(NIGHTLY, ["r"], {"mmlu": 14042}, known).endpoints
    assert one.items > one.unchanged.items + 0.2 * (14042 - 4000)
    assert one.hours == pytest.approx(one.items / 36_000)
    (bare,) = plan_night(NIGHTLY, ["r"], {"mmlu": 14042}, known, full=False).endpoints
    assert bare.items == bare.unchanged.items
    lines = "\n".join(plan_lines(plan_night(NIGHTLY, ["r"], {"mmlu": 14042}, known)))
    for word in ("6 % flips (a test)", "cap 4,000 items", "expected cost of a night", "minutes"):
        assert word in lines


def test_without_a_measurement_the_policy_assumes():
    (one,) = plan_night(NIGHTLY, ["r"], {"mmlu": 14042}, {}).endpoints
    assert (one.known.discordance, one.hours) == (NIGHTLY.planning.discordance, None)
    assert "hours are unknown" in "\n".join(plan_lines(plan_night(NIGHTLY, ["r"], {"mmlu": 14042}, {})))


def test_an_outlook_is_the_same_every_time_and_refuses_nonsense():
    rules = SequentialRules(population=2000, margin=0.02, ok=20, alarm=100, cap=500)
    assert outlook(rules, discordance=0.02, nights=60) == outlook(rules, discordance=0.02, nights=60)
    with pytest.raises(EstimateError, match="needs at least as many flips"):
        outlook(rules, discordance=0.01, difference=-0.02)
    with pytest.raises(EstimateError, match="do not fit"):
        simulate_nights(rules, [1500], [600], None)
    with pytest.raises(EstimateError, match="cap"):
        SequentialRules(population=10, margin=0.01, ok=20, alarm=100, cap=0)


@pytest.mark.parametrize(("name", "value"), [("night", "../x"), ("night", ""), ("site", "a b"), ("block", 0)])
def test_settings_refuse_what_is_no_folder_name(name, value):
    with pytest.raises(UsageError, match=f"--{name}"):
        NightSettings(**{"night": "n", "started_at": "", name: value})
