from __future__ import annotations

import json

import pytest

from evalkit.errors import DataError
from evalkit.records import FORMAT, Manifest


def test_a_file_is_read_back_as_it_was(made):
    text = made.manifest.to_json()
    assert text.endswith("}\n")
    assert Manifest.from_json(text) == made.manifest
    assert Manifest.from_json(text).to_json() == text
    assert Manifest.from_json(text).judges["quiz"].scale == (1.0, 10.0)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format": FORMAT + 1}, f"run format {FORMAT + 1} is not {FORMAT}"),
        ({"format": None}, "run format None"),
        ({"engine": {}}, "EngineIdentity: "),
        ({"tasks": {"quiz": {"kind": "choice"}}}, "TaskRun: "),
        ({"judges": {"quiz": {"profile": "words"}}}, "EngineIdentity: "),
        ({"surprise": 1}, r"Manifest: unknown field\(s\) surprise"),
    ],
)
def test_what_cannot_be_read_is_named(made, changes, fault):
    row = json.loads(made.manifest.to_json())
    with pytest.raises(DataError, match=fault):
        Manifest.from_json(json.dumps({**row, **changes}))
