"""Kernels that Numba compiles on the user's machine, for its exact CPU and for any window.

`rows` describes them for the table of `dwcpu.dispatch`; to add a kernel, write it and add its row here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dwcpu.numba_kernels import conv, depthwise, inverted_residual, pointwise, separable
from dwcpu.numba_kernels.target import target

__all__ = ["rows"]

#: Windows with rows of their own; any other window up to `MOST_TAPS` is unrolled on demand.
MENU = [(size, size, stride, stride) for size in (3, 5, 7) for stride in (1, 2)]

#: Largest unrolled window: 49 taps times 8 outputs still fit the instruction cache and compile in about a second.
MOST_TAPS = 49

#: Most outputs of a channel: their vectors are interleaved by unrolled code. With more, `conv` is the better kernel.
MOST_MULTIPLES = 8

_NO_LIMIT = 2**62


def _depthwise_micro_kernels(
    dtype: np.dtype, tile: tuple[int, int], lanes: int, unrolled: bool, geometry: Any, counts: Any
) -> np.ndarray:
    window = depthwise.Window(*geometry.effective_window) if unrolled else depthwise.ANY
    return depthwise.micro_kernels(dtype, window, tile, lanes, geometry.out_channels // geometry.in_channels)


def _gemm_micro_kernels(dtype: np.dtype, geometry: Any, counts: Any) -> np.ndarray:
    return pointwise.micro_kernel_table(dtype, counts, geometry.out_channels // geometry.groups)


def rows(dtype_name: str) -> list[dict[str, Any]]:
    """One dictionary a kernel; within an operation, the most special first.

    Keys: op, label (of the window, or of the way), window (kernel_h, kernel_w, stride_h, stride_w; 0: any), tile_rows,
    tile_columns, lanes, channels and multipliers (least, most), most_taps (0: any), address and micro_kernels (both
    callable).
    """
    dtype = np.dtype(dtype_name)
    full = target().lanes(dtype.itemsize)
    result: list[dict[str, Any]] = []
    for lanes in (full >> shift for shift in range(full.bit_length())):
        channels = (lanes, _NO_LIMIT if lanes == full else 2 * lanes - 1)
        windows = [("{}x{}s{}".format(*window), window, MOST_TAPS) for window in MENU] if lanes == full else []
        windows += [("line", (1, 0, 0, 0), MOST_TAPS), ("small", (0, 0, 0, 0), MOST_TAPS), ("any", (0, 0, 0, 0), 0)]
        for label, window, most_taps in windows:
            tile = depthwise.ANY_TILE if label == "any" else depthwise.tile_shape(window)
            result.append(
                {
                    "op": "depthwise",
                    "label": label,
                    "window": window,
                    "tile_rows": tile[0],
                    "tile_columns": tile[1],
                    "lanes": lanes,
                    "channels": channels,
                    "multipliers": (1, MOST_MULTIPLES),
                    "most_taps": most_taps,
                    "address": partial(depthwise.address, dtype),
                    "micro_kernels": partial(_depthwise_micro_kernels, dtype, tile, lanes, label != "any"),
                }
            )
    tile = pointwise.tile_shape()
    for op, module in (("pointwise", pointwise), ("conv", conv)):
        result.append(
            {
                "op": op,
                "label": "any",
                "window": (0, 0, 0, 0),
                "tile_rows": tile[0],
                "tile_columns": tile[1],
                "lanes": full,
                "channels": (1, _NO_LIMIT),
                "multipliers": (1, _NO_LIMIT),
                "most_taps": 0,
                "address": partial(module.address, dtype),
                "micro_kernels": partial(_gemm_micro_kernels, dtype),
            }
        )
    for op, fused in (("separable", separable), ("inverted_residual", inverted_residual)):
        result.append(
            {
                "op": op,
                "label": "fused",
                "window": (0, 0, 0, 0),
                "tile_rows": tile[0],
                "tile_columns": tile[1],
                "lanes": full,
                "channels": (1, _NO_LIMIT),
                "multipliers": (1, _NO_LIMIT),
                "most_taps": 0,
                "address": partial(fused.address, dtype),
            }
        )
    return result
