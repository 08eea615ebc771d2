"""A run divided into lm-eval's tasks.

In: a run folder's records and items. Out: one part for each task of lm-eval.
May not know: how files look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evalkit.errors import UsageError, suggestion
from evalkit.interop.lm_eval_rows import NEEDED
from evalkit.records import Item, Record, TaskRun
from evalkit.store import Run, read_items


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of lm-eval's tasks within one of evalkit's."""

    task: str
    subject: str
    name: str
    run: TaskRun
    items: tuple[Item, ...]
    records: Mapping[str, Record]

    @property
    def group(self) -> str:
        """lm-eval's group that was asked for; equal to `name` for a task that stands for itself."""
        return str(self.run.settings.get("lm_eval_task", self.name))

    @property
    def scored(self) -> list[tuple[Item, Record]]:
        """Items with a usable record, in lm-eval's row order."""
        found = [(item, self.records[item.key]) for item in self.items if item.key in self.records]
        scored = [(item, record) for item, record in found if record.marks]
        return sorted(scored, key=lambda pair: int(pair[0].details["doc_id"]))

    @property
    def absent(self) -> int:
        """Items without a record."""
        return sum(item.key not in self.records for item in self.items)


def parts_of(run: Run, tasks: Sequence[str] | None) -> tuple[list[Part], list[str]]:
    """Return the parts of a run, and a sentence for each task that does not come from lm-eval.

    Raises:
        UsageError: an unknown task, nothing from lm-eval, or two tasks that are one in lm-eval.
        DataError: the items are missing or damaged.
    """
    known = sorted(run.manifest.tasks)
    for name in tasks or ():
        if name not in known:
            raise UsageError(f"{run.path}: no task '{name}'{suggestion(name, known)}")
    parts: list[Part] = []
    claimed: dict[str, str] = {}
    notes = []
    for task in known if tasks is None else tasks:
        items = read_items(run.path, task)
        if any(key not in item.details for item in items for key in NEEDED):
            notes.append(f"task '{task}' does not come from lm-eval and was left out")
            continue
        for part in _split(run, task, items):
            _claim(run, claimed, part)
            parts.append(part)
    if not parts:
        raise UsageError("; ".join([f"{run.path}: nothing to write in lm-eval's format", *notes]))
    return parts, notes


def _claim(run: Run, claimed: dict[str, str], part: Part) -> None:
    for name in (part.name, part.group):
        other = claimed.setdefault(name, part.task)
        if other != part.task:
            raise UsageError(
                f"{run.path}: tasks '{other}' and '{part.task}' are both lm-eval's '{name}', which stands in a results "
                "file once; next step: export each with --task into a folder of its own"
            )


def _split(run: Run, task: str, items: Sequence[Item]) -> Iterator[Part]:
    records = {
        f"{record.task}/{record.subject}/{record.item_sha256}/{record.occurrence}": record
        for record in run.records[task]
        if record.sample == 0
    }
    for subject in dict.fromkeys(item.subject for item in items):
        own = tuple(item for item in items if item.subject == subject)
        yield Part(
            task=task,
            subject=subject,
            name=str(own[0].details["lm_eval_task"]),
            run=run.manifest.tasks[task],
            items=own,
            records=records,
        )
