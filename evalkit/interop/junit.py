"""A certificate as JUnit XML, for the test pages of Jenkins and GitLab.

In: `certificate.json` as data, or test cases. Out: XML text.
May not know: files; how anything was decided.

There is no single standard; this is what both read: one suite for the verdicts, one for each task, one for the checks
of the evaluation itself; one case for each rule, never one for each item; names that stay the same from night to night.
Only a rule that holds has no child. An open endpoint is a failure, not a skip, which servers show as green; a task that
was not measured is an error, because an absent case looks like a pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from evalkit.signed import signed

Data = Mapping[str, Any]
Fault = Literal["failure", "error"]

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_FAULTS: Mapping[str, tuple[Fault, str]] = {
    "REJECTED": ("failure", "rejected"),
    "INCONCLUSIVE": ("failure", "inconclusive"),
    "INVALID": ("error", "invalid"),
    "FAIL": ("failure", "rejected"),
    "OPEN": ("failure", "inconclusive"),
}
_SOUND = ("CERTIFIED", "PASS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One rule, tested.

    Attributes:
        name: what was tested; the same every night.
        classname: of what; the same every night.
        fault: None if the rule holds; "failure" if it is broken or undecided, "error" if it could not be tested.
        type: one word for the fault ("rejected", "inconclusive", "invalid", "not-measured").
        message: one line.
        text: everything else that is known, several lines.
    """

    name: str
    classname: str
    fault: Fault | None = None
    type: str = ""
    message: str = ""
    text: str = ""


def junit_xml(document: Data) -> str:
    """Write a certificate, or a run against published numbers, as JUnit XML.

    Args:
        document: what `certificate.json` holds.
    """
    if document.get("kind") == "unpaired":
        return suites_xml(str(document["decision"]["policy"]), {"verdict": [_verdict_case(document["decision"])]})
    decision = document["decision"]
    suites: dict[str, list[Case]] = {"verdict": [_verdict_case(verdict) for verdict in decision["verdicts"]]}
    for name, endpoint in document["policy"]["document"]["endpoints"].items():
        cases = [_endpoint_case(verdict, name, decision["gating"]) for verdict in decision["verdicts"]]
        suites.setdefault(str(endpoint["task"]), []).extend(cases)
    suites["evaluation"] = [_check_case(check) for check in decision["assay"]["checks"]]
    if not decision["verdicts"]:
        nothing = Case(name="any recipe", classname="verdict", fault="error", type="invalid", message="no verdict")
        suites["verdict"].append(nothing)
    return suites_xml(str(decision["policy"]), suites)


def suites_xml(name: str, suites: Mapping[str, Sequence[Case]]) -> str:
    """Write suites of test cases as JUnit XML; characters that XML forbids are written as their code.

    Args:
        name: of the whole.
        suites: suite name to its cases.
    """
    root = ElementTree.Element("testsuites", {"name": legal(name), **_counts([c for s in suites.values() for c in s])})
    for suite, cases in suites.items():
        node = ElementTree.SubElement(root, "testsuite", {"name": legal(suite), **_counts(cases)})
        for case in cases:
            _append(node, case)
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    ElementTree.fromstring(text)  # noqa: S314 (our own text, read back: nobody is told of success before)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def legal(text: str) -> str:
    r"""Replace every character that XML 1.0 forbids by its code.

    >>> legal("a" + chr(27) + "[31m" + chr(0xD800) + "b")
    'a\\x1b[31m\\ud800b'
    """
    return _ILLEGAL.sub(lambda found: _code(ord(found.group())), text)


def _code(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.fault == "failure" for case in cases)),
        "errors": str(sum(case.fault == "error" for case in cases)),
        "skipped": "0",
        "time": "0.000",
    }


def _append(suite: ElementTree.Element, case: Case) -> None:
    attributes = {"name": legal(case.name), "classname": legal(case.classname), "time": "0.000"}
    node = ElementTree.SubElement(suite, "testcase", attributes)
    if case.fault is not None:
        fault = ElementTree.SubElement(node, case.fault, {"type": case.type, "message": legal(_line(case.message))})
        fault.text = legal(case.text or case.message)
    elif case.text or case.message:
        ElementTree.SubElement(node, "system-out").text = legal(case.text or case.message)


def _line(text: str) -> str:
    return " ".join(text.split())


def _fault(word: str) -> tuple[Fault | None, str]:
    """Return the fault a word of a decision stands for; an unknown word is never a pass."""
    return (None, "") if word in _SOUND else _FAULTS.get(word, ("error", "unknown-state"))


def _verdict_case(verdict: Data) -> Case:
    outcome = str(verdict["outcome"])
    fault, kind = _fault(outcome)
    reasons = [f"{reason['code']}: {reason['message']}" for reason in verdict["reasons"]]
    claim = f" ({verdict['claim']})" if verdict.get("claim") else ""
    more = [f"what would resolve it: {sentence}" for sentence in verdict.get("resolve", ())]
    return Case(
        name=str(verdict["recipe"]),
        classname="verdict",
        fault=fault,
        type=kind,
        message=f"{outcome}{claim}" + (f": {reasons[0]}" if reasons else ""),
        text="\n".join((f"{outcome}{claim}", *reasons, *more)),
    )


def _endpoint_case(verdict: Data, endpoint: str, gating: Sequence[str]) -> Case:
    name, classname = f"{verdict['recipe']}: {endpoint}", f"endpoint.{endpoint}"
    result = next((found for found in verdict["endpoints"] if found["name"] == endpoint), None)
    if result is None:
        why = [reason["message"] for reason in verdict["reasons"] if reason["endpoint"] in (endpoint, None)]
        message = f"no result: {why[0]}" if why else "no result"
        if endpoint not in gating:
            return Case(name=name, classname=classname, text=f"{message} (decides nothing)")
        return Case(
            name=name, classname=classname, fault="error", type="not-measured", message=message, text="\n".join(why)
        )
    text = "\n".join(_steps(result))
    if endpoint not in gating:
        return Case(name=name, classname=classname, text=f"{result['state']} (decides nothing)\n{text}")
    fault, kind = _fault(str(result["state"]))
    return Case(name=name, classname=classname, fault=fault, type=kind, message=f"{result['state']}: {text}", text=text)


def _steps(result: Data) -> Iterator[str]:
    interval = result["interval"]
    seen = f"difference {signed(result['difference'], 4)}"
    if interval is not None:
        seen += (
            f", {100 * interval['level']:g} % interval {signed(interval['lower'], 4)} to {signed(interval['upper'], 4)}"
        )
    yield f"{seen}, n = {result['pairs']} of {result['planned']}"
    for step in result["steps"][: result["own_margins"]]:
        yield f"{step['claim']}: {step['state']} at margin {step['margin']:g} (p = {step['p_certify']:.2g})"


def _check_case(check: Data) -> Case:
    where = " ".join(str(part) for part in (check["run"], check["endpoint"]) if part)
    name, classname = f"{check['check']}: {where}", "evaluation"
    if check["passed"]:
        return Case(name=name, classname=classname, text=check["message"])
    if not check["required"]:
        return Case(name=name, classname=classname, text=f"{check['message']} (not required)")
    kind = "not-measured" if check["passed"] is None else "invalid"
    return Case(name=name, classname=classname, fault="error", type=kind, message=check["message"])
