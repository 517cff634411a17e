"""What the caches of a core ask of a kernel: lines to ask for ahead, and what to do about those that share sets.

What holds for large cores (`runtime.large_core`) was measured on Golden Cove and Redwood Cove, the rest on Zen 3
and Zen 4.
"""

from __future__ import annotations

from math import inf, prod
from typing import TYPE_CHECKING, NamedTuple

from . import runtime
from .abi import COPY_BYTES, SET_BYTES
from .arrays import LINE
from .geometry import ConvGeometry

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = ["L2_SHARE", "Remedy", "across", "asks_in", "asks_out", "patch_of", "remedy", "streamed_rows", "takes_turns"]

#: Share of the L2 cache for what passes stay in: pixels of a GEMM block, rows of a fused block.
L2_SHARE = 0.5
#: Share of L2 up to which inputs are likely to be still there.
_MOST_OF_L2 = 0.75
#: Bytes of a pixel's outputs from which on it is worth asking for them, on large cores: of products, of colours.
_LEAST_ROW, _LEAST_ROW_OF_COLOURS = 256, 128
#: How many pages a large core fetches lines in that are written to one after the other, and bytes of one.
_OPEN_PAGES, _PAGE = 56, 4096
#: Pixels of a block whose outputs go to memory, in rows of so many bytes at least; the latter of each where a vector is
#: a line, and inputs at most there.
_STREAMED_ROWS, _STREAMED_BYTES, _STREAMED_LINES, _STREAMED_INPUTS = (28, 14), 2048, 3584, 8
#: Of products whose panels take turns: vectors of outputs of one panel, inputs at least and at most, and bytes of short
#: rows of outputs.
_ONE_PANEL, _LEAST_INPUTS, _MOST_INPUTS, _SHORT_ROW = 3, 12, 160, 640
#: How many lines of a set are worth copies: sets of eight, and sets of twelve.
_CROWDED, _LARGE_CROWDED = 12, 25
#: Channel vectors that are copied aside at a time, of so many bytes at most; half of them where they do not fit.
_COPIED, _COPIED_BYTES = 8, 256


class Remedy(NamedTuple):
    """What is done about lines that share sets: channel vectors and output rows of a copy, or two vectors at a time."""

    copy: tuple[int, int] | None = None
    pairs: bool = False


def takes_turns(kernel: Kernel, geometry: ConvGeometry) -> bool:
    """Whether panels of a product had better take turns after each tile of pixels, if L2 does not hold what it writes.

    On large cores, with vectors of a line. Outputs are then written nearly in order, and the CPU fetches their lines
    ahead: 112x112x16 to 96 takes 0.83 of the time, 24 to 96 on 245x245 0.87. Of less than 12 inputs it takes 0.9 to
    1.25. Where rows begin between lines 0.84 to 0.93 if they are short, 0.88 to 1.05 if they are long, else 1.0 to 1.3.
    """
    depth, row = geometry.in_channels, geometry.out_channels * kernel.dtype.itemsize
    if kernel.backend != "cython" or _vector(kernel) < LINE or not runtime.large_core():
        return False
    if geometry.out_channels <= _ONE_PANEL * kernel.lanes:
        return False
    if row % LINE and row < _SHORT_ROW:
        return True
    return depth >= _LEAST_INPUTS and (row % LINE == 0 or row >= _STREAMED_BYTES)


def across(kernel: Kernel, geometry: ConvGeometry) -> bool:
    """Whether panels of a matrix product take turns.

    Of results that L2 does not hold (of others it takes 1.06) and of up to 160 inputs (of more it makes no difference).
    """
    many = geometry.in_channels > _MOST_INPUTS
    return not many and asks_out(kernel, geometry) and takes_turns(kernel, geometry)


def asks_in(kernel: Kernel, geometry: ConvGeometry) -> bool:
    """Whether tiles of products with pixels as lanes ask for the inputs of the next, and single pixels for weights.

    On large cores not of those that L2 holds: 48x48x96 to 1 would take 1.2 times as long. Where it does not, 112x112x64
    to 3 would take 1.2 to 1.3 times as long if nobody asked. To ask for weights there costs a fifth to a third of the
    time if L2 has them, and gains nothing if it has not.
    """
    size, l2 = _bytes(geometry.x_shape, kernel), runtime.cache_sizes().l2
    return not runtime.large_core() or size > _MOST_OF_L2 * l2


