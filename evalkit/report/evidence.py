"""What the run folders beside a certificate add to a report: items that changed, conversations, commands.

In: a certificate as data, the folder its run folders lie in. Out: `Evidence`.
May not know: how a number was made, or how anything is shown.

A report must not show answers that the certificate was not decided on, so each folder is compared with the digests the
certificate holds before anything of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.records import Item, judged_task
from evalkit.report.conversations import Conversations, conversations_of
from evalkit.report.flips import Changes, changes_of
from evalkit.store import Run, read_items, read_run
from evalkit.store.layout import MANIFEST

Data = Mapping[str, Any]

RERUN = "rerun"
"""What a certificate calls the baseline's second run."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What run folders show beyond the certificate.

    Attributes:
        changes: items whose mark changed, one entry for each run and endpoint.
        conversations: judged tasks by name.
        commands: name of a run to the command line that made it.
        absent: names of runs whose folder is not there.
    """

    changes: tuple[Changes, ...] = ()
    conversations: Mapping[str, Conversations] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def run_folders(document: Data, folder: Path) -> dict[str, Path]:
    """Return where the runs of a certificate lie if their folders are beside it: name of a run to its folder."""
    return {name: folder / str(run["folder"]) for name, run in document["runs"].items()}


def read_evidence(document: Data, runs: Mapping[str, Path]) -> Evidence:
    """Read the run folders of a certificate.

    Args:
        document: what `certificate.json` holds.
        runs: name of a run to its folder; one that is not there is named in the result.

    Raises:
        DataError: a folder holds other records or judgments than the certificate was decided on, or is damaged.
        StoreError: a file cannot be read.
    """
    absent = tuple(name for name in document["runs"] if name not in runs or not (runs[name] / MANIFEST).exists())
    here = {name: path for name, path in runs.items() if name in document["runs"] and name not in absent}
    commands: dict[str, str] = {}
    baseline = _read(document, "baseline", here)
    shown = [name for name in document.get("comparisons", {}) if name in here and name not in _controls(document)]
    shown.sort(key=lambda name: name == RERUN)  # what no change at all changes comes last
    changes: list[Changes] = []
    judged: dict[str, dict[str, Run]] = {}
    items = _Items(here)
    if baseline is not None:
        commands["baseline"] = baseline.manifest.command
        for name in shown:
            run = _read(document, name, here)
            if run is None:
                continue
            commands[name] = run.manifest.command
            changes += _changes(document, name, baseline, run, items)
            if name != RERUN:
                for judging in run.manifest.judges:
                    judged.setdefault(judged_task(judging), {"baseline": baseline})[name] = run
    return Evidence(
        changes=tuple(changes),
        conversations={
            task: conversations_of(task, found, items.of("baseline", task)) for task, found in judged.items()
        },
        commands={name: command for name, command in commands.items() if command},
        absent=absent,
    )


class _Items:
    """Items of runs, read once and only where something is shown."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._known: dict[tuple[str, str], dict[str, Item]] = {}

    def of(self, run: str, task: str) -> Mapping[str, Item]:
        """Return item key to item; empty where the folder has no items."""
        if (run, task) not in self._known:
            path = self._folders[run]
            try:
                self._known[run, task] = {item.key: item for item in read_items(path, task)}
            except DataError:
                if any((path / "items").glob("*.jsonl")):
                    raise
                self._known[run, task] = {}  # a run made of numbers alone, without texts
        return self._known[run, task]


def _controls(document: Data) -> list[str]:
    return list(document["policy"]["document"]["release"]["controls"])


def _read(document: Data, name: str, here: Mapping[str, Path]) -> Run | None:
    """Read a run and compare it with the certificate's digests."""
    if name not in here or name not in document["runs"]:
        return None
    run, cited = read_run(here[name]), document["runs"][name]
    for kind in ("records", "judgments"):
        for task, expected in cited[f"{kind}_sha256"].items():
            held = task in getattr(run, kind)
            found = getattr(run, f"{kind}_sha256")(task) if held else "no such task"
            if found != expected:
                raise DataError(
                    f"{here[name]}: its {kind} of task '{task}' are not those of the certificate (sha256 {found}, the "
                    f"certificate cites {expected}); next step: certify again, or name the folder of the certificate's "
                    "own runs"
                )
    return run


def _changes(document: Data, name: str, baseline: Run, run: Run, items: _Items) -> Iterator[Changes]:
    for endpoint, comparison in document["comparisons"][name].items():
        task, metric = comparison["task"], comparison["metric"]
        if comparison["proportion"] is None or task not in run.records or task not in baseline.records:
            continue
        other = run.manifest.tasks[task].prompts_sha256 != baseline.manifest.tasks[task].prompts_sha256
        yield changes_of(
            name,
            endpoint,
            metric,
            (baseline.records[task], run.records[task]),
            lambda task=task, other=other: (  # type: ignore[misc]
                items.of("baseline", task),
                items.of(name, task) if other else None,
            ),
        )
