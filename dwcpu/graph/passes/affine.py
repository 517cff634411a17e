"""Factors and shifts of channels, batch normalisations above all, go into the weights before them."""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node
from ..operators.reducing import affine_of
from .matching import Links, channel_values

__all__ = ["fold_affine"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def fold_affine(graph: Graph) -> None:
    """Fold BatchNormalization, Affine, and Mul, Div, Add, Sub of constants into the weighted node before them.

    A batch normalisation that has none before it becomes an Affine.
    """
    for node in graph.nodes:
        _to_affine(graph, node)
    links = Links(graph)
    aliases: dict[str, str] = {}
    gone = []
    for node in graph.nodes:
        node.inputs = [aliases.get(name, name) for name in node.inputs]
        for index in (0, 1) if node.op in ("Add", "Mul") else (0,):
            source = node.input(index)
            before = links.maker(source, *_WEIGHTED)
            if before is None or not links.single(source):
                continue
            if _absorbed(graph, before, node, index):
                aliases[node.outputs[0]] = source
                if node.outputs[0] in {spec.name for spec in graph.outputs}:
                    before.outputs[0] = node.outputs[0]
                    del aliases[node.outputs[0]]
                    links.made[node.outputs[0]] = before
                # whoever reads the node's result now reads the weighted node's
                links.read[source] = links.read.get(node.outputs[0], [])
                gone.append(node)
                break
    graph.remove(gone)
    graph.sweep()


def _to_affine(graph: Graph, node: Node) -> None:
    """Write a batch normalisation as an Affine."""
    if node.op != "BatchNormalization" or any(name not in graph.constants for name in node.inputs[1:]):
        return
    statistics = [graph.constants[name] for name in node.inputs[1:]]
    scale, bias, mean, variance = statistics
    factor, shift = affine_of(scale, bias, mean, variance, node.get("epsilon", 1e-5))
    dtype = scale.dtype
    # The type of the sums is kept at 64 bits until they are in weights, where that happens.
    node.op, node.attributes = "Affine", {"exact": (factor, shift)}
    node.inputs = node.inputs[:1]
    for name, values in (("factor", factor), ("shift", shift)):
        node.inputs.append(graph.fresh(f"{node.name}.{name}"))
        graph.constants[node.inputs[-1]] = values.astype(dtype)


def _absorbed(graph: Graph, before: Node, node: Node, index: int) -> bool:
    """Change the weights of `before` so that it does the work of `node` too, if that is possible."""
    weights = graph.constants.get(before.input(1))
    if weights is None or before.get("activation") is not None or before.input(3):
        return False
    bias_name = before.input(2)
    if bias_name and bias_name not in graph.constants:
        return False
    if weights.dtype.kind != "f" or weights.ndim < 2 or (before.op == "MatMul" and weights.ndim != 2):
        return False
    groups = int(before.get("group", 1))
    if before.op == "Conv":
        channels, axes, axis = weights.shape[0], weights.ndim, 1
    elif before.op == "ConvTranspose":
        channels, axes, axis = weights.shape[1] * groups, weights.ndim, 1
    else:
        transposed = before.op == "Gemm" and before.get("transB", 0)
        channels, axes, axis = weights.shape[0 if transposed else 1], 2, -1
    found = _factor_and_shift(graph, before, node, index, channels, axes, axis)
    if found is None:
        return False
    factor, shift = found
    if factor is not None and not np.isfinite(factor).all():
        return False  # a weight of zero times infinity would be NaN
    bias = np.zeros(channels) if not bias_name else channel_values(graph.constants[bias_name], 2, channels, -1)
    if bias is None or before.get("alpha", 1.0) != 1.0 or before.get("beta", 1.0) != 1.0:
        return False
    if factor is not None:
        wide = weights.astype(np.float64)
        if before.op == "Conv":
            wide *= factor.reshape(-1, *(1,) * (axes - 1))
        elif before.op == "ConvTranspose":
            apart = wide.reshape(groups, -1, *weights.shape[1:])
            apart *= factor.reshape(groups, 1, -1, *(1,) * (axes - 2))
        else:
            wide *= factor[:, None] if transposed else factor
        before.inputs[1] = _keep(graph, f"{before.name}.weights", wide.astype(weights.dtype))
        bias = bias * factor
    bias = bias + shift
    before.inputs += [""] * (3 - len(before.inputs))
    before.inputs[2] = _keep(graph, f"{before.name}.bias", bias.astype(weights.dtype))
    return True


def _factor_and_shift(
    graph: Graph, before: Node, node: Node, index: int, channels: int, axes: int, axis: int
) -> tuple[np.ndarray | None, np.ndarray] | None:
    """What a node does to every channel, in float64; a factor of None is 1."""
    if node.op == "Affine":
        # Its channels are the second axis; those of a product with more than two axes are the last.
        if graph.constants[node.inputs[1]].size != channels or before.op == "MatMul":
            return None
        factor, shift = node.get("exact")
        return factor, shift
    if node.op not in ("Add", "Div", "Mul", "Sub"):
        return None
    array = graph.constants.get(node.input(1 - index))
    if array is None:
        return None
    # A product may have one axis only, and must not get more by what is added to it.
    values = channel_values(array, 1 if before.op == "MatMul" else axes, channels, axis)
    if values is None:
        return None
    values = values.astype(np.float64)
    if node.op in ("Add", "Sub"):
        return None, values if node.op == "Add" else -values
    return values if node.op == "Mul" else 1 / values, np.zeros(channels)


def _keep(graph: Graph, hint: str, array: np.ndarray) -> str:
    name = graph.fresh(hint)
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    graph.constants[name] = array
    return name
