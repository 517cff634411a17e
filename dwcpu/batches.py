"""Batches whose images go through several operations one by one, each thread with its own.

What lies between the operations then stays in L2. Operation after operation, all images at a time, all of it goes to L3
and comes back, and threads wait for each other behind each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from . import runtime
from .abi import IMAGES_FIELDS
from .grid import Grid
from .pipeline import GIVEN, Node, Pass, Pipeline, Value, chain

if TYPE_CHECKING:
    from .background import Job

__all__ = ["image_by_image", "images_apart"]

#: Pixels that operations on one image have at least: of fewer, weights are read too often, and tiles are low.
_LEAST_PIXELS = 49
#: Times L2 that what lies between them takes for an image at most: of more, little is still there when it is read.
_MOST_L2 = 4


def images_apart(batch: int, threads: int) -> bool:
    """Whether images of such a batch may go one by one: on large cores, slow to fetch from L3, and evenly shared."""
    return batch > 1 and batch % threads == 0 and runtime.large_core() and runtime.images_kernel() != 0


def image_by_image(
    nodes: Sequence[Node],
    ones: Callable[[int], Sequence[Node]],
    x_shape: tuple[int, ...],
    dtype: np.dtype,
    threads: int,
) -> tuple[list[Node], list[Job]]:
    """The nodes of a chain, the first of which are one whose images go through them one by one, if that is better.

    Parameters
    ----------
    nodes : sequence of Node
        For the whole batch.
    ones : callable
        ``ones(count)`` gives the first `count` of them, or fewer, for a single image on one thread.
    x_shape : tuple of int
        Of the batch.
    dtype : dtype
        Of all values.
    threads : int

    Returns
    -------
    list of Node
    list of background.Job
        For kernels of a single image that others stand in for: when these are over there is something better.
    """
    count = _fitting(nodes, x_shape[0], dtype.itemsize, threads)
    first = list(ones(count)) if count else []
    jobs = [node.job for node in first if node.job is not None]
    if len(first) != count or not count or jobs:
        return list(nodes), jobs
    images = _Images(first, x_shape, nodes[count - 1].out_shape, dtype)
    if not images.runs:
        return list(nodes), []
    joined = Node(images, nodes[count - 1].out_shape, GIVEN if nodes[count - 1].residual == GIVEN else None)
    return [joined, *(_renumbered(node, count - 1) for node in nodes[count:])], []


def _fitting(nodes: Sequence[Node], batch: int, itemsize: int, threads: int) -> int:
    """How many nodes, the first ones, should go image by image.

    Where L2 does not hold what lies between them, of a thread's images, but much of that of one.
    """
    if not images_apart(batch, threads):
        return 0
    count = 0
    for number, node in enumerate(nodes, 1):
        if callable(node.operation) or node.job is not None or prod(node.out_shape[1:3]) < _LEAST_PIXELS:
            break
        if not any(later.residual is not None and 0 <= later.residual < number for later in nodes[number:]):
            count = number
    between = [prod(node.out_shape) // batch * itemsize for node in nodes[: count - 1]]
    l2 = runtime.cache_sizes().l2
    return count if count > 1 and l2 < max(between) * (batch // threads) and max(between) < _MOST_L2 * l2 else 0


def _renumbered(node: Node, fewer: int) -> Node:
    """The node where there are so many fewer before it."""
    return node if node.residual in (None, GIVEN) else node._replace(residual=node.residual - fewer)


class _Images:
    """Operations on one image after the other, to a pipeline."""

    def __init__(
        self, nodes: Sequence[Node], x_shape: tuple[int, ...], out_shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self._inner: Pipeline = chain(nodes, (1, *x_shape[1:]), dtype, 1)
        self._launch = self._inner.launch()
        self._batch, self._out_shape = x_shape[0], out_shape
        x_size, out_size = (prod(shape[1:]) * dtype.itemsize for shape in (x_shape, out_shape))
        steps, count = self._launch[:2] if self._launch is not None else (0, 0)
        fields = {"steps": steps, "count": count, "x_size": x_size, "residual_size": out_size, "out_size": out_size}
        self._plan = np.array([fields[name] for name in IMAGES_FIELDS], np.int64)

    @property
    def runs(self) -> bool:
        """Whether it is kernels alone."""
        return self._launch is not None

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """As `pipeline.Kernels.passes`."""
        grid = Grid(self._batch, 1, threads, 1, 1, threads, threads, self._inner.arena_bytes)
        return (Pass(runtime.images_kernel(), self._plan, grid, self._out_shape, self),)

    def placed(self, x: Value, residual: Value | None, out: Value) -> None:
        """As `pipeline.Kernels.placed`: it takes images without gaps."""
        return
