"""`evalkit doctor --on`: what the nodes of a cluster are, before work starts.

In: a cluster's address, a suite or one of its engines. Out: a table, next steps, an exit code.
May not know: how a node is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.execution_options import execution_of
from evalkit.cli.options import print_json, print_table
from evalkit.errors import ExitCode

if TYPE_CHECKING:
    from evalkit.execution import Execution, Placement
    from evalkit.suite import EngineSpec, Suite


def examine_cluster(on: str, suite_engine: str | None, *, as_json: bool) -> int:
    """Look at every node and print what was seen; exit code 5 if work would fail.

    Args:
        on: where, as `--on` has it.
        suite_engine: a suite, or one engine of it as `suite.yaml#name`; None for the nodes alone.
        as_json: print JSON.
    """
    from evalkit.cluster.nodes import look_at_nodes, remarks
    from evalkit.execution import LOCAL

    suite, specs = _engines(suite_engine)
    execution = execution_of({"on": on}, "", suite.execution if suite is not None else None)
    placements = _placements(suite, specs, execution)
    urls = sorted({url for placement in placements.values() for url in placement.urls} | _addresses(specs, placements))
    models = {name: spec.model for name, spec in specs.items() if not _by_address(spec, placements[name])}
    if execution.on == LOCAL:
        raise click.UsageError("--on local is this machine; for it leave out --on")
    reports = look_at_nodes(execution, models, urls)
    found = remarks(reports, placements, concurrent=execution.concurrent)
    gaps = [remark for remark in found if remark.state == "gap"]
    if as_json:
        print_json({"nodes": [asdict(report) for report in reports], "remarks": [asdict(remark) for remark in found]})
    else:
        rows = [(f"{r.where}: {r.what}", r.state.upper() if r.state == "gap" else r.state, r.seen) for r in found]
        print_table(rows, ("looked at", "", "seen"))
        for remark in gaps:
            click.echo(f"next step for {remark.where}: {remark.what}: {remark.next_step}")
    return ExitCode.FAILED if gaps else ExitCode.CERTIFIED


def _engines(suite_engine: str | None) -> tuple[Suite | None, dict[str, EngineSpec]]:
    from evalkit.cli.remote import url_place
    from evalkit.cli.run import engine_of_suite
    from evalkit.suite import load_suite

    if suite_engine is None:
        return None, {}
    if "#" in suite_engine:
        suite, spec = engine_of_suite(suite_engine, judge=True)
        return suite, {spec.name: spec}
    suite = load_suite(Path(suite_engine), place=url_place)
    judges = () if suite.judge is None else (suite.judge.engine, *(one.engine for one in suite.judge.panel))
    return suite, {spec.name: spec for spec in (*judges, *suite.engines)}


def _placements(suite: Suite | None, specs: Mapping[str, EngineSpec], execution: Execution) -> dict[str, Placement]:
    from evalkit.execution import JUDGE

    if suite is None:
        return {}
    judges = set() if suite.judge is None else {suite.judge.engine.name, *(p.engine.name for p in suite.judge.panel)}
    return {name: execution.placement(name, *([JUDGE] if name in judges else [])) for name in specs}


def _by_address(spec: EngineSpec, placement: Placement) -> bool:
    return bool(placement.urls) or "base_url" in spec.options


def _addresses(specs: Mapping[str, EngineSpec], placements: Mapping[str, Placement]) -> set[str]:
    """Return the addresses that engines are asked at themselves, where no replicas have their own."""
    found: dict[str, Any] = {name: spec.options.get("base_url") for name, spec in specs.items()}
    return {str(url) for name, url in found.items() if url and not placements[name].urls}
