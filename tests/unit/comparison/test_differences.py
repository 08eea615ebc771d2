"""What must agree between two runs, each difference by the name under which a policy may tolerate it."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import ComparisonSettings, compare, settings_for
from evalkit.comparison.runs import find_differences
from evalkit.records import Manifest, text_digest

OTHER = text_digest("other")

TASK = {
    "definition": {"definition_sha256": OTHER},
    "kind": {"kind": "text"},
    "protocol": {"protocol": "ll-0shot"},
    "shots": {"shots": 0},
    "metric": {"metric": "acc_norm"},
    "chance": {"chance": None},
    "planned": {"planned": 3},
    "item_set": {"item_set_sha256": OTHER},
    "prompts": {"prompts_sha256": OTHER},
    "settings.temperature": {"settings": {"temperature": 1.0}},
    "dataset.sha256": {"dataset": {"asset": "mmlu", "sha256": OTHER}},
}
ENGINE = {
    "tokenizer": {"tokenizer_sha256": OTHER},
    "chat_template": {"chat_template_sha256": None},
    "adapter": {"adapter": "tensorrt_llm"},
    "dtype": {"dtype": "float16"},
    "fidelity": {"fidelity": "engine"},
    "versions.torch": {"versions": {"torch": "2.14", "transformers": "5.14"}},
    "options.scoring": {"options": {"scoring": "chunked", "max_length": 8192}},
}
JUDGE = {
    "judge_profile": {"profile_sha256": OTHER},
    "references": {"references_sha256": OTHER},
    "judge_repeats": {"repeats": 3},
    "judge_planned": {"planned": 7},
    "judge_scale": {"scale": (1.0, 5.0)},
}


@pytest.fixture
def base(made: ModuleType) -> Manifest:
    manifest: Manifest = made.make_run("baseline", marks=np.ones(4), scores=np.full((2, 2, 1), 5.0)).manifest
    return manifest


def changed_task(manifest: Manifest, task: str = "mmlu", **changes: Any) -> Manifest:
    return replace(manifest, tasks={**manifest.tasks, task: replace(manifest.tasks[task], **changes)})


def changed_engine(manifest: Manifest, **changes: Any) -> Manifest:
    return replace(manifest, engine=replace(manifest.engine, **changes))


def changed_judge(manifest: Manifest, **changes: Any) -> Manifest:
    return replace(manifest, judges={"mt-bench": replace(manifest.judges["mt-bench"], **changes)})


def names(left: Manifest, right: Manifest, task: str = "mmlu") -> list[str]:
    return [found.name for found in find_differences(left, right, task)]


def test_equal_runs_have_no_difference(base: Manifest) -> None:
    assert find_differences(base, base, "mmlu") == find_differences(base, base, "mt-bench") == ()


@pytest.mark.parametrize("name", TASK)
def test_a_difference_in_what_was_asked_blocks(base: Manifest, name: str) -> None:
    (found,) = find_differences(base, changed_task(base, **TASK[name]), "mmlu")
    assert (found.name, found.blocking, found.tolerated) == (name, True, False)


@pytest.mark.parametrize("name", ENGINE)
def test_a_difference_in_the_engine_beyond_the_recipe_blocks(base: Manifest, name: str) -> None:
    (found,) = find_differences(base, changed_engine(base, **ENGINE[name]), "mmlu")
    assert (found.name, found.blocking, found.tolerated) == (name, True, False)


@pytest.mark.parametrize("name", JUDGE)
def test_a_difference_in_the_judging_blocks_the_judged_task_alone(base: Manifest, name: str) -> None:
    other = changed_judge(base, **JUDGE[name])
    (found,) = find_differences(base, other, "mt-bench")
    assert (found.name, found.blocking) == (name, True)
    assert names(base, other, "mmlu") == []


@pytest.mark.parametrize(
    "change",
    [{"model": "another-judge"}, {"versions": {"server": "2"}}, {"weights_sha256": OTHER}],
    ids=["model", "version", "weights"],
)
def test_another_judge_or_another_version_of_it_blocks(base: Manifest, change: dict[str, Any]) -> None:
    identity = replace(base.judges["mt-bench"].identity, **change)
    (found,) = find_differences(base, changed_judge(base, identity=identity), "mt-bench")
    assert (found.name, found.blocking) == ("judge", True)
    assert identity.sha256 in found.candidate


def test_a_run_that_was_not_judged_differs_in_the_judge(base: Manifest) -> None:
    (found,) = find_differences(base, replace(base, judges={}), "mt-bench")
    assert (found.name, found.baseline, found.candidate) == ("judge", "rating", "nothing")


def test_another_version_of_evalkit_blocks(base: Manifest) -> None:
    (found,) = find_differences(base, replace(base, evalkit="2.0"), "mmlu")
    assert (found.name, found.baseline, found.candidate, found.blocking) == ("evalkit", "1.0", "2.0", True)


def test_a_device_is_noted_and_does_not_block(base: Manifest) -> None:
    (found,) = find_differences(base, changed_engine(base, device="other gpu"), "mmlu")
    assert (found.name, found.blocking) == ("device", False)


ZEN = {
    "name": "AMD EPYC",
    "vendor": "AuthenticAMD",
    "model": "family 25 model 1",
    "instructions": "avx2",
    "settings": {},
    "torch": "AVX2",
}
RAPIDS = {**ZEN, "name": "Intel(R) Xeon(R)", "vendor": "GenuineIntel", "model": "family 6 model 143"}
RAPIDS |= {"instructions": "avx512_core_amx", "torch": "AVX512"}


def test_another_processor_blocks_and_is_tolerated_by_name(base: Manifest) -> None:
    left, right = (changed_engine(base, processor=found) for found in (ZEN, RAPIDS))
    found = find_differences(left, right, "mmlu")
    facts = ("instructions", "model", "name", "torch", "vendor")
    assert [one.name for one in found] == [f"processor.{fact}" for fact in facts]
    assert all(one.blocking and not one.tolerated for one in found)
    assert found[0].text == "processor.instructions: baseline has avx2, candidate has avx512_core_amx"
    assert all(one.tolerated for one in find_differences(left, right, "mmlu", ["processor"]))
    limited = changed_engine(base, processor={**ZEN, "settings": {"MKL_CBWR": "COMPATIBLE"}})
    assert names(left, limited) == ["processor.settings"]


def test_runs_of_before_processors_were_kept_agree_with_one_another_alone(base: Manifest) -> None:
    new = changed_engine(base, processor=ZEN)
    assert base.engine.processor is None
    assert find_differences(base, base, "mmlu") == ()
    (found,) = find_differences(base, new, "mmlu")
    assert (found.name, found.blocking, found.baseline) == ("processor", True, "nothing")
    assert found.candidate == "AMD EPYC (AuthenticAMD, family 25 model 1), avx2"


def test_a_server_that_says_no_processor_differs_in_its_adapter(base: Manifest) -> None:
    served = changed_engine(base, adapter="openai_server")
    assert names(changed_engine(base, processor=ZEN), served) == ["adapter"]
    by_llama = changed_engine(base, adapter="llama_cpp", processor={key: ZEN[key] for key in ZEN if key != "torch"})
    assert names(changed_engine(base, processor=ZEN), by_llama) == ["adapter"]


def test_a_judge_on_another_processor_is_named_so(base: Manifest) -> None:
    judges = [replace(base.judges["mt-bench"].identity, processor=found) for found in (ZEN, RAPIDS)]
    left, right = (changed_judge(base, identity=judge) for judge in judges)
    assert names(left, right, "mt-bench")[0] == "processor.instructions"
    assert all(one.tolerated for one in find_differences(left, right, "mt-bench", ["processor"]))


def test_batches_that_memory_made_smaller_are_noted_and_do_not_block(base: Manifest) -> None:
    (found,) = find_differences(base, replace(base, smaller_batches=("scoring: smaller",)), "mmlu")
    assert (found.name, found.blocking) == ("batches", False)
    assert found.text == "batches: baseline has those asked for, candidate has scoring: smaller"


def test_what_a_recipe_changes_is_no_difference(base: Manifest) -> None:
    recipe = {
        "model": "exported",
        "weights_sha256": OTHER,
        "recipe": "int4-awq",
        "recipe_sha256": OTHER,
        "quantization": {"algorithm": "int4"},
    }
    assert names(base, changed_engine(base, **recipe)) == []


def test_a_value_only_one_side_has_is_shown_as_nothing(base: Manifest) -> None:
    (found,) = find_differences(base, changed_engine(base, versions={"torch": "2.13"}), "mmlu")
    assert (found.name, found.baseline, found.candidate) == ("versions.transformers", "5.14", "nothing")


def test_a_tuple_equals_the_list_it_becomes_on_disk(base: Manifest) -> None:
    left, right = (changed_task(base, settings={"stop": stop}) for stop in (("\n", "Q:"), ["\n", "Q:"]))
    assert names(left, right) == []


def test_the_same_data_from_another_place_is_the_same(base: Manifest) -> None:
    sha = base.tasks["mmlu"].dataset["sha256"]
    mirror = changed_task(base, dataset={"asset": "mmlu", "source": "mirror", "revision": "2", "sha256": sha})
    assert names(base, mirror) == []


def test_data_without_a_digest_are_compared_field_by_field(base: Manifest) -> None:
    left, right = (changed_task(base, dataset={"path": "hails/mmlu", "revision": r}) for r in ("1", "2"))
    assert names(left, right) == ["dataset.revision"]


def test_another_adapter_brings_packages_of_its_own_but_shared_ones_must_agree(base: Manifest) -> None:
    other = changed_engine(
        base,
        adapter="tensorrt_llm",
        versions={"tensorrt_llm": "1.2", "torch": "2.14"},
        options={"max_length": 8192, "kv_cache": "fp8"},
    )
    assert names(base, other) == ["adapter", "versions.torch"]


def test_every_difference_is_reported_not_only_the_first(base: Manifest) -> None:
    other = changed_engine(changed_task(base, shots=0, protocol="ll-0shot"), dtype="float16", device="other gpu")
    assert names(base, other) == ["protocol", "shots", "dtype", "device"]


@pytest.mark.parametrize(
    ("tolerated", "expected"),
    [
        ({"versions.torch"}, {"versions.torch": True, "versions.transformers": False}),
        ({"versions"}, {"versions.torch": True, "versions.transformers": True}),
        ({"torch"}, {"versions.torch": False, "versions.transformers": False}),
        ({"version"}, {"versions.torch": False, "versions.transformers": False}),
    ],
    ids=["one", "family", "without its family", "prefix"],
)
def test_an_override_tolerates_one_name_or_a_whole_family(
    base: Manifest, tolerated: set[str], expected: dict[str, bool]
) -> None:
    other = changed_engine(base, versions={"torch": "2.14", "transformers": "5.15"})
    found = find_differences(base, other, "mmlu", tolerated)
    assert {difference.name: difference.tolerated for difference in found} == expected


def test_a_tolerated_difference_stays_visible_and_no_longer_blocks_a_comparison(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), seed=1)
    right = made.make_run("candidate", marks=np.array([1.0, 1.0, 1.0]), seed=2)
    right = replace(right, manifest=changed_engine(right.manifest, dtype="float16"))
    strict = compare(left, right, "mmlu")
    lenient = compare(left, right, "mmlu", ComparisonSettings(tolerated=frozenset({"dtype"})))
    assert [found.name for found in strict.blocking] == ["dtype"]
    assert lenient.blocking == ()
    assert [found.name for found in lenient.differences] == ["dtype"]


def test_a_policy_hands_its_overrides_and_its_mixing_of_fidelities_to_the_comparison(made: ModuleType) -> None:
    policy = made.policy("release")
    assert settings_for(policy, "mmlu").tolerated == frozenset()
    rules = policy.policy
    loose = replace(
        policy,
        policy=rules.model_copy(
            update={"overrides": ("versions",), "fidelity": rules.fidelity.model_copy(update={"mixing": "allow"})}
        ),
    )
    assert settings_for(loose, "mmlu").tolerated == {"versions", "fidelity"}


def test_the_interval_of_a_mean_has_the_level_of_its_one_sided_test(made: ModuleType) -> None:
    assert settings_for(made.policy("release"), "mt_bench").level == pytest.approx(0.90)
    assert settings_for(made.policy("release"), "mmlu").margin == pytest.approx(0.01)
