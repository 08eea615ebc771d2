"""Loads a model through the LLM API, and frees it.

In: a checked target, options. Out: `Session`.
Must not depend on: requests, scores.
"""

from __future__ import annotations

import inspect
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from packaging.version import InvalidVersion, Version

from evalkit.adapters.checkpoint.declared import NONE, Declared, read_config
from evalkit.adapters.checkpoint.reading import Checkpoint, read_checkpoint
from evalkit.adapters.checkpoint.stored import not_loaded
from evalkit.adapters.source import ModelFiles, file_sha256, find_model
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import EngineError, UsageError
from evalkit.recipes import ResolvedRecipe, load_recipe, resolve_recipe
from evalkit.records import digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.recipes import ResolvedRecipe
    from evalkit.suite import EngineSpec


# What TensorRT-LLM is to load: a checkpoint folder, a compiled engine, or a model of the hub.


LENGTH = 8192
"""Tokens a request may need without the option `max_length`, at most."""

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A model that may be loaded.

    Attributes:
        files: where it is.
        compiled: whether it is an engine compiled ahead, which has no weights to look at.
        declared: quantization that its files declare.
        checkpoint: its tensors and its trace; None for a compiled engine.
        recipe: the recipe asked for; None for "none".
        limit: tokens it was trained, or compiled, for.
        config: its config.json.
    """

    files: ModelFiles
    compiled: bool
    declared: Declared
    checkpoint: Checkpoint | None
    recipe: ResolvedRecipe | None
    limit: int | None
    config: Mapping[str, Any]


def find_target(spec: EngineSpec, options: TensorRTOptions, resources: Resources) -> Target:
    """Find and check a model.

    Raises:
        UsageError: no such model, or one that TensorRT-LLM cannot read.
        DataError, IdentityMismatchError, RecipeError: as for `read_checkpoint`.
        EngineError: the hub cannot be reached.
    """
    path = Path(spec.model).expanduser()
    engines = sorted(path.glob("rank*.engine")) if path.is_dir() else []
    if engines:
        return _compiled(path.resolve(), engines, spec.recipe)
    files = find_model(spec.model, resources, revision=options.revision, kinds=("original", "exported"))
    if files.gguf is not None:
        raise UsageError(
            f"{files.name}: TensorRT-LLM does not read GGUF files; next step: a folder with safetensors, or adapter: "
            "llama_cpp"
        )
    found = read_checkpoint(files, spec.recipe)
    config = read_config(files.folder)
    return Target(
        files=files,
        compiled=False,
        declared=found.declared,
        checkpoint=found,
        recipe=found.recipe,
        limit=_limit(config),
        config=config,
    )


def _compiled(folder: Path, engines: list[Path], recipe_name: str) -> Target:
    config = read_config(folder)
    inside, built = config.get("pretrained_config"), config.get("build_config")
    if not isinstance(inside, Mapping) or not isinstance(built, Mapping):
        raise UsageError(f"{folder / 'config.json'}: no pretrained_config and build_config; is this a compiled engine?")
    quantization = inside.get("quantization") or {}
    layers = inside.get("num_hidden_layers")
    if recipe_name != "none" and not isinstance(layers, int):
        raise UsageError(f"{folder / 'config.json'}: no num_hidden_layers, so a recipe cannot be compared with it")
    weights = digest([[engine.name, file_sha256(engine)] for engine in engines])
    return Target(
        files=ModelFiles(name=folder.name, folder=folder, gguf=None, source="local", weights_sha256=weights),
        compiled=True,
        declared=Declared(
            algorithm=str(quantization.get("quant_algo") or NONE),
            kv_cache=str(quantization.get("kv_cache_quant_algo") or NONE),
            group_size=quantization.get("group_size"),
            excluded=tuple(quantization.get("exclude_modules") or ()),
            method="tensorrt_llm",
        ),
        checkpoint=None,
        recipe=None if recipe_name == "none" else resolve_recipe(load_recipe(recipe_name), int(layers or 0)),
        limit=_limit(built),
        config=config,
    )


def _limit(config: Mapping[str, Any]) -> int | None:
    for place in (config, config.get("text_config") or {}):
        for name in _LIMITS:
            value = place.get(name)
            if isinstance(value, int) and value > 0:
                return value
    return None


# The installed TensorRT-LLM: its version, its classes, and which keywords they know.
#
# Its classes refuse unknown keywords, and gain and lose them from version to version. So a keyword that is not in every
# supported version is sent only where the class is seen to have it.


OLDEST = Version("1.2.0rc0")
"""Before it, temperature 0 is an error and candidates of generated tokens are missing from the PyTorch backend."""

PROMPT_SCORES = Version("1.3.0rc11")
"""Before it, `prompt_logprobs` hold the log-probability of another token than the prompt's next, or none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """TensorRT-LLM as installed.

    Attributes:
        version: its version.
        api: module `tensorrt_llm.llmapi`.
        refusals: what it raises where it refuses one request and goes on.
        sampling_fields: keywords of `SamplingParams`.
        model_fields: keywords of `LLM`.
        salted: whether a request can keep its blocks of the cache to itself.
    """

    version: Version
    api: Any
    refusals: tuple[type[Exception], ...]
    sampling_fields: frozenset[str]
    model_fields: frozenset[str]
    salted: bool

    def sampling(self, **wanted: Any) -> Any:
        """Make sampling parameters; log-probabilities are those before any truncation of the distribution.

        Raises:
            EngineError: this version refuses them.
        """
        if "logprobs_mode" in self.sampling_fields and "logprobs" in wanted:
            wanted["logprobs_mode"] = "raw"
        return self.make("SamplingParams", **wanted)

    def make(self, name: str, **wanted: Any) -> Any:
        """Make an object of the LLM API.

        Raises:
            EngineError: this version has no such class, or refuses the values.
        """
        kind = getattr(self.api, name, None)
        if kind is None:
            raise EngineError(f"TensorRT-LLM {self.version} has no {name}")
        try:
            return kind(**wanted)
        except (TypeError, ValueError) as error:
            raise EngineError(f"TensorRT-LLM {self.version} refuses {name}({_shown(wanted)}): {error}") from error


def import_library() -> Library:
    """Import TensorRT-LLM and look at it.

    Raises:
        EngineError: it cannot be imported, or is older than `OLDEST`.
    """
    os.environ.setdefault("TRTLLM_NO_USAGE_STATS", "1")  # versions from 1.3 on report what model is loaded, and how
    try:
        package, api = import_module("tensorrt_llm"), import_module("tensorrt_llm.llmapi")
    except Exception as error:  # it loads CUDA and MPI libraries, which may fail in any way
        raise EngineError(
            f"tensorrt_llm is installed but cannot be imported: {type(error).__name__}: {error}; next step: check the "
            "CUDA and MPI libraries it was built for"
        ) from error
    version = _version(package)
    if version < OLDEST:
        raise EngineError(
            f"TensorRT-LLM {version} is too old: {OLDEST} or newer scores generated tokens and takes temperature 0; "
            "next step: pip install --upgrade tensorrt-llm"
        )
    return Library(
        version=version,
        api=api,
        refusals=_refusals(api),
        sampling_fields=frozenset(one.name for one in fields(api.SamplingParams)),
        model_fields=frozenset(getattr(getattr(api, "TorchLlmArgs", None), "model_fields", ())),
        salted="cache_salt" in inspect.signature(api.LLM.generate_async).parameters,
    )


def _version(package: Any) -> Version:
    text = str(getattr(package, "__version__", ""))
    try:
        return Version(text)
    except InvalidVersion as error:
        raise EngineError(f"tensorrt_llm says that its version is {text!r}, which cannot be compared") from error


def _refusals(api: Any) -> tuple[type[Exception], ...]:
    own = getattr(api, "RequestError", None)
    return (ValueError, own) if isinstance(own, type) and issubclass(own, Exception) else (ValueError,)


def _shown(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in wanted.items())


META_BACKEND = "fp8_rowwise_ub"
"""A recipe with this backend is the official row-wise one, for which compiled engines had a switch of their own."""

_BATCH_TOKENS = 8192


LOOK_S = 5.0
"""Seconds of silence after which the library's health is looked at."""

