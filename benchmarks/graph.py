"""What a peer is asked to compute: convolutions, sums, a pool and a classifier on one input, NHWC, with their arrays.

`problem` makes a `Graph` of a layer shape, `networks` of a whole network; every peer translates it into its own model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from shapes import Conv

__all__ = ["Graph", "Node", "Unsupported", "conv_node"]


class Unsupported(Exception):
    """A peer has no implementation of a graph (of its dtype, say); the text says why."""


@dataclass(frozen=True)
class Node:
    """One step.

    `op` is "depthwise", "pointwise" or "conv" (see `conv`), "add" of two values, "pool" (the mean over height and
    width, keeping both axes) or "dense" (on the output of a pool, to `(N, classes)`). `inputs` are numbers of values:
    0 is the input of the graph, `i + 1` the result of node `i`. Weights are laid out as this package has them; those of
    "dense" are `(features, classes)`.
    """

    op: str
    inputs: tuple[int, ...]
    out_shape: tuple[int, ...]
    conv: Conv | None = None
    w: np.ndarray | None = None
    b: np.ndarray | None = None

    @property
    def convolution(self) -> tuple[Conv, np.ndarray, np.ndarray]:
        """What the convolution is, its weights and its bias."""
        assert self.conv is not None and self.w is not None and self.b is not None
        return self.conv, self.w, self.b

    @property
    def matrix(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias of a "dense" node."""
        assert self.w is not None and self.b is not None
        return self.w, self.b


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run; the last one's result is the output."""

    name: str
    x: np.ndarray
    nodes: tuple[Node, ...]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the output: NHWC, or `(N, classes)`."""
        return self.nodes[-1].out_shape


def conv_node(conv: Conv, source: int, x_shape: tuple[int, ...], w: np.ndarray, b: np.ndarray) -> Node:
    """Node of a convolution of value number `source`, which has the NHWC shape `x_shape`."""
    batch, *sizes, _ = x_shape
    window = (1, 1) if conv.op == "pointwise" else conv.w_shape[:2]
    out = [
        (size + sum(pad) - dilation * (k - 1) - 1) // stride + 1
        for size, pad, k, stride, dilation in zip(sizes, conv.padding, window, conv.stride, conv.dilation, strict=True)
    ]
    return Node(conv.op, (source,), (batch, *out, len(b)), conv, w, b)
