"""The words of a verdict held against the standard that gave them their meaning.

In: a policy; what the runs were asked. Out: cautions, and a claim as it may be said.
Must not depend on: results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from evalkit.comparison.compare import Comparison
from evalkit.definitions.folder import find_definitions
from evalkit.errors import EvalkitError
from evalkit.policy.model import Policy
from evalkit.policy.standard import Standing, title_words
from evalkit.signed import signed
from evalkit.verdict.endpoints import EndpointResult
from evalkit.verdict.outcome import NoiseFloor, Reason

# What a reader of one verdict must know though it changes nothing.


ERROR_RISE = 1.10
"""Factor on wrong answers from which a small difference in points is worth a word of its own."""

_NAMED = 5
"""Subjects that a caution names; the table of subjects has them all."""


def endpoint_cautions(
    results: Sequence[EndpointResult], comparisons: Mapping[str, Comparison], noise: Sequence[NoiseFloor]
) -> list[Reason]:
    """Return the cautions of gating endpoints of accuracies; ratings have none."""
    floors = {floor.endpoint: floor for floor in noise}
    cautions: list[Reason] = []
    for result in results:
        data = comparisons[result.name].proportion
        if data is None or data.observed is None:
            continue
        cautions += _error_rise(result.name, comparisons[result.name])
        floor = floors.get(result.name)
        cautions += _flips(result.name, data.observed.discordance, floor) if floor is not None else []
        cautions += _subjects(result.name, comparisons[result.name])
    return cautions


def _error_rise(name: str, comparison: Comparison) -> list[Reason]:
    assert comparison.proportion is not None
    table = comparison.proportion.observed
    assert table is not None
    before, after = table.n01 + table.n00, table.n10 + table.n00
    if after <= before or after < ERROR_RISE * before:
        return []
    factor = f" (x{after / before:.2f})" if before else ""
    message = f"{name}: wrong answers rise from {before:,} to {after:,} of {table.n:,}{factor}"
    return [Reason(code="error-rise", message=message, endpoint=name)]


def _flips(name: str, flips: float, floor: NoiseFloor) -> list[Reason]:
    if floor.discordance is None or floor.discordance_upper is None or flips > floor.discordance_upper:
        return []
    message = (
        f"{name}: {flips:.2%} of items flip, the baseline against itself {floor.discordance:.2%} (95 % upper limit "
        f"{floor.discordance_upper:.2%}): is the recipe in force?"
    )
    return [Reason(code="flips-within-noise", message=message, endpoint=name)]


def _subjects(name: str, comparison: Comparison) -> list[Reason]:
    assert comparison.proportion is not None
    lost = sorted(
        (row for row in comparison.proportion.subjects if row.flagged and row.difference < 0),
        key=lambda row: (row.adjusted_p, row.subject),
    )
    if not lost:
        return []
    shown = ", ".join(
        f"{row.subject} {signed(100 * row.difference, 1)} points (n {row.n}, p {row.adjusted_p:.2g})"
        for row in lost[:_NAMED]
    )
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    count = "1 subject" if len(lost) == 1 else f"{len(lost)} subjects"
    message = f"{name}: {count} surely lost: {shown}{more}; p after Benjamini and Hochberg over all subjects"
    return [Reason(code="subjects-lost", message=message, endpoint=name)]


WEAKER = "under a weaker policy"
"""What follows a claim whose policy asks less than the standard of that word."""


def standard_cautions(policy: Policy, found: Standing | None) -> tuple[Reason, ...]:
    """Say where a policy that uses the standard's words is weaker than the standard, field by field.

    Args:
        policy: the policy.
        found: its `standing`; None for one in its own words.
    """
    if found is None or found.same:
        return ()
    if found.weaknesses:
        weaker = "; ".join(one.message for one in found.weaknesses)
        message = f"policy '{policy.name}' uses the words of the standard '{found.standard}' and asks less: {weaker}"
        return (Reason(code="weaker-than-standard", message=message),)
    if found.named:
        message = (
            f"policy '{policy.name}' bears the standard's name and is another, though nowhere weaker (the standard's "
            f"rules: sha256 {found.standard_sha256}); next step: give it a name of its own"
        )
        return (Reason(code="not-the-standard", message=message),)
    return ()


def title_cautions(policy: Policy, title: str) -> tuple[Reason, ...]:
    """Say where a title, of the suite or of the policy, uses the standard's words under another policy."""
    found = {"the title": title_words(title, policy), "the policy's title": title_words(policy.title, policy)}
    told = [f"{whose} says {', '.join(repr(word) for word in words)}" for whose, words in found.items() if words]
    if not told:
        return ()
    message = f"{' and '.join(told)}: words of the standard, and policy '{policy.name}' is not it"
    return (Reason(code="title-words", message=message),)


def task_cautions(
    policy: Policy, found: Standing | None, gating: Sequence[str], compared: Iterable[Mapping[str, Comparison]]
) -> tuple[Reason, ...]:
    """Say where a task only bears the name of one of evalkit's own, or took its items from where nobody published them.

    A policy can ask for `mmlu`; what that is stands in a definition, which may be anybody's. Nothing is said under a
    policy that does not use the standard's words.
    """
    if found is None:
        return ()
    everything = list(compared)
    cautions = []
    for name in gating:
        run = next((one[name].task_run for one in everything if name in one and one[name].task_run), None)
        own = _own_definition(policy.endpoints[name].task)
        if run is None:
            continue
        if own is not None and run.definition_sha256 != own:
            message = (
                f"{name}: task '{policy.endpoints[name].task}' is not the one that comes with evalkit (sha256 of its "
                f"definition {run.definition_sha256[:12]}, evalkit's own {own[:12]})"
            )
            cautions.append(Reason(code="other-task", message=message, endpoint=name))
        elif str(run.dataset.get("source", "")).startswith("local"):
            message = (
                f"{name}: the items come from a local copy (sha256 {str(run.dataset.get('sha256'))[:12]}), no source"
            )
            cautions.append(Reason(code="local-items", message=message, endpoint=name))
    return tuple(cautions)


@lru_cache(maxsize=64)
def _own_definition(task: str) -> str | None:
    """Return the digest of the task of that name that comes with evalkit; None if there is none."""
    try:
        return find_definitions().task(task).sha256
    except EvalkitError:
        return None


def claim_words(found: Standing | None, claim: str) -> str:
    """Return a claim as a certificate may say it.

    Args:
        found: the standing of the policy whose claim it is.
        claim: the claim that holds under it.

    Returns:
        The claim alone, or, where the policy is weaker than the standard of that word, followed by `WEAKER`: a reader
        of one line, or a program that compares one word, must not take it for the standard's.
    """
    borrowed = found is not None and bool(found.weaknesses) and claim in found.claims
    return f"{claim} {WEAKER}" if borrowed else claim
