"""Whether a convolution of a small image is computed tap by tap, or window by window: a sum of costs decides.

Costs are in multiply-adds of a vector, of a panel of weights. What the image's border cuts off differs from pixel to
pixel, so that windows are runs of a pixel or a few, which do not keep the arithmetic busy; of one tap, rows of pixels
lie inside, but their sums go to memory and back.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby, product
from typing import TYPE_CHECKING, NamedTuple

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
    sums = _Sums(
        inputs,
        vectors,
        kernel.tile_rows,
        (geometry.kernel_h, geometry.kernel_w),
        _valid(geometry, 0),
        _valid(geometry, 1),
    )
    return sums.by_taps() < sums.by_windows()


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


class _Sums(NamedTuple):
    """The sums of a panel: inputs of a tap, vectors, rows of a tile, and the valid taps of each row and column."""

    inputs: int
    vectors: int
    tile_rows: int
    window: tuple[int, int]
    down: list[tuple[int, int]]
    across: list[tuple[int, int]]

    def pace(self, pixels: int) -> int:
        """Multiply-adds that a run of pixels has time for at each of its inputs."""
        return max(pixels * self.vectors, _LEAST_SUMS)

    def run(self, taps: int, pixels: int) -> float:
        """Cost of so many taps of a run of pixels, and of what stands around its tiles."""
        return taps * self.inputs * self.pace(pixels) + _TILE * -(-pixels // self.tile_rows)

    def by_windows(self) -> float:
        """Cost of runs of pixels with the same taps, as conv.pxi has them."""
        kernel_h, kernel_w = self.window
        inner, whole, rows = self.across.count((0, kernel_w)), self.down.count((0, kernel_h)), len(self.down)
        narrow = inner * (self.pace(whole) + (rows - whole) * self.pace(1)) < rows * self.pace(inner)
        cost = 0.0
        if inner and not narrow:
            cost += sum(self.run((end - first) * kernel_w, inner) + _RUN for first, end in self.down)
        columns = Counter(end - first for first, end in self.across if narrow or (first, end) != (0, kernel_w))
        for (first, end), alike in groupby(self.down):
            pixels = len(list(alike))
            cost += sum(n * (self.run((end - first) * taps, pixels) + _RUN) for taps, n in columns.items())
        return cost

    def by_taps(self) -> float:
        """Cost of rows or columns of pixels, tap by tap, as conv_taps.pxi has them."""
        heights, widths = (
            [sum(first <= tap < end for first, end in valid) for tap in range(taps)]
            for valid, taps in zip((self.down, self.across), self.window, strict=True)
        )
        cost = len(heights) * len(widths) * _TAP + len(self.down) * len(self.across) * self.vectors * _ENDS
        for height, width in product(heights, widths):
            lines, pixels = height, width
            if width * self.pace(height) < height * self.pace(width):
                lines, pixels = width, height
            if lines and pixels:
                cost += lines * (self.run(1, pixels) + pixels * self.vectors * _MOVED)
        return cost
