"""A run of NeMo Evaluator read as a run.

In: a folder with its `results.jsonl`, and its `eval-*.json` where there is one. Out: an `Imported` run.
Must not depend on: which run is the baseline.

Items are paired by what was asked and what is right, never by `problem_idx`. Of several repeats one is taken, because
the paired test is of single answers; the others are counted. What the files do not say is "unknown".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.errors import DataError, StoreError, UsageError
from evalkit.interop import foreign_files
from evalkit.interop.foreign_files import parse_object, read_text
from evalkit.interop.lm_eval_import import Imported
from evalkit.interop.row_rules import other_marks, unequal_marks_of_equal_answers, unreadable
from evalkit.records.canonical import canonical_json, content_digest, digest, is_finite, text_digest
from evalkit.records.manifest import EngineIdentity, Fidelity, Manifest, TaskRun
from evalkit.records.record import Item, Record, TextReply, Turn
from evalkit.redaction import redacted

# One row of NeMo Evaluator's `results.jsonl`, read strictly.
#
# Its own reader skips a line it cannot read; here that is an error, because a skipped line is a missing item. A row
# whose `scoring_details.error_category` is set carries reward 0.0 although nothing was answered: it is missing, not
# wrong.


STEP = "next step: give the rows as NeMo Evaluator wrote them, or take this row out"
"""What helps where a row is not its."""

MODELS_OWN = ("context_window_exceeded", "budget_exceeded", "turn_budget_exhausted")
"""Error categories that can be the model's own doing; they are missing like the others, and told apart."""


@dataclass(frozen=True, kw_only=True)
class NelRow:
    """One problem, asked once.

    Attributes:
        where: file and line.
        problem, repeat: its place in the run.
        prompt: what was asked, as text.
        expected: what counts as right, as text.
        response: the answer; "" for none.
        extracted: what the scorer took from it; None where it does not say.
        rewards: the reward under "reward", and those of single scorers.
        category: of the problem; "" without one.
        error: error category; None for an answer that was scored.
        tokens: of the answer; 0 where it does not say.
    """

    where: str
    problem: int
    repeat: int
    prompt: str
    expected: str
    response: str
    extracted: str | None
    rewards: Mapping[str, float]
    category: str
    error: str | None
    tokens: int


def read_rows(file: Path) -> Iterator[NelRow]:
    """Yield every row of a file.

    Raises:
        DataError: a line is not JSON, lacks a field, or has a reward that is no finite number; names file and line.
        StoreError: the file cannot be read.
    """
    for where, row in foreign_files.read_rows(file):
        try:
            yield _row(where, row)
        except DataError as error:
            raise DataError(f"{where}: {error}; {STEP}") from error


def _row(where: str, row: Mapping[str, Any]) -> NelRow:
    details = row.get("scoring_details")
    category = details.get("error_category") if isinstance(details, Mapping) else None
    rewards = {} if category else {"reward": _number(row, "reward"), **_scorers(row)}
    metadata = row.get("metadata")
    kind = metadata.get("category") if isinstance(metadata, Mapping) else None
    return NelRow(
        where=where,
        problem=_index(row, "problem_idx"),
        repeat=_index(row, "repeat"),
        prompt=_text(row, "prompt"),
        expected=_text(row, "expected_answer"),
        response=_text(row, "model_response") if row.get("model_response") is not None else "",
        extracted=None if row.get("extracted_answer") is None else _text(row, "extracted_answer"),
        rewards=rewards,
        category=str(kind or ""),
        error=str(category) if category else None,
        tokens=_tokens(row.get("tokens")),
    )


