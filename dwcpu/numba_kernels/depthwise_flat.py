"""Micro-kernels of the depthwise convolution for fewer channels than a vector has lanes.

A row of few channels is one contiguous run of reals: a vector holds the channels of several pixels, and its tap kw lies
kw pixels further on. Without dilation these are a vector of inputs at stride 1, and a blend or shuffle of a few at
others. The weights of a vector repeat the channels; after lcm(channels, lanes) reals the pattern starts again, so that
weights are packed as if so many channels there were (a `period`), and vectors of a tile lie a period apart: they share
weights.

Assumes: channels < lanes; weights and bias as in `depthwise`, for the period. Guarantees: those of `depthwise`, whose
loops call these by address; a tile is as many columns as its vectors cover, `abi.flat_columns`, and all of them see the
window's whole width. `other` does single columns at the borders, on vectors of just the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

import numpy as np
from numba import types

from dwcpu.abi import FLAT_VECTORS
from dwcpu.numba_kernels.depthwise import DEPTHWISE, Shape, Window
from dwcpu.numba_kernels.memory import REAL, as_pointer, is_null, offset
from dwcpu.numba_kernels.target import compile_kernel, part
from dwcpu.numba_kernels.tile import activate, add_part, bits, flat_fma, store_part, tile_repeat, window_fma_masked

__all__ = ["TILE", "micro_kernels"]

#: Output rows, and vectors of a row, of the register tile: see `depthwise.tile_shape`.
TILE = (2, FLAT_VECTORS)


def _tile(window: Window, lanes: int, channels: int) -> Callable:
    """Function that computes one tile; rows of the patch whose bits are not set are not read."""
    kernel_h, kernel_w, stride_h, stride_w = window
    period = lcm(channels, lanes)
    rows, vectors = TILE
    size = kernel_h * kernel_w * lanes

    @part
    def compute(job, x, residual, out, row_bits, n_rows):
        for block in range(period // lanes):
            c = block * lanes
            tile = tile_repeat(offset(as_pointer(x, job.bias), c), rows, vectors, lanes)
            tile = flat_fma(
                tile, x, job.x_row, offset(as_pointer(x, job.weights), block * size), lanes,
                kernel_h, kernel_w, stride_h, stride_w, channels, period, block, row_bits,
            )  # fmt: skip
            if not is_null(residual):
                tile = add_part(tile, offset(residual, c), job.out_row, period, n_rows, vectors)
            tile = activate(tile, job.hardswish, job.low, job.high)
            store_part(tile, offset(out, c), job.out_row, period, n_rows, vectors)

    return compute


def _build_plain(dtype: np.dtype, window: Window, lanes: int, channels: int) -> tuple[Callable, Any]:
    compute = _tile(window, lanes, channels)
    rows, patch = TILE[0], (TILE[0] - 1) * window.stride_h + window.kernel_h

    def plain(job, tiles, x_step, out_step, x, residual, out):
        for t in range(tiles):
            tile_residual = residual if is_null(residual) else offset(residual, t * out_step)
            compute(job, offset(x, t * x_step), tile_residual, offset(out, t * out_step), bits(0, patch), rows)

    i, real = types.int64, REAL[dtype]
    return plain, types.void(DEPTHWISE, i, i, i, real, real, real)


def _build_border(dtype: np.dtype, window: Window, lanes: int, channels: int) -> tuple[Callable, Any]:
    compute = _tile(window, lanes, channels)

    def border(job, x, residual, out, row_first, row_last, column_first, column_last, n_rows, n_columns):
        compute(job, x, residual, out, bits(row_first, row_last), n_rows)

    i, real = types.int64, REAL[dtype]
    return border, types.void(DEPTHWISE, real, real, real, i, i, i, i, i, i)


def _build_other(dtype: np.dtype, window: Window, lanes: int, channels: int) -> tuple[Callable, Any]:
    kernel_h, kernel_w, stride_h, stride_w = window
    rows: Shape = (TILE[0], 1)

    def other(job, x, residual, out, row_first, row_last, column_first, column_last, n_rows, n_columns):
        tile = tile_repeat(as_pointer(x, job.bias), rows[0], rows[1], channels)
        tile = window_fma_masked(
            tile, x, job.x_row, job.x_column, as_pointer(x, job.weights), lanes, kernel_h, kernel_w, stride_h, stride_w,
            1, 0, bits(row_first, row_last), bits(column_first, column_last), -1,
        )  # fmt: skip
        if not is_null(residual):
            tile = add_part(tile, residual, job.out_row, job.out_column, n_rows, n_columns)
        tile = activate(tile, job.hardswish, job.low, job.high)
        store_part(tile, out, job.out_row, job.out_column, n_rows, n_columns)

    i, real = types.int64, REAL[dtype]
    return other, types.void(DEPTHWISE, real, real, real, i, i, i, i, i, i)


def micro_kernels(dtype: np.dtype, window: Window, lanes: int, channels: int) -> np.ndarray:
    """Addresses of the plain, border and other micro-kernels, and the edge of `border`: none.

    At other strides there is no plain one: to call `border` for each tile costs little there, to compile it twice much.
    """
    name = f"depthwise_f{dtype.itemsize * 8}_flat_" + "{}x{}s{}x{}".format(*window) + f"_{lanes}c{channels}"
    plain = 0
    if window.stride_w == 1:
        plain = compile_kernel(name + "_plain", lambda: _build_plain(dtype, window, lanes, channels))
    border = compile_kernel(name + "_border", lambda: _build_border(dtype, window, lanes, channels))
    other = compile_kernel(name + "_other", lambda: _build_other(dtype, window, lanes, channels))
    return np.array([plain, border, other, 0], np.int64)
