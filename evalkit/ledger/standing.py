"""What came before a certificate, as the ledger shows it.

In: the entries up to a decision, the runs and the policy of it. Out: what the certificate cites, and cautions.
Must not depend on: files; how a verdict is reached. No clock: entries count in their order alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evalkit.ledger.book import Citation, Entry
from evalkit.ledger.mirroring import RECALLED, concerns, with_recalled
from evalkit.records.canonical import digest
from evalkit.records.manifest import EngineIdentity, Manifest

Role = Literal["baseline", "rerun", "candidate", "control"]
Data = Mapping[str, Any]

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

BEGINNINGS = ("run-begun", "import")
"""Kinds of entries that a run folder cites."""

_LEAVES = 3
"""Differences of two policies that a sentence names."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run of a certificate.

    Attributes:
        name: in the certificate.
        role: what it is there.
        manifest: what its folder says of itself.
        records_sha256: task to the digest of its records.
        judgments_sha256: judging to the digest of its judgments.
        cited: the ledger's entries that its folder cites.
    """

    name: str
    role: Role
    manifest: Manifest
    records_sha256: Mapping[str, str]
    judgments_sha256: Mapping[str, str]
    cited: tuple[Citation, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is decided on.

    Attributes:
        policy_sha256: digest of the bound policy.
        policy: its document.
        runs: every run of the certificate.
        qualifications: digests of the trials of judges that lie beside it.
        post_hoc: the policy was chosen after the runs began.
    """

    policy_sha256: str
    policy: Data
    runs: tuple[RunFacts, ...]
    qualifications: tuple[str, ...] = ()
    post_hoc: bool = False

    def of(self, role: Role) -> tuple[RunFacts, ...]:
        """Return the runs of one role."""
        return tuple(run for run in self.runs if run.role == role)


@dataclass(frozen=True, kw_only=True)
class Caution:
    """What weakens a certificate.

    Attributes:
        code: a key of the verdict's `CAUTIONS`.
        message: a sentence for the first screen.
        recipe: whom it concerns; None for the whole release.
    """

    code: str
    message: str
    recipe: str | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a ledger shows of a decision.

    Attributes:
        section: what the certificate cites: JSON data.
        cautions: in the order in which a reader should hear them.
    """

    section: Data
    cautions: tuple[Caution, ...]


@dataclass(kw_only=True)
class _Found:
    cautions: list[Caution] = field(default_factory=list)

    def add(self, code: str, message: str, recipe: str | None = None) -> None:
        self.cautions.append(Caution(code=code, message=message, recipe=recipe))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial of a judge, as the ledger has it.

    Attributes:
        judge_sha256, profile_sha256: who was tried, in which words.
        task, records_sha256: on whose answers.
        drawn: how the probes were drawn from them: number of answers and seed.
        qualification_sha256: digest of its file; "" where it was begun and never finished.
        complete: whether the judge replied to every probe.
        passed: whether it reached the bars of `bars_sha256`.
        bars_sha256: digest of these bars.
    """

    judge_sha256: str
    profile_sha256: str
    task: str
    records_sha256: str
    drawn: tuple[int, int]
    qualification_sha256: str = ""
    complete: bool = False
    passed: bool = False
    bars_sha256: str = ""


def trials_of(entries: Sequence[Entry]) -> tuple[Trial, ...]:
    """Return every trial that was begun, each once: with its result where it has one; recalled ones too."""
    open_ones: list[Trial] = []
    done: dict[str, Trial] = {}
    for entry in with_recalled(entries):
        if entry.kind not in ("trial-begun", "trial"):
            continue
        trial = Trial(**{**entry.data, "drawn": tuple(entry.data["drawn"])})
        if entry.kind == "trial-begun":
            open_ones.append(trial)
            continue
        begun = replace(trial, qualification_sha256="", complete=False, passed=False, bars_sha256="")
        if begun in open_ones:
            open_ones.remove(begun)
        done[trial.qualification_sha256] = trial
    return (*done.values(), *open_ones)


def weights_of(engine: EngineIdentity) -> str:
    """Return what two runs of the same quantized weights share: the weights and the recipe, not where they ran."""
    model = engine.model if len(engine.weights_sha256) != len(digest("")) else ""
    return digest([engine.weights_sha256, engine.recipe_sha256 or engine.recipe, model])


def evidence_sha256(subject: Subject) -> str:
    """Return the digest of what a decision rests on: deciding again on the same is no further attempt."""
    runs = {run.name: _evidence_of(run) for run in subject.runs}
    return digest([subject.policy_sha256, subject.post_hoc, runs, sorted(subject.qualifications)])


