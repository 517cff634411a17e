"""Functions of what is then multiplied or added go into the kernel that does so, as in gates: tanh(a) sigmoid(b)."""

from __future__ import annotations

from ..ir import Graph, Node
from .matching import Links

__all__ = ["fuse_gates"]

_PAIRS = ("Add", "Div", "Max", "Min", "Mul", "Sub")
_FUNCTIONS = ("Activation", "Elu", "Erf", "Gelu", "Mish", "Tanh")


def fuse_gates(graph: Graph) -> None:
    """Let products, sums and the like of two tensors compute functions of these themselves.

    Their attribute `before` has for each of the two the node that does so, or None. Where one of them is broadcast,
    which is seen when a plan is made, its function is computed apart.
    """
    links = Links(graph)
    gone = []
    for node in graph.nodes:
        if node.op not in _PAIRS or len(node.inputs) != 2 or any(name in graph.constants for name in node.inputs):
            continue
        before: list[Node | None] = [None, None]
        for at, name in enumerate(node.inputs):
            maker = links.maker(name, *_FUNCTIONS)
            if maker is not None and links.single(name) and len(maker.outputs) == 1:
                before[at] = maker
                node.inputs[at] = maker.inputs[0]
                gone.append(maker)
        if before != [None, None]:
            node.attributes["before"] = before
            node.name = "+".join(each.name for each in (*before, node) if each is not None)
    graph.remove(gone)
