from __future__ import annotations

from types import SimpleNamespace

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
    TextReply,
    Turn,
)

ABOUT = {"task": "quiz", "subject": "sums", "item_sha256": "a" * 64, "occurrence": 0}
DIGESTS = {"prompt_sha256": "b" * 64, "target_sha256": "c" * 64}


@pytest.fixture
def made() -> SimpleNamespace:
    """One value of every kind, with nothing left at its default that a round trip could lose."""
    identity = EngineIdentity(
        adapter="hf",
        model="small",
        weights_sha256="1" * 64,
        recipe="int4-awq",
        recipe_sha256="2" * 64,
        fidelity="simulated",
        quantization={"algorithm": "W4A16_AWQ", "kv_cache": "none", "enabled": {"weight": 7}},
        dtype="bfloat16",
        tokenizer_sha256="3" * 64,
        chat_template_sha256=None,
        versions={"torch": "2.13"},
        device="cpu",
        options={"max_length": 64},
    )
    task = TaskRun(
        definition_sha256="d" * 64,
        kind="choice",
        protocol="ll-5shot",
        shots=5,
        metric="acc",
        chance=0.25,
        planned=2,
        item_set_sha256="e" * 64,
        prompts_sha256="f" * 64,
        dataset={"asset": "mmlu"},
        settings={"top_p": 1.0},
    )
    judge = JudgeRun(
        profile="words",
        profile_sha256="4" * 64,
        references_sha256=None,
        identity=identity,
        repeats=3,
        planned=6,
        scale=(1.0, 10.0),
        requested={"engine": {"name": "judge"}},
    )
    return SimpleNamespace(
        identity=identity,
        task=task,
        judge=judge,
        item=Item(**ABOUT, **DIGESTS, doc={"row": [1, None]}, context="1?", continuations=(" a", " b"), target=1),
        talk=Item(**ABOUT, **DIGESTS, doc={}, turns=("one", "two"), details={"category": "math"}),
        choice=ChoiceReply(logprobs=(-1.5, -0.25), greedy=(False, True), target=1, lengths=(1, 1)),
        text=TextReply(turns=(Turn(text="hä\u2028", finish="stop", prompt_tokens=3, completion_tokens=2),)),
        record=lambda **changes: Record(
            **{**ABOUT, **DIGESTS, "status": "ok", "reply": changes.pop("reply", None), **changes}
        ),
        judgment=lambda **changes: Judgment(
            **ABOUT,
            **{"key": "5" * 64, "sample": 0, "turn": 1, "repeat": 0, "answer_sha256": "6" * 64}
            | {"status": "ok", "score": 7.5, "text": "[[7.5]]", "details": {"tokens": 9}}
            | changes,
        ),
        manifest=Manifest(
            evalkit="0",
            engine=identity,
            tasks={"quiz": task},
            judges={"quiz": judge},
            requested={"engine": {"name": "small"}},
            policy_sha256="7" * 64,
            created_at="2020-01-01T00:00:00+00:00",
            command="evalkit run",
        ),
    )
