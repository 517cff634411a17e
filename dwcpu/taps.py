"""Whether a convolution of a small image is computed tap by tap, or window by window: a sum of costs decides.

Costs are in multiply-adds of a vector, of a panel of weights. What the image's border cuts off differs from pixel to
pixel, so that windows are runs of a pixel or a few, which do not keep the arithmetic busy; of one tap, rows of pixels
lie inside, but their sums go to memory and back.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from .geometry import ConvGeometry

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = ["by_taps"]

#: Sums in flight that keep the arithmetic busy (LEAST_SUMS in tile.h).
_LEAST_SUMS = 8
#: What stands around a run of pixels, a tap, and a tile; what it takes to load and store a vector of sums, and to begin
#: and to end it.
_RUN, _TAP, _TILE, _MOVED, _ENDS = 60.0, 80.0, 60.0, 2.0, 6.0
#: Outputs along an axis from which on borders are not worth the question, and inputs of a tap up to which.
_LONG, _FEW_INPUTS = 64, 8


def by_taps(kernel: Kernel, geometry: ConvGeometry) -> bool:
    """Whether it is faster to do so.

    Of the time of whole windows: 3x3 on 3x3x128 to 256 0.52, on 7x7x512 0.83, 5x5 on 7x7x34 to 168 0.62, 7x7 on 5x5x160
    to 96 0.51.
    """
    inputs = geometry.in_channels // geometry.groups
    if kernel.op != "conv" or kernel.backend != "cython" or geometry.taps == 1:
        return False
    if max(geometry.out_height, geometry.out_width) >= _LONG or inputs < _FEW_INPUTS:
        return False
    vectors = min(kernel.tile_columns, -(-geometry.out_channels // geometry.groups // kernel.lanes))
    down = _valid(geometry, 0)
    across = _valid(geometry, 1)
    return _taps(geometry, kernel, inputs, vectors, down, across) < _windows(
        geometry, kernel, inputs, vectors, down, across
    )


def _valid(geometry: ConvGeometry, axis: int) -> list[tuple[int, int]]:
    """Of each output along an axis: the first tap that lies on the image, and one past the last."""
    g, outputs = geometry, geometry.out_shape[1 + axis]
    size, taps = (g.height, g.width)[axis], (g.kernel_h, g.kernel_w)[axis]
    stride, dilation = (g.stride_h, g.stride_w)[axis], (g.dilation_h, g.dilation_w)[axis]
    pad = (g.pad_top, g.pad_left)[axis]
    found = []
    for output in range(outputs):
        place = output * stride - pad
        first = min(max(-(place // dilation), 0), taps)
        found.append((first, max(min(max(-((place - size) // dilation), 0), taps), first)))
    return found


def _pace(pixels: int, vectors: int) -> int:
    return max(pixels * vectors, _LEAST_SUMS)


def _tiles(pixels: int, kernel: Kernel) -> int:
    return -(-pixels // kernel.tile_rows)


def _windows(
    geometry: ConvGeometry,
    kernel: Kernel,
    inputs: int,
    vectors: int,
    down: list[tuple[int, int]],
    across: list[tuple[int, int]],
) -> float:
    """Cost of runs of pixels with the same taps, as conv.pxi has them."""
    inner = across.count((0, geometry.kernel_w))
    whole = down.count((0, geometry.kernel_h))
    narrow = inner * (_pace(whole, vectors) + (len(down) - whole) * _pace(1, vectors)) < len(down) * _pace(
        inner, vectors
    )
    cost = 0.0
    if inner and not narrow:
        for first, end in down:
            cost += (end - first) * geometry.kernel_w * inputs * _pace(inner, vectors)
            cost += _RUN + _TILE * _tiles(inner, kernel)
    columns = Counter(end - first for first, end in across if narrow or (first, end) != (0, geometry.kernel_w))
    for (first, end), rows in groupby(down):
        pixels = len(list(rows))
        for taps, count in columns.items():
            each = (end - first) * taps * inputs * _pace(pixels, vectors)
            cost += count * (each + _RUN + _TILE * _tiles(pixels, kernel))
    return cost


def _taps(
    geometry: ConvGeometry,
    kernel: Kernel,
    inputs: int,
    vectors: int,
    down: list[tuple[int, int]],
    across: list[tuple[int, int]],
) -> float:
    """Cost of rows or columns of pixels, tap by tap, as conv_taps.pxi has them."""
    heights, widths = (
        [sum(first <= tap < end for first, end in valid) for tap in range(taps)]
        for valid, taps in ((down, geometry.kernel_h), (across, geometry.kernel_w))
    )
    cost = geometry.taps * _TAP + len(down) * len(across) * vectors * _ENDS
    for height in heights:
        for width in widths:
            lines, pixels = (
                (height, width) if height * _pace(width, vectors) <= width * _pace(height, vectors) else (width, height)
            )
            if lines and pixels:
                cost += lines * (inputs * _pace(pixels, vectors) + _TILE * _tiles(pixels, kernel))
                cost += lines * pixels * vectors * _MOVED
    return cost
