"""What does not depend on the inputs is computed once, and what does nothing is left out."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ..eager import operated
from ..ir import Graph, Node
from ..operators import OPERATORS
from ..operators.branching import taken
from ..operators.moving import integers

__all__ = ["fold_constants"]

#: Larger results are not kept: they are cheaper to make than to hold.
_MOST_BYTES = 1 << 27
#: What makes much out of little, and how many elements; other operators of that sort are left to plans.
_GROWING: dict[str, Callable[[list[Any]], int]] = {
    "ConstantOfShape": lambda arrays: prod(integers(arrays[0])),
    "Expand": lambda arrays: arrays[0].size * prod(integers(arrays[1])),
    "Tile": lambda arrays: arrays[0].size * prod(integers(arrays[1])),
}
_LEFT = ("Loop", "Pad", "Range", "Resize")
_LARGEST_ITEM = 16


def fold_constants(graph: Graph) -> None:
    """Replace nodes whose inputs are all constant by constants, and take out those that pass on what they get.

    Of an If whose condition is constant its branch is left.
    """
    kept = []
    outputs = {spec.name for spec in graph.outputs}
    aliases: dict[str, str] = {}
    left = graph.nodes[::-1]
    while left:
        node = left.pop()
        node.inputs = [aliases.get(name, name) for name in node.inputs]
        if node.op in ("Identity", "Dropout") and len(node.outputs) == 1 and len(node.inputs) < 3:
            if node.outputs[0] not in outputs:
                aliases[node.outputs[0]] = node.inputs[0]
                continue
        elif node.op == "If" and node.inputs[0] in graph.constants:
            left += _inlined(graph, node)[::-1]
            continue
        elif _folds(graph, node):
            results = operated(node)([graph.constants[name] if name else None for name in node.inputs])
            if sum(result.nbytes for result in results) <= _MOST_BYTES:
                for name, result in zip(node.outputs, results, strict=False):
                    if name:
                        result = np.array(result, order="C")
                        result.flags.writeable = False
                        graph.constants[name] = result
                continue
        kept.append(node)
    graph.nodes = kept
    graph.sweep()


def _inlined(graph: Graph, node: Node) -> list[Node]:
    """The nodes of the branch that an If takes, whose condition is constant."""
    branch, own = taken(node, graph.constants[node.inputs[0]])
    names = dict(zip((spec.name for spec in branch.inputs), node.inputs[own], strict=True)) | {"": ""}
    for name, array in branch.constants.items():
        names[name] = graph.fresh(name)
        graph.constants[names[name]] = array
    nodes = []
    for each in branch.nodes:
        names |= {name: graph.fresh(name) for name in each.outputs if name}
        inputs, outputs = ([names[name] for name in some] for some in (each.inputs, each.outputs))
        nodes.append(Node(each.op, each.name, inputs, outputs, dict(each.attributes)))
    for spec, name in zip(branch.outputs, node.outputs, strict=False):
        if name:
            nodes.append(Node("Identity", node.name, [names[spec.name]], [name]))
    return nodes


def _folds(graph: Graph, node: Node) -> bool:
    """Whether a node depends on constants only, and gives no more than is worth keeping."""
    if node.op in _LEFT or not all(name in graph.constants or not name for name in node.inputs):
        return False
    arrays: list[Any] = [graph.constants[name] if name else None for name in node.inputs]
    count = _GROWING.get(node.op)
    if count is not None:
        return abs(count(arrays)) * _LARGEST_ITEM <= _MOST_BYTES
    operator = OPERATORS[node.op]
    try:  # how much it will be: asked for, not computed
        size = sum(target.nbytes for target in operator.targets(node, arrays)) if operator.way == "into" else 0
    except Exception:  # whatever is wrong with it is said when it is computed
        size = 0
    return size <= _MOST_BYTES
