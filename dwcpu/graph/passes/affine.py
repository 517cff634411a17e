"""Factors and shifts of channels, batch normalisations above all, go into the weights before them, or behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...epilogue import parse_activation
from ..ir import Graph, Node
from ..operators.reducing import affine_of
from .matching import Links, channel_values, channels_of

__all__ = ["fold_affine"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


def fold_affine(graph: Graph) -> None:
    """Fold BatchNormalization, Affine, and Mul, Div, Add, Sub of constants into the weighted node before them.

    A clamp may stand between. A batch normalisation that has none before it becomes an Affine.
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
            before, last = links.maker(source, *_WEIGHTED), links.made.get(source)
            if before is None and node.op == "Affine":
                before = _before_rows(links, source)
            clamp = None
            if before is None and node.op in _ARITHMETIC:
                clamp = links.maker(source, "Activation")
                before = links.maker(clamp.inputs[0], *_WEIGHTED) if clamp and links.single(clamp.inputs[0]) else None
            if before is None or last is None or not links.single(source):
                continue
            if _absorbed(graph, before, node, index, clamp):
                aliases[node.outputs[0]] = source
                if node.outputs[0] in {spec.name for spec in graph.outputs}:
                    last.outputs[0] = node.outputs[0]
                    del aliases[node.outputs[0]]
                    links.made[node.outputs[0]] = last
                # whoever reads the node's result now reads the weighted node's
                links.read[source] = links.read.get(node.outputs[0], [])
                gone.append(node)
                break
    graph.remove(gone)
    graph.sweep()
    _give_on(graph)


def _before_rows(links: Links, name: str) -> Node | None:
    """The product of a tensor whose rows are looked at as those of a matrix, which nobody else reads the numbers of."""
    rows = links.maker(name, "Flatten", "Reshape")
    before = links.maker(rows.inputs[0], "MatMul") if rows is not None else None
    if rows is None or before is None:
        return None
    if rows.op == "Reshape":
        sizes = links.graph.constants.get(rows.input(1))
        if sizes is None or sizes.size != 2 or sizes.reshape(-1)[1] < 1:
            return None
        columns = links.graph.constants.get(before.input(1))
        if columns is None or columns.shape[-1] != sizes.reshape(-1)[1]:
            return None
    return before if links.alone(rows.inputs[0]) else None


def _give_on(graph: Graph) -> None:
    """Fold Mul, Div, Add and Sub of constants into the weighted node that is the only one to read their result.

    What is added only where no padding stands beside it.
    """
    links = Links(graph)
    gone = []
    for node in reversed(graph.nodes):  # the last of several first
        after = links.read[node.outputs[0]][0] if node.op in _ARITHMETIC and links.single(node.outputs[0]) else None
        if after is None or after.op not in ("Conv", "Gemm", "MatMul") or after.inputs[0] != node.outputs[0]:
            continue
        for index in (0, 1) if node.op in ("Add", "Mul") else (0,):
            if _taken(graph, links, node, index, after):
                after.inputs[0] = node.inputs[index]
                readers = links.read[node.inputs[index]]
                readers[readers.index(node)] = after
                gone.append(node)
                break
    graph.remove(gone)
    graph.sweep()


def _taken(graph: Graph, links: Links, node: Node, index: int, after: Node) -> bool:
    """Change the weights of `after` so that it does the work of `node` too, if that is possible."""
    weights, bias = graph.constants.get(after.input(1)), graph.constants.get(after.input(2))
    if weights is None or weights.dtype.kind != "f" or (bias is None and after.input(2)) or after.input(3):
        return False
    if after.get("transA", 0) or after.get("alpha", 1.0) != 1.0 or after.get("beta", 1.0) != 1.0:
        return False
    if after.op == "Conv":
        groups, axis = int(after.get("group", 1)), 1
        if weights.ndim < 3 or weights.shape[0] % groups:
            return False
        padded = any(after.get("pads") or ()) or after.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        wide = weights.reshape(groups, -1, *weights.shape[1:]).astype(np.float64)
    elif weights.ndim != 2:
        return False
    else:
        groups, axis, padded = 1, -1, False
        wide = (weights if after.get("transB", 0) else weights.T)[None].astype(np.float64)
    axes = wide.ndim - 1 if after.op == "Conv" else 1  # a constant of more would make a matrix of a vector
    channels = groups * wide.shape[2]
    constant = graph.constants.get(node.input(1 - index))
    if constant is None or (constant.ndim and (channels_of(links, node.inputs[index], axes, axis) != channels)):
        return False  # the constant may make more channels, or axes, of one
    found = _factor_and_shift(graph, after, node, index, channels, axes, axis)
    if found is None:
        return False
    factor, shift = (None if each is None else each.reshape(groups, 1, -1, *(1,) * (wide.ndim - 3)) for each in found)
    if (factor is None and padded) or (factor is not None and not np.isfinite(factor).all()):
        return False
    assert shift is not None
    if factor is None:
        added = (wide * shift).sum(axis=tuple(range(2, wide.ndim))).reshape(-1)
        values = added if bias is None else channel_values(bias, 2 if after.op == "Gemm" else 1, added.size, -1)
        total = None if values is None else _held(added if bias is None else values + added, weights.dtype)
        if total is None:
            return False
        after.inputs += [""] * (3 - len(after.inputs))
        after.inputs[2] = _keep(graph, f"{after.name}.bias", total)
        return True
    made = _held((wide * factor).reshape(weights.shape if after.op == "Conv" else wide.shape[1:]), weights.dtype)
    if made is None:
        return False
    plain = after.op == "Conv" or after.get("transB", 0)
    after.inputs[1] = _keep(graph, f"{after.name}.weights", made if plain else made.T)
    return True


