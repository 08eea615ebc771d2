"""Rows of lm-eval held against what the same files say of them.

In: the rows of a task, the results file. Out: sentences, or an error where the files contradict each other.
May not know: records.

lm-eval writes into the results file a hash of all rows (since 0.4.3, wherever it wrote the rows) and their means. Rows
that were edited, cut, or taken from another run do not fit them. A file with a hash is lm-eval's own to the letter, and
a mean that does not fit is an error; one without may have been rounded or rewritten, and the mismatch is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.interop.lm_eval_format import MEAN_METRICS, NO_MARKS, task_hash

if TYPE_CHECKING:
    from evalkit.interop.lm_eval_files import LmEvalFiles
    from evalkit.interop.lm_eval_samples import Sample

_STEP = "next step: give the rows and the results file of one and the same run, as lm-eval wrote them"
_ROUNDING = 1e-6


def hold_against_totals(
    files: LmEvalFiles,
    name: str,
    samples: Sequence[Sample],
    by_filter: Mapping[str, Sequence[Sample]],
    *,
    complete: bool,
) -> Iterator[str]:
    """Yield a sentence for each total that the rows do not give.

    Args:
        files: of the run.
        name: lm-eval's task.
        samples: its rows, in the order of the file.
        by_filter: filter to rows.
        complete: every item that the results file counts has its row.

    Raises:
        DataError: the hash of the rows is not the one in the results file, or it is and the totals do not fit.
    """
    hashes = files.results.get("task_hashes")
    said = hashes.get(name) if isinstance(hashes, Mapping) else None
    vouched = isinstance(said, str) and all(sample.hashes for sample in samples)
    if vouched and complete:
        given = task_hash(tuple((sample.hashes or {}).values()) for sample in samples)  # type: ignore[misc]
        if given != said:
            raise DataError(
                f"{files.samples[name]}: the rows are not those of {files.results_file.name}: their hash is "
                f"{given[:12]}..., its 'task_hashes' has {said!s:.12}... for '{name}'; {_STEP}"
            )
    if not complete:
        return
    row = files.results["results"].get(name)
    for key, total in (row if isinstance(row, Mapping) else {}).items():
        metric, comma, part = str(key).partition(",")
        values = [sample.values.get(metric) for sample in by_filter.get(part, by_filter.get("none", ()))]
        if not comma or not _is_mean(files, name, metric) or not _numbers([total, *values]) or not values:
            continue
        mean = math.fsum(values) / len(values)  # type: ignore[arg-type]
        if abs(mean - total) > _ROUNDING * max(1.0, abs(mean)):
            sentence = f"'{name}': the results file says {key} is {total:g}, its {len(values)} rows give {mean:.6g}"
            if vouched:
                raise DataError(f"{files.results_file}: {sentence}; {_STEP}")
            yield f"{sentence}; the rows count"


def _is_mean(files: LmEvalFiles, name: str, metric: str) -> bool:
    """Say whether lm-eval's total of a metric is the mean over items."""
    configs = files.results.get("configs")
    config = configs.get(name) if isinstance(configs, Mapping) else None
    listed: Any = config.get("metric_list") if isinstance(config, Mapping) else None
    for row in listed if isinstance(listed, list) else ():
        if isinstance(row, Mapping) and row.get("metric") == metric and row.get("aggregation") is not None:
            return bool(row["aggregation"] == "mean")
    return metric in MEAN_METRICS and metric not in NO_MARKS


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
