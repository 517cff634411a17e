"""Rules of the dispatcher: which kernel is better where several compute a window, each with what was measured."""

from __future__ import annotations

from math import gcd, prod
from typing import TYPE_CHECKING

from . import runtime
from .abi import HELD_COLUMNS, HELD_ROWS, MOST_STREAMED, MOST_UNROLLED_TAPS, SET_BYTES, flat_columns
from .arrays import LINE
from .fused_geometry import Geometry
from .geometry import ConvGeometry
from .grid import run_length

if TYPE_CHECKING:
    import numpy as np

    from .dispatch import Kernel

__all__ = ["LEAST_WIDTH", "as_good", "has_rows", "is_large", "repeating_pays", "runs_on", "streams"]

#: Smallest window that is computed from copies of its inputs, in strips, its largest dilation and effective stride, and
#: the shortest row of outputs.
_LEAST_HELD_TAPS, _MOST_HELD_DILATION, _MOST_HELD_STRIDE, _LEAST_HELD_OUTPUTS = 81, 4, 3, 5
#: See `repeating_pays`, in cycles: multiply-adds of Numba's kernels, with several outputs a channel, with loops over
#: taps and with outputs as lanes; those of one output a channel, a vector of repeated inputs, and a call.
_SEVERAL, _ANY, _SPREAD, _REPEATED, _REPEATED_INPUT, _REPEATED_CALL = 1.0, 1.2, 1.2, 1.2, 4.5, 1000
#: See `streams`: taps, bytes of a pixel, and the same of images in L2, outputs of a phase of columns.
_FEW_TAPS, _LEAST_PIXEL, _LARGE_PIXEL, _FEW_COLUMNS = 4, 256, 1024, 4
#: See `has_rows`.
_MOST_IN_ROWS, _LEAST_ROWS = 13, 8
#: See `as_good`, in vectors.
_LEAST_RUN = 16
#: See `runs_on`, in lanes.
LEAST_WIDTH = 2


def _is_wide(kernel: Kernel) -> bool:
    """Whether its vectors are cache lines: then there are 32 of them, and compiled tiles of more rows."""
    return kernel.lanes * kernel.dtype.itemsize == LINE


def as_good(kernel: Kernel, geometry: Geometry) -> bool:
    """Whether a Cython kernel is as fast as what Numba would compile: then it wins, being ready at once.

    Time of Cython over Numba on the shapes of benchmarks/shapes.py, one AVX2 core, float32: 3x3 and 5x5 windows 0.5 to
    1.1, geometric mean 0.9; 7x7 0.83 to 0.99; pointwise 1.01; conv 0.88; large windows in strips 0.3 to 0.6. But any
    other window 1.2 to 3, several outputs a channel 2 to 10, fewer channels than lanes 2 to 17 at other strides than 1:
    there constants pay. Windows that Numba does not unroll either take 0.2 to 1.0 at stride 1, else 0.25 to 1.0 where
    channels are fewer than lanes, 1.4 to 1.6 where the window is a row and channels fill narrower vectors.

    Fewer channels than lanes at stride 1, where Numba has several pixels in a vector, too (undilated, in rows of a tile
    or more): over 69 random windows with tiles of four rows 0.51 to 1.18, mean 0.84 (64 bytes; left out are windows of
    one column, 1.0 to 1.1, and of one row, 0.85 to 1.4, whose neighbouring taps Numba reads once), with those of two
    0.94 to 1.4 (32 bytes; of one column up to 1.8). Elsewhere it has narrow vectors: 0.42 to 1.1 of theirs where
    channels are less than half of the lanes, or 16 vectors of a row have all taps, else up to 1.5 times.
    """
    if geometry.op != "depthwise" or kernel.window[0] or kernel.label == "stream":
        return True
    assert isinstance(geometry, ConvGeometry)
    if kernel.label == "flat":
        if geometry.taps > MOST_UNROLLED_TAPS:
            return True
        channels, lanes, run = geometry.in_channels, kernel.lanes, run_length(geometry)
        if channels < lanes and geometry.dilation_w == 1 and run >= flat_columns(channels, lanes):
            return _is_wide(kernel) and min(geometry.kernel_h, geometry.kernel_w) > 1
        return 2 * channels < lanes or run * channels >= _LEAST_RUN * lanes
    if geometry.taps <= MOST_UNROLLED_TAPS or not (kernel.label == "strips" or geometry.multiplier == 1):
        return False
    narrow = geometry.in_channels < kernel.lanes and kernel.lanes % geometry.in_channels == 0
    return not narrow or geometry.kernel_h > 1


def runs_on(geometry: ConvGeometry, lanes: int) -> bool:
    """Whether vectors run on from pixel to pixel where a pixel is a vector and a little more (see depthwise_flat.pxi).

    Time of tiles of four rows over that of vectors of one pixel, the second of which is mostly empty, 17 to 20 channels
    in 16 lanes on images of 32 columns and more: 0.52 to 1.16, mean 0.87, over 63. Narrower images 0.9 to 1.5; what the
    table has no such kernel for: 21 to 24 channels 0.73 to 1.5, tiles of two rows, 9 to 12 channels in 8 lanes, 0.82 to
    1.6.
    """
    return geometry.in_channels > lanes and geometry.out_width >= LEAST_WIDTH * lanes


