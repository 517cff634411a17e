"""Responses of channels that are normalised over the image scale it in one step, as constants and all.

With n a quotient of a reduction of x, such as its length in each channel over the mean of these (S. Woo et al.,
"ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", 2023), ``x + (w x n + b)`` is
``x (w n + 1) + b``, which reads the image once in place of five times, and b may go into the weights that come next.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node
from .matching import Links

__all__ = ["join_responses"]


def join_responses(graph: Graph) -> None:
    """Write such a sum as a product and the sum of a constant."""
    links = Links(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _joined(graph, links, node) or [node]
    graph.nodes = nodes
    graph.sweep()


def _joined(graph: Graph, links: Links, node: Node) -> list[Node] | None:
    """What does the work of a node that is the last of such a sum."""
    if node.op != "Add" or len(node.inputs) != 2:
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        product, shift = _shifted(graph, links, other)
        found = None if product is None else _factors(graph, links, product, x)
        if found is None:
            continue
        small, constants = found
        made: list[Node] = []

        def add(op: str, a: str, b: str, out: str = "", made: list[Node] = made) -> str:
            out = out or graph.fresh(f"{node.name}.{op}")
            made.append(Node(op, node.name, [a, b], [out]))
            return out

        for constant in constants:
            small = add("Mul", small, constant)
        one = graph.fresh(f"{node.name}.one")
        graph.constants[one] = np.ones((), graph.constants[constants[0]].dtype)
        small = add("Add", small, one)
        if shift is None:
            add("Mul", x, small, node.outputs[0])
        else:
            add("Add", add("Mul", x, small), shift, node.outputs[0])
        return made
    return None


def _shifted(graph: Graph, links: Links, name: str) -> tuple[str | None, str | None]:
    """A value as that of a product and a constant that is added, if there is one."""
    maker = links.maker(name, "Add", "Mul")
    if maker is None or not links.single(name):
        return None, None
    if maker.op == "Mul":
        return name, None
    for product, shift in (maker.inputs, maker.inputs[::-1]):
        if shift in graph.constants and links.maker(product, "Mul") and links.single(product):
            return product, shift
    return None, None


def _factors(graph: Graph, links: Links, product: str, x: str) -> tuple[str, list[str]] | None:
    """What x is multiplied by in a product of several: a response of channels, and constants, at least one."""
    leaves: list[str] = []
    rest = [product]
    while rest:
        name = rest.pop()
        maker = links.maker(name, "Mul") if links.single(name) else None
        if maker is not None:
            rest += maker.inputs
        else:
            leaves.append(name)
    constants = [name for name in leaves if name in graph.constants and graph.constants[name].dtype.kind == "f"]
    others = [name for name in leaves if name not in constants]
    if not constants or len(others) != 2 or x not in others:
        return None
    others.remove(x)
    return (others[0], constants) if _is_response(links, others[0], x) else None


def _is_response(links: Links, name: str, x: str) -> bool:
    """Whether a value is a quotient of a reduction of x that has kept its axes: small, and of as many axes."""
    quotient = links.maker(name, "Div")
    reduction = links.maker(quotient.inputs[0]) if quotient is not None else None
    return (
        reduction is not None
        and reduction.op.startswith("Reduce")
        and reduction.inputs[0] == x
        and bool(reduction.get("keepdims", 1))
    )