def _held(wide: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Numbers in a type that has as large ones, and as small ones without losing digits; else None."""
    made, size = wide.astype(dtype), np.abs(wide)
    fits = np.isfinite(made).all() and not ((size > 0) & (size < np.finfo(dtype).tiny)).any()
    return made if fits else None


def _to_affine(graph: Graph, node: Node) -> None:
    """Write a batch normalisation as an Affine."""
    known = all(name in graph.constants for name in node.inputs[1:])
    if node.op != "BatchNormalization" or not known or node.get("training_mode", 0):
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


def _absorbed(graph: Graph, before: Node, node: Node, index: int, clamp: Node | None = None) -> bool:
    """Change the weights of `before` so that it does the work of `node` too, if that is possible.

    Between the two there may be a clamp, whose bounds then change likewise.
    """
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
    bounds = None if clamp is None else _bounds(clamp, factor, shift)
    if clamp is not None and bounds is None:
        return False
    bias = np.zeros(channels) if not bias_name else channel_values(graph.constants[bias_name], 2, channels, -1)
    if bias is None or before.get("alpha", 1.0) != 1.0 or before.get("beta", 1.0) != 1.0:
        return False
    # Few numbers are too large for float32, and whole channels may be as good as zero; of float16 both are common.
    into: Any = _held if weights.dtype.itemsize < 4 else np.ndarray.astype
    made = weights
    if factor is not None:
        wide = weights.astype(np.float64)
        if before.op == "Conv":
            wide *= factor.reshape(-1, *(1,) * (axes - 1))
        elif before.op == "ConvTranspose":
            apart = wide.reshape(groups, -1, *weights.shape[1:])
            apart *= factor.reshape(groups, 1, -1, *(1,) * (axes - 2))
        else:
            wide *= factor[:, None] if transposed else factor
        made, bias = into(wide, weights.dtype), bias * factor
    total = into(bias + shift, weights.dtype)
    if made is None or total is None:
        return False
    if clamp is not None and not (np.isfinite(made).all() and np.isfinite(total).all()):
        return False  # it would have hidden infinities, and would not hide what becomes of them
    if factor is not None:
        before.inputs[1] = _keep(graph, f"{before.name}.weights", made)
    before.inputs += [""] * (3 - len(before.inputs))
    before.inputs[2] = _keep(graph, f"{before.name}.bias", total)
    if clamp is not None:
        clamp.attributes["activation"] = bounds
    return True


def _bounds(clamp: Node, factor: np.ndarray | None, shift: np.ndarray) -> tuple[str, float, float] | None:
    """A clamp of values that are multiplied and shifted before it, not after it; None if no clamp does that."""
    activation = parse_activation(clamp.get("activation"), "")
    one = np.ones(1) if factor is None else factor
    if activation.code or not shift.size or not ((one > 0).all() or (one < 0).all()) or not np.isfinite(shift).all():
        return None
    ends = [np.unique(bound * one + shift) for bound in (activation.low, activation.high)]
    if any(end.size != 1 or np.isnan(end[0]) for end in ends):
        return None  # each channel would have others
    low, high = sorted(float(end[0]) for end in ends)
    return "clip", low, high


def _factor_and_shift(
    graph: Graph, before: Node, node: Node, index: int, channels: int, axes: int, axis: int
) -> tuple[np.ndarray | None, np.ndarray] | None:
    """What a node does to every channel, in float64; a factor of None is 1."""
    if node.op == "Affine":
        # Its channels are the second axis; those of a product with more than two axes are the last.
        products = before.op == "MatMul" and node.inputs[0] in before.outputs
        if graph.constants[node.inputs[1]].size != channels or products:
            return None
        factor, shift = node.get("exact")
        return factor, shift
    if node.op not in _ARITHMETIC:
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