def has_rows(geometry: Geometry, dtype: np.dtype) -> bool:
    """Whether tiles of two rows suit a window of one row better than its own, which go along a signal.

    They share weights: 0.75 to 1.06 of the time on images of eight rows and more, mean 0.91, with vectors of 32 and of
    64 bytes. Signals take 1.2 to 1.8, windows of 31 columns 1.0 to 1.1, and pixels that share sets of L1, in which two
    rows have twice as many lines, 1.1 to 1.25.
    """
    return (
        isinstance(geometry, ConvGeometry)
        and (geometry.op, geometry.kernel_h) == ("depthwise", 1)
        and geometry.kernel_w <= _MOST_IN_ROWS
        and geometry.out_height >= _LEAST_ROWS
        and geometry.in_channels * dtype.itemsize % (SET_BYTES // 4) != 0
    )


def is_large(geometry: Geometry, kernel: Kernel) -> bool:
    """Whether a depthwise window reads each input so often that copies of these pay (see depthwise_strips.pxi).

    Time of strips over that of other compiled code, windows of 81 taps and more: 0.45 to 1.1, mean 0.75, at an
    effective stride of 3 0.7 to 1.2, mean 0.9, but at 4 0.8 to 1.6; 50 to 80 taps 0.9 to 1.3; rows of up to four
    outputs 1.3 to 3. Copies of widely dilated windows would take megabytes. Of vectors of 64 bytes, four rows of
    outputs at a time (held_tiles.pxi): 50 to 80 taps 0.49 to 1.09 of that of other compiled code, mean 0.84, fewer taps
    1.3 to 1.9 of Numba's.
    """
    if not isinstance(geometry, ConvGeometry) or geometry.op != "depthwise":
        return False
    near = max(geometry.dilation_h, geometry.dilation_w) <= _MOST_HELD_DILATION
    near = near and geometry.effective_window[3] <= _MOST_HELD_STRIDE
    together = min(geometry.kernel_h, geometry.out_height) >= HELD_ROWS and _is_wide(kernel)
    together = together and geometry.dilation_h == geometry.stride_h == geometry.multiplier == 1
    together = together and geometry.dilation_w % geometry.stride_w == 0
    together = together and geometry.out_width >= HELD_COLUMNS * (geometry.dilation_w // geometry.stride_w)
    together = together and geometry.width >= (HELD_COLUMNS - 1) * geometry.dilation_w
    least = MOST_UNROLLED_TAPS + 1 if together else _LEAST_HELD_TAPS
    return near and geometry.taps >= least and geometry.out_width >= _LEAST_HELD_OUTPUTS


def streams(geometry: Geometry, dtype: np.dtype) -> bool:
    """Whether a depthwise window is better computed pixel by pixel (see depthwise_stream.pxi), on a large core.

    It loads each input for each tap anew, which counts little where taps are few, and reads memory from end to end.
    Time over that of what Numba compiles, 320 random windows: of up to four taps 0.82 in the mean if a pixel has 1024
    bytes or more, and 0.96 if the image does not fit L2; of up to nine that share no inputs 0.86 to 1.07; of phases of
    a dilated window with fewer columns than a tile 0.74. Others 1.0 to 3, 1x4 along signals 0.94 to 1.33. The regret is
    1.04.
    """
    if not (isinstance(geometry, ConvGeometry) and geometry.op == "depthwise" and runtime.large_core()):
        return False
    pixel = geometry.in_channels * dtype.itemsize
    if geometry.multiplier > 1 or pixel < _LEAST_PIXEL or geometry.taps > MOST_STREAMED:
        return False
    phases = geometry.dilation_w // gcd(geometry.stride_w, geometry.dilation_w)
    if phases > 1 and geometry.out_width < _FEW_COLUMNS * phases:
        return True
    size = (prod(geometry.x_shape[1:]) + prod(geometry.out_shape[1:])) * dtype.itemsize
    large = pixel >= _LARGE_PIXEL
    shared = geometry.kernel_h == geometry.stride_w == geometry.dilation_w == 1  # by neighbours, as tiles do best
    if geometry.taps <= _FEW_TAPS - shared and (large or size > runtime.cache_sizes().l2):
        return True
    return large and geometry.stride_h >= geometry.kernel_h and geometry.stride_w >= geometry.kernel_w


def repeating_pays(geometry: ConvGeometry, other: Kernel, lanes: int) -> bool:
    """Whether several outputs a channel are better computed from repeated inputs (see depthwise_repeated.pxi).

    A sum of what either costs, in cycles: narrow vectors for each output of few channels, or whole ones of all outputs
    and the repeating. Over 120, 90 and 70 random windows of 1 to 32 channels the choice takes 1.026 (AVX-512), 1.033
    (AVX2) and 1.044 (float64) of the time of the better way, and 0.75, 0.79 and 0.96 of the time of Numba's kernels
    alone.
    """
    taken, outputs = geometry.out_height * geometry.out_width * geometry.taps, geometry.out_channels
    if other.layout == "spread":
        alone = _SPREAD * -(-outputs // lanes)
    else:
        vectors = geometry.multiplier * -(-geometry.in_channels // other.lanes)
        alone = (_ANY if other.label == "any" else _SEVERAL) * vectors
    filled = outputs / lanes if outputs < lanes and geometry.stride_w == 1 else -(-outputs // lanes)
    repeated = geometry.height * geometry.width * outputs / lanes
    saved = taken * (alone - _REPEATED * filled) - _REPEATED_INPUT * repeated
    return geometry.batch * saved > _REPEATED_CALL
