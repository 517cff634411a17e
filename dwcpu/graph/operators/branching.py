"""Graphs within graphs: one of two (If), or one that is run several times (Loop).

A node has them as attributes. They are closed: what they read from around them are inputs of theirs, behind those that
they have anyway, and inputs of the node, behind its own: first what goes into the first graph, then into the second.
So whoever looks at names of values need not know about graphs within graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import eager
from ..ir import Graph, Node, Spec
from .moving import one_number
from .registry import check_size, valued

__all__ = ["GRAPHS", "close", "problem", "taken"]

#: Attributes that are graphs. Of an If: if the condition holds, and if not.
GRAPHS = {"If": ("then_branch", "else_branch"), "Loop": ("body",)}


def close(node: Node) -> None:
    """Give a node what its graphs read from around them, behind its own inputs and theirs (`own`)."""
    for name in GRAPHS[node.op]:
        node.inputs += [spec.name for spec in node.get(name).inputs[node.get("own") :]]


def taken(node: Node, condition: np.ndarray) -> tuple[Graph, slice]:
    """The graph that a condition chooses, and which of the node's inputs are its own."""
    first, second = (node.get(name) for name in GRAPHS["If"])
    between = 1 + len(first.inputs)
    if _holds(node, condition):
        graph, own = first, slice(1, between)
    else:
        graph, own = second, slice(between, between + len(second.inputs))
    if len(graph.outputs) < len(node.outputs):
        raise ValueError(
            f"If {node.name!r}: it has {len(node.outputs)} results, and a branch {len(graph.outputs)}; give all in both"
        )
    return graph, own


def _holds(node: Node, condition: np.ndarray) -> bool:
    return bool(one_number(node, "the condition", condition))


def _way(node: Node, name: str) -> Callable[[dict[str, Any]], list[np.ndarray]]:
    """How one of the graphs of a node is run: see `stretches`."""
    ways = node.get("ways")
    return eager.Runner(node.get(name)) if ways is None else ways[name]


def problem(node: Node, closed: bool = True) -> str | None:
    """What is wrong with a node and its graphs, before or after `close`."""
    graphs = [node.get(name) for name in GRAPHS[node.op]]
    if not all(isinstance(graph, Graph) for graph in graphs):
        return "a branch or body that is no graph"
    own, results = node.get("own"), min(len(graph.outputs) for graph in graphs)
    if node.op == "If":
        first, fits, what = 1, own == 0, "branches"
    else:
        first, fits, what = own, isinstance(own, int) and 2 <= own <= results + 1, f"a body of {results} results"
    if fits and closed:
        first += sum(len(graph.inputs) - own for graph in graphs)
    return None if fits and len(node.inputs) == first else f"{len(node.inputs)} inputs and {what}, {own} inputs"


def _check(node: Node) -> str | None:
    return problem(node, closed=False)


@valued("If", check=_check)
def branch(node: Node, condition: np.ndarray, *values: Any) -> list[np.ndarray]:
    """What the graph gives that the condition chooses."""
    graph, own = taken(node, condition)
    given = [None, *values][own]
    run = _way(node, GRAPHS["If"][not _holds(node, condition)])
    return run(dict(zip((spec.name for spec in graph.inputs), given, strict=True)))


@valued("Loop", check=_check)
def loop(node: Node, most: Any, condition: Any, *values: Any) -> list[np.ndarray]:
    """What the last turn hands on, then what each turn gives besides, one behind the other."""
    body, run, carried = node.get("body"), _way(node, "body"), node.get("own") - 2
    names = [spec.name for spec in body.inputs]
    state, outside = list(values[:carried]), values[carried:]
    goes_on = condition is None or _holds(node, condition)
    turns = None if most is None else one_number(node, "the number of turns", most)
    collected: list[list[np.ndarray]] = [[] for _ in body.outputs[1 + carried :]]
    turn = 0
    while goes_on and (turns is None or turn < turns):
        given = np.array(turn, np.int64), np.array(goes_on), *state, *outside
        after, *results = run(dict(zip(names, given, strict=True)))
        goes_on = _holds(node, after)
        state = results[:carried]
        for found, result in zip(collected, results[carried:], strict=True):
            found.append(result)
        turn += 1
    specs = body.outputs[1 + carried :]
    return [*state, *(_stacked(node, found, spec) for found, spec in zip(collected, specs, strict=True))]


def _stacked(node: Node, found: list[np.ndarray], spec: Spec) -> np.ndarray:
    shapes = sorted({each.shape for each in found})
    if len(shapes) > 1:
        raise ValueError(
            f"Loop {node.name!r}: turns give {spec.name!r} of shapes {shapes[0]} and {shapes[-1]}; all must be alike"
        )
    return np.stack(found) if found else _nothing(spec)


def _nothing(spec: Spec) -> np.ndarray:
    """What no turn gives: only the file can say of which type and sizes."""
    sizes = [size if isinstance(size, int) else 0 for size in spec.shape or ()]
    check_size((*sizes,), spec.dtype or np.float32)
    return np.zeros((0, *sizes), spec.dtype or np.float32)
