"""The goals of this project's speed, each beside what was measured: read from the JSON files of the benchmarks.

In: those files. Out: a table of goals, measured values and whether they are met; nothing is typed by hand.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import ge, le
from typing import Any

import measuring as m

Document = Mapping[str, Any]
CASES = {"letter": "5-shot letter MMLU", "cloze": "0-shot cloze MMLU"}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One goal.

    Attributes:
        what: in words.
        bound: what is to be reached.
        at_least: whether more is better.
        measured: what came out; None where it was not measured.
        unit: written after the numbers.
        note: what the number rests on.
        style: how numbers are written.
    """

    what: str
    bound: float
    at_least: bool
    measured: float | None
    unit: str = ""
    note: str = ""
    style: str = ".2f"

    @property
    def met(self) -> str:
        """Whether the goal is met, in a word."""
        if self.measured is None:
            return "not measured"
        return "met" if (ge if self.at_least else le)(self.measured, self.bound) else "missed"

    def row(self) -> list[str]:
        """Return the goal as a line of the table."""
        sign = "at least" if self.at_least else "at most"
        seen = "" if self.measured is None else self._number(self.measured)
        return [self.what, f"{sign} {self._number(self.bound)}", seen, self.met, self.note if seen else ""]

    def _number(self, value: float) -> str:
        return f"{value:{self.style}}{self.unit}"


def goals_table(documents: Mapping[str, Document]) -> m.Table:
    """Return all goals; `documents` is part to its JSON file, as far as there is one."""
    goals = [goal for make in _MAKERS for goal in make(documents)]
    heads = ["goal", "wanted", "measured", "", "what it rests on"]
    return m.Table(name="goals", headers=heads, rows=[goal.row() for goal in goals])


def _mmlu(documents: Mapping[str, Document]) -> Iterator[Goal]:
    found = documents.get("mmlu", {}).get("results", {})
    for case, least in (("letter", 5.5), ("cloze", 3.0)):
        one = found.get(case)
        fastest = _fastest_peer(one) if one else None
        yield Goal(
            what=f"{CASES[case]}, bf16: times lm-eval's items/s",
            bound=least,
            at_least=True,
            measured=None if fastest is None else fastest[1],
            unit="x",
            note="" if one is None or fastest is None else f"{_rate(one)}; peer: {fastest[0]}",
        )
    letter = found.get("letter")
    yield Goal(
        what="5-shot letter MMLU: share of the ceiling",
        bound=0.8,
        at_least=True,
        measured=letter["ceiling"]["share"] if letter else None,
        style=".0%",
        note="" if not letter else f"{letter['ceiling']['tokens']:,.0f} unique tokens",
    )
    slow = {name: one["slowdown"][0] for name, one in found.get("recipes", {}).items()}
    worst = max(slow, key=slow.__getitem__, default=None)
    yield Goal(
        what="with a recipe applied: times as slow as unquantized",
        bound=1.6,
        at_least=False,
        measured=slow[worst] if worst else None,
        unit="x",
        note=f"the slowest: {worst}" if worst else "",
    )
    for case in CASES:
        if case in found:
            yield _noise(case, found[case]["parity"]["numbers"])


def _fastest_peer(one: Document) -> tuple[str, float]:
    """Return the faster of the peer's batch sizes and by how much evalkit is faster than that."""
    peers = {name: values for name, values in one["speed"].items() if name != "evalkit"}
    name = max(peers, key=lambda peer: peers[peer]["items_per_s"])
    return name, peers[name]["ratio"][0]


def _rate(one: Document) -> str:
    return f"{one['speed']['evalkit']['items_per_s']:.1f} items/s"


