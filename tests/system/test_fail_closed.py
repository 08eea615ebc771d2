"""What goes wrong never certifies: run folders in every bad state, through the program, with its exit codes.

`ROWS` is the table that people read; each sentence has a scene below it that makes the folders and the command.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit import cli
from evalkit.errors import ExitCode
from evalkit.records import Item, content_digest, digest, text_digest
from evalkit.store import RunFolder
from evalkit.verdict import REASONS

REFUSED = "refused"
"""No certificate is written: the request is wrong or a folder cannot be read, and stderr says why."""

ROWS: dict[str, tuple[int, str]] = {
    # What may pass, and what is seen: without these rows the table could not fail in the other direction.
    "An equal recipe, with a rerun of the baseline and a control that fails, is certified.": (0, ""),
    "An equal recipe on all 14,042 items is certified.": (0, ""),
    "An equal recipe on judged conversations is certified.": (0, ""),
    "Three of 600 answers are missing, no more than the policy allows, and the rest is equal.": (0, ""),
    "The recipe lost ten points.": (1, "endpoint-fail"),
    "The recipe lost ten points and three of its answers are missing.": (1, "endpoint-fail"),
    "The recipe lost two rating points.": (1, "endpoint-fail"),
    # Sound data that do not decide.
    "The recipe lost about as much as the margin.": (3, "endpoint-open"),
    "The recipe is better than a quantized model can be.": (3, "guard:implausible-gain"),
    "The recipe's answers are half as long again.": (3, "guard:length"),
    "The policy was chosen after the runs.": (3, "exploratory"),
    "The policy only watches.": (3, "not-certifying"),
    # Folders that hold nothing, or not what they should.
    "All run folders are empty.": (2, REFUSED),
    "The candidate's folder has records but no manifest.": (2, REFUSED),
    "The candidate's manifest is cut off.": (4, REFUSED),
    "The candidate's record file is cut off in the middle of its last line.": (4, REFUSED),
    "A line of the candidate's record file is garbage.": (4, REFUSED),
    "Two lines of the candidate's record file have the same key.": (4, REFUSED),
    "A line of the candidate's record file holds NaN for a log-probability.": (4, REFUSED),
    "The candidate's folder holds records of a task its manifest does not know.": (4, REFUSED),
    # Too little.
    "The candidate has 200 of 14,042 items.": (4, "coverage"),
    "The candidate was asked 200 items on purpose.": (4, "not-comparable"),
    "Both runs have 200 items where the policy wants 600.": (4, "coverage"),
    "Only five items are paired.": (2, REFUSED),
    "Forty judged questions, and a policy that assumes nothing about rare collapses.": (2, REFUSED),
    "A mean would decide, and nobody declared how low its scores can be.": (4, "no-range"),
    "The candidate's run was stopped before its end.": (4, "coverage"),
    "Four of 600 answers are missing, more than the policy allows.": (4, "coverage"),
    "All requests to the candidate failed.": (4, "coverage"),
    "All requests to the baseline failed.": (4, "coverage"),
    "The judge never gave a rating that can be read.": (4, "coverage"),
    "The answers were never judged.": (4, "coverage"),
    # Items that are not what they look like.
    "75 questions are put eight times each, under other subjects and numbers.": (4, "repeated-items"),
    "The policy's cluster is a field that items do not have.": (4, "no-cluster"),
    "600 items are 40 passages, and the policy says so.": (4, "too-few"),
    "Answers to items of one passage flip together, and the policy names no cluster.": (3, "guard:design-effect"),
    "Nobody says whether more or less of the metric is better.": (4, "no-direction"),
    "Less of the metric is better, and the recipe has more.": (1, "endpoint-fail"),
    "The policy names no endpoint.": (4, "no-endpoint"),
    "No endpoint of the policy is gating.": (4, "no-endpoint"),
    "The policy's task was not run.": (4, "coverage"),
    "The policy's metric was not recorded.": (4, "coverage"),
    "The recipe was not run.": (4, "not-run"),
    # Runs that may not be compared.
    "The task definitions of the two runs differ.": (4, "not-comparable"),
    "One prompt differs.": (4, "not-comparable"),
    "The tokenizers differ.": (4, "not-comparable"),
    "One run is simulated, the other on real kernels.": (4, "not-comparable"),
    "The two runs were computed on different processors.": (4, "not-comparable"),
    "The policy wants another protocol than the runs have.": (4, "not-comparable"),
    "The two runs were judged by different judges.": (4, "not-comparable"),
    "One item is of another set.": (4, "pairing"),
    "An engine gave a number that is not finite.": (4, "non-finite"),
    # The wrong run in the wrong place.
    "The baseline's engine was run again under the candidate's name.": (4, "same-model"),
    "All replies of the candidate are those of the baseline.": (4, "same-model"),
    "All ratings differ from the baseline's by the same amount.": (4, "zero-variance"),
    "Baseline and candidate are swapped on the command line.": (4, "policy-missing"),
    "The folders of baseline and candidate are swapped on disk.": (4, "wrong-run"),
    "The rerun is the baseline's own folder.": (2, REFUSED),
    "The rerun is a run of the candidate's recipe.": (4, "assay-failed"),
    "Two candidates have the same name.": (2, REFUSED),
    # The policy.
    "The policy was edited after the candidate's run began.": (4, "policy-changed"),
    "The candidate was run without a policy.": (4, "policy-missing"),
    "No policy is named.": (2, REFUSED),
    "The policy file has a misspelt key.": (2, REFUSED),
    # The evaluation itself.
    "The policy requires a rerun of the baseline and there is none.": (4, "assay-missing"),
    "The policy requires a control and there is none.": (4, "assay-missing"),
    "The control, broken on purpose, passes.": (4, "assay-failed"),
    "The baseline differs from its own rerun.": (4, "assay-failed"),
    "The baseline is no better than guessing.": (4, "baseline-sanity"),
    # evalkit itself.
    "The certificate cannot be written.": (5, REFUSED),
}
"""Sentence to (exit code, reason code that the certificate must give; "" for none)."""


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


@dataclass
class Bench:
    """A folder in which a scene is set."""

    folder: Path
    made: ModuleType
    policy: Path = field(init=False)

    def __post_init__(self) -> None:
        self.policy = self.folder / "policy.yaml"

    def sha(self, text: str | None = None, controls: tuple[str, ...] = ("broken",)) -> str:
        """Write the policy; return the digest under which candidate and control must have begun."""
        sha: str = self.made.bound(self.policy, text or self.made.SMALL_POLICY, controls).sha256
        return sha

    def runs(self, n: int = 600, text: str | None = None, **changes: Any) -> dict[str, Any]:
        """The four runs of a release that certifies, under the policy as it is written now."""
        runs: dict[str, Any] = self.made.small_release(self.sha(text), n, **changes)
        return runs

    def chats(self, **changes: Any) -> dict[str, Any]:
        runs: dict[str, Any] = self.made.chat_release(self.sha(self.made.CHAT_POLICY), **changes)
        return runs

    def argv(self, runs: Mapping[str, Any]) -> list[str]:
        """Write runs and return the command that certifies the candidate."""
        return self.command(self.made.write_release(self.folder / "runs", runs))

    def command(self, paths: Mapping[str, Path]) -> list[str]:
        named = [word for role, path in paths.items() for word in (f"--{role}", str(path))]
        return [*named, "--policy", str(self.policy)]

    def folders(self) -> dict[str, Path]:
        """Write the four runs that certify; return their folders, to be damaged."""
        paths: dict[str, Path] = self.made.write_release(self.folder / "runs", self.runs())
        return paths

    def damaged(self, change: Callable[[list[bytes]], list[bytes]]) -> list[str]:
        """Rewrite the lines of the candidate's record file and return the command."""
        paths = self.folders()
        file = paths["candidate"] / "records" / "mmlu.jsonl"
        file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
        return self.command(paths)

    def suite(self) -> list[str]:
        """Write the suite whose outputs are the run folders; return the command that decides on them."""
        file = self.folder / "suite.yaml"
        file.write_text(
            f"name: trial\npolicy: {self.policy}\nengine: {{adapter: modelopt, model: model}}\n"
            f"baseline: {{name: {self.made.OFFICIAL}}}\nrerun: {{}}\ncandidates: [{{name: {self.made.RECIPE}}}]\n"
            f"controls: [{{name: {self.made.CONTROL}}}]\ntasks: [mmlu]\noutputs: {self.folder / 'runs'}\n"
        )
        return [str(file), "--from"]


