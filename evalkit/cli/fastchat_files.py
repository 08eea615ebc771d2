"""FastChat's files for `run import` and `report export`: their options, and what is said of them.

In: options. Out: a run folder or files, and a count of what they hold and lack.
Must not depend on: how the files look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import F, existing_file, existing_folder, ledger_at, out, print_json, print_table, say

if TYPE_CHECKING:
    from evalkit.interop.fastchat_export import FastChatMean
    from evalkit.interop.fastchat_import import FastChatImport
    from evalkit.records import Judgment

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
_EXPORT_OPTIONS = (
    click.option("--name", help="fastchat: model name in the files (default: the run's)."),
    click.option("--opponent", help="fastchat: model name of the opponent in pairwise games."),
)


def fastchat_import_options(verb: F) -> F:
    """Add the options of an import of FastChat's folder."""
    for option in reversed(_IMPORT_OPTIONS):
        verb = option(verb)
    return verb


def fastchat_export_options(verb: F) -> F:
    """Add the options of an export to FastChat's files."""
    for option in reversed(_EXPORT_OPTIONS):
        verb = option(verb)
    return verb


def import_folder(source: Path, output: Path, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Read one model's run out of FastChat's folder, and say what is in it and what is wrong with it."""
    from evalkit.certify.recording import record_import
    from evalkit.interop.fastchat_import import TASK, Choices, import_fastchat, write_fastchat_import
    from evalkit.store import read_run

    if len(given["tasks"]) > 1:
        raise click.UsageError("FastChat's folder holds one task; give at most one --task, as its name")
    choices = Choices(
        model=None if given["model"] == "unknown" else given["model"],
        judge=given["judge"],
        against=read_run(given["against"]) if given["against"] is not None else None,
        questions=given["questions"],
        duplicates=given["duplicates"],
        task=given["tasks"][0] if given["tasks"] else TASK,
        recipe=given["recipe"],
        fidelity=given["fidelity"],
    )
    imported = import_fastchat(source, choices)
    write_fastchat_import(imported, output)
    record_import(ledger_at(given["ledger"], output, given["history"]), output)
    for note in imported.notes:
        say(f"{source}: {note}")
    _show(imported, _shown_by_fastchat(source, imported), output, as_json=as_json)


def _shown_by_fastchat(source: Path, imported: FastChatImport) -> FastChatMean | None:
    from evalkit.interop.fastchat_export import fastchat_means
    from evalkit.interop.fastchat_rows import find_fastchat, read_rows

    rows = [row for file in find_fastchat(source).single for row in read_rows(file)]
    name = imported.manifest.engine.model
    return next((mean for mean in fastchat_means(rows) if mean.model == name), None)


def _show(imported: FastChatImport, shown: FastChatMean | None, output: Path, *, as_json: bool) -> None:
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


def export_folder(source: Path, output: Path, tasks: Sequence[str], given: Mapping[str, Any], *, as_json: bool) -> None:
    """Write a run's conversations in FastChat's files."""
    from evalkit.comparison.runs import label
    from evalkit.interop.fastchat_export import export_fastchat
    from evalkit.store import read_run

    run = read_run(source).trusted()
    found = list(tasks) or [name for name, task in run.manifest.tasks.items() if task.kind == "conversation"]
    if len(found) != 1:
        raise click.UsageError(f"FastChat's folder holds one task; name one with --task: {', '.join(found) or 'none'}")
    name = given["name"] or label(run.manifest).name or source.resolve().name
    done = export_fastchat(run, output, task=found[0], name=name, opponent=given["opponent"])
    for note in done.notes:
        say(f"{source}: {note}")
    counts = {
        "answers": done.answers,
        "failed": done.failed,
        "ratings": done.ratings,
        "games": done.games,
        "unrated": done.unrated,
    }
    if as_json:
        print_json({"files": [str(file) for file in done.files], **counts, "notes": list(done.notes)})
        return
    print_table([tuple(map(str, counts.values()))], tuple(counts))
    out(f"{len(done.files)} files in {output}")
