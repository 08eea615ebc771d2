"""FastChat's folders through `import`, `compare` and `certify`: both modes, with what is missing counted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalkit.cli import main
from evalkit.errors import ExitCode
from evalkit.interop.voted import votes_alone
from evalkit.qualification.agreement import replayed_agreement

NUMBERS = range(81, 161)
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
POLICY = {
    "policy_version": 1,
    "name": "own",
    "tier": "test",
    "claims": ["comparable"],
    "endpoints": {
        "mt_bench": {
            "kind": "paired_mean",
            "task": "mt-bench",
            "metric": "rating",
            "protocol": "mt-bench-fastchat",
            "questions": 80,
            "judgments": 1,
            "gating": True,
            "alpha": 0.05,
            "margin": 0.3,
            "planning_sd": 0.9,
            "assumption": "no-rare-collapse",
        }
    },
    "assay": {"required": []},
}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def said(model: str, number: int) -> list[str]:
    return [f"{model} says {number} at length", f"{model} says more of {number}"]


def rows_of(score: Any, *, failed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ratings of both models and games between them; `score(model, number, turn)` says how good an answer is."""
    single: list[dict[str, Any]] = []
    pair: list[dict[str, Any]] = []
    for number in NUMBERS:
        for turn in (1, 2):
            common = {"question_id": number, "turn": turn, "tstamp": 1.0}
            good = {model: score(model, number, turn) for model in ("fp8", "int4")}
            for model, value in good.items():
                lost = model == "int4" and number < 81 + failed
                text = "$ERROR$" if lost else f"Fine. Rating: [[{value}]]"
                row = {**common, "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": ""}
                single.append({**row, "judgment": text, "score": -1 if lost else value})
            winner = "tie" if good["fp8"] == good["int4"] else "model_1" if good["int4"] > good["fp8"] else "model_2"
            games = {"g1_winner": winner, "g2_winner": "model_1" if number == 81 else winner}
            row = {**common, "model_1": "int4", "model_2": "fp8", "judge": ["gpt-4", "pair-v2"], **games}
            pair.append({**row, **{f"g{game}_{what}": "" for game in (1, 2) for what in ("user_prompt", "judgment")}})
    return single, pair