def task_changed(run: Any, task: str = "mmlu", **changes: Any) -> Any:
    changed = replace(run.manifest.tasks[task], **changes)
    return replace(run, manifest=replace(run.manifest, tasks={**run.manifest.tasks, task: changed}))


def engine_changed(run: Any, **changes: Any) -> Any:
    return replace(run, manifest=replace(run.manifest, engine=replace(run.manifest.engine, **changes)))


def records_changed(run: Any, change: Callable[[Any], Any], count: int) -> Any:
    """The run with `change` applied to its first records; None drops one."""
    records = run.records["mmlu"]
    first = [changed for changed in map(change, records[:count]) if changed is not None]
    return replace(run, records={**run.records, "mmlu": (*first, *records[count:])})


def failed(record: Any, failure: str = "timeout: 60 s") -> Any:
    return replace(record, status="failed", failure=failure, reply=None, marks={})


def dropped(_record: Any) -> None:
    return None


def with_run(runs: dict[str, Any], role: str, run: Any) -> dict[str, Any]:
    return {**runs, role: run}


SCENES: dict[str, Callable[[Bench], list[str]]] = {}


def scene(sentence: str) -> Callable[[Callable[[Bench], list[str]]], Callable[[Bench], list[str]]]:
    def add(build: Callable[[Bench], list[str]]) -> Callable[[Bench], list[str]]:
        assert sentence not in SCENES, sentence
        SCENES[sentence] = build
        return build

    return add


