"""Numbers that a tensor is multiplied by, before a softmax above all, move to where they cost less.

A product with a number and a view of a tensor may change places, and so may a product with a number and one of two
matrices: the scores of attention, N x N, are as good if the queries, N x d, were multiplied. What then stands behind
a node with weights goes into these (see `affine`).
"""

from __future__ import annotations

from ..ir import Graph, Node
from .matching import Links, scalar

__all__ = ["move_scales"]

_VIEWS = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_WEIGHTED = ("Conv", "Gemm", "MatMul")


def move_scales(graph: Graph) -> None:
    """Move products with, and quotients by, one number to before the views and the product that they are of.

    Only numbers that make nothing larger, and of float32 and float64: others might overflow, or lose digits.
    """
    for node in list(graph.nodes):
        at = _number_at(graph, node)
        if at is None:
            continue
        links = Links(graph)
        if not links.single(node.outputs[0]) or not links.single(node.inputs[1 - at]):
            continue
        reader, index = _before(graph, links, node, node.inputs[1 - at])
        if reader is node:
            continue
        source, place = reader.inputs[index], graph.fresh(f"{node.name}.scaled")
        inputs = [source, node.inputs[at]] if at else [node.inputs[at], source]
        scaled = Node(node.op, node.name, inputs, [place])
        reader.inputs[index] = place
        after = links.read[node.outputs[0]][0]
        after.inputs = [node.inputs[1 - at] if name == node.outputs[0] else name for name in after.inputs]
        graph.remove([node])
        graph.nodes.insert(next(number for number, each in enumerate(graph.nodes) if each is reader), scaled)


def _number_at(graph: Graph, node: Node) -> int | None:
    """Which input of a product or quotient is one number, of at most 1 as a factor."""
    for at in (0, 1) if node.op == "Mul" else (1,) if node.op == "Div" else ():
        value, array = scalar(graph, node.inputs[at]), graph.constants.get(node.inputs[at])
        if value and array is not None and array.dtype.char in "fd" and array.ndim <= 1:
            factor = abs(value if node.op == "Mul" else 1 / value)
            return at if factor <= 1 else None
    return None


def _before(graph: Graph, links: Links, node: Node, name: str) -> tuple[Node, int]:
    """Before which input of which node a scale of `name`, which `node` reads, costs least: `node` itself if nowhere."""
    reader, index = node, node.inputs.index(name)
    found = reader, index
    after = links.read[node.outputs[0]][0]
    if after.op == "Add" and links.single(after.outputs[0]):  # of a mask
        after = links.read[after.outputs[0]][0]
    softmax = after.op == "Softmax"
    while links.single(name):
        maker = links.maker(name, "MatMul", *_VIEWS)
        if maker is None or not maker.inputs or maker.inputs[0] in graph.constants:
            break
        if maker.op == "MatMul":
            if not softmax or maker.inputs[1] in graph.constants or maker.inputs[0] == maker.inputs[1]:
                break
            softmax = False
            found = maker, 0
        reader, index, name = maker, 0, maker.inputs[0]
        if _has_weights(graph, links, name):
            return reader, index
    return found


def _has_weights(graph: Graph, links: Links, name: str) -> bool:
    """Whether a node with constant weights makes a value for one reader, perhaps with a constant added."""
    maker = links.maker(name, "Add", *_WEIGHTED)
    if maker is not None and maker.op == "Add":
        computed = [each for each in maker.inputs if each not in graph.constants]
        maker = links.maker(computed[0], *_WEIGHTED) if len(computed) == 1 and links.single(computed[0]) else None
    return maker is not None and links.single(name) and maker.input(1) in graph.constants
