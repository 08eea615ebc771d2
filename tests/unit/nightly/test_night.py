"""Whole nights through the command line, with the scripted adapter."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from evalkit.ledger import Ledger
from evalkit.ledger.standing import weights_of
from evalkit.records import Record
from evalkit.store import read_items, read_records, read_run
from evalkit.store.lines import SUMS


def codes(result):
    return [reason["code"] for reason in result["reasons"]]


def changed(file: Path, **changes) -> Path:
    document = yaml.safe_load(file.read_text())
    document.update(changes)
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_good_night_and_a_bad_one(night):
    file = night.suite({"good": night.candidate("good"), "bad": night.candidate("bad", seed=3, recipe="int4-awq")})
    code, (good, bad), error = night.run(file)
    assert code == 1
    assert (good["outcome"], codes(good)) == ("OK", ["clear"])
    assert (bad["outcome"], codes(bad)) == ("ALARM", ["loss"])
    assert error.index("expected cost of a night") < error.index("loading model")  # planned before anything is run
    assert "official-fp8: stored replies reused" in error
    found = good["endpoints"]["mmlu"]
    assert found["watch"]["used"] <= found["asked"] < 800
    assert found["full"] is found["confirm"] is None
    assert found["probe"] == {"items": 32, "first": 32, "again": 32, "both": 32, "disagree": 0, "allowed": 5}
    full = bad["endpoints"]["mmlu"]["full"]
    assert (full["state"], full["n"], full["n10"], full["n01"]) == ("FAIL", 800, 60, 4)
    certificate = json.loads((night.nights / "2026-03-01" / "bad" / "certificate.json").read_text())
    (verdict,) = certificate["decision"]["verdicts"]
    assert verdict["outcome"] == "REJECTED"
    assert not (night.nights / "2026-03-01" / "good" / "certificate.json").exists()


def test_a_night_is_on_record_before_its_first_question_and_with_its_result(night):
    file = night.suite({"good": night.candidate("good"), "bad": night.candidate("bad", seed=3, recipe="int4-awq")})
    for _ in range(2):
        night.run(file)
    entries = Ledger(night.outputs.parent / "ledger.jsonl").entries()
    told = [(entry.kind, entry.data["recipe"], entry.data.get("outcome")) for entry in entries if "night" in entry.kind]
    assert told == [
        ("night-begun", "good", None),
        ("night", "good", "OK"),
        ("night-begun", "bad", None),
        ("night", "bad", "ALARM"),
    ]
    engine = read_run(night.nights / "2026-03-01" / "bad").manifest.engine
    assert entries[-1].data["weights"] == entries[-2].data["weights"] == weights_of(engine)


def test_the_first_night_runs_the_baseline(night):
    file = night.suite({"good": night.candidate("good")})
    shutil.rmtree(night.outputs)
    code, (result,), error = night.run(file)
    assert (code, result["outcome"]) == (0, "OK")
    assert error.index("official-fp8: loading") < error.index("good: loading")
    assert len(read_records(night.outputs / "official-fp8", "watch")) == 800


def test_a_finished_night_is_read_and_the_next_one_has_another_order(night):
    file = night.suite({"good": night.candidate("good")})
    _, (first,), _ = night.run(file)
    code, (again,), error = night.run(file)
    assert (code, again) == (0, first)
    assert "finished before" in error
    assert "loading" not in error
    _, (second,), error = night.run(file, label="2026-03-02")
    assert "stored replies reused" in error
    assert second["orders"]["watch"]["sha256"] != first["orders"]["watch"]["sha256"]


def test_what_was_drawn_is_written_before_anything_is_asked(night):
    gone = {"recipe": "no-such-recipe"}
    file = night.suite({"good": night.candidate("good")})
    night.run(file)
    file = night.suite({"good": night.candidate("good", **gone)})
    code, out, _ = night.run(file, label="2026-03-05")
    assert (code, out) == (2, None)  # a wrong request is no night
    begun = json.loads((night.nights / "2026-03-05" / "night.json").read_text())
    assert begun["orders"]["watch"]["items"] == 800
    assert begun["plan"]["endpoints"][0]["recipe"] == "good"


def test_blocks_change_the_cost_and_not_the_outcome(night):
    file = night.suite({"good": night.candidate("good")})
    _, (large,), _ = night.run(file, "--block", "300")
    (night.nights / "2026-03-01").rename(night.outputs / "aside")
    _, (small,), _ = night.run(file, "--block", "16")
    assert small["endpoints"]["mmlu"]["watch"] == large["endpoints"]["mmlu"]["watch"]
    assert small["endpoints"]["mmlu"]["asked"] < large["endpoints"]["mmlu"]["asked"]


def test_no_full_leaves_it_at_the_alarm_and_the_confirming_run(night):
    file = night.suite({"bad": night.candidate("bad")})
    code, (bad,), _ = night.run(file, "--no-full")
    found = bad["endpoints"]["mmlu"]
    assert code == 1
    assert found["full"] is None
    assert found["watch"]["state"] == "ALARM"
    assert found["confirm"] is not None
    # The confirming run asks other items than those of the alarm.
    assert found["watch"]["used"] + found["confirm"]["used"] <= found["asked"] < 800


@pytest.mark.parametrize(("extra", "code", "outcome"), [((), 0, "clear-in-full"), (("--no-full",), 3, "cap")])
def test_the_cap(night, extra, code, outcome):
    file = night.suite({"good": night.candidate("good")}, policy={"nightly": {"margin_points": 3.0, "cap": 40}})
    got, (good,), _ = night.run(file, *extra)
    assert (got, codes(good)) == (code, [outcome])
    assert good["endpoints"]["mmlu"]["watch"]["used"] == 40


INVALID = {
    "an outage": ({"fail_every": 1, "fail_kind": "transport"}, "engine"),
    "some answers are missing": ({"fail_every": 40}, "coverage"),
    "many answers are missing": ({"fail_every": 6}, "probe"),
    "a number that is not finite": ({"break_every": 3}, "engine"),
    "a rare number that is not finite": ({"break_every": 400}, "non-finite"),
    "other engine options": ({"max_length": 5000}, "not-comparable"),
    "another fidelity": ({"fidelity": "engine"}, "not-comparable"),
}


@pytest.mark.parametrize("what", INVALID)
def test_a_broken_evaluation_is_invalid_and_no_regression(night, what):
    options, code = INVALID[what]
    file = night.suite({"bad": night.candidate("bad", **options)})
    got, (result,), _ = night.run(file)
    assert got == 4
    assert (result["outcome"], codes(result)) == ("INVALID", [code])


def test_an_invalid_recipe_does_not_hide_an_alarm(night):
    file = night.suite({"down": night.candidate("good", fail_every=1), "bad": night.candidate("bad", seed=3)})
    code, results, _ = night.run(file)
    assert code == 1
    assert [result["outcome"] for result in results] == ["INVALID", "ALARM"]


def test_the_baseline_offered_as_a_candidate_is_no_ok(night):
    same = {"recipe": "llama-official-fp8", "seed": 1, "key": str(night.world.root / "baseline.key.jsonl")}
    code, (result,), _ = night.run(night.suite({"copy": same}))
    assert (code, codes(result)) == (4, ["same-model"])
    # Another recipe's name on the same replies: quantization was not applied.
    code, (result,), _ = night.run(night.suite({"copy": {**same, "recipe": "int4-awq"}}), label="2026-03-02")
    assert (code, codes(result)) == (4, ["same-model"])
    assert "replies are the baseline's" in result["reasons"][0]["message"]


def test_an_invalid_night_is_asked_again_when_it_is_repeated(night):
    file = night.suite({"bad": night.candidate("good", fail_every=40)})
    code, (first,), _ = night.run(file)
    assert (code, codes(first)) == (4, ["coverage"])
    folder = night.nights / "2026-03-01" / "bad"
    failed = [record for record in read_records(folder, "watch") if record.status == "failed"]
    assert failed
    # The server is repaired: the same engine answers now. What failed is asked again, what was answered is not.
    lines = (folder / "records" / "watch.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"status":"ok"' in line]
    code, (second,), _ = night.run(file)
    assert (code, codes(second)) == (4, ["coverage"])  # this scripted engine fails on the same items for ever
    after = (folder / "records" / "watch.jsonl").read_text().splitlines()
    assert set(kept) <= set(after)


def test_a_policy_that_certifies_is_refused(night):
    file = changed(night.suite({"good": night.candidate("good")}), policy="release")
    code, out, error = night.run(file)
    assert (code, out) == (2, None)
    assert "nightly runs need `certifies: false`" in error
    assert not night.nights.exists()


def test_a_suite_without_the_task_is_refused(night):
    file = night.suite({"good": night.candidate("good")})
    policy = Path(yaml.safe_load(file.read_text())["policy"])
    document = yaml.safe_load(policy.read_text())
    document["endpoints"]["mmlu"]["task"] = "mmlu"
    policy.write_text(yaml.safe_dump(document))
    code, _, error = night.run(file)
    assert code == 2
    assert "needs the task 'mmlu'" in error


def test_another_baseline_under_the_same_name_is_refused_by_name(night):
    file = night.suite({"good": night.candidate("good")})
    night.run(file)
    document = yaml.safe_load(file.read_text())
    document["baseline"]["options"]["seed"] = 9
    document["baseline"]["recipe"] = "int4-awq"
    file.write_text(yaml.safe_dump(document))
    code, out, error = night.run(file, label="2026-03-02")
    assert (code, out) == (2, None)
    assert "engine.options.seed: the folder has 1, the suite 9" in error
    assert "recipe_sha256" in error
    assert "move the folder away" in error


def test_other_definitions_are_refused_by_name(night, tmp_path):
    file = night.suite({"good": night.candidate("good")})
    night.run(file)
    own = tmp_path / "definitions"
    shutil.copytree(night.world.definitions, own)
    task = own / "tasks" / "watched" / "watch.yaml"
    task.write_text(task.read_text().replace("chance: 0.25", "chance: 0.2"))
    code, _, error = night.run(changed(file, definitions=str(own)), label="2026-03-02")
    assert code == 2
    assert "tasks.watch.definition_sha256" in error


def test_a_baseline_that_was_stopped_is_completed(night):
    file = night.suite({"good": night.candidate("good")})
    _, (first,), _ = night.run(file)
    records = night.outputs / "official-fp8" / "records" / "watch.jsonl"
    records.write_text("".join(line + "\n" for line in records.read_text().splitlines()[:500]))
    (night.outputs / "official-fp8" / SUMS).unlink()  # digests are written when a run is finished
    code, (second,), error = night.run(file, label="2026-03-02")
    assert code == 0
    assert "official-fp8: loading" in error
    assert second["baseline"]["records_sha256"] == first["baseline"]["records_sha256"]


def test_a_night_begun_with_another_baseline_is_not_mixed(night):
    file = night.suite({"good": night.candidate("good", fail_every=40)})
    night.run(file)
    records = night.outputs / "official-fp8" / "records" / "watch.jsonl"
    records.write_text(records.read_text().replace('"acc":1.0', '"acc":0.0', 1))
    code, _, error = night.run(file)
    assert code == 2
    assert "begun with another 'baseline'" in error


def test_a_baseline_no_better_than_guessing_is_invalid(night):
    night.world.key("guess", (i % 4 == 0 for i in range(800)))
    baseline = {"key": str(night.world.root / "guess.key.jsonl")}
    file = night.suite({"good": night.candidate("good")}, baseline=baseline)
    code, (result,), _ = night.run(file)
    assert (code, codes(result)) == (4, ["assay"])
    assert "above_chance" in result["reasons"][0]["message"]
    assert result["engine"] is None  # no engine of a candidate was loaded for it


def test_the_stored_rerun_of_the_baseline_must_agree_with_it(night):
    # The scripted baseline answers the same in every order, so the second run is spoilt on the disk.
    file = night.suite(
        {"good": night.candidate("good")}, policy={"assay": {"required": ["aa", "above_chance"]}}, rerun={"options": {}}
    )
    code, (result,), _ = night.run(file)
    assert (code, codes(result)) == (0, ["clear"])
    again = night.outputs / "official-fp8-rerun" / "records" / "watch.jsonl"
    lines = again.read_text().splitlines()
    spoilt = [line.replace('"acc":1.0', '"acc":0.0') for line in lines[:80]]
    again.write_text("".join(f"{line}\n" for line in [*spoilt, *lines[80:]]))
    code, (result,), _ = night.run(file, label="2026-03-02")
    assert (code, set(codes(result))) == (4, {"assay"})
    assert "aa" in result["reasons"][0]["message"]


def test_a_required_check_without_a_run_is_invalid(night):
    file = night.suite({"good": night.candidate("good")}, policy={"assay": {"required": ["control", "above_chance"]}})
    code, (result,), _ = night.run(file)
    assert (code, codes(result)) == (4, ["assay"])


def test_an_override_of_the_policy_is_tolerated(night):
    file = night.suite({"good": night.candidate("good", max_length=5000)}, policy={"overrides": ["options.max_length"]})
    code, (result,), _ = night.run(file)
    assert (code, codes(result)) == (0, ["clear"])


def test_the_items_are_shared_with_the_baseline_and_not_written_again(night):
    night.run(night.suite({"good": night.candidate("good")}))
    ours = night.nights / "2026-03-01" / "good" / "items" / "watch.jsonl"
    assert ours.stat().st_ino == (night.outputs / "official-fp8" / "items" / "watch.jsonl").stat().st_ino
    assert read_run(night.nights / "2026-03-01" / "good").manifest.policy_sha256 is not None


def test_plan_alone_runs_nothing(night):
    file = night.suite({"good": night.candidate("good")})
    code, plan, _ = night.run(file, "--plan", "--rate", "20", "--discordance", "0.03")
    assert code == 0
    assert plan["endpoints"][0]["known"] == {"discordance": 0.03, "source": "as given", "rate": 20.0}
    assert plan["endpoints"][0]["hours"] > 0
    assert not night.nights.exists()


def test_files_for_ci(night, tmp_path):
    file = night.suite({"good": night.candidate("good")})
    summary, junit = tmp_path / "summary.md", tmp_path / "reports" / "junit.xml"
    summary.write_text("before\n")
    night.run(file, "--summary", str(summary), "--junit", str(junit), "--site", "h200")
    folder = night.nights / "2026-03-01@h200"
    written = {"report.md", "junit.xml", "summary.md", "line.txt", "night.json"}
    assert {path.name for path in folder.iterdir()} >= written
    assert summary.read_text().startswith("before\n## OK: small, night 2026")
    assert junit.read_text() == (folder / "junit.xml").read_text()
    line = (folder / "line.txt").read_text()
    assert re.match(r"small, night 2026-03-01 at h200, margin [0-9.]+ points: OK good \(mmlu ", line)


def test_a_damaged_baseline_is_invalid_and_says_where(night):
    file = night.suite({"good": night.candidate("good")})
    night.run(file)
    records = night.outputs / "official-fp8" / "records" / "watch.jsonl"
    lines = records.read_text().splitlines()
    lines[5] = lines[5][:-20] + "}"
    records.write_text("\n".join(lines) + "\n")
    code, (result,), _ = night.run(file, label="2026-03-02")
    assert (code, codes(result)) == (4, ["baseline"])
    assert "watch.jsonl:6" in result["reasons"][0]["message"]


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "EXDEV", "EMLINK", "ENOSYS"])
def test_nothing_is_lost_where_a_file_can_have_no_second_name(night, monkeypatch, code):
    def refused(*_names, **_more):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(os, "link", refused)
    file = night.suite({"bad": night.candidate("bad", seed=3, recipe="int4-awq")})
    exit_code, (bad,), _ = night.run(file)
    assert (exit_code, bad["outcome"]) == (1, "ALARM")
    folder = night.nights / "2026-03-01" / "bad"
    assert len(read_records(folder, "watch")) == len(read_items(folder, "watch")) == 800
    stored = (night.outputs / "official-fp8" / "items" / "watch.jsonl").read_bytes()
    assert (folder / "items" / "watch.jsonl").read_bytes() == stored


def test_a_night_that_has_only_some_items_gets_all_of_them(night, monkeypatch):
    """As one that was begun before a night knew that its file of items was a part."""
    file = night.suite({"good": night.candidate("good")})
    night.run(file)
    folder = night.nights / "2026-03-01" / "good"
    items = folder / "items" / "watch.jsonl"
    lines = items.read_bytes().splitlines(keepends=True)
    items.unlink()
    items.write_bytes(b"".join(lines[:32]))
    for name in ("result.json", SUMS):
        (folder / name).unlink(missing_ok=True)
    night.run(file)
    assert len(read_items(folder, "watch")) == 800


def test_a_night_parses_each_record_once(night, monkeypatch):
    parsed = Counter()
    read = Record.from_json.__func__

    def counted(cls, line):
        parsed[line] += 1
        return read(cls, line)

    file = night.suite({"good": night.candidate("good")})
    night.run(file)  # whatever reads the baseline has read it
    monkeypatch.setattr(Record, "from_json", classmethod(counted))
    _, (result,), _ = night.run(file, "--block", "10", label="2026-03-02")
    asked = result["endpoints"]["mmlu"]["asked"]
    assert asked > 30
    own = read_records(night.nights / "2026-03-02" / "good", "watch")
    lines = {record.to_json() for record in own}
    before = Counter({line: count for line, count in parsed.items() if line in lines})
    assert sum(before.values()) <= 2 * len(lines)  # once by this test
    (night.nights / "2026-03-02" / "good" / "result.json").unlink()
    parsed.clear()
    night.run(file, "--block", "10", label="2026-03-02")  # resumed: what lies on the disk is parsed, once
    assert sum(count for line, count in parsed.items() if line in lines) <= len(lines) + 1  # the last one may be torn
