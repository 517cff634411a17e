"""Normalisations that an exporter has written out become one node again.

The patterns, as PyTorch has exported them for years. Of layers: with c = x - mean(x) over the last axis, or over the
channels of images, ``c / sqrt(mean(c^2) + e)``, times a constant, plus another. Of groups of channels: x reshaped so
that each group is one channel, InstanceNormalization, reshaped back, times a constant, plus another.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node
from .matching import Links, channel_values, channels_of, scalar

__all__ = ["join_group_norms", "recognise_norms"]


def recognise_norms(graph: Graph) -> None:
    """Turn the pattern into LayerNormalization, between two Transposes where it is of channels."""
    links = Links(graph)
    nodes = []
    for node in graph.nodes:
        found = _written_out(graph, links, node) if node.op == "Add" else None
        if found is not None:
            x, axes, scale, bias, epsilon = found
            order = (0, *range(2, axes), 1)
            norm = Node("LayerNormalization", node.name, [x, scale, bias], node.outputs)
            norm.attributes = {"axis": -1, "epsilon": epsilon}
            if axes:
                turned, normal = graph.fresh(f"{node.name}.turned"), graph.fresh(f"{node.name}.normal")
                nodes.append(Node("Transpose", f"{node.name}.turned", [x], [turned], {"perm": order}))
                norm.inputs[0], norm.outputs = turned, [normal]
                for at, name in ((1, scale), (2, bias)):
                    norm.inputs[at] = graph.fresh(f"{name}.vector")
                    graph.constants[norm.inputs[at]] = graph.constants[name].reshape(-1)
                back = tuple(int(axis) for axis in np.argsort(order))
                node = Node("Transpose", f"{node.name}.back", [normal], node.outputs, {"perm": back})
                nodes += [norm, node]
                continue
            node = norm
        nodes.append(node)
    graph.nodes[:] = nodes
    graph.sweep()


def _written_out(graph: Graph, links: Links, node: Node) -> tuple[str, int, str, str, float] | None:
    """x, how many axes it has if its channels are axis 1 (else 0), scale, bias and epsilon of a normalisation."""
    for index in (0, 1):
        bias = graph.constants.get(node.inputs[1 - index])
        product = links.maker(node.inputs[index], "Mul")
        if bias is None or product is None or not links.single(node.inputs[index]):
            continue
        for at in (0, 1):
            scale = graph.constants.get(product.inputs[1 - at])
            quotient = links.maker(product.inputs[at], "Div")
            if scale is None or scale.dtype.kind != "f" or quotient is None or not links.single(product.inputs[at]):
                continue
            names = product.inputs[1 - at], node.inputs[1 - index]
            rows = _quotient(graph, links, quotient, -1) if scale.ndim == 1 and scale.shape == bias.shape else None
            if rows is not None:
                return rows[0], 0, *names, rows[1]
            pixels = _quotient(graph, links, quotient, 1) if scale.ndim > 1 and scale.size == bias.size else None
            if pixels is None:
                continue
            for axes in (3, 4, 5):
                fit = all(channel_values(each, axes, scale.size) is not None for each in (scale, bias))
                if fit and channels_of(links, pixels[0], axes, 1) == scale.size:
                    return pixels[0], axes, *names, pixels[1]
    return None


def _quotient(graph: Graph, links: Links, quotient: Node, axis: int) -> tuple[str, float] | None:
    """x and epsilon, if a quotient is a normalised x."""
    centred, root = quotient.inputs
    x = _centred(graph, links, centred, axis)
    made = links.maker(root, "Sqrt")
    total = links.maker(made.inputs[0], "Add") if made is not None else None
    if x is None or total is None:
        return None
    for at in (0, 1):
        epsilon = scalar(graph, total.inputs[1 - at])
        square = _mean_of(graph, links, total.inputs[at], axis)
        if epsilon is not None and square is not None and _is_square(graph, links, square, x, axis):
            return x, epsilon
    return None


def _mean_of(graph: Graph, links: Links, name: str, axis: int) -> str | None:
    """What a value is the mean of, over one axis, which is kept."""
    mean = links.maker(name, "ReduceMean")
    if mean is None or not mean.get("keepdims", 1):
        return None
    axes = graph.constants.get(mean.input(1))
    return mean.inputs[0] if axes is not None and np.array_equal(axes.reshape(-1), [axis]) else None


def _centred(graph: Graph, links: Links, name: str, axis: int) -> str | None:
    """x, if a value is x - mean(x)."""
    difference = links.maker(name, "Sub")
    if difference is None:
        return None
    x, mean = difference.inputs
    return x if _mean_of(graph, links, mean, axis) == x else None


def _is_square(graph: Graph, links: Links, name: str, x: str, axis: int) -> bool:
    """Whether a value is (x - mean(x))^2."""
    power = links.maker(name, "Pow", "Mul")
    if power is None or _centred(graph, links, power.inputs[0], axis) != x:
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
