"""What counts as one: repeated questions, clusters, and whatever else items share.

In: pair keys, facts about the items, differences. Out: cluster codes for the tests, and `Units` for people.
Must not depend on: margins, verdicts.

Two items with one content are one cluster, always: a question asked twice is evidence once. A cluster field of the
policy joins more. Everything else that items share is looked at, since nobody is asked to name what would weaken a
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.records.canonical import NOT_JSON
from evalkit.records.consistency import CONTENT, SUBJECT, ItemFacts
from evalkit.statistics.checks import Floats, Integers
from evalkit.statistics.clusters import effective_clusters, excess_design_effect

FEWEST_GROUPS = 10
"""Groups below which a design effect is noise."""

_SHARED = 0.05
"""Share of items that must have company in a field before it is worth a look."""


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """One thing that items share.

    Attributes:
        field: `subject`, `row` (place in the source, across subjects) or a field of the source row.
        groups: its values among the items.
        design_effect: variance of the difference if these groups are the units, over that by cluster.
        p: one-sided p-value of "items that share it do not flip together".
        looked_at: fields that were looked at, this one included, for the correction of `p`.
    """

    field: str
    groups: int
    design_effect: float
    p: float
    looked_at: int


@dataclass(frozen=True, kw_only=True)
class Units:
    """What counts as one in a comparison.

    Attributes:
        items: pairs with a result on both sides.
        contents: different questions among them.
        cluster: field of the policy that says what a cluster is; None: the content alone.
        clusters: clusters among them.
        effective: equal clusters that tell as much, (sum n)^2 / sum n^2.
        largest: items of the largest cluster.
        lacking: items without the cluster field.
        strata: fields whose values are the only ones the claim speaks for.
        stratum_count: combinations of their values among the items.
        groupings: what items share, beyond clusters and strata, strongest first.
        within: the same for the strata: how much they differ among themselves; None without any.
        read: whether the items were at hand; without them only digests tell what is repeated.
    """

    items: int
    contents: int
    cluster: str | None
    clusters: int
    effective: float
    largest: int
    lacking: int
    strata: tuple[str, ...]
    stratum_count: int
    groupings: tuple[Grouping, ...]
    within: Grouping | None
    read: bool

    @property
    def repeated_share(self) -> float:
        """Share of items that put a question again."""
        return 1.0 - self.contents / self.items if self.items else 0.0


@dataclass(frozen=True, kw_only=True)
class UnitCodes:
    """Codes of all planned units, shape (n,), those that neither side has last.

    Attributes:
        contents, clusters, strata: codes from 0.
        fields: codes by what items share.
        cluster: field of the policy.
        strata_fields: fields of the policy.
        lacking: which units lack the cluster field, shape (n,).
        read: whether the items were at hand.
    """

    contents: Integers
    clusters: Integers
    strata: Integers
    fields: Mapping[str, Integers]
    cluster: str | None
    strata_fields: tuple[str, ...]
    lacking: np.ndarray
    read: bool


@dataclass(frozen=True, kw_only=True)
class UnitView:
    """Units with the codes that tests need.

    Attributes:
        units: for people.
        observed: cluster codes of the pairs with a result on both sides, shape (m,).
        planned: cluster codes of all planned units, shape (n,).
    """

    units: Units
    observed: Integers = field(repr=False, compare=False, metadata=NOT_JSON)
    planned: Integers = field(repr=False, compare=False, metadata=NOT_JSON)


ItemKey = tuple[str, str, int]
"""Subject, digest, occurrence."""


def unit_codes(
    task: str,
    keys: Sequence[ItemKey],
    unseen: int,
    facts: Mapping[str, ItemFacts],
    *,
    cluster: str | None = None,
    strata: Sequence[str] = (),
) -> UnitCodes:
    """Return what each unit shares with others.

    Args:
        task: task name.
        keys: of the units that either side has.
        unseen: planned units that neither side has.
        facts: item key to what is known of the item; empty where the items are not at hand.
        cluster, strata: fields of the policy.
    """
    every = [*keys, *_unseen(task, keys, unseen, facts)]
    known = [facts.get(f"{task}/{subject}/{sha}/{occurrence}") for subject, sha, occurrence in every]
    contents = _joined(
        _codes([sha for _, sha, _ in every]),
        _codes([fact.content if fact else sha for fact, (_, sha, _) in zip(known, every, strict=True)]),
    )
    fields = {SUBJECT: _codes([subject for subject, _, _ in every])}
    for name in sorted({label for fact in known if fact for label in fact.labels}):
        if name not in (SUBJECT, CONTENT):
            labels = [fact.labels.get(name) if fact else None for fact in known]
            # An item without the field is a group of its own.
            fields[name] = _codes([f"={label}" if label is not None else f"#{at}" for at, label in enumerate(labels)])
    lacking = np.zeros(len(every), dtype=bool)
    clusters = contents
    if cluster is not None and cluster != CONTENT:
        have = [cluster == SUBJECT or (fact is not None and cluster in fact.labels) for fact in known]
        lacking = ~np.array(have, dtype=bool)
        if cluster in fields:
            clusters = _joined(contents, fields[cluster])
    named = [fields[name] for name in strata if name in fields]
    crossed = (
        _codes(list(zip(*(codes.tolist() for codes in named), strict=True)))
        if named
        else np.zeros(len(every), np.int64)
    )
    return UnitCodes(
        contents=contents,
        clusters=clusters,
        strata=crossed,
        fields=fields,
        cluster=cluster,
        strata_fields=tuple(strata),
        lacking=lacking,
        read=any(fact is not None for fact in known),
    )


def _unseen(task: str, keys: Sequence[ItemKey], unseen: int, facts: Mapping[str, ItemFacts]) -> list[ItemKey]:
    """Return keys for the units that neither side has: the run's own items, or units of their own."""
    if not unseen:
        return []
    held = {f"{task}/{subject}/{sha}/{occurrence}" for subject, sha, occurrence in keys}
    lost = [key.removeprefix(f"{task}/").rsplit("/", 2) for key in sorted(facts.keys() - held)]
    found = [(subject, sha, int(occurrence)) for subject, sha, occurrence in lost][:unseen]
    return [*found, *(("", f"unseen {at}", 0) for at in range(unseen - len(found)))]


