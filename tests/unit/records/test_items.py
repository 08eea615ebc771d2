from __future__ import annotations

import json

import pytest

from evalkit.errors import DataError
from evalkit.records import Item


def test_a_line_is_read_back_as_it_was(made):
    for item in (made.item, made.talk):
        line = item.to_json()
        assert "\n" not in line
        assert Item.from_json(line) == item
        assert Item.from_json(line).to_json() == line


def test_the_key_is_made_of_content_and_never_of_a_place(made):
    assert made.item.key == f"quiz/sums/{'a' * 64}/0"


@pytest.mark.parametrize("name", ["continuations", "turns"])
def test_what_must_be_a_list_is_one(made, name):
    row = json.loads(made.item.to_json())
    with pytest.raises(DataError, match=f"'{name}' must be a list, not 'abc'"):
        Item.from_json(json.dumps({**row, name: "abc"}))


def test_an_unknown_field_is_named(made):
    row = json.loads(made.item.to_json())
    with pytest.raises(DataError, match=r"Item: unknown field\(s\) surprise"):
        Item.from_json(json.dumps({**row, "surprise": 1}))
