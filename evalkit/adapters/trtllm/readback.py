"""What was loaded, read back from the library, and compared with what was meant.

In: a loaded model, its target. Out: `Loaded`, or `RecipeError` with every fault, before the first request.
Must not depend on: requests, scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapters.checkpoint.declared import NONE
from evalkit.adapters.checkpoint.reading import check_resolved
from evalkit.adapters.checkpoint.resolved import PROBES
from evalkit.adapters.checkpoint.stored import exclusion_faults, label_faults
from evalkit.adapters.tokens import tokenizer_text
from evalkit.adapters.trtllm.loading import Session, Target, is_official
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import EngineError, RecipeError, UsageError
from evalkit.records import text_digest

if TYPE_CHECKING:
    from evalkit.adapters.trtllm.loading import Session


# The tokenizer with which every prompt is encoded here, and which the library must share.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalTokenizer:
    """A tokenizer on this machine.

    Attributes:
        tokenizer: transformers' own.
        sha256: digest of its serialised form.
        template_sha256: digest of its chat template; None without one.
        ends: tokens that end an answer.
    """

    tokenizer: Any
    sha256: str
    template_sha256: str | None
    ends: tuple[int, ...]


def load_local(target: Target, options: TensorRTOptions) -> LocalTokenizer:
    """Load the tokenizer of a model, and check that this process reads the model that was quantized.

    TensorRT-LLM reads the folder with the same transformers, so this is known before anything is on a GPU.

    Raises:
        UsageError: a compiled engine, which has none, and no option `tokenizer`.
        IdentityMismatchError: transformers reads another model or tokenizer than was quantized.
        EngineError: transformers cannot load it.
    """
    from transformers import AutoTokenizer, __version__  # noqa: PLC0415 - slow to import

    if target.compiled and options.tokenizer is None and not (target.files.folder / "tokenizer_config.json").exists():
        raise UsageError(f"{target.files.name}: a compiled engine has no tokenizer; next step: the option tokenizer")
    place = options.tokenizer or str(target.files.folder)
    try:
        found: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=options.trust_remote_code)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise EngineError(
            f"{target.files.name}: transformers {__version__} reads no tokenizer out of it: {type(error).__name__}: "
            f"{error}; next step: if another transformers wrote the folder, run evalkit quantize again, which keeps "
            "the files of the original"
        ) from error
    if target.checkpoint is not None:
        check_resolved(target.checkpoint, found, trust_remote_code=options.trust_remote_code)
    template = getattr(found, "chat_template", None)
    return LocalTokenizer(
        tokenizer=found,
        sha256=text_digest(tokenizer_text(found)),
        template_sha256=text_digest(str(template)) if template else None,
        ends=_ends(target.files.folder, found),
    )


def check_shared(session: Session, local: LocalTokenizer) -> None:
    """Check that the library turns text into the same tokens, as it does with stop texts.

    Raises:
        EngineError: it does not.
    """
    theirs = getattr(session.llm, "tokenizer", None)
    if theirs is None:
        return
    for text in PROBES:
        ours = list(local.tokenizer.encode(text, add_special_tokens=False))
        if list(theirs.encode(text, add_special_tokens=False)) != ours:
            raise EngineError(
                f"{session.target.files.name}: TensorRT-LLM loaded another tokenizer than the one in the model's "
                "folder; next step: the option tokenizer"
            )


def _ends(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.exists() else None
        if value is not None:
            return tuple(sorted(map(int, value))) if isinstance(value, list) else (int(value),)
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)


_CACHE_TYPES = {"fp8": "FP8", "nvfp4": "NVFP4", "int8": "INT8"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Quantization as the library holds it.

    Attributes:
        algorithm: of the weights; "none" without.
        kv_cache: type of the key-value cache in effect; "none" for that of the activations.
        group_size: values that share a scale.
        excluded: patterns of modules that stay as they were.
        official: whether the library's own switch for the official Llama recipe is on.
        dtype: type of the unquantized parts.
        length: tokens a request may need.
    """

    algorithm: str
    kv_cache: str
    group_size: int | None
    excluded: tuple[str, ...]
    official: bool
    dtype: str
    length: int | None

    def record(self) -> dict[str, Any]:
        """Return what an identity says about it."""
        return {
            "algorithm": self.algorithm,
            "kv_cache": self.kv_cache,
            "group_size": self.group_size,
            "excluded": list(self.excluded),
            "official_recipe": self.official,
        }


