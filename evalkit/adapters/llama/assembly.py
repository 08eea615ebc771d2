"""From a GGUF file to an engine: header, process, probe, read-back.

In: an engine specification, checked options. Out: a `ServerEngine` that owns its server.
Must not depend on: recipes.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import threading
import weakref
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from evalkit.adapters.llama.gguf_file import GgufHeader, read_header, split_parts
from evalkit.adapters.llama.options import LlamaOptions
from evalkit.adapters.openai.engine import CLOCK, Served, ServerEngine, probed
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.probe import check_steady
from evalkit.adapters.openai.tokenizing import ServerCard, read_card, server_tokenizer
from evalkit.adapters.openai.transport import Secret, Transport
from evalkit.adapters.processor import processor
from evalkit.adapters.source import ModelFiles, file_sha256, find_model
from evalkit.errors import EngineError, UsageError, suggestion
from evalkit.records import EngineIdentity, digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec


# Starting and ending the server process.


_SERVE = Path(__file__).with_name("serve.py")
_LAST_LINES = 6
_PATIENCE_S = 10.0


class LlamaProcess:
    """A llama.cpp server that ends with this object, or with this program.

    Attributes:
        address: where it listens.
        key: without it, another program of this machine gets no answer.
        devices: what llama.cpp computes on.
    """

    def __init__(self, asked: dict[str, Any], timeout_s: float) -> None:
        key = secrets.token_hex(16)
        self.key = Secret(key)
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as long as it
        # A failed assertion would start a debugger to print a trace.
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own file, run by this Python
            [sys.executable, str(_SERVE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this program, which then ends the server in its own way
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._log)
        said = self._started({**asked, "key": key}, timeout_s)
        if "error" in said:
            words = _tail(self._log)
            self.end()
            raise EngineError(f"{Path(asked['model']).name}: llama.cpp cannot load it: {said['error']}{words}")
        self.address = str(said["address"])
        self.devices: list[dict[str, Any]] = list(said.get("devices") or ())

    def check(self) -> None:
        """See that the process lives.

        Raises:
            EngineError: it ended by itself; says its last words.
        """
        code = self._process.poll()
        if code is not None:
            raise EngineError(
                f"llama.cpp ended by itself (exit code {code}){_tail(self._log)}; next step: repeat the same command, "
                "which resumes; where it happens again, another llama.cpp version or less memory may be the reason"
            )

    def end(self) -> None:
        """End the process; calling it twice is harmless."""
        self._finalizer()

    def _started(self, asked: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            line = json.dumps({"error": str(error)})
        finally:
            timer.cancel()
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        late = f" after {timeout_s:g} s (option start_timeout_s)" if code == -9 else ""
        return {"error": f"the process ended with exit code {code}{late}"}


def _end(process: subprocess.Popen[str], log: IO[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()


def _tail(log: IO[str]) -> str:
    """Return the last lines the process wrote, as the end of a sentence."""
    if log.closed:
        return ""
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return f"; its last words: {' | '.join(lines[-_LAST_LINES:])[-600:]}" if lines else ""


LENGTH = 8192
"""Tokens of context without the option `max_length`, at most: the cache of keys and values is reserved at once."""

_SLACK = 8
"""Tokens of context beyond the limit, so that llama.cpp's own limit is never the one that is met."""

_PROBED = 128
"""Tokens of context that the probe needs."""


def load_gguf(spec: EngineSpec, options: LlamaOptions, resources: Resources) -> ServerEngine:
    """Load a GGUF model.

    Raises:
        UsageError: no such file, a damaged header, an unknown device.
        EngineError: llama.cpp cannot load it, or serves something else than the file.
    """
    files = find_gguf(spec.model, resources)
    paths = split_parts(files.folder / str(files.gguf))
    headers = [read_header(path) for path in paths]
    header = headers[0].joined(headers[1:])
    trained = header.trained_length
    length = options.max_length or min(trained or LENGTH, LENGTH)
    if trained is not None and length > trained:
        raise UsageError(f"{files.name}: max_length {length} is more than the {trained} tokens it was trained for")
    process = LlamaProcess(_asked(spec, files, options, length), options.start_timeout_s)
    try:
        return _engine(files, paths, header, options, length, process)
    except BaseException:
        process.end()
        raise


def find_gguf(model: str, resources: Resources) -> ModelFiles:
    """Resolve an asset name or a file.

    Raises:
        UsageError: it is neither, or no GGUF file.
    """
    names = [declared.name for declared in resources.assets.declared()]
    path = Path(model).expanduser()
    if model not in names and not path.is_file():
        raise UsageError(
            f"model {model!r} is no asset and no file{suggestion(model, names)}; next step: the path of a .gguf file"
        )
    files = find_model(model, resources)
    if files.gguf is None:
        raise UsageError(f"model {model!r} is no GGUF file; next step: adapter: hf, or a GGUF file of it")
    return files


