"""Configurations: unknown keywords raise, as in the library."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..eras import since
from ..quantization import QuantAlgo


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(kw_only=True)
class GuidedDecodingParams:
    json: Any = None
    regex: str | None = None


class KvCacheConfig(_Strict):
    enable_block_reuse: bool = True
    free_gpu_memory_fraction: float = 0.9
    max_tokens: int | None = None
    dtype: str = "auto"
    tokens_per_block: int = 32
    enable_partial_reuse: bool = True


class QuantConfig(_Strict):
    quant_algo: QuantAlgo | None = None
    kv_cache_quant_algo: QuantAlgo | None = None
    group_size: int | None = 128
    smoothquant_val: float = 0.5
    clamp_val: list[float] | None = None
    use_meta_recipe: bool = False
    has_zero_point: bool = False
    pre_quant_scale: bool = False
    exclude_modules: list[str] | None = None

    def is_module_excluded_from_quantization(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.exclude_modules or ())


class _BaseArgs(_Strict):
    model: Any
    tokenizer: Any = None
    tokenizer_mode: Literal["auto", "slow"] = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    revision: str | None = None
    max_batch_size: int | None = 2048
    max_input_len: int | None = 1024
    max_seq_len: int | None = None
    max_num_tokens: int | None = 8192
    enable_chunked_prefill: bool = False
    gather_generation_logits: bool = False
    guided_decoding_backend: str | None = None
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    quant_config: QuantConfig | None = None
    disable_overlap_scheduler: bool = False


if since("1.3.0"):

    class TorchLlmArgs(_BaseArgs):
        generation_config: Literal["trtllm", "auto"] = "trtllm"
else:

    class TorchLlmArgs(_BaseArgs):
        pass