@scene("An equal recipe, with a rerun of the baseline and a control that fails, is certified.")
def _equal(bench: Bench) -> list[str]:
    return bench.argv(bench.runs())


def _full_policy(bench: Bench) -> str:
    policy: str = bench.made.SMALL_POLICY.replace("items: 600", "items: 14042").replace("[3.0]", "[1.0]")
    return policy


@scene("An equal recipe on all 14,042 items is certified.")
def _equal_full(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(14_042, _full_policy(bench), losses=210, gains=211))


@scene("An equal recipe on judged conversations is certified.")
def _equal_chat(bench: Bench) -> list[str]:
    return bench.argv(bench.chats())


@scene("Three of 600 answers are missing, no more than the policy allows, and the rest is equal.")
def _three_missing(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "candidate", records_changed(runs["candidate"], failed, 3)))


@scene("The recipe lost ten points.")
def _ten_points(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(losses=70, gains=10))


@scene("The recipe lost ten points and three of its answers are missing.")
def _ten_points_missing(bench: Bench) -> list[str]:
    runs = bench.runs(losses=70, gains=10)
    return bench.argv(with_run(runs, "candidate", records_changed(runs["candidate"], dropped, 3)))


@scene("The recipe lost two rating points.")
def _two_ratings(bench: Bench) -> list[str]:
    return bench.argv(bench.chats(shift=-2.0))


@scene("The recipe lost about as much as the margin.")
def _at_margin(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(losses=30, gains=12))


@scene("The recipe is better than a quantized model can be.")
def _too_good(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(losses=0, gains=60))


@scene("The recipe's answers are half as long again.")
def _long(bench: Bench) -> list[str]:
    runs = bench.chats()

    def longer(record: Any) -> Any:
        turns = tuple(replace(turn, completion_tokens=150) for turn in record.reply.turns)
        return replace(record, reply=replace(record.reply, turns=turns))

    candidate = runs["candidate"]
    records = {"mt-bench": tuple(longer(record) for record in candidate.records["mt-bench"])}
    return bench.argv(with_run(runs, "candidate", replace(candidate, records=records)))


@scene("The policy was chosen after the runs.")
def _post_hoc(bench: Bench) -> list[str]:
    return [*bench.argv(bench.runs()), "--post-hoc"]


@scene("The policy only watches.")
def _watching(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(text=f"{bench.made.SMALL_POLICY}certifies: false\n"))


