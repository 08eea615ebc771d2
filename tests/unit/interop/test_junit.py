"""Certificates as JUnit XML: valid against a schema, counted right, and never green by accident."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from evalkit import cli
from evalkit.errors import DataError
from evalkit.interop.junit import Case, escaped, junit_xml, legal, suites_xml

SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "junit.xsd"))


def parsed(text: str) -> etree._Element:
    root = etree.fromstring(text.encode())
    SCHEMA.assertValid(root)
    for node in (root, *root.findall("testsuite")):
        assert int(node.get("tests")) == len(list(node.iter("testcase")))
        assert int(node.get("failures")) == len(list(node.iter("failure")))
        assert int(node.get("errors")) == len(list(node.iter("error")))
        assert node.get("skipped") == "0"
    return root


def fault(root: etree._Element, suite: str, case: str) -> tuple[str, str] | None:
    """The kind and type of what is wrong with a case; None if nothing is."""
    (node,) = root.xpath("//testsuite[@name=$suite]/testcase[@name=$case]", suite=suite, case=case)
    found = [child for child in node if child.tag != "system-out"]
    return (found[0].tag, found[0].get("type")) if found else None


def test_certified_is_green_and_rejected_is_a_failure(certificate) -> None:
    root = parsed(junit_xml(certificate))
    assert fault(root, "verdict", "equal") is None
    assert fault(root, "verdict", "worse") == ("failure", "rejected")
    assert fault(root, "mmlu", "equal: mmlu") is None
    assert fault(root, "mmlu", "worse: mmlu") == ("failure", "rejected")
    assert [suite.get("name") for suite in root] == ["verdict", "mmlu", "mt-bench", "evaluation"]


def test_what_decides_nothing_never_fails_a_build(certificate) -> None:
    assert "mt_bench" not in certificate["decision"]["gating"]
    changed = copy.deepcopy(certificate)
    for verdict in changed["decision"]["verdicts"]:
        for result in verdict["endpoints"]:
            if result["name"] == "mt_bench":
                result["state"] = "FAIL"
    root = parsed(junit_xml(changed))
    assert fault(root, "mt-bench", "equal: mt_bench") is None


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("INCONCLUSIVE", ("failure", "inconclusive")),
        ("INVALID", ("error", "invalid")),
    ],
)
def test_nothing_but_certified_is_green(certificate, outcome: str, expected: tuple[str, str]) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["verdicts"][0].update(outcome=outcome, reasons=[])
    assert fault(parsed(junit_xml(changed)), "verdict", "equal") == expected


@pytest.mark.parametrize("word", ["PASSED", "", None, 1])
def test_a_word_that_no_decision_has_makes_no_file(certificate, word: object) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["verdicts"][0]["outcome"] = word
    with pytest.raises(DataError, match="outcome"):
        junit_xml(changed)


def test_a_gating_endpoint_without_a_result_is_an_error(certificate) -> None:
    changed = copy.deepcopy(certificate)
    verdict = changed["decision"]["verdicts"][0]
    verdict["endpoints"] = [result for result in verdict["endpoints"] if result["name"] != "mmlu"]
    assert fault(parsed(junit_xml(changed)), "mmlu", "equal: mmlu") == ("error", "not-measured")


def test_a_required_check_that_was_not_made_is_an_error(certificate) -> None:
    changed = copy.deepcopy(certificate)
    check = changed["decision"]["assay"]["checks"][0]
    check.update(passed=None, required=True)
    name = f"{check['check']}: {check['endpoint']}"
    assert fault(parsed(junit_xml(changed)), "evaluation", name) == ("error", "not-measured")
    check.update(required=False)
    assert fault(parsed(junit_xml(changed)), "evaluation", name) is None


def test_no_recipe_at_all_is_an_error(certificate) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["verdicts"] = []
    assert fault(parsed(junit_xml(changed)), "verdict", "any recipe") == ("error", "invalid")


def test_names_do_not_change_with_the_numbers(certificate) -> None:
    changed = copy.deepcopy(certificate)
    changed["decision"]["verdicts"][0]["endpoints"][0].update(difference=-0.5, state="FAIL")
    names = [[case.get("name") for case in parsed(junit_xml(one)).iter("testcase")] for one in (certificate, changed)]
    assert names[0] == names[1]


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_makes_valid_xml_and_comes_back(text: str) -> None:
    case = Case(name=text, classname=text, fault="failure", type="rejected", message=text, text=text)
    root = parsed(suites_xml(text, {text: [case]}))
    (found,) = root.iter("failure")
    assert (found.text or "").replace("\r\n", "\n").replace("\r", "\n") == legal(text).replace("\r\n", "\n").replace(
        "\r", "\n"
    )
    assert root.get("name") == legal(text)


def test_the_verb_writes_a_file_that_is_valid(release, certificate, tmp_path, capsys) -> None:
    assert (
        cli.main(["report", "export", str(release), "--format", "junit", "--output", str(tmp_path / "x" / "junit.xml")])
        == 0
    )
    assert (tmp_path / "x" / "junit.xml").read_text("utf-8") == junit_xml(certificate)
    assert cli.main(["report", "export", str(release / "certificate.json"), "--format", "junit"]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_run_against_published_numbers(published) -> None:
    root = parsed(junit_xml(published))
    assert fault(root, "verdict", "candidate") == ("failure", "inconclusive")
    assert fault(root, "mmlu", "candidate: mmlu") == ("failure", "inconclusive")


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200f", "\u2028", "\x85", "\x9b", "\x1b", "\u200b"])
def test_marks_that_turn_or_hide_text_do_not_reach_a_build_server(mark: str) -> None:
    shown = suites_xml("all", {f"s{mark}": [Case(name=f"int4{mark}", classname="verdict", message=f"m{mark}")]})
    assert mark not in shown
    parsed(shown)
    assert mark not in escaped(f"int4{mark}cut")
