"""Kernels made ready for one geometry: weights packed, plan filled, grid cut.

A `Prepared` belongs to one kernel and geometry. Its `run` only finds addresses and calls the driver; what depends on
the number of threads, the grid and the micro-kernels that it needs, is made at the first call with that number.
"""

from __future__ import annotations

from copy import copy
from math import gcd, inf, lcm, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, packing, runtime
from .abi import (
    ACTIVATION_CODES,
    AHEAD_TILES,
    COPY_BYTES,
    FEW_OUTPUTS,
    FIELDS,
    HALF_COLUMNS,
    HELD_BYTES,
    SET_BYTES,
    TURN,
    crowded_rows,
    later_lines,
    lines_a_turn,
    most_tile_rows,
    plan_dtype,
)
from .arrays import LINE
from .epilogue import Activation
from .fused_geometry import Geometry
from .geometry import ConvGeometry
from .grid import (
    Grid,
    blocks_of,
    grid_of,
    joined_groups,
    panels_of,
    run_length,
    segment_of,
    worth_threads,
    worth_waking,
)
from .interrupts import imported
from .pipeline import NOTHING, Pass, Room, Span, Value

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = ["L2_SHARE", "REPEATED", "Prepared", "PreparedSingle", "fill"]

#: L1 caches that the patches and weights of a depthwise pass may take. Far more than one: what is read again comes from
#: L2 in time, and long runs of channels suit the prefetchers. Of 0.5 to 16, 4 and more are 2 to 5 % faster than less.
_L1_CACHES = 8
#: Ways of other L1 caches.
_WAYS = 8
#: How many pages a large core fetches lines in that are written to one after the other, and bytes of one; bytes of a
#: pixel's outputs from which on it is worth asking for them.
_OPEN_PAGES, _PAGE, _SHORT_ROW = 56, 4096, 256
#: Channel vectors that are copied aside at a time, of so many bytes at most; half of them where they do not fit.
_COPIED, _COPIED_BYTES = 8, 256
#: Outputs from which on it pays to gather the pixels that they are made of.
_MANY_OUTPUTS = 64
#: What tiles whose lanes are pixels cost, in multiply-adds of other tiles: a vector of outputs, and a vector of inputs.
#: To turn an input that they read costs one for eight bytes.
_FEW_OUTPUT, _FEW_INPUT, _FEW_TURNED = 0.6, 0.25, 1 / 8
#: Where packed weights are kept that belong to repeated inputs.
REPEATED = "repeated"
#: Share of the L2 cache for what passes stay in: pixels of a GEMM block, rows of a fused block.
L2_SHARE = 0.5
#: Output rows whose inputs strips hold at a time, and the share of L2 for them.
_HELD_ROWS, _HELD_L2 = 4, 0.5
#: Weights of a GEMM that take no more of it are read again for each block of pixels without harm.
_L2_SHARE_WEIGHTS = 0.25
#: Output channels up to which a matrix product reads pixels with gaps between them.
_MOST_OUTPUTS = 128
#: Pixels of a block whose outputs go to memory, in rows of so many bytes at least; the latter of each where a vector is
#: a line, and inputs at most there.
_STREAMED_ROWS, _STREAMED_BYTES, _STREAMED_LINES, _STREAMED_INPUTS = (28, 14), 2048, 3584, 8


