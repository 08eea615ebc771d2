"""What every verb writes: JSON and progress that cannot command a terminal."""

from __future__ import annotations

import json

import pytest

from evalkit.cli.options import print_json, safe_json, say

ODD = "a\x9b2J\x85\x7f\u202ereversed\u2066\u2028\x1b[2J hä 東京"


def test_json_means_what_it_meant_and_holds_nothing_that_commands(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"said": ODD, ODD: [ODD]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"said": ODD, ODD: [ODD]}
    assert not [char for char in out if char != "\n" and (ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F)]
    assert not {"\u202e", "\u2066", "\u2028"} & set(out)
    assert "hä 東京" in out, "letters stay as they are"


def test_json_without_such_characters_stays_as_it_is() -> None:
    text = json.dumps({"said": 'hä "x" \\ \u00a0'}, ensure_ascii=False)
    assert safe_json(text) == text


def test_progress_that_quotes_a_server_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("the server says '\x9b2J\x1b[2J'")
    err = capsys.readouterr().err
    assert err == "the server says '\\x9b2J\\x1b[2J'\n"
