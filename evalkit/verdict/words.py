"""The words of a verdict held against the standard that gave them their meaning.

In: a policy; what the runs were asked. Out: cautions, and a claim as it may be said.
May not know: results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from evalkit.comparison import Comparison
from evalkit.definitions import find_definitions
from evalkit.errors import EvalkitError
from evalkit.policy import Policy, Standing
from evalkit.verdict.outcome import Reason

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
