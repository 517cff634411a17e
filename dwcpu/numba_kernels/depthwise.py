"""Direct depthwise convolution on 2-D register tiles.

Assumes: x (batch, height, width, channels), pixels plan.x_step apart; out (batch, out_height, out_width, channels *
multiplier), plan.out_step;
weights one vector a tap and multiple, `[block][kh][kw][m][lanes]`, bias `[block][m][lanes]`; block b starts at channel
min(b * lanes, channels - lanes), so that the last one slides back over its neighbour and computes the same bits again;
channels >= lanes. Guarantees: every output has one accumulator that starts from the bias and takes its taps in the
order kh, kw; padding taps are skipped.

A micro-kernel computes tiles of outputs for a run of channel vectors: inputs are loaded once for all outputs of a tile
that use them, weights once a tile. The plain one serves a run of tiles whose patch lies inside the image. Masked ones
are told which patch rows and columns do, and how many output rows and columns are wanted: `border` tests only the few
columns that `edge_of` names, at a predictable branch each and row, and serves whole tiles, the last of a row sliding
back over its neighbour; what it cannot do, `other` does column by column. Of large windows `border` tests all columns
and serves parts of tiles too: there, what it leaves out saves more.

Several outputs a channel (`multiplier`): where a vector holds the outputs of whole channels, or one channel's outputs
fill whole vectors, vectors are those of output channels and inputs are spread over lanes as they are loaded. The layout
is then that of a multiplier of 1 with channels for output channels. Else each multiple is a vector, and a row of sums:
tiles are one row of outputs, a few at a time, whose vectors are interleaved before they are stored.

Dilation needs no kernels of its own. With g = gcd(stride, dilation), the outputs phase + (dilation / g) * t of an axis
form a convolution of stride s / g and dilation 1 over every dilation-th input. Phases are computed one after the other,
or take turns after `plan.block_rows` rows, or stretches.

Where images have a single row, rows of the grid may be stretches of it (`plan.segment`): neighbouring ones are computed
as one, a narrower image.

Loops, outermost first: images or stretches, phases of rows, turns, phases of columns, tile rows, channel passes
(`plan.block_channels` vectors), tile columns, channel vectors (in the micro-kernel).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from dwcpu.numba_kernels.interleave import interleave
from dwcpu.numba_kernels.memory import REAL, Record, as_pointer, call, integer_at, is_null, new_record, offset
from dwcpu.numba_kernels.pointwise import kernel_signature
from dwcpu.numba_kernels.target import compile_kernel, inlined, part, target
from dwcpu.numba_kernels.tile import (
    activate,
    add,
    add_part,
    bits,
    store,
    store_part,
    tile_columns,
    tile_repeat,
    vector_fma,
    window_fma,
    window_fma_masked,
)

__all__ = ["ANY", "ANY_TILE", "SEVERAL_TILE", "Window", "address", "micro_kernels", "tile_shape"]

#: What a depthwise micro-kernel needs to know: strides in reals, and the channel vectors of this pass.
DEPTHWISE = Record(
    "Depthwise",
    {
        "weights": "p",
        "bias": "p",
        "x_row": "i",
        "x_column": "i",
        "out_row": "i",
        "out_column": "i",
        "kernel_h": "i",
        "kernel_w": "i",
        "stride_h": "i",
        "stride_w": "i",
        "channels": "i",
        "block_begin": "i",
        "block_end": "i",
        "hardswish": "i",
        "low": "d",
        "high": "d",
    },
)


class Window(NamedTuple):
    """Window and effective stride that a micro-kernel is unrolled for; all zero: any, with loops over the taps."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int


ANY = Window(0, 0, 0, 0)

#: Output rows and columns of a tile.
Shape = tuple[int, int]


#: Tile of windows with several outputs a channel, which are as many rows of sums.
SEVERAL_TILE = (1, 4)

#: Tile of the kernel with loops over the taps: a run of columns, enough accumulators to hide the latency.
ANY_TILE = (1, 8)


def tile_shape(window: tuple[int, int, int, int]) -> Shape:
    """Output rows and columns of the unrolled register tile.

    Rows share inputs and weights: two of them halve the loads of one. Columns hide the latency of the multiply-add (8
    accumulators keep two 4-cycle units busy). 2 x 4 and six live weights just fit 16 registers. A window of one row
    shares nothing between rows: all outputs go to one.
    """
    return (1, 8) if window[0] == 1 else (2, 4)


