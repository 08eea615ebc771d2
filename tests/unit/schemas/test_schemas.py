"""JSON schemas: they see common faults, and refuse nothing that evalkit accepts."""

import copy
import importlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from evalkit.adapters.base import read_options
from evalkit.adapters.registry import adapter_names
from evalkit.assets.declaration import AssetDeclaration
from evalkit.configuration import parse_yaml, read_yaml, validate
from evalkit.definitions import JudgeProfile, TaskDefinition
from evalkit.errors import ConfigError, UsageError
from evalkit.policy import Policy
from evalkit.policy.anchors import AnchorTable
from evalkit.recipes import Expectation
from evalkit.schemas import KINDS, OPTIONS, schema
from evalkit.suite import load_suite

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "suite": [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "baseline" in read_yaml(path)],
    "policy": sorted((ROOT / "evalkit/policy/library").glob("*.yaml")),
    "task": [path for path in sorted((ROOT / "tasks").glob("*/*.yaml")) if path.stem != "source"],
    "judge": sorted((ROOT / "judges").glob("*.yaml")),
    "recipe": sorted((ROOT / "evalkit/recipes/library").glob("*.expect.yaml")),
    "asset": sorted((ROOT / "evalkit/assets/models").glob("*.yaml")),
    "anchors": sorted((ROOT / "evalkit/policy/anchors").glob("*.yaml")),
}
MODELS = {
    "policy": Policy,
    "task": TaskDefinition,
    "judge": JudgeProfile,
    "recipe": Expectation,
    "asset": AssetDeclaration,
    "anchors": AnchorTable,
}
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", "hf", "auto", [], ["x"], {}, {"x": 1}, [[]], 10**9)


def accepts(kind: str, folder: Path) -> Callable[[Any], bool]:
    """Return what says whether evalkit itself reads a file with this content."""

    def read(data: Any) -> bool:
        try:
            if kind == "suite":
                (folder / "suite.yaml").write_text(yaml.safe_dump(data))
                suite = load_suite(folder / "suite.yaml")
                judges = [suite.judge, *suite.judge.panel] if suite.judge else []
                for engine in (*suite.engines, *(judge.engine for judge in judges)):
                    if engine.adapter in OPTIONS:
                        where, _, name = OPTIONS[engine.adapter].partition(":")
                        read_options(getattr(importlib.import_module(where), name), engine)
            else:
                validate(MODELS[kind], data, "test")
        except ConfigError:
            return False
        return True

    return read


def checker(kind: str) -> jsonschema.Draft202012Validator:
    document = schema(kind)
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def leaves(check: jsonschema.Draft202012Validator, data: Any) -> Iterator[jsonschema.ValidationError]:
    """Yield every fault, and what lies below where one of several schemas had to fit."""
    waiting = list(check.iter_errors(data))
    while waiting:
        found = waiting.pop()
        yield found
        waiting += found.context or ()


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container below, with each of its keys."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        yield data, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutated(data: Any, dice: random.Random) -> Any:
    """Return a copy with one value replaced, one key gone, or one key more."""
    changed = copy.deepcopy(data)
    below, key = dice.choice(list(places(changed)))
    way = dice.choice(("value", "value", "gone", "more"))
    if way == "gone":
        del below[key]
    elif way == "more" and isinstance(below, dict):
        below[dice.choice(("adapter", "options", "name", "unheard_of"))] = dice.choice(VALUES)
    else:
        below[key] = dice.choice(VALUES)
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_that_comes_with_evalkit_fits(kind: str) -> None:
    assert FILES[kind]
    for path in FILES[kind]:
        data = parse_yaml(
            path.read_text("utf-8").replace("CHANGE", "a" * 64), path.name
        )  # what its author has to fill in
        assert [f"{path.name}: {found.json_path}: {found.message}" for found in leaves(checker(kind), data)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_evalkit_accepts_no_schema_refuses(kind: str, tmp_path: Path) -> None:
    dice, check, read = random.Random(20), checker(kind), accepts(kind, tmp_path)
    told = {"both accept": 0, "both refuse": 0, "only evalkit refuses": 0}
    files = [read_yaml(path) for path in FILES[kind]]
    for _ in range(200):
        data = mutated(dice.choice(files), dice)
        fits, reads = check.is_valid(data), read(data)
        assert fits or not reads, f"evalkit reads what the schema refuses: {data}"
        told["both accept" if fits and reads else "both refuse" if not fits else "only evalkit refuses"] += 1
    assert told["both accept"] > 5, told
    assert told["both refuse"] > 4 * told["only evalkit refuses"], told


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda suite: suite.update(taks=["mmlu"]), "$"),
        (lambda suite: suite.pop("baseline"), "$"),
        (lambda suite: suite.update(tasks=[]), "$.tasks"),
        (lambda suite: suite["engine"].pop("adapter"), "$.baseline"),
        (lambda suite: suite["engine"].update(dtype="fp8"), "$.engine.dtype"),
        (lambda suite: suite["candidates"][0].update(options={"max_batch_token": 640}), "$.candidates[0].options"),
        (lambda suite: suite["controls"][0].update(name="../x"), "$.controls[0].name"),
        (lambda suite: suite["judge"].update(qualify="4"), "$.judge.qualify"),
        (lambda suite: suite["judge"]["engine"].update(options={"modle": 1}), "$.judge.engine.options"),
    ],
)
def test_faults_are_found_where_they_stand(change: Callable[[Any], None], place: str) -> None:
    suite = read_yaml(ROOT / "examples" / "cpu-demo.yaml")
    change(suite)
    found = {error.json_path for error in leaves(checker("suite"), suite)}
    assert place in found, found


def test_every_adapter_s_options_are_known() -> None:
    read = {}
    for name in adapter_names():
        text = (ROOT / "evalkit" / "adapters" / f"{name}.py").read_text("utf-8")
        read[name] = re.findall(r"read_options\((\w+), spec\)", text)
    assert read == {name: [place.partition(":")[2]] for name, place in OPTIONS.items()}


def test_every_key_has_a_description() -> None:
    for kind in KINDS:
        document = schema(kind)
        for name, model in {kind: document, **document.get("$defs", {})}.items():
            for key, one in model.get("properties", {}).items():
                assert one.get("description"), f"{kind}: {name}.{key}"


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"there is no schema 'suit'; did you mean 'suite'.*kinds: suite, policy"):
        schema("suit")
