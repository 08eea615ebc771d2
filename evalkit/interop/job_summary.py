"""A certificate as the Markdown summary of a CI job (GitHub's `GITHUB_STEP_SUMMARY`).

In: `certificate.json` as data. Out: Markdown, verdict first, far below the size at which a summary is dropped.
May not know: environment variables; how anything was decided.

A summary that is too large fails to upload while its step still passes, so it is cut here and never the only place of a
verdict. Text from outside is escaped; it can open no tag, table cell, mention or code span.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import StoreError
from evalkit.signed import signed

Data = Mapping[str, Any]

LIMIT_BYTES = 64 * 1024
"""GitHub drops a step's summary beyond 1 MiB."""

_CUT = "\n\n*cut: the whole report is `report.md`*\n"
_ESCAPES = {ord(char): f"&#{ord(char)};" for char in "\\`*_{}[]<>#|@~$&"}


def job_summary(document: Data, *, limit_bytes: int = LIMIT_BYTES) -> str:
    """Write a certificate, or a run against published numbers, as a job summary.

    Args:
        document: what `certificate.json` holds.
        limit_bytes: longest summary, UTF-8 bytes; what is beyond is cut and said to be cut.
    """
    decision = document["decision"]
    verdicts = [decision] if document.get("kind") == "unpaired" else decision["verdicts"]
    parts = [f"## {escaped(headline(document))}", *_opening(document), _table(verdicts), *_reasons(verdicts)]
    return cut("\n\n".join(part for part in parts if part) + "\n", limit_bytes)


def headline(document: Data) -> str:
    """Return the verdicts in one line, the worst first."""
    decision = document["decision"]
    verdicts = [decision] if document.get("kind") == "unpaired" else decision["verdicts"]
    order = ("INVALID", "REJECTED", "INCONCLUSIVE", "CERTIFIED")
    found = {word: [str(v["recipe"]) for v in verdicts if v["outcome"] == word] for word in order}
    told = "; ".join(f"{word}: {', '.join(names)}" for word, names in found.items() if names)
    return f"EXPLORATORY {told}" if decision.get("exploratory") else told or "INVALID: no recipe was judged"


def escaped(text: str) -> str:
    """Escape text from outside, so that Markdown, HTML and mentions read it as text on one line.

    >>> escaped("a|b <img> @all `x`")
    'a&#124;b &#60;img&#62; &#64;all &#96;x&#96;'
    """
    line = " ".join(
        "".join(char if unicodedata.category(char) not in ("Cc", "Cs", "Co", "Cn") else " " for char in text).split()
    )
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


def _opening(document: Data) -> Iterator[str]:
    decision, title = document["decision"], document.get("title")
    if title:
        yield escaped(str(title))
    if document.get("kind") == "unpaired":
        yield "Unpaired: the baseline is a published number. This is no certificate."
        return
    engine = document["runs"]["baseline"]["engine"]
    gating = escaped(", ".join(decision["gating"]) or "no endpoint")
    yield (
        f"Baseline {escaped(engine['model'])}, recipe {escaped(engine['recipe'])}, fidelity {engine['fidelity']}. "
        f"Decided on {gating} by policy {escaped(decision['policy'])}."
    )


def _table(verdicts: Sequence[Data]) -> str:
    lines = ["| recipe | verdict | endpoint | difference | interval | n |", "|---|---|---|---|---|---|"]
    for verdict in verdicts:
        claim = f" ({escaped(verdict['claim'])})" if verdict.get("claim") else ""
        told = f"{escaped(str(verdict['recipe']))} | **{verdict['outcome']}**{claim}"
        rows = [*_endpoints(verdict), *_published(verdict)] or ["| | |"]
        lines += [f"| {told} | {row} |" for row in rows]
    return "\n".join(lines)


def _endpoints(verdict: Data) -> Iterator[str]:
    for result in verdict.get("endpoints", ()):
        scale, unit = (1.0, "") if result["unit"] == "rating" else (100.0, " points")
        interval = result["interval"]
        limits = ""
        if interval is not None:
            limits = f"[{signed(scale * interval['lower'])}, {signed(scale * interval['upper'])}]"
        state = result["state"] + ("" if result["role"]["gating"] else ", decides nothing")
        difference = f"{signed(scale * result['difference'])}{unit}"
        yield f"{escaped(result['name'])}: {state} | {difference} | {limits} | {result['pairs']:,}"


def _published(decision: Data) -> Iterator[str]:
    """Return the rows of a run against published numbers."""
    for found in decision.get("results", ()):
        comparison, interval = found["comparison"], found["comparison"]["interval"]
        limits = f"[{signed(100 * interval['lower'])}, {signed(100 * interval['upper'])}]" if interval else ""
        scored = comparison["coverage"]["scored"]
        told = f"{escaped(found['endpoint'])}: {found['state']}, unpaired"
        yield f"{told} | {signed(100 * comparison['difference'])} points | {limits} | {scored:,}"


def _reasons(verdicts: Sequence[Data]) -> Iterator[str]:
    for verdict in verdicts:
        lines = [f"- {reason['code']}: {escaped(reason['message'])}" for reason in verdict["reasons"]]
        lines += [f"- what would resolve it: {escaped(sentence)}" for sentence in verdict.get("resolve", ())]
        if lines:
            yield f"**{escaped(str(verdict['recipe']))}**\n\n" + "\n".join(lines)