def _evidence_of(run: RunFacts) -> list[Any]:
    manifest, cited = run.manifest, [one.sha256 for one in run.cited]
    return [run.role, manifest.engine.sha256, manifest.policy_sha256, cited, run.records_sha256, run.judgments_sha256]


def up_to_decision(entries: Sequence[Entry], evidence: str) -> tuple[Entry, ...]:
    """Return the entries that a decision sees: all, or those that the first decision on the same evidence saw.

    What the history recalled after that decision is seen too: it was there to be known.
    """
    recalled = max((entry.sequence for entry in entries if entry.kind == "recalled"), default=-1)
    for entry in entries:
        if entry.kind == "certificate" and entry.data["evidence_sha256"] == evidence:
            return tuple(entries[: max(entry.data["head"], recalled) + 1])
    return tuple(entries)


def standing(entries: Sequence[Entry] | None, subject: Subject) -> Standing:
    """Say what came before a decision.

    Args:
        entries: the ledger up to the decision; None without a ledger.
        subject: what is decided on.
    """
    found = _Found()
    if entries is None:
        found.add(
            "ledger-none", "no ledger was kept: earlier runs and certificates of these weights cannot be excluded"
        )
        return Standing(section={"policy": {"state": "unknown"}}, cautions=tuple(found.cautions))
    known = with_recalled(entries)
    began = _beginnings(known, subject)
    section = {
        "entries": len(entries),
        "head": entries[-1].content if entries else None,
        "policy": _policy_state(entries, subject, began),
        "runs": {run.name: [one.sequence for one in began[run.name]] for run in subject.runs},
        "recalled": _recalled(entries, subject, found),
        "certificates": _earlier(known, subject, found),
        "other_runs": _other_runs(known, subject, began, found),
        "nights": _nights(known, subject, found),
        "judgings": _judgings(known, subject, found),
        "seals": _seals(entries, subject, found),
    }
    _citations(entries, subject, began, found)
    return Standing(section=section, cautions=tuple(found.cautions))


def _beginnings(entries: Sequence[Entry], subject: Subject) -> dict[str, list[Entry]]:
    """Return the entries that each run cites and that are about it."""
    known = {entry.sha256: entry for entry in entries if entry.kind in BEGINNINGS}
    return {
        run.name: [
            known[one.sha256]
            for one in run.cited
            if one.sha256 in known and known[one.sha256].data["identity_sha256"] == run.manifest.engine.sha256
        ]
        for run in subject.runs
    }


def _earlier(entries: Sequence[Entry], subject: Subject, found: _Found) -> dict[str, list[dict[str, Any]]]:
    """Find earlier certificates for the same weights, and for other weights against the same baseline."""
    decided = {entry.data["evidence_sha256"]: entry for entry in entries if entry.kind == "certificate"}
    decided.pop(evidence_sha256(subject), None)
    certificates = list(decided.values())
    mine = {run.name: weights_of(run.manifest.engine) for run in subject.of("candidate")}
    section: dict[str, list[dict[str, Any]]] = {}
    for name, weights in mine.items():
        rows = [
            {
                "sequence": entry.sequence,
                "outcome": verdict["outcome"],
                "policy_sha256": entry.data["policy_sha256"],
                "policy": entry.data["policy"],
            }
            for entry in certificates
            for verdict in entry.data["verdicts"].values()
            if verdict["weights"] == weights
        ]
        section[name] = [{key: value for key, value in row.items() if key != "policy"} for row in rows]
        if rows:
            found.add("earlier-certificates", _before(rows, subject), name)
    _siblings(certificates, subject, set(mine.values()), found)
    return section


def _before(rows: Sequence[Data], subject: Subject) -> str:
    outcomes = Counter(row["outcome"] for row in rows)
    told = ", ".join(f"{outcome}{_times(n)}" for outcome, n in outcomes.items())
    others = [row for row in rows if row["policy_sha256"] != subject.policy_sha256]
    message = f"{_ordinal(len(rows) + 1)} certificate for these weights; before: {told}"
    if others:
        changed = _changes(others[-1]["policy"], _unbound(subject.policy))
        message += f", under another policy{f' ({changed})' if changed else ''}"
    return message


