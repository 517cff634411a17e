"""What passes ask of a graph: who makes and reads a value, and which constants are numbers or one number a channel."""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node

__all__ = ["Links", "channel_values", "channels_of", "scalar"]

#: Of one tensor, or of two that are broadcast.
_AS_LONG = ("Activation", "Add", "Clip", "Div", "Elu", "Erf", "Gelu", "Mish", "Mul", "Relu", "Sigmoid", "Sub", "Tanh")


class Links:
    """Who makes and who reads each value of a graph, as it was when this was made."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = graph.producers()
        self.read = graph.consumers()

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that makes a value, if it is one of these operators."""
        node = self.made.get(name)
        return node if node is not None and (not ops or node.op in ops) else None

    def single(self, name: str) -> bool:
        """Whether a value is read once, and is no output."""
        readers = self.read.get(name, ())
        return len(readers) == 1 and readers[0] is not None

    def alone(self, name: str) -> bool:
        """Whether one node alone reads the elements of a value, which is no output; others may ask for its shape."""
        readers = self.read.get(name, ())
        return None not in readers and sum(each.op not in ("Shape", "Size") for each in readers) == 1


def scalar(graph: Graph, name: str, kinds: str = "f") -> float | None:
    """A constant that is one number of these kinds, whatever its axes. Integers round in ways of their own."""
    array = graph.constants.get(name)
    if array is None or array.size != 1 or array.dtype.kind not in kinds:
        return None
    return float(array.reshape(-1)[0])


def channel_values(array: np.ndarray, axes: int, channels: int, axis: int = 1) -> np.ndarray | None:
    """A constant that is one number for each channel of tensors with `axes` axes, as (channels,); else None."""
    if array.dtype.kind != "f" or array.ndim > axes:
        return None
    shape = (1,) * (axes - array.ndim) + array.shape
    if any(size != 1 for at, size in enumerate(shape) if at != axis % axes):
        return None
    values = array.reshape(-1)
    return np.broadcast_to(values, (channels,)) if values.size in (1, channels) else None


def channels_of(links: Links, name: str, axes: int, axis: int, most: int = 6) -> int | None:
    """The size of an axis, 1 or -1, of a tensor, if what makes it says so.

    With axis 1 tensors have `axes` axes. With -1 nothing is known of their number, nor looked at. `most` nodes are
    looked at one behind the other.
    """
    graph = links.graph
    for spec in graph.inputs:
        if spec.name == name:
            known = (
                spec.shape is not None and (axis == -1 or len(spec.shape) == axes) and len(spec.shape) > max(axis, 0)
            )
            size = spec.shape[axis] if known and spec.shape is not None else None
            return size if isinstance(size, int) else None
    maker = links.maker(name)
    weights = None if maker is None else graph.constants.get(maker.input(1))
    if maker is None or most == 0:
        return None
    if maker.op in _AS_LONG:
        sizes = (channels_of(links, each, axes, axis, most - 1) for each in maker.inputs if each not in graph.constants)
        return next((size for size in sizes if size is not None and size > 1), None)
    if weights is None:
        return None
    if maker.op == "Conv" and axis == 1 and weights.ndim == axes:
        return weights.shape[0]
    if maker.op == "MatMul" and axis == -1 and weights.ndim == 2:
        return weights.shape[1]
    if maker.op == "Gemm" and axis == -1 and weights.ndim == 2:
        return weights.shape[0 if maker.get("transB", 0) else 1]
    return weights.size if maker.op == "LayerNormalization" and axis == -1 and weights.ndim == 1 else None
