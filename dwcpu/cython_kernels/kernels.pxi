# All kernels of one instruction set and one dtype, and the table by which Python finds them.

include "tile.pxi"
include "panels.pxi"
include "gemm.pxi"
include "single_pixels.pxi"
include "pointwise.pxi"
include "colours.pxi"
include "few_outputs.pxi"
include "joined_groups.pxi"
include "conv_taps.pxi"
include "conv.pxi"
include "depthwise_any.pxi"
include "depthwise_stream.pxi"
include "depthwise_flat.pxi"
include "depthwise_tiles.pxi"
include "depthwise_menu.pxi"
include "depthwise_narrow.pxi"
include "depthwise_sevens.pxi"
include "depthwise.pxi"
include "strips.pxi"
include "held_tiles.pxi"
include "depthwise_strips.pxi"
include "separable.pxi"
include "inverted_residual.pxi"
include "depthwise_repeated.pxi"
include "activations.pxi"
include "functions.pxi"
include "copies.pxi"
include "elementwise.pxi"
include "boxes.pxi"
include "products.pxi"
include "recurrent.pxi"
include "transposed.pxi"
include "norms.pxi"
include "reductions.pxi"
include "regions.pxi"
include "pixels.pxi"


cdef extern from *:
    i64 DWCPU_ABI

ABI = DWCPU_ABI  # see dwcpu.abi


def _row(
    op, uintptr_t address, int kernel, int stride, int tile_rows, int tile_cols, int vectors, way="any"
):
    return {
        "op": op, "kernel_h": kernel, "kernel_w": kernel, "stride_h": stride, "stride_w": stride,
        "tile_rows": tile_rows, "tile_cols": tile_cols, "vectors": vectors, "lanes": LANES, "address": address,
        "way": way,
    }


def rows():
    """One dict per kernel; 0 stands for any window or stride. Depthwise strides are stride / gcd(stride, dilation)."""
    cdef bint short = v_in_two_turns()
    cdef int gemm_vectors = SHORT_VECTORS if short else GEMM_VECTORS
    cdef int gemm_rows = SHORT_ROWS if short else TILE_ROWS(GEMM_VECTORS)
    return [
        _row("depthwise", <uintptr_t> &depthwise_flat, 0, 0, FLAT_ROWS, FLAT_VECTORS * LANES, 1, "flat"),
        _row("depthwise", <uintptr_t> &depthwise_3x3s1, 3, 1, WINDOW_ROWS, WINDOW_COLUMNS, 1),
        _row("depthwise", <uintptr_t> &depthwise_3x3s2, 3, 2, WINDOW_ROWS, WINDOW_COLUMNS, 1),
        _row("depthwise", <uintptr_t> &depthwise_5x5s1, 5, 1, WINDOW_ROWS, WINDOW_COLUMNS, 1),
        _row("depthwise", <uintptr_t> &depthwise_5x5s2, 5, 2, WINDOW_ROWS, WINDOW_COLUMNS, 1),
        _row("depthwise", <uintptr_t> &depthwise_7x7s1, 7, 1, WINDOW_ROWS, WINDOW_COLUMNS, 1),
        _row("depthwise", <uintptr_t> &depthwise_7x7s2, 7, 2, WINDOW_ROWS, WINDOW_COLUMNS, 1),
        _row("depthwise", <uintptr_t> &depthwise_repeated, 0, 0, 1, 1, 1, "repeated"),
        _row("depthwise", <uintptr_t> &depthwise_any, 0, 0, 1, STRIP, 1),
        _row("depthwise", <uintptr_t> &depthwise_any, 0, 0, 1, 1, 1, "stream"),
        _row("depthwise", <uintptr_t> &depthwise_strips, 0, 0, 1, MOST_STRIP, 1, "strips"),
        _row("pointwise", <uintptr_t> &pointwise, 0, 0, gemm_rows, gemm_vectors * LANES, gemm_vectors),
        _row("conv", <uintptr_t> &conv, 0, 0, gemm_rows, gemm_vectors * LANES, gemm_vectors),
        _row("separable", <uintptr_t> &separable, 0, 0, gemm_rows, gemm_vectors * LANES, gemm_vectors),
        _row(
            "inverted_residual", <uintptr_t> &inverted_residual, 0, 0, gemm_rows, gemm_vectors * LANES, gemm_vectors),
    ]


def activations():
    """Code (see dwcpu.abi) -> address of each second-pass activation."""
    return {
        HARDSWISH: <uintptr_t> &hardswish,
        HARDSIGMOID: <uintptr_t> &hardsigmoid,
        LEAKY_RELU: <uintptr_t> &leaky_relu,
        SIGMOID: <uintptr_t> &sigmoid,
        SILU: <uintptr_t> &silu,
        GELU: <uintptr_t> &gelu,
    }