def _siblings(certificates: Sequence[Entry], subject: Subject, mine: set[str], found: _Found) -> None:
    """Say which other weights were compared with the same baseline, in certificates of their own."""
    baseline = {weights_of(run.manifest.engine) for run in subject.of("baseline")}
    last: dict[str, str] = {}
    for entry in certificates:
        if entry.data["baseline"] in baseline:
            last |= {
                one["weights"]: one["outcome"] for one in entry.data["verdicts"].values() if one["weights"] not in mine
            }
    last.pop("", None)
    if last:
        counts = Counter(last.values())
        told = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        n = len(last)
        found.add(
            "sibling-certificates",
            f"{_number(n)} other recipe{'s' * (n != 1)} had {'a certificate' if n == 1 else 'certificates'} of "
            f"{'its' if n == 1 else 'their'} own against this baseline ({told}): the error rate over all recipes "
            "counts only those of one certificate",
        )


def _other_runs(
    entries: Sequence[Entry], subject: Subject, began: Mapping[str, Sequence[Entry]], found: _Found
) -> dict[str, list[int]]:
    """Find runs of the same weights on the same tasks that were begun and are not part of the certificate."""
    own = {entry.sha256 for cited in began.values() for entry in cited}
    section: dict[str, list[int]] = {}
    told: set[str] = set()
    for run in subject.runs:
        weights = weights_of(run.manifest.engine)
        if run.role == "control" or weights in told:
            continue
        told.add(weights)
        others = [
            entry
            for entry in entries
            if entry.kind in BEGINNINGS
            and entry.sha256 not in own
            and entry.data["weights"] == weights
            and _same_tasks(entry, run.manifest)
            and not _same_import(entry, run)
        ]
        section[run.name] = [entry.sequence for entry in others]
        if not others:
            continue
        n, many = len(others), len(others) != 1
        what = "these weights" if run.role == "candidate" else "the baseline's weights"
        bound = {entry.data["policy_sha256"] for entry in others} - {None, subject.policy_sha256}
        under = ", under another policy" if bound and run.role == "candidate" else ""
        found.add(
            "earlier-runs",
            f"{n} earlier run{'s' * many} of {what} {'were' if many else 'was'} begun{under} and "
            f"{'are' if many else 'is'} not part of this certificate",
            run.name if run.role == "candidate" else None,
        )
    return section


def _same_import(entry: Entry, run: RunFacts) -> bool:
    """Say whether an import brought the very records of a run: bringing them again is no further attempt."""
    return entry.kind == "import" and bool(entry.data["records_sha256"] == run.records_sha256)


def _nights(entries: Sequence[Entry], subject: Subject, found: _Found) -> dict[str, list[dict[str, Any]]]:
    """Find the nights that watched the weights of each candidate, and say if one of them gave the alarm."""
    section: dict[str, list[dict[str, Any]]] = {}
    for run in subject.of("candidate"):
        weights = weights_of(run.manifest.engine)
        last: dict[tuple[str, ...], dict[str, Any]] = {}
        for entry in entries:
            if entry.kind in ("night-begun", "night") and entry.data["weights"] == weights:
                night = tuple(str(entry.data[name]) for name in ("suite", "site", "night", "recipe"))
                last[night] = {"sequence": entry.sequence, "night": night[2], "outcome": entry.data.get("outcome")}
        section[run.name] = list(last.values())
        counts = Counter(one["outcome"] or "stopped without a result" for one in last.values())
        if "ALARM" in counts:
            told = ", ".join(f"{outcome}{_times(n)}" for outcome, n in counts.items())
            nights = f"{_number(len(last))} night{'s' * (len(last) != 1)}"
            found.add("earlier-nights", f"these weights were watched in {nights} before: {told}", run.name)
    return section


def _recalled(entries: Sequence[Entry], subject: Subject, found: _Found) -> list[dict[str, Any]]:
    """Say what only the history still knows: a ledger that was cut, rewritten, or deleted and begun anew."""
    mine = {weights_of(run.manifest.engine) for run in subject.runs}
    section = []
    for entry in entries:
        for one in entry.data["ledgers"] if entry.kind == "recalled" else ():
            n, about = len(one["entries"]), sum(concerns(row, mine) for row in one["entries"])
            section.append(
                {"sequence": entry.sequence, "ledger": one["ledger"], "state": one["state"], "entries": n, "own": about}
            )
            rows = f"{n} entr{'y' if n == 1 else 'ies'} of this ledger that {_is(n)} not in it"
            message = {
                "cut": f"the history remembers {rows}: it was cut",
                "forked": f"the history remembers {rows}, and others stand in the place: it was rewritten, or went on "
                "in two places",
                "replaced": f"the history remembers another ledger at this place, of {one['known']} entries, {about} "
                "of them about these weights: it was deleted and begun anew",
            }
            if one["state"] in message:
                found.add(f"ledger-{one['state']}", message[one["state"]])
    return section


def _same_tasks(entry: Entry, manifest: Manifest) -> bool:
    sets = {run.item_set_sha256 for run in manifest.tasks.values()}
    return any(name in manifest.tasks or task["item_set_sha256"] in sets for name, task in entry.data["tasks"].items())


