"""A baseline that is only a published number: what may be said without pairing, which is never a certificate.

In: a policy, one run, published accuracies by endpoint. Out: `UnpairedDecision`: REJECTED, INCONCLUSIVE or INVALID.
Must not depend on: files, how numbers are shown.

Nothing is paired, so the interval is about three times as wide, and a difference in prompts, marking or items hides in
it. A loss is shown only if the interval's upper limit is below the margin even with every missing answer counted right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.comparison import to_plain
from evalkit.comparison.means import AggregateComparison, PublishedAccuracy, compare_aggregate, independent_interval
from evalkit.comparison.pairing import broken_engine
from evalkit.comparison.runs import RunView, contradicted
from evalkit.errors import EstimateError, ExitCode, UsageError, suggestion
from evalkit.policy.endpoints import ProportionEndpoint
from evalkit.policy.model import Policy
from evalkit.statistics.checks import Interval
from evalkit.verdict.outcome import EndpointState, Outcome, Reason, exit_code


@dataclass(frozen=True, kw_only=True)
class UnpairedResult:
    """One endpoint against its published accuracy.

    Attributes:
        endpoint: name.
        comparison: what was seen, with a 95 % interval.
        margin: the policy's first margin, a proportion.
        alpha: one-sided.
        rejecting_interval: of the difference at level 1 - 2 alpha, every missing answer counted right.
        state: FAIL if that interval lies below the margin, else OPEN; never PASS.
    """

    endpoint: str
    comparison: AggregateComparison
    margin: float
    alpha: float
    rejecting_interval: Interval
    state: EndpointState


@dataclass(frozen=True, kw_only=True)
class UnpairedDecision:
    """What may be said of one run against published numbers.

    Attributes:
        policy: name of the policy whose margins were used.
        recipe: name of the run.
        outcome: REJECTED, INCONCLUSIVE or INVALID.
        reasons: why.
        results: one for each endpoint that could be compared.
        not_compared: gating endpoints without a published number.
    """

    policy: str
    recipe: str
    outcome: Outcome
    reasons: tuple[Reason, ...]
    results: tuple[UnpairedResult, ...]
    not_compared: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the outcome; never 0."""
        return exit_code([self.outcome])

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON data, unrounded."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def decide_unpaired(
    policy: Policy, published: Mapping[str, PublishedAccuracy], run: RunView, recipe: str
) -> UnpairedDecision:
    """Compare a run with published accuracies by a policy's margins.

    Args:
        policy: names endpoints, margins and alphas.
        published: endpoint name to its baseline.
        run: the candidate.
        recipe: name of the candidate.

    Raises:
        UsageError: a published number belongs to no accuracy endpoint of the policy.
    """
    results: list[UnpairedResult] = []
    invalid: list[Reason] = []
    for name, number in published.items():
        endpoint = policy.endpoints.get(name)
        if not isinstance(endpoint, ProportionEndpoint):
            accuracies = [key for key, found in policy.endpoints.items() if isinstance(found, ProportionEndpoint)]
            raise UsageError(
                f"policy '{policy.name}' has no accuracy endpoint {name!r}{suggestion(name, accuracies)}; a published "
                "number can stand for the baseline on such an endpoint only"
            )
        invalid += _data_reasons(policy, name, endpoint, run)
        try:
            results.append(_result(name, endpoint, number, run))
        except EstimateError as error:
            invalid.append(Reason(code="estimate", message=f"{name}: {error}", endpoint=name))
    if not published:
        invalid.append(Reason(code="no-endpoint", message="no published number was given; next step: give one"))
    outcome, reasons = _outcome(results, invalid)
    return UnpairedDecision(
        policy=policy.name,
        recipe=recipe,
        outcome=outcome,
        reasons=tuple(reasons),
        results=tuple(results),
        not_compared=tuple(name for name, found in policy.endpoints.items() if found.gating and name not in published),
    )


def _outcome(results: list[UnpairedResult], invalid: list[Reason]) -> tuple[Outcome, list[Reason]]:
    if invalid:
        return Outcome.INVALID, invalid
    failed = [
        Reason(
            code="endpoint-fail",
            message=f"{found.endpoint}: a loss beyond the margin is shown even without pairing",
            endpoint=found.endpoint,
        )
        for found in results
        if found.state is EndpointState.FAIL
    ]
    if failed:
        return Outcome.REJECTED, failed
    return Outcome.INCONCLUSIVE, [
        Reason(code="unpaired", message=found.comparison.warning, endpoint=found.endpoint) for found in results
    ]


def _result(name: str, endpoint: ProportionEndpoint, published: PublishedAccuracy, run: RunView) -> UnpairedResult:
    comparison = compare_aggregate(published, run, endpoint.task, metric=endpoint.metric)
    coverage = comparison.coverage
    right = round(comparison.candidate_accuracy * coverage.scored) + coverage.missing
    filled = independent_interval(
        right,
        coverage.planned,
        round(published.accuracy * published.items),
        published.items,
        1.0 - 2.0 * endpoint.alpha,
    )
    margin = endpoint.margins[0]
    return UnpairedResult(
        endpoint=name,
        comparison=comparison,
        margin=margin,
        alpha=endpoint.alpha,
        rejecting_interval=filled,
        state=EndpointState.FAIL if filled.upper < -margin else EndpointState.OPEN,
    )


def _data_reasons(policy: Policy, name: str, endpoint: ProportionEndpoint, run: RunView) -> list[Reason]:
    asked = run.manifest.tasks.get(endpoint.task)
    if asked is None:
        message = f"{name}: the run lacks task '{endpoint.task}'; next step: run it"
        return [Reason(code="coverage", message=message, endpoint=name)]
    reasons = [
        Reason(code=found.code, message=f"{name}: {found.message}", endpoint=name)
        for found in contradicted("candidate", run, endpoint.task)
    ]
    if asked.protocol != endpoint.protocol:
        message = f"{name}: the policy wants protocol {endpoint.protocol}, the run has {asked.protocol}"
        reasons.append(Reason(code="not-comparable", message=message, endpoint=name))
    if endpoint.size is not None and asked.planned != endpoint.size:
        message = f"{name}: the policy wants {endpoint.size} items, the run planned {asked.planned}"
        reasons.append(Reason(code="coverage", message=message, endpoint=name))
    records = [record for record in run.records.get(endpoint.task, ()) if record.sample == 0]
    reasons += [Reason(code=found.code, message=found.message, endpoint=name) for found in broken_engine(name, records)]
    scored = sum(endpoint.metric in record.marks for record in records)
    missing = (asked.planned - scored) / asked.planned if asked.planned else 1.0
    if missing > policy.missing.items_max:
        message = f"{name}: {missing:.2%} of items are missing, more than {policy.missing.items_max:.2%}"
        reasons.append(Reason(code="coverage", message=f"{message}; next step: complete the run", endpoint=name))
    return reasons
