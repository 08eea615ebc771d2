"""A comparison in which nothing could be lost, or nobody could have seen it: refused, or certified with a caution.

Every attack is made of whole run folders and goes through the program, once under a policy that requires every check
and once under one that requires three of them: INVALID there, and here a caution on the first screen.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit import cli
from evalkit.errors import ExitCode
from evalkit.records import TaskRun, TextReply, Turn

ITEMS = 1_140
MODEL = "meta-llama/Llama-3.1-70B-Instruct"  # published: 83.6 % (Meta's card)
OFFICIAL_RECIPE = "llama-official-fp8"

POLICY = """\
policy_version: 1
name: plant
tier: plant
claims: [fit]
endpoints:
  mmlu: {kind: paired_proportion, task: mmlu, metric: acc, protocol: ll-5shot, items: 1140, gating: true, alpha: 0.025,
         margins_points: [2.5], chance: 0.25, strata: [subject]}
assay: {required: [REQUIRED], baseline_recipes: [llama-official-fp8]}
"""
STRICT = "aa, control, near_control, above_chance, headroom, readable, anchor, origin, baseline_recipe"
LAX = "aa, control, above_chance"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.report.html.plots.available", lambda: False)


Runs = dict[str, Any]


@dataclass
class Plant:
    """Where a scene is set."""

    made: ModuleType
    folder: Path
    required: str
    controls: tuple[str, ...] = ("broken",)

    @property
    def sha(self) -> str:
        text = POLICY.replace("REQUIRED", self.required)
        sha: str = self.made.bound(self.folder / "policy.yaml", text, self.controls).sha256
        return sha

    def marks(self, right: float) -> np.ndarray:
        """Outcomes of a baseline with this share right, the same in every subject."""
        at = np.arange(ITEMS)
        return ((at // self.made.SUBJECTS) % 20 < round(20 * right)).astype(float)

    def runs(self, right: float = 0.85, *, candidate: np.ndarray | None = None, lost: int = 70) -> Runs:
        """Baseline, rerun, a control that lost `lost` items, and a candidate as good as the baseline."""
        base, made = self.marks(right), self.made
        few = max(1, min(4, int((base == 0).sum())))
        runs = {
            "baseline": made.make_run(made.OFFICIAL, marks=base, seed=1, recipe=OFFICIAL_RECIPE),
            "rerun": made.make_run(
                f"{made.OFFICIAL}-rerun",
                marks=made.moved(base, losses=few, gains=few, seed=12),
                seed=2,
                recipe=OFFICIAL_RECIPE,
            ),
            "control": made.make_run(
                made.CONTROL, marks=made.moved(base, losses=lost, gains=0, seed=13), seed=3, policy_sha256=self.sha
            ),
            "candidate": made.make_run(
                made.RECIPE,
                marks=made.moved(base, losses=5 * few, gains=min(5 * few, int((base == 0).sum())), seed=14)
                if candidate is None
                else candidate,
                seed=4,
                policy_sha256=self.sha,
            ),
        }
        return {role: self.engine(run, model=MODEL) for role, run in runs.items()}

    @staticmethod
    def engine(run: Any, **changes: Any) -> Any:
        return replace(run, manifest=replace(run.manifest, engine=replace(run.manifest.engine, **changes)))

    def write(self, runs: Mapping[str, Any]) -> dict[str, Path]:
        paths: dict[str, Path] = self.made.write_release(self.folder / "runs", runs)
        return paths


def retasked(run: Any, **changes: Any) -> Any:
    task: TaskRun = replace(run.manifest.tasks["mmlu"], **changes)
    return replace(run, manifest=replace(run.manifest, tasks={"mmlu": task}))


def generated(run: Any, cut: int) -> Any:
    """The run with written answers instead of scored choices; the first wrong ones stopped at the token limit."""
    left, records = cut, []
    for record in run.records["mmlu"]:
        wrong = record.marks["acc"] == 0.0
        finish, left = ("length", left - 1) if wrong and left else ("stop", left)
        words = f"{run.manifest.engine.recipe} thinks of {record.item_sha256[:8]}"
        turn = Turn(text=words, finish=finish, prompt_tokens=90, completion_tokens=200)
        records.append(replace(record, reply=TextReply(turns=(turn,))))
    return retasked(replace(run, records={"mmlu": tuple(records)}), kind="text", chance=0.25)


Scene = Callable[[Plant], dict[str, Path]]


def sound(plant: Plant) -> dict[str, Path]:
    return plant.write(plant.runs())


def no_rerun_and_no_control(plant: Plant) -> dict[str, Path]:
    paths = plant.write(plant.runs())
    return {role: path for role, path in paths.items() if role in ("baseline", "candidate")}


def pruned_baseline(plant: Plant) -> dict[str, Path]:
    """Another model of the family, at four bits, stands for the official baseline."""
    runs = plant.runs(0.80)
    weak = {"model": "llama-3.1-70b-instruct-pruned", "weights_sha256": "9" * 64, "recipe": "int4-awq"}
    return plant.write(
        {role: plant.engine(run, **weak) if role in ("baseline", "rerun") else run for role, run in runs.items()}
    )


def earlier_candidate(plant: Plant) -> dict[str, Path]:
    """The right model, but last month's candidate as the baseline."""
    runs = plant.runs()
    return plant.write(
        {
            role: plant.engine(run, recipe="modelopt-fp8-kv") if role in ("baseline", "rerun") else run
            for role, run in runs.items()
        }
    )


