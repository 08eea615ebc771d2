"""The content of `results_*.json`, with lm-eval's keys and types.

In: a run, its parts and their sample rows. Out: one JSON object.
May not know: files.

Keys of which a run knows nothing (seeds, batch sizes, git hash) are left out; all of lm-eval's keys are optional.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit import __version__
from evalkit.interop.lm_eval_format import HASHES, sanitised, task_hash, unix_time
from evalkit.interop.lm_eval_parts import Part
from evalkit.interop.lm_eval_totals import group_row, task_row
from evalkit.records import EngineIdentity, Manifest


def model_name(engine: EngineIdentity) -> str:
    """Return the name that the files carry: model and recipe, so that two recipes never share a folder."""
    return engine.model if engine.recipe == "none" else f"{engine.model}/{engine.recipe}"


def results_of(
    manifest: Manifest, parts: Sequence[Part], rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return the object.

    Args:
        manifest: of the run.
        parts: lm-eval's tasks in it.
        rows: lm-eval task to its sample rows.
    """
    totals = {name: task_row(name, lines) for name, lines in rows.items()}
    groups, members = _groups(parts, totals)
    engine = manifest.engine
    name = model_name(engine)
    return {
        "results": {**totals, **groups},
        **({"groups": groups} if groups else {}),
        "group_subtasks": members,
        "configs": {part.name: _config(part) for part in parts},
        "versions": {**{part.name: _version(part) for part in parts}, **dict.fromkeys(members, "N/A")},
        "n-shot": {**{part.name: part.run.shots for part in parts}, **_group_shots(parts, members)},
        "higher_is_better": _directions(parts, {**totals, **groups}),
        "n-samples": {part.name: {"original": len(part.items), "effective": len(part.scored)} for part in parts},
        "config": {
            "model": engine.adapter,
            "model_args": {"pretrained": engine.model, "recipe": engine.recipe, "fidelity": engine.fidelity},
            "model_dtype": f"torch.{engine.dtype}",
            "batch_sizes": [],
            "device": engine.device,
            "use_cache": None,
            "limit": None,
            "gen_kwargs": None,
        },
        "date": unix_time(manifest.created_at),
        **({"transformers_version": engine.versions["transformers"]} if "transformers" in engine.versions else {}),
        "task_hashes": {task: task_hash(tuple(row[key] for key in HASHES) for row in rows[task]) for task in rows},
        "model_source": engine.adapter,
        "model_name": name,
        "model_name_sanitized": sanitised(name),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "evalkit_version": __version__,
        "evalkit_identity_sha256": engine.sha256,
        "evalkit_tasks": _subjects(parts),
        "evalkit_occurrences": {part.name: _occurrences(part) for part in parts},
    }


def _groups(
    parts: Sequence[Part], totals: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return (group rows, group to its tasks); a task without a group stands for itself."""
    members: dict[str, list[str]] = {}
    for part in parts:
        if part.group != part.name:
            members.setdefault(part.group, []).append(part.name)
    return {group: group_row(group, [totals[name] for name in names]) for group, names in members.items()}, members


def _group_shots(parts: Sequence[Part], members: Mapping[str, Sequence[str]]) -> dict[str, int]:
    shots = {part.name: part.run.shots for part in parts}
    return {group: shots[names[0]] for group, names in members.items()}


def _config(part: Part) -> dict[str, Any]:
    return {
        "task": part.name,
        "output_type": "generate_until" if part.run.kind == "text" else "multiple_choice",
        "num_fewshot": part.run.shots,
        "metadata": {"version": _version(part)},
    }


def _version(part: Part) -> float | int | str:
    """Return the task's version with lm-eval's type: a number where it is one."""
    version = part.run.settings.get("version", "N/A")
    text = str(version.get(part.name, "N/A") if isinstance(version, Mapping) else version)
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        return text
    return float(text) if "." in text else int(text)


def _directions(parts: Sequence[Part], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Return lm-eval task or group to metric to whether more is better; what nobody said is left out."""
    runs = {part.group: part.run for part in parts} | {part.name: part.run for part in parts}
    found: dict[str, dict[str, bool]] = {}
    for name, row in rows.items():
        metrics = {key.partition(",")[0] for key in row if "," in key and "_stderr," not in key}
        known = {metric: runs[name].direction(metric) for metric in sorted(metrics)}
        found[name] = {metric: higher for metric, higher in known.items() if higher is not None}
    return found


def _subjects(parts: Sequence[Part]) -> dict[str, dict[str, str]]:
    tasks: dict[str, dict[str, str]] = {}
    for part in parts:
        tasks.setdefault(part.task, {})[part.name] = part.subject
    return tasks


def _occurrences(part: Part) -> dict[str, int]:
    """Return row number to occurrence of items that repeat another one: the other one may not be in the file."""
    return {str(item.details["doc_id"]): item.occurrence for item, _ in part.scored if item.occurrence}
