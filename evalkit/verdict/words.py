"""The words of a verdict held against the standard that gave them their meaning.

In: a policy. Out: cautions, and a claim as it may be said.
May not know: results.
"""

from __future__ import annotations

from evalkit.policy import Policy, standing
from evalkit.verdict.outcome import Reason

WEAKER = "under a weaker policy"
"""What follows a claim whose policy asks less than the standard of that word."""


def standard_cautions(policy: Policy) -> tuple[Reason, ...]:
    """Say where a policy that uses the standard's words is weaker than the standard, field by field."""
    found = standing(policy)
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


def claim_words(policy: Policy, claim: str) -> str:
    """Return a claim as a certificate may say it.

    Args:
        policy: the policy whose claim it is.
        claim: the claim that holds under it.

    Returns:
        The claim alone, or, where the policy is weaker than the standard of that word, followed by `WEAKER`: a reader
        of one line, or a program that compares one word, must not take it for the standard's.
    """
    found = standing(policy)
    borrowed = found is not None and bool(found.weaknesses) and claim in found.claims
    return f"{claim} {WEAKER}" if borrowed else claim