def both_damaged(plant: Plant) -> dict[str, Path]:
    """A wrong template: 40 % on both sides where 83.6 % are published."""
    return plant.write(plant.runs(0.40))


def both_cut_off(plant: Plant) -> dict[str, Path]:
    """Written answers; 150 of 1,140 stop at the token limit before any answer, on both sides alike."""
    return plant.write({role: generated(run, 150) for role, run in plant.runs(0.85).items()})


def nearly_solved(plant: Plant) -> dict[str, Path]:
    """About 99.5 % right, and wrong answers more than double."""
    base = np.ones(ITEMS)
    base[::228] = 0.0
    runs = plant.runs(candidate=plant.made.moved(base, losses=7, gains=1, seed=3))
    plain = {
        "baseline": base,
        "rerun": plant.made.moved(base, losses=1, gains=1, seed=4),
        "control": plant.made.moved(base, losses=70, gains=0, seed=5),
    }
    for at, (role, marks) in enumerate(plain.items()):
        runs[role] = replace(runs[role], records={"mmlu": plant.made.choice_records("mmlu", marks, 50 + at)})
    return plant.write(runs)


def subjects_lost(plant: Plant) -> dict[str, Path]:
    """Two subjects lose 12 of 20 items each; gains elsewhere make up for it."""
    base = plant.marks(0.85)
    worse, subject = base.copy(), np.arange(ITEMS) % plant.made.SUBJECTS
    for one in (7, 31):
        worse[np.flatnonzero((subject == one) & (base == 1.0))[:12]] = 0.0
    elsewhere = np.flatnonzero((base == 0.0) & ~np.isin(subject, (7, 31)))
    worse[np.random.default_rng(2).choice(elsewhere, 24, replace=False)] = 1.0
    return plant.write(plant.runs(candidate=worse))


def copied_rerun(plant: Plant) -> dict[str, Path]:
    paths = plant.write(plant.runs())
    shutil.rmtree(paths["rerun"])
    shutil.copytree(paths["baseline"], paths["rerun"])
    return paths


def dead_control(plant: Plant) -> dict[str, Path]:
    return plant.write(plant.runs(lost=700))


def recipe_not_in_force(plant: Plant) -> dict[str, Path]:
    """The baseline served again under another recipe's name: as many flips as the rerun has."""
    base = plant.marks(0.85)
    return plant.write(plant.runs(candidate=plant.made.moved(base, losses=4, gains=4, seed=21)))


SCENES: dict[str, tuple[Scene, str, str, str]] = {
    "no rerun, no control": (no_rerun_and_no_control, "assay-missing", "assay-missing", "aa"),
    "weakened baseline": (pruned_baseline, "other-model", "other-model", "llama-3.1-70b-instruct-pruned"),
    "candidate as baseline": (
        earlier_candidate,
        "baseline-recipe",
        "check-failed",
        "baseline_recipe: the baseline is",
    ),
    "both sides damaged": (both_damaged, "baseline-sanity", "check-failed", "published is 83.60%"),
    "both sides cut off": (both_cut_off, "unreadable", "guard:unreadable", "150 of 1140 answers of the candidate"),
    "nearly solved": (nearly_solved, "no-headroom", "error-rise", "wrong answers rise from 5 to 11 of 1,140 (x2.20)"),
    "subjects lost": (subjects_lost, "", "subjects-lost", "2 subjects surely lost: subject-07 -60.0 points"),
    "copied rerun": (copied_rerun, "assay-failed", "assay-failed", "this rerun is a copy of the baseline"),
    "dead control": (dead_control, "assay-failed", "check-failed", "it shows that destruction is seen"),
    "recipe not in force": (recipe_not_in_force, "", "flips-within-noise", "is the recipe in force?"),
}
"""Attack: scene, reason under the strict policy ("" for a caution there too), code under the lax one, words."""


