"""The mean over all pixels, as networks end with."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import runtime
from .abi import plan_dtype
from .grid import cut
from .pipeline import Node, Pass

__all__ = ["GlobalAveragePool"]


class GlobalAveragePool:
    """Mean over height and width: (N, H, W, C) -> (N, 1, 1, C).

    Pixels are added in memory order, image by image, so the bits depend neither on the batch nor on threads.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePool()(np.ones((2, 7, 7, 5), np.float32)).shape
    (2, 1, 1, 5)
    """

    def __call__(
        self,
        x: np.ndarray,
        *,
        out: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        num_threads: int | None = None,
    ) -> np.ndarray:
        """Pool `x`; the keywords are those of every layer, `residual` and `num_threads` without effect."""
        batch, height, width, channels = x.shape
        if out is None:
            out = np.empty((batch, 1, 1, channels), x.dtype)
        for image, mean in zip(x, out, strict=True):
            np.add.reduce(image.reshape(height * width, channels), axis=0, out=mean[0, 0])
        out *= x.dtype.type(1) / x.dtype.type(height * width)
        return out

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`."""
        return shape[0], 1, 1, shape[3]

    def nodes(self, shape: tuple[int, ...], threads: int) -> list[Node]:
        """What a pipeline runs for a float32 input of `shape`: the same sums, compiled where that is possible."""
        if shape[0] == 0:
            return []
        compiled = runtime.cython_kernels()
        if compiled is None:
            return [Node(lambda x, residual, out, threads: self(x, out=out), self.out_shape(shape))]
        return [Node(_PreparedPool(shape, compiled.pool_address()), self.out_shape(shape))]


class _PreparedPool:
    """The compiled pool for one shape: see `pool_address` of `dwcpu.cython_kernels`."""

    def __init__(self, shape: tuple[int, ...], address: int) -> None:
        plan: Any = np.zeros(1, plan_dtype())
        plan["batch"], plan["height"], plan["width"], plan["in_channels"] = shape
        self._shape, self._plan, self._address = shape, plan, address

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """The one kernel, on one thread for a single image: it takes some microseconds."""
        batch, _, _, channels = self._shape
        grid = cut(batch, 1, 1, threads, False)._replace(blocks=-(-channels // 16))
        return (Pass(self._address, self._plan.ctypes.data, grid, (batch, 1, 1, channels), self),)
