from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from evalkit.records import (
    ChoiceReply,
    EngineIdentity,
    Item,
    JudgeRun,
    Judgment,
    Manifest,
    Record,
    TaskRun,
    digest,
    text_digest,
)


def make_identity(**changes: object) -> EngineIdentity:
    values: dict[str, object] = {
        "adapter": "scripted",
        "model": "tiny",
        "weights_sha256": "a" * 64,
        "recipe": "none",
        "recipe_sha256": None,
        "fidelity": "engine",
        "quantization": {"algorithm": "none", "roles": (1, 2)},
        "dtype": "float32",
        "tokenizer_sha256": "b" * 64,
        "chat_template_sha256": None,
        "versions": {"scripted": "1"},
        "device": "cpu",
    }
    return EngineIdentity(**{**values, **changes})


def make_task(**changes: object) -> TaskRun:
    values: dict[str, object] = {
        "definition_sha256": "d" * 64,
        "kind": "choice",
        "protocol": "ll-0shot",
        "shots": 0,
        "metric": "acc",
        "chance": 0.25,
        "planned": 4,
        "item_set_sha256": "e" * 64,
        "prompts_sha256": "f" * 64,
        "dataset": {"asset": "mmlu"},
    }
    return TaskRun(**{**values, **changes})


def make_manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "evalkit": "0",
        "engine": make_identity(),
        "tasks": {"quiz": make_task()},
        "created_at": "2020-01-01T00:00:00Z",
    }
    return Manifest(**{**values, **changes})


def make_asking(items: Sequence[Item]) -> Manifest:
    """The manifest of a run that is asked these items."""
    return make_manifest(tasks={"quiz": make_task(item_set_sha256=digest(sorted(item.key for item in items)))})


def make_record(number: int, **changes: object) -> Record:
    values: dict[str, object] = {
        "task": "quiz",
        "subject": "sums",
        "item_sha256": text_digest(str(number)),
        "occurrence": 0,
        "prompt_sha256": text_digest(f"prompt {number}"),
        "target_sha256": text_digest("1"),
        "status": "ok",
        "reply": ChoiceReply(logprobs=(-1.5, -0.25), greedy=(False, True), target=1, lengths=(1, 2)),
        "marks": {"acc": 1.0},
    }
    return Record(**{**values, **changes})


def make_item(number: int) -> Item:
    return Item(
        task="quiz",
        subject="sums",
        item_sha256=text_digest(str(number)),
        occurrence=0,
        prompt_sha256=text_digest(f"prompt {number}"),
        target_sha256=text_digest("1"),
        doc={"question": f"line{chr(0x2028)}separator {number}"},
        context=f"prompt {number}",
        continuations=("a", "b"),
        target=1,
    )


def make_judgment(number: int, **changes: object) -> Judgment:
    values: dict[str, object] = {
        "key": text_digest("k"),
        "task": "quiz",
        "subject": "sums",
        "item_sha256": text_digest(str(number)),
        "occurrence": 0,
        "sample": 0,
        "turn": 1,
        "repeat": 0,
        "answer_sha256": text_digest("answer"),
        "status": "ok",
        "score": 7.0,
        "text": "[[7]]",
    }
    return Judgment(**{**values, **changes})


def make_judge(**changes: object) -> JudgeRun:
    values: dict[str, object] = {
        "profile": "strict",
        "profile_sha256": "1" * 64,
        "references_sha256": None,
        "identity": make_identity(model="judge"),
        "repeats": 1,
        "planned": 4,
        "scale": (1.0, 10.0),
    }
    return JudgeRun(**{**values, **changes})


@pytest.fixture
def make() -> dict[str, Callable]:
    return {
        "identity": make_identity,
        "task": make_task,
        "manifest": make_manifest,
        "asking": make_asking,
        "record": make_record,
        "item": make_item,
        "judgment": make_judgment,
        "judge": make_judge,
    }
