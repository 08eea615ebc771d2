from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest

fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from evalkit.errors import StoreError  # noqa: E402
from evalkit.store import RunFolder  # noqa: E402
from evalkit.store.mirror import mirror as mirror_module  # noqa: E402
from evalkit.store.mirror.fetching import fetch  # noqa: E402
from evalkit.store.mirror.lease import Clock  # noqa: E402
from evalkit.store.mirror.mirror import Mirror  # noqa: E402
from evalkit.store.mirror.remote import RemoteFolder  # noqa: E402

URL = "memory://bucket/run"
COUNT = 7


class Crash(BaseException):
    """The process is gone: nothing after this happens."""


class Bucket(MemoryFileSystem):
    """A store in memory of its own, whose process can be made to vanish, or whose answers can get lost.

    `plan(number)` is asked before the operation of that number: None lets it pass, "crash-before" and "crash-after" end
    the process, "lost" does the work and loses the answer, "refused" does nothing and says so.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__(global_store=False, skip_instance_cache=True)
        self.pseudo_dirs = [""]
        self.count, self.dead = 0, False
        self.plan: Callable[[int], str | None] = lambda _number: None
        self.seen: list[str] = []

    def asked(self, what: str, work: Callable[[], object]) -> object:
        if self.dead:
            raise Crash(what)
        self.count += 1
        self.seen.append(what)
        fate = self.plan(self.count)
        if fate == "crash-before":
            self.dead = True
            raise Crash(what)
        if fate == "refused":
            raise OSError(f"refused: {what}")
        done = work()
        if fate == "crash-after":
            self.dead = True
            raise Crash(what)
        if fate == "lost":
            raise OSError(f"the answer is lost: {what}")
        return done

    def pipe_file(self, path, value, mode="overwrite", **options):
        return self.asked(
            f"put {path} {mode}", lambda: super(Bucket, self).pipe_file(path, value, mode=mode, **options)
        )

    def rm_file(self, path):
        return self.asked(f"delete {path}", lambda: super(Bucket, self).rm_file(path))

    def cat_file(self, path, start=None, end=None, **options):
        return self.asked(f"get {path}", lambda: super(Bucket, self).cat_file(path, start, end, **options))

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **options):
        found = self.asked(
            f"list {path}", lambda: super(Bucket, self).find(path, maxdepth, withdirs, detail=detail, **options)
        )
        if detail:
            for name, info in found.items():
                info["ETag"] = md5(self.store[name].getbuffer()).hexdigest()
        return found

    def revive(self) -> None:
        """Let another process use the store, without any fault."""
        self.dead, self.plan = False, lambda _number: None

    def empty(self) -> None:
        """Begin anew."""
        self.store.clear()
        self.seen.clear()
        self.count = 0
        self.revive()

    def files(self) -> dict[str, bytes]:
        return {name.removeprefix("/bucket/run/"): bytes(file.getbuffer()) for name, file in self.store.items()}


class Ticking:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0

    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def quick(monkeypatch):
    """No waiting for the disk: what these tests kill is a process, not a machine."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def ticking() -> Ticking:
    return Ticking()


@pytest.fixture
def opened(monkeypatch, tmp_path, bucket, ticking):
    """A mirror of the bucket's folder that sends only when told to; `spool` names the machine."""

    def remote(_url: str = URL) -> RemoteFolder:
        return RemoteFolder(bucket, "/bucket/run", URL, sleep=lambda _s: None)

    monkeypatch.setattr(mirror_module, "open_remote", remote)

    def make_mirror(spool: str = "spool", **options) -> Mirror:
        values = {"ttl_s": 120.0, "clock": ticking.clock(), "by_itself": False, **options}
        return Mirror(URL, tmp_path / spool, **values)

    make_mirror.remote = remote
    return make_mirror


@pytest.fixture
def work(make):
    """Bring a run to its end, telling `sent` the numbers of all records and judgments that were sent."""

    def do(root: Path, send: Callable[[], None], sent: set[str]) -> None:
        items = [make["item"](number) for number in range(COUNT)]
        with RunFolder.create_or_resume(root, make["asking"](items)) as folder:
            folder.write_items("quiz", items)
            written, done = set(), folder.done_keys("quiz")
            for place, number in enumerate((5, 3, 1, 0, 2, 4, 6)):
                record = make["record"](number)
                if record.key not in done:
                    folder.append_records("quiz", [record])
                written.add(record.key)
                if place % 2:
                    send()
                    sent |= written
            folder.finish("quiz")
            send()
            sent |= written
            folder.set_judge("quiz", make["judge"]())
            had = {judgment.item_sha256 for judgment in folder.judgments("quiz")}
            for number in (1, 0):
                judgment = make["judgment"](number)
                if judgment.item_sha256 not in had:
                    folder.append_judgments("quiz", [judgment])
                send()
            folder.finish_judgments("quiz")

    return do


@pytest.fixture
def local_bytes(tmp_path, work) -> dict[str, bytes]:
    """The files of the same run in a plain local folder."""
    root = tmp_path / "local"
    work(root, lambda: None, set())
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture
def read_there(opened, tmp_path):
    """What a reader on a third machine sees now; None where there is no run yet."""
    turn = iter(range(10**6))

    def read() -> Path | None:
        folder = tmp_path / f"reader-{next(turn)}"
        folder.mkdir()
        fetch(opened.remote(), folder, sleep=lambda _s: None)
        return folder if (folder / "manifest.json").exists() else None

    return read


__all__ = ["COUNT", "URL", "Bucket", "Crash", "StoreError"]
