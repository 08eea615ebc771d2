from __future__ import annotations

import pytest

from evalkit.errors import DataError
from evalkit.records import Turn, build, parse_object


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must be a JSON object, not list"),
        ('{"a": NaN}', "the bare word NaN"),
        ('{"a": -Infinity}', "the bare word -Infinity"),
        ('{"a": 1, "a": 2}', "a repeated key"),
        ('{"a":' * 100_000, "not valid JSON"),
    ],
)
def test_what_is_no_strict_object_is_named(text, fault):
    with pytest.raises(DataError, match=rf"a thing .*{fault}"):
        parse_object(text, "a thing")


def test_unknown_missing_and_no_fields_are_named():
    row = {"text": "a", "finish": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    assert build(Turn, row) == Turn(**row)
    with pytest.raises(DataError, match=r"Turn: unknown field\(s\) surprise, zoo"):
        build(Turn, {**row, "zoo": 1, "surprise": 2})
    with pytest.raises(DataError, match=r"Turn: .*'finish'"):
        build(Turn, {"text": "a", "prompt_tokens": 1, "completion_tokens": 1})
    with pytest.raises(DataError, match="Turn must be a JSON object, not list"):
        build(Turn, [])
