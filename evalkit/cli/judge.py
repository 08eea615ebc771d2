"""`evalkit judge`: an LLM judge rates the answers in run folders.

In: run folders, a judge. Out: judgments in the folders and their counts.
May not know: which run is the baseline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evalkit.cli.options import (
    cache_folder,
    command_line,
    definitions_option,
    existing_folder,
    json_option,
    print_json,
    print_table,
    quiet_option,
    say,
)
from evalkit.cli.run import engine_options, parsed_options


@click.command(
    epilog="Example: evalkit judge outputs/a outputs/b --profile evalkit-rating-logprob --adapter hf "
    "--model smollm2-135m-instruct"
)
@click.argument("runs", nargs=-1, required=True, type=existing_folder)
@click.option("--profile", required=True, help="Judge profile; see: evalkit list judges.")
@click.option("--task", "tasks", multiple=True, help="Judged task; by default every conversation of the runs.")
@click.option("--repeats", default=1, show_default=True, help="Judgments of each answer.")
@click.option("--retry-failed", is_flag=True, help="Ask again where the judge gave no reply.")
@engine_options
@definitions_option
@quiet_option
@json_option
def command(runs: tuple[Path, ...], profile: str, tasks: tuple[str, ...], repeats: int, **given: Any) -> None:
    """Let an LLM judge rate the answers in run folders.

    All runs are judged in one mixed order, and equal answers are judged once. Give baseline and candidates together.
    """
    from evalkit.assets import AssetStore
    from evalkit.certify.judging import judge_runs
    from evalkit.certify.running import Workshop
    from evalkit.configuration import validate
    from evalkit.definitions import find_definitions
    from evalkit.errors import UsageError
    from evalkit.store import read_manifest
    from evalkit.suite import EngineSpec, JudgeSpec

    wanted = {key: given[key] for key in ("adapter", "model", "recipe", "dtype", "device")}
    data = {"name": "judge", **wanted, "options": parsed_options(given["options"])}
    spec = JudgeSpec(profile=profile, engine=validate(EngineSpec, data, "command line"), repeats=repeats)
    definitions = find_definitions(given["definitions"])
    told = (lambda _line: None) if given["quiet"] else say
    workshop = Workshop(
        assets=AssetStore(definitions.root, cache=cache_folder(), progress=told),
        definitions=definitions,
        say=told,
        progress=not given["quiet"],
        command=command_line(),
    )
    manifests = {path: read_manifest(path) for path in runs}
    found = tasks or sorted({t for m in manifests.values() for t, run in m.tasks.items() if run.kind == "conversation"})
    if not found:
        raise UsageError(f"no conversation to judge in {', '.join(map(str, runs))}")
    for task in found:
        judge_runs(list(runs), task, spec, workshop, retry_failed=given["retry_failed"])
    _show(runs, found, as_json=given["as_json"])


def _show(runs: tuple[Path, ...], tasks: Any, *, as_json: bool) -> None:
    from collections import Counter

    from evalkit.store import read_judgments

    counts = {
        (str(path), task): dict(sorted(Counter(j.status for j in read_judgments(path, task)).items()))
        for path in runs
        for task in tasks
    }
    if as_json:
        print_json([{"run": run, "task": task, "judgments": found} for (run, task), found in counts.items()])
        return
    rows = [(run, task, ", ".join(f"{n} {s}" for s, n in found.items())) for (run, task), found in counts.items()]
    print_table(rows, ("run", "task", "judgments"))
