"""Operators that move elements or make them up, and compute nothing."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..ir import Node
from .registry import check_size, general, into, like, view

Arrays = list[Any]


def integers(array: np.ndarray) -> list[int]:
    """A tensor of sizes or axes as Python integers."""
    return [int(value) for value in np.asarray(array).reshape(-1)]


def one_number(node: Node, what: str, array: Any) -> Any:
    """A tensor of one element as a Python number."""
    if np.size(array) != 1:
        raise ValueError(f"{node.op} {node.name!r}: {what} is of shape {np.shape(array)}; it must be one number")
    return np.asarray(array).reshape(-1)[0].item()


def axis_of(node: Node, x: np.ndarray, default: int = 0) -> int:
    """The axis that the attribute `axis` names, from 0 on.

    Raises
    ------
    ValueError
        If there is no such axis.
    """
    return whole_axes(node, [int(node.get("axis", default))], x.ndim)[0]


def whole_axes(node: Node, axes: list[int], count: int) -> list[int]:
    """Axes, of which negative ones count from the end, from 0 on.

    Raises
    ------
    ValueError
        If there is no such axis.
    """
    for axis in axes:
        if not -count <= axis < count:
            raise ValueError(f"{node.op} {node.name!r}: axis {axis} is not there; the tensor has {count} axes")
    return [axis % count for axis in axes]


# --- views ------------------------------------------------------------------------------------------------------------


@view("Identity", "Dropout", shaping=(1, 2))
def identity(node: Node, x: np.ndarray, ratio: Any = None, training: Any = None) -> Any:
    """Dropout does nothing at inference; its mask, where somebody wants it, is true everywhere."""
    if training is not None and training.any() and (ratio is None or ratio.any()):
        raise ValueError(f"Dropout {node.name!r}: training_mode is true; there is no training here")
    if node.op == "Dropout" and len(node.outputs) > 1 and node.outputs[1]:
        return x, np.ones(x.shape, np.bool_)
    return x


@view("Reshape", shaping=(1,))
def reshape(node: Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """0 keeps a size (unless `allowzero`), -1 takes what is left."""
    sizes = integers(shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[at] if size == 0 and at < x.ndim else size for at, size in enumerate(sizes)]
    return reshaped(node, x, sizes)


def reshaped(node: Node, x: np.ndarray, sizes: list[int]) -> np.ndarray:
    """`x` with other sizes, one of which may be -1: a view if possible."""
    others = prod(size for size in sizes if size != -1)
    whole = [x.size // others if size == -1 and others > 0 else size for size in sizes]
    if min(whole, default=0) < 0 or prod(whole) != x.size or sizes.count(-1) > 1:
        raise ValueError(f"{node.op} {node.name!r}: a tensor of shape {x.shape} cannot have shape {tuple(sizes)}")
    return x.reshape(whole)


@view("Flatten")
def flatten(node: Node, x: np.ndarray) -> np.ndarray:
    """To a matrix: the axes before `axis`, and the others."""
    axis = int(node.get("axis", 1))
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"Flatten {node.name!r}: axis {axis} is not there; the tensor has {x.ndim} axes")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@view("Transpose")
def transpose(node: Node, x: np.ndarray) -> np.ndarray:
    """Axes in the order `perm`, by default the reverse."""
    return x.transpose(node.get("perm"))


@view("Squeeze", shaping=(1,))
def squeeze(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    """Without axes of size 1."""
    return np.squeeze(x, None if axes is None else tuple(integers(axes)))


@view("Unsqueeze", shaping=(1,))
def unsqueeze(node: Node, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """With more axes of size 1."""
    return np.expand_dims(x, tuple(integers(axes)))


@view("Slice", shaping=(1, 2, 3, 4))
def slice_(node: Node, x: np.ndarray, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> np.ndarray:
    """Parts of axes, with steps that may be negative."""
    first, last = integers(starts), integers(ends)
    which = list(range(len(first))) if axes is None else integers(axes)
    by = [1] * len(first) if steps is None else integers(steps)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(first, last, which, by, strict=True):
        size = x.shape[axis]
        if step == 0:
            raise ValueError(f"Slice {node.name!r}: a step is 0; steps must be positive or negative")
        start, end = (at + size if at < 0 else at for at in (start, end))
        if step > 0:
            index[axis] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
        else:
            start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
            index[axis] = slice(start, None if end < 0 else end, step) if size else slice(0, 0)
    return x[tuple(index)]


@view("Split", shaping=(1,))
def split(node: Node, x: np.ndarray, sizes: Any = None) -> tuple[np.ndarray, ...]:
    """Into parts of given sizes, or as many equal ones as there are outputs, the last of which may be smaller."""
    axis = axis_of(node, x)
    if sizes is None:
        parts = len(node.outputs)
        if int(node.get("num_outputs", parts)) != parts:
            raise ValueError(f"Split {node.name!r}: num_outputs is {node.get('num_outputs')}, but {parts} are named")
        each = -(-x.shape[axis] // parts)
        ends = [min(each * (part + 1), x.shape[axis]) for part in range(parts)]
    else:
        ends = [int(end) for end in np.cumsum(integers(sizes))]
        if ends and ends[-1] != x.shape[axis]:
            raise ValueError(f"Split {node.name!r}: sizes {integers(sizes)} do not add up to {x.shape[axis]}")
    index: list[Any] = [slice(None)] * x.ndim
    found = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        index[axis] = slice(start, end)
        found.append(x[tuple(index)])
    return tuple(found)


@view("Expand", shaping=(1,))
def expand(node: Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Broadcast."""
    sizes = np.broadcast_shapes(x.shape, tuple(integers(shape)))
    check_size(sizes, x.dtype)
    return np.broadcast_to(x, sizes)


