"""`evalkit doctor`: what works on this machine, and the next step for each gap.

In: a folder that runs would write to. Out: one line a finding. May not know: how anything is looked at.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from evalkit.cli.options import any_path, cache_folder, definitions_option, json_option, print_json, print_table


@click.command(epilog="Example: evalkit doctor --offline")
@definitions_option
@click.option("--outputs", type=any_path, default=Path("outputs"), show_default=True, help="Folder runs will write to.")
@click.option("--offline", is_flag=True, help="Do not try the sources of models and data sets.")
@json_option
def command(definitions: Path | None, outputs: Path, offline: bool, as_json: bool) -> None:
    """Say what works on this machine: versions, GPUs, extras, data sources; and the next step for each gap."""
    from evalkit.assets import AssetStore
    from evalkit.definitions import find_definitions
    from evalkit.doctor import examine

    store = AssetStore(find_definitions(definitions).root, cache=cache_folder())
    findings = list(examine(store, {"outputs": outputs, "cache": cache_folder()}, online=not offline))
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    rows = [(f"{f.area} {f.name}", f.state.upper() if f.state == "gap" else f.state, f.seen) for f in findings]
    print_table(rows, ("looked at", "", "seen"))
    for finding in findings:
        if finding.state == "gap":
            click.echo(f"next step for {finding.area} {finding.name}: {finding.next_step}")
