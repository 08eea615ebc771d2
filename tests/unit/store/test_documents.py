"""Every document that evalkit reads back: one changed value is refused by name, or shows in what is read."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.cli.report import read_certificate
from evalkit.errors import DataError, EvalkitError
from evalkit.nightly.result import read_result, write_result
from evalkit.qualification import Qualification, read_qualification, write_qualification
from evalkit.records import EngineIdentity, Item, Judgment, Manifest, Record, canonical_json, sealed
from evalkit.records.record import Probe, ProbeRow
from evalkit.report.document import certificate_view
from evalkit.store import read_run
from evalkit.throughput.measurement import Measurement, read_throughput, throughput_json

TESTS = Path(__file__).resolve().parents[2]
MUTATIONS = 1000

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    10**6,
    10**30,
    0.5,
    -0.0,
    1e300,
    "",
    "0",
    "1",
    "true",
    "null",
    "a" * 5000,
    "\u202e",
    "\x00",
    "../../x",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": 1},
    ["a", 1],
    "\ud83d",
    "ok",
    "failed",
    [0.5] * 4,
)
"""Values of every type that JSON has; half a character among them."""

FREE = {"doc", "details", "settings", "requested", "dataset", "quantization", "options", "processor"}
"""Objects that hold whatever a tool has said."""


def load(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a document."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def at(document: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        document = document[step]
    return document


def mutations(documents: list[Any], seed: int) -> Iterator[tuple[Any, tuple[Any, ...], Any, Any]]:
    """Yield (document with one other value, place, value that was there, new value); the document is mended after."""
    dice = random.Random(seed)
    ways = [list(places(document)) for document in documents]
    made = 0
    while made < MUTATIONS:
        number = dice.randrange(len(documents))
        place, value = dice.choice(ways[number]), dice.choice(HOSTILE)
        inner = at(documents[number], place[:-1])
        old = inner[place[-1]]
        if json.dumps(old) == json.dumps(value) or (old == value and not odd_type(old, value)):
            continue
        made += 1
        inner[place[-1]] = value
        yield documents[number], place, old, value
        inner[place[-1]] = old


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    release = load("release_folders").make_release(tmp_path_factory.mktemp("release"), items=60, questions=4)
    assert release.certify() in (0, 1, 3, 4)
    return release.folder


def lines(runs: Path, kind: str) -> list[Any]:
    files = sorted((runs / "equal" / kind).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()[:6]]


def odd_type(old: Any, new: Any) -> bool:
    """Say whether a value of one type stands where one of another was."""
    kinds = [
        "null"
        if one is None
        else "bool"
        if isinstance(one, bool)
        else "number"
        if isinstance(one, (int, float))
        else type(one).__name__
        for one in (old, new)
    ]
    return "null" not in kinds and kinds[0] != kinds[1]


@pytest.mark.parametrize(("kind", "cls"), [("records", Record), ("items", Item), ("judgments", Judgment)])
def test_a_changed_value_of_a_line_is_refused_or_is_another_line(runs: Path, kind: str, cls: Any) -> None:
    refused, known = 0, {json.dumps(row, sort_keys=True) for row in lines(runs, kind)}
    for made, place, old, value in mutations(lines(runs, kind), seed=1):
        begun = time.process_time()
        try:
            found = cls.from_json(json.dumps(made)).to_json()
        except DataError:
            refused += 1
        else:
            if json.dumps(json.loads(found), sort_keys=True) != json.dumps(made, sort_keys=True):
                pytest.fail(f"{place}: {value!r} is not kept as it is")
            if json.dumps(made, sort_keys=True) in known:
                pytest.fail(f"{place}: {value!r} is read as what was there")
            if not FREE & set(place):
                assert not odd_type(old, value), (place, value)
        assert time.process_time() - begun < 5.0
    assert refused > MUTATIONS / 4


def test_a_changed_value_of_a_manifest_is_refused_or_is_another_manifest(runs: Path) -> None:
    text = (runs / "equal" / "manifest.json").read_text()
    refused = 0
    for made, place, old, value in mutations([json.loads(text)], seed=2):
        try:
            found = json.loads(Manifest.from_json(json.dumps(made)).to_json())
        except DataError:
            refused += 1
            continue
        if json.dumps(found, sort_keys=True) != json.dumps(made, sort_keys=True):
            pytest.fail(f"{place}: {value!r} is not kept as it is")
        if not FREE & set(place):
            assert not odd_type(old, value), (place, value)
    assert refused > MUTATIONS / 4


def test_a_changed_line_of_a_run_folder_is_named_with_file_line_key_and_next_step(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "equal", folder)
    file = folder / "records" / "mmlu.jsonl"
    rows = file.read_text().splitlines()
    row = json.loads(rows[4])
    row["marks"]["acc"] = True
    rows[4] = canonical_json(row)
    file.write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"mmlu\.jsonl:5: Record: marks\.acc must be a number, not True; next step"):
        read_run(folder)


def qualification(folder: Path) -> Path:
    rows = [
        ProbeRow(
            probe=Probe(question=f"q{at}", turn=1, kind=kind, name="" if kind == "original" else "swap"),
            key=f"{at}-{kind}",
            status="ok",
            score=8.0 if kind == "original" else 3.0,
        )
        for at in range(12)
        for kind in ("original", "twin", "bad")
    ]
    found = Qualification(
        judge={"model": "judge", "sha256": "j" * 64},
        profile="strict",
        profile_sha256="p" * 64,
        references_sha256=None,
        source={"task": "talk", "identity_sha256": "i", "records_sha256": "r", "answers": 12, "seed": 0},
        rows=tuple(rows),
    )
    write_qualification(folder / "qualification.json", found)
    return folder / "qualification.json"


def night(folder: Path) -> Path:
    engine = EngineIdentity(
        adapter="hf",
        model="m",
        weights_sha256="a" * 64,
        recipe="int4",
        recipe_sha256="b" * 64,
        fidelity="simulated",
        quantization={},
        dtype="float32",
        tokenizer_sha256="c" * 64,
        chat_template_sha256=None,
        versions={},
        device="cpu",
    )
    plain = json.loads(canonical_json({name: getattr(engine, name) for name in engine.__dataclass_fields__}))
    endpoint = {
        "task": "mmlu",
        "metric": "acc",
        "outcome": "OK",
        "reasons": [],
        "population": 800,
        "asked": 96,
        "probe": None,
        "watch": {"state": "OK", "used": 96, "log_e": -2.5},
        "confirm": None,
        "full": None,
        "triage": None,
    }
    result = {
        "result_version": 1,
        "suite": "s",
        "site": "h",
        "night": "2026-03-01",
        "recipe": "int4",
        "outcome": "OK",
        "reasons": [],
        "policy": {"name": "n", "sha256": "d" * 64},
        "watched": {"mmlu": {"task": "mmlu", "metric": "acc", "protocol": "ll-5shot"}},
        "seed": 3,
        "margin_points": 3.0,
        "started_at": "t",
        "finished_at": "t",
        "environment": {},
        "identity_sha256": "e" * 64,
        "engine": plain,
        "baseline": {"name": "b"},
        "orders": {"mmlu": {"items": 800, "sha256": "f" * 64}},
        "records_sha256": {"mmlu": "a" * 64},
        "endpoints": {"mmlu": endpoint},
        "speed": {"items": 96, "seconds": 2.5, "items_per_s": 38.4},
    }
    write_result(folder, result)
    return folder / "result.json"


def throughput(folder: Path) -> Path:
    found = [
        Measurement(
            recipe=name, input_tokens=128, output_tokens=64, mode="maximum", tokens_per_second=speed, tool="csv"
        )
        for name, speed in (("official", 812.5), ("int4", 1204.25))
    ]
    (folder / "throughput.json").write_text(throughput_json(found))
    return folder / "throughput.json"


WHOLE: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "qualification": (qualification, read_qualification),
    "night": (night, lambda file: read_result(file.parent)),
    "throughput": (throughput, read_throughput),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_changed_value_of_a_document_with_a_digest_is_always_refused(kind: str, tmp_path: Path) -> None:
    write, read = WHOLE[kind]
    file = write(tmp_path)
    read(file)
    for made, *_ in mutations([json.loads(file.read_text())], seed=3):
        file.write_text(json.dumps(made))
        with pytest.raises(EvalkitError, match=r"next step: ") as caught:
            read(file)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("kind", ["night", "throughput"])
def test_a_changed_value_under_a_digest_made_again_is_refused_by_type_or_is_read(kind: str, tmp_path: Path) -> None:
    write, read = WHOLE[kind]
    file = write(tmp_path)
    first, refused = read(file), list[str]()
    document = json.loads(file.read_text())
    del document["content_sha256"]
    for made, place, _, value in mutations([document], seed=4):
        try:
            file.write_text(json.dumps(sealed(made)))
        except UnicodeEncodeError:
            file.write_text(json.dumps(made))
        try:
            found = read(file)
        except EvalkitError as error:
            refused.append(str(error))
            continue
        assert repr(found) != repr(first), (place, value)
    assert len(refused) > MUTATIONS / 5
    assert all(str(file) in words and "next step: " in words for words in refused)


def test_a_changed_value_of_a_certificate_is_refused_or_shown(runs: Path, tmp_path: Path) -> None:
    first = json.loads((runs / "certificate.json").read_text())
    file, text = tmp_path / "certificate.json", json.dumps(first, sort_keys=True)
    refused: list[str] = []
    for number, (made, place, _, value) in enumerate(mutations([first], seed=5)):
        file.write_text(json.dumps(made))
        try:
            found = read_certificate(file)
            if json.dumps(found, sort_keys=True) == text:
                pytest.fail(f"{place}: {value!r} is read as what was there")
            if number % 20 == 0:
                certificate_view(found)
        except EvalkitError as error:
            refused.append(str(error))
    assert len(refused) > MUTATIONS / 4
    assert all("certificate.json" in words for words in refused)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "not UTF-8": lambda data: data.replace(b'"', b"\xff", 1),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "a mark before the text": lambda data: b"\xef\xbb\xbf" + data,
    "a repeated key": lambda data: data.rstrip()[:-1] + b',"a":1,"a":2}',
    "NaN": lambda data: data.rstrip()[:-1] + b',"a":NaN}',
    "beyond a float": lambda data: data.rstrip()[:-1] + b',"a":1e999}',
    "half a character": lambda data: data.rstrip()[:-1] + b',"a":"\\ud83d"}',
    "half a character in a key": lambda data: data.rstrip()[:-1] + b',"\\udc00":1}',
    "a hundred levels": lambda data: data.rstrip()[:-1] + b',"a":' + b"[" * 200 + b"]" * 200 + b"}",
    "a hundred thousand levels": lambda data: data.rstrip()[:-1] + b',"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a million digits": lambda data: data.rstrip()[:-1] + b',"a":' + b"9" * 1_000_000 + b"}",
    "a list": lambda data: b"[" + data + b"]",
    "a word": lambda data: b'"x"',
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", [*WHOLE, "certificate", "manifest", "records", "items", "judgments"])
def test_a_damaged_document_is_named_with_what_to_do(kind: str, damage: str, runs: Path, tmp_path: Path) -> None:
    if kind in WHOLE:
        write, read = WHOLE[kind]
        file = write(tmp_path)
    elif kind == "certificate":
        file, read = tmp_path / "certificate.json", read_certificate
        shutil.copy(runs / "certificate.json", file)
    else:
        shutil.copytree(runs / "equal", tmp_path / "run")
        file = tmp_path / "run" / ("manifest.json" if kind == "manifest" else f"{kind}/mt-bench.jsonl")
        read = lambda _: read_run(tmp_path / "run").trusted()  # noqa: E731
    data = file.read_bytes()
    if file.suffix == ".jsonl":
        first, rest = data.split(b"\n", 1)
        file.write_bytes(DAMAGE[damage](first) + b"\n" + rest)
    else:
        file.write_bytes(DAMAGE[damage](data))
    with pytest.raises(EvalkitError, match="next step: ") as caught:
        read(file)
    assert file.name in str(caught.value)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_fifo_or_a_giant_is_no_document(kind: str, tmp_path: Path) -> None:
    write, read = WHOLE[kind]
    file = write(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(EvalkitError, match=r"a FIFO.*next step: "):
        read(file)
    file.unlink()
    with file.open("wb") as giant:
        giant.truncate(1 << 40)
    with pytest.raises(EvalkitError, match=r"larger than [0-9,]+ bytes.*next step: "):
        read(file)