def decided(plant: Plant, scene: Scene, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    paths = scene(plant)
    named = [word for role, path in paths.items() for word in (f"--{role}", str(path))]
    out = plant.folder / "out"
    argv = ["certify", *named, "--policy", str(plant.folder / "policy.yaml"), "--output", str(out), "--quiet"]
    code = cli.main(argv)
    text = capsys.readouterr().out
    return code, json.loads((out / "certificate.json").read_text("utf-8"))["decision"], " ".join(text.split())


def said(decision: dict[str, Any]) -> dict[str, str]:
    """Code to message of every caution."""
    (verdict,) = decision["verdicts"]
    return {one["code"]: one["message"] for one in (*decision["cautions"], *verdict["cautions"])}


@pytest.mark.parametrize("required", [STRICT, LAX], ids=["strict", "lax"])
def test_a_sound_measurement_is_certified_without_a_caution_about_itself(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], required: str
) -> None:
    code, decision, _ = decided(Plant(made, tmp_path, required), sound, capsys)
    assert code == ExitCode.CERTIFIED, decision["verdicts"][0]["reasons"]
    assert not {"check-failed", "check-not-made", "other-model", "error-rise", "subjects-lost"} & set(said(decision))
    assert {check["check"]: check["passed"] for check in decision["assay"]["checks"]} == dict.fromkeys(
        STRICT.split(", "), True
    )


@pytest.mark.parametrize("attack", SCENES)
def test_under_a_policy_that_requires_every_check_the_attack_is_invalid_or_named(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    scene, reason, caution, words = SCENES[attack]
    code, decision, text = decided(Plant(made, tmp_path, STRICT), scene, capsys)
    (verdict,) = decision["verdicts"]
    if reason:
        assert (code, verdict["outcome"]) == (ExitCode.INVALID, "INVALID")
        assert reason in {one["code"] for one in verdict["reasons"]}
        return
    assert code == ExitCode.CERTIFIED, verdict["reasons"]
    assert words in said(decision)[caution]
    assert words in text


@pytest.mark.parametrize("attack", SCENES)
def test_under_a_policy_that_requires_little_the_weakness_stands_on_the_certificate(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    scene, _, caution, words = SCENES[attack]
    code, decision, text = decided(Plant(made, tmp_path, LAX), scene, capsys)
    (verdict,) = decision["verdicts"]
    if caution in {one["code"] for one in verdict["reasons"]}:
        assert code in (ExitCode.INVALID, ExitCode.INCONCLUSIVE)
        assert any(words in one["message"] for one in verdict["reasons"])
        return
    assert code == ExitCode.CERTIFIED, verdict["reasons"]
    assert words in said(decision)[caution]
    assert text.index(words) < text.index("Baseline: ")  # above everything that is measured


def test_checks_that_nobody_asked_for_are_shown_as_not_made(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, decision, text = decided(Plant(made, tmp_path, "", controls=()), no_rerun_and_no_control, capsys)
    assert code == ExitCode.CERTIFIED
    found = {check["check"]: check["passed"] for check in decision["assay"]["checks"]}
    assert {name for name, passed in found.items() if passed is None} == {"aa", "control", "near_control"}
    shown = said(decision)["check-not-made"]
    for words in ("NOT MADE: aa (mmlu)", "control: no broken recipe was compared", "near_control"):
        assert words in shown
    assert text.index("NOT MADE") < text.index("Baseline: ")


def test_a_published_accuracy_of_ones_own_that_contradicts_the_known_one_is_named(
    made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memo = "reference_accuracy: {mmlu: {accuracy: 0.41, source: a memo}}, ability_loss_max: 0.3"
    given = f"{STRICT}], {memo}, near_margins: [1.0, 5.0"
    code, decision, _ = decided(Plant(made, tmp_path, given), both_damaged, capsys)
    assert code == ExitCode.CERTIFIED, decision["verdicts"][0]["reasons"]
    assert "known is 83.60%" in said(decision)["anchor-disputed"]
