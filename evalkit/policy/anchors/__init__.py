"""Accuracies that somebody else published: where a baseline must lie if it is the model it says it is.

In: a model's name, a recipe, a task with its protocol and metric. Out: `Anchor`, or None.
Must not depend on: runs, records. The figures are data, one file for each benchmark, beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from evalkit.configuration import Section, read_yaml, validate
from evalkit.records.manifest import model_key

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One published accuracy.

    Attributes:
        model: the model's name there.
        accuracy: proportion.
        tolerance: allowed distance of a baseline asked by evalkit, a proportion.
        source: document and version.
        protocol: how it was asked there.
    """

    model: str
    accuracy: float
    tolerance: float
    source: str
    protocol: str


class _Protocol(Section):
    """One way in which published figures were made.

    Attributes:
        stands_for: names of evalkit's own ways of asking that a figure of this protocol may be held against.
        tolerance_points: how far a baseline asked by evalkit may lie from it, percentage points.
    """

    stands_for: Annotated[tuple[str, ...], Field(min_length=1)]
    tolerance_points: Annotated[float, Field(gt=0, lt=100)]


class _Row(Section):
    """One published figure.

    Attributes:
        accuracy: proportion, between 0 and 1.
        protocol: how it was asked; a name of `protocols`.
        source: where it stands; a name of `sources`.
        recipe: recipe of the model that was asked; None for the model as it was published.
    """

    accuracy: Annotated[float, Field(gt=0, lt=1)]
    protocol: str
    source: str
    recipe: str | None = None


class AnchorTable(Section):
    """One file of published accuracies.

    Attributes:
        tasks: names of tasks that ask these questions.
        metric: metric of the figures, in lm-eval's words.
        protocols: name to how figures were made.
        sources: name to the document and its version.
        models: model to its published figures.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    metric: str
    protocols: dict[str, _Protocol]
    sources: dict[str, Annotated[str, Field(min_length=1)]]
    models: dict[str, Annotated[tuple[_Row, ...], Field(min_length=1)]]

    @model_validator(mode="after")
    def _words_are_explained(self) -> AnchorTable:
        faults = []
        for model, rows in self.models.items():
            faults += [f"{model}: protocol '{row.protocol}'" for row in rows if row.protocol not in self.protocols]
            faults += [f"{model}: source '{row.source}'" for row in rows if row.source not in self.sources]
        keys = [model_key(model) for model in self.models]
        faults += [
            f"{key}: a second model of that name" for key in sorted({key for key in keys if keys.count(key) > 1})
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self


@cache
def anchor_tables(folder: Path = FOLDER) -> tuple[AnchorTable, ...]:
    """Read every table.

    Raises:
        ConfigError: lists every fault of a file.
    """
    return tuple(validate(AnchorTable, read_yaml(path), str(path)) for path in sorted(folder.glob("*.yaml")))


def published_anchor(model: str, recipe: str, *, task: str, protocol: str, metric: str) -> Anchor | None:
    """Return the accuracy that was published for a model; None where none is known for this protocol.

    >>> found = published_anchor("Meta-Llama-3.1-405B-Instruct", "x", task="mmlu", protocol="ll-5shot", metric="acc")
    >>> found.accuracy if found else None
    0.873
    """
    for table in anchor_tables():
        if task not in table.tasks or metric != table.metric:
            continue
        rows = [
            (name, row) for name, rows in table.models.items() if model_key(name) == model_key(model) for row in rows
        ]
        rows = [
            (name, row) for name, row in rows if protocol in (row.protocol, *table.protocols[row.protocol].stands_for)
        ]
        rows = [(name, row) for name, row in rows if row.recipe in (None, recipe)]
        rows.sort(key=lambda found: (found[1].recipe is None, found[1].protocol != protocol))
        if rows:
            name, row = rows[0]
            return Anchor(
                model=name,
                accuracy=row.accuracy,
                tolerance=table.protocols[row.protocol].tolerance_points / 100.0,
                source=table.sources[row.source],
                protocol=row.protocol,
            )
    return None
