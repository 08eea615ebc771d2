"""`evalkit compare`: two run folders, item by item.

In: two run folders. Out: effect sizes for every task both have; no verdict.
Must not depend on: policies' verdicts; those are `evalkit certify`'s.
"""

from __future__ import annotations

from pathlib import Path

import click

from evalkit.cli.options import json_option, out_page, print_json, say, verb
from evalkit.cli.remote import read_folder, with_places
from evalkit.errors import ExitCode, NotComparableError


@verb(example="evalkit compare outputs/cpu-demo/official-fp8 outputs/cpu-demo/int4-awq")
@click.argument("baseline", type=read_folder)
@click.argument("candidate", type=read_folder)
@click.option("--task", "tasks", multiple=True, help="Only this task; may be repeated.")
@click.option("--subjects/--no-subjects", default=True, show_default=True, help="Show the table of subjects.")
@json_option
@with_places
def command(baseline: Path, candidate: Path, tasks: tuple[str, ...], subjects: bool, as_json: bool) -> int:
    """Compare two run folders item by item; the difference is always candidate minus baseline.

    It estimates and explains; a verdict needs a policy written down before the run: evalkit certify.
    Exit code 0, or 4 if some task may not be compared or gives no estimate (the reasons are printed).
    """
    from evalkit.certify.reading import read_checked
    from evalkit.comparison.compare import compare
    from evalkit.report.comparison import comparison_sections
    from evalkit.report.sections import as_text

    runs = read_checked(baseline), read_checked(candidate)
    shared = sorted(set(runs[0].manifest.tasks) & set(runs[1].manifest.tasks))
    chosen = list(tasks) or shared
    if not chosen:
        have = [", ".join(sorted(run.manifest.tasks)) or "none" for run in runs]
        raise NotComparableError(f"the runs share no task: {baseline} has {have[0]}; {candidate} has {have[1]}")
    if not tasks:
        for name in sorted(set(runs[0].manifest.tasks) ^ set(runs[1].manifest.tasks)):
            say(f"not compared: only {baseline if name in runs[0].manifest.tasks else candidate} has task '{name}'")
    for path, run in ((baseline, runs[0]), (candidate, runs[1])):
        for name in chosen:
            for what in run.unchecked.get(name, ()):
                say(f"{path}: task '{name}', not computed again: {what}")
    found = [compare(runs[0], runs[1], task) for task in chosen]
    if as_json:
        print_json([comparison.to_dict() for comparison in found])
    else:
        for comparison in found:
            out_page(as_text(comparison_sections(comparison.to_dict(), subjects=subjects)))
    for comparison in found:
        if not comparison.estimated:
            say(
                f"task '{comparison.task}': no estimate: nothing that both runs have was scored; next step: score or "
                "judge the answers of both (evalkit judge), then repeat the same command"
            )
    sound = all(not one.faults and not one.blocking and one.estimated for one in found)
    return ExitCode.CERTIFIED if sound else ExitCode.INVALID
