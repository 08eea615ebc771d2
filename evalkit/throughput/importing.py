"""Files of throughput tools read as measurements.

In: one file of trtllm-bench, vLLM's benchmarks, GuideLLM, or a plain CSV; whose recipe it is. Out: `Measurement`s.
Must not depend on: how they are shown.

The kind of a file is known by its keys, never by its name. A rate that mixes input and output tokens is refused where
the output tokens alone cannot be told: it is not what the tables compare.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from evalkit.errors import DataError, StoreError, UsageError
from evalkit.throughput.measurement import Measurement, Mode

Data = Mapping[str, Any]

COLUMNS = ("recipe", "input_tokens", "output_tokens", "mode", "tokens_per_second")
"""Columns a CSV must have; `hardware`, `concurrency` and `requests` may be there too."""

_ONE_AT_A_TIME = 1.0 + 1e-9


def import_throughput(
    path: Path, *, recipe: str | None = None, lengths: tuple[int, int] | None = None, hardware: str = ""
) -> tuple[Measurement, ...]:
    """Read one file.

    Args:
        path: the file.
        recipe: whose numbers they are; a CSV says it itself.
        lengths: input and output tokens of a request, for a file that does not say them.
        hardware: declared by the user, for a file that does not say it.

    Raises:
        StoreError: the file cannot be read.
        UsageError: the recipe is not named, or lengths are needed.
        DataError: the file is of no known tool, or lacks a number.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from error
    if text.lstrip()[:1] in ("{", "["):
        if recipe is None:
            raise UsageError(f"{path}: recipe name missing for this file; next step: --measured RECIPE {path.name}")
        found = _from_json(path, text, recipe, lengths)
    else:
        found = _from_csv(path, text, recipe)
    sha256 = hashlib.sha256(raw).hexdigest()
    return tuple(
        replace(one, source=path.name, source_sha256=sha256, hardware=one.hardware or hardware) for one in found
    )


def _from_json(path: Path, text: str, recipe: str, lengths: tuple[int, int] | None) -> list[Measurement]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if isinstance(row, dict):
        if isinstance(row.get("performance"), dict) and isinstance(row.get("request_info"), dict):
            return [_trtllm_bench(path, row, recipe)]
        if isinstance(row.get("benchmarks"), list):
            return _guidellm(path, row, recipe)
        if "output_throughput" in row:
            return [_vllm_serve(path, row, recipe, lengths)]
        if "tokens_per_second" in row and "total_num_tokens" in row:
            return [_vllm_throughput(path, row, recipe, lengths)]
        if "avg_latency" in row:
            return [_vllm_latency(path, row, recipe, lengths)]
    raise DataError(
        f"{path}: no file of trtllm-bench, vLLM's benchmarks or GuideLLM; next step: write a CSV with the columns "
        f"{', '.join(COLUMNS)}"
    )


def _trtllm_bench(path: Path, row: Data, recipe: str) -> Measurement:
    info, speed = row["request_info"], row["performance"]
    concurrency = _number(path, info, "avg_num_concurrent_requests")
    world, engine = row.get("world_info") or {}, row.get("engine") or {}
    told = [f"{world['world_size']} GPU" if "world_size" in world else "", str(engine.get("version") or "")]
    return Measurement(
        recipe=recipe,
        input_tokens=round(_number(path, info, "avg_input_length")),
        output_tokens=round(_number(path, info, "avg_output_length")),
        mode=_mode(concurrency),
        tokens_per_second=_number(path, speed, "system_output_throughput_tok_s"),
        concurrency=concurrency,
        requests=_count(info.get("num_requests")),
        tool="trtllm-bench",
        hardware=", ".join(filter(None, told)),
    )


def _vllm_serve(path: Path, row: Data, recipe: str, lengths: tuple[int, int] | None) -> Measurement:
    completed = _number(path, row, "completed")
    if completed < 1:
        raise DataError(f"{path}: no request was completed")
    most = row.get("max_concurrency")
    concurrency = float(most) if isinstance(most, (int, float)) and not isinstance(most, bool) else None
    if lengths is None:
        lengths = tuple(  # type: ignore[assignment]
            round(_number(path, row, name) / completed) for name in ("total_input_tokens", "total_output_tokens")
        )
    assert lengths is not None
    return Measurement(
        recipe=recipe,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        mode="maximum" if concurrency is None else _mode(concurrency),
        tokens_per_second=_number(path, row, "output_throughput"),
        concurrency=concurrency,
        requests=round(completed),
        tool="vllm bench",
    )


