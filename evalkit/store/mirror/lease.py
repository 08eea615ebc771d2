"""One writer for each remote folder: a numbered claim that is renewed, handed on, or outlived.

In: a remote folder. Out: a lease, or an error that names who holds it.
Must not depend on: what is written under it.

Claims lie in `.evalkit-lease/`, one object each: `00000007.json` is the claim of epoch 7, and the highest number holds.
A claim is made with an exclusive create of the next number, so of two that try, one wins; a holder that finds a higher
number has lost. Whoever waits decides by its own clock alone that a holder is dead: the claim did not change for as
long as it promised to. Clocks of two machines are never compared.

A folder inside a held one, or around it, is held too: both directions are looked at after the claim was made, so of two
that claim at once at least one sees the other.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from evalkit.errors import DataError, StoreError
from evalkit.records.canonical import build, parse_object
from evalkit.store.mirror.remote import MissingFileError, RemoteFolder

FOLDER = ".evalkit-lease"
TTL_S = 120.0
"""Seconds without a renewal after which a lease has expired."""

_LONGEST_S = 86400.0
"""Seconds that a claim may promise, below: a damaged one would hold a folder for ever."""

_POLL = 60
"""Looks at another's claim within its time to live."""

_CLAIM = re.compile(r"(\d{8})\.json")


class LeaseLostError(StoreError):
    """Somebody else writes to the folder now; nothing more may be sent."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who holds a folder.

    Attributes:
        epoch: number of the claim; the highest one counts.
        id: drawn at random.
        pid, host: of the process, for people.
        ttl_s: it is renewed within this time, seconds, or its holder is dead.
        beat: how often it was renewed.
        released: its holder has finished.
    """

    epoch: int
    id: str
    pid: int
    host: str
    ttl_s: float
    beat: int = 0
    released: bool = False

    @property
    def holder(self) -> str:
        """Return the holder for people."""
        return f"process {self.pid} on host {self.host}"

    def to_bytes(self) -> bytes:
        """Return the object."""
        return json.dumps(asdict(self), sort_keys=True).encode()


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time as a lease sees it: its own, never another machine's."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Lease:
    """A held lease.

    Attributes:
        remote: the folder.
    """

    def __init__(self, remote: RemoteFolder, claim: Claim, clock: Clock) -> None:
        self.remote = remote
        self._claim, self._clock = claim, clock
        self._confirmed = clock.now()
        self._guard = threading.Lock()

    @property
    def claim(self) -> Claim:
        """The claim as it was last written."""
        return self._claim

    @property
    def piece_holder(self) -> str:
        """The holder as it stands in names of pieces."""
        return self._claim.id[:8]

    def renew(self) -> None:
        """Look whether the folder is still ours, and say that we live.

        Raises:
            LeaseLostError: it is not.
            StoreError: the file system cannot be reached.
        """
        with self._guard:
            self._confirm()
            begun = self._clock.now()
            self._claim = replace(self._claim, beat=self._claim.beat + 1)
            self.remote.put(_name(self._claim.epoch), self._claim.to_bytes())
            self._confirmed = begun

    def ensure(self) -> None:
        """Return at once while nobody can have taken over; else look first. Called before anything is sent."""
        if self._clock.now() - self._confirmed > self._claim.ttl_s / 2:
            self.renew()

    def release(self) -> None:
        """Give the folder back; a lease that was lost is none to give."""
        with self._guard:
            self._confirm()
            self._claim = replace(self._claim, released=True)
            self.remote.put(_name(self._claim.epoch), self._claim.to_bytes())

    def _confirm(self) -> None:
        found = newest(self.remote)
        if found is None or found.id != self._claim.id:
            who = found.holder if found is not None else "somebody"
            raise LeaseLostError(
                f"{self.remote.url}: {who} has taken this folder over, because this process did not renew its lease "
                f"for {self._claim.ttl_s:g} s; nothing more is sent; next step: leave it to the other one, or stop the "
                "other one and repeat this command"
            )


