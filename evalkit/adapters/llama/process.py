"""Starting and ending the server process.

In: a GGUF file and checked options. Out: a process with an address and a key of its own.
May not know: requests, scores.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, Any

from evalkit.adapters.openai.secret import Secret
from evalkit.errors import EngineError

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