def _vllm_throughput(path: Path, row: Data, recipe: str, lengths: tuple[int, int] | None) -> Measurement:
    known = _needed(path, lengths)
    requests, elapsed = _number(path, row, "num_requests"), _number(path, row, "elapsed_time")
    total = _number(path, row, "total_num_tokens")
    if elapsed <= 0 or not math.isclose(total, requests * sum(known), rel_tol=0.02):
        raise DataError(
            f"{path}: {requests:.0f} requests of {known[0]} | {known[1]} tokens are not the {total:.0f} tokens it "
            "counts, so its output tokens cannot be told; next step: name the lengths it was run with, exactly"
        )
    return Measurement(
        recipe=recipe,
        input_tokens=known[0],
        output_tokens=known[1],
        mode="maximum",
        tokens_per_second=requests * known[1] / elapsed,
        requests=round(requests),
        tool="vllm bench",
    )


def _vllm_latency(path: Path, row: Data, recipe: str, lengths: tuple[int, int] | None) -> Measurement:
    known = _needed(path, lengths)
    return Measurement(
        recipe=recipe,
        input_tokens=known[0],
        output_tokens=known[1],
        mode="batch1",
        tokens_per_second=known[1] / _number(path, row, "avg_latency"),
        concurrency=1.0,
        tool="vllm bench",
    )


def _guidellm(path: Path, row: Data, recipe: str) -> list[Measurement]:
    """Take the fastest of GuideLLM's runs for "maximum" and its synchronous one for "batch1"."""
    found: dict[tuple[Mode, int, int], Measurement] = {}
    for at, bench in enumerate(row["benchmarks"]):
        where = f"{path}: benchmark {at + 1}"
        metrics = bench.get("metrics") if isinstance(bench, dict) else None
        if not isinstance(metrics, dict):
            raise DataError(f"{where}: has no metrics")
        kind = _strategy(bench)
        concurrency = _mean(where, metrics, "request_concurrency")
        one = Measurement(
            recipe=recipe,
            input_tokens=round(_mean(where, metrics, "prompt_token_count")),
            output_tokens=round(_mean(where, metrics, "output_token_count")),
            mode="batch1" if kind == "synchronous" else _mode(concurrency),
            tokens_per_second=_mean(where, metrics, "output_tokens_per_second"),
            concurrency=concurrency,
            tool="guidellm",
        )
        key = (one.mode, one.input_tokens, one.output_tokens)
        if key not in found or found[key].tokens_per_second < one.tokens_per_second:
            found[key] = one
    if not found:
        raise DataError(f"{path}: no benchmark in it")
    return list(found.values())


def _strategy(bench: Data) -> str:
    """Return GuideLLM's word for how requests were sent: under `config` in newer files, under `args` in older ones."""
    for part in ("config", "args"):
        strategy = (bench.get(part) or {}).get("strategy")
        if isinstance(strategy, dict):
            return str(strategy.get("type_"))
    return ""


def _mean(where: str, metrics: Data, name: str) -> float:
    found = metrics.get(name)
    for key in ("successful", "mean"):
        found = found.get(key) if isinstance(found, dict) else None
    return _finite(where, f"{name}.successful.mean", found)


def _from_csv(path: Path, text: str, recipe: str | None) -> list[Measurement]:
    reader = csv.DictReader(io.StringIO(text))
    lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ()) and (name != "recipe" or not recipe)]
    if lacking:
        raise DataError(f"{path}: lacks the column(s) {', '.join(lacking)}; it needs {', '.join(COLUMNS)}")
    found = []
    for number, row in enumerate(reader, start=2):
        where = f"{path}:{number}"
        try:
            found.append(
                Measurement(
                    recipe=(row.get("recipe") or recipe or "").strip(),
                    input_tokens=int(row["input_tokens"]),
                    output_tokens=int(row["output_tokens"]),
                    mode=cast("Mode", str(row["mode"]).strip()),
                    tokens_per_second=float(row["tokens_per_second"]),
                    concurrency=float(row["concurrency"]) if row.get("concurrency") else None,
                    requests=int(row["requests"]) if row.get("requests") else None,
                    tool="csv",
                    hardware=(row.get("hardware") or "").strip(),
                )
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: {error}") from error
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if not found:
        raise DataError(f"{path}: no row in it")
    return found


def _mode(concurrency: float) -> Mode:
    return "batch1" if concurrency <= _ONE_AT_A_TIME else "maximum"


def _needed(path: Path, lengths: tuple[int, int] | None) -> tuple[int, int]:
    if lengths is None:
        raise UsageError(f"{path}: the file does not say its lengths; next step: --lengths INPUT:OUTPUT")
    return lengths


def _number(path: Path, row: Data, name: str) -> float:
    return _finite(f"{path}", name, row.get(name))


def _finite(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where}: '{name}' must be a number, not {value!r}")
    return float(value)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
