"""Runs made of numbers: outcomes and scores become records, judgments and manifests, without files or models.

Load it from a conftest.py with `importlib.util.spec_from_file_location`; tests do not import one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.policy import ResolvedPolicy, bind, load_policy
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

MMLU, MT_BENCH = "mmlu", "mt-bench"
ITEMS, SUBJECTS, QUESTIONS = 14_042, 57, 80
TIGHT = (0.02, 0.06, 0.17, 0.50, 0.17, 0.06, 0.02)
"""Probabilities of a turn's difference from -3 to 3."""


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    """A run without a folder."""

    manifest: Manifest
    records: dict[str, tuple[Record, ...]] = field(default_factory=dict)
    judgments: dict[str, tuple[Judgment, ...]] = field(default_factory=dict)


def policy(name: str = "release", recipes: Sequence[str] = ("candidate",), **endpoint_changes: Any) -> ResolvedPolicy:
    """A library policy bound to `baseline`, `recipes`, control `broken`; changes are {endpoint: {key: value}}."""
    loaded = load_policy(name)
    endpoints = {
        key: endpoint.model_copy(update=endpoint_changes.get(key, {})) for key, endpoint in loaded.endpoints.items()
    }
    return bind(loaded.model_copy(update={"endpoints": endpoints}), "baseline", recipes, ["broken"])


def identity(recipe: str = "official-fp8", **changes: Any) -> EngineIdentity:
    made = EngineIdentity(
        adapter="modelopt",
        model="model",
        weights_sha256=text_digest("weights"),
        recipe=recipe,
        recipe_sha256=text_digest(recipe),
        fidelity="simulated",
        quantization={"algorithm": recipe},
        dtype="bfloat16",
        tokenizer_sha256=text_digest("tokenizer"),
        chat_template_sha256=text_digest("template"),
        versions={"torch": "2.13", "transformers": "5.14"},
        device="gpu",
        options={"scoring": "plain", "max_length": 8192},
    )
    return replace(made, **changes)


@cache
def item(task: str, at: int, subjects: int) -> tuple[str, str, str, str]:
    """Subject, content digest, prompt digest, target digest of item `at`."""
    return (
        f"subject-{at % subjects:02d}",
        text_digest(f"{task} item {at}"),
        text_digest(f"{task} prompt {at}"),
        text_digest(f"{task} target {at}"),
    )


def task_run(task: str, n: int, subjects: int, **changes: Any) -> TaskRun:
    keys = sorted(f"{task}/{item(task, at, subjects)[0]}/{item(task, at, subjects)[1]}/0" for at in range(n))
    made = TaskRun(
        definition_sha256=text_digest(task),
        kind="choice",
        protocol="ll-5shot",
        shots=5,
        metric="acc",
        chance=0.25,
        planned=n,
        item_set_sha256=digest(keys),
        prompts_sha256=text_digest(f"{task} prompts {n}"),
        dataset={"asset": "mmlu", "sha256": text_digest("data")},
        settings={},
    )
    return replace(made, **changes)


def manifest(name: str, recipe: str, policy_sha256: str | None, **changes: Any) -> Manifest:
    made = Manifest(
        evalkit="1.0",
        engine=identity(recipe),
        tasks={},
        requested={"engine": {"name": name}},
        policy_sha256=policy_sha256,
        created_at="2026-01-01T00:00:00+00:00",
    )
    return replace(made, **changes)


def choice_records(task: str, marks: np.ndarray, seed: int, subjects: int = SUBJECTS) -> tuple[Record, ...]:
    """Records whose four log-probabilities prefer the right choice exactly where `marks` is 1; NaN is a failure."""
    rng = np.random.default_rng(seed)
    base = np.sort(rng.normal(-3.0, 1.0, size=(marks.size, 4)), axis=1)
    records = []
    for at, (mark, scores) in enumerate(zip(marks.tolist(), base.tolist(), strict=True)):
        subject, sha, prompt, target = item(task, at, subjects)
        right = at % 4
        order = scores[:3]
        order.insert(right, scores[3])
        if mark == 0.0:
            wrong = (right + 1) % 4
            order[right], order[wrong] = order[wrong], order[right]
        ok = not np.isnan(mark)
        records.append(
            Record(
                task=task,
                subject=subject,
                item_sha256=sha,
                occurrence=0,
                prompt_sha256=prompt,
                target_sha256=target,
                status="ok" if ok else "failed",
                failure=None if ok else "transport: no reply",
                reply=ChoiceReply(logprobs=tuple(order), greedy=(False,) * 4, target=right, lengths=(1,) * 4)
                if ok
                else None,
                marks={"acc": mark} if ok else {},
            )
        )
    return tuple(records)


