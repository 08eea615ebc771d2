from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from evalkit.cli import main
from evalkit.history import CompareRow, NightRow
from evalkit.nightly.history_page import certificate_series, chart, night_series, page_data, page_text, svg
from evalkit.nightly.result import known_before
from evalkit.nightly.trends import find_changes, trends

N = 14042
DIGEST = "0123456789abcdef" * 4


def compared(lost, gained, n, **changes) -> CompareRow:
    made = {
        "suite": "s", "site": "default", "name": "r", "night": None, "at": "2026-01-01T00:00:00", "identity": {},
        "environment": {}, "endpoint": "mmlu", "scope": "watch", "task": "mmlu", "metric": "acc",
        "unit": "proportion", "n": n, "counts": (n - lost - gained, lost, gained, 0), "baseline_value": 0.86,
        "candidate_value": 0.86 + (gained - lost) / n, "difference": (gained - lost) / n, "lower": -0.01,
        "upper": 0.02, "level": 0.95, "method": "betting", "invalid_share": None, "log_probability_change": -0.01,
        "rate": None, "outcome": None,
    }  # fmt: skip
    return CompareRow(**{**made, **changes})


def row(at: int, lost=20, gained=20, n=1000, *, outcome="OK", recipe="fp8", whole=None, **environment) -> NightRow:
    return NightRow(
        suite="s", site="default", night=f"n{at:02d}", recipe="r", endpoint="mmlu", outcome=outcome,
        state=None if outcome == "INVALID" else "OK", confirm=None, full=None,
        reasons=[{"code": "clear", "message": "why", "endpoint": "mmlu"}], asked=n, used=n, log_e=3.0, log_e_loss=-1.0,
        order_sha256=DIGEST, started_at=f"{at:02d}", environment={"python": "3.11", **environment}, subjects=[],
        identity={"recipe": recipe, "versions": {"torch": "2.13"}, "weights_sha256": DIGEST},
        watched=None if outcome == "INVALID" else compared(lost, gained, n), whole=whole, rate=12.5,
    )  # fmt: skip


def test_a_change_names_its_first_night_and_what_changed_then():
    nights = [row(at) for at in range(10)] + [row(at, 80, 20, recipe="awq", driver="570") for at in range(10, 20)]
    changes = find_changes(nights)
    assert {change.measure for change in changes} == {"difference", "flips"}
    for change in changes:
        assert (change.night, change.last_before) == ("n10", "n09")
        assert change.causes == ("recipe: fp8 -> awq", "driver: nothing -> 570")
    (difference,) = [change for change in changes if change.measure == "difference"]
    assert difference.before == pytest.approx(0.0)
    assert difference.after == pytest.approx(-0.06)


def test_invalid_nights_are_shown_and_are_part_of_no_series():
    nights = [row(at) for at in range(6)]
    nights[3] = row(3, 900, 0, outcome="INVALID", recipe="other")
    (trend,) = trends(nights)
    assert trend.series["difference"][3] is None
    assert trend.changes == ()
    assert [event.night for event in trend.events] == ["n03", "n04"]
    assert "n03" in page_text([trend], [])


def test_a_night_nearby_with_another_environment_is_preferred():
    quiet, loud = [row(at) for at in range(10)], [row(at, 45, 20, recipe="awq") for at in range(10, 24)]
    quiet[9] = row(9, 33, 20)  # by chance already half way
    (change,) = [change for change in find_changes([*quiet, *loud]) if change.measure == "difference"]
    assert change.night == "n10"


def test_a_change_without_a_known_cause_says_so():
    nights = [row(at) for at in range(10)] + [row(at, 90, 20) for at in range(10, 20)]
    (trend,) = trends(nights)
    assert trend.changes[0].causes == ()
    assert "nothing that is recorded" in page_text([trend], [])


def test_commits_are_causes_and_no_events():
    nights = [row(at, commit=f"c{at}") for at in range(8)] + [row(at, 90, 20, commit=f"c{at}") for at in range(8, 16)]
    (trend,) = trends(nights)
    assert trend.events == ()
    assert trend.changes[0].causes == ("commit: c7 -> c8",)


