"""What two earlier runs say of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from evalkit.definitions import find_definitions
from evalkit.errors import UsageError
from evalkit.planning import endpoint_sizes, measure
from evalkit.policy import Policy
from evalkit.records import ChoiceReply, EngineIdentity, Manifest, Record, TaskRun, text_digest
from evalkit.store import Run

MakePolicy = Callable[..., Policy]


def record(number: int, mark: float | None, logprob: float = 0.0) -> Record:
    """One item; a mark of None is a failed record."""
    sha = text_digest(str(number))
    failed = mark is None
    return Record(
        task="mmlu",
        subject="s",
        item_sha256=sha,
        occurrence=0,
        prompt_sha256=sha,
        target_sha256=sha,
        status="failed" if failed else "ok",
        failure="timeout: 3 s" if failed else None,
        reply=None if failed else ChoiceReply(logprobs=(logprob, 0.0), greedy=(False, False), target=0, lengths=(1, 1)),
        marks={} if failed else {"acc": mark},
    )


def run(
    marks: Sequence[float | None], *, recipe: str = "none", options: int = 0, logprobs: Sequence[float] = ()
) -> Run:
    engine = EngineIdentity(
        adapter="scripted",
        model="tiny",
        weights_sha256="a" * 64,
        recipe=recipe,
        recipe_sha256=None,
        fidelity="engine",
        quantization={},
        dtype="float32",
        tokenizer_sha256="b" * 64,
        chat_template_sha256=None,
        versions={},
        device="cpu",
        options={"batch_size": options},
    )
    task = TaskRun(
        definition_sha256="d" * 64,
        kind="choice",
        protocol="ll-5shot",
        shots=5,
        metric="acc",
        chance=0.25,
        planned=len(marks),
        item_set_sha256="e" * 64,
        prompts_sha256="f" * 64,
        dataset={},
    )
    manifest = Manifest(evalkit="0", engine=engine, tasks={"mmlu": task}, created_at="2020-01-01T00:00:00Z")
    shifts = logprobs or [0.0] * len(marks)
    records = tuple(record(i, mark, shifts[i]) for i, mark in enumerate(marks))
    return Run(path=Path(recipe), manifest=manifest, records={"mmlu": records}, judgments={})


BASE = [1.0] * 60 + [0.0] * 40


def test_discordance_is_the_share_of_flips_in_both_directions(make_policy: MakePolicy) -> None:
    other = [0.0] * 6 + BASE[6:96] + [1.0] * 4
    found = measure(make_policy(), run(BASE), run(other, recipe="int4"))["mmlu"]
    assert (found.kind, found.value, found.used, found.pairs) == ("discordance", 0.10, 0.10, 100)
    assert found.lower < 0.10 < found.upper
    assert not found.same_recipe


def test_pairs_are_found_by_key_and_need_a_reply_on_both_sides(make_policy: MakePolicy) -> None:
    second = run([None, *BASE[1:]], recipe="int4")
    turned = Run(
        path=second.path,
        manifest=second.manifest,
        records={"mmlu": tuple(reversed(second.records["mmlu"]))},
        judgments={},
    )
    first = run([0.0, 0.0, *BASE[2:]])
    found = measure(make_policy(), first, turned)["mmlu"]
    assert (found.pairs, found.value) == (99, 1 / 99)


def test_a_rerun_is_only_a_lower_bound(make_policy: MakePolicy) -> None:
    """Another batch size makes another identity, but not another recipe."""
    policy = make_policy(planning={"discordance": 0.06})
    quiet = measure(policy, run(BASE), run([0.0, *BASE[1:]], options=8))["mmlu"]
    assert quiet.same_recipe
    assert (quiet.value, quiet.used) == (0.01, 0.06)
    assert "lower bound" in quiet.note
    loud = measure(policy, run(BASE), run([0.0] * 9 + BASE[9:], options=8))["mmlu"]
    assert (loud.value, loud.used) == (0.09, 0.09)


def test_no_flip_at_all_is_no_planning_value(make_policy: MakePolicy) -> None:
    found = measure(make_policy(), run(BASE), run(BASE, recipe="int4"))["mmlu"]
    assert (found.value, found.used) == (0.0, 0.06)


def test_soft_accuracy_is_measured_by_its_standard_deviation(make_policy: MakePolicy) -> None:
    shifts = np.random.default_rng(3).normal(size=100).tolist()
    found = measure(make_policy(soft={}), run(BASE), run(BASE, recipe="int4", logprobs=shifts))["soft"]
    changes = 1 / (1 + np.exp(-np.array(shifts))) - 0.5
    assert found.kind == "sd"
    assert found.used == pytest.approx(changes.std(ddof=1), rel=1e-12)


def test_runs_without_a_common_item_are_refused(make_policy: MakePolicy) -> None:
    with pytest.raises(UsageError, match="two items"):
        measure(make_policy(), run(BASE), run([None] * 100, recipe="int4"))


def test_marks_between_0_and_1_have_no_discordance(make_policy: MakePolicy) -> None:
    with pytest.raises(UsageError, match="not all 0 or 1"):
        measure(make_policy(), run(BASE), run([0.5] * 100, recipe="int4"))


def test_sizes_come_from_what_a_run_planned_unless_the_policy_says_them(make_policy: MakePolicy) -> None:
    policy, task_of = make_policy(soft={}), find_definitions(None).task
    said = {name: endpoint.size for name, endpoint in policy.endpoints.items() if endpoint.size is not None}
    assert endpoint_sizes(policy, task_of, [run(BASE).manifest]) == {"mmlu": 100, "soft": 100} | said
    assert endpoint_sizes(policy, task_of, [run(BASE[:50]).manifest, run(BASE).manifest])["mmlu"] == said.get(
        "mmlu", 100
    )
