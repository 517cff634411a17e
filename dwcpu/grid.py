"""How a kernel's grid of rows x blocks is shared among threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from .abi import FEW_OUTPUTS, SET_BYTES, TWO_TURN_ROWS, panel_widths
from .fused_geometry import Geometry
from .geometry import ConvGeometry

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = [
    "Grid",
    "blocks_of",
    "cut",
    "grid_of",
    "joined_groups",
    "panels_of",
    "row_phases",
    "run_length",
    "run_lengths",
    "segment_of",
    "serial_us",
    "worth_threads",
    "worth_waking",
]

#: Serial microseconds below which a kernel stays on the calling thread. To hand over work costs 0.2 to 0.4 us where
#: helpers are awake.
_WORTH_US = 5.0
#: The same for a kernel alone where helpers have to be woken, which takes 3 us, and nothing may come of it.
_WORTH_WAKING_US = 16.0
#: Rates for that estimate, deliberately those of a modest core: GFLOP/s and GB/s.
_GFLOPS, _GBYTES = 60.0, 20.0
#: A split that leaves this much less imbalance than the split by rows is worth reading inputs twice for.
_BETTER = 0.97
#: The same for windows. Half of the channels of a pixel is a short run: two threads do 14x14x480 in 0.76 to 0.88 of the
#: time if they take eight and six rows in place of half of the channels each.
_BETTER_WINDOWS = 0.8
#: The same for a split by rows where there are many more weights than pixels: panels of three vectors are seldom even.
_BETTER_ROWS = 0.9
#: Pixels that a thread must have at least for it to read all weights of a product where half of them would do: where a
#: vector is a line, and else.
_LEAST_PIXELS = (7, 3)
#: Outputs, for each pixel of a thread, from which on threads share the outputs of a product. Half of the pixels were
#: written by another core, and what reads the result finds half of each: on two threads ConvNeXt-Tiny takes 0.975 of
#: the time with its 196 pixels of 384 to 1536 channels shared by pixels, and other networks, to 7x7x1024, the same.
_MANY_OUTPUTS = 16
#: Outputs of a signal, at least, of which threads share stretches: of fewer, half of the channels is more even.
_LONG = 128
#: Time of groups of few channels for each output pixel, in that of a multiply-add of a whole vector: one of half a
#: vector; one that reads its input, a vector, from memory; a run of a sum, where rows have `_LONG_RUN` pixels or more.
_HALF, _FROM_MEMORY, _RUN, _LONG_RUN = 0.5, 1.4, 2.0, 14
#: The same for an input of a pixel that is spread over a vector, by a shuffle or, where there is none, lane by lane.
_SPREAD, _SPREAD_BY_LANES = 2.0, 6.0
#: Bytes of vectors whose halves are computed (HAS_HALVES in vectors.h), and of those without such shuffles.
_HALVED_VECTOR, _SHORT_VECTOR = 64, 16
#: Bytes of spread inputs that are made at a time, and the most that may be, where windows span many rows.
_SPREAD_BYTES, _MOST_SPREAD_BYTES = 1 << 19, 1 << 22


class Grid(NamedTuple):
    """Rows x blocks in row_parts * block_parts pieces, rows cut at multiples of `granule`; `scratch` bytes a task.

    `waking`: it is worth while to wake threads for it.
    Pieces are counted row part by row part, and each of the `tasks` has as many in a row as the others, or one more.
    """

    rows: int
    granule: int
    row_parts: int
    blocks: int
    block_parts: int
    tasks: int
    threads: int
    scratch: int = 0
    waking: bool = True

    @property
    def cut(self) -> tuple[int, ...]:
        """How it is cut, as `abi.STEP_FIELDS` say it, from scratch_stride on."""
        return self.scratch, self.rows, self.granule, self.row_parts, self.blocks, self.block_parts, self.tasks

    @property
    def arguments(self) -> tuple[int, ...]:
        """What drivers take: the same, threads and waking."""
        return *self.cut, self.threads, int(self.waking)

    def share(self, widths: Sequence[int] = ()) -> float:
        """The largest piece, as part of the whole; `widths` of the blocks, unless they are all alike."""
        rows = self.most_rows / max(self.rows, 1)
        if not widths:
            return rows * -(-self.blocks // self.block_parts) / self.blocks
        ends = [self.blocks * part // self.block_parts for part in range(self.block_parts + 1)]
        return rows * max(sum(widths[a:b]) for a, b in pairwise(ends)) / sum(widths)

    @property
    def most_rows(self) -> int:
        """Number of rows of the largest row part."""
        granules, parts = -(-self.rows // self.granule), self.row_parts
        last = self.rows - granules * (parts - 1) // parts * self.granule  # one of the largest, but it may be cut short
        others = granules // parts + (granules % parts > 1) if parts > 1 else 0
        return max(last, others * self.granule)

    def row_counts(self) -> Iterator[int]:
        """Number of rows of each row part, as the drivers cut them."""
        granules = -(-self.rows // self.granule)
        for part in range(self.row_parts):
            first, last = (granules * p // self.row_parts * self.granule for p in (part, part + 1))
            yield min(last, self.rows) - min(first, self.rows)


def cut(
    rows: int,
    granule: int,
    blocks: int,
    threads: int,
    divisible: bool,
    blocks_first: bool = False,
    better: float = _BETTER,
    anywhere: bool = False,
    widths: Sequence[int] = (),
) -> Grid:
    """The most even sharing of rows x blocks among `threads`; blocks are only split where `divisible`.

    Of about equally even ones, the split by rows: each thread then reads its own inputs and writes whole rows. With
    `blocks_first` the split by blocks: each thread then reads its own weights. About equal: within the factor `better`.
    Kernels that take rows and blocks `anywhere` may have, for the rest, whole granules of rows and parts of the blocks
    of one or two more: seven granules for two threads are three and a half each.
    """
    if -(-rows // granule) * (blocks if divisible else 1) < threads:
        granule = 1  # tiles cut in two are better than idle threads
    granules = max(1, -(-rows // granule))
    threads = min(threads, granules * (blocks if divisible else 1))
    best, best_share = Grid(rows, granule, 1, blocks, 1, 1, 1), 1.0
    for row_parts in range(1, threads + 1) if blocks_first else range(threads, 0, -1):
        block_parts = min(threads // row_parts, blocks) if divisible else 1
        parts = min(row_parts, granules)
        tasks = parts * block_parts
        grid = Grid(rows, granule, parts, blocks, block_parts, tasks, min(threads, tasks))
        share = grid.share(widths)
        if share < best_share * (better if best.tasks > 1 else 1.0):
            best, best_share = grid, share
    if anywhere and divisible and granules > threads > 1:
        # in granules, of which a part takes as long as the whole
        best_share = -(-best.most_rows // granule) * -(-blocks // best.block_parts) / blocks
        for block_parts in range(2, min(threads, blocks) + 1):
            whole, rest = divmod(-(-granules * block_parts // threads), block_parts)
            share = whole + -(-rest * blocks // block_parts) / blocks
            if share < best_share * _BETTER:
                best, best_share = Grid(rows, granule, granules, blocks, block_parts, threads, threads), share
    return best


def worth_threads(geometry: Geometry, itemsize: int) -> bool:
    """Whether a computation is long enough to be shared with threads that are awake."""
    return serial_us(geometry, itemsize) > _WORTH_US


def worth_waking(geometry: Geometry, itemsize: int) -> bool:
    """Whether a computation is long enough to wake threads for it."""
    return serial_us(geometry, itemsize) > _WORTH_WAKING_US


def serial_us(geometry: Geometry, itemsize: int) -> float:
    """About how long a modest core takes, in microseconds."""
    return max(geometry.flops / _GFLOPS, geometry.bytes(itemsize) / _GBYTES) / 1e3


def run_length(geometry: ConvGeometry) -> int:
    """Outputs of a row that see the whole width of the window: the run that `conv` kernels compute as tiles."""
    first = min(geometry.out_width, -(-geometry.pad_left // geometry.stride_w))
    room = geometry.width - 1 + geometry.pad_left - (geometry.kernel_w - 1) * geometry.dilation_w
    return max(first, min(geometry.out_width, room // geometry.stride_w + 1)) - first


def run_lengths(geometry: ConvGeometry, segment: int) -> set[int]:
    """How many neighbours of a row, or of its stretches of `segment` columns, see the same taps: of all such runs."""
    g, begins = geometry, {0, geometry.out_width}
    for tap in range(g.kernel_w):  # the first columns for which it lies on the image, and behind it
        begins.add(-((tap * g.dilation_w - g.pad_left) // g.stride_w))
        begins.add(-((tap * g.dilation_w - g.pad_left - g.width) // g.stride_w))
    begins.update(range(0, g.out_width, segment) if segment else ())
    inside = sorted(column for column in begins if 0 <= column <= g.out_width)
    return {b - a for a, b in pairwise(inside)}


def _channels(kernel: Kernel, geometry: ConvGeometry) -> int:
    """Channels that a depthwise kernel makes vectors of."""
    return geometry.out_channels if kernel.layout == "spread" else geometry.in_channels


def row_phases(geometry: ConvGeometry) -> int:
    """How many rows lie from one row of a depthwise tile to the next: see `geometry.effective_window`."""
    return geometry.dilation_h // gcd(geometry.stride_h, geometry.dilation_h)


def segment_of(kernel: Kernel, geometry: ConvGeometry) -> int:
    """Output columns of a row of a kernel's grid where that is less than a row: see `abi`."""
    if kernel.op == "conv" and geometry.out_height == 1 and geometry.groups == 1 < geometry.taps:
        return kernel.tile_rows if geometry.out_channels > FEW_OUTPUTS and geometry.out_width >= _LONG else 0
    fixed = kernel.backend == "cython" and any(kernel.window)  # those have no such loop
    if kernel.op != "depthwise" or fixed or geometry.out_height > 1:
        return 0
    columns = geometry.dilation_w // gcd(geometry.stride_w, geometry.dilation_w) * kernel.tile_columns
    return columns if 2 * columns <= geometry.out_width else 0


