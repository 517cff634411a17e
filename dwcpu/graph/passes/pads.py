"""Zeros around images become the padding of the windows that read them.

Exporters from Keras write them apart before windows of stride 2, and those of causal networks before every convolution.
What lies in the padding is left out of the sum: where weights are infinite or NaN, zeros would have made NaN of it.
"""

from __future__ import annotations

from ..ir import Graph, Node
from ..operators.moving import integers
from .matching import Links, scalar

__all__ = ["fold_pads"]


def fold_pads(graph: Graph) -> None:
    """Let Conv and AveragePool read what a Pad reads, and pad it themselves."""
    links = Links(graph)
    for node in graph.nodes:
        axes = _window_axes(graph, node)
        pad = links.maker(node.input(0), "Pad")
        while axes and pad is not None:
            amounts = _zeros_around(graph, pad, axes)
            if amounts is None:
                break
            own = _own(node) or [0] * len(amounts)
            node.inputs[0] = pad.inputs[0]
            node.attributes["pads"] = [one + other for one, other in zip(own, amounts, strict=True)]
            node.attributes.pop("auto_pad", None)
            if node.op == "AveragePool":
                node.attributes["count_include_pad"] = 1
            pad = links.maker(node.inputs[0], "Pad")
    graph.sweep()


def _window_axes(graph: Graph, node: Node) -> int:
    """Axes of a node's windows, if padding before it is the same as its own; else 0."""
    if node.op not in ("Conv", "AveragePool") or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return 0
    if node.op == "AveragePool":
        counts = node.get("count_include_pad", 0) or not any(_own(node))
        return 0 if node.get("ceil_mode", 0) or not counts else len(node.get("kernel_shape") or ())
    w = graph.constants.get(node.input(1))
    # of one tap it would not be a matrix product any more
    return 0 if w is None or all(size == 1 for size in w.shape[2:]) else w.ndim - 2


def _own(node: Node) -> list[int]:
    """The padding that a node has already, or nothing."""
    return [] if node.get("auto_pad") == "VALID" else [int(each) for each in node.get("pads") or ()]


def _zeros_around(graph: Graph, pad: Node, axes: int) -> list[int] | None:
    """How many zeros a Pad adds before each of the last `axes` axes, and then after each; None if it does more."""
    amounts, which = graph.constants.get(pad.input(1)), graph.constants.get(pad.input(3))
    zero = not pad.input(2) or scalar(graph, pad.input(2), "fiu") == 0
    if amounts is None or (pad.input(3) and which is None) or not zero or pad.get("mode", "constant") != "constant":
        return None
    rank = axes + 2
    named = integers(which) if which is not None else range(rank)
    places = [axis % rank for axis in named]
    numbers = integers(amounts)
    there = all(-rank <= axis < rank for axis in named)
    if not there or len(numbers) != 2 * len(places) or min(numbers, default=0) < 0:
        return None
    sides = [0] * (2 * rank)
    for at, axis in enumerate(places):
        sides[axis], sides[rank + axis] = numbers[at], numbers[len(places) + at]
    if any(sides[:2]) or any(sides[rank : rank + 2]):
        return None
    return sides[2:rank] + sides[rank + 2 :]
