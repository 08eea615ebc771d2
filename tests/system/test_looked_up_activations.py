"""Activations rounded by tables: the same bits as ModelOpt's own quantizers, for every number and every shape."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("modelopt")

import torch
from transformers import AutoModelForCausalLM

from evalkit.adapters.fakequant.backends import E4M3_MAX, look_up, quantize_rows
from evalkit.adapters.fakequant.backends import TABLE_BACKEND as BACKEND

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

E4M3 = {"num_bits": (4, 3), "axis": None}
KINDS = {
    "a static scale": (E4M3, True),
    "eight bits": ({"num_bits": 8, "axis": None}, True),
    "a constant scale": (E4M3 | {"use_constant_amax": True}, True),
    "a scale for each batch": (E4M3 | {"type": "dynamic"}, False),
    "a scale for each row": (E4M3 | {"block_sizes": {-1: None, "type": "dynamic"}}, False),
}


def quantizer(settings):
    from modelopt.torch.quantization.config import QuantizerAttributeConfig  # noqa: PLC0415 - slow to import
    from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: PLC0415

    made = TensorQuantizer(QuantizerAttributeConfig(**settings))
    if not made._dynamic and not settings.get("use_constant_amax"):
        made.amax = torch.tensor(3.7)
    return made


class Holder(torch.nn.Module):
    """A model as far as tables need one."""

    def __init__(self, part, dtype):
        super().__init__()
        self.words, self.part = torch.nn.Embedding(4, 4, dtype=dtype), part

    def get_input_embeddings(self):
        return self.words


def every_number(dtype):
    return torch.arange(1 << 16).to(torch.int32).sub_(1 << 15).to(torch.int16).view(dtype)


def same_bits(left, right):
    kind = torch.int16 if left.dtype.itemsize == 2 else torch.int32
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left.view(kind), right.view(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_gets_the_bits_that_modelopt_gives_it(kind, dtype):
    settings, tabled = KINDS[kind]
    part = quantizer(settings)
    numbers = every_number(dtype).view(256, 256)
    finite = numbers.nan_to_num(0.0, 0.0, 0.0)
    expected = part(finite), part(numbers) if tabled else None
    assert look_up(Holder(part, dtype)) == tabled
    assert (part.backend == BACKEND) == tabled
    assert same_bits(part(finite), expected[0])
    assert not torch.equal(expected[0], finite)
    if tabled:
        assert same_bits(part(numbers), expected[1]), "infinite ones and those that are no numbers, too"


def test_a_view_that_is_not_in_order_keeps_its_places():
    part = quantizer(E4M3)
    states = torch.randn((2, 5, 3, 8), generator=torch.Generator().manual_seed(2)).bfloat16().transpose(1, 2)
    expected = part(states)
    assert look_up(Holder(part, torch.bfloat16)) == 1
    assert same_bits(part(states), expected)


def test_numbers_of_another_type_are_computed():
    part = quantizer(E4M3)
    states = torch.randn((4, 8), generator=torch.Generator().manual_seed(2))
    expected = part(states)
    look_up(Holder(part, torch.bfloat16))
    assert same_bits(part(states), expected)
    assert part.backend == BACKEND, "the table stays for the next call"


@pytest.mark.parametrize("change", ["off", "calibrating", "scaled", "of another backend"])
def test_a_quantizer_that_does_something_else_too_gets_no_table(change):
    part = quantizer(E4M3)
    if change == "off":
        part.disable()
    elif change == "calibrating":
        part.enable_calib()
    elif change == "scaled":
        part.pre_quant_scale = torch.full((8,), 2.0)
    else:
        look_up(Holder(part, torch.bfloat16))
    assert look_up(Holder(part, torch.bfloat16)) == 0


def test_a_model_in_fp32_gets_no_table():
    assert look_up(Holder(quantizer(E4M3), torch.float32)) == 0


def test_a_recipe_in_bf16_looks_up_activations_and_keys_and_values(tiny_folder):
    from modelopt.torch import quantization as mtq  # noqa: PLC0415 - slow to import

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16).eval()
    tokens = torch.arange(3, 40)[None]
    both = mtq.utils.update_quant_cfg_with_kv_cache_quant(dict(mtq.FP8_DEFAULT_CFG), mtq.FP8_KV_CFG["quant_cfg"])
    mtq.quantize(model, both, forward_loop=lambda one: one(input_ids=tokens))
    with torch.inference_mode():
        expected = model(input_ids=tokens).logits
        mtq.fold_weight(model)
        found = look_up(model)
        assert same_bits(model(input_ids=tokens).logits, expected)
    names = [name for name, part in model.named_modules() if getattr(part, "backend", None) == BACKEND]
    assert len(names) == found
    layers = model.config.num_hidden_layers
    for role, each in (("input_quantizer", 7), ("k_bmm_quantizer", 1), ("v_bmm_quantizer", 1)):
        assert sum(name.endswith(role) for name in names) == each * layers


def test_e4m3_codes_are_read_as_torch_reads_them():
    codes = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    numbers = codes.float()
    rows = numbers[numbers.isfinite()][None].clone()
    rows[0, 0] = E4M3_MAX  # the scale is one, so every code is its own number
    assert torch.equal(quantize_rows(rows, 1200.0), rows)