def blocks_of(kernel: Kernel, geometry: ConvGeometry) -> int:
    """Number of blocks of the kernel's grid: see `abi`."""
    if kernel.op == "depthwise":
        return 1 if kernel.layout == "flat" else -(-_channels(kernel, geometry) // kernel.lanes)
    return len(_block_widths(kernel, geometry))


class Joined(NamedTuple):
    """How many groups share a vector of outputs, output rows of a block, and input rows that are spread for it."""

    groups: int
    rows: int
    spread_rows: int


def joined_groups(kernel: Kernel, geometry: ConvGeometry) -> Joined | None:
    """Whether groups of a convolution share vectors of outputs (see joined_groups.pxi), and how.

    Of random windows, groups, strides and dilations those that do take 0.12 to 1.33 of the time that they would take
    otherwise, half of them less than 0.65 with AVX-512 and 0.55 with AVX2, nine in ten less than 0.95; groups of four
    channels, 3x3 on 56x56x128, 0.38. Where half of a vector takes as long as a whole one (Golden Cove), groups of eight
    share too: 3x3 on 28x28x256 0.55, and the regret of 120 random ones is 1.012 in place of 1.128.
    """
    if kernel.op != "conv" or kernel.backend != "cython" or geometry.groups == 1:
        return None
    groups, lanes, height = geometry.groups, kernel.lanes, geometry.height
    inputs, outputs = geometry.in_channels // groups, geometry.out_channels // groups
    joined = min(lanes // outputs, 2 * lanes // inputs, groups)
    vector = lanes * kernel.dtype.itemsize
    row, reach = geometry.width * inputs * vector, (geometry.kernel_h - 1) * geometry.dilation_h + 1
    # Blocks that follow one another spread the rows that both read twice.
    room = min(max(_SPREAD_BYTES // row, 2 * reach), _MOST_SPREAD_BYTES // row)
    if joined < 2 or room < min(reach, height):
        return None
    blocks = -(-geometry.out_height // (max(room - reach, 0) // geometry.stride_h + 1)) if room < height else 1
    rows = -(-geometry.out_height // blocks)
    spread_rows = min((rows - 1) * geometry.stride_h + reach, height)
    # a CPU that computes such vectors in two turns computes half of one in half the time; another one does not
    halved = vector == _HALVED_VECTOR and kernel.tile_rows == TWO_TURN_ROWS
    half = _HALF if halved and 2 * outputs <= lanes else 1.0
    run = _RUN * max(1.0, _LONG_RUN / max(1, run_length(geometry)))
    runs = geometry.kernel_h if geometry.dilation_w == 1 else geometry.taps
    read = blocks * spread_rows * geometry.width / (geometry.out_height * geometry.out_width)
    spread = read * (_SPREAD if vector > _SHORT_VECTOR else _SPREAD_BY_LANES)
    apart = groups * geometry.taps * (half * inputs + run)
    together = -(-groups // joined) * (inputs * (_FROM_MEMORY * geometry.taps + spread) + run * runs)
    return Joined(joined, rows, spread_rows) if together < apart else None


def panels_of(kernel: Kernel, geometry: ConvGeometry) -> tuple[int, int, int]:
    """How the weights of a product or convolution lie in panels: `outputs`, `lanes` and `vectors` of `gemm_panels`."""
    outputs, joined = geometry.out_channels // geometry.groups, joined_groups(kernel, geometry)
    return (joined.groups * outputs, kernel.lanes, 1) if joined else (outputs, kernel.lanes, kernel.tile_columns)


def _block_widths(kernel: Kernel, geometry: ConvGeometry) -> list[int]:
    """Outputs of each block of a matrix product or convolution."""
    outputs, lanes, vectors = panels_of(kernel, geometry)
    *full, _ = panel_widths(outputs, lanes, vectors)
    widths = [width * lanes for width in full]
    groups, rest = divmod(geometry.out_channels, outputs)
    return groups * [*widths, outputs - sum(widths)] + [rest] * (rest > 0)


def grid_of(kernel: Kernel, geometry: ConvGeometry, threads: int) -> Grid:
    """The grid of one kernel for `threads` threads, cut."""
    rows = geometry.batch * geometry.out_height * (geometry.out_width if kernel.op == "pointwise" else 1)
    # The rows of a dilated window's tile lie apart: it makes no difference where others are cut.
    apart = kernel.op == "depthwise" and row_phases(geometry) > 1
    granule = 1 if kernel.op == "conv" or apart else kernel.tile_rows
    segment = segment_of(kernel, geometry)
    if segment:
        stretches = -(-geometry.out_width // segment) if kernel.op == "conv" else geometry.out_width // segment
        rows, granule = geometry.batch * stretches, 1
    # Where the last channel vector slides back over its neighbour, two threads must not share the two.
    divisible = kernel.op != "depthwise" or _channels(kernel, geometry) % kernel.lanes == 0
    # Many more weights than pixels of a thread: better to read the pixels twice.
    blocks_first = kernel.op == "pointwise" and geometry.out_channels * threads > _MANY_OUTPUTS * rows
    # Pixels that share sets of the cache are mostly computed from copies of some channels at a time: any will do.
    alone = geometry.in_channels * kernel.dtype.itemsize % (SET_BYTES // 2) > 0
    anywhere = kernel.op == "depthwise" and alone
    better = _BETTER_WINDOWS if anywhere else _BETTER_ROWS if blocks_first else _BETTER
    blocks = blocks_of(kernel, geometry)
    widths = () if kernel.op == "depthwise" else _block_widths(kernel, geometry)
    made = cut(rows, granule, blocks, threads, divisible, blocks_first, better, anywhere, widths)
    if kernel.op == "pointwise" and made.tasks > 1:
        # Tiles are of any height, if not as good: with tiles of seven rows, 49 pixels are shared as 28 and 21.
        finer = cut(rows, 1, blocks, threads, divisible, blocks_first, better, widths=widths)
        least = _LEAST_PIXELS[kernel.lanes * kernel.dtype.itemsize < _HALVED_VECTOR]
        if finer.share(widths) < better * made.share(widths) and finer.most_rows >= least:
            return finer
    return made
