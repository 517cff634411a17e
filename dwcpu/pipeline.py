"""Several operations as one run: their results in one planned piece of memory, and one call for all of their kernels.

A `Pipeline` belongs to one input shape and number of threads. Every value that is neither its input nor its output has
a place in the arena for as long as somebody still reads it, and so has the kernels' scratch: places are assigned once,
and two values share memory where their lives do not meet. A run takes an arena, calls the driver once for each row of
consecutive kernels, and gives the arena back; nothing else is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from . import runtime
from .abi import STEP_FIELDS
from .grid import Grid

if TYPE_CHECKING:
    from .background import Job

__all__ = ["GIVEN", "Arenas", "Node", "Pass", "Pipeline"]

#: ``run(x, residual, out, threads)``
Run = Callable[[np.ndarray, np.ndarray | None, np.ndarray, int], object]

#: The residual of a node that adds the one which the whole pipeline is given.
GIVEN = -1

#: What addresses of `abi.STEP_FIELDS` count from.
_NONE, _ARENA, _X, _RESIDUAL, _OUT = range(5)
#: Places begin on a cache line. Spreading them over the 4096 bytes of a page besides was measured to gain nothing.
_LINE = 64
#: Arenas begin on a page.
_PAGE = 4096


class Pass(NamedTuple):
    """One kernel on its whole grid: the smallest thing that a pipeline runs.

    `owner` keeps alive what the addresses of kernel and plan point to.
    """

    kernel: int
    plan: int
    grid: Grid
    out_shape: tuple[int, ...]
    owner: object


class Kernels(Protocol):
    """What `Prepared` is to a pipeline."""

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """The kernels to run one after the other; the residual belongs to the last."""


class Node(NamedTuple):
    """One operation of a pipeline, on the result of the one before it.

    Attributes
    ----------
    operation : Prepared or callable
        What gives its kernels, or ``run(x, residual, out, threads)`` on arrays.
    out_shape : tuple of int
    residual : int or None
        Number of the node whose *input* is added (0: the pipeline's input), or `GIVEN`.
    job : background.Job, optional
        For the kernel that the operation stands in for. Pipelines do not look at it.
    """

    operation: Kernels | Run
    out_shape: tuple[int, ...]
    residual: int | None = None
    job: Job | None = None


class Arenas:
    """Pieces of memory that runs take and give back: as many as there are runs at a time."""

    def __init__(self) -> None:
        # Only `pop` and `append`, which are safe from many threads: a run that finds none makes one.
        self._free: list[tuple[np.ndarray, int]] = []

    def take(self, size: int) -> tuple[np.ndarray, int]:
        """At least `size` bytes that nobody else has, at the beginning of a page, and their address."""
        try:
            arena = self._free.pop()
        except IndexError:
            arena = _NO_ARENA
        if arena[0].size < size:
            raw = np.empty(size + _PAGE, np.uint8)
            start = -raw.ctypes.data % _PAGE
            arena = raw[start : start + size], raw.ctypes.data + start
        return arena

    def give(self, arena: tuple[np.ndarray, int]) -> None:
        """Let others have it. One that is never given back, after an exception, is merely lost."""
        self._free.append(arena)


_NO_ARENA = (np.empty(0, np.uint8), 0)

#: For layers, which are many and whose arenas are small.
_shared = Arenas()


class _Step(NamedTuple):
    """A pass or a call, with the numbers of the values that it reads and writes."""

    node: int
    operation: Pass | Run
    x: int
    residual: int | None
    out: int


class Pipeline:
    """Operations one after the other, planned for one shape of input and number of threads.

    Parameters
    ----------
    nodes : sequence of Node
        None at all for an empty batch, whose output has no bytes.
    x_shape : tuple of int
        Of the input.
    dtype : dtype
        Of all values.
    threads : int
    arenas : Arenas, optional
        Where arenas come from; by default layers share theirs.

    Attributes
    ----------
    arena_bytes : int
        Size of the arena.
    value_bytes : int
        What the values and the scratch in it would take if each had its own memory.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        x_shape: tuple[int, ...],
        dtype: np.dtype,
        threads: int,
        arenas: Arenas = _shared,
    ) -> None:
        self._dtype, self._threads, self._arenas = dtype, threads, arenas
        steps, self._shapes = _flatten(nodes, x_shape, threads)
        self._steps, self._nodes = steps, len(nodes)
        last = len(self._shapes) - 1
        wanted = []  # bytes, first and last step of a life
        for value in range(1, last):
            readers = [at for at, step in enumerate(steps) if value in (step.x, step.residual)]
            wanted.append((prod(self._shapes[value]) * dtype.itemsize, value - 1, max(readers)))
        scratch = [
            (step.operation.grid.scratch * step.operation.grid.tasks if isinstance(step.operation, Pass) else 0, at, at)
            for at, step in enumerate(steps)
        ]
        offsets, self.arena_bytes = places(wanted + scratch)
        self.value_bytes = sum(size for size, _, _ in wanted + scratch)
        self._offsets = dict(enumerate(offsets[: len(wanted)], 1))
        #: base and offset of every value
        where = {0: (_X, 0), last: (_OUT, 0)} | {value: (_ARENA, at) for value, at in self._offsets.items()}
        self._records = np.zeros((len(steps), len(STEP_FIELDS)), np.int64)
        self._team = 1
        for record, step, scratch_at in zip(self._records, steps, offsets[len(wanted) :], strict=True):
            if isinstance(step.operation, Pass):
                kernel, plan, grid = step.operation[:3]
                residual = (_NONE, 0) if step.residual is None else where.get(step.residual, (_RESIDUAL, 0))
                self._team = max(self._team, grid.threads)
                record[:] = (
                    kernel, plan, *where[step.x], *residual, *where[step.out], scratch_at, *grid.arguments[:-1]
                )  # fmt: skip
        self._address = self._records.ctypes.data
        self._sections = _sections(steps)
        self._address_of = runtime.address_finder()

    def run(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray) -> None:
        """Compute `out` from arrays that kernels can take."""
        arena = self._arenas.take(self.arena_bytes)
        for first, last in self._sections:
            self._run_section(first, last, arena, x, residual, out)
        self._arenas.give(arena)

    def timed(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray) -> list[float]:
        """As `run`, kernel by kernel; gives the seconds of every node."""
        arena = self._arenas.take(self.arena_bytes)
        seconds = [0.0] * self._nodes
        for at, step in enumerate(self._steps):
            begin = perf_counter()
            self._run_section(at, at + 1, arena, x, residual, out)
            seconds[step.node] += perf_counter() - begin
        self._arenas.give(arena)
        return seconds

    def _run_section(
        self,
        first: int,
        last: int,
        arena: tuple[np.ndarray, int],
        x: np.ndarray,
        residual: np.ndarray | None,
        out: np.ndarray,
    ) -> None:
        """Steps `first` to `last`, that one left out: kernels, or one call."""
        step = self._steps[first]
        if not isinstance(step.operation, Pass):
            source, target = (self._array(value, arena[0], x, out) for value in (step.x, step.out))
            added = residual
            if step.residual != GIVEN:
                added = None if step.residual is None else self._array(step.residual, arena[0], x, out)
            step.operation(source, added, target, self._threads)
            return
        address_of = self._address_of
        where = arena[1], address_of(x), 0 if residual is None else address_of(residual), address_of(out)
        run_steps = runtime.steps_driver()
        if run_steps is not None:
            run_steps(self._address + first * self._records.strides[0], last - first, self._team, *where)
            return
        bases = 0, *where
        for step, record in zip(self._steps[first:last], self._records[first:last].tolist(), strict=True):
            assert isinstance(step.operation, Pass)
            kernel, plan, at, x_at, added_to, residual_at, to, out_at, scratch, *cut = record
            threads = step.operation.grid.threads
            runtime.driver(threads)(
                kernel, plan, bases[at] + x_at, bases[added_to] + residual_at, bases[to] + out_at,
                bases[_ARENA] + scratch, *cut, threads,
            )  # fmt: skip

    def _array(self, value: int, arena: np.ndarray, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """A value as an array."""
        shape = self._shapes[value]
        if value == 0:
            return x.reshape(shape)
        if value == len(self._shapes) - 1:
            return out.reshape(shape)
        at = self._offsets[value]
        return arena[at : at + prod(shape) * self._dtype.itemsize].view(self._dtype).reshape(shape)


def _flatten(
    nodes: Sequence[Node], x_shape: tuple[int, ...], threads: int
) -> tuple[list[_Step], list[tuple[int, ...]]]:
    """The passes of all nodes, and the shapes of all values: value 0 is the input, value i + 1 what step i writes."""
    steps: list[_Step] = []
    shapes = [x_shape]
    inputs = []  # node -> the value that it reads
    for number, node in enumerate(nodes):
        inputs.append(len(steps))
        residual = inputs[node.residual] if node.residual not in (None, GIVEN) else node.residual
        passes: Sequence[Pass | Run] = (node.operation,) if callable(node.operation) else node.operation.passes(threads)
        for operation in passes:
            at = len(steps)
            shapes.append(operation.out_shape if isinstance(operation, Pass) else node.out_shape)
            steps.append(_Step(number, operation, at, residual if operation is passes[-1] else None, at + 1))
    return steps, shapes


def _sections(steps: list[_Step]) -> list[tuple[int, int]]:
    """Half-open ranges of steps: kernels in a row, or one call."""
    found: list[tuple[int, int]] = []
    for at, step in enumerate(steps):
        if found and all(isinstance(each.operation, Pass) for each in (step, steps[at - 1])):
            found[-1] = found[-1][0], at + 1
        else:
            found.append((at, at + 1))
    return found


def places(wanted: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Where in one piece of memory everything finds its place, and the size of it.

    Parameters
    ----------
    wanted : sequence of (size, first, last)
        Bytes, and the first and last step during which they are needed.

    Returns
    -------
    offsets : list of int
        Those whose lives meet do not overlap.
    size : int
    """
    offsets = [0] * len(wanted)
    placed: list[int] = []
    # The largest first, each into the lowest gap that takes it among those that live at its time.
    for index in sorted(range(len(wanted)), key=lambda index: -wanted[index][0]):
        size, first, last = wanted[index]
        if size == 0:
            continue
        others = sorted(
            (offsets[other], offsets[other] + wanted[other][0])
            for other in placed
            if wanted[other][1] <= last and first <= wanted[other][2]
        )
        at = 0
        for begin, end in others:
            if at + size <= begin:
                break
            at = max(at, -(-end // _LINE) * _LINE)
        offsets[index] = at
        placed.append(index)
    end = max((offsets[index] + wanted[index][0] for index in placed), default=0)
    return offsets, -(-end // _LINE) * _LINE
