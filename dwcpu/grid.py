"""How a kernel's grid of rows x blocks is shared among threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from .fused_geometry import Geometry
from .geometry import ConvGeometry

__all__ = ["BETTER", "BETTER_WINDOWS", "Grid", "cut", "run_length", "serial_us", "worth_threads", "worth_waking"]

#: Serial microseconds below which a kernel stays on the calling thread. To hand over work costs 0.2 to 0.4 us where
#: helpers are awake.
_WORTH_US = 5.0
#: The same for a kernel alone where helpers have to be woken, which takes 3 us, and nothing may come of it.
_WORTH_WAKING_US = 16.0
#: Rates for that estimate, deliberately those of a modest core: GFLOP/s and GB/s.
_GFLOPS, _GBYTES = 60.0, 20.0
#: A split that leaves this much less imbalance than the split by rows is worth reading inputs twice for.
BETTER = 0.97
#: The same for windows. Half of the channels of a pixel is a short run: two threads do 14x14x480 in 0.76 to 0.88 of the
#: time if they take eight and six rows in place of half of the channels each.
BETTER_WINDOWS = 0.8


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
    better: float = BETTER,
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
            if share < best_share * BETTER:
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
