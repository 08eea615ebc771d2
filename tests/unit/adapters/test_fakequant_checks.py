"""What is read back from quantizers, as plain values: labels, counts, faults. No model is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evalkit.adapters.fakequant.options import refuse_device
from evalkit.adapters.fakequant.quantize import calibration_rows, read_texts
from evalkit.adapters.fakequant.readback import QuantizerState, algorithm, check_recipe, counts, kv_cache
from evalkit.errors import RecipeError, UsageError
from evalkit.recipes import load_recipe, recipe_names, resolve_recipe

E4M3, E2M1 = (4, 3), (2, 1)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def state(role="weight", bits=E4M3, name="m.layers.0.x.weight_quantizer", **changes):
    return QuantizerState(**{"name": name, "role": role, "bits": bits, "calibrated": True, **changes})


def dynamic_rows(role="input"):
    return state(role, blocks={-1: None}, dynamic=True, calibrated=False)


def fp8_model(layers=2):
    """The quantizers of `modelopt-fp8` in a model with so many layers."""
    return [
        state(role, name=f"model.layers.{layer}.{linear}.{role}_quantizer")
        for layer in range(layers)
        for linear in LINEARS
        for role in ("weight", "input")
    ]


def faults(states, recipe="modelopt-fp8", layers=2, protected=("lm_head", "model.embed_tokens")):
    with pytest.raises(RecipeError) as caught:
        check_recipe(resolve_recipe(load_recipe(recipe), layers), states, layers=layers, protected=protected)
    first, *rest = str(caught.value).split("\n  - ")
    assert first == f"recipe '{recipe}' was not applied as declared:"
    return rest


@pytest.mark.parametrize(
    ("states", "label"),
    [
        ([state(), state("input")], "FP8"),
        ([state(axis=(0,)), dynamic_rows()], "FP8_PER_CHANNEL_PER_TOKEN"),
        ([state(axis=(0,)), state("input", axis=(0, 1), dynamic=True)], "FP8_PER_CHANNEL_PER_TOKEN"),
        ([state(axis=(0,)), state("input")], "FP8_CHANNEL_TENSOR"),
        ([state(bits=4, blocks={-1: 128}, smoothed=True)], "W4A16_AWQ"),
        ([state(bits=4, blocks={-1: 128})], "W4A16"),
        ([state(bits=2, axis=(0,))], "W2A16"),
        ([state(bits=4, smoothed=True), state(smoothed=True), state("input", smoothed=True)], "W4A8_AWQ"),
        ([state(bits=8, axis=(0,), smoothed=True), state("input", 8, smoothed=True)], "W8A8_SQ_PER_CHANNEL"),
        ([state(bits=E2M1, blocks={-1: 16}), state("input", E2M1, blocks={-1: 16})], "NVFP4"),
        ([state("input")], "W_none_A_FP8"),
        ([], "W_none_A_none"),
    ],
)
def test_a_set_of_quantizers_has_the_name_that_exports_give_it(states, label):
    assert algorithm(states) == label


@pytest.mark.parametrize(
    ("states", "label"),
    [
        ([], "none"),
        ([state("k"), state("v")], "FP8"),
        ([state("k", E2M1), state("v", E2M1)], "NVFP4"),
        ([state("k")], "keys FP8, values none"),
        ([state("k"), state("v", 8)], "keys FP8, values INT8"),
    ],
)
def test_the_key_value_cache_is_named_by_both_halves(states, label):
    assert kv_cache(states) == label


def test_quantizers_are_counted_by_role():
    assert counts([state(), state("k"), state()]) == {"k": 1, "weight": 2}


def test_what_a_recipe_declares_passes():
    check_recipe(resolve_recipe(load_recipe("modelopt-fp8"), 2), fp8_model(), layers=2, protected=["lm_head"])


def test_another_number_of_quantizers_is_a_fault_with_both_numbers():
    (fault,) = faults(fp8_model()[:-2])
    assert fault == (
        "26 quantizers are enabled (13 input, 13 weight); declared are 28 (14 in each of 2 layers). "
        "Next step: correct the patterns in quant_cfg, or enabled_quantizers in the expectation file"
    )


def test_no_quantizer_at_all_is_a_fault():
    assert faults([])[0].startswith("no quantizer is enabled")


@pytest.mark.parametrize("wrong", [{"calibrated": False}, {"dynamic": True}, {"constant": True}])
def test_a_quantizer_must_have_exactly_one_kind_of_scale(wrong):
    states = fp8_model()
    states[2] = state("weight", name=states[2].name, **wrong)
    (fault,) = faults(states)
    assert fault.startswith(f"{states[2].name}: no finite scale was calibrated")
    assert "Next step: calibrate (option calibration)" in fault


def test_one_dynamic_scale_for_a_whole_batch_is_a_fault():
    states = fp8_model()
    states[1] = state("input", name=states[1].name, dynamic=True, calibrated=False)
    (fault,) = faults(states)
    assert fault.startswith(f"{states[1].name}: one dynamic scale for a whole batch")
    assert "write block_sizes: {-1: null}" in fault


@pytest.mark.parametrize("place", ["lm_head", "model.embed_tokens"])
def test_output_layer_and_embeddings_stay_unquantized(place):
    states = [*fp8_model()[1:], state(name=f"{place}.weight_quantizer")]
    (fault,) = faults(states)
    assert fault.startswith(f"{place}.weight_quantizer: output layer and embeddings must stay unquantized; next step")


def test_another_algorithm_and_another_cache_are_faults_together():
    states = [*fp8_model()[:-2], state("k"), state("v")]
    states[0] = state(bits=8)
    step = "Next step: correct the recipe, or its expectation file"
    assert faults(states) == [
        f"algorithm read back is W_FP8+INT8_A_FP8, declared is FP8. {step}",
        f"KV cache read back is FP8, declared is none. {step}",
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_library_says_where_it_runs(name):
    recipe = load_recipe(name)
    refuse_device(recipe, "cuda:0")
    if "cpu" in recipe.expectation.devices:
        refuse_device(recipe, "cpu")
    else:
        with pytest.raises(
            UsageError, match=f"recipe '{name}' uses NVFP4.* on CUDA GPUs only; next step: device: cuda"
        ):
            refuse_device(recipe, "cpu")


@pytest.mark.parametrize(
    ("cfg", "seen"),
    [
        ({"num_bits": "e4m3", "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": "e8m0"}}, "an MX format"),
        ({"num_bits": 8, "block_sizes": {-1: 32, "scale_bits": [8, 0]}}, "an MX format"),
        ([{"num_bits": 4}, {"num_bits": [2, 1]}], "NVFP4"),
    ],
)
def test_formats_without_a_processor_kernel_are_refused_wherever_they_stand(tmp_path: Path, cfg, seen):
    entry = {"quantizer_name": "*weight_quantizer", "cfg": cfg}
    document = {"metadata": {"recipe_type": "ptq"}, "quantize": {"algorithm": "max", "quant_cfg": [entry]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    recipe = load_recipe(tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match=f"recipe 'mine' uses {seen}, which ModelOpt computes on CUDA GPUs only"):
        refuse_device(recipe, "cpu")


class Letters:
    """One letter, one token; a start token before every text."""

    def __call__(self, text, add_special_tokens=True, verbose=True):
        return {"input_ids": [0] * add_special_tokens + [ord(letter) for letter in text]}


def test_calibration_rows_are_equally_long_never_overlap_and_begin_with_the_start_token(tmp_path):
    (tmp_path / "texts.txt").write_text("abcd\n\nefgh\n")
    made = calibration_rows(Letters(), file=tmp_path / "texts.txt", samples=3, tokens=4)
    assert ["".join(map(chr, row[1:])) for row in made.rows] == ["abc", "d\n\n", "efg"]
    assert {row[0] for row in made.rows} == {0}
    record = made.record()
    assert (record["source"], record["samples"], record["tokens"]) == ("texts.txt", 3, 4)


def test_too_little_calibration_text_is_said_in_tokens(tmp_path):
    (tmp_path / "texts.txt").write_text("abc")
    with pytest.raises(UsageError, match=r"texts\.txt: 3 tokens of .*; 2 rows of 9 tokens need 16; next step"):
        calibration_rows(Letters(), file=tmp_path / "texts.txt", samples=2, tokens=9)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.jsonl", '"one"\n{"text": 2}\n', "line 2: neither a text nor an object with a key 'text'"),
        ("a.jsonl", '{"text": "one"}\n{oops\n', "line 2: not JSON"),
        ("a.csv", "one", "come as .txt or .jsonl"),
    ],
)
def test_bad_calibration_files_are_named_by_file_and_line(tmp_path, name, text, fault):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        read_texts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert fault in str(caught.value)


def test_calibration_texts_come_from_lines_or_paragraphs(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\n\n{"text": "two"}\n')
    assert read_texts(tmp_path / "a.jsonl") == ["one", "two"]
    (tmp_path / "a.txt").write_text("one\n\n\n\ntwo\nlines\n")
    assert read_texts(tmp_path / "a.txt") == ["one", "two\nlines"]