@scene("All run folders are empty.")
def _empty(bench: Bench) -> list[str]:
    bench.sha()
    paths = {role: bench.folder / role for role in ("baseline", "candidate", "rerun", "control")}
    for path in paths.values():
        path.mkdir()
    return bench.command(paths)


@scene("The candidate's folder has records but no manifest.")
def _no_manifest(bench: Bench) -> list[str]:
    paths = bench.folders()
    (paths["candidate"] / "manifest.json").unlink()
    return bench.command(paths)


@scene("The candidate's manifest is cut off.")
def _torn_manifest(bench: Bench) -> list[str]:
    paths = bench.folders()
    file = paths["candidate"] / "manifest.json"
    file.write_bytes(file.read_bytes()[:-50])
    return bench.command(paths)


@scene("The candidate's record file is cut off in the middle of its last line.")
def _torn(bench: Bench) -> list[str]:
    return bench.damaged(lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]])


@scene("A line of the candidate's record file is garbage.")
def _garbage(bench: Bench) -> list[str]:
    return bench.damaged(lambda lines: [*lines[:10], b"\x00 garbage {\n", *lines[11:]])


@scene("Two lines of the candidate's record file have the same key.")
def _duplicate(bench: Bench) -> list[str]:
    return bench.damaged(lambda lines: [*lines[:-1], lines[0]])


@scene("A line of the candidate's record file holds NaN for a log-probability.")
def _nan(bench: Bench) -> list[str]:
    def poisoned(lines: list[bytes]) -> list[bytes]:
        row = json.loads(lines[7])
        row["reply"]["logprobs"][2] = float("nan")
        return [*lines[:7], json.dumps(row).encode() + b"\n", *lines[8:]]

    return bench.damaged(poisoned)


@scene("The candidate's folder holds records of a task its manifest does not know.")
def _stranger(bench: Bench) -> list[str]:
    paths = bench.folders()
    records = paths["candidate"] / "records"
    (records / "gsm8k.jsonl").write_bytes((records / "mmlu.jsonl").read_bytes())
    return bench.command(paths)


@scene("The candidate has 200 of 14,042 items.")
def _200_of_all(bench: Bench) -> list[str]:
    sha = bench.sha(f"{_full_policy(bench)}assay: {{required: [above_chance]}}\n", controls=())
    runs = bench.made.small_release(sha, 14_042)
    short = records_changed(runs["candidate"], dropped, 14_042 - 200)
    return bench.argv({"baseline": runs["baseline"], "candidate": short})


@scene("The candidate was asked 200 items on purpose.")
def _limited(bench: Bench) -> list[str]:
    runs, few = bench.runs(), bench.made.small_release(None, 200)["candidate"]
    limited = task_changed(
        records_changed(runs["candidate"], dropped, 0), **_asked(few), prompts_sha256="1" * 64, planned=200
    )
    kept = {"mmlu": runs["candidate"].records["mmlu"][:200]}
    return bench.argv(with_run(runs, "candidate", replace(limited, records=kept)))


def _asked(run: Any) -> dict[str, Any]:
    return {"item_set_sha256": run.manifest.tasks["mmlu"].item_set_sha256}


@scene("Both runs have 200 items where the policy wants 600.")
def _both_short(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(200, losses=2, gains=2))


@scene("Only five items are paired.")
def _five(bench: Bench) -> list[str]:
    text = bench.made.SMALL_POLICY.replace("items: 600", "items: 5")
    return bench.argv(bench.runs(5, text, losses=1, gains=0))


@scene("Forty judged questions, and a policy that assumes nothing about rare collapses.")
def _forty_questions(bench: Bench) -> list[str]:
    text = bench.made.CHAT_POLICY.replace(", assumption: no-rare-collapse", "")
    return bench.argv(bench.made.chat_release(bench.sha(text)))