SHUTDOWN_S = 60.0
"""Seconds that the library may take to end."""

T = TypeVar("T")

_OF_WORKERS = re.compile(r"python|mpi|orted|prted|tensorrt|trtllm|ray", re.IGNORECASE)


class Session:
    """A loaded model; it is freed with its last user.

    Attributes:
        llm: the library's `LLM`.
        library: the library.
        target: what was loaded.
        max_length: tokens a request may need, the generated ones included.
        free: frees it now; calling it again is harmless.

    Args:
        timeout_s: see `TensorRTOptions`.
        processes: ids of the processes that loading began.
    """

    def __init__(
        self, llm: Any, library: Library, target: Target, max_length: int, timeout_s: float, processes: frozenset[int]
    ) -> None:
        self.llm, self.library, self.target, self.max_length = llm, library, target, max_length
        self._timeout_s, self._processes = timeout_s, processes
        self.free = weakref.finalize(self, _shut_down, llm)

    def wait(self, work: Callable[[], T]) -> T:
        """Wait for the library, as long as it lives.

        The library waits on queues without an end: a worker that died is never noticed there, and several versions do
        not look at the timeout that `result` takes. So it waits in a thread of its own, which may stay behind.

        Raises:
            EngineError: it is not healthy, a process that it had after loading is gone, or the time is up.
            Whatever `work` raises.
        """
        box: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        threading.Thread(target=_put, args=(work, box), name="evalkit-tensorrt", daemon=True).start()
        begun = time.monotonic()
        while True:
            left = self._timeout_s - (time.monotonic() - begun)
            try:
                worked, found = box.get(timeout=max(0.0, min(LOOK_S, left)))
            except Empty:
                self._look()
                if left <= LOOK_S:
                    self._give_up(f"no request came back within {self._timeout_s:g} s (option timeout_s)")
                continue
            if not worked:
                raise found
            return cast("T", found)

    def _look(self) -> None:
        check = getattr(self.llm, "_check_health", None)
        try:
            healthy = check() if callable(check) else True
        except Exception as error:  # noqa: BLE001 - whatever it raises, it says it of itself
            self._give_up(f"its health check fails: {type(error).__name__}: {error}")
        if healthy is False:
            self._give_up("its health check says that it is not healthy")
        gone = self._processes - _workers()
        if gone:
            self._give_up(f"{len(gone)} of its {len(self._processes)} processes ended while requests were under way")

    def _give_up(self, seen: str) -> NoReturn:
        raise EngineError(
            f"{self.target.files.name}: TensorRT-LLM {self.library.version} is dead: {seen}; finished records are "
            "kept; next step: look at its log, free the GPUs, and repeat the same command, which resumes"
        )