def read_loaded(session: Session) -> Loaded:
    """Read back what the library loaded.

    Raises:
        EngineError: it does not say.
    """
    args = getattr(session.llm, "args", None)
    if args is None:
        raise EngineError(f"TensorRT-LLM {session.library.version}: the loaded model has no args to read back")
    quantization, cache = getattr(args, "quant_config", None), getattr(args, "kv_cache_config", None)
    own = _word(getattr(quantization, "kv_cache_quant_algo", None))
    asked = str(getattr(cache, "dtype", "auto") or "auto").lower()
    dtype = str(getattr(args, "dtype", "auto")).removeprefix("torch.")
    stored = session.target.config.get("dtype") or session.target.config.get("torch_dtype")
    return Loaded(
        algorithm=_word(getattr(quantization, "quant_algo", None)),
        kv_cache=own if asked == "auto" else _CACHE_TYPES.get(asked, NONE),
        group_size=getattr(quantization, "group_size", None),
        excluded=tuple(map(str, getattr(quantization, "exclude_modules", None) or ())),
        official=bool(getattr(quantization, "use_meta_recipe", False)),
        dtype=str(stored) if dtype == "auto" and stored else dtype,
        length=getattr(args, "max_seq_len", None),
    )


def check_loaded(session: Session, loaded: Loaded, options: TensorRTOptions) -> None:
    """Compare what was loaded with what the files declare and hold, and with the recipe.

    Raises:
        RecipeError: lists every contradiction.
        EngineError: the library has another limit than was asked for.
    """
    target = session.target
    faults = [
        *_declared_faults(target, loaded, options),
        *_held_faults(session, loaded),
        *_recipe_faults(target, loaded),
    ]
    if faults:
        raise RecipeError(
            "\n  - ".join(
                [f"{target.files.name}: what TensorRT-LLM {session.library.version} loaded is not it:", *faults]
            )
        )
    if loaded.length is not None and loaded.length < session.max_length:
        raise EngineError(
            f"{target.files.name}: TensorRT-LLM takes {loaded.length} tokens a request, not {session.max_length}; next "
            f"step: max_length: {loaded.length}"
        )


def _declared_faults(target: Target, loaded: Loaded, options: TensorRTOptions) -> list[str]:
    declared, faults = target.declared, []
    if declared.algorithm != loaded.algorithm:
        faults.append(f"the files declare {declared.algorithm}, loaded is {loaded.algorithm}{_step(target, loaded)}")
    wanted = declared.kv_cache if options.kv_cache == "auto" else _CACHE_TYPES[options.kv_cache]
    if wanted != loaded.kv_cache:
        faults.append(f"the key-value cache should be {wanted}, loaded is {loaded.kv_cache}")
    return faults


def _step(target: Target, loaded: Loaded) -> str:
    if loaded.algorithm == NONE and not target.declared.method.startswith("modelopt"):
        return (
            f". TensorRT-LLM does not read {target.declared.method} checkpoints; next step: evalkit quantize with the "
            "recipe, or a server that reads it (adapter: openai_server)"
        )
    return ""


def _held_faults(session: Session, loaded: Loaded) -> list[str]:
    """Compare layer by layer; a compiled engine has no layers to look at."""
    checkpoint = session.target.checkpoint
    if checkpoint is None or loaded.algorithm == NONE or not checkpoint.stored.quantized:
        return []
    if checkpoint.declared.algorithm != loaded.algorithm:
        return []  # said already, and every layer would say it again
    return exclusion_faults("loaded", loaded.excluded, checkpoint.stored, _matcher(session))


def _matcher(session: Session) -> Callable[[str], bool] | None:
    found = getattr(getattr(session.llm.args, "quant_config", None), "is_module_excluded_from_quantization", None)
    return found if callable(found) else None


def _recipe_faults(target: Target, loaded: Loaded) -> list[str]:
    recipe = target.recipe
    if recipe is None:
        return []
    traced = target.checkpoint is not None and target.checkpoint.trace is not None
    faults = [] if traced and not recipe.expectation.declared else label_faults(recipe, "loaded", *_labels(loaded))
    by_layers = target.checkpoint is not None and bool(target.checkpoint.stored.quantized)
    if not by_layers and is_official(recipe) != loaded.official and loaded.algorithm != NONE:
        has, wants = ("on", "off") if loaded.official else ("off", "on")
        faults.append(f"the switch for the official recipe is {has}, recipe '{recipe.name}' needs it {wants}")
    return faults


def _labels(loaded: Loaded) -> tuple[str, str]:
    return loaded.algorithm, loaded.kv_cache


def _word(value: Any) -> str:
    text = str(getattr(value, "value", value) or NONE)
    return NONE if text == "NO_QUANT" else text
