"""Items made from lm-eval's own prompts and hashes.

In: a task object of lm-eval and one of its rows. Out: an `Item`.
May not know: which items are chosen, or what a reply is worth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evalkit.benchmarks.benchmark import UNMADE
from evalkit.records import Item, digest, text_digest

_SHOWN = 300
"""Characters of an exception's own words that a record repeats."""


def draws_at_random(task: Any) -> bool:
    """Return whether worked examples are drawn with a generator that every earlier item has moved on."""
    from lm_eval.api.samplers import FirstNSampler  # noqa: PLC0415

    return bool(task.config.num_fewshot) and not isinstance(getattr(task, "sampler", None), FirstNSampler)


def instances_of(task: Any, doc_id: int, doc: Any) -> list[Any]:
    """Return lm-eval's requests for a row, worked examples included; draws from the task's generator if it has one."""
    context = task.fewshot_context(doc, num_fewshot=task.config.num_fewshot, gen_prefix=task.doc_to_prefix(doc))
    made = task.construct_requests(doc=doc, ctx=context, metadata=(task.config.task, doc_id, 1))
    return made if isinstance(made, list) else [made]


def plain_row(doc: Any) -> dict[str, Any]:
    """Return a row as JSON gives it back; what JSON cannot hold becomes what lm-eval's sample files would show."""
    from lm_eval.utils import handle_non_serializable  # noqa: PLC0415

    row = json.loads(json.dumps(doc, default=handle_non_serializable, ensure_ascii=False))
    return row if isinstance(row, dict) else {"doc": row}


def make_item(
    name: str, subject: str, task: Any, row: dict[str, Any], identity: tuple[str, int], instances: Sequence[Any]
) -> Item:
    """Make an item; its details hold lm-eval's three hashes by lm-eval's definitions, for exports.

    Args:
        name: task definition.
        subject: stratum.
        task: lm-eval's task object.
        row: the row as JSON.
        identity: digest and occurrence of the row.
        instances: lm-eval's requests for the row.
    """
    from lm_eval.utils import handle_non_serializable, hash_string  # noqa: PLC0415

    first = instances[0]
    target = task.doc_to_target(first.doc)
    contexts = [instance.args[0] for instance in instances]
    generated = first.request_type == "generate_until"
    continuations = () if generated else tuple(instance.args[1] for instance in instances)
    as_hashed = json.dumps(first.doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    details: dict[str, Any] = {
        "lm_eval_task": task.config.task,
        "doc_id": first.doc_id,
        "doc_hash": hash_string(as_hashed),
        "prompt_hash": hash_string(contexts[0]),
        "target_hash": hash_string(str(target)),
        "target": str(target),
    }
    if generated:
        details["generation"] = json.loads(json.dumps(first.args[1]))
    else:
        details["lengths"] = _lengths(task, first.doc, continuations)
    if any(context != contexts[0] for context in contexts):
        details["contexts"] = contexts
    return Item(
        task=name,
        subject=subject,
        item_sha256=identity[0],
        occurrence=identity[1],
        prompt_sha256=digest([contexts, list(continuations), details.get("generation")]),
        target_sha256=text_digest(str(target)),
        doc=row,
        context=contexts[0],
        continuations=continuations,
        target=None if generated else _target_index(task, first.doc, target),
        details=details,
    )


def unmade_item(
    name: str,
    subject: str,
    task: Any,
    row: dict[str, Any],
    identity: tuple[str, int],
    doc_id: int,
    error: BaseException,
) -> Item:
    """Make an item whose prompt the task's own code could not write; it is asked of nobody, and its record failed."""
    from lm_eval.utils import hash_string  # noqa: PLC0415

    fault = f"row {doc_id} of '{task.config.task}' raised {named(error)}"
    empty = hash_string("")
    details = {
        "lm_eval_task": task.config.task,
        "doc_id": doc_id,
        "doc_hash": hash_string(json.dumps(row, indent=2, ensure_ascii=False)),
        "prompt_hash": empty,
        "target_hash": empty,
        "target": "",
        "lengths": [],
        "generation": {},
        UNMADE: fault,
    }
    return Item(
        task=name,
        subject=subject,
        item_sha256=identity[0],
        occurrence=identity[1],
        prompt_sha256=digest([UNMADE, fault]),
        target_sha256=text_digest(""),
        doc=row,
        context="",
        continuations=(),
        target=None,
        details=details,
    )


def named(error: BaseException) -> str:
    """Return the name and the first words of what somebody else's code raised.

    >>> named(KeyError("x"))
    "KeyError: 'x'"
    """
    return f"{type(error).__name__}: {error}".splitlines()[0][:_SHOWN].rstrip(": ")


def _lengths(task: Any, doc: Any, continuations: Sequence[str]) -> list[int]:
    """Return the characters that lm-eval divides by: of the option without the delimiter before it."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return [len(text) for text in continuations]
    options = [len(option) for option in task.doc_to_choice(doc)]
    return options + [len(text) for text in continuations[len(options) :]]


def _target_index(task: Any, doc: Any, target: Any) -> int | None:
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0
    options = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else target
    if isinstance(gold, str) and gold in options:
        return int(options.index(gold))
    return gold if isinstance(gold, int) and 0 <= gold < len(options) else None
