"""A certificate, for people.

In: `certificate.json` as data. Out: sections: the verdict in one sentence, the recipe table, why, checks, evidence.
May not know: files; how anything was computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalkit.report.comparison import comparison_sections
from evalkit.report.figures import count, interval, percent, points, probability, rating
from evalkit.report.judging import judge_sentences, judges_section
from evalkit.report.sections import Section, Table
from evalkit.signed import signed

Data = Mapping[str, Any]

MEANING = {
    "CERTIFIED": "a loss beyond the margin is ruled out",
    "REJECTED": "a loss beyond the margin is shown",
    "INCONCLUSIVE": "the data are sound but do not decide",
    "INVALID": "the data may not be judged",
}


def certificate_sections(certificate: Data, *, evidence: bool = True) -> list[Section]:
    """Return the sections of a certificate.

    Args:
        certificate: the document.
        evidence: include every comparison and the provenance, not only the first screen.
    """
    decision = certificate["decision"]
    title = certificate["title"] or f"Certificate under policy {decision['policy']}"
    if decision["exploratory"]:
        title = f"EXPLORATORY: {title}"
    sections = [
        Section(title=title, level=1, body=[*_sentences(certificate), _recipes(certificate), *_not_said(certificate)]),
        Section(title="Why", body=list(_reasons(decision))),
        Section(title="Could this evaluation have seen a loss?", body=list(_checks(decision["assay"]))),
        *judges_section(certificate),
    ]
    if not evidence:
        return sections
    for name, comparisons in _in_order(certificate):
        sections.append(Section(title=f"Evidence: {name}", body=[]))
        for endpoint, comparison in comparisons.items():
            sections.append(Section(title=f"Endpoint {endpoint}", body=[], level=3))
            sections += comparison_sections(comparison, level=4)
    sections += [_tests(decision), _provenance(certificate), _policy(certificate)]
    return sections


def _sentences(certificate: Data) -> Iterator[str]:
    decision, baseline = certificate["decision"], certificate["runs"]["baseline"]
    engine = baseline["engine"]
    for verdict in decision["verdicts"]:
        claim = f" ({verdict['claim']})" if verdict["claim"] else ""
        would = f" (would be {verdict['would_be']})" if verdict.get("would_be") else ""
        yield f"- {verdict['recipe']}: {verdict['outcome']}{claim}{would}: {MEANING[verdict['outcome']]}."
    yield from caution_lines(decision)
    gating = ", ".join(decision["gating"]) or "no endpoint"
    yield (
        f"Baseline: {engine['model']}, recipe {engine['recipe']}, fidelity {engine['fidelity']}{_on(engine)}. "
        f"Decided on {gating} by policy '{decision['policy']}' "
        f"(tier {certificate['policy']['document']['tier']}), {when_fixed(certificate)}: "
        f"sha256 {decision['policy_sha256']}."
    )


def _on(engine: Data) -> str:
    """Name the processor, whose rounding accuracies depend on; nothing for GPUs and where nobody says."""
    found = engine.get("processor")
    return f", computed on {found.get('name')} ({found.get('instructions')})" if isinstance(found, Mapping) else ""


def caution_lines(decision: Data) -> Iterator[str]:
    """Yield what weakens the verdicts without changing one: of all recipes first, then recipe by recipe."""
    for caution in decision.get("cautions") or ():
        yield f"- CAUTION, {caution['code']}: {caution['message']}"
    for verdict in decision["verdicts"]:
        for caution in verdict.get("cautions") or ():
            yield f"- CAUTION for {verdict['recipe']}, {caution['code']}: {caution['message']}"


def when_fixed(certificate: Data) -> str:
    """Say when the policy was chosen, as far as the ledger and the runs show it."""
    decision = certificate["decision"]
    codes = {reason["code"] for verdict in decision["verdicts"] for reason in verdict["reasons"]}
    if decision["exploratory"]:
        return "which was chosen after the runs began"
    if codes & {"policy-missing", "policy-changed", "not-run"}:
        return "which is not on record for every run"
    shown = (certificate.get("ledger") or {}).get("policy") or {}
    entry = f"ledger entry {shown.get('sequence')}"
    how = f"sealed before these runs ({entry})" if shown.get("sealed") else "cited by the candidate's run"
    if shown.get("state") == "fixed":
        return f"which was fixed before the runs ({'sealed, ' * bool(shown.get('sealed'))}{entry})"
    if shown.get("state") == "changed":
        return f"which is {how}; earlier runs of these weights, under another policy or none, are on record"
    why = "the ledger began with them" if shown.get("state") == "began" else "no ledger"
    return f"which is {how}; earlier runs cannot be excluded ({why})"


def _main_endpoint(certificate: Data) -> str | None:
    endpoints, gating = certificate["policy"]["document"]["endpoints"], certificate["decision"]["gating"]
    names = [name for name, endpoint in endpoints.items() if endpoint["kind"] == "paired_proportion"]
    return min(names, key=lambda name: name not in gating, default=None)


def _in_order(certificate: Data) -> list[tuple[str, Data]]:
    """Return the comparisons: recipes, then the baseline's rerun, then controls."""
    release, found = certificate["policy"]["document"]["release"], certificate["comparisons"]
    names = [*release["recipes"], "rerun", *release["controls"]]
    return [(name, found[name]) for name in [*names, *sorted(set(found) - set(names))] if name in found]


