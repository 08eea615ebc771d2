"""A first suite and its policy, written from two or more engines that are there already.

In: addresses of servers, or checkpoint folders, each with the name of its recipe. Out: the text of two YAML files.
Must not depend on: files to write; who asks. What a machine cannot know stands in the files as a comment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapters.checkpoint.declared import read_declared
from evalkit.adapters.checkpoint.reading import read_trace
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.tokenizing import served_models
from evalkit.adapters.openai.transport import Transport, read_secret
from evalkit.configuration import validate
from evalkit.errors import UsageError, suggestion
from evalkit.recipes import recipe_names

BASELINE_RECIPE = "llama-official-fp8"
"""What a baseline is taken to be where nobody says."""

_SHOWN = 120
"""Characters of what a checkpoint declares that are repeated in a comment."""

WEB = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One engine that is there.

    Attributes:
        name: of its run.
        adapter: which adapter reaches it.
        model: what the server calls it, or the folder.
        recipe: how it is quantized.
        options: of the adapter.
        note: what was seen, for a comment.
    """

    name: str
    adapter: str
    model: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def line(self) -> str:
        """Return the engine as one line of YAML; JSON is YAML, and quotes what has to be quoted."""
        told = {"name": self.name, "model": self.model, "recipe": self.recipe} | (
            {"options": self.options} if self.options else {}
        )
        return json.dumps(told, ensure_ascii=False)


def look(where: str, *, name: str | None, model: str | None, key_variable: str | None) -> Found:
    """Look at a server or a checkpoint.

    Args:
        where: `RECIPE=PLACE` or `PLACE`; a place is the address of a server or a folder with a model.
        name: of its run; None for that of its recipe.
        model: of a server that serves several.
        key_variable: environment variable with the servers' key; None for none.

    Raises:
        UsageError: there is no such place, the recipe is unknown or not said, the server serves several models.
        EngineError: the server does not answer, or refuses the key.
        DataError: the checkpoint is damaged.
    """
    recipe, separator, place = where.partition("=")
    if not separator or "/" in recipe:
        recipe, place = "", where
    if recipe and recipe not in (*recipe_names(), "none"):
        raise UsageError(f"{where}: unknown recipe '{recipe}'{suggestion(recipe, [*recipe_names(), 'none'])}")
    if place.startswith(WEB):
        return _server(place, recipe, name, model, key_variable)
    if (Path(place) / "config.json").is_file():
        return _checkpoint(Path(place), recipe, name)
    raise UsageError(
        f"{place}: neither the address of a server (http://...) nor a folder with a config.json; results of another "
        "tool need no suite: evalkit run import"
    )


def _server(url: str, recipe: str, name: str | None, model: str | None, key_variable: str | None) -> Found:
    if not recipe:
        raise UsageError(f"{url}: a server does not say how its model was quantized; write RECIPE={url}")
    options = {"base_url": url} | ({"api_key_env": key_variable} if key_variable else {})
    checked = validate(ServerOptions, {**options, "retries": 0, "timeout_s": 20.0}, url)
    names = served_models(Transport(checked, read_secret(key_variable)))
    if model is None and len(names) > 1:
        raise UsageError(f"{url} serves {', '.join(names)}; say which: --model NAME")
    if model is not None and model not in names:
        raise UsageError(f"{url} serves no model '{model}'{suggestion(model, names)}")
    return Found(name=name or recipe, adapter="openai_server", model=model or names[0], recipe=recipe, options=options)


def _checkpoint(folder: Path, recipe: str, name: str | None) -> Found:
    trace, declared = read_trace(folder), read_declared(folder)
    made = str(trace.recipe["name"]) if trace is not None else ""
    if recipe and made and recipe != made:
        raise UsageError(f"{folder}: made with recipe '{made}', not '{recipe}'; leave the name out")
    said = json.dumps(f"declared: {declared.algorithm}, cache {declared.kv_cache}")[1:-1]  # one line, whatever it is
    note = said[:_SHOWN]
    if not (recipe or made):
        raise UsageError(
            f"{folder}: {note}; which recipe that is, nobody says: write RECIPE={folder}, with a name of evalkit list "
            "recipes, or none"
        )
    return Found(
        name=name or recipe or made, adapter="hf", model=str(folder.resolve()), recipe=recipe or made, note=note
    )


