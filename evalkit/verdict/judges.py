"""Does the word of a judge count? Its standing under a policy, for every endpoint that it judged.

In: a policy, comparisons, qualifications. Out: `JudgeStanding`s, and what follows from them.
May not know: how a judge is tried, which result would come out.

A policy without rules for judges lets every judge count, and its certificate says what is known of them all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.comparison import Comparison, to_plain
from evalkit.policy import MeanEndpoint, ResolvedPolicy
from evalkit.policy.judging import JudgeRules
from evalkit.qualification import Qualification, QualificationCheck, check_qualification
from evalkit.verdict.outcome import Reason

Rule = Literal["required", "advisory", "none"]


@dataclass(frozen=True, kw_only=True)
class JudgeStanding:
    """One judge of one endpoint.

    Attributes:
        endpoint: name.
        judge, judge_profile: model and profile.
        judge_sha256, profile_sha256: digests of both: a qualification must be of exactly these.
        qualification_sha256: digest of the qualification; None if the judge was not tried.
        qualified: whether it reaches every bar; None if it was not tried.
        checks: every bar.
        rule: what the policy says of a judge that is not qualified.
        note: what stands against the judge, in a sentence; "" for a qualified one.
    """

    endpoint: str
    judge: str
    judge_profile: str
    judge_sha256: str
    profile_sha256: str
    qualification_sha256: str | None
    qualified: bool | None
    checks: tuple[QualificationCheck, ...]
    rule: Rule
    note: str


def standings(
    policy: ResolvedPolicy, evidence: Iterable[Mapping[str, Comparison]], qualifications: Sequence[Qualification]
) -> tuple[JudgeStanding, ...]:
    """Return every judge that has a say in the policy's endpoints, each once."""
    rules = policy.policy.judge or JudgeRules()
    tried = {(found.judge.get("sha256"), found.profile_sha256): found for found in qualifications}
    made: dict[tuple[str, str, str], JudgeStanding] = {}
    for comparisons in evidence:
        for endpoint, comparison in comparisons.items():
            if not isinstance(policy.endpoints.get(endpoint), MeanEndpoint):
                continue
            for judge, profile, judge_sha256, profile_sha256 in _judges(comparison):
                key = (endpoint, judge_sha256, profile_sha256)
                if key not in made:
                    made[key] = _standing(key, (judge, profile), tried.get(key[1:]), rules)
    return tuple(made[key] for key in sorted(made))


def _judges(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return model, profile and both digests of every judge whose ratings are in a comparison."""
    run, panel = comparison.judge_run, comparison.rating.panel if comparison.rating is not None else None
    if panel is not None:
        return [(one.judge, one.judge_profile, one.judge_sha256, one.profile_sha256) for one in panel.judges]
    return [] if run is None else [(run.identity.model, run.profile, run.identity.sha256, run.profile_sha256)]


def _standing(
    key: tuple[str, str, str], names: tuple[str, str], found: Qualification | None, rules: JudgeRules
) -> JudgeStanding:
    checks: tuple[QualificationCheck, ...] = ()
    if found is not None:
        with_people = to_plain(found.agreement)["judge"] if found.agreement is not None else None
        checks = check_qualification(found.estimates, rules.bars, with_people)
    qualified = all(check.passed for check in checks) if found is not None else None
    return JudgeStanding(
        endpoint=key[0],
        judge=names[0],
        judge_profile=names[1],
        judge_sha256=key[1],
        profile_sha256=key[2],
        qualification_sha256=found.sha256 if found is not None else None,
        qualified=qualified,
        checks=checks,
        rule=rules.qualification,
        note=_note(names, checks, qualified=qualified),
    )


def _note(names: tuple[str, str], checks: Sequence[QualificationCheck], *, qualified: bool | None) -> str:
    who = f"judge {names[0]} with profile {names[1]}"
    if qualified is None:
        return f"{who} was not tried; next step: evalkit judge qualify"
    failed = "; ".join(check.message for check in checks if not check.passed)
    return "" if qualified else f"{who} is not qualified: {failed}"


def demoted(found: Iterable[JudgeStanding]) -> frozenset[str]:
    """Return the endpoints that are shown and decide nothing, because a judge of theirs is not qualified."""
    return frozenset(one.endpoint for one in found if one.rule == "advisory" and not one.qualified)


def judge_reasons(found: Iterable[JudgeStanding], endpoint: str) -> list[Reason]:
    """Return why an endpoint may not be judged, where the policy requires qualified judges."""
    return [
        Reason(code="judge-unqualified", message=f"{endpoint}: {one.note}", endpoint=endpoint)
        for one in found
        if one.endpoint == endpoint and one.rule == "required" and not one.qualified
    ]