def _asked(spec: EngineSpec, files: ModelFiles, options: LlamaOptions, length: int) -> dict[str, Any]:
    kind = spec.device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {spec.device!r}; allowed: auto, cpu, cuda")
    return {
        "model": str(files.folder / str(files.gguf)),
        "alias": files.name,
        "context": (max(length, _PROBED) + _SLACK) * options.parallel,
        "parallel": options.parallel,
        "threads": options.threads,
        "kv_cache": options.kv_cache,
        "flash_attention": options.flash_attention,
        "gpu_layers": 0 if kind == "cpu" else options.gpu_layers,
    }


def _engine(
    files: ModelFiles,
    paths: list[Path],
    header: GgufHeader,
    options: LlamaOptions,
    length: int,
    process: LlamaProcess,
) -> ServerEngine:
    server = ServerOptions(
        base_url=process.address,
        concurrency=options.parallel,
        timeout_s=options.timeout_s,
        retries=2,
        scoring="next-token",
        top_logprobs=options.top_logprobs,
        max_length=length,
    )
    transport = Transport(server, process.key)
    card = read_card(transport, files.name)
    _read_back(files, header, card)
    # Its own limit is not tried: it is beyond ours, and every request is measured first.
    served = probed(transport, replace(card, max_length=None), server, server_tokenizer(transport, card), None, process)
    served = _own(served, card, header, process)
    weights = files.weights_sha256 if len(paths) == 1 else digest([[one.name, file_sha256(one)] for one in paths])
    identity = _identify(replace(files, weights_sha256=weights), header, card, served, options, process)
    warnings = [line for line in served.can.warnings if "limit" not in line]
    if header.chat_template_sha256 is None:
        warnings.append("the file has no chat template: messages are refused, plain prompts work")
    elif card.chat_clock:
        warnings.append(CLOCK)
    return ServerEngine(served, identity, server, warnings)


def _own(served: Served, card: ServerCard, header: GgufHeader, process: LlamaProcess) -> Served:
    """Take messages only where the file has a template, and check the process as well as the model.

    llama.cpp takes a template of its own where the file has none; that would be a guess.
    """
    can = replace(served.can, seen={**served.can.seen, "too long a prompt": "measured before it is sent"})
    if header.chat_template_sha256 is None:
        seen = {**can.seen, "/v1/chat/completions": "not used: the file has no chat template"}
        can = replace(can, chat=False, templated=False, seen=seen)

    def check() -> None:
        process.check()
        check_steady(served.asker, card, replace(can, canary=()))

    return replace(served, can=can, check=check)


def _read_back(files: ModelFiles, header: GgufHeader, card: ServerCard) -> None:
    """Compare what the server says it runs with what the file says of itself.

    Raises:
        EngineError: they differ.
    """
    expected = {
        "n_ctx_train": header.trained_length,
        "n_vocab": len(header.metadata.get("tokenizer.ggml.tokens") or ()) or None,
    }
    wrong: dict[str, tuple[Any, Any]] = {
        name: (card.facts[name], value)
        for name, value in expected.items()
        if value is not None and name in card.facts and card.facts[name] != value
    }
    if card.chat_template_sha256 != header.chat_template_sha256 and header.chat_template_sha256 is not None:
        wrong["chat template"] = (card.chat_template_sha256, header.chat_template_sha256)
    if wrong:
        said = "; ".join(f"{name}: the server has {has!r}, the file {wants!r}" for name, (has, wants) in wrong.items())
        raise EngineError(f"{files.name}: llama.cpp does not serve this file: {said}")


def _identify(
    files: ModelFiles,
    header: GgufHeader,
    card: ServerCard,
    served: Served,
    options: LlamaOptions,
    process: LlamaProcess,
) -> EngineIdentity:
    can = served.can
    return EngineIdentity(
        adapter="llama_cpp",
        model=files.name,
        weights_sha256=files.weights_sha256,
        recipe="none",
        recipe_sha256=None,
        fidelity="engine",
        quantization={
            "algorithm": header.quantization,
            "kv_cache": options.kv_cache,
            "enabled": dict(header.tensors),
            "served_as": card.quantization,
        },
        dtype=header.dtype,
        tokenizer_sha256=header.tokenizer_sha256,
        chat_template_sha256=header.chat_template_sha256,
        versions={"xllamacpp": metadata.version("xllamacpp")},
        device=_device(process),
        options={
            "scoring": can.scoring,
            "top_logprobs": can.top_k,
            "forced_tokens": can.forced,
            "max_length": served.max_length,
            "flash_attention": options.flash_attention,
            "fields": dict(can.fixed),
            "fields_when_sampled": dict(can.sampled),
        },
        processor=processor() if all(one.get("type") == "CPU" for one in process.devices) else None,
    )


def _device(process: LlamaProcess) -> str:
    names = [str(one.get("description") or one.get("name")) for one in process.devices]
    return f"{platform.machine()} {', '.join(names)}".strip()
