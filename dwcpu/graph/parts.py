"""Graphs with results whose shapes depend on values: what comes before these, and what remains.

Networks that find objects end like that: how many there are, and so the shape of what is computed from them, is known
once the network has run. The network itself is planned like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from .. import runtime
from ..report import LayerRow, Report
from .eager import Runner
from .ir import Graph, Node, Spec
from .planner import Dynamic, Planner
from .work import flops

__all__ = ["Parts", "divide"]


#: What the table says of nodes of the second part.
_KERNEL = "values"


class Parts:
    """A graph in two parts.

    Parameters
    ----------
    early : Model or None
        What can be planned.
    late : Graph
        What cannot.
    """

    def __init__(self, early: Any, late: Graph) -> None:
        self.early, self._late = early, Runner(late)

    def __call__(self, inputs: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """The outputs, new arrays, of inputs with the axes of ONNX."""
        with runtime.num_threads(threads):
            results = self._late(self.between(inputs, threads))
        return [np.array(result, order="C") for result in results]  # some may be inputs, constants, or views of these

    def between(self, inputs: Sequence[np.ndarray], threads: int) -> dict[str, np.ndarray]:
        """What the second part reads: the inputs, and what the first one gives."""
        values = dict(zip((spec.name for spec in self._late.graph.inputs), inputs, strict=False))
        if self.early is not None:
            made = self.early(*inputs, num_threads=threads)
            made = made if isinstance(made, tuple) else (made,)
            values |= zip((spec.name for spec in self.early.outputs), made, strict=True)
        return values

    def explain(self, title: str, inputs: Sequence[np.ndarray], threads: int) -> Report:
        """As `Model.explain`; of nodes of the second part nothing is known but their names."""
        report = Report(title, ())
        if self.early is not None:
            shapes = {spec.name: array.shape for spec, array in zip(self.early.inputs, inputs, strict=True)}
            report = replace(self.early.explain(shapes, threads), title=title)
        rows = [LayerRow(node.name, _KERNEL, (), (), 0, 0) for node in self._late.graph.nodes]
        return replace(report, rows=(*report.rows, *rows))

    def profile(self, title: str, inputs: Sequence[np.ndarray], threads: int, runs: int) -> Report:
        """As `Model.profile`."""
        report = Report(title, (), runtime.fma_peak(np.float32, threads))
        if self.early is not None:
            report = replace(self.early.profile(*inputs, num_threads=threads, runs=runs), title=title)
        values, seen = self.between(inputs, threads), []

        def told(node: Node, operands: list[Any], results: list[Any], seconds: float) -> None:
            before, after = (np.shape(some[0]) if some and some[0] is not None else () for some in (operands, results))
            seen.append((LayerRow(node.name, _KERNEL, before, after, flops(node, operands, results), 0), seconds))

        with runtime.num_threads(threads):
            for _ in range(runs + 1):
                self._late(values, told)
        count = len(self._late.graph.nodes)  # the first of so many runs warms up
        times = (median(seconds for _, seconds in seen[count + at :: count]) for at in range(count))
        rows = [row.timed(each, report.peak) for (row, _), each in zip(seen[:count], times, strict=True)]
        return replace(report, rows=(*report.rows, *rows))


def divide(graph: Graph, inputs: Sequence[np.ndarray], lowerings: Mapping[str, Any]) -> tuple[Graph | None, Graph]:
    """What can be planned for inputs like these, whose contents are not looked at, and what cannot.

    Parameters
    ----------
    graph : Graph
        Whose nodes NumPy can run.
    inputs : sequence of ndarray
    lowerings
        As a `Planner` takes them.

    Returns
    -------
    early : Graph or None
        It has the inputs of `graph`. Its outputs are what `late` reads, by name. None: there is nothing in it.
    late : Graph
        It has the outputs of `graph`.

    Raises
    ------
    ValueError
        Shapes or types do not fit.
    """
    planner = Planner(graph, {}, 1, lowerings, False)
    for number, (spec, array) in enumerate(zip(graph.inputs, inputs, strict=True)):
        planner.take(spec.name, number, np.empty_like(array))
    unknown: set[str] = set()
    early: list[Node] = []
    late: list[Node] = []
    for number, node in enumerate(graph.nodes):
        if unknown.isdisjoint(node.inputs):
            try:
                planner.add(number, node)
                early.append(node)
                continue
            except Dynamic:
                pass
        late.append(node)
        unknown.update(node.outputs)
        unknown.discard("")
    if not late:  # passes have made something of it that cannot be planned
        return None, graph
    read = {name for node in late for name in node.inputs if name} | {spec.name for spec in graph.outputs}
    between = [name for node in early for name in node.outputs if name in read]
    specs = [Spec(name, None, None) for name in between]
    rest = Graph(graph.name, [*graph.inputs, *specs], graph.outputs, late, graph.constants).copy()
    rest.sweep()
    if not specs:
        return None, rest
    first = Graph(graph.name, graph.inputs, specs, early, graph.constants).copy()
    first.sweep()
    return first, rest
