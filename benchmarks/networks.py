"""Whole networks: ours, and the same layers with the same arrays as a graph for the peers.

BatchNorm is folded into the convolutions for everybody. Weights are random: time does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import roofline
from graph import Graph, Node, conv_node
from problem import Prepared, geometry_of
from shapes import Conv

from dwcpu import arrays
from dwcpu.models import architectures, load
from dwcpu.models.architectures import Architecture, Convolution

__all__ = ["NAMES", "Whole", "graph_of", "make"]

NAMES = ("mobilenet_v1", "mobilenet_v2", "efficientnet_lite0")
SIZE = 224


@dataclass(frozen=True)
class Whole:
    """A network made concrete: its graph with the input, and our network with the same weights."""

    graph: Graph
    network: Any

    @property
    def flops(self) -> int:
        """Floating-point operations of convolutions and classifier: two for each tap on an image."""
        return sum(_flops(node, self._shapes) for node in self.graph.nodes)

    @property
    def bytes(self) -> int:
        """Bytes that have to move at least: input, weights and output once, no intermediate."""
        weights = sum(node.w.size for node in self.graph.nodes if node.w is not None)
        return 4 * (self.graph.x.size + weights + prod(self.graph.out_shape))

    def bound(self, threads: int = 1) -> float:
        """Sum of the layers' roofline bounds in microseconds; fusing layers can go below that."""
        total = 0.0
        for node in self.graph.nodes:
            if node.w is not None:
                moved = prod(self._shapes[node.inputs[0]]) + node.w.size + prod(node.out_shape)
                total += roofline.bound_of(_flops(node, self._shapes), 4 * moved, "float32", threads)
        return total

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [self.graph.x.shape] + [node.out_shape for node in self.graph.nodes]

    def ours(self, threads: int = 1) -> Prepared:
        """Our side of the race."""
        last: list[Any] = [None]

        def run() -> None:
            last[0] = self.network(self.graph.x, num_threads=threads)

        return Prepared("dwcpu", run, lambda: last[0], "")


def _flops(node: Node, shapes: list[tuple[int, ...]]) -> int:
    if node.conv is not None:
        return geometry_of(node.conv, shapes[node.inputs[0]]).flops
    return 0 if node.w is None else 2 * prod(node.out_shape[:-1]) * node.w.size


def make(name: str, batch: int = 1, backend: str = "auto") -> Whole:
    """A network of `NAMES` on a batch of 224 x 224 pictures of noise."""
    architecture: Architecture = getattr(architectures, name)()
    weights = architectures.random_weights(architecture, seed=0)
    x = arrays.empty((batch, SIZE, SIZE, 3), np.dtype(np.float32))
    x[...] = np.random.default_rng(1).standard_normal(x.shape)
    return Whole(graph_of(architecture, weights, x), load(name, weights=weights, backend=backend))


def graph_of(architecture: Architecture, weights: Mapping[str, np.ndarray], x: np.ndarray) -> Graph:
    """Write a network down for the peers."""
    nodes: list[Node] = []
    shape: tuple[int, ...] = x.shape
    for block in architecture.blocks:
        entry = len(nodes)
        for convolution in block.convolutions:
            conv, w, b = _folded(convolution, weights, architecture.eps)
            nodes.append(conv_node(conv, len(nodes), shape, w, b))
            shape = nodes[-1].out_shape
        if block.residual:
            nodes.append(Node("add", (len(nodes), entry), shape))
    nodes.append(Node("pool", (len(nodes),), (shape[0], 1, 1, shape[3])))
    matrix = np.ascontiguousarray(weights[architecture.classifier + ".weight"].T)
    offset = weights[architecture.classifier + ".bias"]
    nodes.append(Node("dense", (len(nodes),), (shape[0], architecture.classes), None, matrix, offset))
    return Graph(architecture.name, x, tuple(nodes))


def _folded(c: Convolution, weights: Mapping[str, np.ndarray], eps: float) -> tuple[Conv, np.ndarray, np.ndarray]:
    """A convolution with its BatchNorm folded in: what it is, weights in our layout, bias."""
    gamma, beta, mean, var = (
        weights[f"{c.norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(var + eps)
    oihw = weights[c.weight + ".weight"] * scale[:, None, None, None]
    if c.kind == "depthwise":
        w = oihw.transpose(2, 3, 0, 1)
    elif c.kind == "pointwise":
        w = oihw[:, :, 0, 0].T
    else:
        w = oihw.transpose(2, 3, 1, 0)
    stride = (c.stride, c.stride)
    groups = c.in_channels if c.kind == "depthwise" else 1
    conv = Conv(c.kind, w.shape, stride, c.padding, groups=groups, activation=c.activation)
    return conv, np.ascontiguousarray(w, np.float32), (beta - mean * scale).astype(np.float32)
