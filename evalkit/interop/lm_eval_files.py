"""Finding and parsing lm-eval's output files, of lm-eval 0.4.0 and later.

In: a folder, or one results file. Out: the results object and where the rows of each task are.
May not know: records, what a row means.

lm-eval writes the bare words NaN and Infinity, which are not JSON. They are read as text that no statistic can use.
Since 0.4.3 the files are `results_<time>.json` and `samples_<task>_<time>.jsonl`; `--output_path x.json` makes
`x_<time>.json`. Before, they were `results.json` and `<model arguments>_<task>.jsonl`, which holds one array.
What `simple_evaluate` returns holds the rows itself, under "samples". Leaderboards have published rows as `.json`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, StoreError, UsageError
from evalkit.interop.foreign_files import (
    NotFinite,
    as_object,
    parse_object,
    read_rows,
    read_text,
    whose_folder,
    whose_object,
)

_STAMPED = re.compile(r"(?P<name>.*)_(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?)\.json")
_OLD = "results.json"
STEP = "next step: give the files as lm-eval wrote them, or leave the task out with --task"
"""What helps where a row is not lm-eval's."""
_NAME_IT = "name lm-eval's --output_path, the folder of a model in it, or its results file"


@dataclass(frozen=True, kw_only=True)
class LmEvalFiles:
    """One run of lm-eval on disk.

    Attributes:
        results_file: its `results_*.json`.
        stamp: the time in the file names; "" where there is none.
        results: content of the results file.
        samples: lm-eval task to its samples file, or to the results file where the rows are in it; tasks without rows
            are missing.
    """

    results_file: Path
    stamp: str
    results: Mapping[str, Any]
    samples: Mapping[str, Path]

    def rows(self, task: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (place, row) of a task, as `foreign_files.read_rows`."""
        file = self.samples[task]
        if file != self.results_file:
            yield from read_rows(file)
            return
        for number, row in enumerate(self.results["samples"][task], start=1):
            place = f"{file}: samples.{task}, row {number}"
            yield place, as_object(row, place)


def find_files(where: Path) -> LmEvalFiles:
    """Find one run of lm-eval.

    Args:
        where: lm-eval's `--output_path`, the folder of a model in it, or one results file.

    Raises:
        UsageError: no results file, or several, or another tool's.
        DataError: the results file cannot be understood, or two files hold rows of one task.
        StoreError: a file cannot be read.
    """
    file = where if where.is_file() else _only(where)
    found = _STAMPED.fullmatch(file.name)
    stamp = found["stamp"] if found else "" if file.name == _OLD else file.stem.rpartition("_")[2]
    results = parse_object(read_text(file), f"{file}")
    owner = whose_object(results)
    if owner is not None:
        raise UsageError(f"{file}: {owner}, which is not read; next step: evaluate with lm-eval --log_samples")
    if not isinstance(results.get("results"), Mapping):
        raise UsageError(f"{file}: no results file of lm-eval, for it has no 'results'; next step: {_NAME_IT}")
    return LmEvalFiles(results_file=file, stamp=stamp, results=results, samples=_samples(file, stamp, results))


def _samples(file: Path, stamp: str, results: Mapping[str, Any]) -> dict[str, Path]:
    """Return lm-eval task to the file that holds its rows."""
    inside = results.get("samples")
    configs = results.get("configs")
    pairs = inside.items() if isinstance(inside, Mapping) else ()
    found = {str(task): file for task, rows in pairs if isinstance(rows, list)}
    names = sorted({*results["results"], *(configs if isinstance(configs, Mapping) else ())})
    for path in sorted((*file.parent.glob("*.jsonl"), *file.parent.glob("samples_*.json"))):
        task = _task_of(path.name, stamp, names)
        if task is None or (task in found and found[task] == file):
            continue
        if task in found:
            raise DataError(
                f"{file.parent}: {found[task].name} and {path.name} both hold rows of task '{task}'; "
                "next step: leave one of them there"
            )
        found[task] = path
    return found


def _task_of(name: str, stamp: str, names: list[str]) -> str | None:
    """Return the task whose rows a file holds, by its name; None for another run's or another kind of file."""
    if stamp:
        end = next((f"_{stamp}{ext}" for ext in (".jsonl", ".json") if name.endswith(f"_{stamp}{ext}")), None)
        return name.removeprefix("samples_").removesuffix(end) if end and name.startswith("samples_") else None
    return max((task for task in names if name.endswith(f"_{task}.jsonl")), key=len, default=None)


def _only(folder: Path) -> Path:
    if not folder.is_dir():
        return _dated(folder)
    for pattern in ("results_*.json", _OLD, "*.json"):
        found = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))
        if pattern == "*.json":
            found = [path for path in found if _STAMPED.fullmatch(path.name) and not path.name.startswith("samples_")]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            raise UsageError(f"{folder}: {len(found)} runs of lm-eval ({names}); next step: name one of these files")
    owner = whose_folder(folder)
    if owner is not None:
        raise UsageError(f"{folder}: {owner}")
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise UsageError(
        f"{folder}: no results_*.json here or one folder below; there is {there:.200}; next step: {_NAME_IT}"
    )


def _dated(path: Path) -> Path:
    """Return the one `<name>_<time>.json` that lm-eval makes of `--output_path <name>.json`."""
    found = sorted(path.parent.glob(f"{path.stem}_*.json")) if path.suffix == ".json" else []
    found = [file for file in found if (match := _STAMPED.fullmatch(file.name)) and match["name"] == path.stem]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise UsageError(f"{path}: lm-eval wrote {names}; next step: name one of these files")
    raise UsageError(f"{path}: no such folder; next step: {_NAME_IT}")


def count_not_finite(value: Any) -> int:
    """Count the bare non-finite words in a parsed value."""
    if isinstance(value, Mapping):
        return sum(map(count_not_finite, value.values()))
    return sum(map(count_not_finite, value)) if isinstance(value, list) else int(isinstance(value, NotFinite))


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes.

    Raises:
        StoreError: it cannot be read.
    """
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def field(row: Mapping[str, Any], name: str, where: str, check: Callable[[Any], bool], wanted: str) -> Any:
    """Return a field of a row.

    Raises:
        DataError: it is missing or not what is wanted; names `where`.
    """
    if name not in row:
        raise DataError(f"{where}: the field {name!r} is missing; {STEP}")
    if not check(row[name]):
        raise DataError(f"{where}: {name!r} must be {wanted}, not {row[name]!r:.80}; {STEP}")
    return row[name]
