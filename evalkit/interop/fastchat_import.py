"""A FastChat folder read as a run: answers, ratings, games against another run.

In: FastChat's `data/mt_bench`, the name of a model. Out: a manifest, items, records and judgments; and a run folder.
May not know: which run is the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from evalkit import __version__
from evalkit.errors import DataError, UsageError
from evalkit.interop.fastchat_answers import Answers, read_answers, read_items
from evalkit.interop.fastchat_judgments import Judged, read_pairs, read_single
from evalkit.interop.fastchat_rows import FastChatFiles, find_fastchat, read_rows
from evalkit.interop.lm_eval_identity import UNKNOWN
from evalkit.records import EngineIdentity, Fidelity, Item, Judgment, Manifest, Record, TaskRun, digest, judging_name
from evalkit.store import Run, RunFolder, judgment_key

TASK = "mt-bench"
PROTOCOL = "mt-bench-fastchat"


@dataclass(frozen=True, kw_only=True)
class FastChatImport:
    """A run of FastChat.

    Attributes:
        manifest: what evalkit's own run folders say of themselves.
        task: name of the only task.
        items: in the order of the question file.
        records: answers.
        judgments: judging name to judgments.
        notes: what a reader of a comparison must know, one sentence each.
    """

    manifest: Manifest
    task: str
    items: tuple[Item, ...]
    records: tuple[Record, ...]
    judgments: Mapping[str, tuple[Judgment, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user decides about a folder that holds more than one run.

    Attributes:
        model: whose answers; None for the only ones.
        judge: whose judgments; None for the only ones.
        against: run, imported before, whose model the games were played against; None to read no games.
        questions: file of questions in place of the folder's.
        duplicates: "first" or "last" of rows that contradict each other; None refuses them.
        task: name of the task.
        recipe: how the model was quantized; FastChat cannot say.
        fidelity: kind of engine, as the user declares it.
    """

    model: str | None = None
    judge: str | None = None
    against: Run | None = None
    questions: Path | None = None
    duplicates: str | None = None
    task: str = TASK
    recipe: str = UNKNOWN
    fidelity: Fidelity = "engine"


def import_fastchat(folder: Path, choices: Choices) -> FastChatImport:
    """Read one model's run.

    Raises:
        UsageError: a model, judge or question file must be named, or is not there.
        DataError: rows contradict each other, or are not FastChat's.
        StoreError: a file cannot be read.
    """
    files = find_fastchat(folder, choices.questions)
    items = read_items(files, choices.task)
    answers = read_answers(files, choices.model, items, choices.duplicates)
    found: dict[str, Judged] = {}
    rated = read_single(files.single, answers, choices.judge, choices.duplicates)
    if rated is not None:
        found[judging_name(choices.task)] = rated
    if choices.against is not None:
        found |= _pairs(files, answers, choices, choices.against)
    notes = list(answers.notes)
    if not found:
        told = "games against other models, which --against RUN imports" if _played(files, answers.model) else "none"
        notes.append(
            f"no rating of the answers is in the folder ({told}); next step: evalkit judge RUN, which rates them"
        )
    return FastChatImport(
        manifest=_manifest(files, answers, found, choices),
        task=choices.task,
        items=tuple(items.values()),
        records=answers.records,
        judgments={name: judged.judgments for name, judged in found.items()},
        notes=(*notes, *(note for judged in found.values() for note in judged.notes)),
    )


def _played(files: FastChatFiles, model: str) -> bool:
    rows = (row for file in files.pair for row in read_rows(file))
    return any(model in (row.data.get("model_1"), row.data.get("model_2")) for row in rows)


def _pairs(files: FastChatFiles, answers: Answers, choices: Choices, against: Run) -> dict[str, Judged]:
    if choices.task not in against.manifest.tasks:
        raise UsageError(
            f"{against.path}: task '{choices.task}' is not in this run; next step: name its task with --task"
        )
    name = against.manifest.engine.model
    opponent = (against.manifest.engine, against.records[choices.task], name)
    judged = read_pairs(files.pair, answers, opponent, choices.judge, choices.duplicates)
    if judged is None:
        raise DataError(
            f"{files.root}: no games of '{answers.model}' against '{name}', the model of {against.path}; "
            "next step: leave out --against, or name an imported run of a model that it played"
        )
    return {judging_name(choices.task, judged.run.profile): judged}


def write_fastchat_import(imported: FastChatImport, path: Path) -> None:
    """Write a run folder that `evalkit compare` and `certify` read.

    Raises:
        IdentityMismatchError: the folder holds another run.
        StoreError: the folder cannot be written.
    """
    task = imported.task
    with RunFolder.create_or_resume(path, imported.manifest) as folder:
        folder.write_items(task, imported.items)
        done = folder.done_keys(task)
        folder.append_records(task, [record for record in imported.records if record.key not in done])
        folder.finish(task)
        for name, judgments in imported.judgments.items():
            known = {judgment_key(judgment) for judgment in folder.judgments(name)}
            folder.append_judgments(name, [found for found in judgments if judgment_key(found) not in known])
            folder.finish_judgments(name)


def _manifest(files: FastChatFiles, answers: Answers, found: Mapping[str, Judged], choices: Choices) -> Manifest:
    _, file = files.answers_of(answers.model)
    keys = sorted(item.key for item in answers.items.values())
    prompts = digest(sorted([item.key, item.prompt_sha256] for item in answers.items.values()))
    questions = digest({str(number): list(item.turns) for number, item in answers.items.items()})
    return Manifest(
        evalkit=__version__,
        engine=_identity(answers.model, choices),
        tasks={
            choices.task: TaskRun(
                definition_sha256=digest(["fastchat", prompts]),
                kind="conversation",
                protocol=PROTOCOL,
                shots=0,
                metric="rating",
                chance=None,
                higher_is_better={"rating": True},
                planned=len(answers.items),
                item_set_sha256=digest(keys),
                prompts_sha256=prompts,
                dataset={"asset": "fastchat", "sha256": questions},
                settings={"generations": 1, "tokens": UNKNOWN, "decoding": UNKNOWN},
            )
        },
        judges={name: judged.run for name, judged in found.items()},
        requested={
            "imported": {
                "format": "fastchat",
                "files": files.digests(file, *files.single, *files.pair),
                "duplicates": choices.duplicates,
            }
        },
        created_at=_created_at(file),
    )


def _identity(model: str, choices: Choices) -> EngineIdentity:
    return EngineIdentity(
        adapter="fastchat",
        model=model,
        weights_sha256=UNKNOWN,
        recipe=choices.recipe,
        recipe_sha256=None,
        fidelity=choices.fidelity,
        quantization={"declared": {"recipe": choices.recipe, "fidelity": choices.fidelity}},
        dtype=UNKNOWN,
        tokenizer_sha256=UNKNOWN,
        chat_template_sha256=None,
        versions={},
        device=UNKNOWN,
        options={
            "unknown": ["weights", "tokenizer", "chat template", "decoding", "token counts", "why an answer ended"]
        },
    )


def _created_at(file: Path) -> str:
    """Return the time of the first answer; a file without times has the beginning of time."""
    stamps = [row.data.get("tstamp") for row in read_rows(file)]
    known = [stamp for stamp in stamps if isinstance(stamp, (int, float)) and not isinstance(stamp, bool)]
    return datetime.fromtimestamp(min(known, default=0.0), timezone.utc).isoformat(timespec="seconds")