def asks_out(kernel: Kernel, geometry: ConvGeometry) -> bool:
    """Whether tiles ask for the lines that they write to, of results that L2 does not hold, or not with all else.

    Where a vector is a line, tiles of matrix products write to so many at once that the CPU fetches them too late, even
    those of eight rows. Those of AVX2 write to half as many: to ask would take them 2 to 4 % longer. On large cores
    depthwise windows at stride 1 gain too, 112x112x128 3x3 0.89 to 0.95 of the time, 160x160x96 0.80 to 0.97, at stride
    2 1.0 to 1.05 (where outputs lie across lines they ask for their own second ones: depthwise_tiles.pxi), and tiles of
    colours, 0.96 to 0.98, MobileNetV1 0.994.
    """
    size, row = _bytes(geometry.out_shape, kernel), geometry.out_channels * kernel.dtype.itemsize
    l2, large = runtime.cache_sizes().l2, runtime.large_core()
    if _vector(kernel) < LINE:
        return False
    if kernel.op == "conv":
        colours = (geometry.in_channels, geometry.kernel_w, geometry.dilation_w) == (3, 3, 1)
        compiled = kernel.backend == "cython"
        return large and compiled and colours and row >= _LEAST_ROW_OF_COLOURS and size > 0.7 * l2
    if kernel.op == "depthwise":
        return large and kernel.copies and row % LINE == 0 and geometry.stride_w == 1 and size > 1.5 * l2
    return row >= _LEAST_ROW and size > l2 if large else size > 2 * l2


