"""Runs made of random numbers, as large as real ones: records, judgments and manifests on the disk.

In: sizes and a seed. Out: run folders that evalkit reads like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from evalkit import __version__
from evalkit.records import (
    ChoiceReply,
    EngineIdentity,
    JudgeRun,
    Judgment,
    Manifest,
    Record,
    TaskRun,
    TextReply,
    Turn,
    digest,
    text_digest,
)
from evalkit.store import RunFolder

ITEMS, SUBJECTS, QUESTIONS, CATEGORIES, JUDGMENTS = 14_042, 57, 80, 8, 3
"""MMLU and MT-Bench in full, each answer judged three times."""

ANSWER_WORDS = 250
_CHUNK = 1024


def engine(name: str) -> EngineIdentity:
    """Return the identity of an engine that differs from others by its recipe only."""
    return EngineIdentity(
        adapter="modelopt",
        model="made-up",
        weights_sha256=text_digest("weights"),
        recipe=name,
        recipe_sha256=text_digest(name),
        fidelity="simulated",
        quantization={"algorithm": name},
        dtype="bfloat16",
        tokenizer_sha256=text_digest("tokenizer"),
        chat_template_sha256=text_digest("template"),
        versions={"torch": "0", "transformers": "0"},
        device="cpu",
        options={"scoring": "packed", "max_length": 8192},
    )


def choice_task(items: int) -> TaskRun:
    """Return what an MMLU run was asked."""
    return TaskRun(
        definition_sha256=text_digest("mmlu"),
        kind="choice",
        protocol="ll-5shot",
        shots=5,
        metric="acc",
        chance=0.25,
        planned=items,
        item_set_sha256=digest(sorted(_place("mmlu", at, SUBJECTS)["key"] for at in range(items))),
        prompts_sha256=text_digest(f"prompts of {items} items"),
        dataset={"asset": "made-up"},
    )


def chat_task(questions: int) -> TaskRun:
    """Return what an MT-Bench run was asked."""
    keys = sorted(_place("mt-bench", at, CATEGORIES)["key"] for at in range(questions))
    chat = replace(choice_task(0), kind="conversation", protocol="mt-bench-greedy", shots=0, metric="rating")
    return replace(
        chat,
        definition_sha256=text_digest("mt-bench"),
        chance=None,
        planned=questions,
        item_set_sha256=digest(keys),
        settings={"generations": 1},
    )


def judge(questions: int) -> JudgeRun:
    """Return who judged an MT-Bench run."""
    return JudgeRun(
        profile="made-up",
        profile_sha256=text_digest("profile"),
        references_sha256=None,
        identity=replace(engine("none"), model="judge", recipe_sha256=None),
        repeats=JUDGMENTS,
        planned=questions * 2 * JUDGMENTS,
        scale=(1.0, 10.0),
    )


def choice_records(items: int, *, right: float, flipped: float, seed: int) -> Iterator[Record]:
    """Yield MMLU records: a share `right` of a common draw is right, a share `flipped` then turns over."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    for begin in range(0, items, _CHUNK):
        count = min(_CHUNK, items - begin)
        marks = common.random(_CHUNK)[:count] < right
        marks ^= own.random(_CHUNK)[:count] < flipped
        scores = np.sort(own.normal(-3.0, 1.0, (count, 4)), axis=1).tolist()
        for at, (mark, values) in enumerate(zip(marks.tolist(), scores, strict=True), start=begin):
            target = at % 4
            best = target if mark else (target + 1) % 4
            order = values[:3]
            order.insert(best, values[3])
            reply = ChoiceReply(logprobs=tuple(order), greedy=(False,) * 4, target=target, lengths=(1,) * 4)
            yield _record("mmlu", at, SUBJECTS, reply, {"acc": float(mark)})


def chat_records(name: str, questions: int) -> Iterator[Record]:
    """Yield MT-Bench records whose answers are as long as real ones."""
    for at in range(questions):
        words = " ".join(text_digest(f"{name} {at} {word}")[:5] for word in range(ANSWER_WORDS))
        turns = tuple(
            Turn(text=f"{turn} {words}", finish="stop", prompt_tokens=60, completion_tokens=ANSWER_WORDS)
            for turn in (1, 2)
        )
        yield _record("mt-bench", at, CATEGORIES, TextReply(turns=turns), {})


def judgments(records: list[Record], *, shift: float, seed: int) -> Iterator[Judgment]:
    """Yield ratings: a common draw for each turn, moved by `shift` and by noise of each judgment."""
    common, own = np.random.default_rng(1), np.random.default_rng(seed)
    level = common.integers(4, 9, (len(records), 2)).astype(float)
    scores = np.clip(level[:, :, None] + shift + own.normal(0.0, 0.7, (len(records), 2, JUDGMENTS)), 1.0, 10.0)
    for record, rows in zip(records, scores.tolist(), strict=True):
        texts = [turn.text for turn in record.reply.turns] if isinstance(record.reply, TextReply) else []
        for turn, repeats in enumerate(rows, start=1):
            for repeat, score in enumerate(repeats):
                yield Judgment(
                    key=text_digest(f"{record.key} {turn} {repeat} {seed}"),
                    task=record.task,
                    subject=record.subject,
                    item_sha256=record.item_sha256,
                    occurrence=record.occurrence,
                    sample=record.sample,
                    turn=turn,
                    repeat=repeat,
                    answer_sha256=digest(texts[:turn]),
                    status="ok",
                    score=score,
                    text="A rating with a sentence or two that says why it is what it is. " * 3,
                )


def write_run(path: Path, name: str, *, seed: int, flipped: float, shift: float = 0.0, items: int = ITEMS) -> None:
    """Write one run with MMLU records, MT-Bench records and judgments."""
    manifest = Manifest(
        evalkit=__version__,
        engine=engine(name),
        tasks={"mmlu": choice_task(items), "mt-bench": chat_task(QUESTIONS)},
        judges={"mt-bench": judge(QUESTIONS)},
        requested={"engine": {"name": path.name}},
        created_at="2026-01-01T00:00:00+00:00",
    )
    with RunFolder.create_or_resume(path, manifest) as folder:
        folder.append_records("mmlu", list(choice_records(items, right=0.86, flipped=flipped, seed=seed)))
        answers = list(chat_records(path.name, QUESTIONS))
        folder.append_records("mt-bench", answers)
        folder.append_judgments("mt-bench", list(judgments(answers, shift=shift, seed=seed)))
        for task in manifest.tasks:
            folder.finish(task)
        folder.finish_judgments("mt-bench")


def _place(task: str, at: int, subjects: int) -> dict[str, str]:
    subject, sha256 = f"subject-{at % subjects:02d}", text_digest(f"{task} item {at}")
    return {"subject": subject, "item_sha256": sha256, "key": f"{task}/{subject}/{sha256}/0"}


def _record(task: str, at: int, subjects: int, reply: ChoiceReply | TextReply, marks: dict[str, float]) -> Record:
    place = _place(task, at, subjects)
    return Record(
        task=task,
        subject=place["subject"],
        item_sha256=place["item_sha256"],
        occurrence=0,
        prompt_sha256=text_digest(f"{task} prompt {at}"),
        target_sha256=text_digest(f"{task} target {at}"),
        status="ok",
        reply=reply,
        marks=marks,
    )
