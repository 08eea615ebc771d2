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

from evalkit.report.document import certificate_view
from evalkit.report.view import CheckRow, EndpointRow, VerdictRow, View

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

    Raises:
        DataError: the document is incomplete or damaged; names the key.
    """
    view = certificate_view(document)
    suites: dict[str, list[Case]] = {"verdict": [_verdict_case(view, verdict) for verdict in view.verdicts]}
    rows = [row for verdict in view.verdicts for row in verdict.endpoints]
    for name in dict.fromkeys(row.endpoint for row in rows):
        for row in rows:
            if row.endpoint == name:
                suites.setdefault(row.task, []).append(_endpoint_case(row))
    if view.paired:
        suites["evaluation"] = [_check_case(check) for check in view.checks]
    if not view.verdicts:
        nothing = Case(name="any recipe", classname="verdict", fault="error", type="invalid", message="no verdict")
        suites["verdict"].append(nothing)
    return suites_xml(view.policy.name, suites)


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


def _verdict_case(view: View, verdict: VerdictRow) -> Case:
    fault, kind = _fault(verdict.outcome.value)
    cautions = [f"CAUTION, {one.code}: {one.message}" for one in (*view.cautions, *verdict.cautions)]
    reasons = [f"{reason.code}: {reason.message}" for reason in verdict.reasons]
    rows = [f"{row.endpoint}: {row.state_text}: {row.summary}" for row in verdict.deciding]
    more = [f"what would resolve it: {sentence}" for sentence in verdict.resolve]
    more += [f"note: {note}" for note in verdict.notes]
    return Case(
        name=verdict.recipe,
        classname="verdict",
        fault=fault,
        type=kind,
        message=": ".join((verdict.said, *reasons[:1], *cautions[:1])),
        text="\n".join((f"{verdict.said}: {verdict.meaning}", *cautions, *rows, *reasons, *more)),
    )


def _endpoint_case(row: EndpointRow) -> Case:
    name, classname = f"{row.run}: {row.endpoint}", f"endpoint.{row.endpoint}"
    if row.state is None:
        message = f"no result: {row.why}"
        if not row.gating:
            return Case(name=name, classname=classname, text=f"{message} (decides nothing)\n{row.summary}")
        text = f"{message}\n{row.summary}"
        return Case(name=name, classname=classname, fault="error", type="not-measured", message=message, text=text)
    text = "\n".join((row.summary, *_steps(row)))
    if not row.gating:
        return Case(name=name, classname=classname, text=f"{row.state.value} (decides nothing)\n{text}")
    fault, kind = _fault(row.state.value)
    return Case(
        name=name, classname=classname, fault=fault, type=kind, message=f"{row.state.value}: {row.summary}", text=text
    )


def _steps(row: EndpointRow) -> Iterator[str]:
    for step in row.margins:
        if step.state is not None and step.p_certify is not None:
            margin = row.margin_words(step.margin)
            yield f"{step.claim}: {step.state.value} at margin {margin} (p = {step.p_certify:.2g})"


def _check_case(check: CheckRow) -> Case:
    name, classname = f"{check.check}: {check.target}", "evaluation"
    if check.passed:
        return Case(name=name, classname=classname, text=check.message)
    if not check.required:
        text = f"{check.result}: {check.message} (not required)"
        return Case(name=name, classname=classname, text=text)
    kind = "not-measured" if check.passed is None else "invalid"
    return Case(name=name, classname=classname, fault="error", type=kind, message=f"{check.result}: {check.message}")