def streamed_rows(kernel: Kernel, geometry: ConvGeometry) -> int | None:
    """How many pixels' outputs a matrix product writes from end to end at a time, if it mostly writes to memory.

    Of many outputs, in long rows, of short sums. On 4900 pixels 3 to 1000 channels take 0.73 of the time, 8 to 512
    0.58, 3136 of 24 to 1000 0.62; 64 to 1024 0.94. Of rows of less than 2 KiB some take longer. On Zen 4 3 to 1000
    take 0.8 of the time, 8 to 1000 0.97, but 12 to 1000 1.06, 16 to 2000 1.1, and 3 to 1000 on 3136 1.35.

    Large cores fetch lines ahead in as many pages as hold the outputs of 56 pixels, or more of short rows: 3136 of 24
    to 1000 0.52, 3844 of 16 to 1528 0.42, 12544 of 16 to 96 0.80, 6400 of 256 to 1024 0.96. Of 112 pages they fetch
    nothing: 0.98 and 1.03 of the former two.
    """
    caches, row = runtime.cache_sizes(), geometry.out_channels * kernel.dtype.itemsize
    depth, size, lines = geometry.in_channels, _bytes(geometry.out_shape, kernel), _vector(kernel) == LINE
    in_l2 = depth * row <= L2_SHARE * caches.l2
    if lines and runtime.large_core():
        return _OPEN_PAGES * max(1, _PAGE // row) if in_l2 and asks_out(kernel, geometry) else None
    if lines:
        streams = depth <= _STREAMED_INPUTS and row >= _STREAMED_LINES and size > caches.l3 // 2
    else:
        streams = in_l2 and row >= _STREAMED_BYTES and size > caches.l3 // 4
    return _STREAMED_ROWS[lines] if streams else None


def patch_of(kernel: Kernel, geometry: ConvGeometry) -> tuple[int, int]:
    """Input rows and columns of a depthwise tile."""
    kernel_h, kernel_w, stride_h, stride_w = geometry.effective_window
    return (kernel.tile_rows - 1) * stride_h + kernel_h, (kernel.tile_columns - 1) * stride_w + kernel_w


def remedy(kernel: Kernel, geometry: ConvGeometry) -> Remedy:
    """What to do about depthwise windows whose lines share sets of the cache.

    A few more lines than a set holds cost less than most of what could be done about it. 3x3 windows at stride 2 take
    0.75 to 0.9 of the time if two vectors of 1024-byte pixels are computed at a time, beside copies, and 0.86 to 0.99
    where all rows share sets; pixels of 2048 bytes 0.65 to 0.95 if they are copied; other windows take longer in pairs
    than with nothing done. Where a vector is a line there are no pairs, and copies of pixels of 2048 bytes take 0.45 to
    0.9 (Zen 4), of 4096 bytes 0.3 to 0.6; 5x5 and 7x7 windows on 1024 bytes 0.75 to 1.0.

    On large cores what is done without copies takes 0.56 to 1.0 of the time with vectors of a line, and 0.63 to 0.98
    with others up to 24 lines of a set; of more 1.1 to 1.2.
    """
    crowding, most = _crowding(kernel, geometry), float(_CROWDED)
    lines, pixel, row = _vector(kernel) == LINE, *_steps(kernel, geometry)
    if runtime.large_core():
        most = inf if lines else _LARGE_CROWDED
    paired = geometry.effective_window[1:] == (3, 2, 2)
    if crowding >= most:
        wide = paired and not lines
        copy = None if paired and pixel % (SET_BYTES // 2) else _copy(kernel, geometry, wide)
        return Remedy(copy, wide and copy is None)
    return Remedy(None, crowding > 0 and row % SET_BYTES == 0 and paired and not lines)


def _vector(kernel: Kernel) -> int:
    """Bytes of a vector."""
    return kernel.lanes * kernel.dtype.itemsize


def _bytes(shape: tuple[int, ...], kernel: Kernel) -> int:
    return prod(shape) * kernel.dtype.itemsize


def _steps(kernel: Kernel, geometry: ConvGeometry) -> tuple[int, int]:
    """Bytes of an input pixel, and from an input row of a tile's patch to the next."""
    pixel = geometry.in_channels * kernel.dtype.itemsize
    return pixel, geometry.dilation_h * geometry.width * pixel


def _crowding(kernel: Kernel, geometry: ConvGeometry) -> int:
    """How many lines of a depthwise tile's patch, at most, share a set of the cache.

    Lines that lie a multiple of `SET_BYTES` apart do. Those that are more than the set holds are gone before all
    vectors of theirs, or all tiles that read them, had a turn. 0 where the kernel could do nothing about it. Images
    smaller than a patch take 0.75 of the time if they are not taken for a whole one (256 to 2048 channels).
    """
    if not kernel.copies or geometry.in_channels % kernel.lanes:
        return 0
    rows, columns = patch_of(kernel, geometry)
    rows = min(rows, -(-geometry.height // geometry.dilation_h))
    columns = min(columns, -(-geometry.width // geometry.dilation_w))
    pixel, row = _steps(kernel, geometry)
    column = geometry.dilation_w * pixel
    sets = [(r * row + q * column) % SET_BYTES // LINE for r in range(rows) for q in range(columns)]
    return max(map(sets.count, sets))


def _copy(kernel: Kernel, geometry: ConvGeometry, wide: bool) -> tuple[int, int] | None:
    """Channel vectors and output rows of a pass that is computed from a copy of its inputs, if enough rows fit.

    Copies of four vectors of each pixel have to fit the L1 cache where there are `wide` tiles to do without: on
    56x56x512, at stride 2, those take 0.7 of the time.
    """
    vector, patch = _vector(kernel), patch_of(kernel, geometry)[0]
    kernel_h, _, stride_h, _ = geometry.effective_window
    # More vectors or more rows? Where copies one after the other share few rows, more vectors. Where a vector is a
    # line, half as many take up to twice the time of none, and 3x3 windows at stride 1 with two rows at a time 1.2.
    most, half = min(_COPIED, _COPIED_BYTES // vector), COPY_BYTES // 2
    wanted = kernel.tile_rows * (1 if 4 * (kernel_h - stride_h) <= patch else 2)
    tries = [(rows, vectors, half) for rows in (wanted, kernel.tile_rows) for vectors in (most, most // 2)]
    if vector == LINE:
        least = wanted if kernel_h == 3 else kernel.tile_rows
        tries = [(least, most, half), (least, most, COPY_BYTES)]
    for least, vectors, room in tries:
        width = -(-geometry.width // geometry.dilation_w) * vectors * vector
        rows = (room // width - kernel_h) // stride_h + 1
        outgrown = vectors < most and patch * width > runtime.cache_sizes().l1
        if rows >= least and not (wide and outgrown):
            return vectors, rows // kernel.tile_rows * kernel.tile_rows
    return None