def _put(work: Callable[[], T], box: SimpleQueue[tuple[bool, Any]]) -> None:
    try:
        box.put((True, work()))
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        box.put((False, error))


def _workers() -> frozenset[int]:
    """Return this process's descendants that are no passing tools; empty without psutil, which the library needs."""
    try:
        psutil: Any = import_module("psutil")  # comes with the library
    except ImportError:
        return frozenset()
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            alive = child.status() != psutil.STATUS_ZOMBIE
            if alive and _OF_WORKERS.search(" ".join((child.name(), *child.cmdline()[:4]))):
                found.add(child.pid)
        except psutil.Error:
            continue
    return frozenset(found)


def open_session(spec: EngineSpec, options: TensorRTOptions, library: Library, target: Target) -> Session:
    """Load a model.

    Raises:
        UsageError: the length asked for is more than the model has, the weights are not quantized as the recipe says,
            they do not fit the GPUs, or a further keyword is not one of the library's.
        EngineError: TensorRT-LLM cannot load it.
    """
    length = _length(options, target)
    if not target.compiled:
        _check_quantized(target)
        _check_method(target)
    _check_fit(options, target, gpu_memory())
    keywords = _keywords(spec, options, library, target, length)
    kind = _compiled_kind(library) if target.compiled else library.api.LLM
    before = _workers()
    try:
        llm = kind(**keywords)
    except Exception as error:  # the library, CUDA and MPI raise many unrelated types
        raise EngineError(
            f"{target.files.name}: TensorRT-LLM {library.version} cannot load it: {type(error).__name__}: {error}"
        ) from error
    return Session(llm, library, target, length, options.timeout_s, _workers() - before)


