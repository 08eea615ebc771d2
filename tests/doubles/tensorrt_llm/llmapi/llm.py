"""The LLM class."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from .. import faults
from ..eras import layout, since
from ..executor import RequestError
from ..executor.result import Logprob
from ..sampling_params import SamplingParams
from ..stage import Stage
from .configs import QuantConfig, TorchLlmArgs
from .results import CompletionOutput, RequestOutput

VISIBLE_GPUS = 8

closed: list[Any] = []
"""Every instance that was shut down."""

opened: list[Any] = []
"""Every instance that was begun, whether it could be loaded or not."""

seen: list[list[int]] = []
"""Every prompt, in the order in which it came."""


class _Tokenizer:
    """The library's wrapper around a transformers tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str, *args: Any, **options: Any) -> list[int]:
        return self.tokenizer.encode(text, *args, **options)

    def decode(self, ids: list[int], *args: Any, **options: Any) -> str:
        return self.tokenizer.decode(ids, *args, **options)


class LLM:
    def __init__(self, model: Any, **keywords: Any) -> None:
        opened.append(self)
        for name in keywords:
            if name not in TorchLlmArgs.model_fields:
                raise ValueError(f"LLM got invalid argument: {name}")
        self.args = TorchLlmArgs(model=model, **keywords)
        needed = self.args.tensor_parallel_size * self.args.pipeline_parallel_size
        if needed > VISIBLE_GPUS:
            raise RuntimeError(f"Only {VISIBLE_GPUS} GPUs are available, but {needed} are required.")
        self._open(Path(model))

    def _open(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        declared = self._declared(folder)
        self.args.quant_config = declared or QuantConfig()
        for name, value in (faults.loaded_quantization or {}).items():
            setattr(self.args.quant_config, name, value)
        if faults.kv_cache_type is not None:
            self.args.kv_cache_config.dtype = faults.kv_cache_type
        if self.args.max_seq_len is None:
            self.args.max_seq_len = config["max_position_embeddings"]
        self._stage = Stage(folder, self.args.kv_cache_config)
        self._count = 0
        self._dead = False

    def _declared(self, folder: Path) -> QuantConfig | None:
        path = folder / "hf_quant_config.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text())["quantization"]
        return QuantConfig(**{name: value for name, value in found.items() if name in QuantConfig.model_fields})

    @property
    def tokenizer(self) -> Any:
        return _Tokenizer(self._stage.tokenizer)

    def generate(
        self,
        inputs: Any,
        sampling_params: Any = None,
        use_tqdm: bool = True,
        cache_salt: Any = None,
    ) -> Any:
        single = not isinstance(inputs, list) or isinstance(inputs[0], int)
        prompts = [inputs] if single else inputs
        found = [
            self.generate_async(
                prompt,
                sampling_params=sampling_params[place] if isinstance(sampling_params, list) else sampling_params,
                cache_salt=cache_salt[place] if isinstance(cache_salt, list) else cache_salt,
            ).result()
            for place, prompt in enumerate(prompts)
        ]
        return found[0] if single else found

    def generate_async(
        self, inputs: Any, sampling_params: Any = None, streaming: bool = False, cache_salt: str | None = None
    ) -> RequestOutput:
        if self._stage is None:
            raise RuntimeError("LLM is shutdown")
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams, but got {type(sampling_params)}")
        ids = list(inputs["prompt_token_ids"] if isinstance(inputs, dict) else inputs)
        number, self._count = self._count, self._count + 1
        if faults.dies_at is not None and number >= faults.dies_at:
            raise RuntimeError("Executor worker returned error: CUDA error: an illegal memory access was encountered")
        seen.append(ids)
        limit = self.args.max_num_tokens
        if limit is not None and not self.args.enable_chunked_prefill and len(ids) > limit:
            raise RequestError(f"The sum of prompt length ({len(ids)}) should not exceed max_num_tokens ({limit})")
        return RequestOutput(number, ids, lambda output: self._run(output, sampling_params, cache_salt))

    def __getattr__(self, name: str) -> Any:
        if name == "_check_health" and faults.health is not None:
            return self._say_health
        raise AttributeError(name)

    def _say_health(self) -> bool:
        if isinstance(faults.health, Exception):
            raise faults.health
        return bool(faults.health)

    def shutdown(self) -> None:
        if faults.shutdown_hangs:
            closed.append(self)
            threading.Event().wait()
        if self._stage is not None:
            self._stage = None
            closed.append(self)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: Any) -> bool:
        self.shutdown()
        return False

    def _run(self, output: RequestOutput, params: Any, salt: str | None) -> None:
        if faults.fails_all_at is not None and output.request_id >= faults.fails_all_at:
            raise RequestError(faults.fails_with)
        if output.request_id in faults.refused:
            raise RequestError("request refused by the executor")
        ids = output.prompt_token_ids
        room = self.args.max_seq_len - len(ids)
        if room < 1:
            raise RequestError(f"Prompt length ({len(ids)}) exceeds maximum input length ({self.args.max_seq_len - 1})")
        if faults.short_prompt:
            ids = output.prompt_token_ids = ids[3:]
        stage = self._stage
        wanted = params.prompt_logprobs is not None and (since("1.1.0rc0") or bool(params.prompt_logprobs))
        reused = stage.reuse(ids, "" if faults.salts_ignored else salt or "")
        logits = stage.prompt_logits(ids, everywhere=wanted)
        done = CompletionOutput()
        # Answers that do not fit are cut without a word, as the executor does.
        stage.answer(ids, logits[-1], params, min(params.max_tokens, room), done)
        if params.logprobs is not None:
            done.logprobs = [self._entry(row, params.logprobs, token) for row, token in done.logprobs]
        else:
            done.logprobs = []
        if wanted:
            done.prompt_logprobs = self._prompt(ids, logits, params.prompt_logprobs, done.token_ids[0])[reused:]
        output.outputs = [done]

    def _entry(self, row: Any, top: int, token: int) -> dict[int, Logprob]:
        found = self._top(row, top)
        for hidden in faults.hidden - {token}:
            found.pop(hidden, None)
        found[token] = Logprob(float(row[token]), int((row > row[token]).sum()) + 1)
        if faults.not_a_number:
            return {key: Logprob(float("nan"), one.rank) for key, one in found.items()}
        return found

    def _top(self, row: Any, top: int) -> dict[int, Logprob]:
        values, places = row.topk(top) if top else ((), ())
        return {
            int(key): Logprob(float(value), rank)
            for rank, (key, value) in enumerate(zip(places, values, strict=True), 1)
        }

    def _prompt(self, ids: list[int], logits: Any, top: int, generated: int) -> list[dict[int, Logprob]]:
        """Entry i holds the distribution after token i; which further token it holds is a matter of the era."""
        era = faults.layout or layout()
        rows = logits.log_softmax(-1)
        following = [*ids[1:], generated]
        entries = []
        for place, row in enumerate(rows):
            entry = self._top(row, top)
            token = {"A": None, "B": ids[place], "C": following[place]}[era]
            if token is not None:
                entry.setdefault(token, Logprob(float(row[token]), int((row > row[token]).sum()) + 1))
            entries.append({key: Logprob(one.logprob + faults.shifted, one.rank) for key, one in entry.items()})
        return entries


class EngineLLM(LLM):
    """An engine compiled ahead: a folder of `rank*.engine`, whose config.json is TensorRT-LLM's own."""

    def _open(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        built, inside = config["build_config"], config["pretrained_config"]["quantization"]
        self.args.max_seq_len = built["max_seq_len"]
        self.args.quant_config = QuantConfig(**{k: v for k, v in inside.items() if k in QuantConfig.model_fields})
        for name, value in (faults.loaded_quantization or {}).items():
            setattr(self.args.quant_config, name, value)
        # The weights in an engine are compiled; the double finds them where the engine says it was built from.
        self._stage = Stage(Path(config["double_weights"]), self.args.kv_cache_config)
        self._count, self._dead = 0, False
