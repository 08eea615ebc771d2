"""One check of the evaluation itself: made or not, passed or not, and what follows.

In: what was seen. Out: `AssayCheck`, and the reasons or cautions that it gives.
May not know: how a check is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.verdict.outcome import Reason

Status = Literal["passed", "failed", "not made"]

_CODES = {
    "above_chance": "baseline-sanity",
    "anchor": "baseline-sanity",
    "headroom": "no-headroom",
    "readable": "unreadable",
    "origin": "other-model",
    "baseline_recipe": "baseline-recipe",
}
"""Reason code of a required check that failed; any other is "assay-failed"."""

_STEPS = {
    "aa": "run the baseline a second time ('rerun' in the suite)",
    "control": "run a recipe that is broken on purpose ('controls' in the suite)",
    "near_control": "run a control that loses little more than the margin, beside the one that is plainly broken",
    "anchor": "give reference_accuracy: {<endpoint>: {accuracy: ..., source: ...}} under assay in the policy",
}
"""What to do about a required check that was not made."""

_REPAIRS = {
    "near_control": "add a milder or a harsher control; what it loses must be measured",
    "headroom": "a smaller margin, or a task that the baseline does not nearly solve or nearly fail",
    "readable": "look at the baseline's answers: a larger token limit, a stop text, another template",
    "anchor": "find out why it is not where it was published: another model, template, token limit or item set",
    "origin": "quantize both from the same weights with 'evalkit quantize', which records them, or tolerate "
    "'origin' by name in the policy's overrides",
    "baseline_recipe": "run the official recipe as baseline",
}


@dataclass(frozen=True, kw_only=True)
class AssayCheck:
    """One check of the evaluation itself.

    Attributes:
        check: one of the words in `Assay.required` of the policy.
        endpoint: the endpoint it was made on; None for the whole.
        run: name of the control or candidate; None otherwise.
        required: whether the policy requires it.
        passed: None where it was not made.
        message: what was seen, or why it was not made.
    """

    check: str
    endpoint: str | None
    run: str | None
    required: bool
    passed: bool | None
    message: str

    @property
    def status(self) -> Status:
        """What came of it."""
        return "not made" if self.passed is None else "passed" if self.passed else "failed"

    @property
    def title(self) -> str:
        """Its name with what it was made on."""
        where = " ".join(part for part in (self.run, self.endpoint) if part)
        return f"{self.check}{f' ({where})' if where else ''}"


def made_check(
    check: str,
    endpoint: str | None,
    *,
    required: bool,
    message: str,
    run: str | None = None,
    passed: bool | None = None,
) -> AssayCheck:
    """Return a check; `passed` is None for one that was not made."""
    return AssayCheck(check=check, endpoint=endpoint, run=run, required=required, passed=passed, message=message)


def check_reasons(found: AssayCheck) -> tuple[Reason, ...]:
    """Return why no verdict may rest on the evaluation; empty unless a required check failed or was not made.

    Where weights come from may be unknown: a server does not tell. That is a caution.
    """
    if not found.required or found.passed or (found.check == "origin" and found.passed is None):
        return ()
    message = f"{found.title}: {found.message}"
    if found.passed is None:
        step = _STEPS.get(found.check, "run it")
        return (Reason(code="assay-missing", message=f"{message}; next step: {step}", endpoint=found.endpoint),)
    code, step = _CODES.get(found.check, "assay-failed"), _REPAIRS.get(found.check, "repair the evaluation first")
    return (Reason(code=code, message=f"{message}; next step: {step}", endpoint=found.endpoint),)


def check_cautions(checks: Sequence[AssayCheck]) -> tuple[Reason, ...]:
    """Return what weakens a verdict: checks that nobody requires and that failed, or were not made."""
    cautions = []
    for found in checks:
        message = f"{found.title}: {found.message}"
        if found.check == "origin" and found.passed is None:
            cautions.append(Reason(code="origin-not-shown", message=message))
        elif found.passed is False and not found.required:
            code = "other-model" if found.check == "origin" else "check-failed"
            cautions.append(Reason(code=code, message=message, endpoint=found.endpoint))
    missing = [found for found in checks if found.passed is None and not found.required and found.check != "origin"]
    if missing:
        listed = "; ".join(f"{found.title}: {found.message}" for found in missing)
        cautions.append(Reason(code="check-not-made", message=f"NOT MADE: {listed}"))
    return tuple(cautions)
