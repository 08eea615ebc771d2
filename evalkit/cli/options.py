"""Options that several verbs share, and the few places where the environment is read.

In: argv and environment variables. Out: asset stores, definitions, JSON on stdout.
May not know: what a verb does with them.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from evalkit.redaction import redact_text

F = TypeVar("F", bound=Callable[..., Any])

CACHE_VARIABLE = "EVALKIT_CACHE"

existing_folder = click.Path(path_type=Path, exists=True, file_okay=False)
existing_file = click.Path(path_type=Path, exists=True, dir_okay=False)
any_path = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
definitions_option = click.option(
    "--definitions", type=existing_folder, default=None, help="Folder with tasks/ and judges/ to use instead."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress on stderr.")


def cache_folder() -> Path:
    """Return the folder for downloads: `$EVALKIT_CACHE`, else `~/.cache/evalkit`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "evalkit"


def command_line() -> str:
    """Return the command line as a person would type it again."""
    return redact_text(shlex.join(["evalkit", *sys.argv[1:]]))


def say(message: str) -> None:
    """Write one line of progress to stderr."""
    click.echo(redact_text(message), err=True)


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a value as JSON; NaN is refused."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True))


def print_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    """Print rows as a table; numbers are already text."""
    from tabulate import tabulate

    click.echo(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))
