"""Logs of inspect_ai read as a run: `.eval` (a zip of JSON) and `.json`.

In: one log, or a folder of logs of one model. Out: an `Imported` run, one task for each log.
Must not depend on: which run is the baseline; inspect itself is not imported, only its files are known.

A sample that ended with an error, or has no score, is a failed record. The value of a score is a letter or a number
("C", "P", "I", "N"); one that is a mapping gives one mark for each key.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.interop.foreign_files import INSPECT as TOOL
from evalkit.interop.foreign_files import as_object, kind_of_object, parse_object, read_text
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

STEP = "next step: give the log as inspect wrote it"

_LETTERS = {"c": 1.0, "correct": 1.0, "i": 0.0, "incorrect": 0.0, "p": 0.5, "n": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_LENGTH = ("max_tokens", "model_length")
_MEANS = ("accuracy", "mean")
_UNPARSED = "Scoring pattern not matched"
_ATTACHED = "attachment://"
_ZSTD = 93
"""Number of the packing in a zip."""

_MOST = 1 << 32
"""Unpacked bytes of one log beyond which it is no log."""

_MOST_OF_ONE = 256 << 20
"""Unpacked bytes of one part of it: an archive of a few kilobytes can say that it holds gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """One log.

    Attributes:
        file: where it is.
        header: everything but the samples.
        samples: (place, sample) of each.
    """

    file: Path
    header: Mapping[str, Any]
    samples: Sequence[tuple[str, Mapping[str, Any]]]

    def part(self, *names: str) -> Mapping[str, Any]:
        """Return a mapping inside the header; empty where there is none."""
        found: Any = self.header
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}


def import_inspect(files: Sequence[Path], root: Path, declared: Declared) -> Imported:
    """Read logs of one model.

    Args:
        files: the logs.
        root: the folder they were found in.
        declared: what the user says.

    Raises:
        UsageError: logs of several models, or two logs of one task.
        DataError: a log cannot be read, holds no sample, or contradicts itself.
        StoreError: a file cannot be read.
    """
    logs = [read_log(file) for file in files]
    models = sorted({str(log.part("eval").get("model")) for log in logs})
    if declared.model is not None:
        logs = [log for log in logs if log.part("eval").get("model") == declared.model]
        if not logs:
            raise UsageError(f"{root}: no log of '{declared.model}'; next step: --model with one of {models}")
    elif len(models) > 1:
        raise UsageError(f"{root}: logs of {', '.join(models)}; next step: name one with --model, or name one log")
    by_task: dict[str, Log] = {}
    for log in logs:
        name = str(log.part("eval").get("task") or log.file.stem)
        before = by_task.setdefault(name, log)
        if before is not log:
            raise UsageError(
                f"{root}: {before.file.name} and {log.file.name} are both of task '{name}'; next step: name one log"
            )
    first = logs[0]
    return imported_run(
        TOOL,
        [_task(name, log) for name, log in by_task.items()],
        _identity(first, logs, declared),
        digests(root, [log.file for log in logs]),
        time_of(first.part("eval").get("created"), first.file),
        declared,
        [note for log in logs for note in _notes(log)],
    )


def read_log(file: Path) -> Log:
    """Read one log, of either form.

    Raises:
        DataError: it is no log, or cut off; names the file and the part.
        StoreError: it cannot be read.
    """
    if zipfile.is_zipfile(file) or file.suffix == ".eval":
        return _of_archive(file)
    value = parse_object(read_text(file), f"{file}")
    if kind_of_object(value) != TOOL:
        raise UsageError(f"{file}: no log of inspect, for it has no 'eval' with 'status', 'plan' or 'samples'; {STEP}")
    listed = value.get("samples")
    if listed is not None and not isinstance(listed, list):
        raise DataError(f"{file}: 'samples' is no list; {STEP}")
    samples = [
        (f"{file}: samples, number {at}", as_object(sample, f"{file}: samples, number {at}"))
        for at, sample in enumerate(listed or (), start=1)
    ]
    return Log(file=file, header={key: part for key, part in value.items() if key != "samples"}, samples=samples)


