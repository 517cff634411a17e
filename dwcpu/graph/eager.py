"""Run a graph node by node on arrays: for nodes whose shapes depend on values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from .ir import Graph, Node
from .operators.registry import OPERATORS

__all__ = ["Runner", "compute"]


def compute(node: Node, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
    """What one node gives.

    Raises
    ------
    ValueError
        If shapes or types do not fit; the text names the node.
    """
    run = node.get("run")
    if run is not None:  # a stretch: see `stretches`; what is wrong within it names its node
        return list(run(arrays))
    try:
        with np.errstate(all="ignore"):
            results = OPERATORS[node.op](node, arrays)
    except MemoryError:
        raise
    except Exception as error:  # what a file says may make NumPy raise anything
        shapes = [None if array is None else (array.dtype.name, array.shape) for array in arrays]
        raise ValueError(
            f"node {node.name!r} ({node.op}) cannot run on {shapes}: {(str(error).splitlines() or [''])[0]:.200}"
        ) from error
    if len(results) < len(node.outputs):
        raise ValueError(f"node {node.name!r} ({node.op}) names {len(node.outputs)} results and has {len(results)}")
    return results


class Runner:
    """A graph that is run again and again.

    Parameters
    ----------
    graph : Graph
        Whose nodes NumPy can run: none that only plans can.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        last: dict[str, int] = {}
        for at, node in enumerate(graph.nodes):
            last |= dict.fromkeys(node.inputs, at)
        for name in ("", *(spec.name for spec in graph.outputs)):
            last.pop(name, None)
        #: What nobody needs any more after each node.
        self._over: list[list[str]] = [[] for _ in graph.nodes]
        for name, at in last.items():
            self._over[at].append(name)

    def __call__(
        self, given: Mapping[str, np.ndarray], told: Callable[[Node, list[Any], list[Any], float], object] | None = None
    ) -> list[np.ndarray]:
        """The outputs, of these inputs; ``told(node, operands, results, seconds)`` is called after each node."""
        values: dict[str, Any] = {"": None, **self.graph.constants, **given}
        for node, over in zip(self.graph.nodes, self._over, strict=True):
            operands, begin = [values[name] for name in node.inputs], perf_counter()
            results = compute(node, operands)
            if told is not None:
                told(node, operands, results, perf_counter() - begin)
            for name, result in zip(node.outputs, results, strict=False):
                if name:
                    values[name] = np.asarray(result)
            for name in over:
                del values[name]
        return [values[spec.name] for spec in self.graph.outputs]
