"""The identity of a loaded model, read back from memory.

In: a loaded model and what was done to it. Out: `EngineIdentity`.
May not know: what the specification asked for, beyond names that cannot be read back.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch
import transformers

from evalkit.adapters.causal.loading import LoadedModel
from evalkit.adapters.checkpoint.declared import NONE, Declared, read_declared
from evalkit.adapters.processor import processor
from evalkit.errors import EngineError
from evalkit.records import EngineIdentity, Fidelity, text_digest

UNQUANTIZED: Mapping[str, Any] = {"algorithm": "none", "kv_cache": "none", "enabled": {}}
"""`EngineIdentity.quantization` of a model as it is stored."""


def identify(
    adapter: str,
    loaded: LoadedModel,
    *,
    recipe: str = "none",
    recipe_sha256: str | None = None,
    fidelity: Fidelity = "engine",
    quantization: Mapping[str, Any] = UNQUANTIZED,
    packages: Sequence[str] = (),
    options: Mapping[str, Any],
) -> EngineIdentity:
    """Return what was loaded.

    Args:
        adapter: adapter name.
        loaded: model and tokenizer.
        recipe: recipe name.
        recipe_sha256: digest of the resolved recipe.
        fidelity: as in `EngineIdentity`.
        quantization: what was done to the model, as read back by the adapter.
        packages: distributions besides torch and transformers whose version matters.
        options: what else can change an answer.
    """
    template = getattr(loaded.tokenizer, "chat_template", None)
    versions = {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}
    return EngineIdentity(
        adapter=adapter,
        model=loaded.files.name,
        weights_sha256=loaded.files.weights_sha256,
        recipe=recipe,
        recipe_sha256=recipe_sha256,
        fidelity=fidelity,
        quantization=quantization,
        dtype=str(loaded.model.get_input_embeddings().weight.dtype).removeprefix("torch."),
        tokenizer_sha256=text_digest(loaded.tokenizer_text),
        chat_template_sha256=text_digest(str(template)) if template else None,
        versions={**versions, **{package: metadata.version(package) for package in packages}},
        device=device_name(loaded.device),
        options={"attention": loaded.model.config._attn_implementation, **options},
        processor=processor_of(loaded.model),
    )


def stored_quantization(loaded: LoadedModel) -> Mapping[str, Any]:
    """Read back how a checkpoint is quantized by itself (`fbgemm_fp8`, `compressed-tensors`, ...).

    Where no kernel fits the device transformers expands the weights and forgets that they were codes: `expanded`.

    Raises:
        EngineError: the checkpoint declares a quantization that transformers did not apply.
    """
    declared = getattr(loaded.model.config, "quantization_config", None)
    if declared is None:
        stored = Declared() if loaded.files.gguf else read_declared(loaded.files.folder)
        if stored.algorithm == NONE:
            return UNQUANTIZED
        return {**UNQUANTIZED, "algorithm": stored.method or stored.algorithm, "expanded": True}
    values = declared if isinstance(declared, dict) else declared.to_dict()
    method = str(getattr(values.get("quant_method"), "value", values.get("quant_method")))
    if getattr(loaded.model, "hf_quantizer", None) is None:
        raise EngineError(f"{loaded.files.name}: declares quantization {method!r}, which transformers did not apply")
    return {**UNQUANTIZED, "algorithm": method}


def processor_of(model: Any) -> dict[str, Any] | None:
    """Return the processor that computes a torch model, or a part of it; None where GPUs compute all of it."""
    if all(weight.device.type != "cpu" for weight in model.parameters()):
        return None
    return processor(torch_capability=torch.backends.cpu.get_cpu_capability())


def device_name(device: str) -> str:
    """Name the processor kind with its vector instructions, or the GPU."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def model_limit(model: Any) -> int:
    """Return the number of positions a model was built for.

    Raises:
        EngineError: the configuration does not say; then no request can be refused as too long.
    """
    config = model.config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise EngineError("the model's configuration names no maximum length; next step: set the option max_length")


def end_tokens(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the tokens that end an answer: the generation config's, else the model's, else the tokenizer's."""
    places = (getattr(loaded.model, "generation_config", None), loaded.model.config, loaded.tokenizer)
    for place in places:
        value = getattr(place, "eos_token_id", None)
        if value is not None:
            return tuple(sorted(value)) if isinstance(value, (list, tuple)) else (int(value),)
    return ()
