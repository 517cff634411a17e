"""Kernels made ready for one geometry: weights packed, plan filled, grid cut.

A `Prepared` belongs to one kernel and geometry. Its `run` only finds addresses and calls the driver; what depends on
the number of threads, the grid and the micro-kernels that it needs, is made at the first call with that number.
"""

from __future__ import annotations

from copy import copy
from math import gcd, lcm, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, caches, packing, runtime
from .abi import (
    ACTIVATION_CODES,
    AHEAD_TILES,
    FEW_OUTPUTS,
    FIELDS,
    HALF_COLUMNS,
    HELD_BYTES,
    HELD_ROWS,
    SET_BYTES,
    TURN,
    TWO_TURN_ROWS,
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
    run_lengths,
    segment_of,
    worth_threads,
    worth_waking,
)
from .interrupts import imported
from .pipeline import NOTHING, Pass, Room, Span, Value
from .taps import by_taps

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = ["REPEATED", "Prepared", "PreparedSingle", "fill"]

#: L1 caches that the patches and weights of a depthwise pass may take. Far more than one: what is read again comes from
#: L2 in time, and long runs of channels suit the prefetchers. Of 0.5 to 16, 4 and more are 2 to 5 % faster than less.
_L1_CACHES = 8
#: Outputs from which on it pays to gather the pixels that they are made of.
_MANY_OUTPUTS = 64
#: What tiles whose lanes are pixels cost, in multiply-adds of other tiles: a vector of outputs, and a vector of inputs.
#: To turn an input that they read costs one for eight bytes.
_FEW_OUTPUT, _FEW_INPUT, _FEW_TURNED = 0.6, 0.25, 1 / 8
#: Where packed weights are kept that belong to repeated inputs.
REPEATED = "repeated"
#: Share of L2 for the inputs that strips hold at a time.
_HELD_L2 = 0.5
#: Weights of a GEMM that take no more of it are read again for each block of pixels without harm.
_L2_SHARE_WEIGHTS = 0.25
#: Share of L2 for as much of a panel as a GEMM reads for a block of pixels before it goes on.
_L2_SHARE_PANEL = 1 / 8
#: Inputs of which stretches of sums have whole numbers.
_STRETCHED = 16
#: Output channels up to which a matrix product reads pixels with gaps between them.
_MOST_OUTPUTS = 128


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
        plan["asks_in"] = kernel.op != "depthwise" and caches.asks_in(kernel, geometry)
        l2 = runtime.cache_sizes().l2 // itemsize
        rows_in_l2 = int(caches.L2_SHARE * l2)
        if kernel.op == "pointwise":
            # Inputs stay in L2, and outputs too where the weights leave room: panels fill lines side by side, and the
            # CPU fetches neighbours ahead, for which the next panel must not come too late. With AVX-512 16 to 96
            # channels take 0.76 of the time for it, 32 to 64 and 24 to 144 0.93; without, as long as before.
            asks_out, pixel = caches.asks_out(kernel, geometry), geometry.in_channels
            weights = geometry.in_channels * geometry.out_channels
            if not asks_out and weights <= _L2_SHARE_WEIGHTS * l2:
                pixel += geometry.out_channels
            if stretch := _stretch(kernel, geometry, l2):
                plan["block_channels"] = pixel = stretch
            tiles = max(2, rows_in_l2 // pixel // kernel.tile_rows)
            if (streamed := caches.streamed_rows(kernel, geometry)) is not None:
                tiles = min(tiles, streamed // kernel.tile_rows)
            plan["block_rows"] = tiles * kernel.tile_rows
            plan["asks_out"] = asks_out
            if caches.across(kernel, geometry):
                plan["across"], plan["asks_out"] = 1, 0
        elif kernel.op == "conv":
            plan["asks_out"] = caches.asks_out(kernel, geometry)
            segment = plan["segment"] = segment_of(kernel, geometry)
            pixels = geometry.stride_w * segment or geometry.stride_h * geometry.width
            plan["block_rows"] = max(1, rows_in_l2 // (pixels * geometry.in_channels))
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
            elif not segment and by_taps(kernel, geometry):
                plan["by_taps"] = 1
        else:
            plan["segment"] = segment_of(kernel, geometry)
            plan["block_channels"] = self._block_channels()
            plan["asks_out"] = caches.asks_out(kernel, geometry)
            remedy = caches.remedy(kernel, geometry)
            if remedy.copy is not None:
                plan["block_channels"], plan["copy_rows"] = remedy.copy
            elif remedy.pairs:
                plan["tile_columns"], plan["block_channels"] = HALF_COLUMNS, self._block_channels() // 2 * 2
            if kernel.label == "stream":
                plan["block_channels"] = 0  # pixels from end to end
            if kernel.label == "strips":
                self._scratch = self._hold()
            # Columns of a dilated window that are not of its phase lie between those that are, and are fetched too.
            # Where L2 does not hold images and results, phases that take turns after every row of tiles, or stretch of
            # a signal, take 0.86 to 1.0 of the time of one that goes through all rows; in L2 up to 1.03.
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
        patch, weights = prod(caches.patch_of(self.kernel, self.geometry)), self.geometry.taps
        vectors = patch + weights * int(self.plan["multiplier"][0])
        budget = int(_L1_CACHES * runtime.cache_sizes().l1)
        return max(8, budget // (vectors * self._vector))

    def _hold(self) -> int:
        """Have a window of any size computed from copies of its inputs; the bytes that they take.

        See depthwise_strips.pxi. They stay in L2: of four cache lines of channels, or fewer, or of some columns.
        """
        geometry, plan, room = self.geometry, self.plan, int(_HELD_L2 * runtime.cache_sizes().l2)
        vector, tile = self._vector, self.kernel.tile_columns
        rows = min((HELD_ROWS - 1) * geometry.stride_h + self._reach, geometry.height)
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
        plan["block_rows"], plan["block_columns"], plan["block_channels"] = HELD_ROWS, columns, vectors
        plan["ring_rows"], plan["window_size"] = rows, places * self.kernel.lanes
        size = vectors * block + min(step // geometry.stride_w, geometry.out_width) * geometry.kernel_w * 8
        return -(-size // LINE) * LINE

    @property
    def _vector(self) -> int:
        """Bytes of a vector."""
        return self.kernel.lanes * self.kernel.dtype.itemsize

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
        has no tiles, and of panels that take turns none asks for another.
        """
        last = (rows - 1) % int(self.plan["block_rows"][0]) + 1
        plan, alone = self.plan, int(self.plan["x_step"][0]) * self.kernel.dtype.itemsize % SET_BYTES != 0
        crowded, asks_out = 0 if alone else int(plan["crowded_rows"][0]), bool(plan["asks_out"][0])
        tile_rows = most_tile_rows(self.kernel.tile_rows, crowded, asks_out)
        tiles, turns = -(-last // tile_rows), self.geometry.in_channels // TURN
        fewest, most = self.blocks // parts, -(-self.blocks // parts)
        if fewest < 2 or last == 1 or plan["across"][0]:
            return Room(0, 0)
        later = max(0, tiles - AHEAD_TILES) * turns * (fewest - 2) * self.blocks // fewest
        if self.kernel.backend == "cython":
            later *= later_lines(last // tiles, self.kernel.dtype.itemsize, self._vector)
        whole, left = divmod(self.geometry.out_channels, self.kernel.lanes)
        if self.kernel.tile_rows == TWO_TURN_ROWS and whole % 2 and 0 < 2 * left <= self.kernel.lanes:
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
        elif self.kernel.op == "conv" and self._table is not None:
            self.ready_for(run_lengths(self.geometry, int(self.plan["segment"][0])), 0)

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


def _stretch(kernel: Kernel, geometry: ConvGeometry, l2: int) -> int:
    """Inputs of each sum that a compiled GEMM adds up before the next ones; 0: all, which is better of not so many.

    Beside the inputs of a block of pixels L2 has to hold a panel, and the next one, which is asked for meanwhile: with
    2 MiB of it 6144 to 512 channels on 7x7 pixels take 0.73 of the time so, 3072 to 512 on 14x14 0.92.
    """
    most = int(_L2_SHARE_PANEL * l2) // (kernel.tile_columns * kernel.lanes)
    parts = -(-geometry.in_channels // max(most, 1))
    if (
        kernel.backend != "cython"
        or geometry.batch * geometry.out_height * geometry.out_width < 2 * kernel.tile_rows
        or 2 * geometry.in_channels <= 3 * most
    ):
        return 0
    return -(-geometry.in_channels // parts // _STRETCHED) * _STRETCHED


def _activation(kernel: Kernel, code: int) -> int:
    """Address of a second pass. Kernels of Numba take the compiled ones too: the same bits in half the time or less."""
    family = runtime.cython_kernels()
    if family is not None and (kernel.backend == "cython" or family.fused()):
        return family.activations(kernel.dtype.name)[code]
    return imported("dwcpu.numba_kernels.activations").address(kernel.dtype, code)