@scene("A mean would decide, and nobody declared how low its scores can be.")
def _no_range(bench: Bench) -> list[str]:
    text = bench.made.SMALL_POLICY.replace("paired_proportion", "paired_mean").replace(
        "items: 600, gating: true, alpha: 0.025,\n         margins_points: [3.0], chance: 0.25",
        "questions: 600, gating: true, alpha: 0.025,\n         margin: 0.1, planning_sd: 0.1",
    )

    def partial(record: Any) -> Any:
        return replace(record, marks={"acc": 0.1 + 0.8 * record.marks["acc"]})

    return bench.argv({role: records_changed(run, partial, 600) for role, run in bench.runs(600, text).items()})


@scene("The candidate's run was stopped before its end.")
def _stopped(bench: Bench) -> list[str]:
    return bench.damaged(lambda lines: lines[:550])


@scene("Four of 600 answers are missing, more than the policy allows.")
def _four_missing(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "candidate", records_changed(runs["candidate"], failed, 4)))


@scene("All requests to the candidate failed.")
def _all_failed(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "candidate", records_changed(runs["candidate"], failed, 600)))


@scene("All requests to the baseline failed.")
def _baseline_failed(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "baseline", records_changed(runs["baseline"], failed, 600)))


@scene("The judge never gave a rating that can be read.")
def _never_parsed(bench: Bench) -> list[str]:
    runs = bench.chats()
    candidate = runs["candidate"]
    unread = tuple(replace(j, status="unparsed", score=None) for j in candidate.judgments["mt-bench"])
    return bench.argv(with_run(runs, "candidate", replace(candidate, judgments={"mt-bench": unread})))


@scene("The answers were never judged.")
def _never_judged(bench: Bench) -> list[str]:
    runs = bench.chats()
    unjudged = {
        role: replace(run, manifest=replace(run.manifest, judges={}), judgments={}) for role, run in runs.items()
    }
    return bench.argv(unjudged)


def with_items(bench: Bench, runs: dict[str, Any], doc: Callable[[int], dict[str, Any]]) -> list[str]:
    """Write the runs of a release with items whose source rows are `doc(place)`; return the command."""
    letters = (" A", " B", " C", " D")
    items: list[Item] = []
    for at, record in enumerate(runs["baseline"].records["mmlu"]):
        context = f"A question about {record.subject}.\n\n{doc(at)['question']}\nAnswer:"
        items.append(
            Item(
                task="mmlu",
                subject=record.subject,
                item_sha256=content_digest(doc(at)),
                occurrence=0,
                prompt_sha256=digest([[context] * 4, list(letters), None]),
                target_sha256=text_digest(str(record.reply.target)),
                doc=doc(at),
                context=context,
                continuations=letters,
                target=record.reply.target,
                details={"doc_id": at, "lengths": [1, 1, 1, 1], "target": str(record.reply.target)},
            )
        )
    asked = {
        "item_set_sha256": digest(sorted(item.key for item in items)),
        "prompts_sha256": digest(sorted([item.key, item.prompt_sha256] for item in items)),
    }
    said = ("item_sha256", "prompt_sha256", "target_sha256")
    for role, run in runs.items():
        pairs = zip(run.records["mmlu"], items, strict=True)
        records = tuple(replace(record, **{name: getattr(item, name) for name in said}) for record, item in pairs)
        runs[role] = replace(task_changed(run, **asked), records={**run.records, "mmlu": records})
    paths = bench.made.write_release(bench.folder / "runs", runs)
    for role, run in runs.items():
        with RunFolder.create_or_resume(paths[role], run.manifest) as folder:
            folder.write_items("mmlu", items)
    return bench.command(paths)


@scene("75 questions are put eight times each, under other subjects and numbers.")
def _repeated(bench: Bench) -> list[str]:
    return with_items(bench, bench.runs(), lambda at: {"id": f"q{at}", "question": f"What is {at % 75} and one more?"})


@scene("The policy's cluster is a field that items do not have.")
def _no_such_field(bench: Bench) -> list[str]:
    runs = bench.runs(text=bench.made.SMALL_POLICY.replace("chance: 0.25", "chance: 0.25, cluster: passage_id"))
    return with_items(bench, runs, lambda at: {"question": f"What is {at} and one more?"})