def _of_archive(file: Path) -> Log:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if sum(info.file_size for info in archive.infolist()) > _MOST:
                raise DataError(f"{file}: more than 4 GiB when unpacked; {STEP}")
            top = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
            if top is None:
                raise UsageError(f"{file}: a zip archive, but no log of inspect (no header.json in it); {STEP}")
            header = _member(file, archive, top)
            inside = sorted({name for name in names if name.startswith("samples/") and name.endswith(".json")})
            samples = [(f"{file}: {name}", _member(file, archive, name)) for name in inside]
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise DataError(f"{file}: not a whole zip archive: {error!s:.100}; {STEP}") from error
    return Log(file=file, header=header, samples=samples)


def _member(file: Path, archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    where = f"{file}: {name}"
    info = archive.getinfo(name)
    if info.file_size > _MOST_OF_ONE:
        raise DataError(f"{where}: more than {_MOST_OF_ONE >> 20} MiB when unpacked; {STEP}")
    try:
        data = _zstd(file, info) if info.compress_type == _ZSTD else archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, zlib.error, struct.error) as error:
        raise DataError(f"{where}: cannot be unpacked: {error!s:.100}; {STEP}") from error
    try:
        return parse_object(data.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; {STEP}") from None


def _zstd(file: Path, info: zipfile.ZipInfo) -> bytes:
    """Return a part that is packed with zstd, as inspect does today and Python before 3.14 cannot read."""
    try:
        from pyarrow import Codec
    except ImportError as error:
        raise UsageError(
            f"{file}: packed with zstd, which needs pyarrow; next step: pip install 'evalkit-quant[parquet]', or "
            "inspect log convert --to json --output-dir DIR LOG"
        ) from error
    with file.open("rb") as opened:
        opened.seek(info.header_offset)
        head = opened.read(30)
        opened.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
        packed = opened.read(info.compress_size)
    data = bytes(Codec("zstd").decompress(packed, info.file_size, asbytes=True))
    if zlib.crc32(data) != info.CRC:
        raise ValueError("its check sum is not that of its content")
    return data


def _task(name: str, log: Log) -> Asked:
    told, results = log.part("eval"), log.part("results")
    rows = [_row(place, sample) for place, sample in log.samples]
    epochs = max([1, count(log.part("eval", "config").get("epochs")), *(row.repeat + 1 for row in rows)])
    dataset = log.part("eval", "dataset")
    ids = dataset.get("sample_ids")
    planned = max(len(ids) if isinstance(ids, list) else 0, count(results.get("total_samples")) // epochs) or None
    plan = log.part("plan")
    scorers = told.get("scorers")
    return Asked(
        name=name,
        tool=TOOL,
        rows=rows,
        planned=planned,
        totals=list(_totals(log, epochs)),
        settings={
            "version": told.get("task_version"),
            "task_args": told.get("task_args") or {},
            "steps": plan.get("steps") or [],
            "scorers": [_without_metrics(one) for one in scorers] if isinstance(scorers, list) else told.get("scorer"),
            "message_limit": log.part("eval", "config").get("message_limit"),
            "token_limit": log.part("eval", "config").get("token_limit"),
        },
        dataset={key: str(dataset[key]) for key in ("name", "location") if dataset.get(key)},
        directions={mark: True for row in rows for mark in row.marks if mark in _graded(rows)},
    )


def _graded(rows: Sequence[AskedRow]) -> set[str]:
    """Return marks that are shares of right: of these more is better; of any other number inspect does not say."""
    values: dict[str, set[float]] = {}
    for row in rows:
        for mark, value in row.marks.items():
            values.setdefault(mark, set()).add(value)
    return {mark for mark, found in values.items() if found <= {0.0, 0.5, 1.0}}


def _without_metrics(scorer: Any) -> Any:
    return {key: scorer[key] for key in ("name", "options") if key in scorer} if isinstance(scorer, Mapping) else scorer


def _row(where: str, sample: Mapping[str, Any]) -> AskedRow:
    prompt = _prompt(sample)
    options = sample.get("choices")
    target = sample.get("target")
    right = target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, sort_keys=True)
    asked = _resolved(sample.get("input"), sample)
    scores = sample.get("scores")
    if not isinstance(scores, Mapping):
        scores = {"score": sample["score"]} if isinstance(sample.get("score"), Mapping) else {}
    marks, unparsed = _marks(scores, where)
    output = sample.get("output")
    answer, finish, tokens = _answer(output if isinstance(output, Mapping) else {})
    failure = None
    if sample.get("error"):
        error = sample["error"]
        said = error.get("message") if isinstance(error, Mapping) else error
        failure = f"engine: inspect recorded an error: {said!s:.120}"
    elif not marks:
        failure = f"marking: no score for this sample ({where})"
    number = sample.get("epoch", 1)
    return AskedRow(
        where=where,
        name=str(sample.get("id")) if sample.get("id") is not None else None,
        repeat=number - 1 if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0,
        doc={"input": asked, "target": target, **({"choices": options} if options else {})},
        prompt=prompt,
        target=right,
        answer=answer,
        finish=finish,
        tokens=tokens,
        marks={} if failure else marks,
        failure=failure,
        unparsed=unparsed,
    )


def _prompt(sample: Mapping[str, Any]) -> str:
    """Return everything that stands before the model's first own message."""
    messages = sample.get("messages")
    given = sample.get("input")
    if not isinstance(messages, list) or not messages:
        return _as_text(_resolved(given, sample))
    own = next((at for at, one in enumerate(messages) if _is(one, "assistant") and one.get("source") == "generate"), -1)
    if own < 0:
        last = [at for at, one in enumerate(messages) if _is(one, "assistant")]
        own = last[0] if last and not isinstance(given, list) else last[-1] if last else len(messages)
    before = [
        {"role": one.get("role"), "content": _resolved(one.get("content"), sample)}
        for one in messages[:own]
        if isinstance(one, Mapping)
    ]
    return _as_text(before)


def _is(message: Any, role: str) -> bool:
    return isinstance(message, Mapping) and message.get("role") == role


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _resolved(value: Any, sample: Mapping[str, Any]) -> Any:
    """Put the texts of attachments back, and leave out what inspect numbers anew in every run."""
    attached = sample.get("attachments")
    if isinstance(value, str) and value.startswith(_ATTACHED) and isinstance(attached, Mapping):
        return attached.get(value.removeprefix(_ATTACHED), value)
    if isinstance(value, list):
        return [_resolved(one, sample) for one in value]
    if isinstance(value, Mapping):
        return {key: _resolved(one, sample) for key, one in value.items() if key not in ("id", "source", "internal")}
    return value


def _answer(output: Mapping[str, Any]) -> tuple[str | None, Any, tuple[int, int]]:
    """Return text, reason of its end, and tokens of an output."""
    choices = output.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    message = first.get("message")
    content = message.get("content") if isinstance(message, Mapping) else output.get("completion")
    if isinstance(content, list):
        parts = [one.get("text") for one in content if isinstance(one, Mapping) and one.get("type") == "text"]
        content = "\n".join(part for part in parts if isinstance(part, str))
    usage = output.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    finish = "length" if first.get("stop_reason") in _LENGTH else "stop"
    tokens = (count(usage.get("input_tokens")), count(usage.get("output_tokens")))
    return (content if isinstance(content, str) else None), finish, tokens


def _marks(scores: Mapping[str, Any], where: str) -> tuple[dict[str, float], bool]:
    """Return marks of a sample, and whether a scorer found no answer in the text."""
    marks: dict[str, float] = {}
    unparsed = False
    for name, score in scores.items():
        if not isinstance(score, Mapping):
            raise DataError(f"{where}: the score '{name}' is {score!r:.60}, not an object; {STEP}")
        value = score.get("value")
        pairs = (
            [(f"{name}/{key}", one) for key, one in value.items()] if isinstance(value, Mapping) else [(name, value)]
        )
        for mark, one in pairs:
            found = as_number(one)
            if found is not None:
                marks[str(mark)] = found
        said = score.get("explanation")
        unparsed = unparsed or score.get("answer") == "" or (isinstance(said, str) and said.startswith(_UNPARSED))
    return marks, unparsed


def as_number(value: Any) -> float | None:
    """Return the value of a score as inspect's `value_to_float` does; None where it is no number.

    >>> as_number("C"), as_number("P"), as_number("yes"), as_number("0.25"), as_number("maybe")
    (1.0, 0.5, 1.0, 0.25, None)
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _LETTERS or word in _WORDS:
            return _LETTERS.get(word, _WORDS.get(word))
        try:
            value = float(word)
        except ValueError:
            return None
    return number(value)


def _totals(log: Log, epochs: int) -> Iterator[Total]:
    results = log.part("results")
    listed = results.get("scores")
    if not isinstance(listed, list):
        listed = [{"name": "score", **results}] if isinstance(results.get("metrics"), Mapping) else []
    for score in listed:
        metrics = score.get("metrics") if isinstance(score, Mapping) else None
        if not isinstance(metrics, Mapping):
            continue
        name, scorer = str(score.get("name")), str(score.get("scorer") or score.get("name"))
        reducer = str(score.get("reducer") or "mean")
        keys = {mark for _, sample in log.samples for mark in _marks(_scores(sample), "")[0]}
        mark = next((one for one in (name, f"{scorer}/{name}", scorer) if one in keys), name)
        for key, metric in metrics.items():
            value = metric.get("value") if isinstance(metric, Mapping) else metric
            metric_name = str(metric.get("name", key) if isinstance(metric, Mapping) else key).rpartition("/")[2]
            unlike = ""
            if metric_name in ("stderr", "std", "var", "bootstrap_stderr"):
                continue
            if number(value) is None:
                unlike = "no finite number"
            elif metric_name not in _MEANS or str(key).rpartition("/")[2] not in _MEANS:
                unlike = "no mean over samples"
            elif epochs > 1 and reducer != "mean":
                unlike = f"several epochs reduced by {reducer}"
            yield Total(
                where=log.file.name,
                name=f"{name}: {key}",
                value=number(value) or 0.0,
                mark=mark,
                count=count(score.get("scored_samples")) // (1 if score.get("reducer") else epochs) or None,
                unlike=unlike,
            )


def _scores(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    scores = sample.get("scores")
    if isinstance(scores, Mapping):
        return {name: score for name, score in scores.items() if isinstance(score, Mapping)}
    return {"score": sample["score"]} if isinstance(sample.get("score"), Mapping) else {}


def _identity(first: Log, logs: Sequence[Log], declared: Declared) -> Any:
    told = first.part("eval")
    packages = told.get("packages")
    sampling: dict[str, Any] = {}
    for log in logs:
        for config in (log.part("eval", "model_generate_config"), log.part("plan", "config")):
            sampling |= {key: value for key, value in config.items() if key not in ("max_connections", "max_retries")}
    return identity(
        TOOL,
        declared,
        model=str(told.get("model")),
        version=packages.get("inspect_ai") if isinstance(packages, Mapping) else None,
        arguments=told.get("model_args") if isinstance(told.get("model_args"), Mapping) else {},
        options={"sampling": sampling, "model_roles": told.get("model_roles") or {}},
    )


def _notes(log: Log) -> Iterator[str]:
    status = log.header.get("status")
    if status not in (None, "success"):
        yield f"{log.file.name}: the evaluation's status is '{status}'; what it did not answer is missing"
    if any(_is(one, "tool") for _, sample in log.samples for one in mappings(sample.get("messages"))):
        yield f"{log.file.name}: tool calls and their results are not used: only the last answer of a sample counts"
