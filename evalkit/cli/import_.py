"""`evalkit import`: another tool's output as a run folder.

In: lm-eval's output folder. Out: a run folder, and what must be known about it. May not know: how the files look.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from evalkit.cli.options import any_path, json_option, print_json, print_table, say
from evalkit.records import Fidelity

if TYPE_CHECKING:
    from evalkit.interop import Imported


@click.command(epilog="Example: evalkit import lm_eval_outputs/my-model-fp8 --output outputs/fp8 --recipe my-fp8")
@click.argument("source", type=any_path)
@click.option("--output", type=any_path, required=True, help="Run folder to write.")
@click.option("--task", "tasks", multiple=True, help="lm-eval task or group; may be repeated. All by default.")
@click.option("--metric", help="Mark that decides; acc by default, else the first that lm-eval lists.")
@click.option("--recipe", default="unknown", show_default=True, help="How the model was quantized; lm-eval cannot say.")
@click.option(
    "--fidelity", type=click.Choice(get_args(Fidelity)), default="engine", show_default=True, help="Kind of engine."
)
@json_option
def command(
    source: Path, output: Path, tasks: tuple[str, ...], metric: str | None, recipe: str, fidelity: str, as_json: bool
) -> None:
    """Read an lm-eval output folder (made with --log_samples) as a run that can be compared.

    SOURCE is lm-eval's --output_path, the folder of a model in it, or one results_*.json.
    """
    from evalkit.interop import import_lm_eval, write_imported

    imported = import_lm_eval(
        source, tasks=tasks or None, metric=metric, recipe=recipe, fidelity=cast("Fidelity", fidelity)
    )
    write_imported(imported, output)
    for note in imported.notes:
        say(f"{source}: {note}")
    _show(imported, output, as_json=as_json)


def _show(imported: Imported, output: Path, *, as_json: bool) -> None:
    counts = {
        task: {
            "metric": run.metric,
            "planned": run.planned,
            "scored": sum(record.status == "ok" for record in imported.records[task]),
            "failed": sum(record.status == "failed" for record in imported.records[task]),
            "missing": imported.missing[task],
        }
        for task, run in imported.manifest.tasks.items()
    }
    if as_json:
        print_json({"run": str(output), "tasks": counts, "notes": list(imported.notes)})
        return
    rows = [(task, *map(str, count.values())) for task, count in counts.items()]
    print_table(rows, ("task", "metric", "planned", "scored", "failed", "missing"))
    click.echo(f"run folder: {output}")
