"""One row for each scored item, as Every Eval Ever 0.3 writes them.

In: a run, its items. Out: rows as plain data.
May not know: files, aggregates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.interop.eee_results import Place
from evalkit.records import ChoiceReply, Item, Record, TextReply, text_digest
from evalkit.store import Run

SCHEMA_VERSION = "0.3.0"
_CONVENTION = "is_correct has no meaning for a rating; it says whether the rating is above the middle of the scale"


def sample_rows(
    run: Run, task: str, items: Mapping[str, Item], scores: Mapping[Place, float], names: tuple[str, str, str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each item that has a score.

    Args:
        run: the run.
        task: name of the task.
        items: item key to item.
        scores: mean rating of each judged question; empty for a task that is marked.
        names: ids of the evaluation, of the model, of the result.
    """
    metric = run.manifest.tasks[task].metric
    judge = run.manifest.judges.get(task)
    for record in run.records[task]:
        item = items.get(f"{record.task}/{record.subject}/{record.item_sha256}/{record.occurrence}")
        score = scores.get((record.subject, record.item_sha256, record.occurrence), record.marks.get(metric))
        if item is None or record.reply is None or score is None or record.sample > 0:
            continue
        middle = sum(judge.scale) / 2 if judge is not None else 0.5
        row = _common(item, record, names)
        row["evaluation"] = {"score": score, "is_correct": score > middle if judge is not None else score == 1.0}
        if judge is not None:
            row["metadata"]["convention"] = _CONVENTION
        yield row | (
            _choice(item, record.reply) if isinstance(record.reply, ChoiceReply) else _text(item, record.reply)
        )


def _common(item: Item, record: Record, names: tuple[str, str, str]) -> dict[str, Any]:
    prompt = item.context if item.context is not None else (item.turns[0] if item.turns else "")
    reference = [item.continuations[item.target]] if item.target is not None and item.continuations else []
    target = item.details.get("target")
    if not reference and isinstance(target, str):
        reference = [target]
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": names[0],
        "model_id": names[1],
        "evaluation_name": record.task,
        "evaluation_result_id": names[2],
        "sample_id": f"{record.subject}/{record.item_sha256[:16]}/{record.occurrence}",
        "sample_hash": text_digest(prompt + "".join(reference)),
        "input": {
            "raw": prompt,
            "reference": reference,
            "choices": list(item.continuations) or None,
        },
        "metadata": {
            "subject": record.subject,
            "item_sha256": record.item_sha256,
            "prompt_sha256": record.prompt_sha256,
            **({"invalid": record.invalid} if record.invalid else {}),
        },
    }


def _choice(item: Item, reply: ChoiceReply) -> dict[str, Any]:
    best = reply.logprobs.index(max(reply.logprobs))
    chosen = item.continuations[best] if best < len(item.continuations) else str(best)
    return {
        "interaction_type": "single_turn",
        "output": {"raw": [chosen]},
        "messages": None,
        "answer_attribution": [_attribution(0, "output.raw", chosen, "highest log-likelihood of the choices")],
    }


def _text(item: Item, reply: TextReply) -> dict[str, Any]:
    tokens = {
        "input_tokens": sum(turn.prompt_tokens for turn in reply.turns),
        "output_tokens": sum(turn.completion_tokens for turn in reply.turns),
    }
    usage = {"token_usage": {**tokens, "total_tokens": sum(tokens.values())}}
    if len(item.turns) < 2 and len(reply.turns) < 2:
        said = reply.turns[0].text if reply.turns else ""
        attribution = [_attribution(0, "output.raw", said, "marked by the task")]
        return {
            "interaction_type": "single_turn",
            "output": {"raw": [said]},
            "messages": None,
            "answer_attribution": attribution,
            **usage,
        }
    messages = []
    for at, turn in enumerate(reply.turns):
        asked = item.turns[at] if at < len(item.turns) else ""
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": turn.text}]
    told = [{"turn_idx": at, **message} for at, message in enumerate(messages)]
    last = len(told) - 1
    source = f"messages[{last}].content"
    return {
        "interaction_type": "multi_turn",
        "output": None,
        "messages": told,
        "answer_attribution": [_attribution(last, source, reply.turns[-1].text, "llm_judge")],
        **usage,
    }


def _attribution(turn: int, source: str, value: str, method: str) -> dict[str, Any]:
    return {
        "turn_idx": turn,
        "source": source,
        "extracted_value": value,
        "extraction_method": method,
        "is_terminal": True,
    }
