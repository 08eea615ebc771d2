"""What is written into the history.

In: nothing. Out: the types.
Must not depend on: databases, or where the values come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from evalkit.errors import DataError
from evalkit.records.canonical import digest


class Written(str, Enum):
    """What became of an entry: kept, there already, or put in the place of an INVALID one."""

    NEW = "new"
    KNOWN = "known"
    REPLACED = "replaced"


@dataclass(frozen=True, kw_only=True)
class IdentityEntry:
    """An engine, as `EngineIdentity` in JSON; `sha256` is its digest."""

    sha256: str
    document: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One engine's run.

    Attributes:
        suite, site, name: where it was made: suite, machine or lane, name of the engine.
        night: label of the night; None for a run of a certificate.
        identity: what ran.
        evalkit: version that collected it.
        policy_sha256: policy in force; None for none.
        records_sha256: task to digest of its records.
        items, seconds: asked in this run and the time it took; None where unknown.
        environment: versions, driver, commit and whatever else is known.
        at: when it began, UTC, ISO 8601; None where unknown.
    """

    suite: str
    site: str
    name: str
    night: str | None
    identity: IdentityEntry
    evalkit: str
    policy_sha256: str | None
    records_sha256: Mapping[str, str]
    items: int | None = None
    seconds: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    at: str | None = None

    @property
    def key_sha256(self) -> str:
        """The natural key: a night's run by its night, any other by what it holds."""
        if self.night is not None:
            return digest(["night", self.suite, self.site, self.night, self.name])
        content = [self.identity.sha256, self.policy_sha256, dict(self.records_sha256)]
        return digest(["run", self.suite, self.site, self.name, content])


@dataclass(frozen=True, kw_only=True)
class ComparisonEntry:
    """One endpoint of a run against the baseline.

    Attributes:
        endpoint, task, metric: what was compared.
        scope: "watch" (the items of a night), "full" (all items of a task).
        unit: "proportion" or "rating".
        baseline: identity of the baseline.
        n: pairs with a mark on both sides.
        counts: n11, n10, n01, n00; None for ratings.
        baseline_value, candidate_value: accuracies or mean ratings.
        difference, lower, upper, level, method: estimate and interval; None where there is none.
        invalid_share: share of the candidate's answers that cannot be read or degenerate; None without generated ones.
        log_probability_change: mean change of log p(right choice); None where unknown.
    """

    endpoint: str
    task: str
    metric: str
    scope: str
    unit: str
    baseline: IdentityEntry | None
    n: int
    counts: Sequence[int] | None
    baseline_value: float | None
    candidate_value: float | None
    difference: float | None
    lower: float | None
    upper: float | None
    level: float | None
    method: str | None
    invalid_share: float | None = None
    log_probability_change: float | None = None


@dataclass(frozen=True, kw_only=True)
class VerdictEntry:
    """A certificate's verdict on a run."""

    policy: str
    policy_sha256: str
    outcome: str
    claim: str | None
    reasons: Sequence[Mapping[str, Any]]
    exploratory: bool
    certificate_sha256: str


@dataclass(frozen=True, kw_only=True)
class NightEntry:
    """One endpoint of one recipe in one night; suite, site, night, recipe and endpoint are the natural key.

    Attributes:
        run: what ran; None where no engine could be loaded.
        outcome: "OK", "ALARM", "UNDECIDED" or "INVALID".
        state, confirm, full: where the evidence stood, the confirming run, the full comparison; None if not reached.
        reasons: code and message each.
        asked, used: items asked, and items the state rests on.
        log_e, log_e_loss: logarithms of the evidence; None if not reached.
        seed, order_sha256: of the night's order.
        comparisons: of the watched items, and of all items where there was a full comparison.
        verdict: of the full comparison; None without one.
        started_at, finished_at: UTC, ISO 8601.
        environment: as `RunEntry.environment`; also for nights without a run.
        subjects: flips by subject.
    """

    suite: str
    site: str
    night: str
    recipe: str
    endpoint: str
    run: RunEntry | None
    outcome: str
    state: str | None
    confirm: str | None
    full: str | None
    reasons: Sequence[Mapping[str, Any]]
    asked: int
    used: int
    log_e: float | None
    log_e_loss: float | None
    seed: int
    order_sha256: str | None
    comparisons: Sequence[ComparisonEntry]
    verdict: VerdictEntry | None
    started_at: str
    finished_at: str
    environment: Mapping[str, str]
    subjects: Sequence[Mapping[str, Any]]

    @property
    def content_sha256(self) -> str:
        """Digest of what was found, without clock readings: two writings of one night have the same."""
        found = [
            self.outcome,
            self.state,
            self.confirm,
            self.full,
            self.used,
            self.order_sha256,
            self.run.identity.sha256 if self.run is not None else None,
            [[one.scope, one.n, list(one.counts or ())] for one in self.comparisons],
        ]
        return digest(found)