def chat_records(
    task: str, who: str, n: int, turns: int = 2, tokens: int = 100, subjects: int = 8
) -> tuple[Record, ...]:
    """Answers that differ from run to run."""
    records = []
    for at in range(n):
        subject, sha, prompt, target = item(task, at, subjects)
        reply = TextReply(
            turns=tuple(
                Turn(text=f"{who} answers {at}.{turn}", finish="stop", prompt_tokens=10, completion_tokens=tokens)
                for turn in range(turns)
            )
        )
        records.append(
            Record(
                task=task,
                subject=subject,
                item_sha256=sha,
                occurrence=0,
                prompt_sha256=prompt,
                target_sha256=target,
                status="ok",
                reply=reply,
            )
        )
    return tuple(records)


def judgments(records: Sequence[Record], scores: np.ndarray) -> tuple[Judgment, ...]:
    """Judgments of shape (questions, turns, repeats); NaN is a judgment that could not be read."""
    made = []
    for record, rows in zip(records, scores.tolist(), strict=True):
        texts = [turn.text for turn in record.reply.turns] if isinstance(record.reply, TextReply) else []
        for turn, repeats in enumerate(rows, start=1):
            for repeat, score in enumerate(repeats):
                ok = not np.isnan(score)
                made.append(
                    Judgment(
                        key=text_digest(f"{record.key} {turn} {repeat}"),
                        task=record.task,
                        subject=record.subject,
                        item_sha256=record.item_sha256,
                        occurrence=record.occurrence,
                        sample=record.sample,
                        turn=turn,
                        repeat=repeat,
                        answer_sha256=digest(texts[:turn]),
                        status="ok" if ok else "unparsed",
                        score=score if ok else None,
                        text="",
                    )
                )
    return tuple(made)


def judge_run(planned: int, repeats: int) -> JudgeRun:
    return JudgeRun(
        profile="rating",
        profile_sha256=text_digest("profile"),
        references_sha256=None,
        identity=identity("none", model="judge"),
        repeats=repeats,
        planned=planned,
        scale=(1.0, 10.0),
    )


def make_run(
    name: str = "candidate",
    *,
    marks: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    planned: int | None = None,
    seed: int = 0,
    policy_sha256: str | None = None,
    recipe: str | None = None,
    tokens: int = 100,
) -> MadeRun:
    """A run with MMLU outcomes (n,) and MT-Bench scores (questions, turns, repeats)."""
    tasks, judges, records, judged = {}, {}, {}, {}
    if marks is not None:
        tasks[MMLU] = task_run(MMLU, planned or marks.size, SUBJECTS)
        records[MMLU] = choice_records(MMLU, marks, seed)
    if scores is not None:
        questions, turns, repeats = scores.shape
        chat = {"kind": "conversation", "protocol": "mt-bench-greedy", "shots": 0, "metric": "rating", "chance": None}
        tasks[MT_BENCH] = task_run(MT_BENCH, questions, 8, **chat, settings={"generations": 1})
        records[MT_BENCH] = chat_records(MT_BENCH, name, questions, turns, tokens)
        judges[MT_BENCH] = judge_run(questions * turns * repeats, repeats)
        judged[MT_BENCH] = judgments(records[MT_BENCH], scores)
    made = manifest(name, recipe or name, policy_sha256, tasks=tasks, judges=judges)
    return MadeRun(manifest=made, records=records, judgments=judged)


def outcomes(
    n: int, *, rho: float, difference: float, seed: int, accuracy: float = 0.86
) -> tuple[np.ndarray, np.ndarray]:
    """Paired outcomes with exactly the rounded expected numbers of losses and gains, at random places."""
    losses, gains = round(n * (rho - difference) / 2), round(n * (rho + difference) / 2)
    both = round(n * accuracy) - losses
    pairs = np.repeat(
        [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)], [losses, gains, both, n - losses - gains - both], axis=0
    )
    np.random.default_rng(seed).shuffle(pairs)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def chat_scores(questions: int, *, shift: float, seed: int, repeats: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and candidate scores (questions, 2, repeats) whose mean difference is exactly `shift`."""
    rng = np.random.default_rng(seed)
    base = rng.integers(4, 8, size=(questions, 2, repeats)).astype(float)
    moved = rng.choice(np.arange(-3, 4), p=TIGHT, size=base.shape).astype(float)
    moved += shift - moved.mean()
    return base, np.clip(base + moved, 1.0, 10.0)


def write_run(path: Path, made: MadeRun) -> Path:
    """Write a run as a finished run folder; return the folder."""
    with RunFolder.create_or_resume(path, made.manifest) as folder:
        for task, records in made.records.items():
            folder.append_records(task, records)
            folder.finish(task)
        for task, judged in made.judgments.items():
            folder.append_judgments(task, judged)
            folder.finish_judgments(task)
    return path
