"""Products of matrices that are both computed, on compiled kernels: see `cython_kernels/products.pxi`."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from . import runtime
from .abi import crowded_rows, panel_widths
from .dispatch import choose
from .epilogue import Activation
from .geometry import ConvGeometry
from .pixels import LINE, PixelKernel, epilogue, made

__all__ = ["products"]

#: Bytes of the first matrix that stay in L2 while all panels of the second one pass.
_ROW_BYTES = 1 << 17
#: Rows at least, so that tiles are tall.
_ROWS = 48


def products(a: np.ndarray, b: np.ndarray) -> PixelKernel | None:
    """What a pipeline runs for ``a @ b`` into a C-contiguous array; None where that is left to NumPy.

    Parameters
    ----------
    a : ndarray, shape (…, M, K)
        Its contents do not matter, its steps do; columns must be neighbours in memory.
    b : ndarray, shape (…, K, N)
        The same dtype, with any steps.
    """
    (height, depth), columns = a.shape[-2:], b.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left, right = np.broadcast_to(a, (*batch, height, depth)), np.broadcast_to(b, (*batch, depth, columns))
    size, dtype = a.itemsize, a.dtype
    axes: list[list[int]] = []  # size, steps of a and b
    for count, *steps in zip(batch, left.strides[:-2], right.strides[:-2], strict=True):
        if count == 1:
            continue
        if axes and axes[-1][1:] == [step * count for step in steps]:
            axes[-1] = [axes[-1][0] * count, *steps]
        else:
            axes.append([count, *steps])
    if runtime.cython_kernels() is None or len(axes) > 2 or (a.strides[-1] != size and depth > 1):
        return None
    (_, *outer), (inner_count, *inner) = [[1, 0, 0]] * (2 - len(axes)) + axes
    steps = [outer[0], inner[0], a.strides[-2], outer[1], inner[1], *b.strides[-2:]]
    table = np.array([step // size for step in steps], np.int64)
    zeros = np.zeros(columns + 2 * LINE, dtype)
    kernel = choose(ConvGeometry.pointwise((1, 1, height, depth), (depth, columns)), dtype, 1, "cython")
    fields: dict[str, Any] = {
        "height": height, "in_channels": depth, "out_channels": columns, "out_step": columns, "width": inner_count,
        "weights": table.ctypes.data, "bias": zeros.ctypes.data,
        "block_rows": max(_ROWS, _ROW_BYTES // (depth * size)), "tile_rows": kernel.tile_rows,
        "crowded_rows": crowded_rows(runtime.l1_ways()),
        "asks_in": int(not runtime.large_core()),  # as `caches.asks_in` of what L2 holds
    }  # fmt: skip
    fields |= epilogue(dtype, Activation())
    pairs = prod(batch)
    return made(
        "products", dtype, left.shape, (*batch, height, columns), pairs, fields, (table, zeros),
        blocks=len(panel_widths(columns, kernel.lanes, kernel.tile_columns)),
        scratch=depth * (columns + LINE) * size, flops=2 * pairs * height * depth * columns,
    )  # fmt: skip
