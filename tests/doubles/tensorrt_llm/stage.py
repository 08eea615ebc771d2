"""The real model behind the double: transformers on the CPU, with a key-value cache for equal beginnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from . import faults

_models: dict[Path, Any] = {}
"""Models by folder: loading one again takes seconds and changes nothing."""


class Stage:
    def __init__(self, folder: Path, cache: Any) -> None:
        self.folder, self.tokenizer = folder, AutoTokenizer.from_pretrained(str(folder))
        if folder not in _models:
            _models[folder] = _load(folder)
        self.model = _models[folder]
        self.block = cache.tokens_per_block if cache.enable_block_reuse else None
        self.blocks: set[tuple[str, tuple[int, ...]]] = set()
        self.kept: tuple[list[int], Any] = ([], None)
        self.ends = self._ends()

    def _ends(self) -> set[int]:
        found = {self.tokenizer.eos_token_id}
        path = self.folder / "generation_config.json"
        value = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        found |= set(value) if isinstance(value, list) else {value}
        return found - {None}

    def reuse(self, ids: list[int], salt: str) -> int:
        """Return how many tokens come out of reused blocks, and remember the blocks of this prompt."""
        if self.block is None:
            return 0
        ends = range(self.block, len(ids), self.block)  # the last token is always computed
        known = 0
        for end in ends:
            if (salt, tuple(ids[:end])) not in self.blocks:
                break
            known = end
        self.blocks |= {(salt, tuple(ids[:end])) for end in ends}
        return known

    @torch.inference_mode()
    def prompt_logits(self, ids: list[int], *, everywhere: bool) -> Any:
        """Return fp32 logits after each token, or after the last ones only; the cache keeps this prompt."""
        shared = 0 if everywhere else _common(self.kept[0], ids)
        cache = DynamicCache()
        if shared:
            cache = self.kept[1]
            cache.crop(shared)
        logits = self.model(input_ids=torch.tensor([ids[shared:]]), past_key_values=cache, use_cache=True).logits[0]
        self.kept = (ids, cache)
        return logits.float()

    @torch.inference_mode()
    def answer(self, ids: list[int], last: Any, params: Any, count: int, done: Any) -> None:
        """Generate; `done.logprobs` is filled with rows and tokens."""
        dice = torch.Generator().manual_seed(params.seed or 0)
        stops = [self.tokenizer.encode(text, add_special_tokens=False) for text in params.stop or ()]
        ends = self.ends | set(params.stop_token_ids or ())
        rows, raw, tokens, cache = [], [], [], self.kept[1]
        while True:
            token = _choose(last, params, dice)
            rows.append((last.log_softmax(-1), token))
            raw.append(last)
            tokens.append(token)
            if token in ends and not params.ignore_eos:
                done.finish_reason = "stop"
                break
            stopped = next((one for one in stops if tokens[-len(one) :] == one), None)
            if stopped is not None:
                if not params.include_stop_str_in_output:
                    del tokens[-len(stopped) :]
                done.finish_reason = "stop"
                break
            if len(tokens) >= count:
                done.finish_reason = "length"
                break
            out = self.model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            last = out.logits[0, -1].float()
        cache.crop(len(ids))
        done.token_ids, done.logprobs = tokens, rows
        done.text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if params.return_generation_logits and not faults.hide_logits:
            done.generation_logits = torch.stack(raw)


def _choose(logits: Any, params: Any, dice: Any) -> int:
    if params._greedy_decoding:
        return int(logits.argmax())
    shares = torch.softmax(logits.double() / (params.temperature or 1.0), dim=-1)
    return int(torch.multinomial(shares, 1, generator=dice))


def _common(first: list[int], second: list[int]) -> int:
    """Length of the common beginning; one token at least is computed anew."""
    length = 0
    for a, b in zip(first, second[:-1], strict=False):
        if a != b:
            break
        length += 1
    return length


def _load(folder: Path) -> Any:
    """Load a checkpoint in float32; packed FP8 and INT8 weights are multiplied with their scales."""
    if not (folder / "hf_quant_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    config = AutoConfig.from_pretrained(str(folder))
    config.quantization_config = None
    tensors = load_file(next(folder.glob("*.safetensors")))
    weights = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] in ("weight", "bias"):
            scale = tensors.get(f"{name}_scale")
            weights[name] = tensor.float() if scale is None else tensor.float() * scale.float().reshape(-1, 1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    return model.eval()