def is_official(recipe: ResolvedRecipe) -> bool:
    """Whether a recipe is the official Llama one: row-wise FP8 with a bound of the activation rows."""
    cfgs = (entry.get("cfg") for entry in recipe.document["quantize"]["quant_cfg"])
    return any(isinstance(cfg, dict) and cfg.get("backend") == META_BACKEND for cfg in cfgs)


def _length(options: TensorRTOptions, target: Target) -> int:
    length = options.max_length or min(target.limit or LENGTH, LENGTH)
    if target.limit is not None and length > target.limit:
        raise UsageError(
            f"{target.files.name}: max_length {length} is more than its own limit of {target.limit} tokens"
        )
    return length


def _keywords(
    spec: EngineSpec, options: TensorRTOptions, library: Library, target: Target, length: int
) -> dict[str, Any]:
    """Everything that can change an answer is said, so that no default of the library applies."""
    cache: dict[str, Any] = {
        "enable_block_reuse": options.kv_reuse,
        "free_gpu_memory_fraction": options.memory_fraction,
    }
    if options.kv_cache != "auto":
        cache["dtype"] = options.kv_cache
    keywords: dict[str, Any] = {
        "model": str(target.files.folder),
        "tensor_parallel_size": options.tensor_parallel,
        "pipeline_parallel_size": options.pipeline_parallel,
        **_chosen(
            context_parallel_size=options.context_parallel,
            moe_expert_parallel_size=options.expert_parallel,
            gpus_per_node=options.gpus_per_node,
        ),
        "trust_remote_code": options.trust_remote_code,
        "kv_cache_config": library.make("KvCacheConfig", **cache),
    }
    if options.tokenizer is not None:
        keywords["tokenizer"] = options.tokenizer
    if options.guided_decoding is not None:
        keywords["guided_decoding_backend"] = options.guided_decoding
    if options.wants_logits:
        keywords["gather_generation_logits"] = True
    if target.compiled:
        return keywords
    return {
        **keywords,
        "dtype": spec.dtype,
        "max_seq_len": length,
        "max_num_tokens": max(_BATCH_TOKENS, length),
        "enable_chunked_prefill": options.chunked_prefill,
        **({"max_batch_size": options.max_batch_size} if options.max_batch_size is not None else {}),
        **_where_known(library, max_input_len=length, generation_config="trtllm"),
        **_extra(library, options, target),
    }


def _chosen(**keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}


_SET_HERE = {
    "model": "model",
    "tokenizer": "options.tokenizer",
    "dtype": "dtype",
    "tensor_parallel_size": "options.tensor_parallel",
    "pipeline_parallel_size": "options.pipeline_parallel",
    "context_parallel_size": "options.context_parallel",
    "moe_expert_parallel_size": "options.expert_parallel",
    "gpus_per_node": "options.gpus_per_node",
    "kv_cache_config": "options.kv_cache, kv_reuse and memory_fraction",
    "guided_decoding_backend": "options.guided_decoding",
    "max_seq_len": "options.max_length",
    "max_input_len": "options.max_length",
    "max_num_tokens": "options.max_length",
    "max_batch_size": "options.max_batch_size",
    "enable_chunked_prefill": "options.chunked_prefill",
    "trust_remote_code": "options.trust_remote_code",
    "gather_generation_logits": "options.scoring and fallback",
}
"""Keywords of `LLM` that evalkit gives, and what says them."""

