"""Pointwise (1x1) convolution: a GEMM of pixels by packed weight panels, and the micro-kernels that `conv` shares.

Assumes: pixels plan.x_step apart in x, plan.out_step in out; weights in panels of `vectors * lanes`
output channels, each panel `[in_channels][width]`, the last one of one vector less or more and zero-padded to whole
vectors; bias padded alike. Guarantees: every output has one accumulator that starts from the bias and takes its input
channels in ascending order.

Loops, outermost first: blocks of `plan.block_rows` pixels (their inputs stay in the L2 cache while all panels pass),
panels (a panel stays in L1 or L2 while the block's tiles pass), tiles of some pixels x one panel (in registers), input
channels. Pixels are dealt to tiles of nearly equal height, each height having its own micro-kernel, so that a remainder
runs at the speed of a whole tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba import types

from dwcpu.abi import (
    AHEAD_TILES,
    ASKING_ROWS,
    SET_BYTES,
    TURN,
    lines_a_turn,
    most_tile_rows,
    panel_widths,
)
from dwcpu.numba_kernels.memory import (
    PLAN,
    REAL,
    Record,
    address_of,
    as_pointer,
    call,
    integer_at,
    is_null,
    new_record,
    offset,
    prefetch,
)
from dwcpu.numba_kernels.target import compile_kernel, inlined, part, target
from dwcpu.numba_kernels.tile import activate, add, add_first, outer_fma, store, store_first, tile_rows

__all__ = ["GEMM", "address", "kernel_signature", "micro_kernel", "micro_kernel_table", "run_panel", "tile_shape"]

#: What a GEMM micro-kernel needs to know of one panel: sum over n_h x n_w taps of `length` consecutive inputs, `a`
#: moving by a_h and a_w a tap and the weights by b_h and b_w. A pointwise convolution is one tap. `ahead` is what the
#: next tile prefetches, by `ahead_step` bytes an input up to `ahead_end`: the next panel, in parts, one a tile; or, of
#: the first panel, if `inputs_end` is not 0, the inputs up to there, two tiles before their turn. When all of that is
#: asked for, weights of a later kernel from `later` to `later_end` are. If `asks_out` is not 0 tiles ask for the lines
#: that the one below writes to.
GEMM = Record(
    "Gemm",
    {
        "weights": "p",
        "bias": "p",
        "a_stride": "i",
        "n_h": "i",
        "n_w": "i",
        "a_h": "i",
        "a_w": "i",
        "b_h": "i",
        "b_w": "i",
        "length": "i",
        "out_stride": "i",
        "columns": "i",
        "ahead": "p",
        "ahead_end": "p",
        "ahead_step": "i",
        "inputs_end": "p",
        "later": "p",
        "later_end": "p",
        "asks_out": "i",
        "crowded_rows": "i",
        "hardswish": "i",
        "low": "d",
        "high": "d",
    },
)


def tile_shape() -> tuple[int, int]:
    """Rows and vectors of the GEMM tile: as many accumulators as leave registers for a panel row and one pixel.

    On AVX-512 14 x 2 = 28 accumulators of 32 registers; on AVX2 and SSE 6 x 2 = 12 of 16; on NEON 8 x 2, where the
    multiply-add takes its second factor from a lane, so that wider rows gain nothing.
    """
    if target().registers == 16:
        return 6, 2
    return (14, 2) if target().vector_bytes == 64 else (8, 2)


def tallest(vectors: int) -> int:
    """Most rows of a tile of that many vectors: of three, which a last panel has, what registers hold."""
    if vectors < 3:
        return tile_shape()[0]
    return {(6, 2): 4, (14, 2): 9, (8, 2): 8}[tile_shape()]


def kernel_signature(dtype: np.dtype) -> Any:
    """Numba signature of every kernel: `dwcpu.abi`."""
    real = REAL[dtype]
    return types.void(PLAN, real, real, real, types.int64, types.int64, types.int64, types.int64, types.int64)


def inputs_a_turn() -> int:
    """Inputs that a turn of the micro-kernel's loop takes.

    With few registers tiles are small, and what a turn costs beside arithmetic counts; with many, LLVM fills them with
    addresses if it sees several inputs.
    """
    assert TURN == 4, "add_turn writes out four inputs"
    return TURN if target().registers == 16 else 1


def _build_micro_kernel(dtype: np.dtype, rows: int, vectors: int, whole: bool) -> tuple[Callable, Any]:
    lanes = target().lanes(dtype.itemsize)
    width = vectors * lanes
    turn = inputs_a_turn()
    lines = -(-rows * turn * dtype.itemsize // 64)  # of inputs that a turn takes
    line = 64 // dtype.itemsize

    @inlined
    def add_turn(tile, x, a_stride, w):
        tile = outer_fma(tile, x, a_stride, w)
        if turn > 1:
            tile = outer_fma(tile, offset(x, 1), a_stride, offset(w, width))
            tile = outer_fma(tile, offset(x, 2), a_stride, offset(w, 2 * width))
            tile = outer_fma(tile, offset(x, 3), a_stride, offset(w, 3 * width))
        return tile

    def micro_kernel(gemm, tiles, a, residual, out):
        a_stride, length, out_stride, columns = gemm.a_stride, gemm.length, gemm.out_stride, gemm.columns
        for t in range(tiles):
            tile = tile_rows(as_pointer(a, gemm.bias), rows, vectors, lanes)
            first = t * rows
            ahead, ahead_step = gemm.ahead, gemm.ahead_step
            if gemm.asks_out != 0:
                for i in range(rows):
                    for column in range(0, width, line):
                        prefetch(offset(out, (first + rows + i) * out_stride + column))
            for kh in range(gemm.n_h):
                for kw in range(gemm.n_w):
                    x = offset(a, first * a_stride + kh * gemm.a_h + kw * gemm.a_w)
                    w = offset(as_pointer(a, gemm.weights), kh * gemm.b_h + kw * gemm.b_w)
                    for _ in range(length // turn):
                        for i in range(lines):
                            prefetch(as_pointer(a, ahead + i * 64))
                        ahead += turn * ahead_step
                        tile = add_turn(tile, x, a_stride, w)
                        x, w = offset(x, turn), offset(w, turn * width)
                    for k in range(0 if whole else length % turn):
                        tile = outer_fma(tile, offset(x, k), a_stride, offset(w, k * width))
            gemm.ahead = ahead
            if ahead >= gemm.ahead_end:
                gemm.ahead, gemm.ahead_end = gemm.later, gemm.later_end
                gemm.ahead_step = 64 // TURN if gemm.later < gemm.later_end else 0
                gemm.later = gemm.later_end = gemm.weights  # a line that is in L1 anyway costs least
            tile_out = offset(out, first * out_stride)
            if columns == width:
                if not is_null(residual):
                    tile = add(tile, offset(residual, first * out_stride), out_stride, lanes)
                store(activate(tile, gemm.hardswish, gemm.low, gemm.high), tile_out, out_stride, lanes)
            else:
                last = columns - (width - lanes)
                if not is_null(residual):
                    tile = add_first(tile, offset(residual, first * out_stride), out_stride, last)
                store_first(activate(tile, gemm.hardswish, gemm.low, gemm.high), tile_out, out_stride, last)

    real = REAL[dtype]
    return micro_kernel, types.void(GEMM, types.int64, real, real, real)


def micro_kernel(dtype: np.dtype, rows: int, vectors: int, whole: bool = False) -> int:
    """Address of the GEMM micro-kernel of `rows` pixels x `vectors` vectors: void(gemm, tiles, a, residual, out).

    It computes `tiles` tiles, one below the other, so that short sums do not pay for a call each. `whole` is for runs
    of whole turns: without the code for what is left, sums of 32 to 144 inputs take 2 to 4 % less.
    """
    name = f"gemm_f{dtype.itemsize * 8}_{rows}x{vectors}v{'_whole' if whole else ''}"
    return compile_kernel(name, lambda: _build_micro_kernel(dtype, rows, vectors, whole))


def tile_heights(row_counts: Iterable[int], vectors: int, crowded: int, asks_out: bool = False) -> set[int]:
    """Tile heights that `run_panel` uses for these numbers of rows of a panel of that many vectors.

    Where pixels are crowded, of so many rows at most, also those where they are not: they may be read with gaps between
    them.
    """
    heights = {1}
    for rows in {most_tile_rows(tallest(vectors), limit, asks_out) for limit in {0, crowded}}:
        for count in row_counts:
            tiles = -(-count // rows)
            heights |= {count // tiles, -(-count // tiles)} if tiles else set()
    return heights


def micro_kernel_table(
    dtype: np.dtype, row_counts: Iterable[int], depth: int, columns: int, step: int, crowded_rows: int, asks_out: bool
) -> np.ndarray:
    """Addresses of the micro-kernels for tiles of these numbers of rows and these output channels, the rest zero.

    Runs are multiples of `depth` inputs, pixels `step` inputs apart; `crowded_rows` and `asks_out` are the plan's.
    Entry `(vectors - 1) * (rows + 1) + height`; height 1 is always there.
    """
    rows, vectors = tile_shape()
    whole, crowded = depth % inputs_a_turn() == 0, 0 if step * dtype.itemsize % SET_BYTES else crowded_rows
    table = np.zeros((vectors + 1, rows + 1), np.int64)
    for width in set(panel_widths(columns, target().lanes(dtype.itemsize), vectors)):
        for height in tile_heights(row_counts, width, crowded, asks_out):
            table[width - 1, height] = micro_kernel(dtype, height, width, whole)
    return table


def _rows_of_tiles(dtype: np.dtype) -> Callable:
    """Most rows of the tiles of a panel: fewer where pixels share a set of the L1 cache (`abi.crowded_rows`).

    And where outputs come from no near cache.
    """
    narrow, wide, itemsize = tallest(2), tallest(3), dtype.itemsize
    columns = 2 * target().lanes(itemsize)

    @part
    def rows_of_tiles(gemm):
        most = wide if gemm.columns > columns else narrow
        if gemm.asks_out != 0:
            most = min(most, ASKING_ROWS)
        if gemm.crowded_rows > 0 and gemm.a_stride * itemsize % SET_BYTES == 0:
            most = min(most, gemm.crowded_rows)
        return most

    return rows_of_tiles


def run_panel(dtype: np.dtype) -> Callable:
    """Function that deals `rows` pixels of one panel to micro-kernels of nearly equal height."""
    entries, itemsize = tile_shape()[0] + 1, dtype.itemsize
    lanes, rows_of_tiles = target().lanes(itemsize), _rows_of_tiles(dtype)

    @part
    def run_tiles(table, gemm, entry, height, tiles, first, a, residual, out):
        if tiles == 0:
            return
        soon = address_of(offset(a, (first + 2 * height) * gemm.a_stride))
        if soon < gemm.inputs_end:
            gemm.ahead, gemm.ahead_end, gemm.ahead_step = soon, gemm.inputs_end, height * itemsize
        kernel = integer_at(table, entry + height)
        if kernel == 0:  # a height that nobody foresaw: right, only slower
            kernel, tiles = integer_at(table, entry + 1), tiles * height
        tile_out = first * gemm.out_stride
        tile_residual = residual if is_null(residual) else offset(residual, tile_out)
        call(kernel, (gemm, tiles, offset(a, first * gemm.a_stride), tile_residual, offset(out, tile_out)))

    @part
    def run(table, gemm, rows, a, residual, out):
        entry = (gemm.columns - 1) // lanes * entries
        most = rows_of_tiles(gemm)
        tiles = (rows + most - 1) // most
        height = rows // tiles
        taller = rows - height * tiles  # tiles of one row more, which come first
        run_tiles(table, gemm, entry, height + 1, taller, 0, a, residual, out)
        run_tiles(table, gemm, entry, height, tiles - taller, taller * (height + 1), a, residual, out)

    return run


def _build(dtype: np.dtype) -> tuple[Callable, Any]:
    run = run_panel(dtype)
    lanes, pair = target().lanes(dtype.itemsize), tile_shape()[1]
    width = pair * lanes
    itemsize = dtype.itemsize
    new_gemm, rows_of_tiles = new_record(GEMM), _rows_of_tiles(dtype)
    soon_steps = tuple(lines_a_turn(height, itemsize) * 64 // TURN for height in range(tile_shape()[0] + 1))

    @part
    def ask_for_others(gemm, plan, rows, panels, panel, block_begin, block_end):
        """Have a panel of a part ask for what later kernels read, its share of that: see `dwcpu.ahead`.

        The first one asks for its inputs. The last has no next one to ask for: it asks for what is read soon, if there
        is such a thing, else for a share as the others do.
        """
        turns = block_end - block_begin - 1 - (1 if plan.soon_size > 0 else 0)
        turn = panel - block_begin - 1
        if turn == turns:
            most = rows_of_tiles(gemm)
            size = plan.soon_size // itemsize
            gemm.ahead = plan.soon + size * block_begin // panels * itemsize
            gemm.ahead_end = plan.soon + size * block_end // panels * itemsize
            gemm.ahead_step = soon_steps[rows // ((rows + most - 1) // most)]
        elif plan.later_size > 0:
            size = plan.later_size // itemsize
            begin = size * block_begin // panels
            share = size * block_end // panels - begin
            gemm.later = plan.later + (begin + share * turn // turns) * itemsize
            gemm.later_end = plan.later + (begin + share * (turn + 1) // turns) * itemsize

    def pointwise(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end):
        length, channels, step = plan.in_channels, plan.out_channels, plan.block_rows
        gemm = new_gemm()
        gemm.a_stride, gemm.length, gemm.out_stride = plan.x_step, length, plan.out_step
        gemm.n_h, gemm.n_w, gemm.a_h, gemm.a_w, gemm.b_h, gemm.b_w = 1, 1, 0, 0, 0, 0
        gemm.asks_out, gemm.crowded_rows = plan.asks_out, plan.crowded_rows
        gemm.hardswish, gemm.low, gemm.high = plan.hardswish, plan.low, plan.high
        vectors = (channels + lanes - 1) // lanes
        panels = max(1, vectors // pair)  # abi.panel_widths
        for first in range(row_begin, row_end, step):
            rows = min(step, row_end - first)
            for panel in range(block_begin, block_end):
                column = panel * width
                gemm.columns = width if panel < panels - 1 else channels - column
                gemm.weights = plan.weights + column * length * itemsize
                gemm.bias = plan.bias + column * itemsize
                gemm.ahead = gemm.ahead_end = gemm.weights
                gemm.ahead_step = 0
                gemm.later = gemm.later_end = gemm.weights
                if panel > block_begin and first + rows == row_end:
                    ask_for_others(gemm, plan, rows, panels, panel, block_begin, block_end)
                gemm.inputs_end = address_of(offset(x, row_end * plan.x_step)) if panel == block_begin else 0
                if panel + 1 < block_end:
                    wide = width if panel + 2 < panels else (vectors - (panel + 1) * pair) * lanes
                    gemm.ahead = gemm.weights + length * width * itemsize
                    gemm.ahead_end = gemm.ahead + length * wide * itemsize
                    gemm.ahead_step = -(-wide * itemsize // AHEAD_TILES)
                place = first * plan.out_step + column
                panel_residual = residual if is_null(residual) else offset(residual, place)
                panel_out = offset(out, place)
                run(plan.micro_kernels, gemm, rows, offset(x, first * plan.x_step), panel_residual, panel_out)
                if plan.activation != 0:
                    call(plan.activation, (panel_out, rows, plan.out_step, gemm.columns, plan.alpha))

    return pointwise, kernel_signature(dtype)


def address(dtype: np.dtype) -> int:
    """Address of the pointwise kernel."""
    rows, vectors = tile_shape()
    return compile_kernel(f"pointwise_f{dtype.itemsize * 8}_{rows}x{vectors}v", lambda: _build(dtype))
