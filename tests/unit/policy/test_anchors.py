"""Published accuracies: a table that explains every word, and rows that are found by model and protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import ConfigError
from evalkit.policy.anchors import Anchor, anchor_tables, published_anchor

TABLE = """\
tasks: [quiz]
metric: acc
protocols: {ours: {stands_for: [ll], tolerance_points: 2.0}}
sources: {card: A model card of 2026}
models:
  house/Model-7B: [{accuracy: 0.5, protocol: ours, source: card}]
"""


def found(model: str, recipe: str = "llama-official-fp8", **changes: str) -> Anchor | None:
    return published_anchor(model, recipe, **{"task": "mmlu", "protocol": "ll-5shot", "metric": "acc", **changes})


def test_a_model_is_found_by_name_whoever_packed_it() -> None:
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "Meta-Llama-3.1-8B-Instruct", "x/Llama-3.1-8B-Instruct-FP8"):
        anchor = found(name)
        assert anchor is not None
        # NVIDIA/TensorRT-LLM, references/mmlu.yaml: meta-llama/Llama-3.1-8B-Instruct, accuracy: 68.17
        assert (anchor.accuracy, anchor.protocol, anchor.tolerance) == (0.6817, "gen2-5shot", 0.05)
        assert "TensorRT-LLM" in anchor.source


@pytest.mark.parametrize(
    "changes", [{"protocol": "cloze-0shot"}, {"protocol": "ll-0shot"}, {"metric": "acc_norm"}, {"task": "mmlu_pro"}]
)
def test_another_protocol_has_no_anchor(changes: dict[str, str]) -> None:
    assert found("meta-llama/Llama-3.1-8B-Instruct", **changes) is None


def test_a_figure_of_one_recipe_is_for_that_recipe() -> None:
    # references/mmlu.yaml gives Llama-3.2-1B only quantized; 33.87 is FP8_PER_CHANNEL_PER_TOKEN with meta_recipe
    assert found("meta-llama/Llama-3.2-1B") is not None
    assert found("meta-llama/Llama-3.2-1B", "modelopt-fp8") is None


def test_a_model_nobody_published_has_none() -> None:
    assert found("meta-llama/Llama-3.1-8B-Instruct-pruned") is None
    assert found("smollm2-135m-instruct") is None


def test_every_table_names_its_sources_and_lies_between_guessing_and_all() -> None:
    for table in anchor_tables():
        values = [row.accuracy for rows in table.models.values() for row in rows]
        assert all(0.3 < value < 0.95 for value in values)
        used = {row.source for rows in table.models.values() for row in rows}
        assert used == set(table.sources)
        assert all("/" in model for model in table.models), "a name with its owner can be looked up"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("protocol: ours", "protocol: theirs", "protocol 'theirs'"),
        ("source: card", "source: memory", "source 'memory'"),
        ("accuracy: 0.5", "accuracy: 50.0", "accuracy"),
        ("models:", "models:\n  other/model-7b: [{accuracy: 0.4, protocol: ours, source: card}]", "model-7b: a second"),
    ],
)
def test_a_table_with_a_fault_is_refused(tmp_path: Path, old: str, new: str, fault: str) -> None:
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "quiz.yaml").write_text(TABLE)
    assert len(anchor_tables(tmp_path / "sound")) == 1
    (tmp_path / "quiz.yaml").write_text(TABLE.replace(old, new))
    with pytest.raises(ConfigError, match=fault):
        anchor_tables(tmp_path)
