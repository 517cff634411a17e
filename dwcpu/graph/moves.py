"""Which nodes that move elements run on kernels, and how: as in `lowering`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from .. import elementwise, pixels, runtime
from .ir import Node
from .joining import join
from .operators import OPERATORS
from .operators.moving import axis_of, blocks_of, integers, sides_of
from .operators.resizing import tables_of, whole_factors
from .planner import Operand, Planner, Symbol, channel_last, is_channel_last

__all__ = ["MOVES", "known"]


def known(*operands: Operand) -> bool:
    """Whether none of these is to be computed."""
    return not any(isinstance(operand, Symbol) for operand in operands)


def _copied_apart(*operands: Operand) -> bool:
    """Whether kernels can copy these: arrays of 4 or 8 bytes an element."""
    return all(isinstance(each, Symbol) and each.array.dtype.itemsize in (4, 8) for each in operands)


def _concat(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Concat: every input is copied to its place, if it cannot be computed there."""
    if not _copied_apart(*operands) or runtime.cython_kernels() is None:
        return None
    symbols = [each for each in operands if isinstance(each, Symbol)]
    if len({each.array.dtype for each in symbols}) > 1:
        return None
    [array] = OPERATORS["Concat"].targets(node, [each.array for each in symbols])
    out = planner.symbol(array)
    axis, start = axis_of(node, array), 0
    if axis == 1 and is_channel_last(array):
        planner.describe("view" if join(planner, node.inputs, out) else "copy")
        return [out]
    for each in symbols:
        size = each.array.shape[axis]
        planner.move(each, each.array, out, np.moveaxis(np.moveaxis(array, axis, 0)[start : start + size], 0, axis))
        start += size
    planner.describe("copy")
    return [out]


def _segments(mode: str, size: int, before: int, after: int) -> list[tuple[slice, slice]] | None:
    """Parts of a padded axis: where each comes from, and where it goes; None if one of them is not there in full."""
    if mode == "reflect":
        ends = slice(before, 0, -1), slice(size - 2, size - 2 - after if after < size - 1 else None, -1)
        room = size - 1
    elif mode == "wrap":
        ends, room = (slice(size - before, size), slice(0, after)), size
    else:
        ends, room = (slice(0, 1), slice(size - 1, size)), before + after
    if max(before, after) > room:
        return None
    inner = slice(0, size), slice(before, before + size)
    parts = [(ends[0], slice(0, before)), inner, (ends[1], slice(before + size, before + size + after))]
    return [each for each in parts if each[1].stop > each[1].start]