def folder(root: Path, *, shift: float, failed: int = 0) -> Path:
    """A folder of FastChat whose candidate is worse by `shift` on average."""
    dice = random.Random(3)
    moved = {(number, turn): dice.choice((-1, 0, 0, 1)) for number in NUMBERS for turn in (1, 2)}
    dropped = {key for key in moved if dice.random() < shift}

    def score(model: str, number: int, turn: int) -> int:
        base = 5 + (number + turn) % 3
        return base if model == "fp8" else base + moved[number, turn] - ((number, turn) in dropped)

    write(
        root / "question.jsonl",
        [
            {"question_id": n, "category": CATEGORIES[(n - 81) // 10], "turns": [f"ask {n}", f"then {n}"]}
            for n in NUMBERS
        ],
    )
    for model in ("fp8", "int4"):
        answers = [
            {"question_id": n, "answer_id": "x", "model_id": model, "choices": [{"index": 0, "turns": said(model, n)}]}
            for n in NUMBERS
        ]
        write(root / "model_answer" / f"{model}.jsonl", [{**row, "tstamp": 1.0} for row in answers])
    single, pair = rows_of(score, failed=failed)
    write(root / "model_judgment" / "gpt-4_single.jsonl", single)
    write(root / "model_judgment" / "gpt-4_pair.jsonl", pair)
    return root


def certified(tmp_path: Path, *options: str, **data: Any) -> tuple[int, dict[str, Any]]:
    """Import both models, certify the second, and return the exit code and the certificate."""
    root = folder(tmp_path / "mt_bench", **data)
    for model, more in (("fp8", []), ("int4", ["--against", str(tmp_path / "fp8")])):
        words = [
            "run",
            "import",
            str(root),
            "--format",
            "fastchat",
            "--model",
            model,
            "--output",
            str(tmp_path / model),
        ]
        assert main([*words, *more]) == 0
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    runs = ["--baseline", str(tmp_path / "fp8"), "--candidate", str(tmp_path / "int4")]
    words = ["certify", *runs, "--policy", str(tmp_path / "policy.yaml"), "--output", str(tmp_path / "out")]
    code = main([*words, "--quiet", *options])
    document: dict[str, Any] = json.loads((tmp_path / "out" / "certificate.json").read_text("utf-8"))
    return code, document


def reasons(document: dict[str, Any]) -> dict[str, str]:
    (verdict,) = document["decision"]["verdicts"]
    return {reason["code"]: reason["message"] for reason in verdict["reasons"]}


@pytest.mark.parametrize(("shift", "would"), [(0.0, "CERTIFIED"), (0.9, "REJECTED")])
def test_a_folder_is_decided_on_like_any_run_whose_policy_came_later(tmp_path, capsys, shift, would):
    code, document = certified(tmp_path, "--post-hoc", shift=shift)
    assert code == ExitCode.INCONCLUSIVE
    assert f"the data would give {would}" in reasons(document)["exploratory"]
    found = document["comparisons"]["int4"]["mt_bench"]
    assert found["rating"]["mean"]["n"] == 80
    (pairs,) = found["pairwise"]
    assert pairs["coverage"]["scored"] == pairs["coverage"]["planned"] == 320
    assert pairs["inconsistent"] == pytest.approx(2 / 160, abs=1 / 160)
    assert pairs["net_win"]["difference"] < 0.1
    report = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "Pairwise against the baseline (fastchat-pair)" in report
    assert "Answers without a judge" in report


def test_without_a_policy_from_before_it_is_no_certificate(tmp_path, capsys):
    code, document = certified(tmp_path, shift=0.0)
    assert code == ExitCode.INVALID
    assert set(reasons(document)) == {"policy-missing"}


def test_rows_of_minus_one_are_missing_and_too_many_of_them_are_invalid(tmp_path, capsys):
    code, document = certified(tmp_path, "--post-hoc", shift=0.0, failed=2)
    assert code == ExitCode.INVALID
    assert "4 of 160 candidate judgments are missing" in reasons(document)["coverage"]
    found = document["comparisons"]["int4"]["mt_bench"]
    low, high = found["rating"]["bounds"]["difference"]
    assert low < found["rating"]["mean"]["difference"] < high
    assert found["coverage"]["candidate_judgments"]["failed"] == {"api_error": 4}


def test_votes_without_answers_still_say_how_gpt4_and_people_agree(tmp_path):
    def vote(number: int, winner: str, judge: str) -> dict[str, Any]:
        return {
            "question_id": number,
            "turn": 1,
            "model_a": "x",
            "model_b": "y",
            "winner": winner,
            "judge": judge,
        }

    people = [vote(number, "model_a", f"expert_{voter}") for number in NUMBERS for voter in (1, 2)]
    write(tmp_path / "human.jsonl", [*people, vote(81, "model_b", "author_1")])
    write(tmp_path / "gpt4_pair.jsonl", [vote(n, "model_a" if n < 141 else "tie", "gpt4_pair") for n in NUMBERS])
    votes = votes_alone(tmp_path)
    assert (len(votes.keys), votes.pairs) == (80, ())
    found = replayed_agreement([], votes.keys, votes.people, votes.gpt4, pairwise=True)
    assert (found["judge"]["n"], found["without_verdict"]) == (0, 80)
    assert (found["gpt4"]["agreed"], found["gpt4"]["n"], found["gpt4"]["n_without_ties"]) == (120, 160, 120)
    assert found["gpt4"]["interval"]["lower"] < 0.75 < found["gpt4"]["interval"]["upper"]
    assert (found["people"]["agreed"], found["people"]["n"]) == (80, 80)
