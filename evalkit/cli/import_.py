"""`evalkit run import`: another tool's output as a run folder.

In: another tool's output. Out: a run folder, and what must be known about it. Must not depend on: how the files look.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from evalkit.cli.fastchat_files import fastchat_import_options, import_folder
from evalkit.cli.options import any_path, json_option, ledger_at, ledger_option, out, print_json, print_table, say, verb
from evalkit.records import Fidelity

if TYPE_CHECKING:
    from evalkit.interop import Imported

FORMATS = ("lm-eval", "nel", "fastchat")


@verb(example="evalkit run import lm_eval_outputs/my-model-fp8 --output outputs/fp8 --recipe my-fp8")
@click.argument("source", type=any_path)
@click.option("--format", "form", type=click.Choice(FORMATS), default="lm-eval", show_default=True)
@click.option("--output", type=any_path, required=True, help="Run folder to write.")
@click.option("--task", "tasks", multiple=True, help="lm-eval task or group; may be repeated. All by default.")
@click.option("--metric", help="Metric to compare on (default: acc; nel: reward; else the first one in the file).")
@click.option("--model", default="unknown", help="Model name (nel: not in the files; fastchat: which model's answers).")
@click.option(
    "--repeat", type=click.IntRange(min=0), default=0, help="nel: index of the answer to use where there are several."
)
@click.option(
    "--recipe", default="unknown", show_default=True, help="Recipe name to record; these files do not contain it."
)
@click.option(
    "--fidelity",
    type=click.Choice(get_args(Fidelity)),
    default="engine",
    show_default=True,
    help="Fidelity label to record.",
)
@fastchat_import_options
@ledger_option
@json_option
def command(source: Path, form: str, output: Path, as_json: bool, **given: Any) -> None:
    """Read another tool's output as a run; its content limits what can be decided from it.

    SOURCE is, for lm-eval (run with --log_samples), its --output_path, the folder of a model in it, or one
    results_*.json; for nel (NeMo Evaluator) the folder of one benchmark with its results.jsonl; for fastchat its
    data/mt_bench with answers and judgments of both modes.
    """
    if form == "fastchat":
        import_folder(source, output, given, as_json=as_json)
        return
    from evalkit.certify.recording import record_import
    from evalkit.interop import import_lm_eval, import_nel, write_imported

    declared: dict[str, Any] = {
        "recipe": given["recipe"],
        "fidelity": cast("Fidelity", given["fidelity"]),
        "metric": given["metric"],
    }
    if form == "nel":
        if given["tasks"]:
            raise click.UsageError("--task is lm-eval's; a folder of nel holds one benchmark")
        imported = import_nel(source, model=given["model"], repeat=given["repeat"], **declared)
    else:
        imported = import_lm_eval(source, tasks=given["tasks"] or None, **declared)
    write_imported(imported, output)
    record_import(ledger_at(given["ledger"], output, given["history"]), output)
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
    out(f"run folder: {output}")
