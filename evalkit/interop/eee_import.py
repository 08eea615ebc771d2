"""Every Eval Ever read as a run: an aggregate file with its rows of single items.

In: `<uuid>.json` with the `.jsonl` that it names, or a folder of them. Out: an `Imported` run, one task an evaluation.
Must not depend on: which run is the baseline; how evalkit writes this format.

An aggregate without rows supports no verdict and is refused. The rows must be those whose digest and number the
aggregate gives, and their scores those whose mean it publishes.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.interop import foreign_files
from evalkit.interop.foreign_files import EEE as TOOL
from evalkit.interop.foreign_files import kind_of_object, kind_of_row, parse_object, read_text
from evalkit.interop.lm_eval_import import Imported
from evalkit.interop.row_import import (
    Asked,
    AskedRow,
    Declared,
    count,
    digests,
    identity,
    imported_run,
    mappings,
    number,
    time_of,
)
from evalkit.interop.row_rules import Total

STEP = "next step: give the aggregate and the rows of one and the same publication"

_Rows = Sequence[tuple[str, Mapping[str, Any]]]


def import_eee(files: Sequence[Path], root: Path, declared: Declared) -> Imported:
    """Read publications of one model.

    Args:
        files: aggregates and files of rows, told from other files by their content.
        root: the folder they were found in.
        declared: what the user says.

    Raises:
        UsageError: several models and none is named.
        DataError: rows are missing, others than the aggregate's, or contradict it.
        StoreError: a file cannot be read.
    """
    aggregates = {file: told for file in files if (told := _aggregate(file)) is not None}
    rows: dict[Path, _Rows] = {file: list(foreign_files.read_rows(file)) for file in files if file not in aggregates}
    models = sorted({_model(told) for told in aggregates.values()} | {_model_of(one) for one in rows.values() if one})
    wanted = declared.model if declared.model in models else models[0] if len(models) == 1 else None
    if wanted is None:
        raise UsageError(f"{root}: results of {', '.join(models):.300}; next step: name one with --model")
    aggregates = {file: told for file, told in aggregates.items() if _model(told) == wanted}
    rows = {file: one for file, one in rows.items() if one and _model_of(one) == wanted}
    for file, told in aggregates.items():
        _hold(file, told, rows)
    if not rows:
        raise DataError(
            f"{root}: aggregates without rows of single items; totals alone support no verdict; next step: get the "
            "files that 'detailed_evaluation_results' names"
        )
    first = next(iter(aggregates), next(iter(rows)))
    told = aggregates.get(first, {})
    notes = [] if aggregates else [f"{root}: rows without their aggregate: nothing published is held against them"]
    return imported_run(
        TOOL,
        list(_tasks(aggregates, rows, notes)),
        _identity(told, wanted, declared),
        digests(root, [*aggregates, *rows]),
        time_of(told.get("evaluation_timestamp") or told.get("retrieved_timestamp"), first),
        declared,
        notes,
    )


def _aggregate(file: Path) -> Mapping[str, Any] | None:
    if file.suffix != ".json":
        return None
    told = parse_object(read_text(file), f"{file}")
    return told if kind_of_object(told) == TOOL else None


def _model(told: Mapping[str, Any]) -> str:
    info = told.get("model_info")
    return str(info.get("id") or info.get("name")) if isinstance(info, Mapping) else "unknown"


def _model_of(rows: _Rows) -> str:
    models = {str(row.get("model_id")) for _, row in rows}
    if len(models) > 1:
        raise DataError(f"{rows[0][0]}: rows of {', '.join(sorted(models)):.200} in one file; {STEP}")
    return models.pop()


def _hold(file: Path, told: Mapping[str, Any], rows: dict[Path, _Rows]) -> None:
    """Find the rows that an aggregate names, wherever they lie, and hold them against its digest and number."""
    detailed = told.get("detailed_evaluation_results")
    if not isinstance(detailed, Mapping):
        return
    named = str(detailed.get("file_path") or "")
    name = Path(named).name
    found = next((path for path in (*rows, *file.parent.iterdir()) if path.name == name and path.is_file()), None)
    if found is None:
        raise DataError(f"{file}: its rows '{named:.120}' are not there; {STEP}")
    if found not in rows:
        rows[found] = list(foreign_files.read_rows(found))
    said = detailed.get("checksum")
    how = str(detailed.get("hash_algorithm") or "sha256").lower().replace("-", "")
    if isinstance(said, str) and said and how in hashlib.algorithms_guaranteed and "shake" not in how:
        given = hashlib.new(how, found.read_bytes()).hexdigest()
        if given != said.lower():
            raise DataError(f"{found}: {how} {given[:12]}..., but {file.name} says {said:.12}...; {STEP}")
    total = detailed.get("total_rows")
    if isinstance(total, int) and total != len(rows[found]):
        raise DataError(f"{found}: {len(rows[found])} rows, but {file.name} says {total}; {STEP}")


def _tasks(
    aggregates: Mapping[Path, Mapping[str, Any]], rows: Mapping[Path, _Rows], notes: list[str]
) -> Iterator[Asked]:
    results: dict[str, tuple[Path, Mapping[str, Any], Mapping[str, Any]]] = {}
    for file, told in aggregates.items():
        for result in mappings(told.get("evaluation_results")):
            for key in (result.get("evaluation_result_id"), result.get("evaluation_name")):
                if isinstance(key, str):
                    results.setdefault(key, (file, told, result))
    by_task: dict[str, dict[str, list[tuple[str, Mapping[str, Any]]]]] = defaultdict(lambda: defaultdict(list))
    for place, row in (pair for one in rows.values() for pair in one):
        if kind_of_row(row) != TOOL:
            raise DataError(f"{place}: no row of Every Eval Ever (evaluation_id, sample_id, evaluation); {STEP}")
        name = str(row.get("evaluation_name") or row["evaluation_id"])
        by_task[name][str(row.get("evaluation_result_id") or name)].append((place, row))
    used = set()
    for name, by_result in sorted(by_task.items()):
        read: list[tuple[str, _Rows]] = []
        totals: list[Total] = []
        facts: Mapping[str, Any] = {}
        for key, found in by_result.items():
            at = results.get(key) or results.get(name)
            result = at[2] if at is not None else {}
            config = result.get("metric_config")
            config = config if isinstance(config, Mapping) else {}
            mark = str(config.get("metric_id") or config.get("metric_name") or "score")
            facts = facts or {"result": result, "metric": config}
            used.add(id(result))
            read.append((mark, found))
            totals += list(_totals(at[0], result, mark)) if at is not None else []
        yield _task(name, read, totals, facts)
    ids = {id(result): str(result.get("evaluation_name")) for _, _, result in results.values()}
    left = sorted({name for key, name in ids.items() if key not in used})
    if left:
        notes.append(f"aggregates without rows are not used: {', '.join(left):.200}")


def _task(name: str, read: Sequence[tuple[str, _Rows]], totals: Sequence[Total], told: Mapping[str, Any]) -> Asked:
    rows: dict[tuple[str, int], AskedRow] = {}
    for mark, found in read:
        seen: dict[str, int] = defaultdict(int)
        for place, row in found:
            made = _row(place, row, mark, seen)
            seen[str(made.name)] += 1
            key = (str(made.name), made.repeat)
            if key in rows:  # another metric of the same answer
                both = {**rows[key].marks, **made.marks}
                made = replace(made, marks=both)
            rows[key] = made
    result, config = told.get("result") or {}, told.get("metric") or {}
    generation = result.get("generation_config")
    source = result.get("source_data")
    lower = config.get("lower_is_better")
    return Asked(
        name=name,
        tool=TOOL,
        rows=list(rows.values()),
        planned=max((total.count or 0 for total in totals), default=0) or None,
        totals=totals,
        settings={"generation": generation} if generation else {},
        dataset={"asset": str(source.get("dataset_name"))} if isinstance(source, Mapping) else {},
        directions={mark: not lower for mark, _ in read} if isinstance(lower, bool) else {},
    )


def _row(place: str, row: Mapping[str, Any], mark: str, seen: Mapping[str, int]) -> AskedRow:
    asked = row.get("input")
    asked = asked if isinstance(asked, Mapping) else {}
    raw = _text(asked.get("raw"))
    prompt = _text(asked.get("formatted")) or raw
    target = json.dumps(asked.get("reference"), ensure_ascii=False)
    evaluation = row.get("evaluation")
    evaluation = evaluation if isinstance(evaluation, Mapping) else {}
    score = number(evaluation.get("score"))
    correct = evaluation.get("is_correct")
    usage = row.get("token_usage")
    usage = usage if isinstance(usage, Mapping) else {}
    failure = None
    if row.get("error"):
        failure = f"engine: the row records an error: {row['error']!s:.120}"
    elif score is None:
        failure = f"marking: the row has no score ({place})"
    if score in (0.0, 1.0) and isinstance(correct, bool) and correct != bool(score) and mark != "rating":
        raise DataError(f"{place}: score is {score:g} and is_correct is {correct}; {STEP}")
    metadata = row.get("metadata")
    subject = metadata.get("subject") if isinstance(metadata, Mapping) else None
    choices = asked.get("choices")
    name = str(row.get("sample_id"))
    return AskedRow(
        where=place,
        name=name,
        repeat=seen.get(name, 0),
        subject=subject if isinstance(subject, str) else "",
        doc={"input": raw, "reference": asked.get("reference"), **({"choices": choices} if choices else {})},
        prompt=prompt,
        target=target,
        answer=_answer(row),
        tokens=(count(usage.get("input_tokens")), count(usage.get("output_tokens"))),
        marks={mark: score} if score is not None and failure is None else {},
        failure=failure,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _answer(row: Mapping[str, Any]) -> str | None:
    output, messages = row.get("output"), row.get("messages")
    given = output.get("raw") if isinstance(output, Mapping) else None
    if isinstance(given, list):
        given = given[0] if given else None
    if isinstance(given, str):
        return given
    told = [one for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    spoken = [one.get("content") for one in told if one.get("role") == "assistant"]
    return spoken[-1] if spoken and isinstance(spoken[-1], str) else None


def _totals(file: Path, result: Mapping[str, Any], mark: str) -> Iterator[Total]:
    details = result.get("score_details")
    details = details if isinstance(details, Mapping) else {}
    value = number(details.get("score"))
    uncertainty = details.get("uncertainty")
    size = count(uncertainty.get("num_samples")) if isinstance(uncertainty, Mapping) else 0
    if value is not None:
        name = str(result.get("evaluation_name"))
        yield Total(where=file.name, name=f"{mark} of {name}", value=value, mark=mark, count=size or None)


def _identity(told: Mapping[str, Any], model: str, declared: Declared) -> Any:
    info, library = told.get("model_info"), told.get("eval_library")
    info = info if isinstance(info, Mapping) else {}
    library = library if isinstance(library, Mapping) else {}
    details = info.get("additional_details")
    return identity(
        TOOL,
        declared,
        model=model,
        version=told.get("schema_version"),
        arguments=details if isinstance(details, Mapping) else {},
        options={
            "inference_engine": info.get("inference_engine") or info.get("inference_platform"),
            "eval_library": {key: library[key] for key in ("name", "version") if key in library},
        },
    )
