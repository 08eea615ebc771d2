"""A certificate as the Markdown summary of a CI job (GitHub's `GITHUB_STEP_SUMMARY`).

In: `certificate.json` as data. Out: Markdown, verdict first, far below the size at which a summary is dropped.
Must not depend on: environment variables; how anything was decided.

A summary that is too large fails to upload while its step still passes, so it is cut here and never the only place of a
verdict. Text from outside is escaped; it can open no tag, table cell, mention or code span.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import StoreError
from evalkit.report.document import certificate_view
from evalkit.report.view import View

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
