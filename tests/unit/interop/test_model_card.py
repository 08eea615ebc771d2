"""Model cards and badges: they say no more than the certificate, and nothing in them is a command."""

from __future__ import annotations

import copy
import datetime
import json
from xml.etree import ElementTree

import pytest

from evalkit import cli
from evalkit.errors import UsageError
from evalkit.interop.model_card import _COLOURS, BEGIN, END, badge, model_card, with_card
from evalkit.report import certificate_view

DAY = datetime.date(2026, 8, 9)
SVG = "{http://www.w3.org/2000/svg}"


def shown(drawn: str) -> list[str]:
    return [str(one.text) for one in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def test_outcome_margin_fidelity_policy_and_day_are_on_the_badge(certificate) -> None:
    certified, rejected = (shown(badge(certificate, name, date=DAY)) for name in ("equal", "worse"))
    policy = certificate_view(certificate).policy.name
    assert certified[1].startswith(f"CERTIFIED within 3 points, simulated, policy {policy}")
    assert rejected[1].startswith(f"REJECTED at margin 3 points, simulated, policy {policy}")
    assert certified[1].endswith(", 2026-08-09")


def test_a_badge_counts_what_weakens_the_verdict(certificate) -> None:
    changed = copy.deepcopy(certificate)
    decision = changed["decision"]
    decision["cautions"] = [{"code": "ledger-began", "message": "it began", "endpoint": None}]
    for verdict in decision["verdicts"]:
        verdict["cautions"] = []
    before = len(certificate_view(changed).cautions)
    decision["verdicts"][0]["cautions"] = [{"code": "check-not-made", "message": "x", "endpoint": None}]
    assert f", {before + 1} cautions, " in shown(badge(changed, "equal", date=DAY))[1]
    assert f", {before} caution" in shown(badge(changed, "worse", date=DAY))[1]
    assert "- **Caution, ledger-began: it began**" in model_card(changed, "worse", date=DAY)


def test_what_was_decided_after_the_runs_is_no_claim(certificate) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["exploratory"] = True
    changed["decision"]["verdicts"][0]["outcome"] = "INCONCLUSIVE"
    changed["decision"]["verdicts"][0]["reasons"] = [
        {"code": "exploratory", "message": "the policy was chosen later; it would give CERTIFIED", "endpoint": None}
    ]
    view = certificate_view(changed)
    drawn = shown(badge(changed, "equal", date=DAY))[1]
    assert "CERTIFIED" not in drawn
    assert view.verdicts[0].word.split(" ")[0] in ("INCONCLUSIVE", "EXPLORATORY")


def test_a_claim_is_as_wide_as_its_own_margin(certificate) -> None:
    """Of two margins that a policy names, a badge shows the one that the claim stands for."""
    changed = copy.deepcopy(certificate)
    row = next(one for one in certificate_view(changed).verdicts[0].endpoints if one.gating)
    assert len(row.margins) == 1
    assert f"within {row.margin_words(row.margins[0].margin)}" in shown(badge(changed, "equal", date=DAY))[1]


def test_hostile_text_stays_text(certificate) -> None:
    changed = copy.deepcopy(certificate)
    evil = '"><script>alert(1)</script>|](javascript:x) <!-- evalkit: end -->'
    for run in changed["runs"].values():
        run["engine"]["model"] = evil
        run["engine"]["recipe"] = evil
    drawn = badge(changed, "equal", date=DAY)
    assert {one.tag for one in ElementTree.fromstring(drawn).iter()} == {
        f"{SVG}{tag}" for tag in ("svg", "title", "rect", "text")
    }
    card = model_card(changed, "equal", date=DAY)
    assert "<script" not in card
    assert "](javascript" not in card
    assert card.count(END) == 1


def test_a_link_is_an_address_or_refused(certificate) -> None:
    assert "[certificate](<https://x.org/c.json>)" in model_card(
        certificate, "equal", date=DAY, link="https://x.org/c.json"
    )
    for link in ("javascript:alert(1)", "https://x.org/> [y](z", "https://x.org/\n## CERTIFIED"):
        with pytest.raises(UsageError, match="is no http"):
            model_card(certificate, "equal", date=DAY, link=link)


def test_a_recipe_is_named_where_there_are_several(certificate) -> None:
    with pytest.raises(UsageError, match=r"speaks of equal, worse.*--recipe"):
        badge(certificate, None, date=DAY)
    with pytest.raises(UsageError, match="does not speak of 'equl'; did you mean 'equal'"):
        badge(certificate, "equl", date=DAY)


def test_a_later_verdict_takes_the_place_of_the_block(certificate) -> None:
    first = model_card(certificate, "equal", date=DAY)
    text = f"---\nlicense: mit\n---\n# Model\n\n{first}\nMore.\n"
    second = with_card(text, model_card(certificate, "worse", date=DAY), "README.md")
    assert second.startswith("---\nlicense: mit\n---\n# Model\n\n" + BEGIN)
    assert second.endswith(END + "\n\nMore.\n")
    assert "REJECTED" in second
    assert "CERTIFIED" not in second
    for broken in ("no block", f"{END}\n{BEGIN}\n", text + first, text.replace(END, "")):
        with pytest.raises(UsageError, match=r"README.md: found \d lines .*next step"):
            with_card(broken, first, "README.md")


def test_line_ends_stay_as_they_were(certificate) -> None:
    block = model_card(certificate, "equal", date=DAY)
    text = f"# Model\n\n{block}\nMore.".replace("\n", "\r\n")
    assert with_card(text, block, "README.md") == text


def test_the_command_writes_both(certificate, tmp_path, capsys) -> None:
    (tmp_path / "certificate.json").write_text(json.dumps(certificate))
    card = tmp_path / "README.md"
    card.write_text(f"# Model\n{BEGIN}\n{END}\n")
    export = ("report", "export", str(tmp_path), "--recipe", "worse", "--date", "2026-08-09", "--format")
    assert cli.main([*export, "model-card", "--output", str(card)]) == 0
    assert card.read_text() == "# Model\n" + model_card(certificate, "worse", date=DAY)
    assert cli.main([*export, "badge", "--output", str(tmp_path / "badge.svg")]) == 0
    assert (tmp_path / "badge.svg").read_text() == badge(certificate, "worse", date=DAY)
    card.write_text("# Model\n")
    assert cli.main([*export, "model-card", "--output", str(card)]) == 2
    assert "README.md: found 0 lines" in capsys.readouterr().err
    assert card.read_text() == "# Model\n", "nothing is half-written"


def test_white_letters_can_be_read_on_every_colour() -> None:
    """Contrast by WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        lin = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    for outcome, colour in _COLOURS.items():
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, outcome
