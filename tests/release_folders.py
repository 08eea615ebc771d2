"""A decided release on the disk: run folders with items and texts, a certificate, its reports.

Tests import it by its name: pytest has this folder on its path. It needs `synthetic_runs`, which it imports likewise.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from evalkit import cli
from evalkit.policy import ResolvedPolicy, bind, load_policy
from evalkit.records import Item, content_digest, digest, text_digest
from evalkit.store import RunFolder


def synthetic() -> ModuleType:
    """Load the factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What people read: every place that text from outside can reach."""

    subject: Callable[[str], str] = lambda name: name
    context: Callable[[int], str] = lambda at: f"Worked example.\n\nQuestion {at}: which word is right?\nAnswer:"
    choice: Callable[[int], str] = lambda at: f" {('amber', 'birch', 'cedar', 'delta')[at]}"
    question: Callable[[int, int], str] = lambda at, turn: f"Question {at}, turn {turn + 1}."
    answer: Callable[[str], str] = lambda text: text
    judged: str = "Clear and correct."
    model: str = "small-model"


@dataclass(frozen=True, kw_only=True)
class Release:
    """Folders of one release.

    Attributes:
        folder: where certificate, reports and run folders lie.
        policy: bound to its runs.
        policy_file: the same as a file.
        candidates: name to (losses, gains) on the items.
    """

    folder: Path
    policy: ResolvedPolicy
    policy_file: Path
    candidates: Mapping[str, tuple[int, int]]

    def certify(self) -> int:
        """Decide through the program; return its exit code."""
        argv = ["certify", "--policy", str(self.policy_file), "--output", str(self.folder)]
        argv += ["--baseline", str(self.folder / "official"), "--rerun", str(self.folder / "official-rerun")]
        argv += ["--control", str(self.folder / "broken"), "--quiet"]
        for name in self.candidates:
            argv += ["--candidate", str(self.folder / name)]
        return cli.main(argv)


def make_release(
    folder: Path,
    *,
    items: int = 600,
    subjects: int = 6,
    questions: int = 8,
    candidates: Mapping[str, tuple[int, int]] | None = None,
    texts: Texts | None = None,
    policy_changes: Mapping[str, Any] | None = None,
    policy_document: Mapping[str, Any] | None = None,
) -> Release:
    """Write runs of a baseline, its rerun, a broken control and candidates, all of them with items.

    Args:
        folder: where everything goes.
        items: right-or-wrong items.
        subjects: of the items.
        questions: judged conversations of two turns, three judgments of each.
        candidates: name to (losses, gains); by default one that is equal and one that lost much.
        texts: what people read.
        policy_changes: endpoint to changed keys.
        policy_document: a whole policy in place of the demonstration's.
    """
    made, said = synthetic(), texts or Texts()
    asked = dict(candidates or {"equal": (4, 5), "worse": (70, 10)})
    file = _policy_file(folder, policy_changes or {}, policy_document)
    policy = bind(load_policy(str(file)), "official", sorted(asked), ["broken"])
    rng = np.random.default_rng(7)
    marks = (rng.random(items) < 0.7).astype(float)
    scores = rng.integers(4, 8, size=(questions, 2, 3)).astype(float)

    rows = _items(items, subjects, questions, said, made)

    def write(name: str, flips: tuple[int, int], shift: float, seed: int, bound: str | None, recipe: str) -> None:
        moved = np.clip(scores + shift + (seed > 1) * rng.choice([-1, 0, 0, 1], size=scores.shape), 1, 10)
        run = made.make_run(
            name,
            marks=_flipped(marks, *flips, seed=seed),
            scores=moved,
            seed=seed,
            policy_sha256=bound,
            recipe=recipe,
        )
        _write(folder / name, _of_items(_with_texts(run, said, rows, made), rows), rows)

    write("official", (0, 0), 0.0, 1, None, "official-fp8")
    write("official-rerun", (1, 1), 0.0, 2, None, "official-fp8")
    write("broken", (items // 4, items // 60), -2.5, 3, policy.sha256, "broken")
    for at, (name, flips) in enumerate(asked.items()):
        write(name, flips, -0.05, 10 + at, policy.sha256, name)
    return Release(folder=folder, policy=policy, policy_file=file, candidates=asked)


def _policy_file(folder: Path, changes: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> Path:
    document = deepcopy(dict(whole)) if whole is not None else load_policy("demo").model_dump(mode="json")
    if whole is None:
        document["endpoints"]["mmlu"] |= {"task": "mmlu", "metric": "acc", "protocol": "ll-5shot"}
        document["endpoints"]["mt_bench"] |= {"task": "mt-bench", "protocol": "mt-bench-greedy"}
    for name, change in changes.items():
        document["endpoints"][name] |= change
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in document.items() if key != "release"}), "utf-8")
    return file


def _flipped(marks: np.ndarray, losses: int, gains: int, *, seed: int) -> np.ndarray:
    rng, moved = np.random.default_rng(seed), marks.copy()
    moved[rng.permutation(np.flatnonzero(marks == 1.0))[:losses]] = 0.0
    moved[rng.permutation(np.flatnonzero(marks == 0.0))[:gains]] = 1.0
    return moved


def _items(n: int, subjects: int, questions: int, texts: Texts, made: ModuleType) -> dict[str, list[Item]]:
    rows = {made.MMLU: [], made.MT_BENCH: []}
    asked: dict[str, int] = {}
    for at in range(n):
        subject, *_ = made.item(made.MMLU, at, made.SUBJECTS)
        context, options = texts.context(at), tuple(texts.choice(k) for k in range(4))
        doc = {"number": at, "answer": at % 4}
        rows[made.MMLU].append(
            Item(
                task=made.MMLU,
                subject=texts.subject(_place(subject, subjects)),
                item_sha256=content_digest(doc),
                occurrence=0,
                prompt_sha256=digest([[context] * 4, list(options), None]),
                target_sha256=text_digest(str(at % 4)),
                doc=doc,
                context=context,
                continuations=options,
                target=at % 4,
                details={"target": str(at % 4), "lengths": [len(text) - 1 for text in options]},
            )
        )
    for at in range(questions):
        subject, *_ = made.item(made.MT_BENCH, at, 8)
        turns = [texts.question(at, turn) for turn in range(2)]
        key = texts.subject(subject) + digest(turns)
        asked[key] = asked.get(key, -1) + 1
        rows[made.MT_BENCH].append(
            Item(
                task=made.MT_BENCH,
                subject=texts.subject(subject),
                item_sha256=content_digest({"turns": turns}),
                occurrence=asked[key],
                prompt_sha256=digest(turns),
                target_sha256=digest(None),
                doc={"number": at},
                turns=tuple(turns),
            )
        )
    return rows


def _place(subject: str, subjects: int) -> str:
    return f"subject-{int(subject.rpartition('-')[2]) % subjects:02d}"


def _with_texts(run: Any, texts: Texts, rows: Mapping[str, list[Item]], made: ModuleType) -> Any:
    """The run, of exactly these items and in these words; records come in the order of their items."""
    records, judgments, of = {}, {}, {}
    for task, found in run.records.items():
        pairs = list(zip(found, rows[task], strict=True))
        of[task] = {record.item_sha256: item for record, item in pairs}
        records[task] = tuple(_of_item(record, item, texts, made) for record, item in pairs)
    answers = {record.key.rpartition("/")[0]: record for record in records.get(made.MT_BENCH, ())}
    for task, found in run.judgments.items():
        items = [of[task][judgment.item_sha256] for judgment in found]
        judgments[task] = tuple(
            replace(
                judgment,
                subject=item.subject,
                item_sha256=item.item_sha256,
                occurrence=item.occurrence,
                text=texts.judged,
                answer_sha256=digest([turn.text for turn in answers[item.key].reply.turns][: judgment.turn]),
            )
            for judgment, item in zip(found, items, strict=True)
        )
    engine = replace(run.manifest.engine, model=texts.model)
    return replace(run, manifest=replace(run.manifest, engine=engine), records=records, judgments=judgments)


def _of_item(record: Any, item: Item, texts: Texts, made: ModuleType) -> Any:
    reply = record.reply
    if record.task == made.MT_BENCH:
        reply = replace(reply, turns=tuple(replace(turn, text=texts.answer(turn.text)) for turn in reply.turns))
    elif reply is not None:
        reply = replace(reply, lengths=tuple(item.details["lengths"]), target=item.target)
    return replace(
        record,
        subject=item.subject,
        item_sha256=item.item_sha256,
        occurrence=item.occurrence,
        prompt_sha256=item.prompt_sha256,
        target_sha256=item.target_sha256,
        reply=reply,
    )


def _of_items(run: Any, rows: Mapping[str, list[Item]]) -> Any:
    """The run, planned for exactly these items."""
    tasks = {
        name: replace(
            task,
            item_set_sha256=digest(sorted(item.key for item in rows[name])),
            prompts_sha256=digest(sorted([item.key, item.prompt_sha256] for item in rows[name])),
        )
        for name, task in run.manifest.tasks.items()
    }
    return replace(run, manifest=replace(run.manifest, tasks=tasks))


def _write(path: Path, run: Any, items: Mapping[str, list[Item]]) -> None:
    with RunFolder.create_or_resume(path, run.manifest) as folder:
        for task, records in run.records.items():
            folder.write_items(task, items[task])
            folder.append_records(task, sorted(records, key=lambda record: record.key))
            folder.finish(task)
        for task, judged in run.judgments.items():
            folder.append_judgments(task, judged)
            folder.finish_judgments(task)