def wide_line_tile(vectors: int) -> Shape:
    """Tile for windows of one row on vectors as wide as a cache line, which the compiler splits into `vectors`.

    The pixels of a line of many channels often share sets of the cache: a line that is used whole when it is there need
    not stay. Half of the registers are accumulators.
    """
    return 1, target().registers // 2 // vectors


def edge_of(window: Window) -> int:
    """How many columns of a tile's patch `border` expects outside, on each side; -1: any, and parts of tiles."""
    if window == ANY or window.kernel_w >= 7:
        return -1
    return window.kernel_w - 1 if window.kernel_h == 1 else window.kernel_w // 2


def _sum_plain(window: Window, lanes: int, multiplier: int, spread: int) -> Callable:
    """Function that adds a window whose patch lies inside the image to a tile of outputs."""
    kernel_h, kernel_w, stride_h, stride_w = window
    w_step, multiples = multiplier * lanes, int(multiplier > 1)
    w_row = lanes * multiples
    if window == ANY:

        @inlined
        def loops(tile, job, x, w):
            for kh in range(job.kernel_h):
                for kw in range(job.kernel_w):
                    tap = kh * job.kernel_w + kw
                    place = offset(x, kh * job.x_row + kw * job.x_column)
                    tile = vector_fma(tile, place, 0, job.stride_w * job.x_column, offset(w, tap * w_step), w_row, 0)
            return tile

        return loops

    @inlined
    def unrolled(tile, job, x, w):
        return window_fma(
            tile, x, job.x_row, job.x_column, w, w_step, kernel_h, kernel_w, stride_h, stride_w, spread, multiples
        )

    return unrolled


def _together(columns: int, multiplier: int) -> int:
    """Output columns whose sums of all multiples are in registers together."""
    most = target().registers * 5 // 8
    return next(few for few in (4, 2, 1) if columns % few == 0 and few * multiplier <= most)


