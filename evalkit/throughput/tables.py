"""Tables of throughput: recipes down, lengths across, speedup against the official recipe.

In: measurements, the name of the baseline. Out: plain tables for a report.
May not know: where they are shown.

Measurements of different tools are never in one table, so no speedup compares one tool with another; what evalkit
measured itself is told apart from what was imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalkit.throughput.measurement import OWN, Measurement, Mode

MODES: dict[Mode, str] = {"maximum": "Maximum throughput", "batch1": "One request at a time (batch 1)"}

Lengths = tuple[int, int]


def throughput_tables(measurements: Sequence[Measurement], *, baseline: str) -> dict[str, Any]:
    """Return `{"tables": [{"title", "headers", "rows", "caption"}], "notes": [...]}`.

    Args:
        measurements: of any tools, in any order.
        baseline: name of the official recipe's run; "" where there is none.
    """
    tables = []
    tools = sorted({one.tool for one in measurements}, key=lambda tool: (tool != OWN, tool))
    for tool in tools:
        for mode, words in MODES.items():
            chosen = [one for one in measurements if one.tool == tool and one.mode == mode]
            if chosen:
                title = f"{words}, {'measured by evalkit' if tool == OWN else f'imported from {tool}'}"
                tables.append(_table(title, chosen, baseline))
    imported = [tool for tool in tools if tool != OWN]
    notes = []
    if imported:
        notes.append(f"Imported from {', '.join(imported)}: evalkit did not measure these and cannot vouch for them.")
    if OWN in tools:
        notes.append(
            "Measured by evalkit: its own adapters, one process, wall time of the whole batch; made to compare recipes "
            "with each other, not with a tuned server."
        )
    return {"tables": tables, "notes": notes}


def _table(title: str, chosen: Sequence[Measurement], baseline: str) -> dict[str, Any]:
    lengths = sorted({(one.input_tokens, one.output_tokens) for one in chosen})
    speeds = {(one.recipe, (one.input_tokens, one.output_tokens)): one.tokens_per_second for one in chosen}
    recipes = sorted({one.recipe for one in chosen}, key=lambda name: (name == baseline, name))
    headers = ["input | output tokens", *(f"{put_in:,} | {put_out:,}" for put_in, put_out in lengths)]
    rows = [[recipe, *(_speed(speeds.get((recipe, at))) for at in lengths)] for recipe in recipes]
    if baseline in recipes:
        rows += [
            [f"speedup, {recipe}", *(_speedup(speeds, recipe, baseline, at) for at in lengths)]
            for recipe in recipes
            if recipe != baseline
        ]
    hardware = sorted({one.hardware for one in chosen if one.hardware})
    where = f" Hardware: {'; '.join(hardware)}." if hardware else " Nobody says on which hardware."
    sources = sorted({f"{one.source} ({(one.source_sha256 or '')[:12]})" for one in chosen if one.source})
    files = f" Files: {', '.join(sources)}." if sources else ""
    against = f" Speedup against {baseline}." if baseline in recipes else " No speedup: the baseline was not measured."
    mixed = " HARDWARE DIFFERS between rows." if len(hardware) > 1 else ""
    return {
        "title": title,
        "headers": headers,
        "rows": rows,
        "caption": f"Output tokens a second of the whole system.{against}{where}{mixed}{files}",
    }


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _speedup(speeds: dict[tuple[str, Lengths], float], recipe: str, baseline: str, at: Lengths) -> str:
    mine, theirs = speeds.get((recipe, at)), speeds.get((baseline, at))
    return f"{mine / theirs:.2f}x" if mine is not None and theirs is not None else ""