@scene("600 items are 40 passages, and the policy says so.")
def _forty_passages(bench: Bench) -> list[str]:
    runs = bench.runs(text=bench.made.SMALL_POLICY.replace("chance: 0.25", "chance: 0.25, cluster: passage_id"))
    return with_items(bench, runs, lambda at: {"question": f"What is {at} and one more?", "passage_id": at % 40})


@scene("Answers to items of one passage flip together, and the policy names no cluster.")
def _passages(bench: Bench) -> list[str]:
    runs = bench.runs()
    marks = [[record.marks["acc"] for record in runs[role].records["mmlu"]] for role in ("baseline", "candidate")]
    lost = [at for at in range(600) if marks[0][at] > marks[1][at]]
    won = [at for at in range(600) if marks[0][at] < marks[1][at]]
    passage = {at: f"lost-{n // 3}" for n, at in enumerate(lost)} | {at: f"won-{n // 3}" for n, at in enumerate(won)}
    return with_items(
        bench,
        runs,
        lambda at: {"question": f"What is {at} and one more?", "source": passage.get(at, f"rest-{at // 3}")},
    )


def _told(bench: Bench, metric: str, said: dict[str, bool], **changes: Any) -> list[str]:
    """A release in which a metric of another name counts what accuracy does not, and what its task says of it."""
    text = bench.made.SMALL_POLICY.replace("metric: acc", f"metric: {metric}").replace("chance: 0.25", "chance: 0.75")
    runs = bench.runs(text=text, **changes)
    for role, run in runs.items():
        records = tuple(replace(record, marks={metric: 1.0 - record.marks["acc"]}) for record in run.records["mmlu"])
        told = task_changed(run, metric=metric, higher_is_better=said, chance=0.75)
        runs[role] = replace(told, records={**run.records, "mmlu": records})
    return bench.argv(runs)


@scene("Nobody says whether more or less of the metric is better.")
def _no_direction(bench: Bench) -> list[str]:
    return _told(bench, "novelty", {})


@scene("Less of the metric is better, and the recipe has more.")
def _more_harm(bench: Bench) -> list[str]:
    return _told(bench, "harm", {"harm": False}, losses=70, gains=10)


@scene("The policy names no endpoint.")
def _no_endpoint(bench: Bench) -> list[str]:
    head = bench.made.SMALL_POLICY.split("endpoints:")[0]
    return bench.argv(bench.runs(text=f"{head}endpoints: {{}}\n"))


@scene("No endpoint of the policy is gating.")
def _advisory(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(text=bench.made.SMALL_POLICY.replace("gating: true", "gating: false")))


@scene("The policy's task was not run.")
def _other_task(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(text=bench.made.SMALL_POLICY.replace("task: mmlu", "task: gsm8k")))


@scene("The policy's metric was not recorded.")
def _other_metric(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(text=bench.made.SMALL_POLICY.replace("metric: acc", "metric: acc_norm")))


@scene("The recipe was not run.")
def _not_run(bench: Bench) -> list[str]:
    runs = bench.runs()
    del runs["candidate"]
    bench.made.write_release(bench.folder / "runs", runs)
    return bench.suite()


@scene("The task definitions of the two runs differ.")
def _definitions(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "candidate", task_changed(runs["candidate"], definition_sha256="0" * 64)))


@scene("One prompt differs.")
def _prompt(bench: Bench) -> list[str]:
    runs = bench.runs()
    changed = records_changed(runs["candidate"], lambda record: replace(record, prompt_sha256="0" * 64), 1)
    return bench.argv(with_run(runs, "candidate", changed))


@scene("The tokenizers differ.")
def _tokenizer(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "candidate", engine_changed(runs["candidate"], tokenizer_sha256="0" * 64)))


