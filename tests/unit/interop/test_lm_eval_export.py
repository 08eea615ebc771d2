from __future__ import annotations

import hashlib
import json
import math

import pytest

from evalkit.errors import UsageError
from evalkit.interop import export_lm_eval


def read(exported):
    results = json.loads(exported.files[0].read_text())
    samples = {}
    for file in exported.files[1:]:
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        samples[task] = [json.loads(line) for line in file.read_text().splitlines()]
    return results, samples


def test_names_counts_and_left_out_items(runs, tmp_path):
    done = export_lm_eval(runs.quiz(), tmp_path / "out")
    folder = tmp_path / "out" / "org__model__int4"
    stamp = "2026-01-02T03-04-05.000000"
    names = [f"results_{stamp}.json", f"samples_quiz_sums_{stamp}.jsonl", f"samples_quiz_names_{stamp}.jsonl"]
    assert sorted(done.files) == sorted(folder / name for name in names)
    assert done.files[0].name.startswith("results_")
    assert (done.written, done.failed, done.absent, done.notes) == ({"quiz": 7}, {"quiz": 1}, {"quiz": 1}, ())
    results, samples = read(done)
    assert results["n-samples"] == {
        "quiz_sums": {"original": 4, "effective": 3},
        "quiz_names": {"original": 5, "effective": 4},
    }
    assert [row["doc_id"] for row in samples["quiz_sums"]] == [0, 2, 3]
    assert "lm_eval_version" not in results
    assert results["evalkit_version"]


def test_every_leaf_of_a_response_is_text_and_the_row_is_in_its_own_column_order(runs, tmp_path):
    _, samples = read(export_lm_eval(runs.quiz(), tmp_path / "out"))
    row = samples["quiz_sums"][1]
    assert row["resps"] == [[["-3.5", "False"]], [["-1.25", "True"]], [["-3.5", "False"]]]
    assert row["filtered_resps"] == [["-3.5", "False"], ["-1.25", "True"], ["-3.5", "False"]]
    assert list(row["doc"]) == ["question", "choices", "answer"]
    assert list(row["doc"]["choices"]) == ["text", "label"]
    hashed = json.dumps(row["doc"], indent=2, ensure_ascii=False)
    assert row["doc_hash"] == hashlib.sha256(hashed.encode()).hexdigest()
    assert row["arguments"]["gen_args_2"] == {"arg_0": "how much is 2? Answer:", "arg_1": " C"}
    assert (row["filter"], row["metrics"], row["target"]) == ("none", ["acc", "acc_norm"], "1")


def test_totals_are_means_with_standard_errors_and_groups_are_weighted_by_size(runs, tmp_path):
    results, samples = read(export_lm_eval(runs.quiz(), tmp_path / "out"))
    sums, names = results["results"]["quiz_sums"], results["results"]["quiz_names"]
    # Items 0 to 8 without 1 (failed) and 6 (absent) are right unless divisible by three.
    assert sums["acc,none"] == pytest.approx(1 / 3)
    assert names["acc,none"] == 1.0
    assert sums["acc_stderr,none"] == pytest.approx(math.sqrt(2 / 9) / math.sqrt(2))
    group = results["groups"]["quiz"]
    assert results["results"]["quiz"] == group
    assert group["acc,none"] == pytest.approx(5 / 7)
    assert (group["sample_len"], group["sample_count"]["acc,none"]) == (7, 7)
    pooled = 2 * 3 * sums["acc_stderr,none"] ** 2 / (7 - 2)
    assert group["acc_stderr,none"] == pytest.approx(math.sqrt(pooled / 7))
    assert results["group_subtasks"] == {"quiz": ["quiz_sums", "quiz_names"]}
    assert results["versions"] == {"quiz_sums": 1.0, "quiz_names": 1.0, "quiz": "N/A"}
    assert results["n-shot"] == {"quiz_sums": 2, "quiz_names": 2, "quiz": 2}
    joined = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in samples["quiz_names"])
    assert results["task_hashes"]["quiz_names"] == hashlib.sha256(joined.encode()).hexdigest()


