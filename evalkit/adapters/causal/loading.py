"""Loading a transformers causal model.

In: an engine specification and its files. Out: model and tokenizer in evaluation mode, checked after loading.
Must not depend on: recipes, scoring, generation.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
import transformers
import transformers.modeling_gguf_pytorch_utils as gguf
from safetensors import SafetensorError

from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.checkpoint.declared import NONE, Declared, read_config, read_declared
from evalkit.adapters.processor import device_name, processor_of
from evalkit.adapters.source import Kind, ModelFiles, find_model
from evalkit.adapters.tokens import tokenizer_text
from evalkit.errors import EngineError, UsageError, suggestion
from evalkit.records import EngineIdentity, Fidelity, text_digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec


DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedModel:
    """A model in memory.

    Attributes:
        model: transformers causal model, evaluation mode.
        tokenizer: its tokenizer.
        files: where it came from.
        device: "cpu", "cuda" or "cuda:N".
        tokenizer_text: serialised tokenizer as loaded, before any call could change its padding state.
    """

    model: Any
    tokenizer: Any
    files: ModelFiles
    device: str
    tokenizer_text: str


def load_model(
    spec: EngineSpec, options: CausalOptions, resources: Resources, *, kinds: tuple[Kind, ...] = ("original",)
) -> LoadedModel:
    """Load model and tokenizer.

    Raises:
        UsageError: unknown dtype, device or model, or files that would be misread.
        EngineError: transformers cannot load them, or tensors are missing.
    """
    device = choose_device(spec.device)
    files = find_model(spec.model, resources, revision=options.revision, kinds=kinds)
    dtype = choose_dtype(spec.dtype, files)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with quiet_loading(resources.progress):
        tokenizer = load_tokenizer(files, options)
        keywords = {
            "dtype": dtype,
            "attn_implementation": options.attention,
            "trust_remote_code": options.trust_remote_code,
            "output_loading_info": True,
        }
        if options.device_map is not None:
            keywords["device_map"] = options.device_map
        if files.gguf is None:
            keywords["use_safetensors"] = True
        model, info = _from_pretrained(transformers.AutoModelForCausalLM, files, **keywords)
    check_complete(files, model, info, scales="state" in kinds)
    if options.device_map is None:
        model = model.to(device)
    return loaded_model(model, tokenizer, files, device)


def load_tokenizer(files: ModelFiles, options: CausalOptions) -> Any:
    """Load a model's tokenizer.

    Raises:
        EngineError: transformers cannot load it.
    """
    return _from_pretrained(transformers.AutoTokenizer, files, trust_remote_code=options.trust_remote_code)


def loaded_model(model: Any, tokenizer: Any, files: ModelFiles, device: str) -> LoadedModel:
    """Return model and tokenizer in evaluation mode, with the tokenizer as it is before its first call."""
    text = tokenizer_text(tokenizer)
    return LoadedModel(model=model.eval(), tokenizer=tokenizer, files=files, device=device, tokenizer_text=text)


def choose_device(wanted: str) -> str:
    """Return "cpu" or "cuda", possibly with a number.

    Raises:
        UsageError: another word, or no such GPU.
    """
    kind, _, number = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"unknown device {wanted!r}; allowed: auto, cpu, cuda, cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= count:
        raise UsageError(f"device {wanted!r} was asked for, but torch sees {count} GPUs; next step: device: cpu")
    return wanted if kind != "auto" else "cuda" if count else "cpu"


def choose_dtype(wanted: str, files: ModelFiles) -> Any:
    """Return the torch type of a name; "auto" is the type the weights are stored in.

    Raises:
        UsageError: another word, or "auto" for files that do not say.
    """
    stored = None
    if wanted == "auto" and files.gguf is None:
        config = read_config(files.folder)
        stored = config.get("dtype") or config.get("torch_dtype")
    name = stored if wanted == "auto" else wanted
    if name is None:
        raise UsageError(f"{files.name}: dtype 'auto' needs a config.json that names one; next step: dtype: bfloat16")
    if name not in DTYPES:
        raise UsageError(f"{files.name}: unknown dtype {name!r}{suggestion(str(name), DTYPES)}")
    return getattr(torch, name)


def _from_pretrained(auto: Any, files: ModelFiles, **keywords: Any) -> Any:
    if files.gguf is not None:
        keywords["gguf_file"] = files.gguf
    try:
        return auto.from_pretrained(str(files.folder), **keywords)
    except (ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise EngineError(
            f"{files.name}: transformers {transformers.__version__} cannot load it: {type(error).__name__}: {error}"
        ) from error


def check_complete(files: ModelFiles, model: Any, info: Any, *, scales: bool = False) -> None:
    """Refuse a model of which transformers left a part at random, or passed over a part that is stored.

    Tensors of parts that this kind of model has not at all (an encoder for images, a head for more tokens) are no loss.

    Args:
        files: of the model.
        model: as loaded.
        info: transformers' loading info.
        scales: whether the scales of ModelOpt's quantizers are read later, by whoever calls.

    Raises:
        EngineError: names the tensors.
    """
    missing, wrong = sorted(info.get("missing_keys", ())), sorted(map(str, info.get("mismatched_keys", ())))
    if missing or wrong:
        shown = ", ".join([*missing, *wrong][:4])
        raise EngineError(
            f"{files.name}: {len(missing)} tensors are missing and {len(wrong)} have another shape ({shown}); "
            "transformers would fill them with random numbers"
        )
    modules = {name for name, _ in model.named_modules()} - {"", str(getattr(model, "base_model_prefix", ""))}
    passed = sorted(
        name
        for name in info.get("unexpected_keys", ())
        if _inside(name, modules) and not (scales and "_quantizer." in name)
    )
    if passed:
        raise EngineError(
            f"{files.name}: {len(passed)} stored tensors belong to layers of this model, and transformers would pass "
            f"over them ({', '.join(passed[:4])}); next step: an engine that reads them, or config.json as it was "
            "published"
        )


def _inside(tensor: str, modules: Collection[str]) -> bool:
    parts = tensor.split(".")
    return any(".".join(parts[:end]) in modules for end in range(1, len(parts)))


@contextmanager
def quiet_loading(progress: bool) -> Iterator[None]:
    """Keep loaders' advice and progress bars off stderr; failures still raise."""
    level, bar = transformers.logging.get_verbosity(), gguf.tqdm
    hidden = not progress and transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if not progress:
        transformers.logging.disable_progress_bar()
        gguf.tqdm = lambda tensors, **_: tensors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        gguf.tqdm = bar
        if hidden:
            transformers.logging.enable_progress_bar()


# The identity of a loaded model, read back from memory.


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
