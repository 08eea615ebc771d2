"""A certificate as entries of the history.

In: `certificate.json` as data. Out: one run with its comparisons and its verdict for each compared run.
May not know: how anything was decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.history.entries import ComparisonEntry, IdentityEntry, RunEntry, VerdictEntry
from evalkit.records import digest

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
