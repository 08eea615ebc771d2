"""`evalkit doctor`: what works on this machine, and the next step for each gap.

In: a folder that runs would write to, or an engine of a suite. Out: one line a finding.
May not know: how anything is looked at.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from evalkit.cli.options import any_path, cache_folder, definitions_option, json_option, print_json, print_table, say


@click.command(epilog="Example: evalkit doctor --offline")
@definitions_option
@click.option("--outputs", type=any_path, default=Path("outputs"), show_default=True, help="Folder runs will write to.")
@click.option("--offline", is_flag=True, help="Do not try the sources of models and data sets.")
@click.option(
    "--engine",
    metavar="SUITE#ENGINE",
    help="Load one engine of a suite instead, probe it, and print what it is. With --on: can each node have its model, "
    "and is there room for it? A suite alone stands for all its engines.",
)
@click.option(
    "--on", metavar="WHERE", help="Look at every node of a cluster instead: ray, auto, host:port, ray://host:port."
)
@json_option
def command(
    definitions: Path | None, outputs: Path, offline: bool, engine: str | None, on: str | None, as_json: bool
) -> int:
    """Say what works on this machine: versions, GPUs, extras, data sources; and the next step for each gap.

    With --engine: what one engine of a suite is, how it scores, and every warning, before hours are spent on it.
    With --on: versions, GPUs, disk and models on every node of a Ray cluster; exit code 5 if work would fail there.
    """
    if on is not None:
        from evalkit.cli.doctor_cluster import examine_cluster

        return examine_cluster(on, engine, as_json=as_json)
    if engine is not None:
        _check(engine, definitions, as_json=as_json)
        return 0
    from evalkit.assets import AssetStore
    from evalkit.definitions import find_definitions
    from evalkit.doctor import examine

    store = AssetStore(find_definitions(definitions).root, cache=cache_folder())
    findings = list(examine(store, {"outputs": outputs, "cache": cache_folder()}, online=not offline))
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return 0
    rows = [(f"{f.area} {f.name}", f.state.upper() if f.state == "gap" else f.state, f.seen) for f in findings]
    print_table(rows, ("looked at", "", "seen"))
    for finding in findings:
        if finding.state == "gap":
            click.echo(f"next step for {finding.area} {finding.name}: {finding.next_step}")
    return 0


def _check(suite_engine: str, definitions: Path | None, *, as_json: bool) -> None:
    from evalkit.adapters.base import Resources
    from evalkit.assets import AssetStore
    from evalkit.cli.run import engine_of_suite
    from evalkit.definitions import find_definitions
    from evalkit.engine_check import as_rows, check_engine
    from evalkit.errors import EngineError

    suite, spec = engine_of_suite(suite_engine, judge=True)
    found = find_definitions(definitions or suite.definitions)
    store = AssetStore(found.root, overrides=suite.assets, cache=cache_folder(), progress=say)
    check = check_engine(spec, Resources(assets=store))
    if as_json:
        print_json({**asdict(check), "scoring": check.scoring, "identity_sha256": check.identity.sha256})
    else:
        print_table(as_rows(check), ("engine", check.name, "seen"))
        for warning in check.warnings:
            click.echo(f"warning: {warning}")
        if not check.warnings:
            click.echo("no warnings")
    if not check.sound:
        raise EngineError(f"engine '{check.name}' neither scores nor generates; what it says above is the next step")
