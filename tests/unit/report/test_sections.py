"""The two ways to write a report: text from outside is shown as it is and commands nothing."""

from __future__ import annotations

import pytest

from evalkit.report.sections import Section, Table, as_markdown, as_text, interval, printable, probability


def markdown(*body: str | Table, title: str = "Title") -> list[str]:
    return as_markdown([Section(title=title, body=list(body))]).splitlines()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("# heading", r"\# heading"),
        ("1. first", r"1\. first"),
        ("2) second", r"2\) second"),
        ("> quote", r"\> quote"),
        ("+ item", r"\+ item"),
        ("=====", r"\====="),
        ("[x] done", r"\[x] done"),
        ("one\ntwo\r\n\nthree", r"one two\\x0d three"),
        ("a | b", r"a \| b"),
        ("<b>&lt;", "&lt;b>&amp;lt;"),
        ("`x` *y* ~z~", r"\`x\` \*y\* \~z\~"),
        ("_em_ __strong__", r"\_em\_ \_\_strong\_\_"),
        ("see [text](url) [a][b] [c]: d", r"see [text\](url) [a\][b] [c\]: d"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_markdowns_own_characters_are_escaped_in_a_paragraph(text: str, written: str) -> None:
    assert markdown(text)[-1] == written


@pytest.mark.parametrize("text", ["mt_bench within [-0.58, +0.01] points", "p < 5 % & n = 3 (of 4)", "2026 was good."])
def test_ordinary_text_stays_readable(text: str) -> None:
    assert markdown(text)[-1] == text.replace("<", "&lt;")


def test_an_item_is_one_item_whatever_it_holds() -> None:
    lines = markdown("- first", "- second\n- third", "- - fourth", "end")
    assert lines[2:] == ["- first", "- second - third", r"- \- fourth", "", "end"]


def test_a_title_is_one_line_in_both_forms() -> None:
    section = Section(title="a\n# b\x1b[1m|", body=[], level=2)
    assert as_markdown([section]).rstrip("\n") == r"## a # b\\x1b[1m\|"
    title, underline = as_text([section]).splitlines()
    assert title == r"a # b\x1b[1m|"
    assert underline == "-" * len(title)


def test_a_caption_and_a_header_are_escaped_like_the_rest() -> None:
    table = Table(headers=("a|b",), rows=[("x",)], caption="- n\x1b[2J <i>")
    assert markdown(table)[-1] == r"- n\\x1b[2J &lt;i>"
    assert markdown(table)[2].count("|") - markdown(table)[2].count(r"\|") == 2
    assert "\x1b" not in as_text([Section(title="t", body=[table])])


@pytest.mark.parametrize("code", [0x00, 0x07, 0x1B, 0x7F, 0x85, 0x9B, 0xAD, 0x200E, 0x202E, 0x2066, 0x2028, 0xD800])
def test_a_character_that_commands_or_hides_is_written_as_its_code(code: int) -> None:
    assert printable(f"a{chr(code)}b") == f"a\\x{code:02x}b"


@pytest.mark.parametrize("text", ["é ß 日本語 Ω", "line\nfeed\ttab", "naïve — “quoted” ≥ 1.5 ± 2"])
def test_letters_of_every_script_stay(text: str) -> None:
    assert printable(text) == text


def test_a_p_value_is_never_written_as_zero() -> None:
    assert [probability(value) for value in (1.0, 0.0458, 0.001, 0.00099, 1.4e-6)] == [
        "1.000",
        "0.046",
        "0.001",
        "9.9e-04",
        "1.4e-06",
    ]


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("points", "[-0.58, +1.20] points (95 %, m)"),
        ("percent", "[-0.6, 1.2] % (95 %, m)"),
        ("rating", "[-0.01, +0.01] (95 %, m)"),
        ("ratio", "[-0.006, 0.012] (95 %, m)"),
    ],
)
def test_an_interval_carries_unit_level_and_method(unit: str, written: str) -> None:
    assert interval({"lower": -0.005807, "upper": 0.012, "level": 0.95, "method": "m"}, unit) == written


def test_no_interval_is_said_and_not_left_empty() -> None:
    assert interval(None, "points") == "no interval"
