"""A kernel that does nothing but multiply and add: what this machine can do at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dwcpu.numba_kernels.memory import offset
from dwcpu.numba_kernels.pointwise import kernel_signature
from dwcpu.numba_kernels.target import compile_kernel
from dwcpu.numba_kernels.tile import activate, store, tile_repeat, vector_fma

__all__ = ["ACCUMULATORS", "address"]

#: Independent chains: enough for two units of latency 4 or 5, few enough for 16 registers.
ACCUMULATORS = 12


def _build(dtype: np.dtype, lanes: int) -> tuple[Callable, Any]:
    size = ACCUMULATORS * lanes

    def peak(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        for row in range(row_begin, row_end):
            tile = tile_repeat(x, ACCUMULATORS, 1, lanes)
            for _ in range(plan.height):
                tile = vector_fma(tile, x, 0, 0, x, 0, 0)
            store(activate(tile, 0, plan.low, plan.high), offset(out, row * size), lanes, lanes)

    return peak, kernel_signature(dtype)


def address(dtype: np.dtype, lanes: int) -> int:
    """Address of the kernel: each row is `plan.height` steps of `ACCUMULATORS` vectors, 2 FLOP an element."""
    return compile_kernel(f"peak_f{dtype.itemsize * 8}x{lanes}", lambda: _build(dtype, lanes))
