"""Files that other tools wrote, or that merely lie where such files should: opened, named, or refused in one line.

In: paths. Out: texts and JSON rows with their places, without characters that UTF-8 cannot hold; whose file it is.
Must not depend on: what a row means.

Nothing of a file that cannot be read is repeated in a message: it may be binary, large, or hold a key.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, StoreError

_LFS = "version https://git-lfs.github.com/spec/"
_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a parquet file", "give the JSON files that the tool wrote, or convert it to JSON lines"),
    (b"PK\x03\x04", "a zip archive (inspect writes its .eval logs so)", "unpack it; inspect's logs are not read"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with zstd -d"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it with unxz"),
    (b"ARROW1", "an Arrow file", "give the JSON files that the tool wrote"),
    (b"SQLite format 3\x00", "a SQLite database", "give the JSON files that the tool wrote"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8 (iconv -f utf-16 -t utf-8)"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8 (iconv -f utf-16 -t utf-8)"),
)
"""First bytes of files that are no UTF-8 JSON, what they are, and what to do."""

_AGAIN = "next step: get the file again, as it was written"
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class NotFinite(str):
    """A bare `NaN`, `Infinity` or `-Infinity`, kept as the word it was."""

    __slots__ = ()


def read_text(file: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        DataError: it is a Git LFS pointer, compressed, binary, or not UTF-8; says which, and what to do.
        StoreError: it cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror or error}; next step: name a file") from error
    for first, what, step in _BINARY:
        if data.startswith(first):
            raise DataError(f"{file}: {what}, not UTF-8 JSON; next step: {step}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; next step: save it as UTF-8") from None
    if text.startswith(_LFS):
        raise DataError(f"{file}: a Git LFS pointer, not the file; next step: git lfs pull")
    return text


def parse_value(text: str, where: str) -> Any:
    """Parse one JSON value; bare non-finite words become `NotFinite`, halves of a surrogate pair U+FFFD.

    Raises:
        DataError: not JSON; names `where`.
    """
    try:
        value = json.loads(text, parse_constant=NotFinite)
        return _whole_characters(value) if "\\u" in text else value
    except json.JSONDecodeError as error:
        said = f"{error.msg} at character {error.pos + 1}"
        if not text.rstrip().endswith(("}", "]")):
            said += "; it was cut off"
        raise DataError(f"{where}: not JSON: {said}; {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not JSON: {error!s:.100}; next step: get the file again, as it was written"
        ) from None


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse one JSON object, as `parse_value`.

    Raises:
        DataError: not a JSON object; names `where`.
    """
    return as_object(parse_value(text, where), where)


def as_object(value: Any, where: str) -> dict[str, Any]:
    """Return a parsed value if it is a JSON object.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON object is expected, not {type(value).__name__}; {_AGAIN}")
    return value


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) of a file of JSON lines or of one JSON array, with or without a last line feed.

    Blank lines are passed over.

    Raises:
        DataError: a line is cut off or no JSON object; names file and line, or file and number in the array.
        StoreError: the file cannot be read.
    """
    text = read_text(file)
    if text.lstrip()[:1] == "[":
        rows = parse_value(text, f"{file}")
        for number, row in enumerate(rows, start=1):
            place = f"{file}: row {number}"
            yield place, as_object(row, place)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{file}:{number}"
            yield place, parse_object(line, place)


def count_replaced(value: Any) -> int:
    """Count the replacement characters in a parsed value."""
    if isinstance(value, str):
        return value.count(_REPLACEMENT)
    if isinstance(value, Mapping):
        return sum(map(count_replaced, value.values()))
    return sum(map(count_replaced, value)) if isinstance(value, (list, tuple)) else 0


def _whole_characters(value: Any) -> Any:
    """Replace every half of a surrogate pair: no file could hold it, and no engine was ever sent it."""
    if isinstance(value, NotFinite):
        return value
    if isinstance(value, str):
        return _SURROGATE.sub(_REPLACEMENT, value)
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(inner) for key, inner in value.items()}
    return [_whole_characters(inner) for inner in value] if isinstance(value, list) else value


_OWNERS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"config_general"}), "lighteval's results file (its details are parquet)"),
    (frozenset({"summary_tasks"}), "lighteval's results file (its details are parquet)"),
    (frozenset({"eval", "status"}), "inspect's log"),
    (frozenset({"eval", "samples"}), "inspect's log"),
    (frozenset({"schema_version", "evaluation_results"}), "an Every Eval Ever file"),
    (frozenset({"model_name", "dataset_name", "metrics"}), "evalscope's report"),
    (frozenset({"adapter_spec"}), "HELM's file"),
    (frozenset({"request_states"}), "HELM's file"),
)
"""Keys that only one tool writes together, and what the file is."""


def whose_object(value: Mapping[str, Any]) -> str | None:
    """Name the tool that wrote a JSON object, where it is another one than lm-eval; by its keys, never by its name."""
    owner = next((owner for keys, owner in _OWNERS if keys <= value.keys()), None)
    results = value.get("results")
    if owner is None and isinstance(results, Mapping) and "configs" not in value and "n-shot" not in value:
        rows = [row for row in results.values() if isinstance(row, Mapping)]
        if rows and not any("," in str(key) for row in rows for key in row):
            return "a results file of lm-eval before 0.4, which holds no answers"
    return owner


def whose_folder(folder: Path) -> str | None:
    """Name the tool whose output a folder is, and the next step, where lm-eval's files are not in it; else None."""
    found: Counter[str] = Counter()
    names = {path.name for path in folder.glob("*")} | {path.name for path in folder.glob("*/*")}
    if {"reviews", "reports"} <= names or {"reviews", "predictions"} <= names:
        found["evalscope's folder, which is not read; next step: evaluate with lm-eval --log_samples"] += 1
    if any(name.endswith(".eval") for name in names):
        found["inspect's logs, which are not read; next step: evaluate with lm-eval --log_samples"] += 1
    if any(name.startswith("details_") and name.endswith(".parquet") for name in names):
        found["lighteval's details, which are not read; next step: evaluate with lm-eval --log_samples"] += 1
    if {"per_instance_stats.json", "scenario_state.json"} & names:
        found["HELM's folder, which is not read; next step: evaluate with lm-eval --log_samples"] += 1
    if {"model_answer", "model_judgment"} & names:
        found["FastChat's folder; next step: evalkit run import --format fastchat"] += 1
    if "results.jsonl" in names:
        found[
            "NeMo Evaluator's results.jsonl; next step: evalkit run import --format nel with the folder it lies in"
        ] += 1
    if "manifest.json" in names:
        found["a run folder of evalkit itself; next step: compare or certify it as it is"] += 1
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")])[:50]:
        if not found and path.stat().st_size < 1 << 24:
            try:
                owner = whose_object(parse_object(read_text(path), path.name))
            except (DataError, StoreError):
                continue
            if owner is not None:
                found[f"{owner} ({path.name}), which is not read; next step: evaluate with lm-eval --log_samples"] += 1
    return next(iter(found), None)
