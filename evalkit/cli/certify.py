"""`evalkit certify`: run what a suite still misses, then decide.

In: a suite, or run folders and a policy. Out: `certificate.json`, `report.md`, `report.html`, a table, an exit code.
Must not depend on: how anything is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.cli.invocation import LedgerOptions, definitions_of, into, workshop_of
from evalkit.cli.options import (
    definitions_option,
    execution_of,
    existing_file,
    json_option,
    ledger_at,
    ledger_option,
    on_option,
    out_json,
    out_page,
    quiet_option,
    refuse,
    say,
    url_of,
    verb,
)
from evalkit.cli.remote import opened, read_folder, url_place, with_places, written_path

if TYPE_CHECKING:
    from evalkit.certify.deciding import Certificate, RunSet
    from evalkit.ledger import Ledger
    from evalkit.suite import Suite

OUTPUTS = Path("outputs")
"""Where a certificate goes that names run folders and no folder of its own."""


@dataclass(frozen=True, kw_only=True)
class Options(LedgerOptions):
    """What the command line asks."""

    suite: Path | None
    from_runs: bool
    baseline: Path | None
    candidates: tuple[Path, ...]
    rerun: Path | None
    controls: tuple[Path, ...]
    published: tuple[tuple[str, float, int, str], ...]
    policy: str | None
    judge: str | None
    judge_profile: str | None
    qualifications: tuple[Path, ...]
    post_hoc: bool
    on: str | None
    output: Path | None
    force: bool
    retry_failed: bool
    definitions: Path | None
    quiet: bool
    as_json: bool


@verb(example="evalkit certify examples/cpu-demo.yaml")
@click.argument("suite", required=False, type=existing_file)
@click.option("--from", "from_runs", is_flag=True, help="Decide on the suite's existing runs; load no engine.")
@click.option("--baseline", type=read_folder, help="Without a suite: run folder of the baseline.")
@click.option("--candidate", "candidates", multiple=True, type=read_folder, help="Run folder; may be repeated.")
@click.option("--rerun", type=read_folder, help="Run folder of the baseline's second run.")
@click.option("--control", "controls", multiple=True, type=read_folder, help="Run folder of a broken recipe.")
@click.option(
    "--published",
    multiple=True,
    type=(str, click.FloatRange(0, 1), click.IntRange(min=2), str),
    metavar="ENDPOINT ACCURACY ITEMS SOURCE",
    help="Instead of --baseline: a published accuracy, e.g. mmlu 0.862 14042 'model card'; never certifies.",
)
@click.option("--policy", help="Policy name or file (default: the suite's).")
@click.option("--judge", metavar="ADAPTER:MODEL", help="Judge to use instead of the suite's, such as openai:MODEL.")
@click.option("--judge-profile", help="Judge profile to use instead of the suite's; see: evalkit list judges.")
@click.option(
    "--qualification",
    "qualifications",
    multiple=True,
    type=existing_file,
    help="Without a suite: file that 'evalkit judge qualify' wrote; may be repeated.",
)
@click.option(
    "--post-hoc",
    is_flag=True,
    help="Exploratory analysis: the policy was chosen after the runs, so no verdict is given.",
)
@on_option
@click.option("--output", type=written_path, help="Folder for certificate and report (default: the suite's outputs).")
@click.option("--force", is_flag=True, help="Move an existing certificate of other runs or another policy aside.")
@ledger_option
@click.option("--retry-failed", is_flag=True, help="Retry items whose records are marked failed.")
@definitions_option
@quiet_option
@json_option
@with_places
@into(Options)
def command(options: Options) -> int:
    """Run what is missing of a suite, then decide: CERTIFIED, REJECTED, INCONCLUSIVE or INVALID.

    With --from, or with run folders instead of a suite, nothing is run and no engine is needed. With --published the
    baseline is only a number: that can reject, or stay inconclusive, and never certifies.
    """
    if options.suite is not None and not options.published:
        refuse("a suite names its own runs", "baseline", "candidates", "rerun", "controls", "qualifications")
    if options.suite is None and options.from_runs:
        raise click.UsageError("--from needs a suite; without one name --baseline, --candidate and a --policy")
    if options.suite is None or options.from_runs:
        refuse("it needs a suite that is run; for run folders: evalkit judge", "judge", "judge_profile")
        refuse("it needs a suite that is run; deciding loads no engine", "on", "retry_failed")
    if options.suite is None:
        refuse("run folders are judged by the definitions that they name", "definitions")
    runs: RunSet | None = None
    if options.published:
        certificate, folder, ledger = _by_published(options)
    elif options.suite is not None:
        certificate, folder, runs, ledger = _by_suite(options.suite, options)
    else:
        certificate, folder, runs, ledger = _by_folders(options)
    _write(
        certificate,
        options.output or folder,
        runs,
        ledger,
        force=options.force or options.suite is not None,
        as_json=options.as_json,
    )
    return certificate.exit_code


def _by_suite(file: Path, options: Options) -> tuple[Certificate, Path, RunSet, Ledger]:
    from evalkit.certify.deciding import decide_runs, suite_runs
    from evalkit.certify.recording import recall_before
    from evalkit.planning.endpoint import refuse_impossible
    from evalkit.policy.binding import bind, load_policy
    from evalkit.suite import load_suite

    suite = _judged_by(load_suite(file, place=url_place), options)
    suite = suite.model_copy(update={"outputs": opened(suite.outputs)})
    policy = bind(
        load_policy(options.policy or suite.policy),
        suite.baseline.name,
        [spec.name for spec in suite.candidates],
        [spec.name for spec in suite.controls],
    )
    refuse_impossible(policy.policy, {}, recipes=len(suite.candidates))
    ledger = ledger_at(options.ledger, suite.outputs, options.history)
    if options.from_runs:
        from evalkit.certify.reading import refuse_wrong_runs

        refuse_wrong_runs(suite, definitions_of(options.definitions, suite))
    else:
        _collect(suite, policy, ledger, options)
    runs = suite_runs(suite)
    seen = recall_before(ledger, runs.paths) if _there(runs) else None
    certificate = decide_runs(policy, runs, title=suite.title, post_hoc=options.post_hoc, ledger=seen)
    return certificate, suite.outputs, runs, ledger


def _judged_by(suite: Suite, options: Options) -> Suite:
    """Return the suite with the judge that was asked for on the command line."""
    if not options.judge and not options.judge_profile:
        return suite
    from evalkit.cli.judging_options import named_judge
    from evalkit.suite import JudgeSpec

    before = suite.judge
    profile = options.judge_profile or (before.profile if before is not None else None)
    engine = named_judge(options.judge) if options.judge else (before.engine if before is not None else None)
    if profile is None or engine is None:
        raise click.UsageError("the suite names no judge; give both --judge and --judge-profile")
    changed = {"profile": profile, "engine": engine}
    judge = before.model_copy(update=changed) if before is not None else JudgeSpec(profile=profile, engine=engine)
    return suite.model_copy(update={"judge": judge})


def _there(runs: RunSet) -> bool:
    """Say whether there is a baseline to decide with: a request that is refused leaves no trace."""
    return runs.baseline.exists()


def _collect(suite: Suite, policy: Any, ledger: Ledger, options: Options) -> None:
    from evalkit.certify.collecting import collect_suite

    workshop = workshop_of(
        definitions_of(options.definitions, suite),
        suite,
        quiet=options.quiet,
        execution=execution_of(options.on, None, suite.baseline.name, suite.execution),
        ledger=ledger,
    )
    with workshop:
        collect_suite(suite, policy, workshop, retry_failed=options.retry_failed)


def _by_folders(options: Options) -> tuple[Certificate, Path, RunSet, Ledger]:
    from evalkit.certify.deciding import RunSet, decide_runs
    from evalkit.certify.recording import recall_before
    from evalkit.planning.endpoint import refuse_impossible
    from evalkit.policy.binding import bind, load_policy

    if options.baseline is None or not options.candidates or options.policy is None:
        raise click.UsageError("name a suite, or --baseline, at least one --candidate and a --policy")
    candidates, controls = _named(options.candidates), _named(options.controls)
    policy = bind(load_policy(options.policy), _name(options.baseline), list(candidates), list(controls))
    refuse_impossible(policy.policy, {}, recipes=len(candidates))
    runs = RunSet(
        baseline=options.baseline,
        rerun=options.rerun,
        candidates=candidates,
        controls=controls,
        qualifications=options.qualifications,
    )
    ledger = _ledger_of(options.candidates[0], options)
    seen = recall_before(ledger, runs.paths)
    certificate = decide_runs(policy, runs, post_hoc=options.post_hoc, ledger=seen)
    return certificate, OUTPUTS, runs, ledger


def _ledger_of(run: Path, options: Options) -> Ledger:
    """Return the ledger of a run folder; a run that was only brought down has that of where the certificate goes."""
    return ledger_at(options.ledger, run if url_of(run) is None else options.output or OUTPUTS, options.history)


def _by_published(options: Options) -> tuple[Certificate, Path, Ledger]:
    from evalkit.certify.deciding import decide_published
    from evalkit.comparison.means import PublishedAccuracy
    from evalkit.policy.binding import load_policy

    if options.suite is not None or options.baseline is not None or options.rerun is not None or options.controls:
        raise click.UsageError(
            "--published stands for the baseline: leave out the suite, --baseline, --rerun, --control"
        )
    if len(options.candidates) != 1 or options.policy is None:
        raise click.UsageError("--published needs exactly one --candidate and a --policy")
    published = {
        name: PublishedAccuracy(accuracy=accuracy, items=items, source=source)
        for name, accuracy, items, source in options.published
    }
    if len(published) < len(options.published):
        raise click.UsageError("--published names an endpoint twice")
    (path,) = options.candidates
    certificate = decide_published(load_policy(options.policy), published, path, _name(path))
    return certificate, OUTPUTS, _ledger_of(path, options)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return each run's name and folder; two runs of one name would stand in for one another."""
    found: dict[str, Path] = {}
    for path in paths:
        name = _name(path)
        if name in found:
            raise click.UsageError(f"{found[name]} and {path} are both runs of '{name}'; certify one at a time")
        found[name] = path
    return found


