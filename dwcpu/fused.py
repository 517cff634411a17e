"""Kernels that run kernels of `prepared`, made ready for one geometry: what lies between these stays in the cache."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import runtime
from .arrays import LINE
from .caches import L2_SHARE, takes_turns
from .fused_geometry import Geometry, InvertedResidualGeometry, SeparableGeometry
from .geometry import ConvGeometry
from .grid import Grid, cut, grid_of, row_phases, segment_of, serial_us, worth_threads, worth_waking
from .pipeline import GIVEN, Node, Pass, Pipeline, Span, chain
from .prepared import Prepared, PreparedSingle, fill

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = [
    "PreparedInverted",
    "PreparedRepeated",
    "PreparedSeparable",
    "PreparedSplit",
    "splitting_pays",
    "threads_used",
]

#: What `L2_SHARE` is for other blocks, for the window of expanded rows and the block of depthwise rows of an inverted
#: residual together: where what blocks share stays in place, and where it moves and blocks should be larger. Of rings
#: 0.45 to 0.75 are the same within 1 %, in the mean 0.65 is best.
_L2_SHARE_RING, _L2_SHARE_MOVING = 0.65, 0.75
#: The first of large cores, for images that have several blocks anyway: 160x160x16 to 96 at stride 2 takes 0.93 of the
#: time, 112x112x16 and 56x56x24 to 144 0.96, 64x64x48 to 288 0.97, 40x40x40 5x5 0.99; where L2 held something else
#: before, 0.95 to 0.99. An image in one block is left alone: parts of 14x14x64 to 384 take 1.01 of its time.
_LARGE_RING = 0.25
#: Output rows of a block of repeated inputs, at least, in input rows that a window spans.
_LEAST_MOVED = 0.5
#: What `L2_SHARE` is on large cores for inputs that are repeated, which L2 holds beside what is computed from them:
#: 112x112x3 to 18 takes 0.82 of the time, to 15 0.83, 224x224x3 to 18 at stride 2 0.9, 200x200x3 to 12 (5x5) 0.94,
#: 224x224x1 to 4 (7x7) 0.97.
_L2_SHARE_REPEATED = 0.1
#: Share of the L1 cache for a stretch of a signal whose inputs are repeated.
_L1_SHARE = 0.5
#: Pixels, times the stride, of the narrowest rows of expanded images whose panels have windows of their own.
_PANEL_WIDTH = 96
#: Times `L2_SHARE` that the rows of a dilated window's tiles may take: 33x33x256 at dilation 6 takes 5 % longer with
#: blocks of six rows, which fit, than with 12 or 24.
_MOST_APART = 4
#: See `_fills_l2`: share of L2 that images take, and the shares for what blocks stay in then; one of dilated windows.
_FILLED, _L2_SHARE_FILLED, _L2_SHARE_DILATED = 0.7, 0.04, 0.1
#: See `_crowds_l2`: as the first two.
_CROWDED, _L2_SHARE_CROWDED = 0.45, 0.06
#: Pixels of a matrix product whose time hides the reading of large weights, and what stands around a call.
_HIDING_PIXELS = 96
#: How far weights of a fused kernel may lie apart, in their own size, for all that lies there to be asked for.
_MUCH_APART = 1.25
#: What a pass of its own costs on several threads, in microseconds of `serial_us`: all wait for the last, and read what
#: others have written; the latter for each byte. The first also on large cores, which compute more in the same time.
_PASS_US, _LARGE_PASS_US, _PASS_BYTE_US = 1.7, 12.0, 12e-6
#: The same on large cores, as a share of what each thread does, where L2 does not hold a product's weights: 19x19x728,
#: which 19 rows share unevenly by a twentieth, takes 1.15 times as long in passes on two threads, 15x15x728 1.08, but
#: 7x7x1024, by a seventh, 0.82.
_WEIGHTS_SHARE = 0.1
#: What it takes a large core to read a byte from L3, again in microseconds of `serial_us`: 28 GB/s, beside 200 GFLOP/s.
_LARGE_READ_US = 0.12e-3
#: What a flop of a depthwise window costs beside one of a matrix product.
_WINDOW_COST = 2.0


def _fused_grid(geometry: Geometry, tile_rows: int, threads: int) -> Grid:
    """The grid of a fused kernel: output rows alone are shared, whole tiles of the window unless others are more even.

    Half a tile takes as long as a whole one, but most of the work is in the matrix products, which take any rows.
    """
    rows = geometry.batch * geometry.out_shape[1]

    def work(grid: Grid) -> float:
        most = grid.most_rows
        tiles = -(-most // tile_rows) * tile_rows
        return sum(_WINDOW_COST * tiles * p.flops if p.op == "depthwise" else most * p.flops for p in geometry.parts)

    return min((cut(rows, granule, 1, threads, False) for granule in (tile_rows, 1)), key=work)


def splitting_pays(geometry: Geometry, itemsize: int, threads: int) -> bool:
    """Whether `threads` threads are quicker in one pass a step, of which they share all evenly, than by output rows.

    `threads` is two or more. A thread of an inverted residual expands rows that its neighbour expands too; a separable
    one only reads them. Of 46 shapes on two threads, 3x3 to 33x33 pixels, the one that is not taken would be 5 % faster
    for one, 4 % for another, and less for all others. On large cores, of 17 shapes, 7 % for one and 5 % for another. By
    rows each thread also reads all weights, and eight threads of these take longer to read those of 7x7x1024 than to
    compute.
    """
    if geometry.batch == 0 or not worth_waking(geometry, itemsize):
        return False
    serial = serial_us(geometry, itemsize)
    *before, depthwise, last = geometry.parts
    rows = geometry.batch * depthwise.out_height
    most = cut(rows, 1, 1, threads, False).most_rows
    images, left = divmod(most, depthwise.out_height)
    reach = (left - 1) * depthwise.stride_h + (depthwise.kernel_h - 1) * depthwise.dilation_h + 1
    if geometry.batch == 1 and threads <= 2:
        reach -= depthwise.pad_top  # both at a border
    expanded = (images + (min(1.0, reach / depthwise.height) if left else 0.0)) / geometry.batch
    flops = sum(part.flops for part in geometry.parts)
    share = sum(part.flops * (expanded if part in before else most / rows) for part in geometry.parts) / flops
    between = sum(prod(part.out_shape) for part in geometry.parts[:-1]) * itemsize
    passes = len(before) + 1
    own = passes * (_LARGE_PASS_US if runtime.large_core() else _PASS_US) + between * _PASS_BYTE_US
    weights = last.in_channels * last.out_channels * itemsize
    if runtime.large_core() and weights > runtime.cache_sizes().l2:
        own += _WEIGHTS_SHARE * serial / threads
        return max(share * serial, _LARGE_READ_US * weights) - serial / threads > own
    return (share - 1 / threads) * serial > own


def _repeated_grid(window: Kernel, geometry: ConvGeometry, threads: int) -> Grid:
    """The grid of a kernel on repeated inputs, whose window another computes: rows, or a signal's stretches."""
    segment = segment_of(window, geometry.repeated) if geometry.height == 1 else 0
    if segment:
        return cut(geometry.batch * (geometry.out_width // segment), 1, 1, threads, False)
    return _fused_grid(geometry, window.tile_rows, threads)


def threads_used(kernel: Kernel, geometry: Geometry, threads: int, window: Kernel | None = None) -> int:
    """Threads that take part when `kernel` is asked to use `threads`; for two passes, in the better shared one.

    `window` is the kernel that one on repeated inputs runs.
    """
    worth = worth_waking if kernel.label == "split" else worth_threads  # passes wake whom they need
    if not worth(geometry, kernel.dtype.itemsize):
        return 1
    if isinstance(geometry, ConvGeometry):
        grid = grid_of(kernel, geometry, threads) if window is None else _repeated_grid(window, geometry, threads)
        return grid.threads
    return _fused_grid(geometry, 1, threads).threads if kernel.label == "fused" else threads


class PreparedSeparable(Prepared):
    """Separable, the intermediate in cache; `most_rows` of it at a time, if that is given, for who calls it in turn."""

    geometry: SeparableGeometry

    def __init__(
        self, kernel: Kernel, geometry: SeparableGeometry, depthwise: Prepared, pointwise: Prepared, most_rows: int = 0
    ) -> None:
        super().__init__(kernel, geometry)
        assert isinstance(depthwise, PreparedSingle) and isinstance(pointwise, PreparedSingle)
        self.depthwise, self.pointwise = depthwise, pointwise
        depthwise.plan["asks_out"] = pointwise.plan["asks_in"] = 0  # what lies between them is in L2
        plan, middle = self.plan, geometry.pointwise
        fill(plan, middle)
        # Half of L2 holds a block of the intermediate: as many whole rows as fit, or part of the width of one tile's
        # rows where not even those do.
        tile_rows, tile_columns = depthwise.kernel.tile_rows, depthwise.kernel.tile_columns
        in_l2 = runtime.cache_sizes().l2 // (middle.in_channels * kernel.dtype.itemsize)
        pixels = int(L2_SHARE * in_l2)
        if not most_rows and self._fills_l2:
            turns = takes_turns(pointwise.kernel, middle)
            pointwise.plan["across"], pointwise.plan["asks_out"] = turns, not turns
            filled = _L2_SHARE_FILLED if geometry.depthwise.dilation_h == 1 else _L2_SHARE_DILATED
            pixels = max(int(filled * in_l2), min(tile_rows * middle.width, pixels))
        elif not most_rows and self._crowds_l2:
            pixels = max(int(_L2_SHARE_CROWDED * in_l2), min(tile_rows * middle.width, pixels))
        # The rows of a dilated window's tiles lie apart: blocks have whole tiles of all, even if they take more.
        phases = row_phases(geometry.depthwise)
        most = _MOST_APART * pixels // middle.width
        if 1 < phases < middle.height and phases * tile_rows <= (min(most, most_rows) if most_rows else most):
            tile_rows *= phases
            pixels = max(pixels, tile_rows * middle.width)
        rows = max(tile_rows, pixels // middle.width // tile_rows * tile_rows)
        asking = 0 if most_rows else self._rows_asking(pixels, tile_rows)
        self._block_rows = max(1, min(asking or rows, most_rows or rows, middle.batch * middle.height))
        plan["asks_ahead"] = bool(asking)
        columns = pixels // self._block_rows
        if columns < middle.width:  # else whole rows, even where their width is no multiple of the tile's
            columns = max(tile_columns, columns // tile_columns * tile_columns)
        starts = range(0, middle.width, columns)
        self._widths = {min(columns, middle.width - start) for start in starts}
        self._stretches: Any = np.repeat(depthwise.plan, len(starts))
        self._stretches["segment"] = 0
        for stretch, start in zip(self._stretches, starts, strict=True):
            stretch["pad_left"] -= start * geometry.depthwise.stride_w
            stretch["out_width"] = min(columns, middle.width - start)
        plan["block_rows"], plan["column_blocks"] = self._block_rows, len(starts)
        plan["depthwise_kernel"], plan["depthwise_plan"] = depthwise._address, self._stretches.ctypes.data
        plan["pointwise_kernel"], plan["pointwise_plan"] = pointwise._address, pointwise._plan_address
        plan["depthwise_blocks"], plan["pointwise_blocks"] = depthwise.blocks, pointwise.blocks
        block = self._block_rows * max(self._widths) * middle.in_channels * kernel.dtype.itemsize
        plan["depthwise_scratch"] = _whole_lines(block)
        self._scratch = _whole_lines(block) + depthwise._scratch
        self._address = kernel.address()

    @property
    def _fills_l2(self) -> bool:
        """Whether images of a large core take so much of its L2 that small blocks are better, and lines are asked for.

        Before they are read or written, those of both. In half of L2, and without asking for outputs, 56x56x64 takes
        1.08 times as long, 80x80x32 1.06, 40x40x128 to 256 1.06, 112x112x64 to 128 at stride 2 1.03; but smaller images
        are better left alone, 14x14x128 1.03, 7x7x1024 1.1, and large weights, which each block reads, 19x19x728 1.05.
        Where panels take turns nobody asks for outputs: 80x80x32 to 64 0.89, 56x56x64 0.92, 28x28x256 0.98.
        """
        first, last = self.geometry.depthwise, self.geometry.pointwise
        itemsize, l2 = self.kernel.dtype.itemsize, runtime.cache_sizes().l2
        if not self._on_large_core or last.in_channels * last.out_channels * itemsize > l2 // 4:
            return False
        return (prod(first.x_shape[1:]) + prod(last.out_shape[1:])) * itemsize > _FILLED * l2

    @property
    def _crowds_l2(self) -> bool:
        """Whether an image of a large core, what it becomes and all between take so much that small blocks are better.

        14x14x512 takes 0.98 of the time, 17x17x512 and 28x28x256 to 512 at stride 2 0.98, 20x20x256 0.985, 28x28x192 to
        64 0.97; but 14x14x256 1.01, and large weights, which each block reads, 14x14x512 to 1024 at stride 2 1.07. With
        vectors of half a line, whose low tiles read weights more often, 0.97 to 1.03.
        """
        first, last = self.geometry.depthwise, self.geometry.pointwise
        itemsize, l2 = self.kernel.dtype.itemsize, runtime.cache_sizes().l2
        weights = last.in_channels * last.out_channels * itemsize
        if not self._on_large_core or first.dilation_h > 1 or weights > l2 // 2:
            return False
        size = sum(prod(shape[1:]) for shape in (first.x_shape, last.x_shape, last.out_shape)) * itemsize
        return size > _CROWDED * l2

    @property
    def _on_large_core(self) -> bool:
        """Whether what was measured on these, with vectors of a line, holds."""
        return runtime.large_core() and self.pointwise.kernel.lanes * self.kernel.dtype.itemsize >= LINE

    def _rows_asking(self, pixels: int, tile_rows: int) -> int:
        """Rows of a block, of which `pixels` fit, if it asks for the inputs of the next; 0 if it does not.

        Beside the block there should be room for those inputs; but of wide images a tile's rows ask too, though theirs
        push some of it to L3: 160x160x112 to 240 at stride 2 takes 0.90 of the time, others 0.88 to 1.0. Small images
        are in L2 anyway; rows of dilated windows are no neighbours; and large weights, which every block reads anew,
        take more pixels to hide behind.
        """
        depthwise, pointwise = self.geometry.depthwise, self.geometry.pointwise
        itemsize, l2 = self.kernel.dtype.itemsize, runtime.cache_sizes().l2
        if self._fills_l2:
            return pixels // pointwise.width // tile_rows * tile_rows if depthwise.dilation_h == 1 else 0
        if depthwise.dilation_h > 1 or prod(depthwise.x_shape) * itemsize <= L2_SHARE * l2:
            return 0
        rows = pixels // (pointwise.width + depthwise.stride_h * depthwise.width) // tile_rows * tile_rows
        if tile_rows * pointwise.width <= pixels:  # else a block has parts of rows
            rows = max(rows, tile_rows)
        many_weights = pointwise.in_channels * pointwise.out_channels * itemsize > l2 // 4
        return 0 if many_weights and rows * pointwise.width < _HIDING_PIXELS else rows

    def stepped(self, x_step: int, out_step: int) -> PreparedSeparable | None:
        """As `Prepared.stepped`."""
        channels = self.geometry.pointwise.in_channels
        depthwise, pointwise = self.depthwise.stepped(x_step, channels), self.pointwise.stepped(channels, out_step)
        if depthwise is None or pointwise is None:
            return None
        stretches = self._stretches.copy()
        stretches["x_step"] = x_step
        other = self._with(depthwise_plan=stretches.ctypes.data, pointwise_plan=pointwise._plan_address)
        other.depthwise, other.pointwise, other._stretches = depthwise, pointwise, stretches
        return other

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """As `Prepared.passes`."""
        (only,) = super().passes(threads)
        only = only._replace(reads=_joined(self.depthwise, self.pointwise))
        # Several threads would all ask for the same, and so would parts of rows.
        if len(self._stretches) > 1 or only.grid.row_parts > 1 or not only.grid.rows:
            return (only,)
        last = (only.grid.rows - 1) % self._block_rows + 1  # block, which asks
        room = self.pointwise.room(last * self.geometry.pointwise.width, 1)
        return (only._replace(room=room, asking=self.asking),)

    def asking(self, own: Pass, later: Span | None, soon: Span | None) -> Pass:
        """As `PreparedSingle.asking`."""
        inner = self.pointwise.asking(own, later, soon)
        plan = self.plan.copy()
        plan["pointwise_plan"] = inner.plan.ctypes.data
        return own._replace(plan=plan, owner=(self, inner))

    def _cut(self, threads: int) -> Grid:
        grid = _fused_grid(self.geometry, self.depthwise.kernel.tile_rows, threads)
        return grid._replace(scratch=self._scratch)

    def _ready(self, grid: Grid) -> None:
        self.ready_for(set(grid.row_counts()))

    def ready_for(self, counts: set[int]) -> None:
        """Compile the micro-kernels for runs of these numbers of output rows."""
        step = self._block_rows
        rows = {part for count in counts for part in (min(count, step), count % step)}
        if len(self._stretches) > 1:
            rows = {1}  # parts of rows are handed on one by one
        pixels = {count * width for count in rows for width in self._widths}
        self.pointwise.ready_for(pixels, int(self.pointwise.plan["block_rows"][0]))


class PreparedInverted(Prepared):
    """Inverted residual, both intermediates in cache."""

    geometry: InvertedResidualGeometry

    def __init__(
        self,
        kernel: Kernel,
        geometry: InvertedResidualGeometry,
        expand: Prepared,
        separable: Kernel,
        depthwise: Prepared,
        pointwise: Prepared,
    ) -> None:
        super().__init__(kernel, geometry)
        assert isinstance(expand, PreparedSingle)
        plan, middle, itemsize = self.plan, geometry.separable.depthwise, kernel.dtype.itemsize
        assert isinstance(depthwise, PreparedSingle)
        fill(plan, middle)
        # A share of L2 holds the window of expanded rows and the block of depthwise rows that comes from it.
        row, between = middle.width * middle.in_channels, middle.out_width * middle.out_channels
        reach = (middle.kernel_h - 1) * middle.dilation_h + 1
        # What the next block needs too stays where it is, if the depthwise kernel finds it there. To move it instead
        # takes 5 % longer where rows are long, or blocks share many: 96x96x24 to 144, 5x5 at stride 2 on 56x56.
        is_ring = depthwise.kernel.copies and middle.dilation_h == 1 and not depthwise.plan["copy_rows"][0]
        share = _L2_SHARE_RING if is_ring else _L2_SHARE_MOVING
        self._block_rows = _window_rows(depthwise, share, between)
        if is_ring and runtime.large_core() and self._block_rows < middle.out_height:
            self._block_rows = _window_rows(depthwise, _LARGE_RING, between)
        self.expand = expand
        if depthwise.kernel.label != "strips":
            depthwise.plan["block_rows"] = 0  # no phases in turn: what it reads is in L2
        if is_ring:
            depthwise.plan["ring_rows"] = plan["ring_rows"] = (self._block_rows - 1) * middle.stride_h + reach
        # What a window takes at a time stays in L2: one block of pixels.
        expand.plan["block_rows"] = self._most_expanded * middle.width
        expand.plan["asks_out"] = expand.plan["across"] = 0  # what it writes stays in L2
        self.separable = PreparedSeparable(separable, geometry.separable, depthwise, pointwise, self._block_rows)
        window = _whole_lines(((self._block_rows - 1) * middle.stride_h + reach) * row * itemsize)
        plan["block_rows"], plan["window_size"] = self._block_rows, window // itemsize
        plan["expand_kernel"], plan["expand_plan"] = expand._address, expand._plan_address
        plan["expand_blocks"] = expand.blocks
        plan["separable_kernel"], plan["separable_plan"] = self.separable._address, self.separable._plan_address
        if is_ring and middle.width * middle.stride_h >= _PANEL_WIDTH:
            self._by_panels()
        self._scratch = window + self.separable._scratch
        self._address = kernel.address()

    def _by_panels(self) -> None:
        """Windows of one panel of expanded channels after the other, from a ring of its own, where there can be any.

        What is expanded is read from L1 then, and pixels lie side by side: 112x112x16 to 96 at stride 2 takes 0.95 of
        the time, rows of 56 pixels 0.98, at stride 1 those of 160 0.97 and those of 96 1.0. Where rows are shorter,
        what stands around a call counts: up to 1.02, at stride 1 1.08. Panels of half a cache line gain nothing.
        """
        middle, kernel, stretches = self.geometry.separable.depthwise, self.expand.kernel, self.separable._stretches
        panel = kernel.lanes * kernel.tile_columns
        if (
            self.expand.blocks == 1
            or middle.in_channels % panel
            or panel * self.kernel.dtype.itemsize < LINE
            or len(stretches) > 1
            or self.separable._block_rows < self._block_rows  # it has room for fewer
        ):
            return
        depthwise = self.separable.depthwise
        held = runtime.cache_sizes().l1 // (panel * middle.width * self.kernel.dtype.itemsize)
        rows, tile_rows = (held - middle.kernel_h) // middle.stride_h + 1, depthwise.kernel.tile_rows
        self.plan["panel_rows"] = max(tile_rows, rows // tile_rows * tile_rows)
        self.expand.plan["out_step"] = stretches["x_step"] = panel
        stretches["tile_columns"] = depthwise.kernel.tile_columns  # nothing crowds

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """As `Prepared.passes`."""
        (only,) = super().passes(threads)
        (last,) = self.separable.passes(threads)
        only = only._replace(reads=_joined(self.expand, self.separable.depthwise, self.separable.pointwise))
        if self._block_rows < only.grid.rows or only.grid.row_parts > 1 or last.asking is None:
            return (only,)
        return (only._replace(room=last.room, asking=self.asking),)

    def asking(self, own: Pass, later: Span | None, soon: Span | None) -> Pass:
        """As `PreparedSingle.asking`."""
        inner = self.separable.asking(own, later, soon)
        plan = self.plan.copy()
        plan["separable_plan"] = inner.plan.ctypes.data
        return own._replace(plan=plan, owner=(self, inner.owner, inner.plan))

    @property
    def _expanded_step(self) -> int:
        """From one expanded pixel to the next, in elements."""
        return int(self.expand.plan["out_step"][0])

    def stepped(self, x_step: int, out_step: int) -> PreparedInverted | None:
        """As `Prepared.stepped`."""
        step = self._expanded_step
        expand, separable = self.expand.stepped(x_step, step), self.separable.stepped(step, out_step)
        if expand is None or separable is None:
            return None
        other = self._with(expand_plan=expand._plan_address, separable_plan=separable._plan_address)
        other.expand, other.separable = expand, separable
        return other

    @property
    def _most_expanded(self) -> int:
        """Most rows of the image that a block expands."""
        middle = self.geometry.separable.depthwise
        return min(middle.height, self._block_rows * middle.stride_h + (middle.kernel_h - 1) * middle.dilation_h)

    def _cut(self, threads: int) -> Grid:
        tile_rows = self.separable.depthwise.kernel.tile_rows
        return _fused_grid(self.geometry, tile_rows, threads)._replace(scratch=self._scratch)

    def _ready(self, grid: Grid) -> None:
        # How many rows a block expands depends on where it lies in the image: more at the top of a task, fewer at
        # borders. Every count up to the largest is made ready, which adds no micro-kernel that none of them needs.
        middle = self.geometry.separable.depthwise
        rows = range(1, self._most_expanded + 1)
        self.expand.ready_for({count * middle.width for count in rows}, int(self.expand.plan["block_rows"][0]))
        self.separable.ready_for(set(range(1, self._block_rows + 1)))


class PreparedRepeated(Prepared):
    """Depthwise with several outputs a channel, on inputs that are repeated: see depthwise_repeated.pxi."""

    geometry: ConvGeometry

    def __init__(self, kernel: Kernel, geometry: ConvGeometry, depthwise: Prepared) -> None:
        super().__init__(kernel, geometry)
        assert isinstance(depthwise, PreparedSingle)
        self.depthwise = depthwise
        plan, inner, itemsize = self.plan, depthwise.geometry, kernel.dtype.itemsize
        fill(plan, inner)
        plan["multiplier"], plan["x_step"] = geometry.multiplier, geometry.in_channels
        reach = (inner.kernel_h - 1) * inner.dilation_h + 1
        if inner.height > 1:
            depthwise.plan["segment"] = 0  # stretches would need windows as wide as they are
        plan["segment"] = segment = int(depthwise.plan["segment"][0])
        if segment:
            # They stay in L1, but where what they share with others would be more than a fourth of them.
            shared, step = (inner.kernel_w - 1) * inner.dilation_w, segment * inner.stride_w
            columns = int(_L1_SHARE * runtime.cache_sizes().l1) // (inner.in_channels * itemsize)
            plan["block_rows"] = rows = max(columns // step, -(-4 * shared // step), 1)
            held = min((rows + 1) * step + shared, inner.width)  # the last stretch takes what is left
        else:
            # Blocks that L2 does not hold are better than such as mostly move what they share with the next.
            least = min(_LEAST_MOVED * reach // inner.stride_h, inner.out_height)
            share = _L2_SHARE_REPEATED if runtime.large_core() else L2_SHARE
            plan["block_rows"] = rows = max(_window_rows(depthwise, share), int(least))
            held = min((rows - 1) * inner.stride_h + reach, inner.height) * inner.width
        if depthwise.kernel.label != "strips":
            depthwise.plan["block_rows"] = 0  # as of an inverted residual
        plan["depthwise_kernel"], plan["depthwise_plan"] = depthwise._address, depthwise._plan_address
        plan["depthwise_blocks"] = depthwise.blocks
        window = held * inner.in_channels * itemsize
        plan["depthwise_scratch"] = _whole_lines(window)
        self._scratch = _whole_lines(window) + depthwise._scratch
        self._address = kernel.address()

    def stepped(self, x_step: int, out_step: int) -> PreparedRepeated | None:
        """As `Prepared.stepped`."""
        depthwise = self.depthwise.stepped(self.geometry.out_channels, out_step)
        if depthwise is None:
            return None
        other: PreparedRepeated = self._with(x_step=x_step, depthwise_plan=depthwise._plan_address)
        other.depthwise = depthwise
        return other

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """As `Prepared.passes`."""
        (only,) = super().passes(threads)
        return (only._replace(reads=self.depthwise.weights),)

    def _cut(self, threads: int) -> Grid:
        return _repeated_grid(self.depthwise.kernel, self.geometry, threads)._replace(scratch=self._scratch)


def _window_rows(depthwise: PreparedSingle, share: float, between: int = 0) -> int:
    """Output rows of a block of a depthwise kernel that reads a window of input rows, for which it has a share of L2.

    Each output row comes with `between` elements that stay there as well.
    """
    geometry, tile_rows = depthwise.geometry, depthwise.kernel.tile_rows
    row, reach = geometry.width * geometry.in_channels, (geometry.kernel_h - 1) * geometry.dilation_h + 1
    budget = int(share * runtime.cache_sizes().l2) // depthwise.kernel.dtype.itemsize
    rows = (budget - (reach - geometry.stride_h) * row) // (geometry.stride_h * row + between)
    if tile_rows * row_phases(geometry) <= rows:
        tile_rows *= row_phases(geometry)
    return max(1, min(max(tile_rows, rows // tile_rows * tile_rows), geometry.out_height))


def _joined(*parts: PreparedSingle) -> Span:
    """The weights of kernels that run together, which were mostly packed together; else those that are read first."""
    spans = [part.weights for part in parts]
    begin, end = min(span.address for span in spans), max(span.address + span.size for span in spans)
    size = sum(span.size for span in spans)
    return Span(begin, end - begin) if end - begin <= _MUCH_APART * size else spans[0]


def _whole_lines(size: int) -> int:
    """`size` bytes, rounded up to whole cache lines."""
    return -(-size // LINE) * LINE


class PreparedSplit(Prepared):
    """A fused operation as one pass a part, each cut as suits it best."""

    def __init__(self, kernel: Kernel, geometry: Geometry, parts: list[Prepared]) -> None:
        super().__init__(kernel, geometry)
        self.parts = parts
        self._pipelines: dict[int, Pipeline] = {}

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """As `Prepared.passes`."""
        return tuple(each for part in self.parts for each in part.passes(threads))

    def stepped(self, x_step: int, out_step: int) -> PreparedSplit | None:
        """As `Prepared.stepped`."""
        first, *middle, last = self.parts
        begin = first.stepped(x_step, first.geometry.out_shape[-1])
        end = last.stepped(last.geometry.x_shape[-1], out_step)
        if begin is None or end is None:
            return None
        other: PreparedSplit = self._with()
        other.parts, other._pipelines = [begin, *middle, end], {}
        return other

    def launch(self, threads: int) -> tuple[int, ...] | None:
        """`Pipeline.launch`, if its arena is no larger than scratch memory may be."""
        pipeline = self._pipeline(threads)
        return pipeline.launch() if pipeline.arena_bytes <= runtime.MOST_SCRATCH else None

    def run(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
        """As `Prepared.run`."""
        self._pipeline(threads).run(x, residual, out)

    def _pipeline(self, threads: int) -> Pipeline:
        pipeline = self._pipelines.get(threads)
        if pipeline is None:
            nodes = [Node(self, self.geometry.out_shape, GIVEN)]
            count = threads if worth_waking(self.geometry, self.kernel.dtype.itemsize) else 1
            made = chain(nodes, self.geometry.x_shape, self.kernel.dtype, count)
            pipeline = self._pipelines.setdefault(threads, made)  # of two threads' the one whose address is given out
        return pipeline
