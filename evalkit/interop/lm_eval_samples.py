"""One row of `samples_*.jsonl`, read strictly.

In: lines of a samples file. Out: `Sample` values.
May not know: runs, which metric decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.interop.lm_eval_files import count_not_finite, field, parse
from evalkit.interop.lm_eval_format import HASHES, doc_hash
from evalkit.records import content_digest, text_digest
from evalkit.store.lines import read_lines

_FIXED = (
    "doc_id",
    "doc",
    "target",
    "arguments",
    "resps",
    "filtered_resps",
    "filter",
    "metrics",
    *HASHES,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One item under one filter.

    Attributes:
        where: file and line.
        doc_id: position in the data set; None where the file does not say.
        doc: the source row.
        target: what counts as right, as text.
        contexts: text before each continuation, shape (k,) or (1,) where all are equal.
        continuations: scored texts, shape (k,); empty for a generated answer.
        generation: generation settings; None for scored texts.
        responses: first response to each request, as it stands in the file.
        repeats: responses to each request.
        filter: name of the filter; None in files older than that field.
        values: metric to value as it stands in the file.
        hashes: lm-eval's three hashes; None in files older than them.
        content: evalkit's digest of the source row, by which items are paired.
        faults: hashes that do not belong to the row's own content ("doc_hash", ...).
    """

    where: str
    doc_id: int | None
    doc: Mapping[str, Any]
    target: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    generation: Mapping[str, Any] | None
    responses: tuple[Any, ...]
    repeats: int
    filter: str | None
    values: Mapping[str, Any]
    hashes: Mapping[str, str] | None
    content: str
    faults: tuple[str, ...]


def read_samples(file: Path, metrics: Sequence[str]) -> list[Sample]:
    """Read a samples file.

    Args:
        file: `samples_<task>_<stamp>.jsonl`.
        metrics: names of metrics, for files whose rows do not name them.

    Raises:
        DataError: a line is torn or not what lm-eval writes; names file and line.
        StoreError: the file cannot be read.
    """
    return [_sample(parse(line, f"{file}:{number}"), f"{file}:{number}", metrics) for number, line in read_lines(file)]


def _sample(row: Mapping[str, Any], where: str, metrics: Sequence[str]) -> Sample:
    doc = field(row, "doc", where, lambda _: True, "")
    target = str(field(row, "target", where, lambda _: True, ""))
    plain = doc if isinstance(doc, dict) else {"doc": doc}
    contexts, continuations, generation = _requests(row, where)
    responses, repeats = _responses(row, where, len(continuations) or 1)
    number = row.get("doc_id")
    named = row.get("metrics")
    names = named if isinstance(named, list) else [name for name in metrics if name in row]
    hashes = {name: row[name] for name in HASHES if isinstance(row.get(name), str)}
    return Sample(
        where=where,
        doc_id=number if isinstance(number, int) else None,
        doc=plain,
        content=_content(plain, where),
        target=target,
        contexts=contexts,
        continuations=continuations,
        generation=generation,
        responses=responses,
        repeats=repeats,
        filter=str(row["filter"]) if "filter" in row else None,
        values={name: row.get(name) for name in names if name not in _FIXED},
        hashes=hashes if len(hashes) == len(HASHES) else None,
        faults=_faults(hashes, doc, contexts[0], target),
    )


def _requests(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any] | None]:
    """Return contexts, continuations and generation settings of a row's requests."""
    arguments = field(row, "arguments", where, lambda value: isinstance(value, dict) and bool(value), "an object")
    requests = [arguments.get(f"gen_args_{at}") for at in range(len(arguments))]
    pairs = [
        (request["arg_0"], request["arg_1"])
        for request in requests
        if isinstance(request, dict) and "arg_0" in request and "arg_1" in request
    ]
    if len(pairs) != len(requests):
        raise DataError(
            f"{where}: 'arguments' has no context and continuation; items without them have no right answer"
        )
    contexts = tuple(_text(context) for context, _ in pairs)
    second = [after for _, after in pairs]
    if len(pairs) == 1 and isinstance(second[0], dict):
        return contexts, (), second[0]
    if not all(isinstance(after, str) for after in second):
        raise DataError(f"{where}: 'arguments' mixes continuations and generation settings")
    return (contexts[:1] if len(set(contexts)) == 1 else contexts), tuple(second), None


def _text(context: Any) -> str:
    """Return a context as text; lm-eval writes the messages of a chat as a list that holds their JSON."""
    while isinstance(context, list) and len(context) == 1:
        context = context[0]
    return context if isinstance(context, str) else str(context)


def _responses(row: Mapping[str, Any], where: str, count: int) -> tuple[tuple[Any, ...], int]:
    resps = field(row, "resps", where, lambda value: isinstance(value, list), "a list")
    if len(resps) != count or not all(isinstance(one, list) and one for one in resps):
        raise DataError(f"{where}: 'resps' must hold a list for each of the {count} request(s)")
    return tuple(one[0] for one in resps), max(len(one) for one in resps)


def _faults(hashes: Mapping[str, str], doc: Any, context: str, target: str) -> tuple[str, ...]:
    """Name the hashes that are not those of the row's own content; a row with NaN in it cannot be checked."""
    made = {"prompt_hash": text_digest(context), "target_hash": text_digest(target)}
    if not count_not_finite(doc):
        made["doc_hash"] = doc_hash(doc)
    return tuple(name for name, value in made.items() if hashes.get(name, value) != value)


def _content(doc: dict[str, Any], where: str) -> str:
    try:
        return content_digest(doc)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
