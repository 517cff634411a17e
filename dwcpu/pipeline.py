"""Several operations as one run: their results in one planned piece of memory, and one call for all of their kernels.

A `Pipeline` belongs to one input shape and number of threads. Every buffer that a run is not given has a place in the
arena for as long as somebody still reads it, and so has the kernels' scratch: places are assigned once, and two
buffers share memory where their lives do not meet. A run takes an arena, calls the driver once for each row of
consecutive kernels, and gives the arena back; nothing else is allocated. A row of kernels alone can also run without
any of this, in whatever memory its caller has (`Pipeline.launch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from . import pages, runtime
from .abi import STEP_FIELDS
from .ahead import asking
from .arrays import LINE
from .grid import Grid

if TYPE_CHECKING:
    from .background import Job

__all__ = [
    "GIVEN",
    "NOTHING",
    "Arenas",
    "Builder",
    "Call",
    "Node",
    "Pass",
    "Pipeline",
    "Room",
    "Span",
    "Step",
    "Value",
    "chain",
    "given",
]

#: ``run(x, residual, out, threads)``
Run = Callable[[np.ndarray, np.ndarray | None, np.ndarray, int], object]

#: The residual of a node that adds the one which the whole pipeline is given.
GIVEN = -1

#: What addresses of `abi.STEP_FIELDS` count from: nothing, the arena, and the arrays that a run is given.
_NONE, _ARENA, _GIVEN = range(3)
#: Bytes from which an arena is given up where a run needs only one part in `_MUCH` of it.
_LARGE, _MUCH = 64 << 20, 8


class Span(NamedTuple):
    """So many bytes from an address on."""

    address: int
    size: int

    def begun(self, most: int) -> Span:
        """The first bytes of it, `most` at most."""
        return Span(self.address, min(self.size, most))

    def parted(self, most: int) -> tuple[Span, Span]:
        """What is left when the last bytes of it, `most` at most, are taken, and those."""
        left = max(self.size - most, 0)
        return Span(self.address, left), Span(self.address + left, self.size - left)


NOTHING = Span(0, 0)


class Room(NamedTuple):
    """How many bytes of other kernels' weights a kernel has time to ask for: of later ones, and of the next one."""

    later: int
    soon: int


class Pass(NamedTuple):
    """One kernel on its whole grid: the smallest thing that a pipeline runs.

    Attributes
    ----------
    kernel : int
        Its address.
    plan : ndarray
    grid : Grid
    out_shape : tuple of int
    owner : object
        Keeps alive what addresses in the plan point to.
    over : (bool, bool)
        Whether the result may lie where the input or the residual does: every element of it is written after those in
        its place were read for the last time.
    reads : Span
        Its weights, which are packed in the order in which it reads them.
    awaited : Span
        The same if it would wait for all of them: see `ahead`.
    room : Room
        What it can ask for besides its own.
    asking : callable, optional
        ``asking(self, later, soon)`` gives the pass that does so: two spans, or None.
    """

    kernel: int
    plan: np.ndarray
    grid: Grid
    out_shape: tuple[int, ...]
    owner: object
    over: tuple[bool, bool] = (False, False)
    reads: Span = NOTHING
    awaited: Span = NOTHING
    room: Room = Room(0, 0)
    asking: Callable[[Pass, Span | None, Span | None], Pass] | None = None


class Kernels(Protocol):
    """What `Prepared` is to a pipeline."""

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """The kernels to run one after the other; the residual belongs to the last."""

    def placed(self, x: Value, residual: Value | None, out: Value) -> Kernels | None:
        """The same for arrays that lie as these do, with gaps between pixels; None if it cannot take them."""


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
    """Pieces of memory that runs take and give back: as many as there are runs at a time.

    A run that gets one that is large, and much larger than it needs, gives that back to the system and takes another.
    """

    def __init__(self) -> None:
        # Only `pop` and `append`, which are safe from many threads: a run that finds none makes one.
        self._free: list[tuple[np.ndarray, int]] = []

    def take(self, size: int) -> tuple[np.ndarray, int]:
        """At least `size` bytes that nobody else has, at the beginning of a page, and their address."""
        try:
            arena = self._free.pop()
        except IndexError:
            arena = _NO_ARENA
        if arena[0].size < size or arena[0].size > max(_MUCH * size, _LARGE):
            memory = pages.whole(size)
            arena = memory, memory.ctypes.data
        return arena

    def give(self, arena: tuple[np.ndarray, int]) -> None:
        """Let others have it. One that is never given back, after an exception, is merely lost."""
        self._free.append(arena)


_NO_ARENA = (np.empty(0, np.uint8), 0)

#: For layers, which are many and whose arenas are small.
_shared = Arenas()


