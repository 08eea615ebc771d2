"""Policies that call themselves a release and ask less, from the policy file to the gate of a pipeline.

Each attack is a policy that a release engineer under pressure could write; no file is touched after the run. It ends
refused, or with the weakness at the head of everything that anybody reads.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("cryptography")

from evalkit import cli
from evalkit.attestation import ENVELOPE
from evalkit.errors import ExitCode
from evalkit.policy import load_policy, rules_sha256

pytestmark = pytest.mark.system

FILE = Path(__file__).resolve().parents[1] / "release_folders.py"


def reduced() -> dict[str, Any]:
    """The standard on the items at hand: MMLU alone, no judge. That is weaker already, and so it is said."""
    document = load_policy("release").model_dump(mode="json")
    document["endpoints"] = {"mmlu": document["endpoints"]["mmlu"] | {"items": None}}
    document["endpoints"]["mmlu"]["margins_points"] = [2.5]
    document["assay"] = {"required": ["aa", "control", "above_chance"]}
    document.pop("judge")
    document.pop("release", None)
    return document


def wide_margin(document: dict[str, Any]) -> None:
    document["endpoints"]["mmlu"]["margins_points"] = [17.0]
    document["assay"]["required"] = []
    document["guards"] |= {"invalid_points": 99.0, "gain_points": 99.0}


def coin(document: dict[str, Any]) -> None:
    document["endpoints"]["mmlu"] |= {"margins_points": [1.0], "alpha": 0.45}
    document["multiplicity"]["family_alpha"] = 0.47


def few(document: dict[str, Any]) -> None:
    document["endpoints"]["mmlu"] |= {"margins_points": [3.5], "alpha": 0.4, "items": 60}
    document["multiplicity"]["family_alpha"] = 0.4
    document["assay"]["control"] = "not-certified"


def unchecked(document: dict[str, Any]) -> None:
    document["assay"] = {"required": [], "aa_midp_min": 1e-12, "chance_plus_points": 0.0}


def tolerant(document: dict[str, Any]) -> None:
    document["overrides"] = ["chat_template", "settings", "versions", "device", "dtype", "options"]
    document["fidelity"] = {"mixing": "allow"}


def spelt(document: dict[str, Any]) -> None:
    document |= {"name": "house-rules", "tier": "ReIease", "claims": ["c0mparable"]}


def own_name(document: dict[str, Any]) -> None:
    document |= {"name": "house-rules", "tier": "internal", "claims": ["near_lossless"]}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A policy, what the candidate really lost, and what everybody must read."""

    change: Callable[[dict[str, Any]], None]
    said: tuple[str, ...]
    items: int = 500
    flips: tuple[int, int] = (6, 5)
    claim: str = "comparable"
    more: dict[str, Any] = field(default_factory=dict)


ATTACKS = {
    "a margin of 17 points": Attack(
        change=wide_margin,
        flips=(64, 4),
        said=("margin 17 points of mmlu for 'comparable' (standard: 1)", "rerun of the baseline not required"),
    ),
    "alpha near one half": Attack(
        change=coin,
        flips=(16, 14),
        said=("one-sided alpha of mmlu 0.45 (standard: 0.025)", "alpha of the family 0.47 (standard: 0.05)"),
    ),
    "sixty items": Attack(
        change=few,
        items=60,
        flips=(1, 1),
        said=("items of mmlu 60 (standard: 14042)", "what must come of a control not-certified (standard: fail)"),
    ),
    "no check required": Attack(
        change=unchecked,
        said=(
            "broken control not required",
            "baseline above guessing by 0 points (standard: 10)",
            "p-value of the rerun 1e-12 (standard: 0.001)",
        ),
    ),
    "six tolerances": Attack(
        change=tolerant,
        said=(
            "6 tolerances: chat_template, settings, versions, device, dtype, options (standard: none)",
            "mixing of fidelities allow (standard: refuse)",
        ),
    ),
    "the words spelt otherwise": Attack(
        change=spelt,
        claim="c0mparable",
        said=("claim 'c0mparable' (standard: comparable, near-lossless)", "tier 'ReIease' (standard: release)"),
    ),
    "one word in a policy of its own": Attack(
        change=own_name,
        claim="near_lossless",
        said=("margin 2.5 points of mmlu for 'near_lossless' (standard: 0.5)",),
    ),
}


@pytest.fixture(scope="module")
def folders() -> Any:
    """The factory of decided releases."""
    return importlib.import_module("release_folders")


def _evalkit(*argv: Any) -> int:
    return cli.main([str(word) for word in argv])


