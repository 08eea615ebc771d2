"""Facts of a model as a library resolves them, and files that two generations of transformers read alike; no torch."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.adapters.checkpoint.resolved import (
    config_facts,
    config_for_both,
    differences,
    refuse_differences,
    tokenizer_for_both,
    write_for_both,
)
from evalkit.errors import IdentityMismatchError

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SHAPE = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def config(**values: Any) -> Any:
    found = SimpleNamespace(**SHAPE, **values)
    found.get_text_config = lambda decoder: found
    return found


NEW = config(rope_parameters={"rope_theta": 500000.0, "rope_type": "llama3", **LLAMA3}, dtype="bfloat16")
OLD = config(rope_theta=500000.0, rope_scaling={"rope_type": "llama3", **LLAMA3}, torch_dtype="torch.bfloat16")


def test_both_ways_to_say_a_rotary_embedding_are_the_same_fact():
    new, old = config_facts(NEW, 5), config_facts(OLD, 4)
    assert differences(new, old) == []
    assert (new["rotary_base"], new["rotary_scaling"]["type"], new["head_dim"]) == (500000.0, "llama3", 16)


def test_what_transformers_4_passes_over_is_no_fact_for_it():
    read = config(rope_theta=10000.0, rope_scaling=None, rope_parameters=NEW.rope_parameters, dtype="bfloat16")
    found = differences(config_facts(NEW, 5), config_facts(read, 4))
    assert [line.partition(":")[0] for line in found] == [
        "rotary_base",
        "rotary_scaling",
        "rotary_base_of_sliding_layers",
    ]
    silent = config(dtype="bfloat16")  # one that says nothing of it at all
    assert "rotary_base: 500000.0 when it was quantized, None here" in differences(
        config_facts(NEW, 5), config_facts(silent, 4)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_key_value_heads", 4), ("rms_norm_eps", 1e-5), ("tie_word_embeddings", True), ("sliding_window", 4096)],
)
def test_every_other_fact_is_compared_too(name, value):
    whole = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "sliding_window": None, "rope_parameters": {}}
    one, other = config(**whole), config(**whole)
    assert differences(config_facts(one, 5), config_facts(other, 5)) == []
    setattr(other, name, value)
    assert len(differences(config_facts(one, 5), config_facts(other, 5))) == 1


def test_layers_with_rotary_embeddings_of_their_own_are_told_apart():
    both = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    written = config_for_both({"rope_parameters": both}, {})
    assert (written["rope_theta"], written["rope_local_base_freq"]) == (1e6, 1e4)
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    old = config(**{name: value for name, value in written.items() if name != "rope_parameters"})
    assert differences(config_facts(config(rope_parameters=both), 5), config_facts(old, 4)) == []


def test_a_configuration_keeps_what_the_source_said_and_the_new_library_left_out():
    before = {"rope_theta": 1e6, "rotary_pct": 0.25, "torch_dtype": "float16", "quantization_config": {}, "odd": [1]}
    new = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "dtype": "bfloat16", "hidden_size": 8}
    assert config_for_both(new, before) == {
        **new,
        "rope_theta": 1e6,
        "rope_scaling": None,
        "rotary_pct": 0.25,
        "odd": [1],
        "torch_dtype": "bfloat16",
    }


def test_names_of_tokenizers_that_only_the_new_library_knows_are_not_written():
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"], "eos_token": "</s>"}
    assert tokenizer_for_both(new) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<x>"],
        "eos_token": "</s>",
    }
    known = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image_token": "<i>"}}
    assert tokenizer_for_both(known) == known


def test_the_sources_own_tokenizer_replaces_the_one_that_was_written_again(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    for place in (source, folder):
        place.mkdir()
        (place / "config.json").write_text("{}")
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (source / "tokenizer.model").write_bytes(b"\0own")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    (folder / "chat_template.jinja").write_text("written again")
    write_for_both(source, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.model", "tokenizer_config.json"]
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"tokenizer_class": "LlamaTokenizer"}


def test_a_refusal_names_every_fact_both_libraries_and_the_next_step():
    told = ("fp8", {"rotary_base": 5e5, "layers": 2}, {"rotary_base": 1e4, "layers": 3}, "transformers 4", "5")
    with pytest.raises(IdentityMismatchError) as said:
        refuse_differences(*told)
    assert str(said.value) == (
        "fp8: transformers 4 reads another model out of this folder than 5 quantized (next step: run evalkit quantize "
        "again, which writes what both read, or serve it with 5):\n"
        "  - rotary_base: 500000.0 when it was quantized, 10000.0 here\n"
        "  - layers: 2 when it was quantized, 3 here"
    )