# A certificate as entries of the history.


Data = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CertifiedRun:
    """What a certificate says of one run; a control or a rerun has no verdict."""

    run: RunEntry
    comparisons: Sequence[ComparisonEntry]
    verdict: VerdictEntry | None


def certified_runs(
    document: Data, *, suite: str, site: str, begun: Mapping[str, str], night: str | None = None
) -> Iterator[CertifiedRun]:
    """Yield every compared run of a certificate.

    Args:
        document: what `certificate.json` holds.
        suite: under which name it is kept.
        site: where it was made.
        begun: run name to when it began, UTC; a certificate itself holds no clock reading.
        night: label of the night it was made in; None otherwise.

    Raises:
        DataError: the document is no certificate of paired runs.
    """
    if document.get("kind") == "unpaired" or "comparisons" not in document:
        raise DataError(
            "only certificates of paired runs are kept in the history, not comparisons with published numbers"
        )
    baseline = _identity(document["runs"]["baseline"])
    verdicts = {verdict["recipe"]: verdict for verdict in document["decision"]["verdicts"]}
    for name, comparisons in document["comparisons"].items():
        made = document["runs"][name]
        run = RunEntry(
            suite=suite,
            site=site,
            name=name,
            night=night,
            identity=_identity(made),
            evalkit=made["evalkit"],
            policy_sha256=made["policy_sha256"],
            records_sha256=made["records_sha256"],
            at=begun.get(name),
        )
        yield CertifiedRun(
            run=run,
            comparisons=[
                entry for endpoint, one in comparisons.items() for entry in comparison_entry(endpoint, one, baseline)
            ],
            verdict=verdict_entry(document, verdicts[name]) if name in verdicts else None,
        )


def verdict_entry(document: Data, verdict: Data) -> VerdictEntry:
    """Return one verdict of a certificate."""
    return VerdictEntry(
        policy=document["decision"]["policy"],
        policy_sha256=document["decision"]["policy_sha256"],
        outcome=verdict["outcome"],
        claim=verdict["claim"],
        reasons=verdict["reasons"],
        exploratory=document["decision"]["exploratory"],
        certificate_sha256=digest(document),
    )


def _identity(run: Data) -> IdentityEntry:
    return IdentityEntry(sha256=run["identity_sha256"], document=run["engine"])


def comparison_entry(endpoint: str, found: Data, baseline: IdentityEntry) -> Iterator[ComparisonEntry]:
    """Yield the entry of one endpoint's comparison; nothing where it has no estimate."""
    effects = (found.get("proportion") or {}).get("effects")
    mean = (found.get("rating") or {}).get("mean") or found.get("mean")
    best = effects or mean
    if best is None or best["difference"] is None:
        return
    observed = found["proportion"]["observed"] if effects else None
    values = ("baseline_accuracy", "candidate_accuracy") if effects else ("baseline_mean", "candidate_mean")
    answers, interval = found.get("answers"), best["interval"] or {}
    yield ComparisonEntry(
        endpoint=endpoint,
        task=found["task"],
        metric=found["metric"],
        scope="full",
        unit="proportion" if effects else "rating" if found.get("rating") else "mean",
        baseline=baseline,
        n=best["n"],
        counts=[observed[name] for name in ("n11", "n10", "n01", "n00")] if observed else None,
        baseline_value=best[values[0]],
        candidate_value=best[values[1]],
        difference=best["difference"],
        lower=interval.get("lower"),
        upper=interval.get("upper"),
        level=interval.get("level"),
        method=interval.get("method"),
        invalid_share=answers["candidate_invalid_items"] / answers["n"] if answers and answers["n"] else None,
        log_probability_change=(found.get("shift") or {}).get("log_probability_change"),
    )
