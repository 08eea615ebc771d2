"""Another processor, simulated: matrix products by another library, summed in an order that depends on the rows.

Load it from a conftest.py, or run a program on it: `python tests/other_processor.py -m evalkit certify SUITE`.

Kernels of other instruction sets cut the summed dimension of a product into other blocks, choose the blocks by the
number of rows, and, where numbers are short, may round between blocks. So a row's numbers move with how many rows are
fed beside it, by rounding and by nothing else. Here the same is done, more than by any kernel we know of: numpy's BLAS
instead of torch's, blocks whose number follows from the number of rows, each block rounded to the numbers' own type and
added in it, the last block first. It holds for this whole process, all threads; not for processes that it starts.
"""

from __future__ import annotations

import math
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

NAME = "simulated other processor"
FACTOR = 10.0
"""What sums in another order do to a number, times this, is taken for rounding; see `tolerance`."""

_LEAST = 16
"""Products whose summed dimension is shorter are not cut."""

_active: list[int] = []
"""Variants in force, the innermost last; torch's own kernels where there is none."""


def blocks(rows: int, summed: int, variant: int = 0) -> int:
    """Return into how many blocks a summed dimension is cut: another number for nearly every number of rows.

    >>> [blocks(rows, 576) for rows in (1, 2, 3, 4, 5)], blocks(5, 8)
    ([3, 4, 5, 3, 4], 1)
    """
    return 1 if summed < _LEAST else 2 + (rows + rows // 4 + variant) % 4


@contextmanager
def other_processor(variant: int = 0) -> Iterator[None]:
    """Compute on another processor inside, each variant another one; the innermost is in force."""
    _active.append(variant)
    library = _installed() if len(_active) == 1 else None
    try:
        with threadpool_limits(1, user_api="blas"):  # OpenBLAS waits by spinning
            yield
    finally:
        _active.pop()
        if library is not None:
            library._destroy()


def tolerance(numbers: Callable[[], Sequence[float]]) -> float:
    """Return how far rounding alone may move any of the numbers: `FACTOR` times what sums in another order do to them.

    Raises:
        AssertionError: nothing moved, so nothing was measured.
    """
    here = numbers()
    with other_processor(1):  # not 0, which `pytest --other-processor` is
        there = numbers()
    moved = max(abs(one - two) for one, two in zip(here, there, strict=True))
    assert moved > 0.0, "sums in another order round otherwise, or nothing was measured"
    return FACTOR * moved


def _installed() -> Any:
    """Have torch come here for products of matrices on a CPU; destroying what is returned undoes it."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Overriding a previously registered kernel": on purpose
        for name, function in _KERNELS.items():
            library.impl(name, function, "CPU")
    return library


def _product(left: Any, right: Any) -> Any:
    """Return left @ right, shapes (..., m, k) and (..., k, n), block by block."""
    kind, (rows, summed) = left.dtype, left.shape[-2:]
    if not kind.is_floating_point:
        wide = torch.from_numpy(np.matmul(_array(left), _array(right)))
        return wide.to(kind)
    edges = np.linspace(0, summed, 1 + blocks(rows, summed, _active[-1])).round().astype(int)
    left, right = _array(left), _array(right)
    total: Any = None
    for begin, end in reversed(list(pairwise(edges))):
        part = torch.from_numpy(np.matmul(left[..., begin:end], right[..., begin:end, :])).to(kind)
        total = part if total is None else total.add_(part)
    return total


def _array(numbers: Any) -> np.ndarray:
    numbers = numbers.detach()
    return (numbers.float() if numbers.dtype.itemsize == 2 else numbers).numpy()


def _added(numbers: Any, product: Any, beta: float, alpha: float) -> Any:
    scaled = product if alpha == 1 else product * alpha
    return scaled if beta == 0 else scaled + (numbers if beta == 1 else numbers * beta)


def _addmm(numbers: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _added(numbers, _product(left, right), beta, alpha)


def _attention(
    query: Any,
    key: Any,
    value: Any,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Any = None,
    scale: float | None = None,
) -> tuple[Any, Any]:
    """Attend as `scaled_dot_product_attention` says it does, in products of whole matrices; groups may share keys."""
    share = query.shape[1] // key.shape[1]
    if share > 1:
        key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    scores = _product(query, key.transpose(-1, -2)).float() * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).tril().logical_not()
        scores = scores.masked_fill(hidden, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    total = scores.logsumexp(dim=-1)
    weights = (scores - total[..., None]).exp().nan_to_num(0.0)  # a token that sees nothing attends to nothing
    return _product(weights.to(query.dtype), value), total


_KERNELS = {
    "mm": _product,
    "bmm": _product,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}

if __name__ == "__main__":
    flag, module, *sys.argv[1:] = sys.argv[1:]
    if flag != "-m":
        sys.exit("usage: python tests/other_processor.py -m MODULE [ARGUMENT]...")
    with other_processor():
        runpy.run_module(module, run_name="__main__", alter_sys=True)
