"""Recognising a lack of memory.

In: an exception. Out: whether memory ran out, so that a smaller batch may succeed.
May not know: what was being computed.
"""

from __future__ import annotations

import torch


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; releases cached GPU memory if so."""
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    if not known and "can't allocate memory" not in str(error):
        return False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
