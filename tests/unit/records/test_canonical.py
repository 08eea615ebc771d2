from __future__ import annotations

import math

import pytest

from evalkit.errors import DataError
from evalkit.records import canonical_json, content_digest, digest, fold, text_digest


def test_equal_values_are_equal_texts_whatever_their_order():
    assert canonical_json({"b": [1, None], "a": "ü"}) == canonical_json({"a": "ü", "b": [1, None]})
    assert canonical_json({"a": "ü"}) == '{"a":"ü"}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 1, "b": 2})


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [1.0, -math.inf]}])
def test_no_number_that_is_not_finite_is_ever_written(value):
    with pytest.raises(DataError, match="cannot be written as JSON"):
        canonical_json(value)


def test_the_digest_of_a_text_is_that_of_its_bytes():
    assert text_digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert text_digest("ü") != digest("ü"), "JSON puts a text between quotes"


def test_white_space_makes_no_other_content_but_words_and_their_order_do():
    row = {"question": "one\n two", "choices": ["a  b", ("c",)], "answer": 1}
    assert content_digest(row) == content_digest({**row, "question": " one two ", "choices": ["a b", ["c"]]})
    assert content_digest(row) != content_digest({**row, "question": "two one"})
    assert content_digest(row) != content_digest({**row, "answer": 2})
    assert fold("\u00a0a\t\tb ") == "a b"
