"""Does a run folder belong to what is asked for now?

In: the manifest on disk and the one asked for. Out: every difference by name, or the merged manifest.
May not know: how either was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evalkit.errors import IdentityMismatchError
from evalkit.records import JudgeRun, Manifest, canonical_json

_ABSENT = "absent"
_PROCESSOR = "engine.processor"


def merge_manifests(path: Path, found: Manifest, asked: Manifest) -> Manifest:
    """Return the manifest of a resumed run: the folder's own with the tasks and judges newly asked for.

    Raises:
        IdentityMismatchError: engine, policy, or a task or judge in both differs, or the files that were imported do;
            names each field and both values.
    """
    faults = [
        *_differences("engine", asdict(found.engine), asdict(asked.engine)),
        *_differences("policy_sha256", found.policy_sha256, asked.policy_sha256),
    ]
    for name in sorted(set(found.tasks) & set(asked.tasks)):
        faults += _differences(f"tasks.{name}", asdict(found.tasks[name]), asdict(asked.tasks[name]))
    for name in sorted(set(found.judges) & set(asked.judges)):
        faults += _differences(f"judges.{name}", asdict(found.judges[name]), asdict(asked.judges[name]))
    _refuse(path, faults)
    _refuse_other_import(path, found.requested.get("imported"), asked.requested.get("imported"))
    return replace(
        found,
        tasks={**found.tasks, **asked.tasks},
        judges={**found.judges, **asked.judges},
        requested=asked.requested or found.requested,
    )


def _refuse_other_import(path: Path, found: Any, asked: Any) -> None:
    """Refuse files of another tool in a folder that other ones were imported into, or that a run was written into.

    An import is not resumed: its records are what its source files hold, so the digests of these are its identity.
    """
    if asked is None and found is None:
        return
    faults = list(_differences("imported", found or _ABSENT, asked or _ABSENT))
    if faults:
        raise IdentityMismatchError(
            "\n  - ".join(
                (f"{path}: the folder holds what was imported from other files and is left as it is:", *faults)
            )
            + "\nnext step: name another output folder, or move this one away"
        )


def check_judge(path: Path, task: str, found: JudgeRun | None, asked: JudgeRun) -> None:
    """Refuse a second judge for a task's answers; how the same judge was asked for does not matter.

    Raises:
        IdentityMismatchError: names each field that differs.
    """
    if found is not None:
        _refuse(path, list(_differences(f"judges.{task}", _judge(found), _judge(asked))))


def _judge(judge: JudgeRun) -> dict[str, Any]:
    return {name: value for name, value in asdict(judge).items() if name != "requested"}


def _refuse(path: Path, faults: list[str]) -> None:
    if faults:
        step = "name another output folder, or move this one away"
        if any(fault.startswith(_PROCESSOR) for fault in faults):
            step += "; a run is finished on the processor on which it was begun, since another one rounds otherwise"
        raise IdentityMismatchError(
            "\n  - ".join((f"{path}: the folder belongs to another run and is left as it is:", *faults))
            + f"\nnext step: {step}"
        )


def _differences(name: str, found: Any, asked: Any) -> Iterator[str]:
    left, right = dict(_leaves(name, _plain(found))), dict(_leaves(name, _plain(asked)))
    for field in sorted(set(left) | set(right)):
        a, b = left.get(field, _ABSENT), right.get(field, _ABSENT)
        if a != b:
            yield f"{field}: folder has {a!r}, asked for {b!r}"


def _plain(value: Any) -> Any:
    """Return the value as JSON gives it back, so that a tuple equals the list it became on disk."""
    return json.loads(canonical_json(value))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value
