"""What a comparison sees of a run.

In: anything with a manifest, records and judgments. Out: the label under which reports name it.
May not know: files and folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from evalkit.comparison.plain import NOT_JSON
from evalkit.records import (
    Fidelity,
    ItemFacts,
    JudgeRun,
    Judgment,
    Manifest,
    Origin,
    Record,
    TaskRun,
    digest,
    origin_of,
)


class RunView(Protocol):
    """A run: `evalkit.store.Run`, or anything with these four."""

    @property
    def manifest(self) -> Manifest:
        """What the run says of itself."""

    @property
    def records(self) -> Mapping[str, Sequence[Record]]:
        """Task name to records, in any order."""

    @property
    def judgments(self) -> Mapping[str, Sequence[Judgment]]:
        """Task name to judgments, in any order; only judged tasks."""

    def facts(self, task: str) -> Mapping[str, ItemFacts]:
        """Return item key to what the item shares with others; empty where the items are not at hand."""


@dataclass(frozen=True, kw_only=True)
class RunLabel:
    """Who a run is.

    Attributes:
        name: name of the engine in its suite; None for a run outside a suite.
        adapter, model, recipe, recipe_sha256, fidelity: as in `EngineIdentity`.
        identity_sha256: digest of the whole identity.
        policy_sha256: policy in force when the run began; None for none.
        evalkit: version that collected it.
        origin: the model before quantization.
        run_id: equal for a run and its copy alone; drawn at random, so no part of a certificate.
        asking_sha256: digest of the order of items and of the engine's options, which set its batches; None where
            that is not known.
        smaller_batches: how a lack of memory changed its batches, one sentence each.
    """

    name: str | None
    adapter: str
    model: str
    recipe: str
    recipe_sha256: str | None
    fidelity: Fidelity
    identity_sha256: str
    policy_sha256: str | None
    evalkit: str
    origin: Origin
    run_id: str = field(repr=False, metadata=NOT_JSON)
    asking_sha256: str | None
    smaller_batches: tuple[str, ...] = ()


def label(manifest: Manifest) -> RunLabel:
    """Return a run's label."""
    engine = manifest.engine
    asked = manifest.requested.get("engine")
    name = asked.get("name") if isinstance(asked, Mapping) else None
    return RunLabel(
        name=name if isinstance(name, str) else None,
        adapter=engine.adapter,
        model=engine.model,
        recipe=engine.recipe,
        recipe_sha256=engine.recipe_sha256,
        fidelity=engine.fidelity,
        identity_sha256=engine.sha256,
        policy_sha256=manifest.policy_sha256,
        evalkit=manifest.evalkit,
        origin=origin_of(engine),
        # A run from before ids were drawn is known by when and how it began; a copy of it has the same.
        run_id=manifest.run_id or digest([manifest.created_at, manifest.command, manifest.requested]),
        asking_sha256=_asking(manifest),
        smaller_batches=manifest.smaller_batches,
    )


def _asking(manifest: Manifest) -> str | None:
    """Return the digest of what forms an engine's batches; None for a run that was not asked by evalkit."""
    asked = manifest.requested.get("engine")
    if "order_seed" not in manifest.requested or not isinstance(asked, Mapping):
        return None
    return digest({"order_seed": manifest.requested["order_seed"], "options": asked.get("options", {})})


def citable_task(task: TaskRun) -> TaskRun:
    """Return what a certificate says of a task: a folder of the machine is only called local, its digest stays."""
    source = task.dataset.get("source")
    here = isinstance(source, str) and source.startswith("local ")
    return replace(task, dataset={**task.dataset, "source": "local"}) if here else task


def citable_judge(judge: JudgeRun) -> JudgeRun:
    """Return what a certificate says of a judge: not how it was asked for, which names files of the machine."""
    return replace(judge, requested={})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why data may not be judged.

    Attributes:
        code: reason code of a verdict INVALID ("pairing", "coverage", "non-finite", "not-comparable", "estimate",
            "contradiction").
        message: what is wrong and the next step.
    """

    code: str
    message: str


def contradicted(side: str, run: RunView, task: str) -> list[Fault]:
    """Return a fault if a run's records of a task contradict their items, replies or digests.

    A run that was read from a folder knows (`evalkit.store.Run.contradictions`); one made in memory has no files.
    """
    found: Sequence[str] = getattr(run, "contradictions", {}).get(task, ())
    if not found:
        return []
    more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
    message = f"{side}: {found[0]}{more}; next step: restore the run folder, or run it again"
    return [Fault(code="contradiction", message=message)]