_NEVER = {
    "generation_config": "every sampling setting is sent with the request",
    "load_format": "dummy weights answer nothing",
    "model_kwargs": "they change the model behind its files",
    "skip_tokenizer_init": "the tokenizer is compared with the model's",
    "speculative_config": "log-probabilities of drafted tokens are not those of the model",
}


def _extra(library: Library, options: TensorRTOptions, target: Target) -> dict[str, Any]:
    """Return the further keywords, each one that the library has and nobody else sets."""
    faults = []
    for name in sorted(options.extra):
        if name in _SET_HERE:
            faults.append(f"{name}: said by {_SET_HERE[name]}")
        elif name in _NEVER:
            faults.append(f"{name}: refused, {_NEVER[name]}")
        elif name not in library.model_fields:
            faults.append(f"{name}: TensorRT-LLM {library.version} has no such keyword")
    if faults:
        raise UsageError("\n  - ".join([f"{target.files.name}: options.extra cannot be used:", *faults]))
    return dict(options.extra)


def gpu_memory() -> tuple[int, ...]:
    """Return the bytes of each GPU that this process sees; () where CUDA is missing."""
    import torch  # noqa: PLC0415 - slow to import

    if not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_properties(one).total_memory for one in range(torch.cuda.device_count()))


def _check_fit(options: TensorRTOptions, target: Target, gpus: Sequence[int]) -> None:
    """Refuse what cannot fit, before minutes of loading; an engine over several machines sees a part of its GPUs."""
    needed = options.tensor_parallel * options.pipeline_parallel * options.context_parallel
    if not gpus or options.gpus_per_node is not None:
        return
    name = target.files.name
    if needed > len(gpus):
        raise UsageError(
            f"{name}: {needed} GPUs are asked for (tensor x pipeline x context parallel), {len(gpus)} are visible; "
            "next step: smaller options, or gpus_per_node with a launch over several machines"
        )
    weights = sum(one.stat().st_size for one in target.files.folder.glob("*.safetensors"))
    room = sum(sorted(gpus)[:needed])
    if weights > room * _WEIGHTS_SHARE:
        raise UsageError(
            f"{name}: its weights are {weights / 2**30:.1f} GiB, {needed} GPUs have {room / 2**30:.1f} GiB together, "
            f"and caches and activations need {1 - _WEIGHTS_SHARE:.0%} of it at least; next step: more "
            "GPUs (tensor_parallel), or a smaller recipe"
        )


_WEIGHTS_SHARE = 0.95
"""Most of the GPUs' memory that weights may take: CUDA's context and the work space alone need some 3 GiB of 80."""


def _where_known(library: Library, **keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if name in library.model_fields}


def _check_quantized(target: Target) -> None:
    """Refuse a recipe for plain weights: the library takes quantization from the files, and from nowhere else."""
    if target.recipe is not None and target.declared.algorithm == NONE:
        name, recipe = target.files.name, target.recipe.name
        raise UsageError(
            f"{name}: recipe '{recipe}' was asked for, but the checkpoint is not quantized, and TensorRT-LLM quantizes "
            f"nothing itself; next step: evalkit quantize --model {name} --recipe {recipe} --output FOLDER"
        )


def _check_method(target: Target) -> None:
    """Refuse a format for which the library has no method, before it reads the whole model to say so."""
    for why in not_loaded(target.declared.algorithm):
        raise UsageError(
            f"{target.files.name}: {why}; next step: another recipe (evalkit list recipes), or adapter: modelopt with "
            "checkpoint: exported, which expands it"
        )


def _compiled_kind(library: Library) -> Any:
    try:
        return import_module("tensorrt_llm._tensorrt_engine").LLM
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"TensorRT-LLM {library.version} no longer runs compiled engines; next step: give the checkpoint that "
            "this one was compiled from, or install the version that compiled it"
        ) from error


def _shut_down(llm: Any) -> None:
    """Free the GPUs; a library whose workers are dead may wait for them without an end."""
    thread = threading.Thread(target=llm.shutdown, name="evalkit-tensorrt-shutdown", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending, and begins no thread any more
        llm.shutdown()
        return
    thread.join(SHUTDOWN_S)