def _judgings(entries: Sequence[Entry], subject: Subject, found: _Found) -> dict[str, dict[str, int]]:
    """Count how often the very answers of a run were judged, beyond the judgings that the certificate rests on."""
    section: dict[str, dict[str, int]] = {}
    told: dict[str, list[str]] = {}
    for run in subject.runs:
        for task in run.manifest.tasks:
            tries = _tries(entries, run, task)
            if not tries:
                continue
            section.setdefault(run.name, {})[task] = len(tries)
            last = {key: at for at, key in tries}
            gone = len(tries) - len(set(last) & _judges(run))
            late = sum(at > _decided(entries, run, task) for key, at in last.items() if key in _judges(run))
            if gone or late:
                parts = [f"{_number(gone)} of these judgings {_is(gone)} not part of this certificate"] if gone else []
                parts += [f"{_number(late)} {_is(late)} later than an earlier certificate on them"] if late else []
                message = f"on {task} were judged {len(tries)} times; {'; '.join(parts)}"
                told.setdefault(message, []).append(run.name)
    candidates = {run.name for run in subject.of("candidate")}
    for message, names_of in told.items():
        for name in names_of:
            found.add("judged-again", f"the answers of '{name}' {message}", name if name in candidates else None)
    return section


def _is(n: int) -> str:
    return "is" if n == 1 else "are"


def _decided(entries: Sequence[Entry], run: RunFacts, task: str) -> float:
    """Return the entry of the first certificate on exactly these answers; infinite where there is none."""
    records = run.records_sha256.get(task)
    found = (entry.sequence for entry in entries if entry.kind == "certificate" and records in entry.data["records"])
    return next(found, float("inf"))


def _judges(run: RunFacts) -> set[tuple[str, ...]]:
    return {(name, judge.identity.sha256, judge.profile_sha256) for name, judge in run.manifest.judges.items()}


def _tries(entries: Sequence[Entry], run: RunFacts, task: str) -> list[tuple[int, tuple[str, ...]]]:
    """Return entry, and name, judge and profile, of each judging of exactly these answers that began anew.

    A judging that goes on with at least the judgments that were there before is the same; one that finds fewer began
    anew, and so did one by another judge, in other words or under another name.
    """
    identity, records = run.manifest.engine.sha256, run.records_sha256.get(task)
    most: dict[tuple[str, ...], int] = {}
    tries: list[tuple[int, tuple[str, ...]]] = []
    for entry in entries:
        if entry.kind not in ("judging-begun", "judging-done") or entry.data["task"] != task:
            continue
        for row in entry.data["runs"]:
            if row["records_sha256"] != records or row["identity_sha256"] != identity:
                continue
            key = tuple(entry.data[name] for name in ("judging", "judge_sha256", "profile_sha256"))
            if entry.kind == "judging-begun" and row["judgments"] < most.get(key, 1):
                tries.append((entry.sequence, key))
            most[key] = row["judgments"] if entry.kind == "judging-begun" else max(most.get(key, 0), row["judgments"])
    return tries


def _seals(entries: Sequence[Entry], subject: Subject, found: _Found) -> list[dict[str, Any]]:
    """Find the seals of this release, and say if the last one is of another policy."""
    seals = [entry for entry in entries if entry.kind == "seal" and _concerns(entry, subject)]
    if seals and not is_sealed(seals[-1], subject):
        changed = _changes(seals[-1].data["policy"], _unbound(subject.policy))
        found.add(
            "sealed-otherwise",
            f"the policy that was sealed (ledger entry {seals[-1].sequence}) is another one"
            + (f" ({changed})" if changed else ""),
        )
    return [
        {"sequence": entry.sequence, "policy_sha256": entry.data["policy_sha256"], "signers": entry.data["signers"]}
        for entry in seals
    ]


def _concerns(entry: Entry, subject: Subject) -> bool:
    release, mine = entry.data["release"], subject.policy["release"]
    if release is None:
        return bool(entry.data["name"] == subject.policy["name"]) or is_sealed(entry, subject)
    return bool(release["baseline"] == mine["baseline"] and set(release["recipes"]) & set(mine["recipes"]))


def is_sealed(entry: Entry, subject: Subject) -> bool:
    """Say whether a seal is of the very policy of a decision, bound to its names or to none."""
    return entry.data["policy_sha256"] in (subject.policy_sha256, digest(_unbound(subject.policy)))


def _unbound(document: Data) -> dict[str, Any]:
    return {**document, "release": None}


