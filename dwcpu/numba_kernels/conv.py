"""Standard and grouped convolution as an indirect GEMM on the micro-kernels of `pointwise`: no im2col buffer.

Assumes: x NHWC and C-contiguous, pixels of out plan.out_step apart; weights group by group in panels as for
`pointwise`, the sum running over kh, kw, input channel of the group. Guarantees: one accumulator per output, from the
bias, in that order; padding taps are skipped: the outputs of a row that see the whole width of the window form one run,
the others are computed over the taps that they have, neighbours that have the same together. With plan.segment rows of
the grid are stretches of the only row of each image.

Loops, outermost first: blocks of `plan.block_rows` output rows, panels, output rows, tiles of pixels along the row.
The pixels of a tile lie stride_w * in_channels reals apart, which is all that the micro-kernel needs to know; where
taps are neighbours in memory (no groups, no dilation) a row of the window is one contiguous stretch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dwcpu.numba_kernels.memory import call, is_null, new_record, offset
from dwcpu.numba_kernels.pointwise import GEMM, kernel_signature, run_panel, tile_shape
from dwcpu.numba_kernels.target import compile_kernel, part, target

__all__ = ["address"]


def _build(dtype: np.dtype) -> tuple[Callable, Any]:
    run = run_panel(dtype)
    lanes = target().lanes(dtype.itemsize)
    pair = tile_shape()[1]
    width = pair * lanes
    itemsize = dtype.itemsize
    new_gemm = new_record(GEMM)

    @part
    def ceil_div(a, b):
        return -(-a // b)

    @part
    def tap(plan, distance):
        """The first tap of a row that lies so far behind the first one, or their number."""
        return min(plan.kernel_w, max(0, ceil_div(distance, plan.dilation_w)))

    @part
    def pixels(plan, gemm, panel_weights, panel_width, x_row, residual, out, first, count, kw_first, kw_last, kh_first):
        """`count` outputs of one row from column `first` on, over the taps kw_first to kw_last."""
        if count <= 0:
            return
        group_channels = plan.in_channels // plan.groups
        if plan.groups == 1 and plan.dilation_w == 1:
            gemm.n_w, gemm.length = 1, max(0, kw_last - kw_first) * group_channels
        else:
            gemm.n_w, gemm.length = max(0, kw_last - kw_first), group_channels
        tap = kh_first * plan.kernel_w + kw_first
        gemm.weights = panel_weights + tap * group_channels * panel_width * itemsize
        gemm.ahead = gemm.ahead_end = gemm.later = gemm.later_end = gemm.weights
        column = first * plan.stride_w - plan.pad_left + kw_first * plan.dilation_w
        place = first * plan.out_step
        run_residual = residual if is_null(residual) else offset(residual, place)
        run(
            plan.micro_kernels,
            gemm,
            count,
            offset(x_row, column * plan.in_channels),
            run_residual,
            offset(out, place),
        )

    def conv(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        group_channels = plan.in_channels // plan.groups
        group_outputs = plan.out_channels // plan.groups
        padded_outputs = ceil_div(group_outputs, lanes) * lanes
        panels = max(1, ceil_div(group_outputs, lanes) // pair)  # abi.panel_widths
        taps = plan.kernel_h * plan.kernel_w
        cuts = plan.out_height  # rows of the grid, of an image
        if plan.segment != 0:
            cuts = ceil_div(plan.out_width, plan.segment)
        length = taps * group_channels
        # columns that see the whole window, as one run
        run_first = min(plan.out_width, ceil_div(plan.pad_left, plan.stride_w))
        room = plan.width - 1 + plan.pad_left - (plan.kernel_w - 1) * plan.dilation_w
        run_last = max(run_first, min(plan.out_width, room // plan.stride_w + 1))
        gemm = new_gemm()
        gemm.a_stride = plan.stride_w * plan.in_channels
        gemm.a_h = plan.dilation_h * plan.width * plan.in_channels
        gemm.a_w = plan.dilation_w * plan.in_channels
        gemm.out_stride = plan.out_step
        gemm.hardswish, gemm.low, gemm.high = plan.hardswish, plan.low, plan.high
        gemm.ahead_step = gemm.inputs_end = gemm.asks_out = 0
        gemm.crowded_rows = plan.crowded_rows
        for first in range(row_begin, row_end, plan.block_rows):
            last = min(first + plan.block_rows, row_end)
            for block in range(block_begin, block_end):
                group, panel = block // panels, block % panels
                columns = width if panel < panels - 1 else group_outputs - panel * width
                panel_width = ceil_div(columns, lanes) * lanes
                gemm.columns = columns
                gemm.b_h = plan.kernel_w * group_channels * panel_width
                gemm.b_w = group_channels * panel_width
                gemm.bias = plan.bias + (group * padded_outputs + panel * width) * itemsize
                panel_weights = plan.weights + (group * padded_outputs + panel * width) * length * itemsize
                out_column = group * group_outputs + panel * width
                for row in range(first, last):
                    image, oh = row // cuts, row % cuts
                    column, stop = 0, plan.out_width
                    if plan.segment != 0:  # a stretch of the only row
                        column, oh = oh * plan.segment, 0
                        stop = min(plan.out_width, column + plan.segment)
                    top = oh * plan.stride_h - plan.pad_top
                    kh_first = max(0, ceil_div(-top, plan.dilation_h))
                    kh_last = min(plan.kernel_h, ceil_div(plan.height - top, plan.dilation_h))
                    gemm.n_h = max(0, kh_last - kh_first)
                    x_line = image * plan.height + top + kh_first * plan.dilation_h
                    x_row = offset(x, x_line * plan.width * plan.in_channels + group * group_channels)
                    begin = column
                    place = (image * plan.out_height + oh) * plan.out_width * plan.out_step + out_column
                    row_residual = residual if is_null(residual) else offset(residual, place)
                    row_out = offset(out, place)
                    while column < stop:
                        count, kw_first, kw_last = min(run_last, stop) - column, 0, plan.kernel_w
                        if column < run_first or count <= 0:
                            left = column * plan.stride_w - plan.pad_left
                            count = 1
                            kw_first, kw_last = tap(plan, -left), tap(plan, plan.width - left)
                            left += plan.stride_w
                            while (
                                column + count < stop
                                and column + count != run_first
                                and kw_first == tap(plan, -left)
                                and kw_last == tap(plan, plan.width - left)
                            ):
                                count += 1
                                left += plan.stride_w
                        pixels(
                            plan,
                            gemm,
                            panel_weights,
                            panel_width,
                            x_row,
                            row_residual,
                            row_out,
                            column,
                            count,
                            kw_first,
                            kw_last,
                            kh_first,
                        )
                        column += count
                    if plan.activation != 0:
                        call(
                            plan.activation,
                            (offset(row_out, begin * plan.out_step), stop - begin, plan.out_step, columns, plan.alpha),
                        )

    return conv, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the convolution kernel."""
    rows, vectors = tile_shape()
    return compile_kernel(f"conv_f{dtype.itemsize * 8}_{rows}x{vectors}v", lambda: _build(dtype))
