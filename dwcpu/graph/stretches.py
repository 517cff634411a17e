"""Stretches of a graph that runs node by node: what is worth a plan once the shapes of its inputs are known.

Heavy nodes, whatever lies between two of them, and activations behind them. A stretch is a node of its own, with a way
to run it (`run`), and nodes that have graphs within them get ways to run these (`ways`); no file has either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from .. import runtime
from .eager import Runner
from .ir import Graph, Node, Spec
from .lowering import LOWERINGS
from .operators.branching import GRAPHS
from .operators.registry import OPERATORS
from .passes import optimise
from .planner import Plan
from .plans import Plans, run

__all__ = ["Stretch", "gather"]

Way = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]

#: How many shapes have a plan that is remembered. Networks that find objects mostly keep up to a hundred.
_MOST_PLANS = 128
#: What is worth a plan.
_HEAVY = {"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}


class Stretch:
    """A graph that is planned for the shapes that it meets, or run node by node if that cannot be.

    Parameters
    ----------
    graph : Graph
        Whose nodes NumPy can run.
    without : collection of str
        Passes that are left out of plans.
    """

    def __init__(self, graph: Graph, without: Collection[str]) -> None:
        self.graph, self._runner = graph, Runner(graph)
        self._plans = Plans(graph, optimise(graph, without), without, lying=True, most=_MOST_PLANS)

    def __call__(self, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, with the axes of ONNX in any order of memory."""
        plan = self.plan(given, runtime.get_num_threads())
        if plan is None:
            return self._runner(dict(zip((spec.name for spec in self.graph.inputs), given, strict=True)))
        return run(plan, given, False)

    def plan(self, given: Sequence[np.ndarray], threads: int) -> Plan | None:
        """What is run for inputs like these."""
        return self._plans.find(given, False, threads)


def gather(graph: Graph, without: Collection[str], branch: Callable[[Graph], Way]) -> Graph:
    """The graph with stretches in place of their nodes.

    Parameters
    ----------
    graph : Graph
        Whose nodes NumPy can run.
    without : collection of str
        As in `Stretch`.
    branch : callable
        Gives the way to run a branch of an If that has heavy nodes. A Loop may have other shapes at every turn, for
        which plans would be made again and again: its body runs node by node.
    """
    made = graph.producers()
    kept = _worth(graph, made)
    stages: dict[int, int] = {}  # of each node: how often kept ones and others take turns before it
    first: dict[int, int] = {}  # of kept nodes: the first of those that they run with

    def root(node: Node) -> int:
        at = id(node)
        while first[at] != at:
            first[at] = first[first[at]]  # paths of long chains become short
            at = first[at]
        return at

    for node in graph.nodes:
        mine, stage = id(node) in kept, 0
        before = [made[name] for name in node.inputs if name in made]
        for each in before:
            stage = max(stage, stages[id(each)] + ((id(each) in kept) != mine))
        stages[id(node)] = stage
        if mine:
            first[id(node)] = id(node)
            for each in before:
                if id(each) in kept and stages[id(each)] == stage:
                    first[root(each)] = root(node)
    groups: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if id(node) in kept:
            groups.setdefault(root(node), []).append(node)
    whole = graph.copy()
    whole.nodes = [node.copy() for node in graph.nodes if id(node) not in kept]
    readers = graph.consumers()
    for nodes in groups.values():
        part = _part(graph, nodes, readers)
        node = Node("Stretch", _name(nodes), [spec.name for spec in part.inputs], [spec.name for spec in part.outputs])
        node.attributes["run"] = Stretch(part, without)
        whole.nodes.append(node)
    for node in whole.nodes:
        if node.op in GRAPHS:
            ways: dict[str, Way] = {}
            own = 1  # the first of its inputs that a branch reads
            for name in GRAPHS[node.op]:
                inner: Graph = node.get(name)
                names = node.inputs[own : own + len(inner.inputs)]
                heavy = node.op == "If" and _is_heavy(inner)
                ways[name] = branch(_with_constants(inner, names, graph)) if heavy else Runner(inner)
                own += len(names)
            node.attributes["ways"] = ways
    whole.sort()
    whole.sweep()
    return whole


def _with_constants(branch: Graph, names: Sequence[str], around: Graph) -> Graph:
    """A branch of an If which has the constants that it reads from around it, and not as inputs."""
    branch = branch.copy()
    known = {spec.name: around.constants.get(name) for spec, name in zip(branch.inputs, names, strict=True)}
    branch.constants |= {name: array for name, array in known.items() if array is not None}
    branch.inputs = [spec for spec in branch.inputs if known[spec.name] is None]
    return branch


def _is_heavy(graph: Graph) -> bool:
    within = (node.get(name) for node in graph.nodes for name in GRAPHS.get(node.op, ()))
    return any(node.op in _HEAVY for node in graph.nodes) or any(map(_is_heavy, within))


def _worth(graph: Graph, made: dict[str, Node]) -> set[int]:
    """Which nodes are to be planned."""
    able = [node for node in graph.nodes if _can_be_planned(node, graph)]
    heavy = {id(node) for node in able if node.op in _HEAVY}
    behind, before, kept = set(heavy), set(heavy), set(heavy)
    for node in able:
        if any(id(made[name]) in behind for name in node.inputs if name in made):
            behind.add(id(node))
    makers = {id(node) for node in able}
    for node in reversed(able):
        if id(node) in before:
            before |= {id(made[name]) for name in node.inputs if name in made} & makers
    kept |= behind & before
    for node in able:
        if node.op == "Activation" and node.inputs[0] in made and id(made[node.inputs[0]]) in kept:
            kept.add(id(node))
    return kept


def _can_be_planned(node: Node, graph: Graph) -> bool:
    """Whether shapes of its inputs alone say what it gives."""
    operator = OPERATORS[node.op]
    if operator.way == "valued" or not (node.op in LOWERINGS or operator.way == "view"):
        return False
    return all(not node.input(at) or node.input(at) in graph.constants for at in operator.shaping)


def _part(graph: Graph, nodes: list[Node], readers: dict[str, list[Node]]) -> Graph:
    """Some nodes as a graph."""
    own = {id(node) for node in nodes}
    makes = dict.fromkeys(name for node in nodes for name in node.outputs if name)
    reads = dict.fromkeys(name for node in nodes for name in node.inputs if name)
    given = [name for name in reads if name not in makes and name not in graph.constants]
    wanted = [name for name in makes if any(each is None or id(each) not in own for each in readers.get(name, ()))]
    inputs, outputs = ([Spec(name, None, None) for name in names] for names in (given, wanted))
    part = Graph(graph.name, inputs, outputs, nodes, graph.constants).copy()
    part.sweep()
    return part


def _name(nodes: list[Node]) -> str:
    names = [node.name for node in nodes]
    return "+".join(names) if len(names) < 4 else f"{names[0]}+…+{names[-1]}"
