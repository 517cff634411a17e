"""The graph that everything here works on: nodes, constants and names; nothing of ONNX's file format.

Operators mean what the newest version of ONNX's standard says (`versions` brings older ones to that form). Names
connect nodes: every value has one, and one node that makes it, or is an input or a constant. An empty name stands for
an input or output that is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import numpy as np

__all__ = ["Graph", "Node", "Spec"]


#: Inputs of operators that passes give more.
_MOST_INPUTS = {"Conv": 3, "Gemm": 3, "MatMul": 2}

#: Attributes that passes give to nodes, and `stretches`.
_OUR_ATTRIBUTES = {"activation", "before", "parts", "run", "ways"}


@dataclass(frozen=True)
class Spec:
    """An input or output of a model.

    Attributes
    ----------
    name : str
    dtype : dtype or None
        None where the model does not say.
    shape : tuple of (int, str or None), or None
        As the model declares it: sizes, names of sizes that may be any, or None. Declarations are not trusted.
    """

    name: str
    dtype: np.dtype | None
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dtype = "any dtype" if self.dtype is None else self.dtype.name
        if self.shape is None:
            return f"{self.name}: {dtype}, any shape"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {dtype} ({sizes})"


@dataclass
class Node:
    """One operation.

    Attributes
    ----------
    op : str
        Name of the operator: ONNX's, or one that a pass made (these are listed in `operators.convolution`).
    name : str
        For people.
    inputs, outputs : list of str
        Names of values, empty for those that are left out.
    attributes : dict
        Plain Python values, arrays, and graphs within this one.
    """

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> str:
        """Name of an input, empty if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def get(self, attribute: str, default: Any = None) -> Any:
        """Value of an attribute."""
        return self.attributes.get(attribute, default)

    def copy(self) -> Node:
        """A node that can be changed without changing this one."""
        return Node(self.op, self.name, list(self.inputs), list(self.outputs), dict(self.attributes))


@dataclass
class Graph:
    """Nodes in an order in which they can run.

    Attributes
    ----------
    name : str
    inputs, outputs : list of Spec
    nodes : list of Node
    constants : dict of str to ndarray
        Read-only arrays.
    """

    name: str
    inputs: list[Spec]
    outputs: list[Spec]
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    _names: set[str] | None = None

    def copy(self) -> Graph:
        """A graph that can be changed without changing this one; the arrays are shared."""
        nodes = [node.copy() for node in self.nodes]
        return Graph(self.name, list(self.inputs), list(self.outputs), nodes, dict(self.constants))

    def producers(self) -> dict[str, Node]:
        """Value -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> dict[str, list[Node]]:
        """Value -> the nodes that read it, each as often as it does, and None for every output of the graph."""
        found: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    found.setdefault(name, []).append(node)
        for spec in self.outputs:
            found.setdefault(spec.name, []).append(None)
        return found

    def fresh(self, hint: str) -> str:
        """A name that no value has or had."""
        if self._names is None:
            self._names = {spec.name for spec in self.inputs} | self.constants.keys() | self.producers().keys()
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}.{number}"
        self._names.add(name)
        return name

    def remove(self, nodes: Iterable[Node]) -> None:
        """Take nodes out."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def sweep(self) -> None:
        """Take out nodes and constants that no output needs."""
        needed = {spec.name for spec in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if any(name in needed for name in node.outputs if name):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}

    def check(self) -> None:
        """Check that every value is made once, and every output at all.

        Raises
        ------
        ValueError
        """
        made: set[str] = set()
        groups = (
            [spec.name for spec in self.inputs],
            self.constants,
            *(filter(None, node.outputs) for node in self.nodes),
        )
        for name in (name for group in groups for name in group):
            if not name:
                raise ValueError("an input or constant has no name; every value must have one")
            if name in made:
                raise ValueError(f"{name!r:.80} is made twice; every value must be made once")
            made.add(name)
        for spec in self.outputs:
            if spec.name not in made:
                raise ValueError(f"the output {spec.name!r:.80} is made by no node")
        if not self.outputs:
            raise ValueError("the graph has no outputs; there is nothing to compute")
        for node in self.nodes:
            most = _MOST_INPUTS.get(node.op)
            ours = _OUR_ATTRIBUTES & node.attributes.keys()
            if (most is not None and len(node.inputs) > most) or ours:
                raise ValueError(
                    f"node {node.name!r} ({node.op}) has inputs or attributes that the standard does not know"
                )

    def sort(self) -> None:
        """Put the nodes into an order in which they can run.

        Raises
        ------
        ValueError
            If there is a cycle, or something reads a value that nothing makes.
        """
        ready = {spec.name for spec in self.inputs} | self.constants.keys() | {""}
        made = self.producers()
        readers: dict[str, list[int]] = {}
        missing = []  # of each node, how many values it waits for
        for at, node in enumerate(self.nodes):
            names = {name for name in node.inputs if name not in ready}
            for name in names:
                if name not in made:
                    raise ValueError(f"node {node.name!r} ({node.op}) reads {name!r}, which nothing makes")
                readers.setdefault(name, []).append(at)
            missing.append(len(names))
        # As near to the order of the file as it can be: people know their layers by it.
        heap = [at for at, count in enumerate(missing) if not count]
        done = []
        while heap:
            node = self.nodes[heappop(heap)]
            done.append(node)
            for name in node.outputs:
                for at in readers.get(name, ()):
                    missing[at] -= 1
                    if not missing[at]:
                        heappush(heap, at)
        if len(done) < len(self.nodes):
            stuck = self.nodes[next(at for at, count in enumerate(missing) if count)]
            raise ValueError(f"node {stuck.name!r} ({stuck.op}) waits for its own result; a graph must have no cycles")
        self.nodes = done
