"""Graphs for inputs of known shapes: padding that is computed from shapes becomes that of the convolutions behind it.

TensorFlow pads "SAME", by amounts that depend on the size of an image, and exporters of networks that came from there
write down how these are computed. For inputs of one shape they are constants, and passes treat them as such.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .ir import Graph
from .passes import optimise
from .planner import Dynamic, Planner

__all__ = ["Specials"]

#: Graphs that are kept, each with weights of its own.
_MOST = 2


class Specials:
    """The graphs of a model, each with the layers that were made for it.

    Parameters
    ----------
    graph : Graph
        As it was read.
    simplified : Graph
        What passes make of it, for any inputs.
    without : collection of str
        Passes that are left out.
    """

    def __init__(self, graph: Graph, simplified: Graph, without: Collection[str]) -> None:
        self._graph, self._without = graph, without
        self._general: tuple[Graph, dict[Any, Any]] = simplified, {}
        pads = [node.input(1) for node in simplified.nodes if node.op == "Pad"]
        self._names = [] if "pads" in without else sorted({*pads} - simplified.constants.keys())
        # Replaced, never changed in place: reading it needs no lock.
        self._made: dict[Any, tuple[Graph, dict[Any, Any]]] = {}

    def of(self, inputs: Sequence[np.ndarray], channels_last: bool) -> tuple[Graph, dict[Any, Any]]:
        """The graph to plan for inputs like these, whose contents are not looked at, and the layers of it."""
        values = self._values(inputs, channels_last) if self._names else None
        if values is None:
            return self._general
        key = tuple(value.tobytes() for value in values)
        found = self._made.get(key)
        if found is None:
            graph = self._graph.copy()
            known = {name: graph.fresh(name) for name in self._names}
            graph.constants |= dict(zip(known.values(), values, strict=True))
            for node in graph.nodes:
                if node.op == "Pad":
                    node.inputs[1] = known.get(node.inputs[1], node.inputs[1])
            found = optimise(graph, self._without), {}
            self._made = dict([*list(self._made.items())[1 - _MOST :], (key, found)])
        return found

    def _values(self, inputs: Sequence[np.ndarray], channels_last: bool) -> list[np.ndarray] | None:
        """The amounts of padding for inputs like these; None if they depend on more than shapes."""
        planner = Planner(self._graph, {}, 1, {}, channels_last)
        for number, (spec, array) in enumerate(zip(self._graph.inputs, inputs, strict=True)):
            planner.take(spec.name, number, np.empty_like(array))
        missing = set(self._names)
        try:
            for number, node in enumerate(self._graph.nodes):
                if not missing:
                    break
                planner.add(number, node)
                missing -= set(node.outputs)
        except (Dynamic, ValueError):  # planning the graph itself says what is wrong
            return None
        found = [each for name in self._names if isinstance(each := planner.operands.get(name), np.ndarray)]
        return found if len(found) == len(self._names) else None
