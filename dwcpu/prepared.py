"""Kernels made ready for one geometry: weights packed, plan filled, grid cut.

A `Prepared` belongs to one kernel and geometry. Its `run` only finds addresses and calls the driver; what depends on
the number of threads, the grid and the micro-kernels that it needs, is made at the first call with that number.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, packing, runtime
from .abi import FIELDS, plan_dtype
from .epilogue import Activation
from .geometry import ConvGeometry, SeparableGeometry
from .grid import Grid, cut, run_length, worth_threads

if TYPE_CHECKING:
    from .dispatch import Kernel

__all__ = ["Prepared", "PreparedFused", "PreparedSingle", "PreparedSplit"]

#: Share of the L1 cache that a depthwise tile's patch and weights may take; the rest is for the output.
_L1_SHARE = 0.5
#: Share of the L2 cache for what passes stay in: pixels of a GEMM block, rows of a fused block.
_L2_SHARE = 0.5


class Prepared:
    """A kernel with packed weights and a plan for one geometry: immutable to its users, safe from many threads."""

    kernel: Kernel

    def __init__(self, kernel: Kernel, geometry: ConvGeometry | SeparableGeometry) -> None:
        self.kernel, self.geometry = kernel, geometry
        self.plan: Any = np.zeros(1, plan_dtype())
        self._plan_address = self.plan.ctypes.data
        self._grids: dict[int, Grid] = {}
        self._address_of = runtime.address_finder()

    def run(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
        """Compute `out` from C-contiguous channel-last arrays of the kernel's dtype."""
        grid = self._grids.get(threads) or self._new_grid(threads)
        address_of = self._address_of
        runtime.driver(grid.threads)(
            self._address,
            self._plan_address,
            address_of(x),
            0 if residual is None else address_of(residual),
            address_of(out),
            runtime.scratch(grid.scratch * grid.tasks),
            *grid.arguments,
        )

    _address: int

    def _new_grid(self, threads: int) -> Grid:
        grid = self._cut(threads)
        self._ready(grid)
        self._grids[threads] = grid
        return grid

    def _cut(self, threads: int) -> Grid:
        raise NotImplementedError  # by each subclass

    def _ready(self, grid: Grid) -> None:
        """See to it that all machine code for this grid is there."""


