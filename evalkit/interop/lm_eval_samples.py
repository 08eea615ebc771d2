"""One row of lm-eval's samples, read strictly.

In: rows of a task. Out: `Sample` values.
May not know: runs, which metric decides.

lm-eval 0.4.0 to 0.4.2 wrote requests as lists, [[context, continuation], ...]; later versions write objects,
{"gen_args_0": {"arg_0": context, "arg_1": continuation}, ...}. A row without an answer is kept as one: it failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.interop.foreign_files import count_replaced
from evalkit.interop.lm_eval_files import STEP, LmEvalFiles, count_not_finite, field
from evalkit.interop.lm_eval_format import HASHES, doc_hash
from evalkit.records import content_digest, text_digest

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
        responses: first response to each request, as it stands in the file; empty where the row holds none.
        filtered: what the filter made of the first one; None where the row does not say.
        repeats: responses to each request.
        filter: name of the filter; None in files older than that field.
        values: metric to value as it stands in the file.
        hashes: lm-eval's three hashes; None in files older than them.
        content: evalkit's digest of the source row, by which items are paired.
        replaced: characters of the row that no text can hold (halves of surrogate pairs), replaced by U+FFFD.
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
    filtered: Any
    repeats: int
    filter: str | None
    values: Mapping[str, Any]
    hashes: Mapping[str, str] | None
    content: str
    replaced: int
    faults: tuple[str, ...]


def read_samples(files: LmEvalFiles, task: str, metrics: Sequence[str]) -> list[Sample]:
    """Read the rows of a task.

    Args:
        files: of the run.
        task: lm-eval's name of it.
        metrics: names of metrics, for files whose rows do not name them.

    Raises:
        DataError: a row is torn or not what lm-eval writes; names file and line.
        StoreError: the file cannot be read.
    """
    return [_sample(row, place, metrics) for place, row in files.rows(task)]


def is_rolling(files: LmEvalFiles, task: str) -> bool:
    """Say whether a task measures perplexity of whole texts, which have neither a question nor a right answer."""
    _, row = next(files.rows(task), ("", {}))
    requests = _listed(row.get("arguments"))
    return bool(requests) and all(len(request) == 1 for request in requests)


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
        filtered=_first(row.get("filtered_resps")),
        repeats=repeats,
        filter=str(row["filter"]) if "filter" in row else None,
        values={name: row.get(name) for name in names if name not in _FIXED},
        hashes=hashes if len(hashes) == len(HASHES) else None,
        replaced=count_replaced(row),
        faults=_faults(hashes, doc, contexts[0], target),
    )


def _requests(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any] | None]:
    """Return contexts, continuations and generation settings of a row's requests."""
    pairs = _listed(field(row, "arguments", where, lambda value: bool(_listed(value)), "an object or list of requests"))
    if any(len(pair) < 2 for pair in pairs):
        raise DataError(
            f"{where}: 'arguments' has no context and continuation; items without them have no right answer; "
            "next step: leave the task out, naming the others with --task"
        )
    contexts = tuple(_text(pair[0]) for pair in pairs)
    second = [pair[1] for pair in pairs]
    if len(pairs) == 1 and isinstance(second[0], dict):
        return contexts, (), second[0]
    if not all(isinstance(after, str) for after in second):
        raise DataError(f"{where}: 'arguments' mixes continuations and generation settings; {STEP}")
    return (contexts[:1] if len(set(contexts)) == 1 else contexts), tuple(second), None


def _listed(arguments: Any) -> list[list[Any]]:
    """Return each request as its list of arguments, whichever way they are written; nothing where they are neither."""
    if isinstance(arguments, dict):
        found = [arguments.get(f"gen_args_{at}") for at in range(len(arguments))]
        if not all(isinstance(one, dict) for one in found):
            return []
        return [[one[f"arg_{at}"] for at in range(len(one)) if f"arg_{at}" in one] for one in found if one is not None]
    if not isinstance(arguments, list):
        return []
    if len(arguments) == 2 and isinstance(arguments[0], str) and isinstance(arguments[1], (str, dict)):
        return [arguments]
    return [one if isinstance(one, list) else [one] for one in arguments]


def _text(context: Any) -> str:
    """Return a context as text; lm-eval writes the messages of a chat as a list that holds their JSON."""
    while isinstance(context, list) and len(context) == 1:
        context = context[0]
    return context if isinstance(context, str) else str(context)


def _responses(row: Mapping[str, Any], where: str, count: int) -> tuple[tuple[Any, ...], int]:
    """Return the first response to each request, and how many there are; none where any request has none."""
    resps = field(row, "resps", where, lambda value: value is None or isinstance(value, list), "a list")
    if not resps or all(one is None or one == [] for one in resps):
        return (), 0
    if len(resps) != count or not all(one is None or isinstance(one, list) for one in resps):
        raise DataError(
            f"{where}: 'resps' must hold a list for each of the {count} request(s), not {len(resps)}; {STEP}"
        )
    first = tuple(_first(one) for one in resps)
    return (() if any(one is None for one in first) else first), max(len(one or ()) for one in resps)


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None


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