def _scorers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return rewards of single scorers; resumed rows have none."""
    found = row.get("scorer_rewards")
    if not isinstance(found, Mapping):
        return {}
    return {f"scorer/{name}": _number(found, name) for name in found}


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise DataError(f"'{name}' must be a finite number, not {value!r}")
    return float(value)


def _index(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name, 0 if name == "repeat" else None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"'{name}' must be a whole number from 0 on, not {value!r}")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise DataError(f"lacks '{name}'")
    value = row[name]
    return value if isinstance(value, str) else canonical_json(value)


def _tokens(value: Any) -> int:
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("completion_tokens", "output_tokens", "completion") if key in value), 0)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


RESULTS = "results.jsonl"
UNKNOWN = "unknown"

_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def import_nel(
    source: Path,
    *,
    model: str = UNKNOWN,
    recipe: str = UNKNOWN,
    fidelity: Fidelity = "engine",
    metric: str | None = None,
    repeat: int = 0,
) -> Imported:
    """Read one run of NeMo Evaluator.

    Args:
        source: the folder with `results.jsonl`, or that file.
        model: who answered, as the user declares it; the rows do not say.
        recipe, fidelity: declared by the user.
        metric: mark that decides; None for "reward".
        repeat: which of several answers to a problem counts.

    Raises:
        UsageError: no results here, or an unknown metric.
        DataError: a row cannot be read, two rows are of one answer, or the files contradict each other.
        StoreError: a file cannot be read.
    """
    file = source if source.is_file() else source / RESULTS
    if not file.is_file():
        raise UsageError(f"{source}: no {RESULTS} here; next step: name the folder of one benchmark's run")
    rows = _ordered(list(read_rows(file)))
    if not rows:
        raise DataError(f"{file}: no row in it; {STEP}")
    bundle = _bundle(file.parent)
    chosen = [row for row in rows if row.repeat == repeat]
    if not chosen:
        raise UsageError(
            f"{file}: no row of repeat {repeat}; it has {sorted({row.repeat for row in rows})}; next step: --repeat"
        )
    told: list[str] = []
    deciding = _metric(file, chosen, metric, told)
    task = _NAME.sub("-", str(_benchmark(bundle).get("name") or file.parent.name)).strip("-") or "nel"
    pairs = _pairs(task, chosen, deciding)
    asked = _task_run(file, task, [item for item, _ in pairs], deciding, bundle, rows)
    missing = asked.planned - len(pairs)
    return Imported(
        manifest=Manifest(
            evalkit=__version__,
            engine=_identity(bundle, model, recipe, fidelity),
            tasks={task: asked},
            requested={
                "imported": {"format": "nel", "repeat": repeat, RESULTS: hashlib.sha256(_bytes(file)).hexdigest()}
            },
            created_at=_created_at(file, bundle),
        ),
        items={task: tuple(item for item, _ in pairs)},
        records={task: tuple(record for _, record in pairs)},
        missing={task: missing},
        notes=(
            *_notes(rows, chosen, bundle, missing),
            *told,
            *unequal_marks_of_equal_answers(task, pairs, deciding),
        ),
    )


def _ordered(rows: Sequence[NelRow]) -> list[NelRow]:
    seen: dict[tuple[int, int], NelRow] = {}
    for row in rows:
        before = seen.setdefault((row.problem, row.repeat), row)
        if before is not row:
            raise DataError(
                f"{row.where}: problem {row.problem}, repeat {row.repeat} is on {before.where} already; {STEP}"
            )
    return [seen[place] for place in sorted(seen)]


def _pairs(task: str, rows: Sequence[NelRow], metric: str) -> list[tuple[Item, Record]]:
    """Return item and record of each row; equal problems are numbered in the order of their places."""
    counts: dict[tuple[str, str], int] = {}
    pairs = []
    for row in rows:
        subject = row.category or task
        content = content_digest({"prompt": row.prompt, "expected": row.expected})
        occurrence = counts.get((subject, content), 0)
        counts[subject, content] = occurrence + 1
        item = Item(
            task=task,
            subject=subject,
            item_sha256=content,
            occurrence=occurrence,
            prompt_sha256=text_digest(row.prompt),
            target_sha256=text_digest(row.expected),
            doc={"prompt": row.prompt, "expected_answer": row.expected, "problem_idx": row.problem},
            context=row.prompt,
            details={"target": row.expected},
        )
        pairs.append((item, _record(item, row, metric)))
    return pairs


def _record(item: Item, row: NelRow, metric: str) -> Record:
    failure = f"{row.error}: the row says so; its reward is no score" if row.error else None
    turn = Turn(text=row.response, finish="stop", prompt_tokens=0, completion_tokens=row.tokens)
    return Record(
        task=item.task,
        subject=item.subject,
        item_sha256=item.item_sha256,
        occurrence=item.occurrence,
        prompt_sha256=item.prompt_sha256,
        target_sha256=item.target_sha256,
        status="failed" if failure else "ok",
        failure=failure,
        reply=None if failure else TextReply(turns=(turn,)),
        marks={} if failure else dict(row.rewards),
        invalid=None if failure else unreadable(TextReply(turns=(turn,)), row.rewards.get(metric, 0.0)),
    )


def _metric(file: Path, rows: Sequence[NelRow], asked: str | None, told: list[str]) -> str:
    scored = [row for row in rows if row.error is None]
    if not scored:
        raise DataError(
            f"{file}: every row has an error category, so nothing was scored; next step: run again what failed"
        )
    offered = sorted(set.intersection(*(set(row.rewards) for row in scored)))
    if asked is not None and asked not in offered:
        raise UsageError(
            f"{file}: not every row has the mark '{asked}'; all have {', '.join(offered)}; next step: name one of these"
        )
    chosen = asked or "reward"
    values = {name: [row.rewards[name] for row in scored] for name in offered}
    found = other_marks(file.parent.name, chosen, values, asked=asked is not None)
    if found is not None and found[1]:
        raise UsageError(found[1])
    told += [found[0]] if found is not None else []
    return chosen


def _task_run(
    file: Path, task: str, items: Sequence[Item], metric: str, bundle: Mapping[str, Any], rows: Sequence[NelRow]
) -> TaskRun:
    told = _benchmark(bundle)
    planned = told.get("samples")
    distinct = len({row.problem for row in rows})
    if planned is not None and (isinstance(planned, bool) or not isinstance(planned, int) or planned < distinct):
        raise DataError(
            f"{file.parent}: the run counts {planned!r} samples, and {RESULTS} has {distinct} problems; "
            "next step: give the files of one and the same run"
        )
    return TaskRun(
        definition_sha256=digest(["nel", task, metric]),
        kind="text",
        protocol=f"nel-{task}",
        shots=0,
        metric=metric,
        chance=None,
        higher_is_better={"reward": True},
        planned=planned if planned is not None else distinct,
        item_set_sha256=digest(sorted(item.key for item in items)),
        prompts_sha256=digest(sorted([item.key, item.prompt_sha256] for item in items)),
        dataset={"asset": str(told.get("name") or UNKNOWN)},
        settings={"imported": "nel"},
    )


def _identity(bundle: Mapping[str, Any], model: str, recipe: str, fidelity: Fidelity) -> EngineIdentity:
    return EngineIdentity(
        adapter="nel",
        model=model,
        weights_sha256=UNKNOWN,
        recipe=recipe,
        recipe_sha256=None,
        fidelity=fidelity,
        quantization={
            "declared": {"recipe": recipe, "fidelity": fidelity},
            "config": redacted(bundle.get("config") or {}),
            "config_hash": bundle.get("config_hash"),
        },
        dtype=UNKNOWN,
        tokenizer_sha256=UNKNOWN,
        chat_template_sha256=None,
        versions={"nel": str(bundle.get("sdk_version") or UNKNOWN)},
        device=UNKNOWN,
        options={"unknown": ["weights", "tokenizer", "prompt tokens", "why an answer ended", "shots"]},
    )


def _bundle(folder: Path) -> Mapping[str, Any]:
    """Return the run's `eval-*.json` beside the rows or one folder up; empty without one."""
    for place in (folder, folder.parent):
        files = sorted(place.glob("eval-*.json"))
        if len(files) == 1:
            return parse_object(read_text(files[0]), f"{files[0]}")
        if len(files) > 1:
            raise UsageError(f"{place}: {len(files)} files eval-*.json; next step: leave the run's own there")
    return {}