def _build_plain(
    dtype: np.dtype, window: Window, shape: Shape, lanes: int, multiplier: int, spread: int
) -> tuple[Callable, Any]:
    rows, columns = shape
    w_step = multiplier * lanes
    add_window = _sum_plain(window, lanes, multiplier, spread)
    few = _together(columns, multiplier)

    def single(job, tiles, x_step, out_step, x, residual, out):
        block_size = job.kernel_h * job.kernel_w * lanes
        last = job.channels - lanes
        for t in range(tiles):
            for block in range(job.block_begin, job.block_end):
                c = min(block * lanes, last)
                tile = tile_repeat(offset(as_pointer(x, job.bias), block * lanes), rows, columns, lanes)
                w = offset(as_pointer(x, job.weights), block * block_size)
                tile = add_window(tile, job, offset(x, t * x_step + c // spread), w)
                place = t * out_step + c
                if not is_null(residual):
                    tile = add(tile, offset(residual, place), job.out_row, job.out_column)
                store(activate(tile, job.hardswish, job.low, job.high), offset(out, place), job.out_row, job.out_column)

    def several(job, tiles, x_step, out_step, x, residual, out):
        block_size = job.kernel_h * job.kernel_w * w_step
        last = job.channels - lanes
        for t in range(tiles):
            for block in range(job.block_begin, job.block_end):
                c = min(block * lanes, last)
                bias = offset(as_pointer(x, job.bias), block * w_step)
                w = offset(as_pointer(x, job.weights), block * block_size)
                for j in range(0, columns, few):
                    tile = tile_columns(bias, multiplier, few, lanes)
                    tile = add_window(tile, job, offset(x, t * x_step + j * job.stride_w * job.x_column + c), w)
                    tile, place = interleave(tile), t * out_step + j * job.out_column + c * multiplier
                    if not is_null(residual):
                        tile = add(tile, offset(residual, place), lanes, job.out_column)
                    store(activate(tile, job.hardswish, job.low, job.high), offset(out, place), lanes, job.out_column)

    i, real = types.int64, REAL[dtype]
    return single if multiplier == 1 else several, types.void(DEPTHWISE, i, i, i, real, real, real)


def _build_masked(
    dtype: np.dtype, window: Window, shape: Shape, edge: int, lanes: int, multiplier: int, spread: int
) -> tuple[Callable, Any]:
    rows, columns = shape
    kernel_h, kernel_w, stride_h, stride_w = window
    w_step, multiples = multiplier * lanes, int(multiplier > 1)
    few = _together(columns, multiplier)
    partial = edge < 0

    @inlined
    def add_window(tile, job, x, w, row_bits, column_bits):
        return window_fma_masked(
            tile, x, job.x_row, job.x_column, w, w_step, kernel_h, kernel_w, stride_h, stride_w, spread, multiples,
            row_bits, column_bits, edge,
        )  # fmt: skip

    def single(job, x, residual, out, row_first, row_last, column_first, column_last, n_rows, n_columns):
        block_size = job.kernel_h * job.kernel_w * lanes
        last = job.channels - lanes
        row_bits, column_bits = bits(row_first, row_last), bits(column_first, column_last)
        stored = n_columns if partial else columns
        for block in range(job.block_begin, job.block_end):
            c = min(block * lanes, last)
            tile = tile_repeat(offset(as_pointer(x, job.bias), block * lanes), rows, columns, lanes)
            w = offset(as_pointer(x, job.weights), block * block_size)
            tile = add_window(tile, job, offset(x, c // spread), w, row_bits, column_bits)
            if not is_null(residual):
                tile = add_part(tile, offset(residual, c), job.out_row, job.out_column, n_rows, stored)
            tile = activate(tile, job.hardswish, job.low, job.high)
            store_part(tile, offset(out, c), job.out_row, job.out_column, n_rows, stored)

    def several(job, x, residual, out, row_first, row_last, column_first, column_last, n_rows, n_columns):
        block_size = job.kernel_h * job.kernel_w * w_step
        last = job.channels - lanes
        row_bits, column_bits = bits(row_first, row_last), bits(column_first, column_last)
        stored = n_columns if partial else columns
        for block in range(job.block_begin, job.block_end):
            c = min(block * lanes, last)
            bias = offset(as_pointer(x, job.bias), block * w_step)
            w = offset(as_pointer(x, job.weights), block * block_size)
            for j in range(0, columns, few):
                # What is outside is so for each of these runs: outermost columns of the patch are theirs, too.
                u, place = j * stride_w, j * job.out_column + c * multiplier
                tile = tile_columns(bias, multiplier, few, lanes)
                tile = add_window(tile, job, offset(x, u * job.x_column + c), w, row_bits, column_bits >> u)
                tile = interleave(tile)
                if not is_null(residual):
                    tile = add_part(tile, offset(residual, place), lanes, job.out_column, multiplier, stored - j)
                tile = activate(tile, job.hardswish, job.low, job.high)
                store_part(tile, offset(out, place), lanes, job.out_column, multiplier, stored - j)

    def one_by_one(job, x, residual, out, row_first, row_last, column_first, column_last, n_rows, n_columns):
        """Any window: each output alone, over the part of its window that lies inside; four channel vectors at once."""
        block_size = job.kernel_h * job.kernel_w * w_step
        last = job.channels - lanes
        for j in range(n_columns):
            q = j * job.stride_w
            first, end = max(0, column_first - q), min(job.kernel_w, column_last - q)
            place = j * job.out_column
            block = job.block_begin
            while block < job.block_end:
                c = min(block * lanes, last)
                w = offset(as_pointer(x, job.weights), block * block_size)
                bias = offset(as_pointer(x, job.bias), block * w_step)
                if multiplier == 1 and block + 4 <= job.block_end and (block + 4) * lanes <= job.channels:
                    tile = tile_columns(bias, 4, 1, lanes)
                    for kh in range(row_first, row_last):
                        for kw in range(first, end):
                            tap = offset(x, c + kh * job.x_row + (q + kw) * job.x_column)
                            weight = offset(w, (kh * job.kernel_w + kw) * w_step)
                            tile = vector_fma(tile, tap, lanes, 0, weight, block_size, 0)
                    if not is_null(residual):
                        tile = add(tile, offset(residual, place + c), lanes, 0)
                    store(activate(tile, job.hardswish, job.low, job.high), offset(out, place + c), lanes, 0)
                    block += 4
                else:
                    tile = tile_columns(bias, multiplier, 1, lanes)
                    for kh in range(row_first, row_last):
                        for kw in range(first, end):
                            tap = offset(x, c + kh * job.x_row + (q + kw) * job.x_column)
                            weight = offset(w, (kh * job.kernel_w + kw) * w_step)
                            tile = vector_fma(tile, tap, 0, 0, weight, lanes, 0)
                    tile, spot = interleave(tile), place + c * multiplier
                    if not is_null(residual):
                        tile = add(tile, offset(residual, spot), lanes, 0)
                    store(activate(tile, job.hardswish, job.low, job.high), offset(out, spot), lanes, 0)
                    block += 1

    i, real = types.int64, REAL[dtype]
    function = one_by_one if window == ANY else single if multiplier == 1 else several
    return function, types.void(DEPTHWISE, real, real, real, i, i, i, i, i, i)


def _kernel(dtype: np.dtype) -> tuple[Callable, Any]:
    new_job = new_record(DEPTHWISE)

    @part
    def gcd(a, b):  # math.gcd, which Numba has no 64-bit code for without checks
        while b:
            a, b = b, a % b
        return a

    @part
    def ceil_div(a, b):
        return -(-a // b)

    @part
    def tile_row(
        plan, job, x, residual, out, row_first, row_last, n_rows, whole, outputs, first_inside, last_inside,
        block_begin, block_end,
    ):  # fmt: skip
        """All tiles of one row of tiles, for the output columns of one phase.

        x is where column 0 of the phase's padded input would be; columns [first_inside, last_inside) are in the image.
        """
        tile_columns, stride, edge = plan.tile_columns, job.stride_w, integer_at(plan.micro_kernels, 3)
        patch = (tile_columns - 1) * stride + job.kernel_w
        plain, border, other = (
            integer_at(plan.micro_kernels, 0),
            integer_at(plan.micro_kernels, 1),
            integer_at(plan.micro_kernels, 2),
        )
        x_step, out_step = tile_columns * stride * job.x_column, tile_columns * job.out_column
        latest = min(outputs - tile_columns, (last_inside + edge - patch) // stride)  # start of a whole tile
        pass_begin = block_begin
        while pass_begin < block_end:
            pass_end = min(pass_begin + plan.block_channels, block_end)
            job.block_begin, job.block_end = pass_begin, pass_end
            t = 0
            while t < outputs:
                micro, at, n_columns = border, t, min(tile_columns, outputs - t)
                if edge >= 0:
                    at = min(t, latest)
                    if at < 0 or at + tile_columns <= t or first_inside - at * stride > edge:
                        micro, at, n_columns = other, t, 1
                    else:
                        n_columns = tile_columns
                u = at * stride
                tile_x, place = offset(x, u * job.x_column), at * job.out_column
                tile_residual = residual if is_null(residual) else offset(residual, place)
                tile_out = offset(out, place)
                inside = u >= first_inside and u + patch <= last_inside
                if plain != 0 and whole and n_columns == tile_columns and inside:
                    # tiles from here on whose patch lies inside, as one run
                    tiles = (last_inside - patch - u) // (tile_columns * stride) + 1
                    tiles = min(tiles, (outputs - at) // tile_columns)
                    call(plain, (job, tiles, x_step, out_step, tile_x, tile_residual, tile_out))
                    t = at + tiles * tile_columns
                    continue
                column_first = max(0, first_inside - u)
                column_last = max(column_first, min((n_columns - 1) * stride + job.kernel_w, last_inside - u))
                call(
                    micro,
                    (
                        job,
                        tile_x,
                        tile_residual,
                        tile_out,
                        row_first,
                        row_last,
                        column_first,
                        column_last,
                        n_rows,
                        n_columns,
                    ),
                )
                t = at + n_columns
            pass_begin = pass_end

    def depthwise(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        lanes = plan.lanes
        row_size, out_row_size = plan.width * plan.x_step, plan.out_width * plan.out_step
        step_h = plan.dilation_h // gcd(plan.stride_h, plan.dilation_h)
        step_w = plan.dilation_w // gcd(plan.stride_w, plan.dilation_w)
        job = new_job()
        job.weights, job.bias, job.low, job.high = plan.weights, plan.bias, plan.low, plan.high
        job.hardswish = plan.hardswish
        job.kernel_h, job.kernel_w = plan.kernel_h, plan.kernel_w
        job.stride_h, job.stride_w = (
            plan.stride_h * step_h // plan.dilation_h,
            plan.stride_w * step_w // plan.dilation_w,
        )
        job.x_row, job.x_column = plan.dilation_h * row_size, plan.dilation_w * plan.x_step
        job.out_row, job.out_column = step_h * out_row_size, step_w * plan.out_step
        job.channels = plan.out_channels // plan.multiplier
        patch = (plan.tile_rows - 1) * job.stride_h + plan.kernel_h
        begin = min(block_begin * lanes, job.channels) * plan.multiplier
        end = min(block_end * lanes, job.channels) * plan.multiplier
        image_begin = row_begin
        cuts = plan.out_width // plan.segment if plan.segment else 0
        in_image = cuts if cuts else plan.out_height
        while image_begin < row_end:  # the rows of one image at a time, or a stretch of its only one
            image = image_begin // in_image
            image_end = min(row_end, (image + 1) * in_image)
            turn = plan.block_rows if plan.block_rows else plan.out_height
            if cuts and plan.block_rows:
                image_end = min(image_end, image_begin + plan.block_rows)
            first, last = image_begin - image * in_image, image_end - image * in_image
            column, columns = 0, plan.out_width
            if cuts:
                column = first * plan.segment
                columns = (plan.out_width if last == cuts else last * plan.segment) - column
                first, last = 0, 1
            for phase_h in range(min(step_h, plan.out_height)):
                base_h = phase_h * plan.stride_h - plan.pad_top
                first_row = ceil_div(-base_h, plan.dilation_h)
                last_row = ceil_div(plan.height - base_h, plan.dilation_h)
                t_begin, last_t = max(0, ceil_div(first - phase_h, step_h)), ceil_div(last - phase_h, step_h)
                for turn_begin in range(t_begin, last_t, turn):
                    for phase_w in range(column, column + min(step_w, columns)):
                        base_w = phase_w * plan.stride_w - plan.pad_left
                        first_column = ceil_div(-base_w, plan.dilation_w)
                        last_column = ceil_div(plan.width - base_w, plan.dilation_w)
                        outputs = ceil_div(column + columns - phase_w, step_w)
                        phase_x = offset(x, (image * plan.height + base_h) * row_size + base_w * plan.x_step)
                        phase_place = (image * plan.out_height + phase_h) * out_row_size + phase_w * plan.out_step
                        t, t_end = turn_begin, min(turn_begin + turn, last_t)
                        while t < t_end:
                            n_rows = min(plan.tile_rows, t_end - t)
                            u = t * job.stride_h
                            row_first = max(0, first_row - u)
                            row_last = min((n_rows - 1) * job.stride_h + plan.kernel_h, last_row - u)
                            place = phase_place + t * job.out_row
                            row_out = offset(out, place)
                            tile_row(
                                plan,
                                job,
                                offset(phase_x, u * job.x_row),
                                residual if is_null(residual) else offset(residual, place),
                                row_out,
                                row_first,
                                max(row_first, row_last),
                                n_rows,
                                row_first == 0 and row_last == patch,
                                outputs,
                                first_column,
                                last_column,
                                block_begin,
                                block_end,
                            )
                            if plan.activation != 0:
                                for i in range(n_rows):
                                    values = offset(row_out, i * job.out_row + begin)
                                    call(plan.activation, (values, outputs, job.out_column, end - begin, plan.alpha))
                            t += n_rows
            image_begin = image_end

    return depthwise, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the depthwise kernel: the loops around every micro-kernel."""
    return compile_kernel(f"depthwise_f{dtype.itemsize * 8}", lambda: _kernel(dtype))


def micro_kernels(
    dtype: np.dtype, window: Window, shape: Shape, lanes: int, multiplier: int, spread: int
) -> np.ndarray:
    """Addresses of the plain, border and other micro-kernels for tiles of `shape` outputs, and the edge of `border`.

    `multiplier` outputs of a channel are computed as so many vectors that are then interleaved; or `spread` of them as
    lanes of one vector, which is what a vector of output channels needs: each input serves so many lanes.
    """
    kernel = "any" if window == ANY else "{}x{}s{}x{}".format(*window)
    name = f"depthwise_f{dtype.itemsize * 8}_{kernel}_{shape[0]}x{shape[1]}x{lanes}_m{multiplier}x{spread}"
    edge, column, rest = edge_of(window), (shape[0], 1), (lanes, multiplier, spread)
    plain = compile_kernel(name + "_plain", lambda: _build_plain(dtype, window, shape, *rest))
    border = compile_kernel(name + "_border", lambda: _build_masked(dtype, window, shape, edge, *rest))
    other = border
    if edge >= 0:
        other = compile_kernel(name + "_other", lambda: _build_masked(dtype, window, column, -1, *rest))
    return np.array([plain, border, other, edge], np.int64)
