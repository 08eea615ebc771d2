"""Details of lighteval, and of the first Open LLM Leaderboard, read as a run: parquet, JSON lines or a JSON array.

In: a folder with `details_<task>_<date>.parquet` and `results_<date>.json`, or one file of details. Out: an `Imported`.
Must not depend on: which run is the baseline; lighteval is not imported. Parquet needs pyarrow (extra `parquet`).

Since 0.11 a row holds `doc`, `model_response` and `metric`; before, and on the leaderboard, it was flat. Details of the
second leaderboard are samples of lm-eval, and are read as such.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError
from evalkit.interop import foreign_files
from evalkit.interop.foreign_files import LIGHTEVAL as TOOL
from evalkit.interop.foreign_files import kind_of_object, kind_of_row, parse_object, read_text
from evalkit.interop.lm_eval_import import Imported
from evalkit.interop.row_import import (
    Asked,
    AskedRow,
    Declared,
    count,
    digests,
    identity,
    imported_run,
    number,
    time_of,
)
from evalkit.interop.row_rules import Total

STEP = "next step: give the file as lighteval wrote it"

_DATED = re.compile(r"_?(\d{4}-\d\d-\d\dT\d\d[-:]\d\d[-:]\d\d(?:\.\d+)?)$")
_MARKS = re.compile(r"^(acc|em|qem|pem|pqem|f1|mc[12]|exact_match|bleu|rouge|bits|byte|word|extractive|pass@|maj@)")
_NOT_MARKS = ("truncated", "padded", "non_truncated", "non_padded")
_GOOD = re.compile(r"^(acc|em|qem|pem|pqem|f1|mc[12]|exact_match|bleu|rouge|extractive|pass@|maj@)")
_MEANS = ("mean", "average", "np.mean", "numpy.mean")


def read_parquet(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a parquet file.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: no parquet file, or cut off.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise UsageError(
            f"{file}: a parquet file, which needs pyarrow; next step: pip install 'evalkit-quant[parquet]'"
        ) from error
    try:
        rows: list[dict[str, Any]] = read_table(file, memory_map=False).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as parquet: {error!s:.120}; {STEP}") from error
    return rows


def import_lighteval(files: Sequence[Path], root: Path, declared: Declared) -> Imported:
    """Read details of one run.

    Args:
        files: details and results files, told from other files by their content.
        root: the folder they were found in.
        declared: what the user says.

    Raises:
        UsageError: several runs, or pyarrow is missing.
        DataError: a file cannot be read, or contradicts the results.
        StoreError: a file cannot be read.
    """
    details = [file for file in files if not _is_results_file(file)]
    results = [file for file in files if file not in details]
    if not details:
        raise DataError(f"{root}: results of lighteval without details; totals alone support no verdict; {STEP}")
    stamps = sorted({_named(file)[1] for file in details})
    if len(stamps) > 1:
        raise UsageError(
            f"{root}: details of {len(stamps)} runs ({', '.join(stamps):.200}); next step: name the folder of one date"
        )
    results = [file for file in (results or _near(root)) if not stamps[0] or _named(file)[1] == stamps[0]]
    if len(results) > 1:
        raise UsageError(
            f"{root}: {len(results)} results files ({', '.join(file.name for file in results):.200}) for one run of "
            "details; next step: leave one there"
        )
    told = parse_object(read_text(results[0]), f"{results[0]}") if results else {}
    general = told.get("config_general")
    general = general if isinstance(general, Mapping) else {}
    notes = [] if results else [f"{root}: no results file of this run, so nothing published is held against the rows"]
    return imported_run(
        TOOL,
        [_task(file, results[0] if results else None, told) for file in details],
        _identity(general, declared),
        digests(root, [*details, *results]),
        time_of(stamps[0] or None, details[0]),
        declared,
        notes,
    )


def _is_results_file(file: Path) -> bool:
    """Say whether a file is one object of results, and not rows of details in JSON."""
    if file.suffix != ".json":
        return False
    text = read_text(file).lstrip()
    if text[:1] != "{" or (text.partition("\n")[0].rstrip()[-1:] == "}" and "\n{" in text.rstrip()):
        return False
    return kind_of_object(parse_object(text, f"{file}")) == TOOL


def _near(root: Path) -> list[Path]:
    """Return results files where lighteval writes them beside details: `results/<model>/` and the folders above."""
    found: dict[Path, None] = {}
    for folder in list(root.parents)[:4] if root.is_dir() else [root.parent, *list(root.parents)[1:5]]:
        for file in sorted([*folder.glob("results_*.json"), *folder.glob("results/**/results_*.json")]):
            found[file] = None
    return [file for file in found if _is_results_file(file)]


def _named(file: Path) -> tuple[str, str]:
    """Return task and date of a file's name; "" for a part that is not there.

    >>> _named(Path("details_leaderboard|arc:challenge|25_2024-01-02T03-04-05.678.parquet"))
    ('leaderboard|arc:challenge|25', '2024-01-02T03-04-05.678')
    """
    found = _DATED.search(file.stem)
    stamp = found.group(1).replace(":", "-") if found else ""
    return _DATED.sub("", file.stem).removeprefix("details_").removeprefix("results"), stamp


def _rows_of(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open("rb") as opened:
        parquet = opened.read(4) == b"PAR1"
    if not parquet:
        yield from foreign_files.read_rows(file)
        return
    for number_of, row in enumerate(read_parquet(file), start=1):
        yield f"{file}: row {number_of}", row


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def _task(file: Path, results_file: Path | None, told: Mapping[str, Any]) -> Asked:
    rows = []
    title = _named(file)[0]
    shots = 0
    for where, row in _rows_of(file):
        if kind_of_row(row) != TOOL:
            raise DataError(f"{where}: no details of lighteval ({', '.join(map(str, row))!s:.120}); {STEP}")
        doc = _part(row, "doc")
        title = str(doc.get("task_name") or title)
        shots = max(shots, count(_first_of(doc, row, "num_effective_few_shots", "num_asked_few_shots")))
        rows.append(_row(where, row, doc))
    results = told.get("results")
    results = results if isinstance(results, Mapping) else {}
    wanted = {_plain(title), _plain(_named(file)[0])}
    key = next((name for name in results if _plain(str(name)) in wanted), None)
    config = told.get("config_tasks")
    config = config if isinstance(config, Mapping) else {}
    shared = next((one for name, one in config.items() if _shared(str(name), wanted)), None)
    asked: Mapping[str, Any] = shared if isinstance(shared, Mapping) else {}
    marks = {mark for row in rows for mark in row.marks}
    totals = list(_totals(results_file, results[key], asked)) if key is not None and results_file is not None else []
    notes = []
    if results_file is not None and key is None:
        notes.append(f"task '{title}': {results_file.name} has no totals of it")
    versions = told.get("versions")
    version = (
        next((one for name, one in versions.items() if _plain(str(name)) in wanted), None)
        if isinstance(versions, Mapping)
        else None
    )
    return Asked(
        name=title or file.stem,
        tool=TOOL,
        rows=rows,
        planned=_planned(asked, told),
        totals=totals,
        shots=shots,
        settings={
            "version": version,
            "generation": asked.get("generation_size"),
            "stop": asked.get("stop_sequence"),
        },
        dataset={
            name: str(value)
            for name, value in (("asset", asked.get("hf_repo")), ("subset", asked.get("hf_subset")))
            if value
        },
        directions={mark: True for mark in marks if _GOOD.match(mark)},
        notes=notes,
    )


def _shared(name: str, wanted: Iterable[str]) -> bool:
    """Say whether a task of `config_tasks` is one of these, with or without its number of worked examples."""
    return any(one == _plain(name) or one.rpartition("-")[0] == _plain(name) for one in wanted)


def _planned(asked: Mapping[str, Any], told: Mapping[str, Any]) -> int | None:
    found = count(asked.get("effective_num_docs"))
    general = told.get("config_general")
    limit = count(general.get("max_samples")) if isinstance(general, Mapping) else 0
    return min(found, limit) if found and limit else found or None


def _part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _opened(row.get(name, row.get(f"__{name}__")))
    return value if isinstance(value, Mapping) else {}


def _first_of(doc: Mapping[str, Any], row: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        for source in (doc, row):
            if source.get(name) is not None:
                return _opened(source[name])
    return None


def _opened(value: Any) -> Any:
    """Return a value that was written as the text of a list or mapping, as older files do."""
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
        for read in (json.loads, ast.literal_eval):
            try:
                return read(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return value


def _row(where: str, row: Mapping[str, Any], doc: Mapping[str, Any]) -> AskedRow:
    response = _part(row, "model_response")
    question = _text(_first_of(doc, row, "query", "example", "full_prompt"))
    prompt = _text(response.get("input") or _first_of(doc, row, "full_prompt") or question)
    listed = _first_of(doc, row, "choices")
    choices = [_text(one) for one in listed] if isinstance(listed, (list, tuple)) else []
    gold = _first_of(doc, row, "gold_index", "gold")
    marks = _marks(row)
    scores, greedy = _scores(row, response, len(choices))
    right = gold[0] if isinstance(gold, list) and len(gold) == 1 else gold
    target = _text(_first_of(doc, row, "gold")) if "gold" in row else ""
    index = right if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(choices) else None
    if index is not None:
        target = choices[index]
    elif isinstance(gold, list) and all(isinstance(at, int) and 0 <= at < len(choices) for at in gold):
        target = json.dumps([choices[at] for at in gold], ensure_ascii=False)
    text = None if scores is not None else _answer(row, response)
    number_of = doc.get("id")
    return AskedRow(
        where=where,
        name=None if number_of in (None, "") else str(number_of),
        doc={"query": question, "choices": choices, "gold": target},
        prompt=prompt,
        target=target,
        answer=text,
        tokens=_tokens(row, response),
        options=tuple(choices) if scores is not None else (),
        scores=scores,
        greedy=greedy,
        right=index,
        marks=marks,
        failure=None if marks else f"marking: no number among the metrics of this row ({where})",
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _marks(row: Mapping[str, Any]) -> dict[str, float]:
    for name in ("metric", "metrics", "__metric__", "__metrics__"):
        value = _opened(row.get(name))
        if isinstance(value, Mapping):
            return {str(key): found for key, one in value.items() if (found := number(one)) is not None}
    pairs = ((str(key), number(one)) for key, one in row.items() if _MARKS.match(str(key)) and key not in _NOT_MARKS)
    return {key: found for key, found in pairs if found is not None}


def _scores(
    row: Mapping[str, Any], response: Mapping[str, Any], options: int
) -> tuple[tuple[float, ...] | None, tuple[bool, ...] | None]:
    """Return log-probabilities of the options and whether each is greedy; None where the row scored none."""
    if not options:
        return None, None
    for value in (response.get("logprobs"), _opened(row.get("pred_logits")), _opened(row.get("predictions"))):
        if not isinstance(value, (list, tuple)) or len(value) != options:
            continue
        pairs = [one if isinstance(one, (list, tuple)) else [one] for one in value]
        try:
            scores = tuple(float(pair[0]) for pair in pairs)
        except (ValueError, TypeError, IndexError):
            continue
        flags = response.get("argmax_logits_eq_gold")
        if not isinstance(flags, list) or len(flags) != options:
            flags = [pair[1] for pair in pairs] if all(len(pair) > 1 for pair in pairs) else None
        known = {"True": True, "False": False}
        greedy = [known.get(str(flag)) for flag in flags] if flags is not None else [None]
        if all(math.isfinite(score) for score in scores) or not all(map(math.isnan, scores)):
            return scores, None if None in greedy else tuple(bool(flag) for flag in greedy)
    return None, None


def _answer(row: Mapping[str, Any], response: Mapping[str, Any]) -> str | None:
    for found in (response.get("text"), _opened(row.get("predictions")), row.get("prediction")):
        value = found
        while isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, str):
            return value
    return None


def _tokens(row: Mapping[str, Any], response: Mapping[str, Any]) -> tuple[int, int]:
    def length(value: Any) -> int:
        while isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
            value = value[0]
        return len(value) if isinstance(value, (list, tuple)) else 0

    return (
        length(response.get("input_tokens") or _opened(row.get("input_tokens"))),
        length(response.get("output_tokens") or _opened(row.get("cont_tokens"))),
    )


def _totals(file: Path, row: Any, asked: Mapping[str, Any]) -> Iterator[Total]:
    how: dict[str, str] = defaultdict(str)
    listed = asked.get("metric", asked.get("metrics"))
    for metric in listed if isinstance(listed, (list, tuple)) else ():
        if isinstance(metric, Mapping):
            how[str(metric.get("metric_name"))] = str(metric.get("corpus_level_fn") or "")
    for name, value in row.items() if isinstance(row, Mapping) else ():
        total = number(value)
        if total is None or str(name).endswith("_stderr"):
            continue
        said = how[str(name)]
        unlike = "" if not said or said in _MEANS or "mean" in said else f"aggregated by {said:.40}"
        yield Total(where=file.name, name=str(name), value=total, mark=str(name), unlike=unlike)


def _identity(general: Mapping[str, Any], declared: Declared) -> Any:
    config = general.get("model_config")
    config = dict(config) if isinstance(config, Mapping) else {}
    generation = general.get("generation_parameters") or config.pop("generation_parameters", None) or {}
    told = {key: general[key] for key in ("model_sha", "model_dtype", "model_size") if general.get(key)}
    return identity(
        TOOL,
        declared,
        model=str(general.get("model_name") or config.get("model_name") or "") or None,
        version=general.get("lighteval_sha"),
        arguments={**config, **told},
        options={
            "sampling": generation,
            **{
                key: general[key]
                for key in ("override_batch_size", "num_fewshot_seeds", "use_chat_template", "system_prompt")
                if general.get(key) is not None
            },
        },
    )
