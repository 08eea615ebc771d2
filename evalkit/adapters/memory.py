"""Memory: how much is free, and whether it ran out.

In: a model, or an exception. Out: bytes; whether a smaller batch may succeed.
Must not depend on: what is being computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_RAN_OUT = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory")

_CGROUP_2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; releases cached GPU memory if so."""
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    if not known and not any(words in str(error) for words in _RAN_OUT):
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def free_bytes(model: Any) -> int | None:
    """Return the memory that is free where a model lies, on its fullest device, bytes; None where nobody says."""
    gpus = gpus_of(model)
    return min(_free_on_gpu(device) for device in gpus) if gpus else free_on_host()


def gpus_of(model: Any) -> set[Any]:
    """Return the GPUs that hold a part of a model."""
    return {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}


def _free_on_gpu(device: Any) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free) + int(unused)


def free_on_host(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the memory that this process may still take without swapping, the machine's or its control group's."""
    places = ((groups, _CGROUP_2), (groups / "memory", _CGROUP_1))
    found = [_available(proc), *(_left(group, names) for group, names in places)]
    return min((free for free in found if free is not None), default=None)


def _available(proc: Path) -> int | None:
    try:
        rows = (line.split() for line in (proc / "meminfo").read_text("utf-8").splitlines())
        return next(int(row[1]) * 1024 for row in rows if row[0] == "MemAvailable:")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _left(group: Path, names: tuple[str, str, str, str]) -> int | None:
    """Return a control group's limit minus what it uses and cannot drop; None where there is no limit."""
    most, used, stat, cached = names
    try:
        rows = dict(line.split() for line in (group / stat).read_text("utf-8").splitlines())
        limit, use = (int((group / name).read_text("utf-8")) for name in (most, used))
        return max(0, limit - use + int(rows[cached]))
    except (OSError, ValueError, KeyError):  # no such file, or the word "max"
        return None
