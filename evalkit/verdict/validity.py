"""May these data be judged at all?

In: a policy and a comparison. Out: every reason why not.
May not know: which result would come out.
"""

from __future__ import annotations

from collections.abc import Mapping

from evalkit.comparison import Comparison, Coverage, RunLabel, SideCoverage, Units
from evalkit.policy import Endpoint, MeanEndpoint, ResolvedPolicy, SoftAccuracyEndpoint
from evalkit.records import JudgeRun, TaskRun
from evalkit.statistics.checks import ROUNDING
from evalkit.verdict.endpoints import mean_of, too_few, units_of
from evalkit.verdict.outcome import Reason

OWN_REPEATS = 0.02
"""Share of items that may put a question again: MMLU has 0.8 % of them. They are tested as clusters all the same."""


def data_reasons(policy: ResolvedPolicy, name: str, comparison: Comparison) -> list[Reason]:
    """Return why an endpoint's data may not be judged: comparability, pairing, coverage, numbers of items."""
    endpoint = policy.endpoints[name]
    reasons = [
        Reason(code=fault.code, message=f"{name}: {fault.message}", endpoint=name) for fault in comparison.faults
    ]
    reasons += [
        Reason(
            code="not-comparable",
            message=f"{name}: {found.text}; next step: run both sides alike, or tolerate '{found.name}' in the policy",
            endpoint=name,
        )
        for found in comparison.blocking
    ]
    if comparison.task_run is not None:
        reasons += _against_policy(name, endpoint, comparison.task_run, comparison.judge_run)
    if comparison.coverage is not None:
        reasons += _coverage(policy, name, endpoint, comparison, comparison.coverage)
    unknown = comparison.task_run is not None and comparison.higher_is_better is None
    if unknown and not isinstance(endpoint, SoftAccuracyEndpoint) and not comparison.faults:
        message = (
            f"{name}: nobody says whether more or less of '{comparison.metric}' is better, so a loss cannot be told "
            "from a gain; next step: higher_is_better in the task file, or in the policy's endpoint"
        )
        reasons.append(Reason(code="no-direction", message=message, endpoint=name))
    reasons += _units(name, endpoint, units_of(endpoint, comparison))
    few = too_few(policy, name, comparison)
    if few is not None:
        reasons.append(few)
    return reasons


def _against_policy(name: str, endpoint: Endpoint, run: TaskRun, judge: JudgeRun | None) -> list[Reason]:
    wanted: dict[str, tuple[object, object]] = {
        "protocol": (endpoint.protocol, run.protocol),
        "item_set_sha256": (endpoint.item_set_sha256, run.item_set_sha256),
    }
    if isinstance(endpoint, MeanEndpoint) and judge is not None:
        wanted |= {
            "generations": (endpoint.generations, run.settings.get("generations", 1)),
            "judgments": (endpoint.judgments, judge.repeats),
            "judge_profile_sha256": (endpoint.judge_profile_sha256, judge.profile_sha256),
            "reference_set_sha256": (endpoint.reference_set_sha256, judge.references_sha256),
            "judge": (endpoint.judge, _judge_name(endpoint.judge, judge)),
        }
    return [
        Reason(
            code="not-comparable",
            message=f"{name}: the policy wants {what} {want}, the runs have {have}; next step: run what it says",
            endpoint=name,
        )
        for what, (want, have) in wanted.items()
        if want is not None and want != have
    ]


def _judge_name(wanted: str | None, judge: JudgeRun) -> str:
    """Return the judge's name as precisely as the policy gives it."""
    if wanted is None or "@" not in wanted:
        return judge.identity.model
    digits = wanted.rsplit("@", 1)[1]
    return f"{judge.identity.model}@{judge.identity.sha256[: max(1, len(digits))]}"


def _coverage(
    policy: ResolvedPolicy, name: str, endpoint: Endpoint, comparison: Comparison, coverage: Coverage
) -> list[Reason]:
    found = []
    if comparison.planned == 0:
        found.append(
            Reason(code="no-endpoint", message=f"{name}: nothing was planned, there are no data", endpoint=name)
        )
    if endpoint.size is not None and comparison.planned != endpoint.size:
        message = f"{name}: the policy wants {endpoint.size} items, the runs planned {comparison.planned}"
        found.append(Reason(code="coverage", message=f"{message}; next step: run the policy's task", endpoint=name))
    missing = policy.policy.missing
    checks: list[tuple[str, SideCoverage | None, float]] = [
        ("baseline items", coverage.baseline, missing.items_max),
        ("candidate items", coverage.candidate, missing.items_max),
        ("baseline judgments", coverage.baseline_judgments, missing.judgments_max),
        ("candidate judgments", coverage.candidate_judgments, missing.judgments_max),
    ]
    if coverage.baseline_judgments is not None:
        checks = checks[2:]  # a missing answer has no judgment, so it is counted there
    for what, side, most in checks:
        if side is not None and side.missing_share > most:
            message = (
                f"{name}: {side.missing} of {side.planned} {what} are missing ({side.missing_share:.2%}), more than "
                f"{most:.2%}: {side.absent} absent{_failures(side.failed)}; next step: complete the run"
            )
            found.append(Reason(code="coverage", message=message, endpoint=name))
    return found