def suite_text(name: str, baseline: Found, candidates: Sequence[Found], controls: Sequence[Found]) -> str:
    """Return a suite over these engines.

    Raises:
        UsageError: they are reached in different ways, or two have one name.
    """
    engines = (baseline, *candidates, *controls)
    kinds = sorted({found.adapter for found in engines})
    if len(kinds) > 1:
        raise UsageError(f"servers and folders cannot be compared in one suite ({', '.join(kinds)}); give one kind")
    names = [found.name for found in engines]
    if len(set(names)) < len(names):
        raise UsageError(f"two engines would be named alike ({', '.join(names)}); give each a recipe of its own")
    served = kinds == ["openai_server"]
    return _SUITE.format(
        name=json.dumps(name),
        title=json.dumps(f"{', '.join(found.name for found in candidates)} against {baseline.name}"),
        adapter=kinds[0],
        shared=_SERVED if served else _LOADED,
        baseline=_noted(baseline, "baseline: "),
        rerun="{concurrency: 4}" if served else "{max_batch_tokens: 640}",
        candidates="\n".join(_noted(found, "  - ") for found in candidates),
        controls=_CONTROLS + "\n".join(_noted(found, "  - ") for found in controls) if controls else _NO_CONTROLS,
    )


def policy_text(name: str, baseline: Found, *, control: bool) -> str:
    """Return a policy: MMLU within one point, with the checks that these engines allow."""
    required = ["aa", *(["control"] if control else []), "above_chance", "headroom", "readable"]
    return _POLICY.format(
        name=json.dumps(name), required=", ".join(required), baseline_recipe=json.dumps(baseline.recipe)
    )


def _noted(found: Found, before: str) -> str:
    """Return an engine as a line of YAML behind a key or a dash, with what was seen of it."""
    return before + found.line() + (f"   # {found.note}" if found.note else "")


_SUITE = """\
# yaml-language-server: $schema=suite.schema.json
# Written by `evalkit plan init`. Every key: docs/reference/suite.md, or completion in an editor.
name: {name}
title: {title}
policy: ./policy.yaml            # what decides, written down before anything is run

engine:                          # shared by all engines below
  adapter: {adapter}
{shared}

{baseline}
rerun:                           # the baseline twice: the flips that no change at all causes
  options: {rerun}

candidates:
{candidates}

{controls}

tasks: [mmlu]                    # evalkit list tasks; MT-Bench needs a judge: docs/mt-bench.md
"""

_SERVED = """\
  options: {concurrency: 8}      # requests at once: raise it for a large server
  # tokenizer: FOLDER in options, for servers that cannot tokenise; `evalkit doctor --engine` says what is proved"""

_LOADED = """\
  dtype: bfloat16                # of what is not quantized
  # hf expands the stored weights (fidelity "dequantised"); for the real kernels serve the folders, or take the
  # adapter tensorrt_llm: docs/adapters.md"""

_CONTROLS = "controls:                        # broken on purpose: if one passed, nothing here would mean anything\n"

_NO_CONTROLS = """\
# No control was given, so nothing shows that this evaluation would see a loss, and every verdict says so. Serve or
# make one that is broken on purpose (`evalkit list recipes`: control-...), name it under `controls:`, and put
# `control` into `required` in policy.yaml."""

_POLICY = """\
# yaml-language-server: $schema=policy.schema.json
# Written by `evalkit plan init`. Every key: docs/reference/policy.md. Change it before the first run, never after: a
# policy that is not the one on record for a run decides nothing. `release` (`evalkit list policies`) is the policy of
# a sign-off and asks for more: controls, MT-Bench, and a judge that has qualified.
policy_version: 1
name: {name}
title: MMLU within 1 point of the baseline; no release sign-off
tier: first-look
certifies: true
claims: [within-one-point]
endpoints:
  mmlu:
    kind: paired_proportion      # right or wrong, item by item
    task: mmlu
    metric: acc
    protocol: ll-5shot           # five worked examples, probability of the letter
    items: 14042
    population: 14042
    gating: true
    alpha: 0.025                 # one-sided
    margins_points: [1.0]        # a loss of one point or more must be ruled out
    chance: 0.25
    strata: [subject]
assay:
  required: [{required}]
  baseline_recipes: [{baseline_recipe}]
planning: {{discordance: 0.06}}    # share of items that flip; replace it by what a first run shows
"""
