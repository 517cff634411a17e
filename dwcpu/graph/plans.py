"""Plans of one graph: made for the shapes that it meets, and remembered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import count
from statistics import median
from typing import Any

import numpy as np

from .. import arrays, background, runtime
from ..pipeline import Arenas
from ..report import LayerRow
from . import layouts
from .ir import Graph
from .lowering import LOWERINGS
from .planner import Dynamic, Plan, make_plan
from .special import Specials

__all__ = ["Plans", "Progress", "run", "timed"]

#: Shapes of inputs, with layouts and numbers of threads, whose plans are remembered.
_MOST_PLANS = 16

Progress = Callable[[int, int, str], None]


class Plans:
    """Plans for a graph.

    Parameters
    ----------
    graph : Graph
        As it was read.
    simplified : Graph
        What passes make of it.
    without : collection of str
        Passes that are left out.
    lying : bool
        Whether results may lie in memory with their channels last although callers have them first: nothing is copied
        for those who take either.
    most : int
        How many plans are remembered: those used last.
    """

    def __init__(
        self,
        graph: Graph,
        simplified: Graph,
        without: Collection[str],
        lying: bool = False,
        most: int = _MOST_PLANS,
    ) -> None:
        self._specials, self._lying, self._most = Specials(graph, simplified, without), lying, most
        self._turn = count()
        self._used: dict[Any, int] = {}  # when each was, last
        # Replaced, never changed in place: reading it needs no lock, and two threads that add a plan at once may lose
        # one of the two, which is then made again. None: shapes depend on values, see `parts`.
        self.known: dict[Any, Plan | None] = {}
        self._arenas = Arenas()

    @staticmethod
    def key(given: Sequence[np.ndarray], last: bool, threads: int) -> Any:
        """Of the plan for inputs like these."""
        return last, threads, *((array.shape, array.dtype, layouts.is_turned(array, last)) for array in given)

    def find(
        self, given: Sequence[np.ndarray], last: bool, threads: int, progress: Progress | None = None
    ) -> Plan | None:
        """The plan for inputs like these, in the memory order that they have or are copied to; see `layouts.base`.

        None: shapes depend on values, or an input has no elements.

        Raises
        ------
        ValueError
            Shapes or types do not fit; the text names the node.
        """
        key, known = self.key(given, last, threads), self.known
        plan = known.get(key)
        if key in known:
            self._used[key] = next(self._turn)
        if key in known and (plan is None or not any(map(background.over, plan.jobs))):
            return plan
        inputs = [layouts.without_contents(array, last) for array in given]
        plan = None
        if all(array.size for array in given):
            try:
                graph, layers = self._specials.of(inputs, last)
                plan = make_plan(
                    graph, layers, LOWERINGS, inputs, threads, last, self._arenas, progress, lying=self._lying
                )
            except Dynamic:
                plan = None
        used, kept = {**self._used, key: next(self._turn)}, {**self.known, key: plan}
        for old in sorted(kept, key=lambda each: used.get(each, -1))[: -self._most]:
            del kept[old]
        self.known, self._used = kept, {each: used.get(each, -1) for each in kept}
        return plan


def run(plan: Plan, given: Sequence[np.ndarray], last: bool) -> list[np.ndarray]:
    """The outputs of a plan, new arrays with the axes of ONNX."""
    bases, results = _memory(plan, given, last)
    if plan.pipeline.only_kernels:
        plan.pipeline.run(*bases)
        return results
    # infinities and NaN are results like others; some operators have kernels that they share themselves
    with np.errstate(all="ignore"), runtime.num_threads(plan.threads):
        plan.pipeline.run(*bases)
    return results


def timed(plan: Plan, given: Sequence[np.ndarray], last: bool, runs: int, peak: float | None) -> list[LayerRow]:
    """Rows of a report, with medians of so many runs, after one that warms up."""
    times: list[list[float]] = [[] for _ in plan.entries]
    for number in range(runs + 1):
        bases, _ = _memory(plan, given, last)
        with np.errstate(all="ignore"), runtime.num_threads(plan.threads):
            for all_runs, seconds in zip(times, plan.pipeline.timed(*bases), strict=True):
                all_runs += [seconds] if number else []
    pairs = zip(plan.entries, times, strict=True)
    return [entry.row.timed(median(all_runs), peak) for entry, all_runs in pairs]


def _memory(plan: Plan, given: Sequence[np.ndarray], last: bool) -> tuple[list[Any], list[np.ndarray]]:
    """What the pipeline is given, C-contiguous every one, and the outputs with the axes of ONNX."""
    bases = [layouts.base(array, last) for array in given]
    results: list[np.ndarray] = []
    targets: list[np.ndarray | None] = []
    for array, known, turned in zip(plan.outputs, plan.known, plan.turned, strict=True):
        if known:
            results.append(np.array(array, order="C"))
            targets.append(None)
        elif turned:
            fresh = arrays.empty(np.moveaxis(array, 1, -1).shape, array.dtype)
            results.append(np.moveaxis(fresh, -1, 1))
            targets.append(fresh)
        else:
            has_objects = array.dtype.hasobject
            fresh = np.empty(array.shape, array.dtype) if has_objects else arrays.empty(array.shape, array.dtype)
            results.append(fresh)
            targets.append(fresh)
    return [bases[0] if bases else None, None, targets[0], *bases[1:], *targets[1:]], results
