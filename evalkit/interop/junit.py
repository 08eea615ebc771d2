"""A certificate as JUnit XML, for the test pages of Jenkins and GitLab.

In: `certificate.json` as data, or test cases. Out: XML text.
Must not depend on: files; how anything was decided.

There is no single standard; this is what both read: one suite for the verdicts, one for each task, one for the checks
of the evaluation itself; one case for each rule, never one for each item; names that stay the same from night to night.
Only a rule that holds has no child. An open endpoint is a failure, not a skip, which servers show as green; a task that
was not measured is an error, because an absent case looks like a pass.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from evalkit.errors import StoreError
from evalkit.report.document import certificate_view
from evalkit.report.view import CheckRow, EndpointRow, VerdictRow, View

# A certificate as the Markdown summary of a CI job (GitHub's `GITHUB_STEP_SUMMARY`).
#
# A summary that is too large fails to upload while its step still passes, so it is cut here and never the only place
# of a verdict. Text from outside is escaped; it can open no tag, table cell, mention or code span.


Data = Mapping[str, Any]

LIMIT_BYTES = 64 * 1024
"""GitHub drops a step's summary beyond 1 MiB."""

_CUT = "\n\n*cut: the whole report is `report.md`*\n"
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that command a terminal, turn the direction of writing, break a line or have no shape."""
_ESCAPES = {ord(char): f"&#{ord(char)};" for char in "\\`*_{}[]<>#|@~$&"}


def job_summary(document: Data, *, limit_bytes: int = LIMIT_BYTES) -> str:
    """Write a certificate, or a run against published numbers, as a job summary.

    Args:
        document: what `certificate.json` holds.
        limit_bytes: longest summary, UTF-8 bytes; what is beyond is cut and said to be cut.

    Raises:
        DataError: the document is incomplete or damaged; names the key.
    """
    view = certificate_view(document)
    parts = [f"## {escaped(view.headline)}", *_opening(view), _table(view), _checks(view), *_reasons(view)]
    return cut("\n\n".join(part for part in parts if part) + "\n", limit_bytes)


def escaped(text: str) -> str:
    """Escape text from outside, so that Markdown, HTML and mentions read it as text on one line.

    >>> escaped("a|b <img> @all `x`")
    'a&#124;b &#60;img&#62; &#64;all &#96;x&#96;'
    """
    line = " ".join("".join(char if unicodedata.category(char) not in _HIDDEN else " " for char in text).split())
    return line.translate(_ESCAPES)


def cut(text: str, limit_bytes: int) -> str:
    """Return the text, or its beginning up to a whole line with a word that it was cut.

    >>> len(cut("line of text" * 99, 200).encode()) <= 200
    True
    """
    if len(text.encode()) <= limit_bytes:
        return text
    kept = text.encode()[: max(0, limit_bytes - len(_CUT.encode()))].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1 or len(kept)].rstrip() + _CUT


def append_summary(path: Path, text: str) -> None:
    """Append a summary to the file that the CI server named.

    Raises:
        StoreError: the file cannot be written; names it.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text if text.endswith("\n") else f"{text}\n")
    except OSError as error:
        raise StoreError(f"{path}: the summary cannot be written: {error.strerror or error}") from error


def _opening(view: View) -> Iterator[str]:
    lines = [f"- **{escaped(line)}**" for line in view.caution_lines]
    if lines:
        yield "\n".join(lines)
    if view.title:
        yield escaped(view.title)
    if not view.paired:
        yield "Unpaired: the baseline is a published number. This is no certificate."
        return
    baseline = next(run for run in view.runs if run.name == "baseline")
    policy, gating = view.policy, escaped(", ".join(view.gating) or "no endpoint")
    told = (
        f"Baseline {escaped(baseline.model)}, recipe {escaped(baseline.recipe)}, fidelity "
        f"{escaped(baseline.fidelity)}. Decided on {gating} by policy {escaped(policy.name)} (tier "
        f"{escaped(policy.tier)}, sha256 {escaped(policy.sha256[:12])}), {escaped(policy.timing)}."
    )
    tolerated = escaped(", ".join(view.policy.tolerances))
    yield told + (f" Tolerated differences of the runs: {tolerated}." if tolerated else "")


def _table(view: View) -> str:
    heads = ("recipe", "verdict", "endpoint", "n", "baseline → run", "difference", "interval", "margin", "alpha")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for verdict in view.verdicts:
        claim = f" ({escaped(verdict.claim)})" if verdict.claim else ""
        told = (escaped(verdict.recipe), f"**{verdict.word}**{claim}")
        for row in verdict.endpoints:
            cells = (f"{row.endpoint}: {row.state_text}", row.n_text, row.levels_text.replace("->", "→"))
            moved = "; ".join(filter(None, (row.difference_text, row.recovery_text)))
            more = (moved, row.interval_text, row.margin_text, row.alpha_text)
            lines.append(f"| {' | '.join((*told, *(escaped(cell) for cell in (*cells, *more))))} |")
        if not verdict.endpoints:
            lines.append(f"| {' | '.join((*told, *[''] * (len(heads) - 2)))} |")
    return "\n".join(lines)


def _checks(view: View) -> str:
    """Return every check of the evaluation with its result, those that were not made too."""
    told = [f"{check.check} ({check.target or 'all'}) {check.result}" for check in view.checks]
    return f"Checks of the evaluation: {escaped('; '.join(told))}." if told else ""


def _reasons(view: View) -> Iterator[str]:
    for verdict in view.verdicts:
        lines = [f"- {reason.code}: {escaped(reason.message)}" for reason in verdict.reasons]
        lines += [f"- what would resolve it: {escaped(sentence)}" for sentence in verdict.resolve]
        lines += [f"- note: {escaped(note)}" for note in verdict.notes]
        if lines:
            yield f"**{escaped(verdict.recipe)}**\n\n" + "\n".join(lines)


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
    r"""Replace what XML 1.0 forbids, what commands a terminal and what turns the direction of writing by its code.

    >>> legal("a" + chr(27) + "[31m" + chr(0xD800) + "b" + chr(0x202E) + "c")
    'a\\x1b[31m\\ud800b\\u202ec'
    """
    return "".join(
        _code(ord(char))
        if _ILLEGAL.match(char) or (char not in "\n\t" and unicodedata.category(char) in _HIDDEN)
        else char
        for char in text
    )


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
            return Case(name=name, classname=classname, text=f"{message} ({_alone(row)})\n{row.summary}")
        text = f"{message}\n{row.summary}"
        return Case(name=name, classname=classname, fault="error", type="not-measured", message=message, text=text)
    text = "\n".join((row.summary, *_steps(row)))
    if not row.gating:
        return Case(name=name, classname=classname, text=f"{row.state.value} ({_alone(row)})\n{text}")
    fault, kind = _fault(row.state.value)
    return Case(
        name=name, classname=classname, fault=fault, type=kind, message=f"{row.state.value}: {row.summary}", text=text
    )


def _alone(row: EndpointRow) -> str:
    return row.decides_text if row.part_of else "decides nothing"


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
