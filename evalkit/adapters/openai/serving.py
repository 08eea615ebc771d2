"""Servers of our own: started, watched, and ended.

In: a checked `Serve` section, the model. Out: a healthy `Server` on a port of this machine, which its user closes.
Must not depend on: what is asked of the server.

The server is run by a keeper (`keeper.py`) in a session of its own, which ends with this process, however it ends. The
port must be listened on by a process of that session: a stranger that took it meanwhile would answer for another model.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from pydantic import Field, field_validator, model_validator

from evalkit.adapters.openai.keeper import PATIENCE_S
from evalkit.configuration import Section
from evalkit.errors import EngineError, UsageError
from evalkit.redaction import redact_text

Kind = Literal["vllm", "trtllm-serve", "sglang", "llama.cpp", "transformers", "command"]

HOST = "127.0.0.1"
_KEEPER = Path(__file__).with_name("keeper.py")
_SECRET_WORDS = ("key", "token", "secret", "password", "passwd", "credential", "authorization")
_LAST_LINES = 12
_HEALTH = ("/health", "/v1/models")

_SGLANG = ("python3", "-m", "sglang.launch_server")
_LISTEN = ("--host", HOST, "--port", "{port}")
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("vllm", "serve", "{model}", *_LISTEN, "--served-model-name", "{name}"),
    "trtllm-serve": ("trtllm-serve", "{model}", *_LISTEN),
    "sglang": (*_SGLANG, "--model-path", "{model}", *_LISTEN, "--served-model-name", "{name}"),
    "llama.cpp": ("llama-server", "--model", "{model}", *_LISTEN, "--alias", "{name}"),
    "transformers": ("transformers", "serve", "{model}", *_LISTEN),
}
"""Kind to its command, without what options add."""

_GPUS = {"vllm": "--tensor-parallel-size", "trtllm-serve": "--tp_size", "sglang": "--tp-size"}
_LENGTH = {
    "vllm": "--max-model-len",
    "trtllm-serve": "--max_seq_len",
    "sglang": "--context-length",
    "llama.cpp": "--ctx-size",
}
_OWN_ENVIRONMENT = {
    "vllm": {"VLLM_NO_USAGE_STATS": "1"},
    "trtllm-serve": {"TRTLLM_NO_USAGE_STATS": "1"},
}


class Serve(Section):
    """How the server of an engine is started, whose `model` is the folder, file or hub id to serve.

    Attributes:
        kind: a known server, or "command" for one of your own.
        command: for "command": the words of the command; `{model}`, `{port}` and `{name}` are put in.
        program: for a known server: its program, where it is not on the path (such as `/opt/vllm/bin/vllm`).
        args: further arguments, such as `[--dtype, float32]`.
        port: of this machine; 0 takes a free one.
        gpus: numbers of the GPUs that the server sees (`CUDA_VISIBLE_DEVICES`), the tensor-parallel size with it; None
            leaves the environment as it is.
        env: further environment variables. Secrets are inherited from the environment and never written here.
        healthy_s: seconds until it must answer that it is healthy.
        restarts: times that a server that died in the middle of a run is started again.
    """

    kind: Kind
    command: tuple[str, ...] = ()
    program: str | None = None
    args: tuple[str, ...] = ()
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    env: dict[str, str] = Field(default_factory=dict)
    healthy_s: float = Field(default=900.0, gt=0)
    restarts: int = Field(default=1, ge=0)

    @field_validator("env")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        secret = sorted(name for name in value if any(word in name.lower() for word in _SECRET_WORDS))
        if secret:
            # The values are not repeated: they may be the very secrets that this rule keeps out of files.
            raise ValueError(
                f"{', '.join(secret)}: servers inherit secrets from evalkit's own environment; set it there"
            )
        return value

    @model_validator(mode="after")
    def _words_of_its_kind(self) -> Serve:
        if (self.kind == "command") != bool(self.command):
            raise ValueError("command is for kind: command, which needs it")
        if self.command and (self.program is not None or self.args):
            raise ValueError("program and args are for known servers; write them into command")
        if self.command and not any("{port}" in word for word in self.command):
            raise ValueError("command must name {port}: the server has to listen where it is asked")
        return self

    def words(self, model: str, name: str, port: int, length: int | None) -> list[str]:
        """Return the command.

        Args:
            model: folder, file or hub id.
            name: the name under which the server is to know it, where it can be told.
            port: where it listens.
            length: tokens of a request, where the kind has an option for it.
        """
        if self.kind == "command":
            return [
                word.replace("{model}", model).replace("{port}", str(port)).replace("{name}", name)
                for word in self.command
            ]
        found = [one.format(model=model, port=port, name=name) for one in PROGRAMS[self.kind]]
        if self.program is not None:
            found[0] = str(Path(self.program).expanduser())
        if self.gpus is not None and len(self.gpus) > 1 and self.kind in _GPUS:
            found += [_GPUS[self.kind], str(len(self.gpus))]
        if length is not None and self.kind in _LENGTH:
            found += [_LENGTH[self.kind], str(length)]
        return [*found, *self.args]


class Server:
    """A server that runs, is healthy, and listens on its port itself; closed when nothing uses it any more.

    Args:
        serve: how it is started.
        model: folder, file or hub id.
        name: its name for the model.
        length: tokens of a request; None for its own.

    Raises:
        UsageError: there is no such program, or the port is taken.
        EngineError: it ended, or was not healthy in time; its last words are said.
    """

    def __init__(self, serve: Serve, model: str, name: str, length: int | None = None) -> None:
        self.serve, self.name = serve, name
        self.port = _port(serve.port)
        self.url = f"http://{HOST}:{self.port}"
        words = serve.words(model, name, self.port, length)
        if shutil.which(words[0]) is None:
            raise UsageError(
                f"serve: no program {words[0]!r}; next step: install the server (an environment of its own is best) "
                "and give its path as program"
            )
        self.command = redact_text(shlex.join(words))
        self._log = tempfile.NamedTemporaryFile("wb", prefix="evalkit-server-", suffix=".log", delete=False)  # noqa: SIM115
        self.log = Path(self._log.name)
        self._process = subprocess.Popen(  # noqa: S603 - the suite's own command
            [sys.executable, "-I", str(_KEEPER), *words],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=_environment(serve),
            start_new_session=True,  # Ctrl-C is for this program, which then ends the server in its own way
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._log)
        try:
            self._wait()
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """See that it runs.

        Raises:
            EngineError: it ended by itself; its last words are said.
        """
        if not self.alive:
            raise EngineError(
                f"the server ended by itself (exit code {self._process.returncode}){self.tail()}; next step: repeat "
                "the same command, which resumes"
            )

    def end(self) -> None:
        """End the server and everything it started; calling it twice is harmless."""
        self._finalizer()

    def tail(self) -> str:
        """Return its last words, as the end of a sentence, without secrets."""
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return f"; its last words: {redact_text(' | '.join(lines[-_LAST_LINES:]))[-1500:]}" if lines else ""

    def _wait(self) -> None:
        deadline = time.monotonic() + self.serve.healthy_s
        wait = 0.1
        while True:
            if not self.alive:
                code = self._process.returncode
                raise EngineError(
                    f"serve: {self.command}: ended with exit code {code} before it was healthy{self.tail()}"
                )
            if self._healthy():
                break
            if time.monotonic() > deadline:
                late = f"not healthy after {self.serve.healthy_s:g} s (option healthy_s)"
                raise EngineError(f"serve: {self.command}: {late}{self.tail()}")
            time.sleep(wait)
            wait = min(2.0, wait * 1.3)
        if owned_by(self.port, self._process.pid) is False:
            raise EngineError(
                f"serve: port {self.port} is answered by another process than the one that was started; next step: "
                "port: 0, which takes a free one"
            )

    def _healthy(self) -> bool:
        opener = build_opener(ProxyHandler({}))  # a proxy is never asked for this machine's own port
        for path in _HEALTH:
            try:
                with opener.open(self.url + path, timeout=5.0) as reply:  # a loopback address
                    return bool(200 <= reply.status < 300)
            except HTTPError as error:
                error.close()
                if error.code not in (404, 405):
                    return path == "/v1/models" and error.code in (401, 403)  # it runs, and wants a key
            except (URLError, OSError):
                return False
        return False


def owned_by(port: int, session: int) -> bool | None:
    """Say whether a listening port of this machine belongs to a process of a session; None where nobody can see."""
    sockets = _listening(port)
    if not sockets:
        return None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == session and sockets & set(_links(entry / "fd")):
                return True
        except OSError:
            continue
    return False


def _listening(port: int) -> set[str]:
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            for line in table.read_text("ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rsplit(":", 1)[1], 16) == port:
                    found.add(f"socket:[{words[9]}]")
    return found


def _links(folder: Path) -> list[str]:
    return [str(one.readlink()) for one in folder.iterdir() if one.is_symlink()]


def _port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            raise UsageError(f"serve: port {wanted} is taken ({error.strerror}); next step: port: 0") from error
        return int(probe.getsockname()[1])


def _environment(serve: Serve) -> dict[str, str]:
    gpus = {} if serve.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, serve.gpus))}
    own: dict[str, str] = {**_OWN_ENVIRONMENT.get(serve.kind, {}), "PYTHONUNBUFFERED": "1"}
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**own, **inherited, **gpus, **serve.env}


def _end(process: subprocess.Popen[Any], log: IO[Any]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(PATIENCE_S + 5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