def test_twice_is_the_same_bytes_and_other_content_is_never_overwritten(runs, tmp_path):
    done = export_lm_eval(runs.quiz(), tmp_path / "one")
    again = export_lm_eval(tmp_path / "run", tmp_path / "two")
    assert [file.read_bytes() for file in done.files] == [file.read_bytes() for file in again.files]
    export_lm_eval(tmp_path / "run", tmp_path / "one")
    other = runs.quiz("other", right=lambda number: True)
    with pytest.raises(UsageError, match="already with other content"):
        export_lm_eval(other, tmp_path / "one")


def test_filters_are_rows_of_their_own_and_extracted_answers_are_not_invented(runs, tmp_path):
    marks = ("exact_match,strict", "exact_match,loose")
    items = [runs.item("gen", "sums", number, runs.row(number), kind="text") for number in range(2)]
    records = [runs.record(made, True, marks=marks) for made in items]
    run = runs.task_run(items, kind="text", metric=marks[0], settings={"lm_eval_task": "quiz_sums", "version": 3})
    done = export_lm_eval(runs.write({"gen": (run, items, records)}), tmp_path / "out")
    results, samples = read(done)
    rows = samples["quiz_sums"]
    assert [(row["filter"], row["doc_id"]) for row in rows] == [
        ("loose", 0),
        ("loose", 1),
        ("strict", 0),
        ("strict", 1),
    ]
    assert rows[0]["resps"] == [["1"]]
    assert rows[0]["filtered_resps"] == []
    assert rows[0]["arguments"] == {
        "gen_args_0": {"arg_0": "how much is 0? Answer:", "arg_1": {"until": ["\n"], "max_gen_toks": 5}}
    }
    assert "groups" not in results
    assert results["results"]["quiz_sums"]["exact_match,strict"] == 1.0
    assert results["versions"] == {"quiz_sums": 3}
    assert any("filtered_resps" in note for note in done.notes)


def test_a_metric_that_is_no_mean_has_no_total_and_is_named(runs, tmp_path):
    items = [runs.item("quiz", "sums", number, runs.row(number)) for number in range(2)]
    records = [runs.record(made, True, marks=("acc", "perplexity")) for made in items]
    done = export_lm_eval(runs.write({"quiz": (runs.task_run(items), items, records)}), tmp_path / "out")
    assert any("perplexity" in note for note in done.notes)
    assert "perplexity,none" not in read(done)[0]["results"]["quiz_sums"]


def test_one_item_has_no_standard_error(runs, tmp_path):
    items = [runs.item("quiz", "sums", 0, runs.row(0))]
    path = runs.write({"quiz": (runs.task_run(items), items, [runs.record(items[0], True)])})
    total = read(export_lm_eval(path, tmp_path / "out"))[0]["groups"]["quiz"]
    assert total["acc_stderr,none"] == "N/A"


def test_a_row_whose_column_order_is_lost_is_counted(runs, tmp_path):
    items = [runs.item("quiz", "sums", 0, runs.row(0))]
    items[0].details["doc_hash"] = "0" * 64
    path = runs.write({"quiz": (runs.task_run(items), items, [runs.record(items[0], True)])})
    assert any("1 rows have their columns in another order" in n for n in export_lm_eval(path, tmp_path / "out").notes)


def test_what_lm_eval_has_no_place_for_is_refused(runs, tmp_path):
    items = [runs.item("quiz", "sums", 0, runs.row(0))]
    made = runs.record(items[0], True)
    twice = {
        name: (
            runs.task_run([runs.item(name, "sums", 0, runs.row(0))]),
            [runs.item(name, "sums", 0, runs.row(0))],
            [runs.record(runs.item(name, "sums", 0, runs.row(0)), True)],
        )
        for name in ("first", "second")
    }
    path = runs.write(twice, "twice")
    with pytest.raises(UsageError, match="'first' and 'second' are both lm-eval's"):
        export_lm_eval(path, tmp_path / "out")
    assert export_lm_eval(path, tmp_path / "out", tasks=["second"]).written == {"second": 1}
    with pytest.raises(UsageError, match="did you mean 'second'"):
        export_lm_eval(path, tmp_path / "out", tasks=["secnd"])
    del items[0].details["doc_hash"]
    with pytest.raises(UsageError, match="does not come from lm-eval"):
        export_lm_eval(runs.write({"quiz": (runs.task_run(items), items, [made])}, "other"), tmp_path / "out")
