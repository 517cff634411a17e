"""Depthwise and pointwise convolutions in a row become one operation, which keeps what is between them in cache."""

from __future__ import annotations

from ..ir import Graph, Node
from .matching import Links

__all__ = ["fuse_chains", "is_depthwise", "is_pointwise"]


def is_pointwise(graph: Graph, node: Node | None) -> bool:
    """Whether a node is a Conv of one tap that sees every pixel once, with constant weights."""
    if node is None or node.op != "Conv" or not _constant(graph, node):
        return False
    taps = graph.constants[node.inputs[1]].shape[2:]
    plain = all(step == 1 for step in node.get("strides") or ()) and not any(node.get("pads") or ())
    return all(size == 1 for size in taps) and plain and int(node.get("group", 1)) == 1


def is_depthwise(graph: Graph, node: Node | None) -> bool:
    """Whether a node is a Conv of one or two axes with one group for every input channel, with constant weights."""
    if node is None or node.op != "Conv" or not _constant(graph, node):
        return False
    shape, groups = graph.constants[node.inputs[1]].shape, int(node.get("group", 1))
    return len(shape) in (3, 4) and shape[1] == 1 and groups > 1 and groups <= shape[0] and shape[0] % groups == 0


def _constant(graph: Graph, node: Node) -> bool:
    return all(name in graph.constants for name in node.inputs[1:3] if name) and (
        graph.constants[node.inputs[1]].dtype.kind == "f"
    )


def fuse_chains(graph: Graph) -> None:
    """Turn depthwise → pointwise into Separable, and pointwise → depthwise → pointwise into InvertedResidual."""
    links = Links(graph)
    gone = []
    used: set[int] = set()
    for node in graph.nodes:
        if not is_depthwise(graph, node) or node.input(3) or not links.single(node.outputs[0]):
            continue
        after = links.read[node.outputs[0]][0]
        if not is_pointwise(graph, after) or after.inputs[0] != node.outputs[0] or after.input(3) == node.outputs[0]:
            continue
        parts = [node, after]
        before = links.maker(node.inputs[0], "Conv")
        if (
            after.get("activation") is None
            and is_pointwise(graph, before)
            and before is not None
            and not before.input(3)
            and links.single(node.inputs[0])
        ):
            parts.insert(0, before)
        if any(id(part) in used for part in parts):
            continue
        used.update(map(id, parts))
        _join(parts)
        gone += parts[:-1]
    graph.remove(gone)


def _join(parts: list[Node]) -> None:
    """Make the last of some Convs in a row all of them."""
    copies = [part.copy() for part in parts]
    last = parts[-1]
    last.inputs = [copies[0].inputs[0]]
    for part in copies:
        last.inputs += [part.input(1), part.input(2)]
    last.inputs.append(copies[-1].input(3))
    last.op = "Separable" if len(parts) == 2 else "InvertedResidual"
    last.name = "+".join(part.name for part in copies)
    last.attributes = {"parts": copies, "activation": copies[-1].get("activation")}
