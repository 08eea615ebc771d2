"""A server as a program: `python started_server.py PORT MODEL [die-after=N] [once=FILE] [child=MARK] [never]`.

Tests name it by its path; it is a real process with a real port. It says /health, and otherwise is `model_server`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from brains import ToyBrain
from model_server import ModelServer, vllm


class Mortal(ModelServer):
    """Ends the whole process, as a crash does, at the given request; once for each file `die_once`."""

    count = 0
    limit: int | None = None
    once: Path | None = None

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/health":
            return {}
        self.count += 1
        if self.limit is not None and self.count > self.limit and (self.once is None or not self.once.exists()):
            if self.once is not None:
                self.once.touch()
            print("CUDA error: an illegal memory access was encountered", flush=True)
            os._exit(1)
        return super().answer(method, path, body)


def main() -> None:
    port, model, *rest = sys.argv[1:]
    said = dict(word.partition("=")[::2] for word in rest)
    print(f"serving {model} with {os.environ.get('SERVED_WITH', 'nothing')} and sk-{'a1b2c3d4' * 5}", flush=True)
    if "never" in rest:
        threading.Event().wait()
    if "child" in said:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", said["child"]])
    server = Mortal(brain=ToyBrain(), quirks=vllm(), model=Path(model).name, port=int(port))
    if "die-after" in said:
        Mortal.limit = int(said["die-after"])
        Mortal.once = Path(said["once"]) if "once" in said else None
    with server:
        threading.Event().wait()


if __name__ == "__main__":
    main()