def _recipes(certificate: Data) -> Table:
    outcomes = {verdict["recipe"]: verdict for verdict in certificate["decision"]["verdicts"]}
    name = _main_endpoint(certificate)
    rows = [
        _recipe_row(recipe, outcomes.get(recipe), certificate, found, name) for recipe, found in _in_order(certificate)
    ]
    missing = [recipe for recipe in outcomes if recipe not in certificate["comparisons"]]
    rows += [(recipe, "not run", "", "", "", "", "", outcomes[recipe]["outcome"]) for recipe in missing]
    headers = ("run", "n", "accuracy, baseline -> candidate", "difference", "flips", "ratings", "fidelity", "verdict")
    return Table(headers=headers, rows=rows, caption=_caption(certificate, name))


def _caption(certificate: Data, name: str | None) -> str:
    endpoints = certificate["policy"]["document"]["endpoints"]
    parts = [_accuracy_caption(certificate, name, endpoints[name])] if name is not None else ["No accuracy endpoint."]
    parts += [
        f"Ratings: task {endpoint['task']}, protocol {endpoint['protocol']}; mean difference on the judge's scale with "
        f"its interval over n questions; margin {endpoint['margin']:g} at one-sided alpha {endpoint['alpha']:g}"
        f"{'' if key in certificate['decision']['gating'] else ', not gating'}."
        for key, endpoint in endpoints.items()
        if endpoint["kind"] == "paired_mean"
    ]
    return " ".join(parts)


def _accuracy_caption(certificate: Data, name: str, endpoint: Data) -> str:
    found = next((c[name] for c in certificate["comparisons"].values() if name in c), None)
    chance = found["task_run"]["chance"] if found and found["task_run"] else None
    against = f", chance {percent(chance)}" if chance is not None else ""
    margins = " and ".join(f"{margin:g}" for margin in endpoint["margins_points"])
    return (
        f"Accuracy: task {endpoint['task']}, protocol {endpoint['protocol']}, metric {endpoint['metric']}; "
        f"n: paired items{against}; difference in points with its 95 % Tango interval; margin {margins} points at "
        f"one-sided alpha {endpoint['alpha']:g}. "
        "Flips: items only the baseline (-) or only the candidate (+) has right."
    )


def _recipe_row(recipe: str, verdict: Data | None, certificate: Data, found: Data, name: str | None) -> tuple[str, ...]:
    comparison = found.get(name) if name else None
    effects = ((comparison or {}).get("proportion") or {}).get("effects")
    cells = ["0", "not measured", "", ""]
    if comparison and effects:
        table = comparison["proportion"]["observed"]
        cells = [
            count(effects["n"]),
            f"{percent(effects['baseline_accuracy'])} -> {percent(effects['candidate_accuracy'])}",
            f"{points(effects['difference'])} {_limits(effects['interval'])}",
            f"-{table['n10']} +{table['n01']} ({percent(effects['flips']['rate'])})",
        ]
    rated = next((c["rating"]["mean"] for c in found.values() if c["rating"] is not None), None)
    ratings = ""
    if rated and rated["difference"] is not None:
        ratings = f"{rating(rated['difference'])} {interval(rated['interval'], 'rating')}, n = {rated['n']}"
    fidelity = next((c["candidate"]["fidelity"] for c in found.values()), "")
    controls = certificate["policy"]["document"]["release"]["controls"]
    role = "baseline again" if recipe == "rerun" else "broken on purpose" if recipe in controls else ""
    return (recipe, *cells, ratings, fidelity, verdict["outcome"] if verdict else f"({role})")


def _limits(found: Data) -> str:
    return f"[{signed(100 * found['lower'])}, {signed(100 * found['upper'])}]"


