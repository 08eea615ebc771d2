"""A certificate, for people: the sections that text, Markdown and HTML share.

In: `certificate.json` as data. Out: sections: verdict, cautions, every endpoint's row, why, checks, evidence.
Must not depend on: files; how anything was computed. All that was decided comes from the `View`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.report.comparison import comparison_sections, judge_sentences, judges_section
from evalkit.report.document import Document, certificate_view, checked
from evalkit.report.sections import Section, Table, count, interval, percent, points, probability
from evalkit.report.view import EndpointRow, VerdictRow, View, listed

# A run against published numbers, for people: loud about what it cannot say.


Data = Mapping[str, Any]


def unpaired_sections(data: Data) -> list[Section]:
    """Return the sections of a run against published numbers: outcome, numbers, why, what is missing."""
    document = checked(data)
    decision = document["decision"]
    title = document["title"] or f"{decision['recipe']} against published numbers"
    return [
        Section(title=f"UNPAIRED: {title}", level=1, body=[*_sentences(document), _results(decision)]),
        Section(title="Why", body=[f"- {reason['code']}: {reason['message']}" for reason in decision["reasons"]]),
        Section(title="Next step", body=list(_next(decision))),
    ]


def _sentences(document: Data) -> Iterator[str]:
    decision = document["decision"]
    engine = document["runs"][decision["recipe"]]["engine"]
    yield f"- {decision['recipe']}: {decision['outcome']}. This is no certificate and cannot become one."
    yield (
        f"Candidate: {engine['model']}, recipe {engine['recipe']}, fidelity {engine['fidelity']}. Margins of policy "
        f"'{decision['policy']}'. The baseline is a published number: no answer is paired, and a difference in "
        "prompts, marking or items hides in every figure below."
    )


def _results(decision: Data) -> Table:
    rows = []
    for found in decision["results"]:
        comparison, published = found["comparison"], found["comparison"]["published"]
        scored = f"{count(comparison['coverage']['scored'])} of {count(comparison['coverage']['planned'])}"
        rows.append(
            (
                f"{found['endpoint']} ({comparison['task']}, {comparison['metric']})",
                f"{percent(published['accuracy'], 2)} (n = {count(published['items'])}; {published['source']})",
                f"{percent(comparison['candidate_accuracy'], 2)} (n = {scored})",
                f"{points(comparison['difference'])} {interval(comparison['interval'], 'points')}",
                f"{100 * found['margin']:g} points",
                found["state"],
            )
        )
    headers = ("endpoint", "published", "candidate", "difference, unpaired", "margin", "state")
    caption = (
        "Difference: candidate minus published. FAIL: the interval's upper limit at level 1 - 2 alpha is below the "
        "margin even if every missing answer were right; otherwise OPEN. There is no PASS."
    )
    return Table(headers=headers, rows=rows, caption=caption)


def _next(decision: Data) -> Iterator[str]:
    if decision["not_compared"]:
        yield f"- not compared, for want of a published number: {', '.join(decision['not_compared'])}"
    yield "- run the official baseline on the same items and certify on the two runs"


ASSAY = "Assay sensitivity"
"""Title of the section about the checks of the evaluation itself."""


def document_sections(document: Data, *, evidence: bool = True) -> list[Section]:
    """Return the sections of what `certificate.json` holds: a certificate, or a run against published numbers."""
    data = checked(document)
    view = certificate_view(data)
    return certificate_sections(data, view, evidence=evidence) if view.paired else unpaired_sections(data)


def certificate_sections(document: Data, view: View | None = None, *, evidence: bool = True) -> list[Section]:
    """Return the sections of a certificate.

    Args:
        document: what `certificate.json` holds.
        view: its view, if it was built already.
        evidence: include every comparison and the provenance, not only the first screen.

    Raises:
        DataError: the document is incomplete or damaged; names the key.
    """
    data = checked(document)
    shown = view or certificate_view(data)
    sections = [
        Section(
            title=report_title(shown),
            level=1,
            body=[*_first_lines(shown), endpoint_table(shown), "What this does not say:", *not_said(shown)],
        ),
        Section(title="Why", body=[line for verdict in shown.verdicts for line in _why(verdict)]),
        Section(title=ASSAY, body=list(_checks(shown))),
        *judges_section(shown, data),
    ]
    if not evidence:
        return sections
    for name in _in_order(data, shown):
        sections.append(Section(title=f"Evidence: {name}", body=[]))
        for endpoint, comparison in data["comparisons"][name].items():
            sections.append(Section(title=f"Endpoint {endpoint}", body=[], level=3))
            sections += comparison_sections(comparison, level=4)
    return [*sections, _tests(shown), _provenance(data), _policy(shown)]


def report_title(view: View) -> str:
    """Return the title of a report; an exploratory one says there what the data would give."""
    title = view.title or f"Certificate under policy {view.policy.name}"
    if not view.exploratory:
        return title
    would = view.headline.partition(": ")[2]
    return f"EXPLORATORY: {would}. {title}"


def tested_sentence(view: View) -> str:
    """Return what was compared with what, on what."""
    baseline = next(run for run in view.runs if run.name == "baseline")
    fidelities = listed(sorted({run.fidelity for run in view.runs}))
    recipes = f"{len(view.verdicts)} quantized recipe{'s' if len(view.verdicts) != 1 else ''}"
    return (
        f"{recipes} (fidelity {fidelities}) of {baseline.model}, compared answer by answer with the baseline "
        f"'{view.policy.baseline}' (recipe {baseline.recipe}) on {listed(_tested_on(view))}."
    )


def _tested_on(view: View) -> list[str]:
    told: dict[str, str] = {}
    for row in view.rows:
        unit = "questions" if row.kind == "paired_mean" else "items"
        size = f", {count(row.planned)} {unit}" if row.planned else ""
        decides = "" if row.gating else f", {row.decides_text}" if row.part_of else ", for information only"
        if row.endpoint not in told or size:
            told[row.endpoint] = f"{row.task} ({row.protocol}{size}{decides})"
    return list(told.values())


def meaning_sentence(view: View) -> str:
    """Return what "certified" claims under this policy."""
    losses = [
        f"{row.margin_words(row.margins[0].margin)}{' of accuracy' if row.unit == 'points' else ''} ({row.endpoint})"
        for row in _deciding(view)
    ]
    if not losses:
        return "No endpoint takes part in the verdict."
    return f"Certified means that a true loss of {', or of '.join(losses)} is ruled out."


def certainty_sentence(view: View) -> str:
    """Return how sure a certificate is: the largest chance of a false one, for one recipe and for all together."""
    risks = [f"{percent(row.alpha)} ({row.endpoint})" for row in _deciding(view)]
    if not risks:
        return "Nothing is claimed."
    family, recipes = view.policy.family_alpha, len(view.policy.recipes)
    several = recipes > 1 and family is not None
    over = f"; over all {recipes} recipes together at most {percent(family or 0.0)}" if several else ""
    return f"How sure: a recipe with such a loss would be certified with a chance of at most {listed(risks)}{over}."


def _deciding(view: View) -> list[EndpointRow]:
    """Return one row for each endpoint that decides."""
    return list({row.endpoint: row for row in view.rows if row.gating}.values())


def _first_lines(view: View) -> Iterator[str]:
    yield from (f"- {line}" for line in (*view.verdict_lines, *view.caution_lines))
    baseline = next(run for run in view.runs if run.name == "baseline")
    yield (
        f"Baseline: {baseline.model}, recipe {baseline.recipe}, fidelity {baseline.fidelity}"
        f"{f', computed on {baseline.processor}' if baseline.processor else ''}. "
        f"Decided on {', '.join(view.gating) or 'no endpoint'} by policy '{view.policy.name}' "
        f"(tier {view.policy.tier}), {view.policy.timing}: sha256 {view.policy.sha256}."
    )
    if view.policy.tolerances:
        yield f"The policy tolerates that the two runs differ in: {', '.join(view.policy.tolerances)}."


def endpoint_table(view: View) -> Table:
    """Return the table of the first screen: one row for every endpoint of every recipe, then the reference runs."""
    fidelity = {run.name: run.fidelity for run in view.runs}
    rows = [
        (*_cells(row), fidelity.get(row.run, "not run"), verdict.said if at == 0 else "")
        for verdict in view.verdicts
        for at, row in enumerate(verdict.endpoints)
    ]
    rows += [
        (verdict.recipe, *[""] * 9, fidelity.get(verdict.recipe, "not run"), verdict.said)
        for verdict in view.verdicts
        if not verdict.endpoints
    ]
    rows += [(*_cells(row), fidelity.get(row.run, ""), f"({row.role})") for row in view.references]
    headers = ("run", "endpoint", "n", "baseline -> candidate", "difference", "interval", "margin", "alpha", "flips")
    return Table(headers=(*headers, "state", "fidelity", "verdict"), rows=rows, caption=caption(view))


def _cells(row: EndpointRow) -> tuple[str, ...]:
    return (
        row.run,
        row.endpoint,
        row.n_text,
        row.levels_text,
        row.difference_text,
        row.interval_text,
        row.margin_text,
        row.alpha_text,
        row.flips_text,
        row.state_text,
    )


def caption(view: View) -> str:
    """Say what the numbers of the table are."""
    if not view.rows:
        return "The policy names no endpoint."
    told: dict[str, str] = {}
    for row in view.rows:
        advisory = "" if row.gating else f", {row.decides_text}"
        advisory += "" if row.gating or row.part_of else ": it decides nothing"
        told.setdefault(
            row.endpoint,
            f"{row.endpoint}: task {row.task}, protocol {row.protocol}, metric {row.metric}{_chance(row)}, "
            f"margin {row.margin_text} at one-sided alpha {row.alpha_text}, {row.direction_text}{advisory}.",
        )
    first = (
        "n: pairs with a result on both sides. Difference: candidate minus baseline. Interval: at the decision's own "
        "level, 1 - 2 alpha (right or wrong: Tango's; means: Student's t). Flips: items only the baseline (-) or only "
        "the candidate (+) has right."
    )
    return " ".join((first, *told.values()))


def _chance(row: EndpointRow) -> str:
    return f", chance {percent(row.chance)}" if row.chance is not None else ""


def not_said(view: View) -> Iterator[str]:
    """Yield what nobody may read into the report."""
    yield "- It speaks for its endpoints alone: no other task, language, length or load was measured."
    if any(run.fidelity == "simulated" for run in view.runs):
        yield "- Fidelity 'simulated': quantization was computed in PyTorch; an engine's kernels need their own run."
    if view.policy.tier != "release":
        yield f"- The policy is of tier '{view.policy.tier}': it is no release sign-off."
    yield from judge_sentences(view)
    yield "- 'No significant difference' is never a reason here: only a loss that is ruled out certifies."


def _why(verdict: VerdictRow) -> Iterator[str]:
    yield f"{verdict.recipe}: {verdict.said}"
    yield from (f"- {reason.code}: {reason.message}" for reason in verdict.reasons)
    yield from (f"- {row.endpoint} {row.state_text}: {row.summary}{_at_95(row)}" for row in verdict.deciding)
    yield from (f"- what would resolve it: {sentence}" for sentence in verdict.resolve)
    yield from (f"- note: {note}" for note in verdict.notes)
    yield from (
        f"- guard {guard.guard} on {guard.endpoint}: {guard.message}" for guard in verdict.guards if guard.breached
    )


def _at_95(row: EndpointRow) -> str:
    """Return the 95 % interval where the decision is made at another level."""
    same = row.interval is not None and abs(row.interval.level - 0.95) < 1e-9
    return "" if same or row.interval_95 is None else f"; at 95 %: {row.interval_95_text}"


def _checks(view: View) -> Iterator[str | Table]:
    rows = [
        (check.check, check.target, check.result + ("" if check.required else " (not required)"), check.message)
        for check in view.checks
    ]
    yield Table(headers=("check", "target", "result", "observed"), rows=rows)
    yield from (f"- {note}" for note in view.assay_notes)


def _tests(view: View) -> Section:
    rows = [
        (
            verdict.recipe,
            row.endpoint + ("" if row.gating else f" ({row.decides_text})"),
            step.claim,
            row.margin_words(step.margin),
            f"{step.statistic:.3f} > {step.critical:.3f}?",
            probability(step.p_certify),
            probability(step.p_reject),
            step.state.value,
        )
        for verdict in view.verdicts
        for row in verdict.endpoints
        for step in row.margins
        if step.state is not None
        and step.statistic is not None
        and step.critical is not None
        and step.p_certify is not None
        and step.p_reject is not None
    ]
    headers = ("recipe", "endpoint", "claim", "margin", "statistic", "p certify", "p reject", "state")
    caption = "One-sided p-values; missing values are filled against the claim. "
    caption += "; ".join(
        f"{v.recipe}: p after Holm {probability(v.holm_p)}" for v in view.verdicts if v.holm_p is not None
    )
    return Section(title="Tests", body=[Table(headers=headers, rows=rows, caption=caption)])


def _policy(view: View) -> Section:
    told = {row.endpoint: row for row in view.rows}
    rows = [
        (name, row.kind, row.task, row.protocol, row.margin_text, row.alpha_text, "yes" if row.gating else "no")
        for name, row in told.items()
    ]
    headers = ("endpoint", "kind", "task", "protocol", "margin", "alpha", "gating")
    policy = view.policy
    return Section(
        title=f"Policy {policy.name}",
        body=[
            policy.title,
            Table(headers=headers, rows=rows),
            f"Family of Holm's correction: {', '.join(policy.recipes)}; controls: {', '.join(policy.controls)}.",
            f"Claims: {', '.join(policy.claims)}. Tolerated differences: {', '.join(policy.tolerances) or 'none'}.",
        ],
    )


def _in_order(document: Document, view: View) -> list[str]:
    """Return the names of the comparisons: recipes, then the baseline's rerun, then controls."""
    found = document["comparisons"]
    names = [*view.policy.recipes, "rerun", *view.policy.controls]
    return [name for name in [*names, *sorted(set(found) - set(names))] if name in found]


def _provenance(document: Document) -> Section:
    rows = []
    for name, run in document["runs"].items():
        engine = run["engine"]
        versions = ", ".join(f"{package} {version}" for package, version in engine["versions"].items())
        quantized = engine["quantization"]
        rows.append(
            (
                name,
                f"{engine['model']} ({engine['dtype']})",
                f"{engine['recipe']} {(engine['recipe_sha256'] or '')[:12]}",
                f"{quantized.get('algorithm', 'unknown')}, KV {quantized.get('kv_cache', 'unknown')}",
                f"{engine['device']}; {versions}",
                run["identity_sha256"][:12],
            )
        )
    headers = ("run", "model", "recipe", "read back", "ran on", "identity")
    digests = [
        f"- {what} of {name}, {task}: sha256 {sha}"
        for name, run in document["runs"].items()
        for what in ("records", "judgments")
        for task, sha in run[f"{what}_sha256"].items()
    ]
    digests += [
        f"- judge of {name}, {task}: {judge['identity']['model']}, profile {judge['profile']}: sha256 "
        f"{judge['profile_sha256']}"
        for name, run in document["runs"].items()
        for task, judge in run["judges"].items()
    ]
    return Section(title="Provenance", body=[Table(headers=headers, rows=rows), *digests])