def _benchmark(bundle: Mapping[str, Any]) -> Mapping[str, Any]:
    found = bundle.get("benchmark")
    return found if isinstance(found, Mapping) else {}


def _created_at(file: Path, bundle: Mapping[str, Any]) -> str:
    told = str(bundle.get("timestamp") or "")
    try:
        moment = datetime.fromisoformat(told.replace("Z", "+00:00"))
    except ValueError:
        moment = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).isoformat(timespec="seconds")


def _notes(rows: Sequence[NelRow], chosen: Sequence[NelRow], bundle: Mapping[str, Any], missing: int) -> list[str]:
    failed = [row.error for row in chosen if row.error]
    own = sum(error in MODELS_OWN for error in failed)
    notes = []
    if failed:
        notes.append(
            f"{len(failed)} rows carry an error category and are missing, not wrong, although their reward is 0"
            + (f"; {own} of them ran out of context or budget, which can be the model's own doing" if own else "")
        )
    if len(rows) > len(chosen):
        notes.append(
            f"{len(rows) - len(chosen)} answers of other repeats are left out: one answer of each problem counts"
        )
    if missing:
        notes.append(f"{missing} planned problems have no row at all")
    if not bundle:
        notes.append("no eval-*.json beside the rows: benchmark, version and configuration are unknown")
    notes.append("weights, tokenizer and recipe are not in the files; recipe and fidelity are as declared")
    return notes


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror or error}") from error
