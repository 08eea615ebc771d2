"""Options that say where engines run.

In: argv. Out: an `Execution`.
May not know: engines, Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import F

if TYPE_CHECKING:
    from evalkit.execution import Execution

on_option = click.option(
    "--on",
    metavar="WHERE",
    help="Where engines run: local, ray (a cluster as the suite or RAY_ADDRESS names it, else a Ray started here), or "
    "a cluster's address: auto, host:port, ray://host:port.",
)

_replicas_option = click.option("--replicas", type=click.IntRange(min=1), help="Copies of the engine, with --on ray.")


def on_options(verb: F) -> F:
    """Add the options of verbs that run one engine."""
    return on_option(_replicas_option(verb))


def execution_of(given: Mapping[str, Any], engine: str, execution: Execution | None = None) -> Execution:
    """Return where engines run, from a suite's section and the options.

    Args:
        given: the options.
        engine: name of the engine that `--replicas` is about.
        execution: of the suite; None without one.

    Raises:
        UsageError: `--on` is no place.
    """
    from evalkit.errors import UsageError
    from evalkit.execution import LOCAL, Execution, placed_on

    placed = placed_on(execution or Execution(), given["on"])
    replicas = given.get("replicas")
    if replicas is None:
        return placed
    if placed.on == LOCAL:
        raise UsageError("--replicas needs a cluster; next step: add --on ray")
    placement = placed.placement(engine)
    if placement.urls:
        raise UsageError(f"--replicas: the suite gives engine '{engine}' {len(placement.urls)} urls, one replica each")
    changed = placement.model_copy(update={"replicas": replicas})
    return placed.model_copy(update={"engines": {**placed.engines, engine: _said(changed)}})


def _said(placement: Any) -> Any:
    """Mark every setting as said, so that defaults do not take its place."""
    return placement.model_copy(update={name: getattr(placement, name) for name in type(placement).model_fields})