# --- shapes and constants ---------------------------------------------------------------------------------------------


@general("Shape")
def shape(node: Node, x: np.ndarray) -> np.ndarray:
    """Sizes of the axes from `start` to `end`."""
    return np.array(x.shape[slice(node.get("start", 0), node.get("end"))], np.int64)


@general("Size")
def size(node: Node, x: np.ndarray) -> np.ndarray:
    """Number of elements."""
    return np.array(x.size, np.int64)


@general("Constant")
def constant(node: Node) -> np.ndarray:
    """The attribute `value`."""
    return np.asarray(node.get("value"))


@general("ConstantOfShape", shaping=(0,))
def constant_of_shape(node: Node, shape: np.ndarray) -> np.ndarray:
    """One value everywhere."""
    value = node.get("value", np.zeros(1, np.float32))
    check_size(tuple(integers(shape)), value.dtype)
    return np.full(tuple(integers(shape)), value.reshape(-1)[0], value.dtype)


@general("Range", shaping=(0, 1, 2))
def range_(node: Node, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Numbers from `start` to below `limit`."""
    first, last, step = start.item(), limit.item(), delta.item()
    if step == 0:
        raise ValueError(f"Range {node.name!r}: the step is 0")
    check_size((max(0, int((last - first) / step)),), start.dtype)
    return np.arange(first, last, step, dtype=start.dtype)


# --- copies -----------------------------------------------------------------------------------------------------------


def _joined(node: Node, *arrays: np.ndarray) -> np.ndarray:
    if any(array is None for array in arrays):
        raise ValueError(f"Concat {node.name!r}: an input is left out")
    axis = axis_of(node, arrays[0])
    sizes = list(arrays[0].shape)
    for other in arrays[1:]:
        if [*other.shape[:axis], 0, *other.shape[axis + 1 :]] != [*sizes[:axis], 0, *sizes[axis + 1 :]]:
            raise ValueError(
                f"Concat {node.name!r}: shapes {arrays[0].shape} and {other.shape} differ in more than axis {axis}"
            )
    sizes[axis] = sum(array.shape[axis] for array in arrays)
    return like(max(arrays, key=lambda array: array.size), tuple(sizes))


@into("Concat", empty=_joined)
def concat(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """One after the other along an axis."""
    np.concatenate(arrays, axis_of(node, arrays[0]), out=outs[0])


@general("Tile", shaping=(1,))
def tile(node: Node, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Repeated along every axis."""
    times = integers(repeats)
    check_size((x.size, *times), x.dtype)
    return np.tile(x, times)


@general("Gather")
def gather(node: Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Entries of an axis by number, negative ones from the end."""
    check_size((*indices.shape, x.size // max(x.shape[axis_of(node, x)], 1)), x.dtype)
    return np.take(x, indices, axis_of(node, x))


@general("GatherElements")
def gather_elements(node: Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Elements along an axis by number."""
    axis = axis_of(node, x)
    return np.take_along_axis(x, np.where(indices < 0, indices + x.shape[axis], indices), axis)


def sides_of(node: Node, x: np.ndarray, pads: np.ndarray, axes: Any) -> list[tuple[int, int]]:
    """How many entries a Pad adds before and after each axis."""
    sides = [(0, 0)] * x.ndim
    amounts = integers(pads)
    which = list(range(x.ndim)) if axes is None else whole_axes(node, integers(axes), x.ndim)
    half = len(amounts) // 2
    for at, axis in enumerate(which):
        sides[axis] = amounts[at], amounts[at + half]
    return sides


def _padded(node: Node, x: np.ndarray, pads: np.ndarray, value: Any = None, axes: Any = None) -> np.ndarray:
    sides = sides_of(node, x, pads, axes)
    sizes = tuple(size + before + after for size, (before, after) in zip(x.shape, sides, strict=True))
    if min(sizes, default=0) < 0:
        raise ValueError(f"Pad {node.name!r}: {sides} of a tensor of shape {x.shape} leaves less than nothing")
    return like(x, sizes)


def _check_pad(node: Node) -> str | None:
    return None if node.get("mode", "constant") in ("constant", "reflect", "edge", "wrap") else "mode"


@into("Pad", empty=_padded, shaping=(1, 3), check=_check_pad)
def pad(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Constant, reflect, edge or wrap; negative amounts cut off."""
    x, pads, value, axes = (*arrays, None, None)[:4]
    sides = sides_of(node, x, pads, axes)
    mode, out = node.get("mode", "constant"), outs[0]
    left = [
        (max(-before, 0), max(size + min(after, 0), 0)) for size, (before, after) in zip(x.shape, sides, strict=True)
    ]
    x = x[tuple(slice(*each) for each in left)]
    if mode == "constant":
        out[...] = 0 if value is None else value.reshape(())
        if x.size:  # more than all of an axis may be cut off where others are added on its other side
            firsts = [first + before for (first, _), (before, _) in zip(left, sides, strict=True)]
            out[tuple(slice(first, first + size) for first, size in zip(firsts, x.shape, strict=True))] = x
    else:
        np.copyto(out, np.pad(x, [(max(before, 0), max(after, 0)) for before, after in sides], mode))


def blocks_of(node: Node, x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """A view of what DepthToSpace and SpaceToDepth give, with an axis for every factor; and the result's shape."""
    if x.ndim != 4:
        raise ValueError(f"{node.op} {node.name!r}: the tensor is of shape {x.shape}; it must be (N, C, H, W)")
    batch, channels, height, width = x.shape
    b = int(node.get("blocksize"))
    if node.op == "SpaceToDepth":
        order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
        blocks = x.reshape(batch, channels, height // b, b, width // b, b).transpose(order)
        return blocks, (batch, channels * b * b, height // b, width // b)
    if node.get("mode", "DCR") == "DCR":
        blocks = x.reshape(batch, b, b, channels // b**2, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, channels // b**2, b, b, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks, (batch, channels // b**2, height * b, width * b)


@into("DepthToSpace", "SpaceToDepth", empty=lambda node, x: like(x, blocks_of(node, x)[1]))
def depth_to_space(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Blocks of pixels from channels, or the other way round."""
    blocks, _ = blocks_of(node, arrays[0])
    out = outs[0]
    batch, channels = out.shape[:2]
    if node.op == "SpaceToDepth":
        target = out.reshape(blocks.shape)
    else:
        target = out.reshape(batch, channels, *blocks.shape[2:])
    np.copyto(target, blocks)


@view("Align")
def align(node: Node, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`x` with axes of size 1 behind its own, which then lie below those of `other` from `axis` on: see `versions`."""
    if x.ndim == 0 or x.size == 1:
        return x
    return x.reshape(*x.shape, *(1,) * max(other.ndim - int(node.get("axis")) - x.ndim, 0))