def take(
    remote: RemoteFolder,
    *,
    ttl_s: float = TTL_S,
    dead: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
    clock: Clock | None = None,
) -> tuple[Lease, str | None]:
    """Take a folder for writing; waits for a silent holder to be outlived, and for nothing else.

    Args:
        remote: the folder.
        ttl_s: promised time between two signs of life, seconds.
        dead: id of a claim whose holder is known to be dead.
        say: writes one line for people.
        clock: time.

    Returns:
        The lease, and the id of the claim before it.

    Raises:
        StoreError: a living process holds the folder, one inside it or one around it; named with its host.
    """
    clock = clock or Clock()
    while True:
        before = newest(remote)
        if before is not None and not before.released and before.id != dead:
            before = _outlived(remote, before, say, clock)
        claim = Claim(
            epoch=before.epoch + 1 if before is not None else 1,
            id=uuid.uuid4().hex,
            pid=os.getpid(),
            host=socket.gethostname(),
            ttl_s=ttl_s,
        )
        begun = clock.now()
        if not remote.create(_name(claim.epoch), claim.to_bytes()):
            continue
        lease = Lease(remote, claim, clock)
        lease._confirmed = begun
        now = newest(remote)
        if now is None or now.id != claim.id:
            continue
        _refuse_neighbours(lease, say, clock)
        remote.remove([_name(epoch) for epoch in _epochs(remote) if epoch < claim.epoch])
        return lease, before.id if before is not None else None


def newest(remote: RemoteFolder) -> Claim | None:
    """Return the claim that counts, held or released; None where there never was one.

    Raises:
        StoreError: the file system cannot be reached.
    """
    for _ in range(8):  # a claim may be tidied away between the listing and the reading, by a newer one
        epochs = _epochs(remote)
        if not epochs:
            return None
        try:
            return _read(remote, max(epochs))
        except MissingFileError:
            continue
    raise StoreError(f"{remote.url}: {FOLDER} changes all the time; next step: repeat the command")


def _epochs(remote: RemoteFolder) -> list[int]:
    names = (name.removeprefix(f"{FOLDER}/") for name in remote.find(FOLDER))
    return [int(found[1]) for found in map(_CLAIM.fullmatch, names) if found]


def _read(remote: RemoteFolder, epoch: int) -> Claim:
    data = remote.read(_name(epoch))
    try:
        row = parse_object(data.decode(), "a claim")
        claim = build(Claim, {**row, "epoch": epoch})
        if 0.0 < claim.ttl_s < _LONGEST_S:
            return claim
    except (DataError, UnicodeDecodeError):
        pass  # cut off by a crash of its writer: nobody renews it
    return Claim(epoch=epoch, id=f"unreadable {data[:64]!r}", pid=0, host="unknown", ttl_s=TTL_S)


def _name(epoch: int) -> str:
    return f"{FOLDER}/{epoch:08d}.json"


def _outlived(
    remote: RemoteFolder,
    seen: Claim,
    say: Callable[[str], None],
    clock: Clock,
    alive: Callable[[], None] = lambda: None,
) -> Claim:
    """Watch a claim until it was silent for its time to live, and return the claim that counts then.

    Args:
        remote: the folder it is of.
        seen: the claim.
        say: writes one line for people.
        clock: time.
        alive: called all the time, so that whoever waits is not taken for dead meanwhile.

    Raises:
        StoreError: its holder lives.
    """
    say(
        f"{remote.url}: {seen.holder} holds an unreleased lease on this folder; waiting up to {seen.ttl_s:g} s to see "
        "whether it is renewed"
    )
    begun = clock.now()
    while clock.now() - begun <= seen.ttl_s:
        clock.sleep(seen.ttl_s / _POLL)
        alive()
        now = newest(remote)
        if now is None or now.released:
            return now or seen
        if now != seen:
            raise StoreError(
                f"{remote.url}: {now.holder} is writing to this folder; next step: wait for it or stop it, "
                "or name another folder"
            )
    say(f"{remote.url}: {seen.holder} is dead; its folder is taken over")
    return seen


def _refuse_neighbours(lease: Lease, say: Callable[[str], None], clock: Clock) -> None:
    """Give the lease back if somebody living holds a folder around this one or inside it; fence off the dead."""
    try:
        for other in _neighbours(lease.remote):
            found = newest(other)
            if found is None or found.released:
                continue
            found = _outlived(other, found, say, clock, lease.ensure)
            if not found.released:
                fence = replace(lease.claim, epoch=found.epoch + 1, released=True)
                other.create(_name(fence.epoch), fence.to_bytes())
            lease.renew()
    except BaseException:
        with suppress(StoreError):
            lease.release()
        raise


def _neighbours(remote: RemoteFolder) -> list[RemoteFolder]:
    found = []
    for folder in remote.above():
        try:
            held = folder.find(FOLDER)
        except StoreError:  # a folder that may not even be listed was not written by evalkit from here
            continue
        found += [folder] if held else []
    inside = {name.rpartition(f"/{FOLDER}/")[0] for name in remote.find() if f"/{FOLDER}/" in name}
    return [*found, *(remote.inside(name) for name in sorted(inside))]
