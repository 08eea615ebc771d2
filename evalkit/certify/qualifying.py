"""A judge tried on the answers of a run, once, with a file to show for it.

In: a run folder, who judges, votes where there are some. Out: a `Qualification`, and its file.
May not know: which run is the baseline, bars, verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import Any

from evalkit.certify.deciding import QUALIFICATIONS
from evalkit.certify.judging import Bench, Job
from evalkit.collect.qualify import qualify
from evalkit.errors import EvalkitError, UsageError
from evalkit.judging import load_words
from evalkit.judging.plan import Material
from evalkit.judging.probing import probe_questions
from evalkit.judging.votes import vote_questions
from evalkit.ledger import Ledger
from evalkit.policy.judging import JudgeRules
from evalkit.qualification import (
    Qualification,
    check_qualification,
    read_qualification,
    write_qualification,
)
from evalkit.qualification.replay import Votes, replayed_agreement
from evalkit.records import Manifest
from evalkit.store import Run, VerdictStore, read_items, read_manifest, read_records
from evalkit.suite import Panelist

ANSWERS = 30
"""Answers a judge is tried on, each of another question."""


def qualify_judge(
    path: Path,
    task: str,
    judge: Panelist,
    bench: Bench,
    *,
    answers: int = ANSWERS,
    seed: int = 0,
    votes: Votes | None = None,
    rules: JudgeRules | None = None,
) -> Qualification:
    """Try a judge on the answers of one run; that it is tried, and how it went, is on record.

    Raises:
        UsageError: the task is not judged, or no answer fits.
        EvalkitError: the judge could not be loaded or broke; finished verdicts are kept in the judgment store.
    """
    workshop = bench.workshop
    definition = workshop.definitions.task(task)
    if definition.mt_bench is None:
        raise UsageError(f"task '{task}' is of kind '{definition.kind}'; only conversations are judged")
    if bench.store is None:
        raise UsageError("a qualification needs a folder for its verdicts")
    profile = workshop.definitions.judge(judge.profile)
    words = load_words(profile, workshop.assets)
    items, records = read_items(path, task), read_records(path, task)
    engine = bench.engine(judge.engine)
    material = Material.of(items, words, engine.identity, definition.mt_bench.references)
    probes = probe_questions(material, records, answers=answers, seed=seed)
    if votes is not None:
        probes += vote_questions(material, items, votes.pairs)
    source = _source(path, task, answers, seed)
    if workshop.ledger is not None:
        workshop.ledger.append("trial-begun", _trial_of(engine.identity.sha256, words.sha256, source))
    with VerdictStore(bench.store, engine.identity.sha256, words.sha256) as store:
        rows = qualify(
            probes,
            profile,
            engine,
            store=store,
            budget=bench.budget,
            progress=workshop.progress,
            say=workshop.say,
        )
    pairwise = profile.mode == "pairwise"
    found = Qualification(
        judge={**asdict(engine.identity), "sha256": engine.identity.sha256},
        profile=profile.name,
        profile_sha256=words.sha256,
        references_sha256=material.common["references"],
        source=source,
        rows=tuple(rows),
        agreement=None
        if votes is None
        else replayed_agreement(rows, votes.keys, votes.people, votes.gpt4, pairwise=pairwise),
    )
    _record_trial(workshop.ledger, found, rules or JudgeRules())
    return found


def _record_trial(ledger: Ledger | None, found: Qualification, rules: JudgeRules) -> None:
    """Put the result of a trial on record, before anybody sees it; under other bars its file alone can speak."""
    if ledger is None:
        return
    with_people = found.content["agreement"]["judge"] if found.agreement is not None else None
    checks = check_qualification(found.estimates, rules.bars, with_people)
    ledger.append(
        "trial",
        {
            **_trial_of(found.judge["sha256"], found.profile_sha256, found.source),
            "qualification_sha256": found.sha256,
            "complete": not found.estimates.statuses.get("api_error", 0),
            "passed": all(check.passed for check in checks),
            "bars_sha256": rules.bars_sha256,
        },
    )


def _trial_of(judge_sha256: str, profile_sha256: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a trial before its first question."""
    return {
        "judge_sha256": judge_sha256,
        "profile_sha256": profile_sha256,
        "task": source["task"],
        "records_sha256": source["records_sha256"],
        "drawn": [source["answers"], source["seed"]],
    }


def qualify_for_suite(
    path: Path, job: Job, bench: Bench, file: Path, judged: Path, *, answers: int, rules: JudgeRules | None
) -> None:
    """Try a suite's judge on the answers of one run, unless the file of this very trial is there; errors as above.

    Args:
        path: run whose answers the probes are made from.
        job: the judging.
        bench: where the judge sits.
        file: where the first trial is kept; later ones lie beside it.
        judged: a run that the judge has judged under the job's name.
        answers: how many answers the probes are made from.
        rules: of the policy, for judges; None for none.
    """
    current = next((one for one in _trials(file) if _current(path, job, one, judged, answers)), None)
    if current is not None:
        bench.workshop.say(f"{job.judging}: the judge was tried before, {current} reused")
        return
    found = qualify_judge(path, job.task, job.judge, bench, answers=answers, rules=rules)
    written = keep_trial(file, found)
    bench.workshop.say(f"{job.judging}: the judge was tried, written: {written}")


def keep_trial(file: Path, found: Qualification) -> Path:
    """Write a trial beside the earlier ones, whose files stay; return where it is.

    Raises:
        StoreError: it cannot be written.
    """
    numbers = (file.with_name(f"{file.stem}.{n}{file.suffix}") for n in count(2))
    place = next(one for one in chain([file], numbers) if not one.exists() or _holds(one, found))
    write_qualification(place, found)
    return place


def _holds(file: Path, found: Qualification) -> bool:
    try:
        return read_qualification(file).sha256 == found.sha256
    except EvalkitError:
        return False


def _trials(file: Path) -> list[Path]:
    """Return the files of one judging's trials, the newest first."""
    others = [one for one in file.parent.glob("*.json") if re.fullmatch(rf"{re.escape(file.stem)}\.\d+", one.stem)]
    return [*sorted(others, key=lambda one: int(one.stem.rpartition(".")[2]), reverse=True), file]


def qualification_file(outputs: Path, judging: str) -> Path:
    """Return where a suite keeps the trial of one judging."""
    return outputs / QUALIFICATIONS / f"{judging}.json"


def _current(path: Path, job: Job, file: Path, by: Path, answers: int) -> bool:
    """Say whether a file is about the judge that judged a run, and about these answers as they are now."""
    try:
        found, judged = read_qualification(file), read_manifest(by).judges.get(job.judging)
    except EvalkitError:
        return False
    if judged is None:
        return False
    same = (judged.identity.sha256, judged.profile_sha256) == (found.judge.get("sha256"), found.profile_sha256)
    no_reply = found.estimates.statuses.get("api_error", 0)
    return same and not no_reply and dict(found.source) == _source(path, job.task, answers, 0)


def _source(path: Path, task: str, answers: int, seed: int) -> Mapping[str, Any]:
    manifest: Manifest = read_manifest(path)
    run = Run(path=path, manifest=manifest, records={task: read_records(path, task)}, judgments={})
    return {
        "task": task,
        "identity_sha256": manifest.engine.sha256,
        "records_sha256": run.records_sha256(task),
        "answers": answers,
        "seed": seed,
    }
