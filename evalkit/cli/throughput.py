"""`evalkit report throughput`: measured throughput of other tools, as tables and for the report.

In: files of trtllm-bench, vLLM's benchmarks, GuideLLM, or CSV. Out: `throughput.json`, tables.
Must not depend on: how the files look.
"""

from __future__ import annotations

from pathlib import Path

import click

from evalkit.cli.options import any_path, existing_file, json_option, out, print_json, print_table, say, verb
from evalkit.throughput.measurement import parse_lengths


@verb(
    example="evalkit report throughput --measured official-fp8 fp8.json --measured int4-awq awq.json "
    "--baseline official-fp8 --output outputs/cpu-demo/throughput.json"
)
@click.option(
    "--measured",
    multiple=True,
    type=(str, existing_file),
    metavar="RECIPE FILE",
    help="Recipe name in the certificate, and a file measured with it; may be repeated.",
)
@click.option("--csv", "tables", multiple=True, type=existing_file, help="CSV file with a column for the recipe.")
@click.option(
    "--lengths", metavar="INPUT:OUTPUT", help="Input and output tokens of a request, for files that lack them."
)
@click.option("--hardware", default="", help="Hardware label, for files that lack one.")
@click.option("--baseline", default="", help="Recipe that the speedup is relative to.")
@click.option("--output", type=any_path, help="File to write; measurements of evalkit run bench in it are kept.")
@json_option
def command(
    measured: tuple[tuple[str, Path], ...],
    tables: tuple[Path, ...],
    lengths: str | None,
    hardware: str,
    baseline: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Read measured throughput and show it: output tokens per second by input and output length, and speedup.

    `evalkit certify` and `evalkit report` show throughput.json that lies beside the certificate, apart from everything
    evalkit itself says: speed takes no part in a verdict.
    """
    from evalkit.cli.report import write_named
    from evalkit.throughput import import_throughput, read_throughput, throughput_json, throughput_tables
    from evalkit.throughput.measurement import OWN

    if not measured and not tables:
        raise click.UsageError("name at least one --measured RECIPE FILE or --csv FILE")
    known = parse_lengths(lengths) if lengths else None
    found = [
        one
        for recipe, path in measured
        for one in import_throughput(path, recipe=recipe, lengths=known, hardware=hardware)
    ]
    found += [one for path in tables for one in import_throughput(path, lengths=known, hardware=hardware)]
    if output is not None and output.exists():
        found += [one for one in read_throughput(output) if one.tool == OWN]
    text = throughput_json(found)
    if output is not None:
        write_named(output, text)
        say(f"written: {output}")
    shown = throughput_tables(found, baseline=baseline)
    if as_json:
        print_json(shown)
        return
    for table in shown["tables"]:
        for line in ("", table["title"], ""):
            out(line)
        print_table(table["rows"], table["headers"])
        out(table["caption"])