class Value(NamedTuple):
    """An array that steps read or write: a view of a buffer.

    Attributes
    ----------
    buffer : int
        Number of a buffer of the arena, from 0 on; or `given`: an array that each run is given.
    shape : tuple of int
    dtype : dtype
    offset : int
        Bytes from the buffer's beginning.
    strides : tuple of int or None
        In bytes; None for C-contiguous ones.
    """

    buffer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0
    strides: tuple[int, ...] | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """Bytes from one entry of each axis to the next."""
        if self.strides is not None:
            return self.strides
        return tuple(prod(self.shape[axis + 1 :]) * self.dtype.itemsize for axis in range(len(self.shape)))

    @property
    def pixel_step(self) -> int | None:
        """Elements from one pixel to the next of images (N, H, W, C).

        None if pixels are not equally far apart, one behind the other, or if their channels are no neighbours.
        """
        *sizes, channels = self.shape
        *steps, inner = self.steps
        size, pixels, first = self.dtype.itemsize, 1, channels * self.dtype.itemsize
        for count, step in zip(reversed(sizes), reversed(steps), strict=True):
            if count > 1 and pixels == 1:
                first = step
            elif count > 1 and step != first * pixels:
                return None
            pixels *= count
        together = first >= channels * size and (inner == size or channels == 1)
        return first // size if together and first % size == 0 else None

    @property
    def is_planar(self) -> bool:
        """Whether images (N, H, W, C) lie with their channels one after the other, as C-contiguous (N, C, H, W)."""
        batch, height, width, channels = self.shape
        image, row, pixel, plane = self.steps
        size = self.dtype.itemsize
        lies = width * size, size, height * width * size
        return (row, pixel, plane) == lies and (batch == 1 or image == channels * plane)


def given(number: int) -> int:
    """The buffer number that stands for array `number` of those that every run is given: x, residual, out, and more."""
    return -1 - number


class Call(NamedTuple):
    """A function of arrays as a step: ``function(*read, *written)``."""

    function: Callable[..., object]


class Step(NamedTuple):
    """A pass or a call, and the values that it reads and writes. A pass reads its input and perhaps a residual."""

    node: int
    operation: Pass | Call
    reads: tuple[Value | None, ...]
    writes: tuple[Value, ...]


class Builder:
    """Steps and buffers of a pipeline that is being put together.

    Attributes
    ----------
    sizes : list of int
        Bytes of every buffer.
    since : list of int
        How many steps have nothing to do with it, as they are older.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.since: list[int] = []
        self.steps: list[Step] = []

    def buffer(self, size: int) -> int:
        """A new buffer of that many bytes: its number."""
        self.sizes.append(size)
        self.since.append(len(self.steps))
        return len(self.sizes) - 1

    def value(self, shape: tuple[int, ...], dtype: np.dtype) -> Value:
        """A C-contiguous value in a buffer of its own."""
        return Value(self.buffer(prod(shape) * dtype.itemsize), tuple(shape), dtype)

    def call(self, node: int, function: Callable[..., object], reads: Sequence[Value], writes: Sequence[Value]) -> None:
        """Add a call of ``function(*read arrays, *written arrays)``, which belongs to node number `node`."""
        self.steps.append(Step(node, Call(function), tuple(reads), tuple(writes)))

    def operate(self, number: int, node: Node, x: Value, residual: Value | None, out: Value, threads: int) -> None:
        """Add the steps of `node`, the pipeline's node number `number`, from `x` to `out`."""
        if callable(node.operation):
            run = node.operation
            if residual is None:
                self.call(number, lambda source, target: run(source, None, target, threads), (x,), (out,))
            else:
                self.call(number, lambda source, r, target: run(source, r, target, threads), (x, residual), (out,))
            return
        passes = node.operation.passes(threads)
        for each in passes:
            last = each is passes[-1]
            target = out if last else self.value(each.out_shape, x.dtype)
            self.steps.append(Step(number, each, (x, residual if last else None), (target,)))
            x = target

    def replace(self, buffer: int, other: int) -> None:
        """Let all steps use `other` in place of `buffer`, which is then nobody's."""

        def moved(value: Any) -> Any:
            return value._replace(buffer=other) if value is not None and value.buffer == buffer else value

        self.steps = [
            step._replace(reads=tuple(map(moved, step.reads)), writes=tuple(map(moved, step.writes)))
            for step in self.steps
        ]
        self.sizes[buffer] = 0


