"""Kernels that Numba compiles on the user's machine, for its exact CPU and for any window.

`rows` describes them for the table of `dwcpu.dispatch`; to add a kernel, write it and add its row here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dwcpu.abi import MOST_MULTIPLES, MOST_UNROLLED_TAPS, flat_columns
from dwcpu.numba_kernels import conv, depthwise, depthwise_flat, inverted_residual, pointwise, separable
from dwcpu.numba_kernels.target import target

__all__ = ["rows"]

#: Windows with rows of their own; any other window up to `MOST_UNROLLED_TAPS` is unrolled on demand.
MENU = [(size, size, stride, stride) for size in (3, 5, 7) for stride in (1, 2)]

_NO_LIMIT = 2**62


def _depthwise_micro_kernels(
    dtype: np.dtype, tile: tuple[int, int], lanes: int, label: str, geometry: Any, counts: Any
) -> np.ndarray:
    window = depthwise.ANY if label == "any" else depthwise.Window(*geometry.effective_window)
    multiplier, spread = (1, geometry.multiplier) if label == "spread" else (geometry.multiplier, 1)
    return depthwise.micro_kernels(dtype, window, tile, lanes, multiplier, spread)


def _flat_micro_kernels(dtype: np.dtype, channels: int, lanes: int, geometry: Any, counts: Any) -> np.ndarray:
    return depthwise_flat.micro_kernels(dtype, depthwise.Window(*geometry.effective_window), lanes, channels)


def _gemm_micro_kernels(
    dtype: np.dtype, geometry: Any, counts: Any, crowded_rows: int = 0, asks_out: bool = False
) -> np.ndarray:
    depth, columns = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    step = geometry.stride_w * geometry.in_channels
    return pointwise.micro_kernel_table(dtype, counts, depth, columns, step, crowded_rows, asks_out)


def _depthwise_row(
    dtype: np.dtype,
    label: str,
    window: tuple[int, int, int, int],
    lanes: int,
    most_taps: int,
    tile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    tile = tile or (depthwise.ANY_TILE if label == "any" else depthwise.tile_shape(window))
    return {
        "op": "depthwise",
        "label": label,
        "window": window,
        "tile_rows": tile[0],
        "tile_columns": tile[1],
        "lanes": lanes,
        "multipliers": (1, MOST_MULTIPLES),
        "most_taps": most_taps,
        "address": partial(depthwise.address, dtype),
        "micro_kernels": partial(_depthwise_micro_kernels, dtype, tile, lanes, label),
    }


def _flat_row(dtype: np.dtype, channels: int, lanes: int) -> dict[str, Any]:
    return {
        "op": "depthwise",
        "label": f"flat{channels}",
        "window": (0, 0, 0, 0),
        "tile_rows": depthwise_flat.TILE[0],
        "tile_columns": flat_columns(channels, lanes),
        "lanes": lanes,
        "channels": (channels, channels),
        "multipliers": (1, 1),
        "most_taps": MOST_UNROLLED_TAPS,
        "layout": "flat",
        "address": partial(depthwise.address, dtype),
        "micro_kernels": partial(_flat_micro_kernels, dtype, channels, lanes),
    }


def rows(dtype_name: str) -> list[dict[str, Any]]:
    """One dictionary a kernel; within an operation, the most special first.

    Keys: op, label (of the window, or of the way), window (kernel_h, kernel_w, stride_h, stride_w; 0: any), tile_rows,
    tile_columns, lanes, channels and multipliers (least, most), most_taps (0: any), layout (see `dispatch.Kernel`),
    address and micro_kernels (both callable).
    """
    dtype = np.dtype(dtype_name)
    full = target().lanes(dtype.itemsize)
    result: list[dict[str, Any]] = [_flat_row(dtype, channels, full) for channels in range(1, full)]
    for window in ((1, 0, 0, 0), (0, 0, 0, 0)):
        row = _depthwise_row(dtype, "spread", window, full, MOST_UNROLLED_TAPS)
        result.append({**row, "channels": (1, _NO_LIMIT), "multipliers": (2, MOST_MULTIPLES), "layout": "spread"})
    line = 64 // dtype.itemsize
    if line > full:
        row = _depthwise_row(
            dtype, "line", (1, 0, 0, 0), line, MOST_UNROLLED_TAPS, depthwise.wide_line_tile(line // full)
        )
        result.append({**row, "channels": (4 * line, _NO_LIMIT), "multipliers": (1, 1), "layout": "line"})
    for lanes in (full >> shift for shift in range(full.bit_length())):
        windows = [("{}x{}s{}".format(*window), window, MOST_UNROLLED_TAPS) for window in MENU] if lanes == full else []
        windows += [
            ("line", (1, 0, 0, 0), MOST_UNROLLED_TAPS),
            ("small", (0, 0, 0, 0), MOST_UNROLLED_TAPS),
        ]
        alone = [{**_depthwise_row(dtype, *window[:2], lanes, window[2]), "multipliers": (1, 1)} for window in windows]
        several = _depthwise_row(dtype, "several", (0, 0, 0, 0), lanes, MOST_UNROLLED_TAPS, depthwise.SEVERAL_TILE)
        several["multipliers"] = 2, MOST_MULTIPLES
        channels = (lanes, _NO_LIMIT if lanes == full else 2 * lanes - 1)
        for row in (*alone, several, _depthwise_row(dtype, "any", (0, 0, 0, 0), lanes, 0)):
            result.append({**row, "channels": channels})
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