@scene("One run is simulated, the other on real kernels.")
def _fidelity(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(with_run(runs, "candidate", engine_changed(runs["candidate"], fidelity="engine")))


@scene("The two runs were computed on different processors.")
def _processor(bench: Bench) -> list[str]:
    runs = bench.runs()
    facts = {"name": "one", "vendor": "somebody", "model": "1", "instructions": "avx2", "settings": {}}
    other = {**facts, "instructions": "avx512_core_amx"}
    runs = with_run(runs, "baseline", engine_changed(runs["baseline"], processor=facts))
    return bench.argv(with_run(runs, "candidate", engine_changed(runs["candidate"], processor=other)))


@scene("The policy wants another protocol than the runs have.")
def _protocol(bench: Bench) -> list[str]:
    return bench.argv(bench.runs(text=bench.made.SMALL_POLICY.replace("ll-5shot", "cloze-0shot")))


@scene("The two runs were judged by different judges.")
def _judges(bench: Bench) -> list[str]:
    runs = bench.chats()
    candidate = runs["candidate"]
    judge = candidate.manifest.judges["mt-bench"]
    other = replace(judge, identity=replace(judge.identity, model="another-judge"))
    changed = replace(candidate, manifest=replace(candidate.manifest, judges={"mt-bench": other}))
    return bench.argv(with_run(runs, "candidate", changed))


@scene("One item is of another set.")
def _other_item(bench: Bench) -> list[str]:
    runs = bench.runs()
    changed = records_changed(runs["candidate"], lambda record: replace(record, item_sha256="0" * 64), 1)
    return bench.argv(with_run(runs, "candidate", changed))


@scene("An engine gave a number that is not finite.")
def _non_finite(bench: Bench) -> list[str]:
    runs = bench.runs()
    broken = records_changed(runs["candidate"], lambda record: failed(record, "non-finite: logit 3 is nan"), 1)
    return bench.argv(with_run(runs, "candidate", broken))


@scene("The baseline's engine was run again under the candidate's name.")
def _same_engine(bench: Bench) -> list[str]:
    runs = bench.runs()
    runs["candidate"] = replace(
        runs["candidate"], manifest=replace(runs["candidate"].manifest, engine=runs["baseline"].manifest.engine)
    )
    return bench.argv(runs)


@scene("All replies of the candidate are those of the baseline.")
def _same_replies(bench: Bench) -> list[str]:
    runs = bench.runs()
    return bench.argv(
        with_run(runs, "candidate", replace(runs["candidate"], records={"mmlu": runs["baseline"].records["mmlu"]}))
    )


@scene("All ratings differ from the baseline's by the same amount.")
def _no_variance(bench: Bench) -> list[str]:
    runs = bench.chats()
    base, _ = bench.made.chat_scores(40, shift=0.0, seed=4)
    shifted = bench.made.make_run(
        bench.made.RECIPE, scores=base + 0.25, policy_sha256=runs["candidate"].manifest.policy_sha256
    )
    return bench.argv(with_run(runs, "candidate", shifted))


@scene("Baseline and candidate are swapped on the command line.")
def _swapped(bench: Bench) -> list[str]:
    paths = bench.folders()
    return bench.command({**paths, "baseline": paths["candidate"], "candidate": paths["baseline"]})


@scene("The folders of baseline and candidate are swapped on disk.")
def _swapped_folders(bench: Bench) -> list[str]:
    paths = bench.folders()
    aside = bench.folder / "aside"
    paths["baseline"].rename(aside)
    paths["candidate"].rename(paths["baseline"])
    aside.rename(paths["candidate"])
    return bench.suite()


@scene("The rerun is the baseline's own folder.")
def _rerun_is_baseline(bench: Bench) -> list[str]:
    paths = bench.folders()
    return bench.command({**paths, "rerun": paths["baseline"]})


@scene("The rerun is a run of the candidate's recipe.")
def _rerun_is_candidate(bench: Bench) -> list[str]:
    runs = bench.runs()
    other = engine_changed(runs["rerun"], recipe="int4-awq", recipe_sha256="0" * 64)
    return bench.argv(with_run(runs, "rerun", other))


@scene("Two candidates have the same name.")
def _two_of_a_name(bench: Bench) -> list[str]:
    runs = bench.runs()
    paths = bench.made.write_release(bench.folder / "runs", runs)
    second = bench.made.write_run(bench.folder / "second", runs["candidate"])
    return [*bench.command(paths), "--candidate", str(second)]


@scene("The policy was edited after the candidate's run began.")
def _edited(bench: Bench) -> list[str]:
    argv = bench.argv(bench.runs())
    bench.policy.write_text(bench.made.SMALL_POLICY.replace("[3.0]", "[3.5]"))
    return argv


@scene("The candidate was run without a policy.")
def _without_policy(bench: Bench) -> list[str]:
    runs = bench.runs()
    candidate = runs["candidate"]
    changed = replace(candidate, manifest=replace(candidate.manifest, policy_sha256=None))
    return bench.argv(with_run(runs, "candidate", changed))


@scene("No policy is named.")
def _no_policy(bench: Bench) -> list[str]:
    return bench.argv(bench.runs())[:-2]


@scene("The policy file has a misspelt key.")
def _misspelt(bench: Bench) -> list[str]:
    argv = bench.argv(bench.runs())
    bench.policy.write_text(bench.made.SMALL_POLICY.replace("margins_points", "margin_points"))
    return argv


@scene("The policy requires a rerun of the baseline and there is none.")
def _no_rerun(bench: Bench) -> list[str]:
    runs = bench.runs()
    del runs["rerun"]
    return bench.argv(runs)


@scene("The policy requires a control and there is none.")
def _no_control(bench: Bench) -> list[str]:
    runs = bench.made.small_release(bench.sha(controls=()))
    del runs["control"]
    return bench.argv(runs)


@scene("The control, broken on purpose, passes.")
def _control_passes(bench: Bench) -> list[str]:
    runs = bench.runs()
    good = runs["candidate"].records["mmlu"]
    return bench.argv(with_run(runs, "control", replace(runs["control"], records={"mmlu": good})))


@scene("The baseline differs from its own rerun.")
def _noisy_rerun(bench: Bench) -> list[str]:
    runs = bench.runs()
    bad = runs["control"].records["mmlu"]
    return bench.argv(with_run(runs, "rerun", replace(runs["rerun"], records={"mmlu": bad})))


@scene("The baseline is no better than guessing.")
def _guessing(bench: Bench) -> list[str]:
    sha = bench.sha()
    base = np.zeros(600)
    base[:150] = 1.0
    made = bench.made
    marks = {
        "baseline": base,
        "rerun": made.moved(base, losses=6, gains=6, seed=2),
        "control": made.moved(base, losses=80, gains=2, seed=3),
        "candidate": made.moved(base, losses=9, gains=9, seed=4),
    }
    runs = made.small_release(sha)
    return bench.argv(
        {
            role: replace(run, records={"mmlu": made.choice_records("mmlu", marks[role], at)})
            for at, (role, run) in enumerate(runs.items())
        }
    )


@scene("The certificate cannot be written.")
def _unwritable(bench: Bench) -> list[str]:
    argv = bench.argv(bench.runs())
    (bench.folder / "out").write_text("a file where a folder is wanted")
    return argv


def test_every_sentence_has_a_scene_and_a_reason_that_exists() -> None:
    assert list(SCENES) == list(ROWS)
    assert {code for _, code in ROWS.values()} - {"", REFUSED} <= set(REASONS)
    assert {exit_code for exit_code, _ in ROWS.values()} == {code.value for code in ExitCode}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the HTML report as where matplotlib is not installed: drawing takes longer than deciding."""
    monkeypatch.setattr("evalkit.report.html.plots.available", lambda: False)


@pytest.mark.parametrize("sentence", ROWS)
def test_the_row_holds(sentence: str, made: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected, reason = ROWS[sentence]
    argv, out = SCENES[sentence](Bench(tmp_path, made)), tmp_path / "out"
    code = cli.main(["certify", *argv, "--output", str(out), "--quiet"])
    captured = capsys.readouterr()
    assert code == expected, captured
    file = out / "certificate.json"
    if reason == REFUSED:
        assert not file.exists()
        assert "CERTIFIED" not in captured.out
        assert captured.err.strip()
        assert "internal error" not in captured.err
        return
    (verdict,) = json.loads(file.read_text("utf-8"))["decision"]["verdicts"]
    assert ExitCode[verdict["outcome"]] == expected
    codes = {found["code"] for found in verdict["reasons"]}
    assert codes == set() if reason == "" else reason in codes
    assert (verdict["claim"] is None) == (expected != ExitCode.CERTIFIED)
    assert verdict["outcome"] in captured.out