def _fill(plan: Any, geometry: ConvGeometry) -> None:
    for name in FIELDS:
        if hasattr(geometry, name):
            plan[name] = getattr(geometry, name)
    plan["multiplier"] = max(1, geometry.out_channels // geometry.in_channels)


class PreparedSingle(Prepared):
    """Depthwise, pointwise or conv."""

    geometry: ConvGeometry

    def __init__(
        self, kernel: Kernel, geometry: ConvGeometry, w: np.ndarray, bias: np.ndarray | None, activation: Activation
    ) -> None:
        super().__init__(kernel, geometry)
        plan, itemsize = self.plan, kernel.dtype.itemsize
        _fill(plan, geometry)
        if kernel.op == "depthwise":
            taps = (geometry.kernel_h, geometry.kernel_w, geometry.in_channels, -1)
            self._packed = packing.depthwise_panels(w.reshape(taps), bias, kernel.lanes)
        else:
            groups = geometry.groups
            self._packed = packing.gemm_panels(w, bias, groups, kernel.lanes, kernel.tile_columns)
        plan["weights"], plan["bias"] = (array.ctypes.data for array in self._packed)
        plan["low"], plan["high"], plan["alpha"] = activation.low, activation.high, activation.alpha
        if activation.code:
            plan["activation"] = _activation(kernel, activation.code)
        plan["tile_rows"], plan["tile_columns"], plan["lanes"] = kernel.tile_rows, kernel.tile_columns, kernel.lanes
        rows_in_l2 = int(_L2_SHARE * runtime.cache_sizes().l2) // itemsize
        if kernel.op == "pointwise":
            rows = rows_in_l2 // geometry.in_channels // kernel.tile_rows
            plan["block_rows"] = max(2, rows) * kernel.tile_rows
        elif kernel.op == "conv":
            plan["block_rows"] = max(1, rows_in_l2 // (geometry.stride_h * geometry.width * geometry.in_channels))
        else:
            plan["block_channels"] = self._block_channels()
        self._address = kernel.address()
        self._table: np.ndarray | None = None
        if kernel.micro_kernels is not None:
            self._table = kernel.micro_kernels(geometry, ())
            plan["micro_kernels"] = self._table.ctypes.data

    def _block_channels(self) -> int:
        """Channel vectors whose patch and weights fit the share of L1; a whole handful for loops over taps."""
        kernel = self.kernel
        kernel_h, kernel_w, stride_h, stride_w = self.geometry.effective_window
        patch = ((kernel.tile_rows - 1) * stride_h + kernel_h) * ((kernel.tile_columns - 1) * stride_w + kernel_w)
        vectors = patch + kernel_h * kernel_w * int(self.plan["multiplier"][0])
        budget = int(_L1_SHARE * runtime.cache_sizes().l1)
        return max(1 if kernel.window[0] else 8, budget // (vectors * kernel.lanes * kernel.dtype.itemsize))

    @property
    def blocks(self) -> int:
        """Number of blocks of the kernel's grid."""
        kernel, geometry = self.kernel, self.geometry
        if kernel.op == "depthwise":
            return -(-geometry.in_channels // kernel.lanes)
        return geometry.groups * -(-(geometry.out_channels // geometry.groups) // (kernel.lanes * kernel.tile_columns))

    @property
    def rows(self) -> int:
        """Number of rows of the kernel's grid."""
        geometry = self.geometry
        return geometry.batch * geometry.out_height * (geometry.out_width if self.kernel.op == "pointwise" else 1)

    def _cut(self, threads: int) -> Grid:
        kernel, geometry = self.kernel, self.geometry
        granule = 1 if kernel.op == "conv" else kernel.tile_rows
        if kernel.op == "depthwise":
            # the rows of a tile lie that far apart
            granule *= geometry.dilation_h // gcd(geometry.stride_h, geometry.dilation_h)
        # Where the last channel vector slides back over its neighbour, two threads must not share the two.
        blocks = self.blocks
        divisible = kernel.op != "depthwise" or geometry.in_channels % kernel.lanes == 0
        if not worth_threads(geometry, kernel.dtype.itemsize):
            threads = 1
        return cut(self.rows, granule, blocks, threads, divisible)

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
        table = self.kernel.micro_kernels(self.geometry, sorted(counts - {0}))
        self._table[table != 0] = table[table != 0]


def _activation(kernel: Kernel, code: int) -> int:
    if kernel.backend == "numba":
        from .numba_kernels.activations import address

        return address(kernel.dtype, code)
    family = runtime.cython_kernels()
    assert family is not None
    return family.activations(kernel.dtype.name)[code]


class PreparedFused(Prepared):
    """Separable, the intermediate in cache."""

    geometry: SeparableGeometry

    def __init__(self, kernel: Kernel, geometry: SeparableGeometry, depthwise: Prepared, pointwise: Prepared) -> None:
        super().__init__(kernel, geometry)
        assert isinstance(depthwise, PreparedSingle) and isinstance(pointwise, PreparedSingle)
        self.depthwise, self.pointwise = depthwise, pointwise
        plan, middle = self.plan, geometry.pointwise
        _fill(plan, middle)
        row = middle.width * middle.in_channels * kernel.dtype.itemsize
        rows = int(_L2_SHARE * runtime.cache_sizes().l2) // row // depthwise.kernel.tile_rows
        block = max(1, rows) * depthwise.kernel.tile_rows
        self._block_rows = min(block, max(1, middle.batch * middle.out_height))
        plan["block_rows"] = self._block_rows
        plan["depthwise_kernel"], plan["depthwise_plan"] = depthwise._address, depthwise._plan_address
        plan["pointwise_kernel"], plan["pointwise_plan"] = pointwise._address, pointwise._plan_address
        plan["depthwise_blocks"], plan["pointwise_blocks"] = depthwise.blocks, pointwise.blocks
        self._scratch = -(-self._block_rows * row // 64) * 64
        self._address = kernel.address()

    def _cut(self, threads: int) -> Grid:
        middle = self.geometry.pointwise
        if not worth_threads(self.geometry, self.kernel.dtype.itemsize):
            threads = 1
        rows = middle.batch * middle.out_height
        return cut(rows, self.depthwise.kernel.tile_rows, 1, threads, False)._replace(scratch=self._scratch)

    def _ready(self, grid: Grid) -> None:
        width, step = self.geometry.pointwise.out_width, self._block_rows
        counts = {part for count in grid.row_counts() for part in (min(count, step), count % step)}
        self.pointwise.ready_for({count * width for count in counts}, int(self.pointwise.plan["block_rows"][0]))


class PreparedSplit(Prepared):
    """Separable as two passes, each cut as suits it best."""

    geometry: SeparableGeometry

    def __init__(self, kernel: Kernel, geometry: SeparableGeometry, depthwise: Prepared, pointwise: Prepared) -> None:
        super().__init__(kernel, geometry)
        self.depthwise, self.pointwise = depthwise, pointwise

    def run(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
        """As `Prepared.run`."""
        between = arrays.empty(self.geometry.depthwise.out_shape, self.kernel.dtype)
        self.depthwise.run(x, None, between, threads)
        self.pointwise.run(between, residual, out, threads)
