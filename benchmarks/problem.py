"""A shape made concrete: arrays, geometries, cost, and our own side of the race behind the same call as the peers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from graph import Graph, Node, conv_node
from shapes import Conv, Shape

import dwcpu
from dwcpu import arrays
from dwcpu.geometry import ConvGeometry

__all__ = ["Prepared", "Problem", "agree", "layer", "make", "ours"]


@dataclass(frozen=True)
class Prepared:
    """One contender, ready to be timed.

    `run` is the call that is timed: it does the whole work and returns nothing of interest. `result` gives the output
    of the last run as an NHWC array; it is not timed. `note` says how the contender was set up.
    """

    name: str
    run: Callable[[], object]
    result: Callable[[], np.ndarray]
    note: str = ""


@dataclass(frozen=True)
class Problem:
    """Arrays of a shape: the input, and weights and bias of every convolution in our layout."""

    shape: Shape
    x: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    geometries: tuple[ConvGeometry, ...]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """NHWC shape of the last convolution's output."""
        return self.geometries[-1].out_shape

    @property
    def graph(self) -> Graph:
        """The problem as a peer takes it."""
        nodes: list[Node] = []
        shape: tuple[int, ...] = self.x.shape
        for i, (conv, w, b) in enumerate(zip(self.shape.convs, self.weights, self.biases, strict=True)):
            nodes.append(conv_node(conv, i, shape, w, b))
            shape = nodes[-1].out_shape
        if self.shape.residual:
            nodes.append(Node("add", (len(nodes), 0), shape))
        return Graph(self.shape.id, self.x, tuple(nodes))

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each tap on the image."""
        return sum(geometry.flops for geometry in self.geometries)

    @property
    def bytes(self) -> int:
        """Bytes that have to move at least: input, weights and output once, no intermediate."""
        elements = self.x.size + prod(self.out_shape) + sum(w.size for w in self.weights)
        return elements * self.x.itemsize


def geometry_of(conv: Conv, x_shape: tuple[int, ...]) -> ConvGeometry:
    """Every size of a convolution of the catalogue on images of a shape."""
    if conv.op == "pointwise":
        return ConvGeometry.pointwise(x_shape, conv.w_shape)
    options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    if conv.op == "depthwise":
        return ConvGeometry.depthwise(x_shape, conv.w_shape, **options)
    return ConvGeometry.conv(x_shape, conv.w_shape, groups=conv.groups, **options)


def make(shape: Shape, dtype: str = "float32", seed: int = 0) -> Problem:
    """Arrays for `shape`, the same ones for the same seed; values keep about their size from layer to layer."""
    rng = np.random.default_rng(seed)
    weights: list[np.ndarray] = []
    biases: list[np.ndarray] = []
    geometries: list[ConvGeometry] = []
    x_shape: tuple[int, ...] = shape.x_shape
    for conv in shape.convs:
        geometry = geometry_of(conv, x_shape)
        terms = geometry.macs // prod(geometry.out_shape)
        weights.append((rng.standard_normal(conv.w_shape) * (2 / terms) ** 0.5).astype(dtype))
        biases.append(rng.standard_normal(geometry.out_channels).astype(dtype))
        geometries.append(geometry)
        x_shape = geometry.out_shape
    x = arrays.empty(shape.x_shape, np.dtype(dtype))  # on a cache line, as the peers' own arrays are
    x[...] = rng.standard_normal(shape.x_shape)
    return Problem(shape, x, tuple(weights), tuple(biases), tuple(geometries))


def layer(problem: Problem, backend: str = "auto") -> Callable[..., np.ndarray]:
    """Make the layer object of this package that solves the problem."""
    shape, w, b = problem.shape, problem.weights, problem.biases
    first = shape.convs[0]
    if shape.suite == "pointwise":
        return dwcpu.PointwiseConv2d(w[0], b[0], activation=first.activation, backend=backend)
    if shape.suite == "inverted_residual":
        middle = shape.convs[1]
        return dwcpu.InvertedResidual(
            *w, *b, stride=middle.stride, padding=middle.padding,
            expand_activation=first.activation, dw_activation=middle.activation, backend=backend,
        )  # fmt: skip
    window: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
    window["backend"] = backend
    if shape.suite == "depthwise":
        return dwcpu.DepthwiseConv2d(w[0], b[0], activation=first.activation, **window)
    if shape.suite == "separable":
        return dwcpu.SeparableConv2d(
            *w, *b, dw_activation=first.activation, pw_activation=shape.convs[1].activation, **window
        )
    return dwcpu.Conv2d(w[0], b[0], groups=first.groups, activation=first.activation, **window)


def ours(problem: Problem, threads: int = 1, backend: str = "auto") -> Prepared:
    """Our side: a layer made once, called with an output that is already there."""
    made = layer(problem, backend)
    x = problem.x
    out = arrays.empty(problem.out_shape, x.dtype, x)  # as a call without `out` would make it
    residual = x if problem.shape.residual else None

    def run() -> object:
        return made(x, out=out, residual=residual, num_threads=threads)

    note = kernels(made, x.shape, threads)
    return Prepared("dwcpu" if backend == "auto" else f"dwcpu-{backend}", run, lambda: out, note)


def kernels(made: Any, x_shape: tuple[int, ...], threads: int = 1) -> str:
    """Name the kernels that a layer takes for an input of this shape."""
    choices = made.explain(x_shape, threads)
    return " + ".join(choice.kernel for choice in (choices if isinstance(choices, list) else [choices]))


def agree(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of two results, relative to the largest value; 1e-5 is much for float32 and these depths."""
    if mine.shape != theirs.shape:
        raise ValueError(f"agree: shapes {mine.shape} and {theirs.shape}; results must have one shape")
    scale = float(np.max(np.abs(theirs))) or 1.0
    return float(np.max(np.abs(mine.astype(np.float64) - theirs))) / scale