def test_a_month_with_one_odd_night_is_no_change_of_everything():
    nights = [row(at) for at in range(30)]
    nights[12] = row(12, 32, 20)
    assert find_changes(nights) == []
    assert find_changes(nights[:2]) == []


def test_quiet_nights_without_a_flip_do_not_turn_noise_into_a_landmark():
    nights = [row(at, 0, 0, n=505) for at in range(10)] + [row(at, 1, 0, n=505) for at in range(10, 20)]
    assert find_changes(nights) == []


def test_a_chart_has_a_column_a_night():
    nights = [row(at) for at in range(12)]
    nights[4] = row(4, outcome="INVALID")
    nights[7] = row(7, 80, 20, outcome="ALARM")
    (trend,) = trends(nights)
    series = {one.title.split(": ")[1]: one for one in night_series(trend)}
    assert set(series) == {
        "difference from the baseline",
        "items that flip",
        "accuracy on the items compared",
        "change of log p(right choice)",
        "speed",
    }
    lines = list(chart(series["difference from the baseline"]))
    axis = next(line for line in lines if "+" in line and "x" in line)
    assert axis.endswith("+----x-------")
    assert sum("A" in line for line in lines[1:]) == 1
    assert any("|" in line[11:] for line in lines)  # intervals
    assert max(map(len, lines)) < 80


def test_svg_is_the_same_every_time_and_well_formed():
    (trend,) = trends([row(at) for at in range(10)] + [row(at, 90, 20) for at in range(10, 20)])
    drawn = night_series(trend)
    text = svg(drawn)
    assert text == svg(drawn)
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "difference from the baseline" in text
    assert "n10" in text


def test_ratings_of_certificates_are_plotted_over_time():
    rows = [
        compared(0, 0, 80, endpoint="mt_bench", unit="rating", counts=None, candidate_value=6.5, difference=-0.1 * at,
                 lower=-0.5, upper=0.3, scope="full", at=f"2026-0{at + 1}-01T00:00:00", outcome="INCONCLUSIVE",
                 invalid_share=0.0125)
        for at in range(3)
    ]  # fmt: skip
    (series,) = certificate_series(rows)
    assert (series.unit, series.labels) == ("rating", ["2026-01-01", "2026-02-01", "2026-03-01"])
    page = page_text([], rows)
    assert "No nights yet." in page
    assert "r, mt_bench: difference from the baseline in certificates, rating" in page
    assert "-0.20" in page
    assert "1.2 %" in page
    assert certificate_series(rows[:1]) == []


def test_markdown_fences_its_plots_and_data_is_plain():
    found = trends([row(at) for at in range(4)])
    text = page_text(found, [compared(5, 2, 900, scope="full")], markdown=True)
    assert text.count("```") % 2 == 0
    assert text.startswith("# History")
    assert json.loads(json.dumps(page_data(found, [])))["trends"][0]["nights"][0]["flips"] == 0.04


def test_plans_rest_on_full_comparisons_never_on_nights_that_stopped_early():
    early = row(1, 1, 0, n=600)
    full = row(2, whole=compared(150, 130, N, scope="full"))
    known = known_before([early], 0.06)[("r", "mmlu")]
    assert (known.discordance, known.source, known.rate) == (0.06, "the policy's assumption", 12.5)
    known = known_before([early, full, row(3)], 0.06)[("r", "mmlu")]
    assert known.discordance == pytest.approx(280 / N)
    assert known.source == "seen in the full comparison of night n02"


def test_the_history_needs_a_database(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVALKIT_HISTORY", raising=False)
    assert main(["nightly", "history"]) == 2
    assert "there is no history yet" in capsys.readouterr().err
    assert main(["nightly", "history", "--history", "mysql://x/y"]) == 2
    assert "allowed: sqlite and postgresql" in " ".join(capsys.readouterr().err.split())
    assert main(["nightly", "history", "--history", str(tmp_path / "new.sqlite")]) == 0
    assert "No nights yet." in capsys.readouterr().out
