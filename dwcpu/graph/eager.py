"""Run a graph node by node on arrays: for nodes whose shapes depend on values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from .ir import Graph, Node
from .operators.registry import OPERATORS

__all__ = ["Runner", "operated"]

Arrays = list[Any]


class Runner:
    """A graph that is run again and again.

    Parameters
    ----------
    graph : Graph
        Whose nodes NumPy can run, or know how they are run (`run`): see `stretches`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        last: dict[str, int] = {}
        for at, node in enumerate(graph.nodes):
            last |= dict.fromkeys(node.inputs, at)
        for name in ("", *(spec.name for spec in graph.outputs)):
            last.pop(name, None)
        #: Each node, how it is run, and what nobody needs any more after it.
        self._steps: list[tuple[Node, Callable[[Arrays], Arrays], list[str]]] = []
        for node in graph.nodes:
            self._steps.append((node, node.get("run") or operated(node), []))
        for name, at in last.items():
            self._steps[at][2].append(name)

    def __call__(
        self, given: Mapping[str, np.ndarray], told: Callable[[Node, Arrays, Arrays, float], object] | None = None
    ) -> list[np.ndarray]:
        """The outputs, of these inputs; ``told(node, operands, results, seconds)`` is called after each node.

        Raises
        ------
        ValueError
            If shapes or types do not fit; the text names the node.
        """
        values: dict[str, Any] = {"": None, **self.graph.constants, **given}
        with np.errstate(all="ignore"):
            for node, run, over in self._steps:
                operands, begin = [values[name] for name in node.inputs], perf_counter()
                results = run(operands)
                if told is not None:
                    told(node, operands, results, perf_counter() - begin)
                for name, result in zip(node.outputs, results, strict=False):
                    if name:
                        values[name] = result if type(result) is np.ndarray else np.asarray(result)
                for name in over:
                    del values[name]
        return [values[spec.name] for spec in self.graph.outputs]


def operated(node: Node) -> Callable[[Arrays], Arrays]:
    """How a node is run on NumPy."""
    operator, count = OPERATORS[node.op], len(node.outputs)

    def run(arrays: Arrays) -> Arrays:
        try:
            results = operator(node, arrays)
        except MemoryError:
            raise
        except Exception as error:  # what a file says may make NumPy raise anything
            shapes = [None if array is None else (array.dtype.name, array.shape) for array in arrays]
            problem = (str(error).splitlines() or [""])[0].removeprefix(f"{node.op} {node.name!r}: ")
            raise ValueError(f"node {node.name!r} ({node.op}) cannot run on {shapes}: {problem:.200}") from error
        if len(results) < count:
            raise ValueError(f"node {node.name!r} ({node.op}) names {count} results and has {len(results)}")
        return results

    return run
