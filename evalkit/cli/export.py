"""`evalkit export`: a run in the files of another tool.

In: a run folder. Out: files, and a count of what they hold and lack. May not know: how the files look.
"""

from __future__ import annotations

from pathlib import Path

import click

from evalkit.cli.options import any_path, existing_folder, json_option, print_json, print_table, say


@click.command(epilog="Example: evalkit export outputs/fp8 --output exports")
@click.argument("run", type=existing_folder)
@click.option("--output", type=any_path, required=True, help="Folder to write to.")
@click.option("--task", "tasks", multiple=True, help="Task of the run to write; may be repeated. All by default.")
@json_option
def command(run: Path, output: Path, tasks: tuple[str, ...], as_json: bool) -> None:
    """Write a run as lm-eval writes its own: results_*.json and samples_*.jsonl.

    Items without a score are left out and counted.
    """
    from evalkit.interop import export_lm_eval

    done = export_lm_eval(run, output, tasks=tasks or None)
    for note in done.notes:
        say(f"{run}: {note}")
    if as_json:
        print_json(
            {
                "files": [str(file) for file in done.files],
                "tasks": {
                    task: {"written": done.written[task], "failed": done.failed[task], "absent": done.absent[task]}
                    for task in done.written
                },
                "notes": list(done.notes),
            }
        )
        return
    rows = [(task, str(done.written[task]), str(done.failed[task]), str(done.absent[task])) for task in done.written]
    print_table(rows, ("task", "items written", "failed, left out", "absent, left out"))
    click.echo(f"{len(done.files)} files in {done.files[0].parent}")