class Prepared:
    """A kernel with packed weights and a plan for one geometry: immutable to its users, safe from many threads."""

    kernel: Kernel

    def __init__(self, kernel: Kernel, geometry: Geometry) -> None:
        self.kernel, self.geometry = kernel, geometry
        self.plan: Any = np.zeros(1, plan_dtype())
        self._plan_address = self.plan.ctypes.data
        self._grids: dict[int, Grid] = {}
        self._address_of = runtime.address_finder()

    def run(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
        """Compute `out` from channel-last arrays of the kernel's dtype, C-contiguous or as `stepped` was told."""
        grid = self.grid(threads)
        address_of = self._address_of
        drive, arguments = runtime.driver(grid.threads), grid.arguments
        given, added, made = address_of(x), 0 if residual is None else address_of(residual), address_of(out)
        size = grid.scratch * grid.tasks
        if grid.scratch > runtime.MOST_SCRATCH:
            held = arrays.aligned(size, np.dtype(np.uint8))
            scratch = address_of(held)
        else:
            scratch, held = runtime.scratch(size)  # held until the kernel has ended
        drive(self._address, self._plan_address, given, added, made, scratch, *arguments)

    def launch(self, threads: int) -> tuple[int, ...] | None:
        """Kernel, plan and `Grid.arguments` of a call on `threads` threads; None if there is more to it."""
        grid = self.grid(threads)
        if grid.scratch > runtime.MOST_SCRATCH:
            return None
        return self._address, self._plan_address, *grid.arguments

    _address: int

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """The kernels that a pipeline runs, one after the other; the residual belongs to the last."""
        return (Pass(self._address, self.plan, self.grid(threads), self.geometry.out_shape, self),)

    def placed(self, x: Value, residual: Value | None, out: Value) -> Prepared | None:
        """As `pipeline.Kernels` says."""
        x_step, out_step = x.pixel_step, out.pixel_step
        if x_step is None or out_step is None or (residual is not None and residual.pixel_step != out_step):
            return None
        return self.stepped(x_step, out_step)

    def stepped(self, x_step: int, out_step: int) -> Prepared | None:
        """The same for pixels so many elements apart, of x, and of out and the residual; None if it has no such way."""
        raise NotImplementedError  # by each subclass

    def _with(self, **fields: int) -> Any:
        """A copy whose plan has other numbers in these fields."""
        other = copy(self)
        other.plan = self.plan.copy()
        for name, value in fields.items():
            other.plan[name] = value
        other._plan_address = other.plan.ctypes.data
        return other

    def grid(self, threads: int) -> Grid:
        """How the kernel is cut for that many threads; its machine code is there afterwards."""
        grid = self._grids.get(threads)
        if grid is None:
            itemsize = self.kernel.dtype.itemsize
            shared = worth_threads(self.geometry, itemsize)
            grid = self._cut(threads if shared else 1)._replace(waking=worth_waking(self.geometry, itemsize))
            self._ready(grid)
            self._grids[threads] = grid
        return grid

    def _cut(self, threads: int) -> Grid:
        raise NotImplementedError  # by each subclass

    def _ready(self, grid: Grid) -> None:
        """See to it that all machine code for this grid is there."""


def fill(plan: Any, geometry: ConvGeometry) -> None:
    """Write what the plan of a kernel says of its geometry, for arrays without gaps."""
    for name in FIELDS:
        if hasattr(geometry, name):
            plan[name] = getattr(geometry, name)
    plan["x_step"], plan["out_step"] = geometry.in_channels, geometry.out_channels
    plan["multiplier"] = max(1, geometry.out_channels // geometry.in_channels)


class PreparedSingle(Prepared):
    """Depthwise, pointwise or conv."""

    geometry: ConvGeometry

    def __init__(
        self,
        kernel: Kernel,
        geometry: ConvGeometry,
        w: np.ndarray,
        bias: np.ndarray | None,
        activation: Activation,
        packed: dict[Any, Any],
    ) -> None:
        super().__init__(kernel, geometry)
        plan, itemsize = self.plan, kernel.dtype.itemsize
        self._scratch = 0
        fill(plan, geometry)
        # Two threads that pack at once make the same arrays: whichever is kept will do.
        panels = (1, kernel.lanes, 0) if kernel.op == "depthwise" else panels_of(kernel, geometry)
        key = (kernel.op, kernel.layout, panels)
        self._packed = packed.get(key) or packed.setdefault(key, self._pack(w, bias))
        plan["weights"], plan["bias"] = (array.ctypes.data for array in self._packed)
        plan["low"], plan["high"], plan["alpha"] = activation.low, activation.high, activation.alpha
        if activation.code == ACTIVATION_CODES["hardswish"]:
            plan["hardswish"] = 1
        elif activation.code:
            plan["activation"] = _activation(kernel, activation.code)
        if kernel.layout:
            plan["multiplier"] = 1
        plan["tile_rows"], plan["tile_columns"], plan["lanes"] = kernel.tile_rows, kernel.tile_columns, kernel.lanes
        plan["crowded_rows"] = crowded_rows(runtime.l1_ways())
        l2 = runtime.cache_sizes().l2 // itemsize
        rows_in_l2 = int(L2_SHARE * l2)
        if kernel.op == "pointwise":
            # Inputs stay in L2, and outputs too where the weights leave room: panels fill lines side by side, and the
            # CPU fetches neighbours ahead, for which the next panel must not come too late. With AVX-512 16 to 96
            # channels take 0.76 of the time for it, 32 to 64 and 24 to 144 0.93; without, as long as before.
            asks_out, pixel = self._asks_out, geometry.in_channels
            weights = geometry.in_channels * geometry.out_channels
            if not asks_out and weights <= _L2_SHARE_WEIGHTS * l2:
                pixel += geometry.out_channels
            tiles = max(2, rows_in_l2 // pixel // kernel.tile_rows)
            if (streamed := self._streamed_rows) is not None:
                tiles = min(tiles, streamed // kernel.tile_rows)
            plan["block_rows"] = tiles * kernel.tile_rows
            plan["asks_out"] = asks_out
        elif kernel.op == "conv":
            plan["block_rows"] = max(1, rows_in_l2 // (geometry.stride_h * geometry.width * geometry.in_channels))
            if self._few_outputs:
                plan["ring_rows"], plan["block_rows"] = self._reach, geometry.out_height
                plan["window_size"] = self._plane_row
                self._scratch = self._planes
            elif self._gathers:
                row = geometry.out_width * geometry.in_channels
                plan["gathers"], plan["block_rows"] = 1, max(1, rows_in_l2 // row)
                self._scratch = min(int(plan["block_rows"][0]), geometry.batch * geometry.out_height) * row * itemsize
            elif joined := joined_groups(kernel, geometry):
                plan["joined"], plan["block_rows"] = joined.groups, joined.rows
                inputs = geometry.width * geometry.in_channels // geometry.groups
                self._scratch = joined.spread_rows * inputs * self._vector
        else:
            plan["segment"] = segment_of(kernel, geometry)
            plan["block_channels"] = self._block_channels()
            plan["asks_out"] = self._asks_out
            self._shape_crowded()
            if kernel.label == "strips":
                self._scratch = self._hold()
            # Columns of a dilated window that are not of its phase lie between those that are, and are fetched too.
            # Where images come from L3 or memory, phases that take turns after every row of tiles take 0.92 to 1.0 of
            # the time of one that goes through all rows; from L2 up to 1.03.
            phases = geometry.dilation_w // gcd(geometry.stride_w, geometry.dilation_w)
            if phases > 1 and not plan["copy_rows"][0] and prod(geometry.x_shape[1:]) > l2 / 2:
                if kernel.copies:
                    plan["block_rows"] = kernel.tile_rows
                elif kernel.backend == "numba" and not kernel.layout:
                    stretch = int(plan["segment"][0]) * (geometry.in_channels + geometry.out_channels)
                    plan["block_rows"] = max(1, rows_in_l2 // stretch) if stretch else kernel.tile_rows
        self._address = kernel.address()
        self._table: np.ndarray | None = None
        if kernel.micro_kernels is not None:
            self._table = kernel.micro_kernels(geometry, ())
            plan["micro_kernels"] = self._table.ctypes.data

    def placed(self, x: Value, residual: Value | None, out: Value) -> Prepared | None:
        """As `pipeline.Kernels` says."""
        if (
            x.pixel_step is None
            and residual is None
            and out.pixel_step is not None
            and self._takes_planes
            and x.is_planar
        ):
            return self._with(x_step=1, out_step=out.pixel_step)
        return super().placed(x, residual, out)

    def stepped(self, x_step: int, out_step: int) -> PreparedSingle | None:
        """As `Prepared.stepped`."""
        geometry = self.geometry
        if (x_step, out_step) == (geometry.in_channels, geometry.out_channels):
            return self
        if self.kernel.layout == "flat":
            return None
        if x_step != geometry.in_channels:
            # Windows of several pixels and channels are one run without gaps: with them 3x3 convolutions take 4 to 30 %
            # longer, a copy 2 to 10 %. So conv kernels know none.
            if self.kernel.op == "conv":
                return None
            # What is read again for every panel is better copied, too. Others gain 2 to 50 % on both together, unless
            # all pixels share sets of the cache.
            again = self.kernel.op == "pointwise" and geometry.out_channels > _MOST_OUTPUTS
            if again or x_step * self.kernel.dtype.itemsize % SET_BYTES == 0:
                return None
        return self._with(x_step=x_step, out_step=out_step)

    @property
    def _takes_planes(self) -> bool:
        """Whether it reads pictures as their three planes.

        At stride 2 and no other it does so as fast as channel-last ones; rows shorter than two tiles take up to 1.4
        times as long.
        """
        kernel, geometry = self.kernel, self.geometry
        alike = geometry.in_channels == 3 and geometry.groups == geometry.dilation_w == 1 and geometry.stride_w == 2
        wide = geometry.out_width > 2 * kernel.tile_rows
        return kernel.op == "conv" and kernel.backend == "cython" and alike and wide

    @property
    def _reach(self) -> int:
        """Input rows that a window spans."""
        return (self.geometry.kernel_h - 1) * self.geometry.dilation_h + 1

    @property
    def _plane_row(self) -> int:
        """Elements of an input row of one channel: an odd number of vectors, lest channels share sets of the cache."""
        return (-(-self.geometry.width // self.kernel.lanes) | 1) * self.kernel.lanes

    @property
    def _planes(self) -> int:
        """Bytes of the input rows that a window spans, as planes: see few_outputs.pxi."""
        return self._reach * self.geometry.in_channels * self._plane_row * self.kernel.dtype.itemsize

    @property
    def _few_outputs(self) -> bool:
        """Whether there are so few outputs that lanes are better pixels of a row, read from planes.

        9x9 windows on 224x224x16 to 3 take 0.37 of the time, 3x3 on 64x64x64 to 1 0.40, to 3 0.51, to 6 0.78. Of random
        windows, taps, strides and channels 85 % are taken in float32 and 68 % in float64 on AVX2, half of them at less
        than 0.71 and 0.83; nine in ten at less than 0.95 and 1.09.
        """
        geometry, kernel = self.geometry, self.kernel
        outputs = geometry.out_channels
        inner = (geometry.width - (geometry.kernel_w - 1) * geometry.dilation_w) >= 2 * kernel.lanes
        plain = geometry.groups == geometry.stride_w == 1 and outputs <= FEW_OUTPUTS
        if not (kernel.op == "conv" and kernel.backend == "cython" and plain and inner):
            return False
        saved = -(-outputs // kernel.lanes) - _FEW_OUTPUT * outputs / kernel.lanes - _FEW_INPUT
        turned = _FEW_TURNED * kernel.dtype.itemsize * geometry.stride_h
        pays = geometry.in_channels * (geometry.taps * saved - turned) > outputs  # each is put in its place, too
        return pays and self._planes <= runtime.cache_sizes().l2

    @property
    def _gathers(self) -> bool:
        """Whether the pixels that a 1x1 window reads are copied to lie side by side, as for a matrix product.

        12x14x32 to 128 at stride 2 takes 0.74 of the time, 14x14x64 to 64 0.85, 56x56x64 to 128 0.97, 28x28x128 to 64
        1.0. Fewer outputs take up to 1.5, and less than a cache line of channels gain nothing.
        """
        geometry = self.geometry
        inside = (
            geometry.pad_top == geometry.pad_left == 0
            and (geometry.out_height - 1) * geometry.stride_h < geometry.height
            and (geometry.out_width - 1) * geometry.stride_w < geometry.width
        )
        large = geometry.in_channels * self.kernel.dtype.itemsize >= LINE and geometry.out_channels >= _MANY_OUTPUTS
        compiled = self.kernel.op == "conv" and self.kernel.backend == "cython"
        return compiled and geometry.groups == geometry.taps == 1 and large and inside

    @property
    def _asks_out(self) -> bool:
        """Whether tiles of a matrix product or depthwise window ask for the lines that they write to.

        Where a vector is a line, those of products write to so many lines at once that the CPU fetches them too late,
        even those of eight rows: of results that L2 does not hold, they ask for them. Those of AVX2 write to half as
        many: to ask would take them 2 to 4 % longer. Windows at stride 1 gain on Golden Cove alone: 80x80x200 3x3 0.75,
        160x160x96 0.80, 80x80x240 7x7 0.9; at stride 2 they take up to 1.05 of the time.
        """
        size, l2 = prod(self.geometry.out_shape) * self.kernel.dtype.itemsize, runtime.cache_sizes().l2
        large = runtime.large_core()
        if self.kernel.op == "depthwise":
            alone = self.kernel.copies and self.geometry.stride_w == 1 and self._vector == LINE
            return large and alone and size > 1.5 * l2
        if self._vector < LINE or not large:
            return self._vector == LINE and size > 2 * l2
        return self._out_row >= _SHORT_ROW and size > l2

    @property
    def _out_row(self) -> int:
        """Bytes of the outputs of a pixel."""
        return self.geometry.out_channels * self.kernel.dtype.itemsize

    @property
    def _streamed_rows(self) -> int | None:
        """How many pixels' outputs a matrix product writes from end to end at a time, if it mostly writes to memory.

        Of many outputs, in long rows, of short sums. On 4900 pixels 3 to 1000 channels take 0.73 of the time, 8 to 512
        0.58, 3136 of 24 to 1000 0.62; 64 to 1024 0.94. Of rows of less than 2 KiB some take longer. On Zen 4 3 to 1000
        take 0.8 of the time, 8 to 1000 0.97, but 12 to 1000 1.06, 16 to 2000 1.1, and 3 to 1000 on 3136 1.35.

        Golden Cove fetches lines ahead in as many pages as hold the outputs of 56 pixels, or more of short rows: 3136
        of 24 to 1000 0.52, 3844 of 16 to 1528 0.42, 12544 of 16 to 96 0.80, 6400 of 256 to 1024 0.96. Of 112 pages it
        fetches nothing: 0.98 and 1.03 of the former two.
        """
        geometry, caches, row = self.geometry, runtime.cache_sizes(), self._out_row
        depth, size = geometry.in_channels, prod(geometry.out_shape) * self.kernel.dtype.itemsize
        in_l2 = depth * row <= L2_SHARE * caches.l2
        if self._vector == LINE and runtime.large_core():
            return _OPEN_PAGES * max(1, _PAGE // row) if self._asks_out and in_l2 else None
        if self._vector == LINE:
            streams = depth <= _STREAMED_INPUTS and row >= _STREAMED_LINES and size > caches.l3 // 2
        else:
            streams = in_l2 and row >= _STREAMED_BYTES and size > caches.l3 // 4
        return _STREAMED_ROWS[self._vector == LINE] if streams else None

    def _pack(self, w: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        kernel, geometry = self.kernel, self.geometry
        window = (geometry.kernel_h, geometry.kernel_w)
        if kernel.op == "depthwise":
            if kernel.layout == "flat":
                period = lcm(geometry.in_channels, kernel.lanes) // geometry.in_channels
                w = np.tile(w.reshape(*window, -1), period)
                bias = None if bias is None else np.tile(bias, period)
            w = w.reshape(*window, -1, 1 if kernel.layout else geometry.multiplier)
            return packing.depthwise_panels(w, bias, kernel.lanes)
        w = w.reshape(*window, geometry.in_channels // geometry.groups, geometry.out_channels)
        return packing.gemm_panels(w, bias, *panels_of(kernel, geometry))

    def _block_channels(self) -> int:
        """Channel vectors whose patch and weights fit the L1 caches of a pass."""
        kernel_h, kernel_w = self.geometry.kernel_h, self.geometry.kernel_w
        vectors = prod(self._patch) + kernel_h * kernel_w * int(self.plan["multiplier"][0])
        budget = int(_L1_CACHES * runtime.cache_sizes().l1)
        return max(8, budget // (vectors * self._vector))

    def _hold(self) -> int:
        """Have a window of any size computed from copies of its inputs; the bytes that they take.

        See depthwise_strips.pxi. They stay in L2: of four cache lines of channels, or fewer, or of some columns.
        """
        geometry, plan, room = self.geometry, self.plan, int(_HELD_L2 * runtime.cache_sizes().l2)
        vector, tile = self._vector, self.kernel.tile_columns
        rows = min((_HELD_ROWS - 1) * geometry.stride_h + self._reach, geometry.height)
        reach = (geometry.kernel_w - 1) * geometry.dilation_w
        columns = (room // (rows * max(LINE, vector)) - reach) // geometry.stride_w
        columns = max(columns, reach // geometry.stride_w, 1)  # or half of what is copied is copied again
        if columns < geometry.out_width:
            columns = max(columns // tile, 1) * tile
        width = min((columns - 1) * geometry.stride_w + reach + 1, geometry.width)
        step = lcm(geometry.stride_w, geometry.dilation_w)
        places = width // step + 2
        block = rows * min(step, geometry.width) * places * vector + LINE
        vectors = HELD_BYTES // vector
        while vectors * vector > LINE and vectors * block > room:
            vectors //= 2
        plan["block_rows"], plan["block_columns"], plan["block_channels"] = _HELD_ROWS, columns, vectors
        plan["ring_rows"], plan["window_size"] = rows, places * self.kernel.lanes
        size = vectors * block + min(step // geometry.stride_w, geometry.out_width) * geometry.kernel_w * 8
        return -(-size // LINE) * LINE

    @property
    def _patch(self) -> tuple[int, int]:
        """Input rows and columns of a depthwise tile."""
        kernel_h, kernel_w, stride_h, stride_w = self.geometry.effective_window
        rows, columns = self.kernel.tile_rows, self.kernel.tile_columns
        return (rows - 1) * stride_h + kernel_h, (columns - 1) * stride_w + kernel_w

    @property
    def _crowding(self) -> int:
        """How many lines of a depthwise tile's patch, at most, share a set of the cache.

        Lines that lie a multiple of `SET_BYTES` apart do. Those that are more than the set holds are gone before all
        vectors of theirs, or all tiles that read them, had a turn. 0 where the kernel could do nothing about it.
        Images smaller than a patch take 0.75 of the time if they are not taken for a whole one (256 to 2048 channels).
        """
        kernel, geometry = self.kernel, self.geometry
        if not kernel.copies or geometry.in_channels % kernel.lanes:
            return 0
        rows, columns = self._patch
        rows = min(rows, -(-geometry.height // geometry.dilation_h))
        columns = min(columns, -(-geometry.width // geometry.dilation_w))
        column = geometry.dilation_w * self._pixel
        sets = [(r * self._row + q * column) % SET_BYTES // LINE for r in range(rows) for q in range(columns)]
        return max(map(sets.count, sets))

    def _shape_crowded(self) -> None:
        """Have windows whose lines share sets of the cache computed from copies, or two vectors of a line at a time.

        A few more lines than a set holds cost less than most of what could be done about it. 3x3 windows at stride 2
        take 0.75 to 0.9 of the time if two vectors of 1024-byte pixels are computed at a time, beside copies, and 0.86
        to 0.99 where all rows share sets; pixels of 2048 bytes 0.65 to 0.95 if they are copied; other windows take
        longer in pairs than with nothing done. Where a vector is a line there are no pairs, and copies of pixels of
        2048 bytes take 0.45 to 0.9 (Zen 4), of 4096 bytes 0.3 to 0.6; 5x5 and 7x7 windows on 1024 bytes 0.75 to 1.0.

        Where a set has twelve lines and L2 gives one a cycle (Golden Cove), what is done without copies takes 0.56 to
        1.0 of the time with vectors of a line, and 0.63 to 0.98 with others up to 24 lines; of more 1.1 to 1.2.
        """
        crowding, most = self._crowding, 1.5 * _WAYS
        if runtime.large_core():
            most = inf if self._vector == LINE else 25
        paired, lines = self.geometry.effective_window[1:] == (3, 2, 2), self._vector == LINE
        if crowding >= most:
            copy = None if paired and self._pixel % (SET_BYTES // 2) else self._copy(wide=paired and not lines)
            if copy is not None:
                self.plan["block_channels"], self.plan["copy_rows"] = copy
                return
        elif not crowding or self._row % SET_BYTES:
            return
        if paired and not lines:
            self.plan["tile_columns"] = HALF_COLUMNS
            self.plan["block_channels"] = self._block_channels() // 2 * 2

    def _copy(self, wide: bool) -> tuple[int, int] | None:
        """Channel vectors and output rows of a pass that is computed from a copy of its inputs, if enough rows fit.

        Copies of four vectors of each pixel have to fit the L1 cache where there are `wide` tiles to do without: on
        56x56x512, at stride 2, those take 0.7 of the time.
        """
        kernel, geometry, vector = self.kernel, self.geometry, self._vector
        kernel_h, _, stride_h, _ = geometry.effective_window
        # More vectors or more rows? Where copies one after the other share few rows, more vectors. Where a vector is a
        # line, half as many take up to twice the time of none, and 3x3 windows at stride 1 with two rows at a time 1.2.
        most, half = min(_COPIED, _COPIED_BYTES // vector), COPY_BYTES // 2
        wanted = kernel.tile_rows * (1 if 4 * (kernel_h - stride_h) <= self._patch[0] else 2)
        tries = [(rows, vectors, half) for rows in (wanted, kernel.tile_rows) for vectors in (most, most // 2)]
        if vector == LINE:
            least = wanted if kernel_h == 3 else kernel.tile_rows
            tries = [(least, most, half), (least, most, COPY_BYTES)]
        for least, vectors, room in tries:
            width = -(-geometry.width // geometry.dilation_w) * vectors * vector
            rows = (room // width - kernel_h) // stride_h + 1
            outgrown = vectors < most and self._patch[0] * width > runtime.cache_sizes().l1
            if rows >= least and not (wide and outgrown):
                return vectors, rows // kernel.tile_rows * kernel.tile_rows
        return None

    @property
    def _vector(self) -> int:
        """Bytes of a vector."""
        return self.kernel.lanes * self.kernel.dtype.itemsize

    @property
    def _pixel(self) -> int:
        """Bytes of an input pixel."""
        return self.geometry.in_channels * self.kernel.dtype.itemsize

    @property
    def _row(self) -> int:
        """Bytes from an input row of a tile's patch to the next."""
        return self.geometry.dilation_h * self.geometry.width * self._pixel

    @property
    def blocks(self) -> int:
        """Number of blocks of the kernel's grid."""
        return blocks_of(self.kernel, self.geometry)

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """As `Prepared.passes`."""
        (only,) = super().passes(threads)
        only = only._replace(reads=self.weights)
        if self.kernel.op != "pointwise":
            return (only,)
        if only.grid.rows <= self.kernel.tile_rows:  # too few pixels to hide the reading of the next panel behind
            return (only._replace(awaited=self.weights),)
        if only.grid.row_parts > 1:  # several threads would all ask for the same
            return (only,)
        return (only._replace(room=self.room(only.grid.rows, only.grid.block_parts), asking=self.asking),)

    @property
    def weights(self) -> Span:
        """Where they lie."""
        return Span(self._packed[0].ctypes.data, self._packed[0].nbytes)

    def room(self, rows: int, parts: int) -> Room:
        """Bytes of later kernels' weights that a product of that many pixels, in so many parts, can ask for.

        Of each part, the first panel asks for its inputs, and the last one for what is read soon. The others' tiles of
        the last block that are left when the next panel has been asked for ask for a line or two a turn. A single pixel
        has no tiles.
        """
        last = (rows - 1) % int(self.plan["block_rows"][0]) + 1
        plan, alone = self.plan, int(self.plan["x_step"][0]) * self.kernel.dtype.itemsize % SET_BYTES != 0
        crowded, asks_out = 0 if alone else int(plan["crowded_rows"][0]), bool(plan["asks_out"][0])
        tile_rows = most_tile_rows(self.kernel.tile_rows, crowded, asks_out)
        tiles, turns = -(-last // tile_rows), self.geometry.in_channels // TURN
        fewest, most = self.blocks // parts, -(-self.blocks // parts)
        if fewest < 2 or last == 1:
            return Room(0, 0)
        later = max(0, tiles - AHEAD_TILES) * turns * (fewest - 2) * self.blocks // fewest
        if self.kernel.backend == "cython":
            later *= later_lines(last // tiles, self.kernel.dtype.itemsize, self._vector)
        whole, left = divmod(self.geometry.out_channels, self.kernel.lanes)
        if self._vector == LINE and whole % 2 and 0 < 2 * left <= self.kernel.lanes:
            tiles = -(-tiles // 2)  # a vector and a half has taller ones
        soon = tiles * turns * lines_a_turn(last // tiles, self.kernel.dtype.itemsize) * self.blocks // most
        return Room(later * LINE, soon * LINE)

    def asking(self, own: Pass, later: Span | None, soon: Span | None) -> Pass:
        """The pass `own` with a plan that asks for these, `room` at most."""
        plan = self.plan.copy()
        plan["later"], plan["later_size"] = later or NOTHING
        plan["soon"], plan["soon_size"] = soon or NOTHING
        return own._replace(plan=plan)

    def _cut(self, threads: int) -> Grid:
        return grid_of(self.kernel, self.geometry, threads)._replace(scratch=self._scratch)

    def _ready(self, grid: Grid) -> None:
        if self.kernel.op == "pointwise":
            self.ready_for(set(grid.row_counts()), int(self.plan["block_rows"][0]))
        elif self.kernel.op == "conv":
            self.ready_for({1, run_length(self.geometry)}, 0)

    def ready_for(self, counts: set[int], step: int) -> None:
        """Compile the micro-kernels for runs of these numbers of rows, taken `step` at a time (0: whole)."""
        if self._table is None or self.kernel.op == "depthwise":
            return
        if step:
            counts = {part for count in counts for part in (min(count, step), count % step)}
        assert self.kernel.micro_kernels is not None
        # Filled in place: a table is read by running kernels, which make do with height 1 where they find a zero.
        crowded, asks_out = (int(self.plan[name][0]) for name in ("crowded_rows", "asks_out"))
        table = self.kernel.micro_kernels(self.geometry, sorted(counts - {0}), crowded, bool(asks_out))
        self._table[table != 0] = table[table != 0]


def _activation(kernel: Kernel, code: int) -> int:
    """Address of a second pass. Kernels of Numba take the compiled ones too: the same bits in half the time or less."""
    family = runtime.cython_kernels()
    if family is not None and (kernel.backend == "cython" or family.fused()):
        return family.activations(kernel.dtype.name)[code]
    return imported("dwcpu.numba_kernels.activations").address(kernel.dtype, code)
