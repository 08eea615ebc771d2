"""The four verdicts, the three states of an endpoint, and every reason code.

In: nothing. Out: the words.
May not know: how they are reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from evalkit.errors import ExitCode


class Outcome(str, Enum):
    """A verdict; there is no default one."""

    CERTIFIED = "CERTIFIED"
    REJECTED = "REJECTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


class EndpointState(str, Enum):
    """What one endpoint shows at its first margin."""

    PASS = "PASS"  # noqa: S105 (no password)
    FAIL = "FAIL"
    OPEN = "OPEN"


REASONS: Mapping[str, str] = {
    # INVALID
    "policy-missing": "a run began without a policy on record",
    "policy-changed": "a run began under another policy than the one applied now",
    "wrong-run": "a run is not the one the policy names",
    "not-run": "the policy names the recipe, and there is no run of it",
    "not-comparable": "the two runs, or a run and the policy, differ in something that must agree",
    "coverage": "too much of what was planned is missing, or the number of items is not the policy's",
    "contradiction": "a stored value is not the one that its own reply, item, text or digest gives",
    "non-finite": "a run met a number that is not finite, or an option without a token",
    "pairing": "keys are duplicate, unmatched or of other items",
    "estimate": "an estimate that the verdict rests on cannot be made",
    "too-few": "so few items, or clusters of items, that not even an identical copy could pass",
    "repeated-items": "items put the same questions again, and the policy does not say what belongs together",
    "no-direction": "nobody says whether more or less of the metric is better",
    "no-cluster": "the policy's cluster field is not in every item",
    "no-range": "a verdict would rest on the mean of a score of which nobody said how low and high it can be",
    "assay-missing": "a required check of the evaluation itself was not made",
    "assay-failed": "the evaluation could not be shown to work",
    "baseline-sanity": "the baseline is not sure to be better than guessing, or not where it was published",
    "no-headroom": "the margin is large against what the baseline gets wrong, or against what it knows",
    "unreadable": "too many of the baseline's answers cannot be read or were cut off",
    "other-model": "candidate or control does not come from the baseline's weights",
    "baseline-recipe": "the baseline is of no recipe that the policy allows as one",
    "same-model": "candidate and baseline gave identical replies throughout",
    "judge-unqualified": "the policy asks for qualified judges, and one was not tried or did not reach its bars",
    "zero-variance": "no question's score differs from the baseline's by more or less than another's",
    "no-endpoint": "the policy names no gating endpoint, or there are no data at all",
    # REJECTED
    "endpoint-fail": "an endpoint shows a loss larger than its margin",
    # INCONCLUSIVE
    "endpoint-open": "an endpoint shows neither that the loss is within the margin nor that it is beyond",
    "holm": "the evidence is not enough for so many recipes at once",
    "power-cap": "the planned power was too low, so the policy allows no certificate",
    "not-certifying": "the policy watches and never certifies",
    "unpaired": "the baseline is a published number, so nothing is paired",
    "exploratory": "analysed after the fact, under another policy than the run's own",
    "guard:invalid-answers": "more answers cannot be read",
    "guard:unreadable": "too many answers cannot be read or were cut off, however many are the baseline's",
    "guard:gates": "more answers trip a deterministic gate",
    "guard:length": "answers have another length",
    "guard:catastrophic": "more questions than chance explains lost very much",
    "guard:design-effect": "items that share something flip together, so that they are fewer than they look",
    "guard:implausible-gain": "the candidate is better than a quantized model can be",
}
"""Every reason code with its meaning."""

CAUTIONS: Mapping[str, str] = {
    "weaker-than-standard": "the policy uses the standard's words and asks less than the standard",
    "not-the-standard": "the policy bears the standard's name and has other rules",
    "other-task": "a task bears the name of one that comes with evalkit, and is defined otherwise",
    "local-items": "the items come from a local copy, which no published source stands for",
    "earlier-certificates": "the same weights had certificates before",
    "sibling-certificates": "other recipes were compared with the same baseline in certificates of their own",
    "earlier-runs": "runs of the same weights were begun that are not part of the certificate",
    "judged-again": "the same answers were judged more often than the certificate shows",
    "judge-trials": "a judge was tried more than once on the same answers",
    "sealed-otherwise": "the policy that was sealed is another one",
    "ledger-none": "no ledger, or none for some runs: what was tried before is not on record",
    "ledger-missing": "a run cites ledger entries that are not there",
    "ledger-anew": "the ledger was begun anew, beside what cites an earlier one",
    "ledger-passed-over": "the runs were put on record in a ledger that was named, and another one lies above them",
    "ledger-began": "the ledger began with these runs",
    "assumption": "a test takes for granted what its questions are too few to show",
    # Could this measurement have mattered?
    "check-not-made": "a check of the evaluation itself was not made, and the policy does not require it",
    "check-failed": "a check of the evaluation itself failed, and the policy does not require it",
    "other-model": "candidate or control does not come from the baseline's weights",
    "origin-not-shown": "nothing shows that both sides come from the same weights",
    "anchor-unsourced": "the baseline's published accuracy has no source",
    "anchor-disputed": "the policy's published accuracy is far from the one that evalkit's table knows",
    "rerun-alike": "the baseline's rerun was asked in the same order and batches",
    "rerun-identical": "every reply of the baseline's rerun is the baseline's own",
    "error-rise": "wrong answers multiply, though the difference in points is small",
    "flips-within-noise": "the candidate differs from the baseline no more than the baseline from itself",
    "subjects-lost": "subjects that surely lost, whatever the rest gained",
    "smaller-batches": "a lack of memory changed the batches of a run, and so how it rounds",
}
"""Every code of a caution, which weakens a verdict without changing it, with its meaning."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a verdict is what it is, or what weakens it.

    Attributes:
        code: a key of `REASONS`, or of `CAUTIONS` for a caution.
        message: the case at hand and the next step.
        endpoint: the endpoint concerned; None for all.
    """

    code: str
    message: str
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.code not in REASONS and self.code not in CAUTIONS:
            raise ValueError(f"{self.code!r} is no reason code")


def exit_code(outcomes: Iterable[Outcome]) -> ExitCode:
    """Return the exit code of a release: the worst of its recipes.

    INVALID (4) counts as worst, because nothing is known then; REJECTED (1) comes before INCONCLUSIVE (3), and only
    when every recipe is CERTIFIED the code is 0. A release without recipes is INVALID.

    >>> exit_code([Outcome.CERTIFIED, Outcome.INCONCLUSIVE]).name
    'INCONCLUSIVE'
    """
    found = set(outcomes)
    for outcome in (Outcome.INVALID, Outcome.REJECTED, Outcome.INCONCLUSIVE, Outcome.CERTIFIED):
        if outcome in found:
            return ExitCode[outcome.value]
    return ExitCode.INVALID
