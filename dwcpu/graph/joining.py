"""Concat without copies: what is joined along the channels is written where it will lie.

When a plan comes to a Concat, its operands have their steps already. Where a buffer holds nothing but operands that
are neighbours in the result, everything that has to do with it is told to use a part of the result's buffer in its
place: kernels that write pixels with gaps between them, and those that read them again. A Concat of what others have
joined before moves all of that at once, as in networks whose layers see all layers before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ..pipeline import Pass, Step, Value
from .planner import Planner, Symbol

__all__ = ["join"]

#: Most steps that are told to use another buffer. It takes a tenth of a millisecond each, and anew for every Concat of
#: what was joined before; no block of DenseNet-201 has as many.
_MOST_STEPS = 256


def join(planner: Planner, names: Sequence[str], out: Symbol) -> bool:
    """Bring images or signals to their places side by side in the channels of `out`; whether nothing is copied.

    Where most of it has to be copied, all is: to write the rest apart from it gains nothing.
    """
    runs: list[Sequence[str]] = []
    while names:
        runs.append(names[: _side_by_side(planner, names)])
        names = names[len(runs[-1]) :]
    starts = [0, *accumulate(_whole(planner, run).array.shape[1] for run in runs)]
    moves = [_move(planner, _whole(planner, run), out, start) for run, start in zip(runs, starts, strict=False)]
    moved = sum(after - start for start, after, move in zip(starts, starts[1:], moves, strict=False) if move)
    copies = 0
    for run, start, move in zip(runs, starts, moves, strict=False):
        whole = _whole(planner, run)
        if move is not None and 2 * moved >= starts[-1]:
            if run is not runs[0]:  # what came before it may have changed its steps, or have read it
                move = _move(planner, whole, out, start)
            if move is not None:
                move.make(planner)
                continue
        copies += 1
        planner.move(whole, whole.array, out, out.array[:, start : start + whole.array.shape[1]])
    return copies == 0


def _symbol(planner: Planner, name: str) -> Symbol:
    symbol = planner.operands[name]
    assert isinstance(symbol, Symbol)
    return symbol


def _side_by_side(planner: Planner, names: Sequence[str]) -> int:
    """How many of these values, from the first on, lie in the same pixels one after the other already."""
    first = _symbol(planner, names[0]).pixels()
    channels, count = first.shape[-1], 1
    for name in names[1:]:
        value = _symbol(planner, name).pixels()
        alike = value.buffer == first.buffer and value.dtype == first.dtype
        together = alike and value.pixel_step == first.pixel_step is not None
        if not together or value.offset != first.offset + channels * first.dtype.itemsize:
            break
        channels, count = channels + value.shape[-1], count + 1
    return count


def _whole(planner: Planner, run: Sequence[str]) -> Symbol:
    """Values that lie side by side, as one."""
    first, channels = _symbol(planner, run[0]), sum(_symbol(planner, name).array.shape[1] for name in run)
    if len(run) == 1:
        return first
    (batch, _, *sizes), (image, _, *steps) = first.array.shape, first.array.strides
    shape, strides = (batch, channels, *sizes), (image, first.array.itemsize, *steps)
    return first.view(np.lib.stride_tricks.as_strided(first.array, shape, strides))


class _Stays(Exception):
    """Somebody who has to do with a buffer cannot use another."""


@dataclass(frozen=True)
class _Move:
    """Everybody uses a part of another buffer in place of `buffer`."""

    buffer: int
    target: int
    steps: dict[int, Step]
    operands: dict[str, Symbol]

    def make(self, planner: Planner) -> None:
        """Let it be so."""
        builder = planner.builder
        for at, step in self.steps.items():
            builder.steps[at] = step
        builder.sizes[self.buffer] = 0
        planner.names.pop(self.buffer, None)
        builder.since[self.target] = min(builder.since[self.target], builder.since[self.buffer])
        planner.operands |= self.operands
        planner.names.setdefault(self.target, []).extend(self.operands)


def _move(planner: Planner, whole: Symbol, out: Symbol, start: int) -> _Move | None:
    """How to have a value in the channels of `out`, from `start` on.

    None if it has no channels last, or is not alone in its buffer, or if a step cannot use it there.
    """
    buffer, builder = whole.buffer, planner.builder
    if buffer < 0 or not whole.has_pixels or whole.value().offset or builder.sizes[buffer] != whole.array.nbytes:
        return None
    room = np.moveaxis(out.array, 1, -1)
    before, after = whole.array.shape[1] * room.itemsize, out.array.shape[1] * room.itemsize

    def moved(value: Value) -> Symbol:
        pixel, channel = divmod(value.offset, before)
        offset = pixel * after + channel + start * room.itemsize
        return out.view(np.ndarray(value.shape, value.dtype, room, offset, _spread(value, before, after)))

    def value_of(value: Value) -> Value:
        return moved(value).value() if value.buffer == buffer else value

    def step_of(step: Step) -> Step:
        reads = tuple(each and value_of(each) for each in step.reads)
        writes = tuple(map(value_of, step.writes))
        return step._replace(operation=_placed(planner, step, reads, writes), reads=reads, writes=writes)

    steps = range(builder.since[buffer], len(builder.steps))
    concerned = [at for at in steps if _has_to_do_with(builder.steps[at], buffer)]
    if len(concerned) > _MOST_STEPS:
        return None
    try:
        return _Move(
            buffer,
            out.buffer,
            {at: step_of(builder.steps[at]) for at in concerned},
            {name: moved(_symbol(planner, name).value()) for name in planner.names.get(buffer, ())},
        )
    except _Stays:
        return None


def _has_to_do_with(step: Step, buffer: int) -> bool:
    return any(value is not None and value.buffer == buffer for value in (*step.reads, *step.writes))


def _spread(value: Value, before: int, after: int) -> tuple[int, ...]:
    """Strides of a value whose pixels were `before` bytes apart, and will be `after`."""
    strides, reach = [], value.offset % before + value.dtype.itemsize
    for size, stride in zip(value.shape, value.steps, strict=True):
        if size > 1 and abs(stride) < before:
            reach += (size - 1) * stride if stride > 0 else before  # no axis of channels goes backwards
        elif size > 1 and stride % before:
            raise _Stays
        strides.append(stride if abs(stride) < before else stride // before * after)
    if reach > before:
        raise _Stays  # an axis of pixels and channels together
    return tuple(strides)


def _placed(planner: Planner, step: Step, reads: Sequence[Value | None], writes: Sequence[Value]) -> Pass:
    """What a step runs if its arrays lie like these."""
    placed = getattr(step.operation.owner, "placed", None) if isinstance(step.operation, Pass) else None
    kernels = placed and placed(*reads, *writes)
    if not kernels:
        raise _Stays
    [made] = kernels.passes(planner.threads)
    return made
