"""Does the word of a judge count? Its standing under a policy, for every endpoint that it judged.

In: a policy, comparisons, qualifications. Out: `JudgeStanding`s, and what follows from them.
May not know: how a judge is tried, which result would come out.

A policy without rules for judges lets every judge count, and its certificate says what is known of them all the same.

A judge is qualified if it passes every trial on the baseline's own answers: those whose files are here, and those that
the ledger remembers. So a further trial can only cost a judge its standing; if one trial lets an unfit judge pass with
some probability, several do so with no more. A trial in which it did not reply to every probe is made good by one
of the very same probes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.comparison import Comparison, to_plain
from evalkit.ledger.standing import Trial
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
        qualification_sha256: digest of the qualification, the first that failed if one did; None if the judge was not
            tried.
        qualified: whether it reaches every bar; None if it was not tried.
        checks: every bar.
        rule: what the policy says of a judge that is not qualified.
        note: what stands against the judge, in a sentence; "" for a qualified one.
        trials: trials on these answers, those that were never finished or whose file is gone included.
        failed: of these, how many it did not pass.
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
    trials: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What is known of trials.

    Attributes:
        files: those that are here.
        recorded: those that the ledger remembers.
        records: task to the digest of the baseline's records, of which a trial must be; None if nobody knows.
    """

    files: Sequence[Qualification] = ()
    recorded: Sequence[Trial] = ()
    records: Mapping[str, str] | None = None


def standings(
    policy: ResolvedPolicy, evidence: Iterable[Mapping[str, Comparison]], tried: Tried
) -> tuple[JudgeStanding, ...]:
    """Return every judge that has a say in the policy's endpoints, each once."""
    rules = policy.policy.judge or JudgeRules()
    made: dict[tuple[str, str, str], JudgeStanding] = {}
    for comparisons in evidence:
        for name, comparison in comparisons.items():
            endpoint = policy.endpoints.get(name)
            if not isinstance(endpoint, MeanEndpoint):
                continue
            for judge, profile, judge_sha256, profile_sha256 in _judges(comparison):
                key = (name, judge_sha256, profile_sha256)
                if key not in made:
                    made[key] = _standing(key, (judge, profile), _results(key, endpoint.task, tried, rules), rules)
    return tuple(made[key] for key in sorted(made))


@dataclass(frozen=True, kw_only=True)
class _Result:
    """One trial of a judge; `checks` only where its file is here."""

    drawn: tuple[object, object]
    complete: bool
    passed: bool
    sha256: str = ""
    checks: tuple[QualificationCheck, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Results:
    """All trials of a judge on these answers, and how many of its trials were on other answers."""

    trials: tuple[_Result, ...]
    elsewhere: int


def _results(key: tuple[str, str, str], task: str, tried: Tried, rules: JudgeRules) -> _Results:
    """Return every trial of a judge; one that lies here and is on record counts once."""
    mine = [one for one in tried.files if (one.judge.get("sha256"), one.profile_sha256) == key[1:]]
    records = None if tried.records is None else tried.records.get(task, "")
    here = [one for one in mine if records is None or one.source.get("records_sha256") == records]
    results = [_of_file(one, rules) for one in {one.sha256: one for one in here}.values()]
    known = {one.sha256 for one in here}
    for trial in tried.recorded:
        same = (trial.judge_sha256, trial.profile_sha256) == key[1:] and trial.records_sha256 == records
        if same and trial.qualification_sha256 not in known:
            passed = trial.passed and trial.bars_sha256 == rules.bars_sha256
            results.append(_Result(drawn=trial.drawn, complete=trial.complete, passed=passed))
    return _Results(trials=tuple(results), elsewhere=len(mine) - len(here))


def _of_file(found: Qualification, rules: JudgeRules) -> _Result:
    with_people = to_plain(found.agreement)["judge"] if found.agreement is not None else None
    checks = check_qualification(found.estimates, rules.bars, with_people)
    return _Result(
        drawn=(found.source.get("answers"), found.source.get("seed")),
        complete=not found.estimates.statuses.get("api_error", 0),
        passed=all(check.passed for check in checks),
        sha256=found.sha256,
        checks=checks,
    )


def _judges(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return model, profile and both digests of every judge whose ratings are in a comparison."""
    run, panel = comparison.judge_run, comparison.rating.panel if comparison.rating is not None else None
    if panel is not None:
        return [(one.judge, one.judge_profile, one.judge_sha256, one.profile_sha256) for one in panel.judges]
    return [] if run is None else [(run.identity.model, run.profile, run.identity.sha256, run.profile_sha256)]


def _standing(key: tuple[str, str, str], names: tuple[str, str], found: _Results, rules: JudgeRules) -> JudgeStanding:
    made_good = {one.drawn for one in found.trials if one.complete}
    counted = [one for one in found.trials if one.complete or one.drawn not in made_good]
    failed = [one for one in counted if not (one.complete and one.passed)]
    files = [one for one in counted if one.sha256]
    shown = next((one for one in files if one in failed), files[0] if files else None)
    qualified = None if shown is None and not failed else shown is not None and not failed
    return JudgeStanding(
        endpoint=key[0],
        judge=names[0],
        judge_profile=names[1],
        judge_sha256=key[1],
        profile_sha256=key[2],
        qualification_sha256=shown.sha256 if shown is not None else None,
        qualified=qualified,
        checks=shown.checks if shown is not None else (),
        rule=rules.qualification,
        note=_note(names, found, shown, len(failed), qualified=qualified),
        trials=len(found.trials),
        failed=len(failed),
    )


def _note(
    names: tuple[str, str], found: _Results, shown: _Result | None, failed: int, *, qualified: bool | None
) -> str:
    who = f"judge {names[0]} with profile {names[1]}"
    if qualified is None:
        other = (
            f": {found.elsewhere} trial(s) of it are on other answers than the baseline's" if found.elsewhere else ""
        )
        return f"{who} was not tried{other}; next step: evalkit judge qualify on the baseline's run"
    if qualified:
        return ""
    why = "; ".join(check.message for check in (shown.checks if shown is not None else ()) if not check.passed)
    why = why or "a trial on record was not passed, not finished, or its file is gone"
    many = f" (tried {len(found.trials)} times on these answers, {failed} failed, and every trial counts)"
    return f"{who} is not qualified: {why}{many if len(found.trials) > 1 else ''}"


def trial_cautions(found: Iterable[JudgeStanding]) -> list[Reason]:
    """Return a caution for every judge that was tried more than once on the same answers."""
    told = {
        f"judge {one.judge} with profile {one.judge_profile} was tried {one.trials} times on these answers: "
        f"{one.failed} failed"
        for one in found
        if one.trials > 1
    }
    return [Reason(code="judge-trials", message=message) for message in sorted(told)]


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
