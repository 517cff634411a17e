"""Fused separable convolution: the depthwise result of a block of rows goes to the pointwise kernel from cache.

Assumes: `plan` names a depthwise and a pointwise kernel and their plans, of the former an array of plan.column_blocks
plans, one for each stretch of the output's width; `scratch` holds plan.block_rows rows of the widest. Guarantees: the
bits of the two kernels run one after the other over the whole tensor.

Loops: blocks of `plan.block_rows` output rows, and of the width where rows are long, sized so that the buffer stays in
half of the L2 cache while the panels of the pointwise weights pass over it, which are re-read as few times as that
allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dwcpu.abi import FIELDS
from dwcpu.numba_kernels.memory import as_pointer, call, integer_at, offset
from dwcpu.numba_kernels.pointwise import kernel_signature
from dwcpu.numba_kernels.target import compile_kernel

__all__ = ["address"]


def _build(dtype: np.dtype) -> tuple[Callable, Any]:
    plan_size, out_width = 8 * len(FIELDS), list(FIELDS).index("out_width")

    def separable(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        nothing, rows = as_pointer(x, 0), as_pointer(x, scratch)
        channels = plan.in_channels
        # Both kernels address whole tensors: pointers are moved so that the block's part of the intermediate lies where
        # they look for it.
        for begin in range(row_begin, row_end, plan.block_rows):
            end = min(begin + plan.block_rows, row_end)
            column = 0
            for block in range(plan.column_blocks):
                first = plan.depthwise_plan + block * plan_size
                width = integer_at(first, out_width)
                buffer = offset(rows, -begin * width * channels)
                call(plan.depthwise_kernel, (first, x, nothing, buffer, 0, begin, end, 0, plan.depthwise_blocks))
                # whole rows are one stretch of pixels, parts of rows one each
                stretches = 1 if plan.column_blocks == 1 else end - begin
                count = (end - begin) * width // stretches
                for i in range(stretches):
                    pixel = (begin + i) * plan.out_width + column
                    a = offset(rows, (i * width - pixel) * channels)
                    call(
                        plan.pointwise_kernel,
                        (plan.pointwise_plan, a, residual, out, 0, pixel, pixel + count, 0, plan.pointwise_blocks),
                    )
                column += width

    return separable, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the fused kernel; it runs any depthwise and any pointwise kernel of its dtype."""
    return compile_kernel(f"separable_f{dtype.itemsize * 8}", lambda: _build(dtype))
