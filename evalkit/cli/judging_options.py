"""Options of every verb that puts questions to a judge, and who the judge is.

In: argv and the environment. Out: engine specifications, budgets, workshops.
Must not depend on: how a judge is asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.options import (
    F,
    any_path,
    cache_folder,
    command_line,
    execution_of,
    ledger_at,
    ledger_option,
    on_options,
    say,
)
from evalkit.cli.run import engine_options, parsed_options

if TYPE_CHECKING:
    from evalkit.certify.running import Workshop
    from evalkit.collect.ratings import Budget
    from evalkit.suite import EngineSpec

OPENAI = "openai"
"""Short for the adapter `openai_server` at the address of `OPENAI_BASE_URL`, with the key of `OPENAI_API_KEY`."""

ADDRESS_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
ADDRESS = "https://api.openai.com/v1"

_JUDGE_OPTIONS = (
    click.option("--profile", required=True, help="Judge profile; see: evalkit list judges."),
    click.option(
        "--judge",
        "judge_name",
        metavar="ADAPTER:MODEL",
        help="Short for --adapter and --model; openai:MODEL takes OPENAI_BASE_URL and OPENAI_API_KEY.",
    ),
    engine_options,
    click.option("--max-calls", type=click.IntRange(min=1), help="Maximum number of judge requests."),
    click.option(
        "--max-tokens", type=click.IntRange(min=1), help="Maximum number of judge tokens, input and output together."
    ),
    click.option(
        "--price",
        type=(click.FloatRange(min=0), click.FloatRange(min=0)),
        metavar="IN OUT",
        help="Price per million input and output tokens; prints an estimate first.",
    ),
    click.option(
        "--max-cost",
        type=click.FloatRange(min=0, min_open=True),
        help="Maximum cost, in the unit of --price.",
    ),
    click.option("--store", type=any_path, help="Judgment cache: stored judgments are reused."),
    ledger_option,
    on_options,
)


def judge_options(verb: F) -> F:
    """Add the options that name a judge and its limits."""
    for option in reversed(_JUDGE_OPTIONS):
        verb = option(verb)
    return verb


def judge_budget(given: Mapping[str, Any]) -> Budget:
    """Return the caps on what may be asked, and the prices."""
    from evalkit.collect.ratings import Budget

    if given["max_cost"] is not None and given["price"] is None:
        raise click.UsageError("--max-cost needs --price IN OUT, the prices per million input and output tokens")
    return Budget(**{name: given[name] for name in ("max_calls", "max_tokens", "price", "max_cost")})


def judge_engine(given: Mapping[str, Any], name: str = "judge") -> EngineSpec:
    """Return who judges, from `--judge`, or from `--adapter` and `--model`."""
    from evalkit.configuration import validate
    from evalkit.suite import EngineSpec

    wanted = {key: given[key] for key in ("adapter", "model", "recipe", "dtype", "device")}
    options: dict[str, Any] = parsed_options(given["options"])
    if given["judge_name"]:
        if given["adapter"] or given["model"]:
            raise click.UsageError("--judge names adapter and model; leave out --adapter and --model")
        wanted |= _short(given["judge_name"])
        options = {**wanted.pop("options", {}), **options}
    if not wanted["adapter"] or not wanted["model"]:
        raise click.UsageError("name the judge with --judge ADAPTER:MODEL, or with --adapter and --model")
    return validate(EngineSpec, {"name": name, **wanted, "options": options}, "command line")


def named_judge(text: str, name: str = "judge") -> EngineSpec:
    """Return the judge that `ADAPTER:MODEL` names."""
    from evalkit.configuration import validate
    from evalkit.suite import EngineSpec

    return validate(EngineSpec, {"name": name, **_short(text)}, "command line")


def _short(text: str) -> dict[str, Any]:
    adapter, colon, model = text.partition(":")
    if not colon or not adapter or not model:
        raise click.UsageError(f"--judge {text!r}: write ADAPTER:MODEL, such as openai:gpt-4o or hf:my-model")
    if adapter != OPENAI:
        return {"adapter": adapter, "model": model}
    options: dict[str, Any] = {"base_url": os.environ.get(ADDRESS_VARIABLE) or ADDRESS}
    if os.environ.get(KEY_VARIABLE):
        options["api_key_env"] = KEY_VARIABLE
    return {"adapter": "openai_server", "model": model, "options": options}


def workshop_of(given: Mapping[str, Any], run: Path) -> Workshop:
    """Return what judgings share; `run` is a run folder whose ledger they are put on record in."""
    from evalkit.assets import AssetStore
    from evalkit.certify.running import Workshop
    from evalkit.definitions import find_definitions
    from evalkit.suite import JUDGE

    definitions = find_definitions(given["definitions"])
    told = (lambda _line: None) if given["quiet"] else say
    return Workshop(
        assets=AssetStore(definitions.root, cache=cache_folder(), progress=told),
        definitions=definitions,
        say=told,
        progress=not given["quiet"],
        command=command_line(),
        execution=execution_of(given, JUDGE),
        ledger=ledger_at(given["ledger"], run, given["history"]),
    )


def judged_tasks(runs: Sequence[Path], tasks: Sequence[str]) -> list[str]:
    """Return the tasks named, or every conversation of the runs."""
    from evalkit.errors import UsageError
    from evalkit.store import read_manifest

    manifests = [read_manifest(path) for path in runs]
    found = list(tasks) or sorted({t for m in manifests for t, run in m.tasks.items() if run.kind == "conversation"})
    if not found:
        raise UsageError(f"no conversation to judge in {', '.join(map(str, runs))}")
    return found
