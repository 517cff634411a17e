"""Normalisations that an exporter has written out become one node again.

The patterns, as PyTorch has exported them for years. Of layers: with c = x - mean(x) over the last axis,
``c / sqrt(mean(c^2) + e)``, times a constant, plus another. Of groups of channels: x reshaped so that each group is one
channel, InstanceNormalization, reshaped back, times a constant, plus another.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node
from .matching import Links, scalar

__all__ = ["join_group_norms", "recognise_norms"]


def recognise_norms(graph: Graph) -> None:
    """Turn the pattern into LayerNormalization."""
    links = Links(graph)
    for node in graph.nodes:
        if node.op != "Add":
            continue
        for index in (0, 1):
            bias = graph.constants.get(node.inputs[1 - index])
            product = links.maker(node.inputs[index], "Mul")
            if bias is None or product is None or not links.single(node.inputs[index]):
                continue
            found = _scaled(graph, links, product)
            if found is not None and graph.constants[found[1]].shape == bias.shape:
                x, scale, epsilon = found
                node.op, node.attributes = "LayerNormalization", {"axis": -1, "epsilon": epsilon}
                node.inputs = [x, scale, node.inputs[1 - index]]
                break
    graph.sweep()


def _scaled(graph: Graph, links: Links, product: Node) -> tuple[str, str, float] | None:
    """x, the name of the scale, and epsilon, if a product is a normalised x times a constant vector."""
    for index in (0, 1):
        scale = graph.constants.get(product.inputs[1 - index])
        quotient = links.maker(product.inputs[index], "Div")
        if scale is None or scale.ndim != 1 or scale.dtype.kind != "f" or quotient is None:
            continue
        centred, root = quotient.inputs
        x = _centred(graph, links, centred)
        made = links.maker(root, "Sqrt")
        total = links.maker(made.inputs[0], "Add") if made is not None else None
        if x is None or total is None or not links.single(product.inputs[index]):
            continue
        for at in (0, 1):
            epsilon = scalar(graph, total.inputs[1 - at])
            square = _mean_of(graph, links, total.inputs[at])
            if epsilon is not None and square is not None and _is_square(graph, links, square, x):
                return x, product.inputs[1 - index], epsilon
    return None


def _mean_of(graph: Graph, links: Links, name: str) -> str | None:
    """What a value is the mean of, over the last axis, which is kept."""
    mean = links.maker(name, "ReduceMean")
    if mean is None or not mean.get("keepdims", 1):
        return None
    axes = graph.constants.get(mean.input(1))
    return mean.inputs[0] if axes is not None and np.array_equal(axes.reshape(-1), [-1]) else None


def _centred(graph: Graph, links: Links, name: str) -> str | None:
    """x, if a value is x - mean(x)."""
    difference = links.maker(name, "Sub")
    if difference is None:
        return None
    x, mean = difference.inputs
    return x if _mean_of(graph, links, mean) == x else None


def _is_square(graph: Graph, links: Links, name: str, x: str) -> bool:
    """Whether a value is (x - mean(x))^2."""
    power = links.maker(name, "Pow", "Mul")
    if power is None or _centred(graph, links, power.inputs[0]) != x:
        return False
    if power.op == "Mul":
        return power.inputs[0] == power.inputs[1]
    return scalar(graph, power.inputs[1], "fiu") == 2.0


def join_group_norms(graph: Graph) -> None:
    """Turn the pattern into GroupNorm, whose parts are the nodes of it, and whose inputs are all of theirs.

    Whether shapes are such that groups are normalised is seen when a plan is made; its parts run if they are not.
    """
    links = Links(graph)
    gone = []
    for norm in graph.nodes:
        before = links.maker(norm.inputs[0], "Reshape") if norm.op == "InstanceNormalization" else None
        if before is None or not _known(graph, norm.inputs[1:3]) or not links.single(norm.inputs[0]):
            continue
        parts = [before, norm]
        for ops in ("Reshape",), ("Mul", "Add"), ("Add",):
            made = parts[-1].outputs[0]
            after = links.read[made][0] if links.single(made) else None
            if after is None or after.op not in ops or (after.op == "Reshape" and after.inputs[0] != made):
                break
            if after.op != "Reshape" and not _known(graph, [name for name in after.inputs if name != made]):
                break
            parts.append(after)
        if len(parts) < 3:
            continue
        copies = [part.copy() for part in parts]
        last = parts[-1]
        last.op, last.name = "GroupNorm", "+".join(part.name for part in copies)
        inputs = [before.inputs[0], *norm.inputs[1:3], before.inputs[1]]
        for at, part in enumerate(copies[2:], 2):
            inputs += [name for name in part.inputs if name != copies[at - 1].outputs[0]]
        last.inputs, last.attributes = inputs, {"parts": copies}
        gone += parts[:-1]
    graph.remove(gone)


def _known(graph: Graph, names: list[str]) -> bool:
    """Whether all of these, of which there are some, are constants."""
    return bool(names) and all(name in graph.constants for name in names)