def _policy_state(entries: Sequence[Entry], subject: Subject, began: Mapping[str, Sequence[Entry]]) -> dict[str, Any]:
    """Say what the ledger shows of the time at which the policy was fixed.

    The state is "fixed" only if the policy, sealed or cited by the candidates' own beginnings, stands before the first
    reply of every candidate; no run of the same weights came earlier under another policy or under none; and the
    ledger is older than the release, so that an earlier run would be on record.
    """
    candidates = subject.of("candidate")
    firsts = [began[run.name] for run in candidates]
    if not candidates or not all(firsts):
        return {"state": "unknown"}
    if any(
        entry.data["found"] or entry.data["policy_sha256"] != subject.policy_sha256 for one in firsts for entry in one
    ):
        return {"state": "unknown"}
    first = min(entry.sequence for one in firsts for entry in one)
    if first == RECALLED:
        return {"state": "unknown"}
    seal = next(
        (e.sequence for e in entries if e.kind == "seal" and is_sealed(e, subject) and e.sequence < first), None
    )
    at = {"sequence": first if seal is None else seal, "sealed": seal is not None}
    if any(_under_another(entries, run, subject, first) for run in candidates):
        return {"state": "changed", **at}
    own = {entry.sha256 for one in began.values() for entry in one}
    older = [
        e
        for e in entries[: at["sequence"]]
        if e.kind not in ("opened", "run-completed", "seal", "recalled") and e.sha256 not in own
    ]
    return {"state": "fixed" if older else "began", **at}


def _under_another(entries: Sequence[Entry], run: RunFacts, subject: Subject, first: int) -> bool:
    weights = weights_of(run.manifest.engine)
    return any(
        entry.kind in BEGINNINGS
        and entry.sequence < first
        and entry.data["weights"] == weights
        and entry.data["policy_sha256"] != subject.policy_sha256
        and _same_tasks(entry, run.manifest)
        for entry in with_recalled(entries)
    )


def _citations(entries: Sequence[Entry], subject: Subject, began: Mapping[str, Sequence[Entry]], found: _Found) -> None:
    """Name the runs whose beginning is not on record, and a ledger that is not the first of its outputs."""
    gone = [run.name for run in subject.runs if run.cited and len(began[run.name]) < len(run.cited)]
    never = [run.name for run in subject.runs if not run.cited]
    if gone:
        found.add(
            "ledger-missing",
            f"{_listed(gone)} {_cites(gone)} ledger entries that are not in this ledger: it was deleted, shortened or "
            "replaced, or the runs come from elsewhere",
        )
    if never:
        found.add(
            "ledger-none",
            f"{_listed(never)} {_cites(never)} no ledger entry: when they began, and what was tried before, is not on "
            "record",
        )
    brought = [name for name, cited in began.items() if any(entry.kind == "import" for entry in cited)]
    if brought:
        found.add(
            "ledger-none",
            f"{_listed(brought)} {'was' if len(brought) == 1 else 'were'} imported: when the replies were made, and "
            "what was tried before, is not on record",
        )
    if any(entry.data["passed_over"] for cited in began.values() for entry in cited):
        found.add(
            "ledger-passed-over",
            "another ledger lies above the runs, and they were put on record in one that was named instead",
        )
    others = entries[0].data["others"] if entries else []
    if others:
        names = sorted({str(one["in"]) for one in others})
        found.add("ledger-anew", f"the ledger was begun anew, beside what cites an earlier one: {_listed(names[:4])}")
    state = _policy_state(entries, subject, began)["state"]
    if state == "began" and not others:
        found.add("ledger-began", "the ledger began with these runs: earlier runs cannot be excluded")


def _cites(names: Sequence[str]) -> str:
    return "cites" if len(names) == 1 else "cite"


def _changes(before: Data, now: Data) -> str:
    """Name what differs between two policies, the first few values of it."""
    leaves = list(_leaves(before, now, ""))
    shown = [f"{path} {_value(old)} -> {_value(new)}" for path, old, new in leaves[:_LEAVES]]
    more = len(leaves) - len(shown)
    return "; ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _leaves(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}, key=str):
            if key not in ("release", "title"):
                inner = str(key) if path in ("", "endpoints") else f"{path} {key}"
                yield from _leaves(before.get(key), now.get(key), inner)
    elif before != now:
        yield path, before, now


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = ", ".join(_value(one) for one in value) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _number(n: int) -> str:
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def _ordinal(n: int) -> str:
    return ORDINALS[n] if n < len(ORDINALS) else f"{n}th"


def _times(n: int) -> str:
    return "" if n == 1 else " twice" if n == 2 else f" {_number(n)} times"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
