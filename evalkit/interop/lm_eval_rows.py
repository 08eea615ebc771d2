"""Rows of `samples_*.jsonl`, with lm-eval's types.

In: an item and its record. Out: rows, one for each filter.
May not know: files, totals.

lm-eval writes every leaf of `resps` and `filtered_resps` as text, so a log-likelihood reads `["-1.5", "False"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.interop.lm_eval_format import HASHES, split_mark
from evalkit.records import ChoiceReply, Item, Record, TextReply

NEEDED = ("lm_eval_task", "doc_id", "target", *HASHES)
"""What an item's details must hold; benchmarks that do not come from lm-eval lack them."""


def sample_rows(item: Item, record: Record, doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one scored item, one for each filter, in the order of the filters' names.

    A generated answer has an empty `filtered_resps`: what a filter made of it is not kept in a record.

    Args:
        item: an item made from lm-eval's prompts.
        record: its record; status "ok" and with marks.
        doc: the source row, columns in lm-eval's order.
    """
    arguments, responses = _requests(item, record)
    by_filter: dict[str, dict[str, float | int]] = {}
    for name, value in record.marks.items():
        metric, part = split_mark(name)
        by_filter.setdefault(part, {})[metric] = _written(item, metric, value)
    return [
        {
            "doc_id": item.details["doc_id"],
            "doc": dict(doc),
            "target": item.details["target"],
            "arguments": arguments,
            "resps": [[response] for response in responses],
            "filtered_resps": responses if isinstance(record.reply, ChoiceReply) else [],
            "filter": part,
            "metrics": list(values),
            **{name: item.details[name] for name in HASHES},
            **values,
        }
        for part, values in sorted(by_filter.items())
    ]


def _requests(item: Item, record: Record) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    reply = record.reply
    if isinstance(reply, TextReply):
        return {"gen_args_0": {"arg_0": item.context, "arg_1": item.details["generation"]}}, [reply.turns[0].text]
    assert isinstance(reply, ChoiceReply)
    contexts = item.details.get("contexts") or [item.context] * len(item.continuations)
    pairs = zip(contexts, item.continuations, strict=True)
    arguments = {f"gen_args_{at}": {"arg_0": before, "arg_1": after} for at, (before, after) in enumerate(pairs)}
    scores = zip(reply.logprobs, reply.greedy, strict=True)
    return arguments, [[str(float(score)), str(bool(greedy))] for score, greedy in scores]


def _written(item: Item, metric: str, value: float) -> float | int:
    """Return a mark as lm-eval types it: what it reads off `is_greedy` is an integer, everything else a float."""
    single = len(item.continuations) == 1 and metric == "acc"
    return int(value) if single or (item.continuations and metric == "exact_match") else float(value)