def _head(text: str, lines: int = 3) -> str:
    """The first lines of a page that say anything, each with its continuation; no rule, blank line or mark-up."""
    found: list[str] = []
    for line in text.splitlines():
        plain = re.sub(r"<[^>]*>|^[#*>|\s-]+", " ", line).strip(" =\u00a0")
        if plain and line.startswith(("  ", "\t")) and found:
            found[-1] += f" {plain}"
        elif plain:
            found.append(plain)
    return re.sub(r"\s+", " ", " ".join(found[:lines]))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_weaker_policy_in_the_standard_s_words_is_told_first_everywhere(
    name: str, folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack, document = ATTACKS[name], reduced()
    attack.change(document)
    release = folders.make_release(
        tmp_path / "release", items=attack.items, candidates={"int4": attack.flips}, policy_document=document
    )
    capsys.readouterr()
    assert release.certify() == 0, "a weaker policy is not refused; else this test shows nothing"
    screen = capsys.readouterr().out
    claim = f"{attack.claim} under a weaker policy"
    for page in (screen, (release.folder / "report.md").read_text("utf-8")):
        head = _head(page)
        assert f"int4: CERTIFIED ({claim})" in head
        assert "weaker-than-standard" in head
        for said in attack.said:
            assert said in head, said
    written = json.loads((release.folder / "certificate.json").read_text("utf-8"))
    (verdict,) = written["decision"]["verdicts"]
    assert (verdict["outcome"], verdict["claim"]) == ("CERTIFIED", claim)
    page = (release.folder / "report.html").read_text("utf-8")
    assert page.index("weaker-than-standard") < page.index("<table"), "before the first table"
    for form, file in (("job-summary", "summary.md"), ("junit", "junit.xml")):
        assert _evalkit("report", "export", release.folder, "--format", form, "--output", tmp_path / file) == 0
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert summary.index("weaker-than-standard") < summary.index("| "), "before the first table"
    suite = ElementTree.fromstring((tmp_path / "junit.xml").read_text("utf-8"))
    (case,) = [one for one in suite.iter("testcase") if one.get("name") == "int4"]
    shown = "".join(case.itertext())
    assert "weaker-than-standard" in shown
    assert all(said in shown for said in attack.said)

    assert _evalkit("sign", "keygen", tmp_path / "me.pem") == 0
    assert _evalkit("sign", release.folder, "--key", tmp_path / "me.pem") == 0
    signed = json.loads((release.folder / ENVELOPE).read_text("utf-8"))
    predicate = json.loads(base64.b64decode(signed["payload"]))["predicate"]
    assert (predicate["result"], predicate["passedTests"], predicate["warnedTests"]) == ("WARNED", [], ["int4"])
    assert set(attack.said) <= set(predicate["evalkit"]["standard"]["weaker"])
    assert next(one["code"] for one in predicate["evalkit"]["cautions"]) == "weaker-than-standard"

    key = ("--key", tmp_path / "me.pub.pem")
    capsys.readouterr()
    assert _evalkit("verify", release.folder, *key) == 0
    checked = capsys.readouterr().out
    assert checked.startswith("CAUTION: weaker-than-standard")
    assert all(said in checked.splitlines()[0] for said in attack.said)
    assert _evalkit("verify", release.folder, *key, "--gate") == ExitCode.USAGE
    assert _evalkit("verify", release.folder, *key, "--gate", "--policy", "release") == ExitCode.INVALID
    assert _evalkit("verify", release.folder, *key, "--gate", "--tier", "release") == ExitCode.INVALID
    assert _evalkit("verify", release.folder, *key, "--gate", "--max-margin", "1") == (ExitCode.INVALID), (
        "too wide a margin, or alpha"
    )


def test_a_policy_in_its_own_words_is_left_in_peace(folders: Any, tmp_path: Path) -> None:
    """The other direction: where nothing is borrowed nothing is said, or people learn to skip it."""
    document = reduced() | {"name": "house-rules", "tier": "internal", "claims": ["within-two-and-a-half"]}
    release = folders.make_release(tmp_path / "release", candidates={"int4": (6, 5)}, policy_document=document)
    assert release.certify() == 0
    written = json.loads((release.folder / "certificate.json").read_text("utf-8"))
    codes = [one["code"] for one in written["decision"]["cautions"]]
    assert "weaker-than-standard" not in codes
    assert written["decision"]["verdicts"][0]["claim"] == "within-two-and-a-half"
    for page in ("report.md", "report.html"):
        assert "under a weaker policy" not in (release.folder / page).read_text("utf-8")


def test_last_month_s_certificate_opens_no_gate_for_this_month_s_build(folders: Any, tmp_path: Path) -> None:
    """Signed, true, CERTIFIED, of the right policy; and of other weights."""
    document = reduced() | {"name": "house-rules", "tier": "internal", "claims": ["within-two-and-a-half"]}
    release = folders.make_release(tmp_path / "release", candidates={"int4": (6, 5)}, policy_document=document)
    assert release.certify() == 0
    assert _evalkit("sign", "keygen", tmp_path / "me.pem") == 0
    assert _evalkit("sign", release.folder, "--key", tmp_path / "me.pem") == 0
    written = json.loads((release.folder / "certificate.json").read_text("utf-8"))
    engine = written["runs"]["int4"]["engine"]
    gate = ("verify", release.folder, "--key", tmp_path / "me.pub.pem", "--gate")
    mine = ("--policy", release.policy_file, "--source", f"int4={engine['weights_sha256']}")
    assert _evalkit(*gate, *mine) == 0
    today = f"int4={'5' * 64}"
    assert _evalkit(*gate, "--policy", release.policy_file, "--source", today) == ExitCode.INVALID
    edited = deepcopy(document)
    edited["endpoints"]["mmlu"]["margins_points"] = [2.4]
    other = tmp_path / "policy.yaml"
    other.write_text(json.dumps(edited))
    assert _evalkit(*gate, "--policy", other, *mine[2:]) == ExitCode.INVALID
    assert _evalkit(*gate, "--policy", rules_sha256(load_policy(release.policy_file)), *mine[2:]) == 0
