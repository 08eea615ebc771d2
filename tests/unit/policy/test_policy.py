from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from evalkit.errors import ConfigError, UsageError
from evalkit.policy import JudgeBars, MeanEndpoint, ProportionEndpoint, bind, load_policy, policy_names
from evalkit.policy.binding import LIBRARY
from evalkit.policy.model import Check
from evalkit.records import canonical_json

MINIMAL = """\
policy_version: 1
name: small
tier: test
endpoints:
  one: {kind: paired_proportion, task: t, metric: acc, protocol: p, gating: true, alpha: 0.025, margins_points: [1.0]}
"""


@pytest.fixture
def write(tmp_path: Path):
    def file(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return path

    return file


def test_the_library_loads_and_every_policy_has_a_title() -> None:
    assert policy_names() == ["demo", "nightly", "release"]
    assert all(load_policy(name).title and load_policy(name).name == name for name in policy_names())


def test_the_release_policy_holds_the_thresholds_of_the_protocol() -> None:
    policy = load_policy("release")
    mmlu, mt_bench = policy.endpoints["mmlu"], policy.endpoints["mt_bench"]
    assert isinstance(mmlu, ProportionEndpoint)
    assert isinstance(mt_bench, MeanEndpoint)
    assert (mmlu.items, mmlu.alpha, mmlu.margins) == (14042, 0.025, (0.01, 0.005))
    assert (mt_bench.margin, mt_bench.alpha, mt_bench.planned_power_min) == (0.3, 0.05, 0.8)
    assert policy.multiplicity.family_alpha == 0.05
    assert set(policy.assay.required) == set(get_args(Check))
    assert policy.assay.baseline_recipes


def test_no_policy_but_release_uses_its_claims() -> None:
    assert load_policy("demo").claims == ("within-demo-margin",)
    assert not load_policy("nightly").certifies


def test_every_file_states_every_threshold_of_its_gating_endpoints() -> None:
    for name in policy_names():
        text = (LIBRARY / f"{name}.yaml").read_text()
        assert all(
            "alpha" in endpoint and "gating" in endpoint for endpoint in yaml.safe_load(text)["endpoints"].values()
        )


def test_digest_ignores_key_order_comments_and_defaults_left_out(write) -> None:
    first = bind(load_policy(write(MINIMAL)), "b", ["r"])
    data = yaml.safe_load(MINIMAL)
    data["endpoints"]["one"] = dict(reversed(data["endpoints"]["one"].items()))
    second = yaml.safe_dump(dict(reversed(data.items())), sort_keys=False) + "# a remark\nmissing: {items_max: 0.005}\n"
    assert bind(load_policy(write(second)), "b", ["r"]).sha256 == first.sha256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[1.0]", "[1.1]"),
        ("0.025", "0.026"),
        ("metric: acc", "metric: acc_norm"),
        ("gating: true", "gating: false"),
        ("tier: test", "tier: test\nguards: {gain_points: 1.5}"),
        ("tier: test", "tier: test\noverrides: [dtype]"),
        ("tier: test", "tier: test\nseeds: {bootstrap: 3}"),
        ("name: small", "name: smaller"),
    ],
)
def test_digest_changes_with_any_value(write, old: str, new: str) -> None:
    before = bind(load_policy(write(MINIMAL)), "b", ["r"]).sha256
    assert bind(load_policy(write(MINIMAL.replace(old, new))), "b", ["r"]).sha256 != before


def test_digest_changes_with_whom_it_judges_but_not_with_their_order(write) -> None:
    policy = load_policy(write(MINIMAL))
    digests = {
        bind(policy, "b", ["r"]).sha256,
        bind(policy, "c", ["r"]).sha256,
        bind(policy, "b", ["r", "s"]).sha256,
        bind(policy, "b", ["r"], ["x"]).sha256,
    }
    assert len(digests) == 4
    assert bind(policy, "b", ["s", "r"]).sha256 == bind(policy, "b", ["r", "s"]).sha256


def test_the_document_is_plain_json_and_holds_the_release(write) -> None:
    bound = bind(load_policy(write(MINIMAL)), "b", ["r"], ["broken"])
    assert '"release":{"baseline":"b","controls":["broken"],"recipes":["r"]}' in canonical_json(bound.document)


def test_all_faults_of_a_file_come_together_with_suggestions(write) -> None:
    text = MINIMAL.replace("alpha: 0.025", "alfa: 0.025").replace("tier: test", "teir: test\nmissing: {items_max: 2.0}")
    with pytest.raises(ConfigError) as error:
        load_policy(write(text))
    said = str(error.value)
    assert "alfa" in said
    assert "did you mean 'alpha'" in said
    assert "teir" in said
    assert "items_max" in said
    assert len(error.value.faults) >= 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("paired_proportion", "paired_proportions", "paired_mean, paired_proportion|did you mean 'paired_proportion'"),
        ("[1.0]", "[0.5, 1.0]", "fall strictly"),
        ("[1.0]", "[0.05]", "0.1"),
        ("[1.0]", "[]", "at least 1"),
        ("alpha: 0.025", "alpha: 0.2", "family_alpha"),
        ("[1.0]", "[1.0, 0.5, 0.25]", "3 margins for 2 claim"),
        ("tier: test", "tier: test\nassay: {reference_accuracy: {two: 0.8}}", "no endpoint"),
        ("alpha: 0.025", "alpha: .nan", "finite"),
        ("gating: true", "gating: 'yes'", "gating"),
        ("policy_version: 1", "policy_version: 2", "policy_version"),
        ("tier: test", "tier: test\nguards: {length_ratio: [1.1, 0.9]}", "length_ratio"),
    ],
)
def test_a_fault_is_named(write, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_policy(write(MINIMAL.replace(old, new)))


def test_an_unknown_name_and_a_missing_file_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'release'"):
        load_policy("relase")
    with pytest.raises(UsageError, match="no such file"):
        load_policy(tmp_path / "none.yaml")


def test_binding_refuses_a_name_used_twice_and_other_names_than_the_file_gives(write) -> None:
    policy = load_policy(write(MINIMAL))
    with pytest.raises(UsageError, match="'r' is named 2 times"):
        bind(policy, "b", ["r"], ["r"])
    written = load_policy(write(MINIMAL + "release: {baseline: b, recipes: [r]}\n"))
    assert bind(written, "b", ["r"]).release.recipes == ("r",)
    with pytest.raises(UsageError, match="written for baseline 'b'"):
        bind(written, "b", ["other"])


def test_a_release_rests_on_no_judge_that_has_not_qualified() -> None:
    rules = load_policy("release").judge
    assert rules is not None
    assert (rules.qualification, rules.bars) == ("required", JudgeBars())
    assert load_policy("demo").judge is None, "the demonstration's judge fails, and its report says so"
