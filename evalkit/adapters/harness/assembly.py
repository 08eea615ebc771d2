"""From a specification to an engine around lm-eval's model.

In: an engine specification, checked options. Out: a `HarnessEngine`.
May not know: requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.adapters.harness.engine import HarnessEngine
from evalkit.adapters.harness.identity import identify, length_limit
from evalkit.adapters.harness.loading import build_model
from evalkit.adapters.harness.options import HarnessOptions
from evalkit.errors import EngineError

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

_REFUSED = {
    "trtllm": "it reads each log-probability one place late: KeyError on MMLU with TensorRT-LLM >= 1.3.0rc11, "
    "plausible wrong numbers before; next step: adapter: tensorrt_llm, or openai_server with trtllm-serve",
}
"""Models of lm-eval that are known to score wrongly, and what to use instead."""


def load_harness(spec: EngineSpec, options: HarnessOptions, resources: Resources) -> HarnessEngine:
    """Build a model by lm-eval and read back what was built.

    Raises:
        UsageError: as in `build_model`.
        EngineError: lm-eval cannot build it, it is known to score wrongly, or it does not say how it splits text.
    """
    if spec.model in _REFUSED:
        raise EngineError(f"lm-eval's model '{spec.model}' is refused: {_REFUSED[spec.model]}")
    if options.threads is not None:
        import torch  # noqa: PLC0415 - optional

        torch.set_num_threads(options.threads)
    model, arguments, files = build_model(spec, options, resources)
    lacking = [name for name in ("_encode_pair", "tok_encode", "prefix_token_id") if not hasattr(model, name)]
    if lacking:
        raise EngineError(
            f"lm-eval's model '{spec.model}' does not say how it splits text into tokens (no {', '.join(lacking)}), so "
            "prompts that it would cut cannot be refused; next step: adapter: openai_server or llama_cpp"
        )
    identity, doubts = identify(spec, options, model, arguments, files, resources)
    return HarnessEngine(model, identity, options, length_limit(model, options), doubts)
