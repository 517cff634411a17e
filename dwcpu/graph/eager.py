"""Run a graph node by node on arrays: for graphs whose shapes depend on values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .ir import Graph, Node
from .operators import OPERATORS

__all__ = ["compute", "run"]


def compute(node: Node, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
    """What one node gives.

    Raises
    ------
    ValueError
        If shapes or types do not fit; the text names the node.
    """
    try:
        with np.errstate(all="ignore"):
            return OPERATORS[node.op](node, arrays)
    except MemoryError:
        raise
    except Exception as error:  # what a file says may make NumPy raise anything
        shapes = [None if array is None else (array.dtype.name, array.shape) for array in arrays]
        raise ValueError(
            f"node {node.name!r} ({node.op}) cannot run on {shapes}: {(str(error).splitlines() or [''])[0]:.200}"
        ) from error


def run(graph: Graph, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph; what nobody needs any more is let go at once."""
    values: dict[str, np.ndarray] = {**graph.constants, **given}
    last: dict[str, int] = {}
    for at, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[name] = at
    for spec in graph.outputs:
        last[spec.name] = len(graph.nodes)
    for at, node in enumerate(graph.nodes):
        results = compute(node, [values[name] if name else None for name in node.inputs])
        if len(results) < len(node.outputs):
            raise ValueError(f"node {node.name!r} ({node.op}) names {len(node.outputs)} results and has {len(results)}")
        for name, result in zip(node.outputs, results, strict=False):
            if name:
                values[name] = np.asarray(result)
        for name in node.inputs:
            if last.get(name) == at:
                values.pop(name, None)
    return [values[spec.name] for spec in graph.outputs]
