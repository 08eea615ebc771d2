"""`evalkit run import`: another tool's output as a run folder.

In: another tool's output. Out: a run folder, and what must be known about it. Must not depend on: how the files look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from evalkit.cli.invocation import LedgerOptions, into
from evalkit.cli.options import (
    F,
    any_path,
    existing_file,
    existing_folder,
    json_option,
    ledger_at,
    ledger_option,
    out,
    print_json,
    print_table,
    refuse,
    say,
    verb,
)
from evalkit.records import Fidelity

if TYPE_CHECKING:
    from evalkit.interop import Imported
    from evalkit.interop.fastchat_export import FastChatMean
    from evalkit.interop.fastchat_import import FastChatImport
    from evalkit.records import Judgment

TAKEN = {
    "lm-eval": ("tasks", "metric"),
    "nel": ("metric", "model", "repeat"),
    "fastchat": ("tasks", "model", "judge", "against", "questions", "duplicates"),
}
"""Parameters that a format makes use of, beside those that every format has."""


_IMPORT_OPTIONS = (
    click.option("--judge", help="fastchat: judge to take, where there are several."),
    click.option("--against", type=existing_folder, help="fastchat: imported run of the opponent in the games."),
    click.option("--questions", type=existing_file, help="fastchat: question.jsonl, if the folder has none."),
    click.option(
        "--duplicates",
        type=click.Choice(("first", "last")),
        help="fastchat: row to take where rows contradict one another.",
    ),
)


def fastchat_import_options(verb: F) -> F:
    """Add the options of an import of FastChat's folder."""
    for option in reversed(_IMPORT_OPTIONS):
        verb = option(verb)
    return verb


@dataclass(frozen=True, kw_only=True)
class Options(LedgerOptions):
    """What the command line asks."""

    source: Path
    form: str
    output: Path
    tasks: tuple[str, ...]
    metric: str | None
    model: str
    repeat: int
    recipe: str
    fidelity: Fidelity
    judge: str | None
    against: Path | None
    questions: Path | None
    duplicates: str | None
    as_json: bool


@verb(example="evalkit run import lm_eval_outputs/my-model-fp8 --output outputs/fp8 --recipe my-fp8")
@click.argument("source", type=any_path)
@click.option("--format", "form", type=click.Choice(tuple(TAKEN)), default="lm-eval", show_default=True)
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
@into(Options)
def command(options: Options) -> None:
    """Read another tool's output as a run; its content limits what can be decided from it.

    SOURCE is, for lm-eval (run with --log_samples), its --output_path, the folder of a model in it, or one
    results_*.json; for nel (NeMo Evaluator) the folder of one benchmark with its results.jsonl; for fastchat its
    data/mt_bench with answers and judgments of both modes.
    """
    refuse(f"format {options.form} has no such thing", *sorted(_own() - set(TAKEN[options.form])))
    if options.form == "fastchat":
        _fastchat(options)
        return
    from evalkit.certify.recording import record_import
    from evalkit.interop import import_lm_eval, import_nel, write_imported

    declared: dict[str, Any] = {
        "recipe": options.recipe,
        "fidelity": options.fidelity,
        "metric": options.metric,
    }
    if options.form == "nel":
        imported = import_nel(options.source, model=options.model, repeat=options.repeat, **declared)
    else:
        imported = import_lm_eval(options.source, tasks=options.tasks or None, **declared)
    write_imported(imported, options.output)
    record_import(ledger_at(options.ledger, options.output, options.history), options.output)
    for note in imported.notes:
        say(f"{options.source}: {note}")
    _show(imported, options.output, as_json=options.as_json)


def _own() -> set[str]:
    """Return the parameters that only some formats have."""
    return {name for taken in TAKEN.values() for name in taken}


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


def _fastchat(options: Options) -> None:
    """Read one model's run out of FastChat's folder, and say what is in it and what is wrong with it."""
    from evalkit.certify.recording import record_import
    from evalkit.interop.fastchat_import import TASK, Choices, import_fastchat, write_fastchat_import
    from evalkit.store import read_run

    if len(options.tasks) > 1:
        raise click.UsageError("FastChat's folder holds one task; give at most one --task, as its name")
    choices = Choices(
        model=None if options.model == "unknown" else options.model,
        judge=options.judge,
        against=read_run(options.against) if options.against is not None else None,
        questions=options.questions,
        duplicates=options.duplicates,
        task=options.tasks[0] if options.tasks else TASK,
        recipe=options.recipe,
        fidelity=options.fidelity,
    )
    imported = import_fastchat(options.source, choices)
    write_fastchat_import(imported, options.output)
    record_import(ledger_at(options.ledger, options.output, options.history), options.output)
    for note in imported.notes:
        say(f"{options.source}: {note}")
    _show_fastchat(imported, _shown_by_fastchat(options.source, imported), options.output, as_json=options.as_json)


def _shown_by_fastchat(source: Path, imported: FastChatImport) -> FastChatMean | None:
    from evalkit.interop.fastchat_export import fastchat_means
    from evalkit.interop.fastchat_rows import find_fastchat, read_rows

    rows = [row for file in find_fastchat(source).single for row in read_rows(file)]
    name = imported.manifest.engine.model
    return next((mean for mean in fastchat_means(rows) if mean.model == name), None)


def _show_fastchat(imported: FastChatImport, shown: FastChatMean | None, output: Path, *, as_json: bool) -> None:
    from evalkit.comparison import to_plain

    counts = {
        name: {
            "planned": imported.manifest.judges[name].planned,
            "imported": len(found),
            "by_status": dict(sorted(Counter(one.status for one in found).items())),
        }
        for name, found in imported.judgments.items()
    }
    failed = sum(record.status == "failed" for record in imported.records)
    if as_json:
        print_json(
            {
                "run": str(output),
                "model": imported.manifest.engine.model,
                "answers": {"planned": len(imported.items), "found": len(imported.records), "failed": failed},
                "judgments": counts,
                "fastchat": to_plain(shown),
                "notes": list(imported.notes),
            }
        )
        return
    rows = [
        (name, str(imported.manifest.judges[name].planned), str(len(found)), _statuses(found))
        for name, found in imported.judgments.items()
    ]
    print_table(rows, ("judging", "planned", "imported", "by status"))
    out(f"answers: {len(imported.records)} of {len(imported.items)} questions, {failed} failed")
    if shown is not None:
        out(_fastchat_line(shown))
    out(f"run folder: {output}")


def _fastchat_line(shown: FastChatMean) -> str:
    turns = ", ".join(f"turn {turn} {value:.6f}" for turn, value in shown.turns.items())
    average = "none" if shown.average is None else f"{shown.average:.6f}"
    hidden = []
    if shown.dropped:
        hidden.append(f"{shown.dropped} rows of -1 passed over")
    if len(shown.judges) > 1:
        hidden.append(f"{len(shown.judges)} judges or prompts mixed")
    if shown.duplicates:
        hidden.append(f"{shown.duplicates} duplicate rows averaged in")
    said = f" ({', '.join(hidden)})" if hidden else ""
    return f"FastChat's show_result would say: {turns}, average {average}{said}"


def _statuses(found: Sequence[Judgment]) -> str:
    return ", ".join(f"{n} {status}" for status, n in sorted(Counter(one.status for one in found).items()))
