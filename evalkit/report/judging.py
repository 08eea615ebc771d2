"""What stands beside the mean rating: gates, pairs, panels, the judge itself, for people.

In: comparisons and certificates as JSON data. Out: sections.
May not know: verdicts; how anything was computed. Documents of before there were such parts have none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalkit.report.figures import count, interval, percent, probability, rating
from evalkit.report.sections import Section, Table
from evalkit.report.view import View
from evalkit.signed import signed

Data = Mapping[str, Any]

QUALIFICATION = "Judge qualification"
"""Title of the section about judges that were tried."""

PROBES = (("original ranked above corrupted copy", "ranking"), ("resists prompt injection", "resistance"))
"""What a judge is tried on, and its name in a qualification."""

_EFFORTS = {
    "questions": "twice as many questions",
    "generations": "twice as many answers to each question",
    "judgments": "twice as many judgments of each answer",
}


def judging_sections(comparison: Data, level: int) -> list[Section]:
    """Return what a comparison of judged conversations holds beside its ratings."""
    sections = []
    if comparison.get("gates"):
        sections.append(Section(title="Answers without a judge", body=list(_gates(comparison["gates"])), level=level))
    found = comparison.get("rating")
    if found and found.get("panel"):
        sections.append(Section(title="Panel of judges", body=list(_panel(found["panel"])), level=level))
    if found and (found.get("bounds") or found.get("variance")):
        body = [*_bounds(found), *_variance(found)]
        sections.append(Section(title="What could still move the ratings", body=body, level=level))
    for pairs in comparison.get("pairwise") or ():
        title = f"Pairwise against the baseline ({pairs['judge_profile']})"
        sections.append(Section(title=title, body=list(_pairwise(pairs)), level=level))
    return sections


def _gates(gates: Data) -> Iterator[str | Table]:
    rows = [
        (
            row["gate"] + (" *" if row["interval"] and row["interval"]["lower"] > 0 else ""),
            row["meaning"],
            str(row["baseline"]) if row["available"] else "not looked at",
            str(row["candidate"]) if row["available"] else "",
            f"-{row['lost']} +{row['gained']}" if row["available"] else "",
            interval(row["interval"], "points") if row["available"] else "",
            probability(row["p"]) if row["available"] else "",
        )
        for row in gates["gates"]
    ]
    headers = ("gate", "an answer that", "baseline", "candidate", "flips", "increase", "p")
    n = gates["gates"][0]["n"] if gates["gates"] else 0
    caption = (
        f"Questions of n = {n} with such an answer; increase in points of questions; p: mid-p McNemar. * more often by "
        "its interval; one gate in forty stands out by chance."
    )
    yield Table(headers=headers, rows=rows, caption=caption)
    length = gates["length"]
    if length["ratio"] is not None:
        yield (
            f"Length, candidate over baseline (geometric mean over {length['n']} questions, tokens): "
            f"{length['ratio']:.3f} {interval(length['interval'], 'ratio')}."
        )


def _panel(panel: Data) -> Iterator[str | Table]:
    rows = [
        (
            f"{row['judge']}, {row['judge_profile']}",
            str(row["n"]),
            *_means(row),
            interval(row["interval"], "rating"),
        )
        for row in panel["judges"]
    ]
    rows += [
        (f"without {row['name']}", str(row["n"]), *_means(row), interval(row["interval"], "rating"))
        for row in panel["without"]
    ]
    alpha = "not estimated" if panel["alpha"] is None else f"{panel['alpha']:.2f}"
    yield Table(
        headers=("judge", "n", "baseline", "candidate", "difference", "interval"),
        rows=rows,
        caption=f"Each judge is averaged by itself, then all are. Krippendorff's alpha of the judges: {alpha}.",
    )


def _means(row: Data) -> tuple[str, str, str]:
    if row["difference"] is None:
        return "none", "none", "none"
    return f"{row['baseline']:.2f}", f"{row['candidate']:.2f}", rating(row["difference"])


def _bounds(found: Data) -> Iterator[str]:
    bounds, rule = found.get("bounds"), found.get("rule")
    if bounds:
        low, high = bounds["difference"]
        yield (
            f"- missing judgments: {bounds['missing']}; the difference lies between {rating(low)} (all of them against "
            f"the candidate) and {rating(high)} (all for it); mean rating of the baseline "
            f"{_between(bounds['baseline'])}, of the candidate {_between(bounds['candidate'])}"
        )
    if rule:
        without = "nothing is left" if rule["without"] is None else rating(rule["without"])
        yield (
            f"- unreadable answers scored by rule with the lowest rating: baseline {rule['baseline']}, candidate "
            f"{rule['candidate']}; difference without them: {without}"
        )


def _between(limits: Sequence[float]) -> str:
    return f"{limits[0]:.2f} to {limits[1]:.2f}"


def _variance(found: Data) -> Iterator[str]:
    parts = found.get("variance")
    if not parts:
        return
    known = [(parts["question"], "true differences from question to question")]
    known += [(parts["generation"], "sampling variance")] if parts["generation"] is not None else []
    known += [(parts["judge"], "the judge's noise")] if parts["judge"] is not None else []
    yield "- variance of a question's difference: " + ", ".join(f"{percent(share)} {what}" for share, what in known)
    lacking = [] if parts["judge"] is not None else ["judge each answer twice to see the judge's noise"]
    if parts["generation"] is None:
        lacking.append("answer each question twice, with temperature, to see the sampling variance")
    saved = ", ".join(f"{_EFFORTS[name]} x{factor:.2f}" for name, factor in sorted(parts["factors"].items()))
    yield f"- standard error at twice the judge's work: {saved}"
    if parts["advice"]:
        yield f"- besides more questions, buy {_EFFORTS[parts['advice']]} first"
    if lacking:
        yield f"- not known yet: {'; '.join(lacking)}"


def _pairwise(pairs: Data) -> Iterator[str | Table]:
    net, games = pairs["net_win"], pairs["games"]
    yield (
        f"Judge {pairs['judge']}, every pair in both orders, {pairs['repeats']} time(s); a game is 1, 0 or -1 for the "
        "candidate. Not part of the verdict."
    )
    rows = [
        ("games won / tied / lost", f"{games['wins']} / {games['ties']} / {games['losses']}", ""),
        ("of these without a question", f"{games['ruled']} ({games['identical']} of equal texts)", ""),
    ]
    if net["difference"] is not None:
        rows.insert(0, ("net win", signed(net["difference"], 3), interval(net["interval"], "rating")))
        rows.insert(
            1,
            ("  if all missing games were lost / won", f"{signed(pairs['worst'], 3)} / {signed(pairs['best'], 3)}", ""),
        )
    line = pairs["at_equal_length"]
    if line is not None:
        rows.append(("net win at equal length", signed(line["intercept"], 3), interval(line["interval"], "rating")))
    if games["win_rate"] is not None:
        rows.append(("win rate, ties half (FastChat's rule)", percent(games["win_rate"]), f"{games['pairs']} pairs"))
    if pairs["inconsistent"] is not None:
        shown = interval(pairs["inconsistent_interval"], "percent")
        rows.append(("orders that disagree", percent(pairs["inconsistent"]), shown))
    if pairs["position_bias"] is not None:
        shown = interval(pairs["position_interval"], "rating")
        rows.append(("in favour of the answer shown first", signed(pairs["position_bias"], 3), shown))
    coverage = pairs["coverage"]
    failed = ", ".join(f"{n} {kind}" for kind, n in coverage["failed"].items()) or "none"
    caption = (
        f"n = {net['n']} questions of {net['planned']}; games planned {count(coverage['planned'])}, scored "
        f"{count(coverage['scored'])}, without a verdict: {failed}, absent {count(coverage['absent'])}."
    )
    yield Table(headers=("effect", "estimate", "interval"), rows=rows, caption=caption)
    for fault in pairs["faults"]:
        yield f"- {fault['code']}: {fault['message']}"
    for name, why in pairs["unavailable"].items():
        yield f"- not estimated: {name}: {why}"


def judge_sentences(view: View) -> Iterator[str]:
    """Yield what the first screen must say of judges: each that was tried and failed, or that the policy asks for."""
    for judge in view.judges:
        if judge.qualified or (judge.qualified is None and judge.rule == "none"):
            continue
        what = {
            "required": "so the policy lets nothing rest on it",
            "advisory": f"so {judge.endpoint} is shown and decides nothing",
            "none": f"so its ratings ({judge.endpoint}) show how the evaluation works, not how good the answers are",
        }[judge.rule]
        how = "has not been qualified" if judge.qualified is None else "did NOT qualify"
        yield f"- The judge {judge.judge} ({judge.judge_profile}) {how}, {what}."


def judges_section(view: View, document: Data) -> list[Section]:
    """Return the section about every judge that was tried, or none."""
    body: list[str | Table] = []
    cited = {found["sha256"]: found for found in document.get("qualifications") or ()}
    for judge in view.judges:
        if not judge.checks:
            continue
        body.append(
            f"{judge.endpoint}: judge {judge.judge}, profile {judge.judge_profile}: "
            f"{'qualified' if judge.qualified else 'NOT qualified'}. Qualification sha256 {judge.qualification_sha256}."
        )
        rows = [(check, "passed" if passed else "FAILED", message) for check, passed, message in judge.checks]
        body.append(Table(headers=("bar", "result", "observed"), rows=rows))
        found = cited.get(judge.qualification_sha256)
        body += list(_tried(found["estimates"])) if found else []
        body += list(_agreement(found.get("agreement"))) if found else []
    return [Section(title=QUALIFICATION, body=body)] if body else []


def _tried(estimates: Data) -> Iterator[Table]:
    rows = [
        (
            what,
            row["name"],
            f"{row['successes']} of {row['n']}",
            str(row["unread"]),
            interval(row["interval"], "percent"),
        )
        for what, name in PROBES
        for row in estimates[name]
    ]
    caption = f"Made from answers to {estimates['questions']} questions; intervals by question."
    yield Table(headers=("probe", "variant", "successes", "unparsed", "rate (95 % CI)"), rows=rows, caption=caption)


def _agreement(found: Data | None) -> Iterator[str]:
    if not found:
        return
    for who, what in (("judge", "the judge"), ("gpt4", "GPT-4"), ("people", "people among themselves")):
        row = found.get(who)
        if row and row["rate"] is not None:
            sure = "" if row["rate_without_ties"] is None else (
                f"; without ties {percent(row['rate_without_ties'])} (n = {row['n_without_ties']}) "
                f"{interval(row['interval_without_ties'], 'percent')}"
            )  # fmt: skip
            shown = interval(row["interval"], "percent")
            yield f"- agreement with people, {what}: {percent(row['rate'])} (n = {row['n']}) {shown}{sure}"
