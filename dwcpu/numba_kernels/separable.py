"""Fused separable convolution: the depthwise result of a block of rows goes to the pointwise kernel from cache.

Assumes: `plan` names a depthwise and a pointwise kernel and their plans, of the former an array of plan.column_blocks
plans, one for each stretch of the output's width; `scratch` holds plan.block_rows rows of the widest. Guarantees: the
bits of the two kernels run one after the other over the whole tensor.

Loops: blocks of `plan.block_rows` output rows, and of the width where rows are long, sized so that the buffer stays in
half of the L2 cache while the panels of the pointwise weights pass over it, which are re-read as few times as that
allows. With `plan.asks_ahead` the pointwise kernel asks for the input rows that the next block begins to need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dwcpu.abi import FIELDS
from dwcpu.numba_kernels.memory import PLAN, address_of, as_pointer, call, integer_at, move, new_record, offset
from dwcpu.numba_kernels.pointwise import kernel_signature
from dwcpu.numba_kernels.target import compile_kernel, part

__all__ = ["address"]


def _build(dtype: np.dtype) -> tuple[Callable, Any]:
    plan_size, itemsize, new_plan = 8 * len(FIELDS), dtype.itemsize, new_record(PLAN)
    height, width, x_step, out_height, out_width, kernel_h, stride_h, dilation_h, pad_top = (
        list(FIELDS).index(name)
        for name in (
            "height", "width", "x_step", "out_height", "out_width", "kernel_h", "stride_h", "dilation_h", "pad_top",
        )
    )  # fmt: skip

    @part
    def rows_read(first, rows):
        """How many input rows, those of all images one after the other, the first `rows` output rows take up."""
        image = (rows - 1) // integer_at(first, out_height)
        row = rows - 1 - image * integer_at(first, out_height)
        end = row * integer_at(first, stride_h) - integer_at(first, pad_top)
        end += (integer_at(first, kernel_h) - 1) * integer_at(first, dilation_h) + 1
        return image * integer_at(first, height) + max(0, min(end, integer_at(first, height)))

    def separable(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        nothing, rows = as_pointer(x, 0), as_pointer(x, scratch)
        channels = plan.in_channels
        asking = new_plan()
        move(as_pointer(x, address_of(asking)), as_pointer(x, plan.pointwise_plan), plan_size // itemsize)
        asking.later_size = asking.soon_size = 0  # what its plan asks for is for the last block
        # Both kernels address whole tensors: pointers are moved so that the block's part of the intermediate lies where
        # they look for it.
        for begin in range(row_begin, row_end, plan.block_rows):
            end = min(begin + plan.block_rows, row_end)
            pointwise_plan, column = plan.pointwise_plan, 0
            if end < row_end:
                pointwise_plan = address_of(asking)
            if plan.asks_ahead and end < row_end:
                first = plan.depthwise_plan
                read, line = rows_read(first, end), integer_at(first, width) * integer_at(first, x_step) * itemsize
                asking.later = address_of(x) + read * line
                asking.later_size = (rows_read(first, min(end + plan.block_rows, row_end)) - read) * line
            for block in range(plan.column_blocks):
                first = plan.depthwise_plan + block * plan_size
                columns = integer_at(first, out_width)
                buffer = offset(rows, -begin * columns * channels)
                call(plan.depthwise_kernel, (first, x, nothing, buffer, 0, begin, end, 0, plan.depthwise_blocks))
                # whole rows are one stretch of pixels, parts of rows one each
                stretches = 1 if plan.column_blocks == 1 else end - begin
                count = (end - begin) * columns // stretches
                for i in range(stretches):
                    pixel = (begin + i) * plan.out_width + column
                    a = offset(rows, (i * columns - pixel) * channels)
                    call(
                        plan.pointwise_kernel,
                        (pointwise_plan, a, residual, out, 0, pixel, pixel + count, 0, plan.pointwise_blocks),
                    )
                column += columns

    return separable, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the fused kernel; it runs any depthwise and any pointwise kernel of its dtype."""
    return compile_kernel(f"separable_f{dtype.itemsize * 8}", lambda: _build(dtype))