def _name(path: Path) -> str:
    """Return the name a run was made under; of an imported run, its folder's."""
    from evalkit.comparison.runs import label
    from evalkit.store import read_manifest

    return label(read_manifest(path)).name or path.resolve().name


def _write(
    certificate: Certificate, folder: Path, runs: RunSet | None, ledger: Ledger, *, force: bool, as_json: bool
) -> None:
    from evalkit.certify.deciding import write_certificate
    from evalkit.certify.recording import put_aside, record_certificate
    from evalkit.cli.report import THROUGHPUT, find_evidence, read_tables, report_texts
    from evalkit.report.certificate import document_sections
    from evalkit.report.sections import as_text

    put_aside(folder, certificate, force=force, say=say)
    copy = record_certificate(ledger, certificate)
    write_certificate(folder, {"certificate.json": certificate.to_json()})  # first: no report may cost the verdict
    document = dict(certificate.document)
    found = find_evidence(document, _folders(runs))
    reports = report_texts(document, found, read_tables(folder / THROUGHPUT, document))
    write_certificate(folder, {**copy, **reports})
    if as_json:
        out_json(certificate.to_json())
    else:
        out_page(as_text(document_sections(document, evidence=False)))
    say("written: " + ", ".join(str(folder / name) for name in ("certificate.json", *reports)))


def _folders(runs: RunSet | None) -> dict[str, Path]:
    """Return each run's name in the certificate and its folder."""
    if runs is None:
        return {}
    rerun = {"rerun": runs.rerun} if runs.rerun is not None else {}
    return {"baseline": runs.baseline, **rerun, **runs.candidates, **runs.controls}