def _units(name: str, endpoint: Endpoint, units: Units | None) -> list[Reason]:
    """Return why items may not be taken for what they look like: known before any result is looked at."""
    found = []
    if units is not None and endpoint.cluster is None and units.repeated_share > OWN_REPEATS:
        message = (
            f"{name}: {units.items} items put only {units.contents} different questions ({units.repeated_share:.1%} "
            f"are repeats; a benchmark's own are below {OWN_REPEATS:.0%}); next step: run each question once, or say "
            "in the policy what belongs together (cluster: content)"
        )
        found.append(Reason(code="repeated-items", message=message, endpoint=name))
    if units is not None and units.lacking:
        message = (
            f"{name}: {units.lacking} of {units.items} items have no field '{units.cluster}', which the policy takes "
            "for the cluster; next step: name a field of the item's source row, or import it with the items"
        )
        found.append(Reason(code="no-cluster", message=message, endpoint=name))
    return found


def _failures(failed: Mapping[str, int]) -> str:
    return "".join(f", {count} {kind}" for kind, count in failed.items())


def variance_reasons(name: str, endpoint: Endpoint, comparison: Comparison) -> list[Reason]:
    """Return a reason if a mean score has no variation: no test can rest on it. A baseline's rerun is exempt."""
    if not has_no_variation(endpoint, comparison):
        return []
    unit = "question" if isinstance(endpoint, MeanEndpoint) else "item"
    message = f"{name}: every {unit} differs from the baseline by the same amount; next step: look at the answers"
    return [Reason(code="zero-variance", message=message, endpoint=name)]


def has_no_variation(endpoint: Endpoint, comparison: Comparison) -> bool:
    """Say whether an endpoint of means has at least two units and all its differences are equal."""
    mean = mean_of(endpoint, comparison)
    if mean is None or mean.n < 2:
        return False
    observed = mean.differences.observed
    return float(observed.max() - observed.min()) <= ROUNDING * max(1.0, float(abs(observed).max()))


def identity_reasons(comparisons: Mapping[str, Comparison], gating: Mapping[str, bool]) -> list[Reason]:
    """Return a reason if one and the same engine was loaded twice, or if replies are identical on both sides.

    Identical replies count on a gating endpoint, or on every endpoint.
    """
    for comparison in comparisons.values():
        if comparison.candidate.identity_sha256 == comparison.baseline.identity_sha256:
            message = (
                f"candidate and baseline are one and the same engine ({comparison.baseline.identity_sha256}): nothing "
                "is compared; next step: run the candidate with its own recipe"
            )
            return [Reason(code="same-model", message=message)]
    same = [name for name, comparison in comparisons.items() if comparison.same_model]
    decisive = [name for name in same if gating.get(name, False)]
    if not decisive and not (same and len(same) == len(comparisons)):
        return []
    message = (
        f"all replies of candidate and baseline are identical on {', '.join(decisive or same)}: quantization was not "
        "applied, or a cache was shared; next step: check the candidate's engine"
    )
    return [Reason(code="same-model", message=message)]


def batch_cautions(side: str, run: RunLabel) -> tuple[Reason, ...]:
    """Return what weakens a comparison with a run whose batches a lack of memory changed."""
    return tuple(Reason(code="smaller-batches", message=f"the {side}: {line}") for line in run.smaller_batches)


def policy_reasons(policy: ResolvedPolicy, runs: Mapping[str, RunLabel]) -> list[Reason]:
    """Return reasons for every run that did not begin under this policy; "baseline" and "candidate" to label."""
    reasons = []
    for side, run in runs.items():
        if run.policy_sha256 is None:
            message = f"the {side} run began without a policy; next step: run it through a suite"
            reasons.append(Reason(code="policy-missing", message=message))
        elif run.policy_sha256 != policy.sha256:
            message = (
                f"the {side} run began under policy {run.policy_sha256}, this is {policy.sha256}; next step: judge it "
                "by its own policy, or run it again"
            )
            reasons.append(Reason(code="policy-changed", message=message))
    return reasons


def name_reasons(policy: ResolvedPolicy, recipe: str, runs: Mapping[str, RunLabel]) -> list[Reason]:
    """Return reasons where a run carries another name than the one it is used for, as when two runs are swapped."""
    wanted = {"baseline": policy.release.baseline, "candidate": recipe}
    return [
        Reason(code="wrong-run", message=f"the {side} should be the run of '{wanted[side]}', this is '{run.name}'")
        for side, run in runs.items()
        if run.name is not None and run.name != wanted[side]
    ]