def _pad(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Pad: a number everywhere, and then the tensor in its place; or the tensor and views of its edges."""
    x, pads, value, axes = (*operands, None, None)[:4]
    if not _copied_apart(x) or not known(pads, value, axes):
        return None
    assert isinstance(x, Symbol) and isinstance(pads, np.ndarray)
    array, mode = x.array, node.get("mode", "constant")
    sides = sides_of(node, array, pads, axes)
    number = 0.0 if value is None else float(np.asarray(value).reshape(()))
    if array.dtype.char not in "fd" or min(min(pair) for pair in sides) < 0:
        return None
    [made] = OPERATORS["Pad"].targets(node, [array, pads, None, axes if isinstance(axes, np.ndarray) else None])
    kernel = elementwise.fill(made.shape, made.dtype, number)
    if kernel is None:
        return None
    out = planner.symbol(made)
    if mode == "constant":
        planner.operate(kernel, out.value(), None, out.value())
        inner = tuple(slice(before, before + size) for size, (before, _) in zip(array.shape, sides, strict=True))
        planner.move(x, array, out, made[inner])
    else:
        parts = [_segments(mode, size, *pair) for size, pair in zip(array.shape, sides, strict=True)]
        if sum(map(any, sides)) > 2 or None in parts:
            return None
        for each in product(*(part for part in parts if part)):
            place = made[tuple(target for _, target in each)]
            planner.move(x, np.broadcast_to(array[tuple(source for source, _ in each)], place.shape), out, place)
    planner.describe("copy")
    return [out]


def _gather(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Gather of one entry of an axis, or of entries at equal distances, is a view."""
    x, indices = operands
    if not isinstance(x, Symbol) or not isinstance(indices, np.ndarray) or indices.ndim > 1 or not indices.size:
        return None
    axis = axis_of(node, x.array)
    size, numbers = x.array.shape[axis], integers(indices)
    if not all(-size <= number < size for number in numbers):
        return None  # NumPy says what is wrong
    numbers = [number % size for number in numbers]
    first, step = numbers[0], (numbers[1] - numbers[0] if len(numbers) > 1 else 1)
    if step == 0 or numbers != list(range(first, first + step * len(numbers), step)):
        return None
    stop = first + step * len(numbers)
    taken: Any = slice(first, stop if stop >= 0 else None, step) if indices.ndim else first
    planner.describe("view")
    return [x.view(x.array[(*(slice(None),) * axis, taken, ...)])]  # the dots: no scalar, but a view without axes


def _blocks(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """DepthToSpace and SpaceToDepth: a copy of a view."""
    [x] = operands
    if not _copied_apart(x) or runtime.cython_kernels() is None:
        return None
    assert isinstance(x, Symbol)
    seen, shape = blocks_of(node, x.array)
    made = channel_last(shape, x.array.dtype)
    place = made.reshape(seen.shape if node.op == "SpaceToDepth" else (*shape[:2], *seen.shape[2:]))
    if not np.may_share_memory(seen, x.array) or not np.may_share_memory(place, made):
        return None
    out = planner.symbol(made)
    planner.move(x, seen, out, place)
    planner.describe("copy")
    return [out]


def _resize(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Resize of images: by whole factors to the nearest pixel a copy of a view, else weighted sums of pixels."""
    x = operands[0]
    if not _copied_apart(x) or not known(*operands[1:]):
        return None
    assert isinstance(x, Symbol)
    arrays: list[Any] = [x.array, *operands[1:]]
    [made] = OPERATORS["Resize"].targets(node, arrays)
    factors = whole_factors(node, *arrays) if node.get("mode", "nearest") == "nearest" else None
    shape = x.array.shape
    if factors is not None:
        apart = [size for pair in zip(shape, factors, strict=True) for size in pair]
        seen = np.broadcast_to(x.array.reshape([size for each in shape for size in (each, 1)]), apart)
        out = planner.symbol(made)
        planner.move(x, seen, out, made.reshape(apart))
        planner.describe("copy")
        return [out]
    tables = tables_of(node, *arrays)
    if x.array.ndim != 4 or x.array.dtype.char not in "fd" or tables is None or made.shape[:2] != shape[:2]:
        return None
    if planner.wants_planes(node.outputs[0]) and made.size >= x.array.size:  # to turn what comes in is less
        image = planner.matrix(x)
        image = image._replace(shape=(shape[0] * shape[1], *shape[2:], 1))
        target = np.empty(made.shape, made.dtype)
    else:
        image, target = planner.image(x), channel_last(made.shape, made.dtype)
    kernel = pixels.resize(image.shape, tables[2], tables[3], image.dtype)
    return None if kernel is None else [planner.run_kernel("resize", kernel, image, None, target)]


def _scatter(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """ScatterND where indices are those of a slice, as exporters write what is assigned to one: two copies."""
    x, indices, updates = operands
    if not isinstance(indices, np.ndarray) or node.get("reduction", "none") != "none":
        return None
    if not _copied_apart(x, updates) or runtime.cython_kernels() is None:
        return None
    assert isinstance(x, Symbol) and isinstance(updates, Symbol)
    places = _slice_of(indices)
    if places is None or len(places) > x.array.ndim or x.array[places].shape != updates.array.shape:
        return None
    if x.array.dtype != updates.array.dtype:
        return None
    array = np.empty_like(x.array)
    out = planner.symbol(array)
    planner.move(x, x.array, out, array)
    planner.move(updates, updates.array, out, array[places])
    planner.describe("copy")
    return [out]


def _slice_of(indices: np.ndarray) -> tuple[slice, ...] | None:
    """The slice of the first axes that has all these indices, in order, if there is one."""
    axes = indices.ndim - 1
    if indices.size == 0 or indices.shape[-1] != axes or indices.min() < 0:
        return None
    begins = indices.reshape(-1, axes)[0]
    for axis, begin in enumerate(begins):
        numbers = begin + np.arange(indices.shape[axis]).reshape(-1, *(1,) * (axes - 1 - axis))
        if not (indices[..., axis] == numbers).all():
            return None
    return tuple(slice(int(begin), int(begin) + size) for begin, size in zip(begins, indices.shape, strict=False))


MOVES: dict[str, Callable[[Planner, Node, list[Operand]], list[Operand] | None]] = {
    "Concat": _concat,
    "DepthToSpace": _blocks,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "ScatterND": _scatter,
    "SpaceToDepth": _blocks,
}
