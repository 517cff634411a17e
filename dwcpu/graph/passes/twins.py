"""What several nodes compute alike is computed once: exporters write a module that is called twice in full."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ..ir import Graph, Node

__all__ = ["join_twins"]


def join_twins(graph: Graph) -> None:
    """Have whoever reads the results of a node read those of an earlier one with the same inputs and attributes."""
    given = {spec.name for spec in graph.outputs}
    first: dict[Hashable, Node] = {}
    aliases: dict[str, str] = {}
    gone = []
    for node in graph.nodes:
        node.inputs = [aliases.get(name, name) for name in node.inputs]
        try:
            twin = first.setdefault(_computed(node), node)
        except TypeError:  # graphs within it, which no key tells apart
            continue
        if twin is not node:
            aliases |= dict(zip(node.outputs, twin.outputs, strict=True))
            gone += [node] if given.isdisjoint(node.outputs) else []
    graph.remove(gone)


def _computed(node: Node) -> Hashable:
    """What a node computes, and which of its results there are."""
    attributes = tuple(sorted((name, _hashable(value)) for name, value in node.attributes.items()))
    return node.op, tuple(node.inputs), tuple(map(bool, node.outputs)), attributes


def _hashable(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    if not isinstance(value, (str, bytes, int, float)):
        raise TypeError(f"{type(value)} is no plain value")
    return type(value).__name__, value