def _not_said(certificate: Data) -> Iterator[str]:
    yield "What this does not say:"
    yield "- It speaks for its endpoints alone: no other task, language, length or load was measured."
    fidelities = sorted({run["engine"]["fidelity"] for run in certificate["runs"].values()})
    if "simulated" in fidelities:
        yield "- Fidelity 'simulated': quantization was computed in PyTorch; an engine's kernels need their own run."
    if certificate["policy"]["document"]["tier"] != "release":
        yield f"- The policy is of tier '{certificate['policy']['document']['tier']}': it is no release sign-off."
    yield from judge_sentences(certificate)
    yield "- 'No significant difference' is never a reason here: only a loss that is ruled out certifies."


def _reasons(decision: Data) -> Iterator[str]:
    for verdict in decision["verdicts"]:
        yield f"{verdict['recipe']}: {verdict['outcome']}" + (f", {verdict['claim']}" if verdict["claim"] else "")
        for reason in verdict["reasons"]:
            yield f"- {reason['code']}: {reason['message']}"
        for sentence in verdict["resolve"]:
            yield f"- what would resolve it: {sentence}"
        for note in verdict["notes"]:
            yield f"- note: {note}"
        for guard in verdict["guards"]:
            if guard["breached"]:
                yield f"- guard {guard['guard']} on {guard['endpoint']}: {guard['message']}"


def _checks(assay: Data) -> Iterator[str | Table]:
    words = {True: "passed", False: "FAILED", None: "not made"}
    rows = [
        (
            check["check"],
            " ".join(filter(None, (check["run"], check["endpoint"]))),
            words[check["passed"]],
            check["message"],
        )
        for check in assay["checks"]
    ]
    yield Table(headers=("check", "on", "result", "seen"), rows=rows)
    for floor in assay["noise"]:
        where = f"- noise floor of {floor['endpoint']}"
        if floor["discordance"] is not None:
            yield f"{where}: {percent(floor['discordance'], 2)} of items flip with no change"
        elif floor["sd"] is not None:
            yield f"{where}: SD {floor['sd']:.2f} of a question's difference with no change"
    for note in assay["notes"]:
        yield f"- {note}"


def _tests(decision: Data) -> Section:
    rows = []
    for verdict in decision["verdicts"]:
        for result in verdict["endpoints"]:
            rows += list(_steps(verdict["recipe"], result))
    headers = ("recipe", "endpoint", "claim", "margin", "statistic", "p certify", "p reject", "state")
    caption = "One-sided p-values; missing values are filled against the claim. "
    caption += "; ".join(f"{v['recipe']}: p after Holm {probability(v['holm_p'])}" for v in decision["verdicts"])
    return Section(title="Tests", body=[Table(headers=headers, rows=rows, caption=caption)])


def _steps(recipe: str, result: Data) -> Iterator[Sequence[str]]:
    for step in result["steps"][: result["own_margins"]]:
        margin = f"{step['margin']:g}" if result["unit"] == "rating" else f"{100 * step['margin']:g} points"
        gating = "" if result["role"]["gating"] else " (not gating)"
        yield (
            recipe,
            result["name"] + gating,
            step["claim"],
            margin,
            f"{step['statistic']:.3f} > {step['critical']:.3f}?",
            probability(step["p_certify"]),
            probability(step["p_reject"]),
            step["state"],
        )


def _provenance(certificate: Data) -> Section:
    rows = []
    for name, run in certificate["runs"].items():
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
        for name, run in certificate["runs"].items()
        for what in ("records", "judgments")
        for task, sha in run[f"{what}_sha256"].items()
    ]
    digests += [
        f"- judge of {name}, {task}: {judge['identity']['model']}, profile {judge['profile']}: sha256 "
        f"{judge['profile_sha256']}"
        for name, run in certificate["runs"].items()
        for task, judge in run["judges"].items()
    ]
    return Section(title="Provenance", body=[Table(headers=headers, rows=rows), *digests])


def _policy(certificate: Data) -> Section:
    document = certificate["policy"]["document"]
    rows = []
    for name, endpoint in document["endpoints"].items():
        margin = endpoint.get("margin") or ", ".join(f"{m:g} points" for m in endpoint.get("margins_points", ()))
        rows.append(
            (name, endpoint["kind"], endpoint["task"], endpoint["protocol"], str(margin), f"{endpoint['alpha']:g}")
        )
    headers = ("endpoint", "kind", "task", "protocol", "margin", "alpha")
    release = document["release"]
    family = (
        f"Family of Holm's correction: {', '.join(release['recipes'])}; controls: {', '.join(release['controls'])}."
    )
    return Section(
        title=f"Policy {document['name']}", body=[document["title"], Table(headers=headers, rows=rows), family]
    )
