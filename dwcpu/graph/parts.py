"""Graphs with results whose shapes depend on values: what comes before these, and what remains.

Networks that find objects end like that: how many there are, and so the shape of what is computed from them, is known
once the network has run. The network itself is planned like any other, and so are stretches of the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np

from .. import runtime
from ..report import LayerRow, Report
from .eager import Runner
from .ir import Graph, Node, Spec
from .lowering import LOWERINGS
from .passes import PLANNED, optimise
from .planner import Dynamic, Planner
from .plans import Plans, run, timed
from .stretches import Stretch, gather
from .work import flops

__all__ = ["Divided", "Parts"]


#: Where these are all that a plan has to say, it would save nothing.
_WITHOUT_KERNELS = ("constant", "numpy", "shape", "view")
#: What the table says of nodes of the second part.
_KERNEL = "values"


class Divided:
    """A graph whose parts are found when it is first run.

    Parameters
    ----------
    graph : Graph
        As it was read.
    without : collection of str
        Passes that are left out.
    """

    def __init__(self, graph: Graph, without: Collection[str]) -> None:
        self._graph, self._without = graph, without
        self._parts: Parts | None = None

    @cached_property
    def _eager(self) -> Graph:
        """The graph without what only plans can run."""
        return optimise(self._graph, {*self._without, *PLANNED})

    @cached_property
    def _whole(self) -> Parts:
        """All of it as the second part: for inputs without elements there is nothing to plan."""
        return Parts(None, self._eager, self._without)

    def of(self, inputs: Sequence[np.ndarray]) -> Parts:
        """Its parts, for inputs like these, whose contents are not looked at."""
        if not all(array.size for array in inputs):
            return self._whole
        if self._parts is None:
            self._parts = Parts(*_divide(self._eager, inputs), self._without)
        return self._parts


class Branch:
    """A graph within another, planned for the shapes that it meets, or run in parts."""

    def __init__(self, graph: Graph, without: Collection[str]) -> None:
        self._graph, self._without = graph, without
        self._divided = Divided(graph, without)
        self._names = [spec.name for spec in graph.inputs]

    @cached_property
    def _plans(self) -> Plans:
        """Made when the branch is taken: one that never is may be what cannot run."""
        return Plans(self._graph, optimise(self._graph, self._without), self._without, lying=True)

    def __call__(self, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, with the axes of ONNX in any order of memory."""
        inputs, threads = [given[name] for name in self._names], runtime.get_num_threads()
        plan = self._plans.find(inputs, False, threads)
        return self._divided.of(inputs)(inputs, threads) if plan is None else run(plan, inputs, False)


class Parts:
    """A graph in two parts.

    Parameters
    ----------
    early : Graph or None
        What can be planned.
    late : Graph
        What cannot, but for stretches of it.
    without : collection of str
        Passes that are left out of plans.
    """

    def __init__(self, early: Graph | None, late: Graph, without: Collection[str]) -> None:
        self._early = None if early is None else Stretch(early, without)
        self._late = Runner(gather(late, without, lambda graph: Branch(graph, without)))

    def __call__(self, inputs: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
        """The outputs, new arrays, of inputs with the axes of ONNX."""
        with runtime.num_threads(threads):
            results = self._late(self._between(inputs))
        return [np.array(result, order="C") for result in results]  # some may be inputs, constants, or views of these

    def ready(self, inputs: Sequence[np.ndarray], threads: int) -> None:
        """Run the first part: it is planned afterwards, and its kernels are there."""
        with runtime.num_threads(threads):
            self._between(inputs)

    def _between(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What the second part reads: the inputs, and what the first one gives."""
        values = dict(zip((spec.name for spec in self._late.graph.inputs), inputs, strict=False))
        if self._early is not None:
            values |= zip((spec.name for spec in self._early.graph.outputs), self._early(inputs), strict=True)
        return values

    def explain(self, title: str, inputs: Sequence[np.ndarray], threads: int) -> Report:
        """As `Model.explain`; of nodes of the second part nothing is known but their names."""
        rows, memory, plan = [], None, None if self._early is None else self._early.plan(inputs, threads)
        if plan is not None:
            rows = [entry.row for entry in plan.entries]
            memory = plan.pipeline.arena_bytes, plan.pipeline.value_bytes
        rows += [LayerRow(node.name, _KERNEL, (), (), 0, 0) for node in self._late.graph.nodes]
        return Report(title, tuple(rows), memory=memory)

    def profile(self, title: str, inputs: Sequence[np.ndarray], threads: int, runs: int) -> Report:
        """As `Model.profile`."""
        peak, rows = runtime.fma_peak(np.float32, threads), []
        plan = None if self._early is None else self._early.plan(inputs, threads)
        if plan is not None:
            rows = timed(plan, inputs, False, runs, peak)
        seen = []

        def told(node: Node, operands: list[Any], results: list[Any], seconds: float) -> None:
            before, after = (np.shape(some[0]) if some and some[0] is not None else () for some in (operands, results))
            seen.append((LayerRow(node.name, _KERNEL, before, after, flops(node, operands, results), 0), seconds))

        with runtime.num_threads(threads):
            values = self._between(inputs)
            for _ in range(runs + 1):
                self._late(values, told)
        count = len(self._late.graph.nodes)  # the first of so many runs warms up
        times = (median(seconds for _, seconds in seen[count + at :: count]) for at in range(count))
        rows += [row.timed(each, peak) for (row, _), each in zip(seen[:count], times, strict=True)]
        return Report(title, tuple(rows), peak)


def _divide(graph: Graph, inputs: Sequence[np.ndarray]) -> tuple[Graph | None, Graph]:
    """What can be planned for inputs like these, whose contents are not looked at, and what cannot.

    Parameters
    ----------
    graph : Graph
        Whose nodes NumPy can run.
    inputs : sequence of ndarray

    Returns
    -------
    early : Graph or None
        It has the inputs of `graph`. Its outputs are what `late` reads, by name. None: nothing in it gains from a plan.
    late : Graph
        It has the outputs of `graph`.

    Raises
    ------
    ValueError
        Shapes or types do not fit.
    """
    planner = Planner(graph, {}, 1, LOWERINGS, False)
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
    # Without late ones, passes have made something of it that cannot be planned.
    if not late or not any(entry.layers or entry.kernel not in _WITHOUT_KERNELS for entry in planner.entries):
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
