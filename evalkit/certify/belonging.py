"""Are the stored runs of a suite the ones that the suite asks for?

In: a suite, its definitions, the manifests in its outputs. Out: every run that is another one, by name.
May not know: what the runs answered.

A suite that decides on runs it did not make lends them its title, its names and its policy. So each must have been
asked for as the suite asks now: engine, recipe, options, task definitions. Where files lay may differ: outputs are
decided on other machines than they were made on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from evalkit.definitions import Definitions
from evalkit.errors import IdentityMismatchError
from evalkit.recipes import load_recipe
from evalkit.records import Manifest, canonical_json
from evalkit.redaction import redact_settings
from evalkit.store import read_manifest
from evalkit.store.door import exists
from evalkit.store.layout import MANIFEST
from evalkit.suite import EngineSpec, Suite


def refuse_wrong_runs(suite: Suite, definitions: Definitions) -> None:
    """Refuse stored runs that are not the suite's; a run that is not there is none.

    Raises:
        IdentityMismatchError: names every run with each difference and both values.
        ConfigError: a recipe file is wrong.
    """
    again = [suite.rerun_engine] if suite.rerun_engine is not None else []
    faults = []
    for spec in (*suite.engines, *again):
        path = suite.outputs / spec.name
        if exists(path / MANIFEST):
            found = run_faults(read_manifest(path), spec, suite.tasks, definitions)
            faults += [f"{path}: {fault}" for fault in found]
    if faults:
        raise IdentityMismatchError(
            "\n  - ".join(("wrong-run: these runs are not the ones the suite asks for:", *dict.fromkeys(faults)))
            + "\nnext step: name the suite that made them, or leave --from out and run what is asked for"
        )


def run_faults(manifest: Manifest, spec: EngineSpec, tasks: Sequence[str], definitions: Definitions) -> Iterator[str]:
    """Yield every part of a request that is not what a run was asked for."""
    found = manifest.requested.get("engine")
    if not isinstance(found, Mapping) or "adapter" not in found:
        yield from _by_identity(manifest, spec)
        return
    recipe = None if spec.recipe == "none" else load_recipe(spec.recipe).sha256
    wanted = redact_settings({"engine": spec.model_dump(mode="json"), "recipe_sha256": recipe})
    held = {name: manifest.requested.get(name) for name in wanted}
    left, right = dict(leaves("", held)), dict(leaves("", json.loads(canonical_json(wanted))))
    for place in sorted(set(left) | set(right)):
        if _moved(left.get(place)) != _moved(right.get(place)):
            yield f"{place}: the folder has {left.get(place)!r:.120}, the suite {right.get(place)!r:.120}"
    for task in tasks:
        if task in manifest.tasks:
            sha256 = definitions.task(task).sha256
            if manifest.tasks[task].definition_sha256 != sha256:
                have = manifest.tasks[task].definition_sha256
                yield f"tasks.{task}.definition_sha256: the folder has {have}, the definitions {sha256}"


def _by_identity(manifest: Manifest, spec: EngineSpec) -> Iterator[str]:
    """Compare with what was loaded, where the folder does not say what was asked for (an import, a made run)."""
    engine = manifest.engine
    wanted = {"adapter": (engine.adapter, spec.adapter), "model": (_moved(engine.model), _moved(spec.model))}
    if spec.recipe != "none":
        wanted["recipe"] = (engine.recipe, PurePath(spec.recipe).stem)
    for name, (have, asked) in wanted.items():
        if have != asked:
            yield f"engine.{name}: the folder has {have!r:.120}, the suite {asked!r:.120}"


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each value of nested mappings with its place."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value


def _moved(value: Any) -> Any:
    """Return a path without the folder it lay in; any other value as it is."""
    return Path(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