def chain(
    nodes: Sequence[Node], x_shape: tuple[int, ...], dtype: np.dtype, threads: int, arenas: Arenas = _shared
) -> Pipeline:
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

    Returns
    -------
    Pipeline
        It is given x, residual and out.
    """
    builder = Builder()
    value = Value(given(0), x_shape, dtype)
    inputs: list[Value] = []
    for number, node in enumerate(nodes):
        inputs.append(value)
        residual = None if node.residual in (None, GIVEN) else inputs[node.residual]
        if node.residual == GIVEN:
            residual = Value(given(1), node.out_shape, dtype)
        last = number == len(nodes) - 1
        out = Value(given(2), node.out_shape, dtype) if last else builder.value(node.out_shape, dtype)
        builder.operate(number, node, value, residual, out, threads)
        value = out
    return Pipeline(builder, len(nodes), arenas)


class Pipeline:
    """Steps planned to run one after the other; see `chain`, or `Builder` for those that are no chain.

    Parameters
    ----------
    builder : Builder
        What has been gathered; nothing may be added to it afterwards.
    nodes : int
        How many nodes the steps belong to.
    arenas : Arenas
        Where arenas come from.

    Attributes
    ----------
    arena_bytes : int
        Size of the arena.
    value_bytes : int
        What the values and the scratch in it would take if each had its own memory.
    only_kernels : bool
        Whether no step is a call.
    """

    def __init__(self, builder: Builder, nodes: int, arenas: Arenas = _shared) -> None:
        self._arenas, self._nodes = arenas, nodes
        steps = self._steps = _asking_ahead(_in_place(builder))
        lives: dict[int, list[int]] = {}  # buffer -> first and last step that has to do with it
        for at, step in enumerate(steps):
            for value in (*step.reads, *step.writes):
                if value is not None and value.buffer >= 0:
                    lives.setdefault(value.buffer, [at, at])[1] = at
        wanted = [(size, *lives.get(buffer, (0, 0))) for buffer, size in enumerate(builder.sizes)]
        wanted = [(size if buffer in lives else 0, *life) for buffer, (size, *life) in enumerate(wanted)]
        scratch = [
            (step.operation.grid.scratch * step.operation.grid.tasks if isinstance(step.operation, Pass) else 0, at, at)
            for at, step in enumerate(steps)
        ]
        offsets, self.arena_bytes = places(wanted + scratch)
        self.value_bytes = sum(size for size, _, _ in wanted + scratch)
        self._offsets = offsets[: len(wanted)]
        self._records = np.zeros((len(steps), len(STEP_FIELDS)), np.int64)
        self._team = 1
        for record, step, scratch_at in zip(self._records, steps, offsets[len(wanted) :], strict=True):
            if isinstance(step.operation, Pass):
                kernel, plan, grid = step.operation[:3]
                self._team = max(self._team, grid.threads)
                where = (self._where(value) for value in (*step.reads, *step.writes))
                places_of = (part for pair in where for part in pair)
                record[:] = (kernel, plan.ctypes.data, *places_of, scratch_at, *grid.cut)
        values = (each for step in steps if isinstance(step.operation, Pass) for each in (*step.reads, *step.writes))
        seen = {-1 - value.buffer for value in values if value is not None and value.buffer < 0}
        self._seen = [number in seen for number in range(max(seen, default=-1) + 1)]
        self._address = self._records.ctypes.data
        self._sections = _sections(steps)
        self.only_kernels = all(isinstance(step.operation, Pass) for step in steps)
        self._address_of = runtime.address_finder()

    def _where(self, value: Value | None) -> tuple[int, int]:
        """Base and offset of a value that a kernel reads or writes."""
        if value is None:
            return _NONE, 0
        if value.buffer < 0:
            return _GIVEN - 1 - value.buffer, value.offset
        return _ARENA, self._offsets[value.buffer] + value.offset

    def launch(self) -> tuple[int, ...] | None:
        """What the driver's `run_steps` takes for all steps: address, count, threads; and the bytes of the arena.

        None if there is more to do than to run kernels.
        """
        if not self.only_kernels:
            return None
        return self._address, len(self._steps), self._team, self.arena_bytes

    def run(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, *more: np.ndarray) -> None:
        """Compute `out` from arrays that kernels can take; steps may read and write `more` arrays."""
        arena = self._arenas.take(self.arena_bytes)
        arrays = x, residual, out, *more
        where = self._addresses(arena, arrays)
        for first, last in self._sections:
            self._run_section(first, last, arena, arrays, where)
        self._arenas.give(arena)

    def timed(self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, *more: np.ndarray) -> list[float]:
        """As `run`, kernel by kernel; gives the seconds of every node."""
        arena = self._arenas.take(self.arena_bytes)
        arrays = x, residual, out, *more
        where = self._addresses(arena, arrays)
        seconds = [0.0] * self._nodes
        for at, step in enumerate(self._steps):
            begin = perf_counter()
            self._run_section(at, at + 1, arena, arrays, where)
            seconds[step.node] += perf_counter() - begin
        self._arenas.give(arena)
        return seconds

    def _addresses(self, arena: tuple[np.ndarray, int], arrays: tuple[np.ndarray | None, ...]) -> tuple[int, ...]:
        """What kernels count addresses from; 0 for what none of them reads or writes, which may be anything."""
        address_of = self._address_of
        given = (
            address_of(array) if seen and array is not None else 0
            for array, seen in zip(arrays, self._seen, strict=False)
        )  # fmt: skip
        return arena[1], *given

    def _run_section(
        self,
        first: int,
        last: int,
        arena: tuple[np.ndarray, int],
        arrays: tuple[np.ndarray | None, ...],
        where: tuple[int, ...],
    ) -> None:
        """Steps `first` to `last`, that one left out: kernels, or one call."""
        step = self._steps[first]
        if isinstance(step.operation, Call):
            step.operation.function(*[self._array(value, arena[0], arrays) for value in (*step.reads, *step.writes)])
            return
        run_steps = runtime.steps_driver()
        if run_steps is not None:
            run_steps(self._address + first * self._records.strides[0], last - first, self._team, where)
            return
        bases = 0, *where
        for step, record in zip(self._steps[first:last], self._records[first:last].tolist(), strict=True):
            assert isinstance(step.operation, Pass)
            kernel, plan, at, x_at, added_to, residual_at, to, out_at, scratch, *_ = record
            grid = step.operation.grid
            runtime.driver(grid.threads)(
                kernel, plan, bases[at] + x_at, bases[added_to] + residual_at, bases[to] + out_at,
                bases[_ARENA] + scratch, *grid.arguments,
            )  # fmt: skip

    def _array(
        self, value: Value | None, arena: np.ndarray, arrays: tuple[np.ndarray | None, ...]
    ) -> np.ndarray | None:
        """A value as an array; None for what this run was not given."""
        if value is None:
            return None
        buffer, shape, dtype, offset, strides = value
        if buffer >= 0:
            return np.ndarray(shape, dtype, arena, self._offsets[buffer] + offset, strides)
        array = arrays[-1 - buffer]
        if array is None:
            return None
        if array.shape == shape and offset == 0 and strides is None:
            return array
        return np.ndarray(shape, dtype, array, offset, strides)


def _in_place(builder: Builder) -> list[Step]:
    """The steps; results of those that allow it lie where an input lay that nobody reads again.

    What was just written is in a cache near by, and other memory need not be fetched to be written to.
    """
    last: dict[int, int] = {}  # step that has to do with a buffer; values within another one's are one buffer with it
    first: dict[int, int] = {}
    for at, step in enumerate(builder.steps):
        for value in (*step.reads, *step.writes):
            if value is not None:
                first.setdefault(value.buffer, at)
                last[value.buffer] = at
    home: dict[int, int] = {}  # where a buffer has gone

    def moved(value: Any) -> Any:
        return value if value is None or value.buffer not in home else value._replace(buffer=home[value.buffer])

    steps = []
    for at, step in enumerate(builder.steps):
        out, reads = step.writes[0] if step.writes else None, tuple(map(moved, step.reads))
        allowed = step.operation.over if isinstance(step.operation, Pass) and len(step.writes) == 1 else ()
        for read, over in zip(reads, allowed, strict=False):
            if not over or read is None or out is None or min(read.buffer, out.buffer) < 0:
                continue
            whole = prod(read.shape) * read.dtype.itemsize == builder.sizes[read.buffer] == builder.sizes[out.buffer]
            same = read.strides is out.strides is None or (read.shape, read.steps) == (out.shape, out.steps)
            alone = sum(each is not None and each.buffer == read.buffer for each in reads) == 1
            if whole and same and alone and last[read.buffer] == first[out.buffer] == at:
                home[out.buffer] = read.buffer
                last[read.buffer] = last[out.buffer]
                break
        steps.append(step._replace(reads=reads, writes=tuple(map(moved, step.writes))))
    return steps


def _asking_ahead(steps: Sequence[Step]) -> list[Step]:
    """The steps, the passes among them such that they ask for what later ones would wait for."""
    passes = iter(asking([step.operation for step in steps if isinstance(step.operation, Pass)]))
    return [step._replace(operation=next(passes)) if isinstance(step.operation, Pass) else step for step in steps]


def _sections(steps: list[Step]) -> list[tuple[int, int]]:
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
            at = max(at, -(-end // LINE) * LINE)
        offsets[index] = at
        placed.append(index)
    end = max((offsets[index] + wanted[index][0] for index in placed), default=0)
    return offsets, -(-end // LINE) * LINE
