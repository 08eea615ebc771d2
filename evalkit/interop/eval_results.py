"""One score of a run as Hugging Face model repositories show it: `.eval_results/<name>.yaml`.

In: a run folder, which registered benchmark it stands for. Out: YAML text.
May not know: whether the benchmark is registered; the hub says that.

The format has no place for an interval or for how a model was quantized, so both stand in the notes. Its scale follows
each benchmark's leaderboard, so the caller says which one it is; nothing is guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from evalkit.errors import DataError, UsageError, suggestion
from evalkit.interop.eee_results import question_scores
from evalkit.statistics.proportions import wilson_interval
from evalkit.store import read_run

Scale = Literal["proportion", "percent"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Which entry of the hub a score stands for.

    Attributes:
        dataset: id of a data set that is registered as a benchmark.
        task: its task, as its `eval.yaml` names it.
        revision: of the data set; "" for none.
        scale: of its leaderboard.
        source: address of the report; "" for none.
    """

    dataset: str
    task: str
    revision: str = ""
    scale: Scale
    source: str = ""


def eval_results_yaml(run: Path, task: str, benchmark: Benchmark) -> str:
    """Return the YAML text for one task of a run.

    Raises:
        UsageError: an unknown task, or a rating on a scale of accuracies.
        DataError: the task is not complete: a part of it is no score of the benchmark.
    """
    found = read_run(run).trusted()
    if task not in found.manifest.tasks:
        raise UsageError(f"{run}: no task '{task}'{suggestion(task, sorted(found.manifest.tasks))}")
    asked, engine = found.manifest.tasks[task], found.manifest.engine
    if task in found.manifest.judges:
        scores, unit = list(question_scores(found, task).values()), "mean rating"
        if benchmark.scale == "percent":
            raise UsageError(f"task '{task}' is rated, not right or wrong; its scale cannot be percent")
    else:
        scores = [r.marks[asked.metric] for r in found.records[task] if asked.metric in r.marks]
        unit = asked.metric
    if len(scores) < asked.planned:
        raise DataError(f"{run}: {asked.planned - len(scores)} of {asked.planned} items of '{task}' have no score")
    value = math.fsum(scores) / len(scores)
    factor = 100.0 if benchmark.scale == "percent" else 1.0
    row: dict[str, Any] = {
        "dataset": {
            "id": benchmark.dataset,
            "task_id": benchmark.task,
            **({"revision": benchmark.revision} if benchmark.revision else {}),
        },
        "value": round(factor * value, 4),
        "date": datetime.fromisoformat(found.manifest.created_at).date().isoformat(),
        "notes": (
            f"evalkit {found.manifest.evalkit}, {unit}, protocol {asked.protocol}, {asked.shots} shots, "
            f"n = {len(scores)}{_interval(scores, factor)}; recipe {engine.recipe}, fidelity {engine.fidelity}, "
            f"{engine.dtype}"
        ),
    }
    if benchmark.source:
        row["source"] = {"url": benchmark.source, "name": "evalkit report"}
    return str(yaml.safe_dump([row], sort_keys=False, allow_unicode=True, width=110))


def _interval(scores: list[float], factor: float) -> str:
    if not set(scores) <= {0.0, 1.0}:
        return ""
    found = wilson_interval(round(math.fsum(scores)), len(scores))
    return f", 95 % interval {factor * found.lower:.4g} to {factor * found.upper:.4g} (Wilson)"