def _noise(case: str, numbers: list[Document]) -> Goal:
    """Return the bf16 flips against lm-eval, bounded by lm-eval's own between two batch sizes."""
    by_ways = {(row["dtype"], row["ways"]): row for row in numbers}
    ours = by_ways[("bf16", "evalkit, lm-eval batch 1")]
    own = by_ways[("bf16", "lm-eval batch 1, lm-eval batch 16")]
    unbatched = by_ways[("bf16", "evalkit, its unbatched plain path")]
    return Goal(
        what=f"{CASES[case]}, bf16: items that flip against lm-eval, and lm-eval's own noise",
        bound=own["flips"] / own["n"],
        at_least=False,
        measured=ours["flips"] / ours["n"],
        style=".1%",
        note=f"{ours['flips']} and {own['flips']} of {ours['n']}; against evalkit's own unbatched path "
        f"{unbatched['flips']} of {unbatched['n']}",
    )


def _parity(documents: Mapping[str, Document]) -> Iterator[Goal]:
    found = documents.get("parity", {}).get("results", {}).get("tasks", {})
    n = sum(one["n"] for one in found.values())
    note = f"{n} items of {', '.join(found)}" if found else ""
    yield Goal(
        what="fp32 parity with lm-eval on 570 items: other choices",
        bound=0,
        at_least=False,
        measured=sum(one["flips"] for one in found.values()) if n >= 570 else None,
        style=".0f",
        note=note,
    )
    yield Goal(
        what="the same: largest difference of a log-probability",
        bound=1e-3,
        at_least=False,
        measured=max(one["largest_nats"] for one in found.values()) if n >= 570 else None,
        unit=" nats",
        style=".2g",
        note=note,
    )


def _generate(documents: Mapping[str, Document]) -> Iterator[Goal]:
    found = documents.get("generate", {}).get("results")
    counts = " and ".join(str(count) for count in found["n_conversations"].values()) if found else ""
    yield Goal(
        what="MT-Bench answers: times one prompt at a time",
        bound=4.0,
        at_least=True,
        measured=found["ratio"][0] if found else None,
        unit="x",
        note=f"tokens/s; {counts} conversations" if found else "",
    )


def _collect(documents: Mapping[str, Document]) -> Iterator[Goal]:
    found = documents.get("collect", {}).get("results")
    worst = max(found["overhead"].values(), key=lambda one: one["share"], default=None) if found else None
    yield Goal(
        what="everything but the forward passes: share of the wall time at 14 items/s",
        bound=0.05,
        at_least=False,
        measured=worst["share"] if worst else None,
        style=".1%",
        note=f"{1000 * worst['seconds_an_item']:.2f} ms an item" if worst else "",
    )
    yield Goal(
        what="memory of a run of 1,000,000 items, above the modules alone",
        bound=1024,
        at_least=False,
        measured=found["grown_mib"] if found and found["n_memory"] >= 10**6 else None,
        unit=" MiB",
        style=",.0f",
        note=f"{found['n_memory']:,} items, collected and resumed" if found else "",
    )


def _store(documents: Mapping[str, Document]) -> Iterator[Goal]:
    rates = documents.get("store", {}).get("results", {}).get("records_per_s")
    yield Goal(
        what="store: records a second, every batch flushed",
        bound=20_000,
        at_least=True,
        measured=rates["append through RunFolder"] if rates else None,
        style=",.0f",
        note="batches of 64" if rates else "",
    )


def _decide(documents: Mapping[str, Document]) -> Iterator[Goal]:
    found = documents.get("decide", {}).get("results")
    for what, limit, words in (
        ("evalkit --help", 0.4, "evalkit --help, cold process"),
        ("evalkit compare", 1.5, "evalkit compare, cold process"),
        ("statistics", 0.3, "statistics of 14,042 items"),
    ):
        value = statistics.median(found["seconds"][what]) if found else None
        note = f"processor time {found['processor_s'][what]:.2f} s" if found else ""
        yield Goal(what=words, bound=limit, at_least=False, measured=value, unit=" s", note=note)


_MAKERS: tuple[Callable[[Mapping[str, Document]], Iterator[Goal]], ...] = (
    _mmlu,
    _parity,
    _generate,
    _collect,
    _store,
    _decide,
)
