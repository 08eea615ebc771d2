"""Options of the adapter `tensorrt_llm`.

In: the `options` mapping of an engine specification. Out: checked options.
Must not depend on: TensorRT-LLM.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from evalkit.configuration import Section


class TensorRTOptions(Section):
    """How TensorRT-LLM runs a model, and how it is asked.

    Attributes:
        tensor_parallel: GPUs that share every layer. Part of `device` in the identity: recipes need different numbers.
        pipeline_parallel: groups of GPUs that share the layers between them.
        context_parallel: groups of GPUs that share the tokens of a request.
        expert_parallel: GPUs among which the experts of a mixture are dealt; None leaves the library's choice.
        gpus_per_node: GPUs of each machine, where the engine runs on several (started under `trtllm-llmapi-launch` or
            `mpirun`); None for one machine.
        max_length: tokens a request may need, the generated ones included; None is what the model was trained for, up
            to 8192.
        max_batch_size: requests in one pass; None leaves the library's choice. Not part of the identity.
        in_flight: requests handed over at once. Not part of the identity: like the batch size, it moves rounding only.
        memory_fraction: share of the free GPU memory that the key-value cache may take.
        kv_cache: type of the key-value cache; "auto" is the checkpoint's own.
        kv_reuse: keep blocks of the cache for prompts that begin alike.
        chunked_prefill: feed long prompts in parts.
        scoring: how continuations of one token are scored: by the candidates of one generated token, or by its logits
            over the whole vocabulary, which are exact for any token and need far more memory.
        top_logprobs: candidates asked for.
        fallback: how often in a run a score may be asked for again with logits, where a continuation is not among the
            candidates; further ones are failures.
        guided_decoding: backend that enforces a JSON schema; None ignores schemas.
        extra: further keywords of TensorRT-LLM's `LLM` (those of its `--extra_llm_api_options` file), such as
            `attn_backend`; recorded in the identity. Keywords that another option says, and those that would change
            which model answers, are refused.
        timeout_s: seconds in which no request under way comes back, after which the engine is taken for dead. Not part
            of the identity. A worker that died is often noticed earlier.
        tokenizer: folder or hub id of the tokenizer, where it is not in the model's folder.
        revision: commit or tag of a hub model.
        trust_remote_code: run Python code that comes with the model; recorded in the identity.
    """

    tensor_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    context_parallel: int = Field(default=1, ge=1)
    expert_parallel: Annotated[int, Field(ge=1)] | None = None
    gpus_per_node: Annotated[int, Field(ge=1)] | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    in_flight: int = Field(default=256, ge=1)
    memory_fraction: float = Field(default=0.8, gt=0, lt=1)
    kv_cache: Literal["auto", "fp8", "nvfp4"] = "auto"
    kv_reuse: bool = True
    chunked_prefill: bool = False
    scoring: Literal["first-token-topk", "first-token-logits"] = "first-token-topk"
    top_logprobs: int = Field(default=20, ge=4)
    fallback: int = Field(default=256, ge=0)
    guided_decoding: Literal["xgrammar", "llguidance"] | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    timeout_s: float = Field(default=900.0, gt=0)
    tokenizer: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def wants_logits(self) -> bool:
        """Whether logits of generated tokens may be asked for."""
        return self.scoring == "first-token-logits" or self.fallback > 0
