"""A run as Every Eval Ever 0.3 stores it: one aggregate file, one row for each scored item.

In: a run folder, who publishes it. Out: `data/<collection>/<developer>/<model>/<uuid>.json` and `<uuid>_samples.jsonl`.
May not know: the other run of a comparison; this format has no place for pairs.

A failed item has no score, and this format demands one, so such items are left out and counted; nothing is ever written
as 0 for want of a number. The names follow from the run, so exporting twice writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import DataError, UsageError, suggestion
from evalkit.interop.eee_results import question_scores, result_id, result_of
from evalkit.interop.eee_samples import sample_rows
from evalkit.interop.redaction import redacted
from evalkit.records import Manifest, digest
from evalkit.store import Run, read_items, read_run
from evalkit.store.lines import write_atomic

SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"

Relationship = Literal["first_party", "third_party", "collaborative", "other"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class ExportedEee:
    """What was written.

    Attributes:
        files: the aggregate file, then the samples.
        written: task to rows.
        left_out: task to items without a score.
        notes: what a reader must know.
    """

    files: tuple[Path, ...]
    written: Mapping[str, int]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]


def export_eee(
    run: Path,
    output: Path,
    *,
    organization: str,
    relationship: Relationship = "third_party",
    collection: str = "evalkit",
    model: str | None = None,
    tasks: Sequence[str] | None = None,
) -> ExportedEee:
    """Write a run in this format.

    Args:
        run: the run folder.
        output: folder to write to; `data/...` is made in it.
        organization: who publishes the numbers.
        relationship: of the evaluator to the model's maker.
        collection: name of the collection.
        model: `developer/model`, for a run whose own name of the model lacks the developer.
        tasks: names; None for all.

    Raises:
        UsageError: an unknown task.
        DataError: nothing was scored, or the folder has no items.
        StoreError: a file cannot be written.
    """
    found = read_run(run).trusted()
    names = _chosen(found, tasks)
    model = model or model_id(found.manifest)
    if not re.fullmatch(r"[^/\s]+/[^\s]+", model):
        raise UsageError(f"a model is named developer/model here, not {model!r}")
    name = _uuid(found)
    stamp = _timestamp(found.manifest)
    evaluation = f"{collection}/{model}/{stamp}"
    rows: list[str] = []
    written: dict[str, int] = {}
    results = []
    for task in names:
        items = {item.key: item for item in read_items(run, task)}
        ids = (evaluation, model, result_id(found, task))
        made = list(sample_rows(found, task, items, question_scores(found, task), ids))
        results += [result_of(found, task)] if made else []
        rows += [json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) for row in made]
        written[task] = len(made)
    if not rows:
        raise DataError(f"{run}: no item has a score, so there is nothing to export")
    left_out = {task: _planned(found, task) - written[task] for task in names}
    folder = Path("data") / safe(collection) / safe(model.split("/")[0]) / safe(model.split("/")[-1])
    files = (output / folder / f"{name}.json", output / folder / f"{name}_samples.jsonl")
    samples = "".join(f"{row}\n" for row in rows)
    aggregate = {
        **_head(found.manifest, evaluation, stamp, organization, relationship),
        "model_info": {**model_info(found.manifest), "id": model},
        "evaluation_results": results,
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": (folder / files[1].name).as_posix(),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(samples.encode()).hexdigest(),
            "total_rows": len(rows),
            "additional_details": {f"left out of {task}": str(count) for task, count in left_out.items()},
        },
    }
    write_atomic(files[1], [samples])
    write_atomic(files[0], [json.dumps(aggregate, ensure_ascii=False, indent=2, allow_nan=False) + "\n"])
    return ExportedEee(files=files, written=written, left_out=left_out, notes=tuple(_notes(model, left_out)))


def _head(
    manifest: Manifest, evaluation: str, stamp: str, organization: str, relationship: Relationship
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation,
        "evaluation_timestamp": manifest.created_at,
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": "evalkit",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
        },
        "eval_library": {"name": "evalkit", "version": manifest.evalkit},
    }


def _notes(model: str, left_out: Mapping[str, int]) -> list[str]:
    notes = [f"{task}: {n} planned items have no score and are left out" for task, n in left_out.items() if n]
    if model.startswith(f"{UNKNOWN}/"):
        notes.append(f"the model's developer is unknown, so it is filed as {model}; next step: name developer/model")
    return notes


def model_id(manifest: Manifest) -> str:
    """Return the model's name as `developer/model`; a name without a developer gets "unknown"."""
    name = manifest.engine.model.strip("/ ") or UNKNOWN
    return name if "/" in name else f"{UNKNOWN}/{name}"


def model_info(manifest: Manifest) -> dict[str, Any]:
    """Return who answered; every detail is text, as the format wants it."""
    engine = manifest.engine
    details = {
        "deployment_type": "self_deployed" if engine.fidelity != "engine" else "unknown",
        "model_availability": "unknown",
        "recipe": engine.recipe,
        "fidelity": engine.fidelity,
        "dtype": engine.dtype,
        "device": engine.device,
        "weights_sha256": engine.weights_sha256,
        "identity_sha256": engine.sha256,
        "quantization": json.dumps(redacted(dict(engine.quantization)), sort_keys=True),
        **({"recipe_sha256": engine.recipe_sha256} if engine.recipe_sha256 else {}),
    }
    versions = ", ".join(f"{name} {version}" for name, version in sorted(engine.versions.items()))
    return {
        "name": f"{engine.model} ({engine.recipe})",
        "id": model_id(manifest),
        "inference_engine": {"name": engine.adapter, "version": versions or "unknown"},
        "additional_details": details,
    }


def safe(name: str) -> str:
    """Return a name that is one folder everywhere."""
    return _UNSAFE.sub("-", name).strip(".-") or "unknown"


def _chosen(run: Run, tasks: Sequence[str] | None) -> list[str]:
    known = sorted(run.manifest.tasks)
    for task in tasks or ():
        if task not in known:
            raise UsageError(f"{run.path}: no task '{task}'{suggestion(task, known)}")
    return list(tasks or known)


def _planned(run: Run, task: str) -> int:
    """Return how many items a complete run has; a row stands for all generations of an item."""
    asked = run.manifest.tasks[task]
    return asked.planned // max(1, int(asked.settings.get("generations", 1)))


def _uuid(run: Run) -> str:
    """Return a uuid that follows from the run: this format wants one of version 4."""
    content = digest([run.manifest.engine.sha256, {task: run.records_sha256(task) for task in run.manifest.tasks}])
    return str(uuid.UUID(bytes=bytes.fromhex(content)[:16], version=4))


def _timestamp(manifest: Manifest) -> str:
    """Return when the run began, seconds since 1970 as text."""
    try:
        return str(int(datetime.fromisoformat(manifest.created_at).timestamp()))
    except ValueError as error:
        raise DataError(f"the manifest's created_at is no time: {manifest.created_at!r}") from error
