"""A folder that belongs to another run is refused by the name of what differs, and left as it is."""

from __future__ import annotations

import pytest

from evalkit.errors import IdentityMismatchError
from evalkit.store import RunFolder

ENGINE = {
    "adapter": "modelopt",
    "model": "other",
    "weights_sha256": "c" * 64,
    "recipe": "int4-awq",
    "recipe_sha256": "d" * 64,
    "fidelity": "simulated",
    "quantization": {"algorithm": "fp8", "roles": (1, 2)},
    "dtype": "bfloat16",
    "tokenizer_sha256": "e" * 64,
    "chat_template_sha256": "f" * 64,
    "versions": {"scripted": "2"},
    "device": "cuda",
    "options": {"max_length": 9},
    "processor": {"name": "another processor"},
}
TASK = {
    "definition_sha256": "9" * 64,
    "kind": "text",
    "protocol": "ll-5shot",
    "shots": 5,
    "metric": "acc_norm",
    "chance": 0.5,
    "planned": 5,
    "item_set_sha256": "8" * 64,
    "prompts_sha256": "7" * 64,
    "dataset": {"asset": "other"},
    "settings": {"generation": "greedy"},
    "higher_is_better": False,
    "score_range": (0.0, 10.0),
}


@pytest.fixture
def folder(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as opened:
        opened.append_records("quiz", [make["record"](1)])
    return tmp_path


@pytest.mark.parametrize("name", list(ENGINE))
def test_another_engine(folder, make, name):
    before = {file: file.read_bytes() for file in folder.rglob("*.json*")}
    with pytest.raises(IdentityMismatchError, match=rf"engine\.{name}.*: folder has .*, asked for .*") as caught:
        RunFolder.create_or_resume(folder, make["manifest"](engine=make["identity"](**{name: ENGINE[name]})))
    assert "next step: name another output folder, or move this one away" in str(caught.value)
    assert {file: file.read_bytes() for file in folder.rglob("*.json*")} == before
    assert (folder / "lock").read_text() == ""


@pytest.mark.parametrize("name", list(TASK))
def test_another_task(folder, make, name):
    changed = make["manifest"](tasks={"quiz": make["task"](**{name: TASK[name]})})
    with pytest.raises(IdentityMismatchError, match=rf"tasks\.quiz\.{name}.*: folder has .*, asked for .*"):
        RunFolder.create_or_resume(folder, changed)


def test_every_field_of_an_identity_and_of_a_task_is_tried_here(make):
    assert set(ENGINE) == set(type(make["identity"]()).__dataclass_fields__)
    assert set(TASK) == set(type(make["task"]()).__dataclass_fields__)


def test_a_run_is_not_finished_on_another_processor_and_that_is_said(tmp_path, make):
    begun = {"name": "one processor", "instructions": "avx2", "settings": {}}
    RunFolder.create_or_resume(tmp_path, make["manifest"](engine=make["identity"](processor=begun))).close()
    other = make["manifest"](engine=make["identity"](processor={**begun, "instructions": "avx512_core_amx"}))
    with pytest.raises(IdentityMismatchError) as caught:
        RunFolder.create_or_resume(tmp_path, other)
    assert "engine.processor.instructions: folder has 'avx2', asked for 'avx512_core_amx'" in str(caught.value)
    assert "on the processor on which it was begun" in str(caught.value)


def test_nothing_but_the_asked_for_difference_is_named(folder, make):
    with pytest.raises(IdentityMismatchError) as caught:
        RunFolder.create_or_resume(folder, make["manifest"](engine=make["identity"](recipe="int4-awq")))
    assert str(caught.value).count("folder has") == 1