def _codes(labels: Sequence[object]) -> Integers:
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64)


def _joined(left: Integers, right: Integers) -> Integers:
    """Return the coarsest grouping in which whatever shares a group on either side stays together."""
    if np.unique(left).size == left.size:
        return right
    parents = list(range(int(left.max(initial=-1)) + 1))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    first: dict[int, int] = {}
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        parents[root(a)] = root(first.setdefault(b, a))
    return _codes([root(a) for a in left.tolist()])


def view_units(codes: UnitCodes, seen: np.ndarray, differences: Floats) -> UnitView:
    """Return the units of one endpoint.

    Args:
        codes: of all planned units, shape (n,).
        seen: which of the units that either side has have a result on both sides, shape (k,), k <= n.
        differences: of those, shape (m,).
    """
    at = np.flatnonzero(seen)
    clusters, contents = _compact(codes.clusters[at]), _compact(codes.contents[at])
    sizes = np.bincount(clusters).astype(np.float64)
    strata = _compact(codes.strata[at])
    groupings, within = _groupings(codes, at, clusters, strata, differences)
    return UnitView(
        units=Units(
            items=int(at.size),
            contents=int(contents.max(initial=-1)) + 1,
            cluster=codes.cluster,
            clusters=int(sizes.size),
            effective=effective_clusters(sizes) if sizes.size > 1 else float(sizes.size),
            largest=int(sizes.max(initial=0.0)),
            lacking=int(codes.lacking[at].sum()),
            strata=codes.strata_fields,
            stratum_count=int(strata.max(initial=-1)) + 1,
            groupings=groupings,
            within=within,
            read=codes.read,
        ),
        observed=clusters,
        planned=_compact(codes.clusters),
    )


def _compact(codes: Integers) -> Integers:
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _groupings(
    codes: UnitCodes, at: Integers, clusters: Integers, strata: Integers, differences: Floats
) -> tuple[tuple[Grouping, ...], Grouping | None]:
    """Return what items share, and the strata themselves; differences between strata are taken out before."""
    if at.size < 2 or float(np.ptp(differences)) == 0.0:
        return (), None
    centred = differences - differences.mean()
    within = None
    if codes.strata_fields and strata.max() + 1 >= FEWEST_GROUPS:
        within = _grouping(" x ".join(codes.strata_fields), centred, clusters, strata, 1)
    means = np.bincount(strata, weights=differences) / np.bincount(strata)
    residuals = differences - means[strata]
    worth: dict[str, Integers] = {}
    for name, all_codes in codes.fields.items():
        groups = _compact(all_codes[at])
        if _worth_a_look(groups, strata) and not any(np.array_equal(groups, other) for other in worth.values()):
            worth[name] = groups
    found = [_grouping(name, residuals, clusters, groups, len(worth)) for name, groups in worth.items()]
    return tuple(sorted(found, key=lambda one: (one.p, one.field))), within


def _worth_a_look(groups: Integers, strata: Integers) -> bool:
    """Is a field shared by enough items, with enough values, and not a stratum or made of whole strata?"""
    sizes = np.bincount(groups)
    count = int(sizes.size)
    if not FEWEST_GROUPS <= count < groups.size or sizes[groups].size == 0:
        return False
    if float(np.mean(sizes[groups] > 1)) < _SHARED:
        return False
    pairs = np.unique(strata.astype(np.int64) * count + groups).size
    return pairs != int(strata.max()) + 1 or int(strata.max()) == 0


def _grouping(name: str, residuals: Floats, clusters: Integers, groups: Integers, looked_at: int) -> Grouping:
    found = excess_design_effect(residuals, clusters, groups)
    return Grouping(field=name, groups=found.groups, design_effect=found.excess, p=found.p, looked_at=looked_at)
