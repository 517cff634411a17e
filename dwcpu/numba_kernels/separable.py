"""Fused separable convolution: the depthwise result of a block of rows goes to the pointwise kernel from cache.

Assumes: `plan` names a depthwise and a pointwise kernel and their plans; `scratch` holds plan.block_rows rows of the
depthwise result. Guarantees: the bits of the two kernels run one after the other over the whole tensor.

Loops: blocks of `plan.block_rows` output rows, sized so that the buffer stays in half of the L2 cache while the panels
of the pointwise weights pass over it, and those are re-read as few times as that allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dwcpu.numba_kernels.pointwise import kernel_signature
from dwcpu.numba_kernels.target import compile_kernel
from dwcpu.numba_kernels.tile import as_pointer, call, offset

__all__ = ["address"]


def _build(dtype: np.dtype) -> tuple[Callable, Any]:
    def separable(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        nothing = as_pointer(x, 0)
        row_size = plan.out_width * plan.in_channels
        for first in range(row_begin, row_end, plan.block_rows):
            last = min(first + plan.block_rows, row_end)
            # both kernels address whole tensors: seen from there, row `first` begins at the scratch buffer
            buffer = offset(as_pointer(x, scratch), -first * row_size)
            call(
                plan.depthwise_kernel,
                (plan.depthwise_plan, x, nothing, buffer, 0, first, last, 0, plan.depthwise_blocks),
            )
            pixels = first * plan.out_width, last * plan.out_width
            call(
                plan.pointwise_kernel,
                (plan.pointwise_plan, buffer, residual, out, 0, pixels[0], pixels[1], 0, plan.pointwise_blocks),
            )

    return separable, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the fused kernel; it runs any depthwise and any pointwise kernel of its dtype."""
    return compile_kernel(f"separable_f{dtype.itemsize * 8}", lambda: _build(dtype))
