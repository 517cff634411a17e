"""Fused inverted residual: a window of expanded rows slides down the image; the separable kernel reads it from cache.

Assumes: `plan` names a pointwise kernel (`expand`) and a separable one, with plans of their own; the plan's image is
the expanded one, that is the separable kernel's input; `scratch` holds plan.window_size elements, for the rows of it
that plan.block_rows output rows need, and the scratch of the separable kernel behind them. Guarantees: the bits of the
two kernels run one after the other over the whole tensor.

Loops: images, blocks of `plan.block_rows` output rows. Rows that the next block needs too move to the window's start:
in the L2 cache that costs less than expanding them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dwcpu.numba_kernels.memory import as_pointer, call, move, offset
from dwcpu.numba_kernels.pointwise import kernel_signature
from dwcpu.numba_kernels.target import compile_kernel

__all__ = ["address"]


def _build(dtype: np.dtype) -> tuple[Callable, Any]:
    itemsize = dtype.itemsize

    def inverted_residual(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        nothing, window = as_pointer(x, 0), as_pointer(x, scratch)
        length = plan.width * plan.in_channels
        rest = scratch + plan.window_size * itemsize
        reach = (plan.kernel_h - 1) * plan.dilation_h + 1
        row = row_begin
        while row < row_end:
            image = row // plan.out_height
            begin = row - image * plan.out_height
            end = min(plan.out_height, begin + row_end - row)
            row += end - begin
            top = image * plan.height
            held = held_last = 0  # rows of the image that are in the window
            while begin < end:
                stop = min(begin + plan.block_rows, end)
                first = max(0, min(begin * plan.stride_h - plan.pad_top, plan.height))
                last = max(first, min((stop - 1) * plan.stride_h - plan.pad_top + reach, plan.height))
                kept = held_last - first
                if kept > 0:
                    move(window, offset(window, (first - held) * length), kept * length)
                start = max(first, held_last)
                # Both kernels address whole tensors: the pointer is moved so that rows lie where they look for them.
                rows = offset(window, -(top + first) * length)
                if start < last:
                    pixel, end_pixel = (top + start) * plan.width, (top + last) * plan.width
                    call(
                        plan.expand_kernel,
                        (plan.expand_plan, x, nothing, rows, 0, pixel, end_pixel, 0, plan.expand_blocks),
                    )
                out_row = image * plan.out_height
                call(
                    plan.separable_kernel,
                    (plan.separable_plan, rows, residual, out, rest, out_row + begin, out_row + stop, 0, 1),
                )
                held, held_last = first, max(last, held_last)
                begin = stop

    return inverted_residual, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the fused kernel; it runs any pointwise and any separable kernel of its dtype."""
    return compile_kernel(f"inverted_residual_f{dtype.itemsize * 8}", lambda: _build(dtype))
