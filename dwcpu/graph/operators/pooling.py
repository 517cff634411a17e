"""Pooling over windows, of any number of axes: shifted views of the image, one for each tap, are put together.

Rows of channels lie together in memory where images have their channels last, which they have in plans: then NumPy
takes whole vectors at a time.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ..ir import Node
from .registry import into, like

__all__ = ["Windows", "windows_of"]

Arrays = list[Any]

#: Strides, dilations, windows and pads are smaller, so that no product of two of them and a size wraps.
_MOST = 2**31


class Windows(NamedTuple):
    """Where the windows of a convolution or pooling lie along each axis of pixels."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    outputs: tuple[int, ...]


def windows_of(node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Windows:
    """Strides, dilations, padding and numbers of outputs for images of these sizes.

    Raises
    ------
    ValueError
        If an attribute has the wrong length, a stride or dilation is below 1, or there would be no output.
    """
    axes = len(kernel)
    strides, dilations = (tuple(map(int, node.get(name) or [1] * axes)) for name in ("strides", "dilations"))
    pads = [int(pad) for pad in node.get("pads") or [0] * (2 * axes)]
    if not len(strides) == len(dilations) == len(sizes) == axes or len(pads) != 2 * axes:
        raise ValueError(
            f"{node.op} {node.name!r}: images have {len(sizes)} axes of pixels, but windows {axes}, strides "
            f"{len(strides)}, dilations {len(dilations)} and pads {len(pads)} entries"
        )
    sizes_given = (*strides, *dilations, *kernel)
    if min(sizes_given, default=1) < 1 or max(map(abs, (*sizes_given, *pads)), default=0) >= _MOST:
        raise ValueError(
            f"{node.op} {node.name!r}: strides {strides}, dilations {dilations}, window {kernel}, pads {pads}; the "
            f"first three must be at least 1, and all below 2**31"
        )
    begins, ends = pads[:axes], pads[axes:]
    auto, ceiling = node.get("auto_pad", "NOTSET"), node.get("ceil_mode", 0)
    outputs = []
    for axis, (size, taps, step, apart) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        span = (taps - 1) * apart + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-size // step)
            total = max((count - 1) * step + span - size, 0)
            begins[axis] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            ends[axis] = total - begins[axis]
        else:
            if auto == "VALID":
                begins[axis] = ends[axis] = 0
            room = size + begins[axis] + ends[axis] - span
            count = (-(-room // step) if ceiling else room // step) + 1
            if ceiling and (count - 1) * step >= size + begins[axis]:
                count -= 1  # windows must begin in the image or before it
        if count < 1 or size + begins[axis] + ends[axis] < 1:
            raise ValueError(
                f"{node.op} {node.name!r}: a window that spans {span} pixels does not fit an axis of {size} with "
                f"padding {begins[axis]} and {ends[axis]}; there would be no output"
            )
        outputs.append(count)
    return Windows(kernel, strides, dilations, tuple(begins), tuple(ends), tuple(outputs))


def _pool_windows(node: Node, x: np.ndarray) -> Windows:
    return windows_of(node, x.shape[2:], tuple(map(int, node.get("kernel_shape"))))


def taps_of(windows: Windows, sizes: tuple[int, ...]) -> Any:
    """For every tap: the outputs that see the image through it, and the pixels that they see; both as slices."""
    axes = []
    for taps, step, apart, begin, size, count in zip(
        windows.kernel, windows.strides, windows.dilations, windows.begins, sizes, windows.outputs, strict=True
    ):
        found = []
        # Taps that see the image at all: windows may be far larger than it.
        for tap in _seen(taps, step, apart, begin, size, count):
            offset = tap * apart - begin
            first = max(0, -(offset // step))
            last = min(count, (size - 1 - offset) // step + 1)
            if first < last:
                start = first * step + offset
                found.append((slice(first, last), slice(start, start + (last - first - 1) * step + 1, step)))
        axes.append(found)
    for combination in product(*axes):
        yield tuple(out for out, _ in combination), tuple(pixels for _, pixels in combination)


def _seen(taps: int, step: int, apart: int, begin: int, size: int, count: int) -> Any:
    """Taps through which some output sees the image: windows may be far larger than it."""
    starts = begin - np.arange(count, dtype=np.int64) * step  # how far before the image each window begins
    first = np.clip(-(-starts // apart), 0, taps)
    last = np.clip((starts + size - 1) // apart + 1, 0, taps)
    if taps <= 2 * (size + count):
        return range(int(first.min(initial=taps)), int(last.max(initial=0)))
    return sorted({tap for low, high in zip(first.tolist(), last.tolist(), strict=True) for tap in range(low, high)})


def _pool_empty(node: Node, x: np.ndarray) -> list[np.ndarray]:
    sizes = (*x.shape[:2], *_pool_windows(node, x).outputs)
    made = [like(x, sizes)]
    if len(node.outputs) > 1 and node.outputs[1]:
        made.append(np.empty(sizes, np.int64))
    return made


@into("MaxPool", empty=_pool_empty)
def max_pool(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Largest pixel of every window; where it is, as a number in the whole tensor, if somebody asks."""
    x, out = arrays[0], outs[0]
    windows = _pool_windows(node, x)
    if len(outs) == 1 and len(windows.kernel) == 2 and min(windows.kernel) > 1:
        _max_by_rows(windows, x, out)
        return
    out[...] = _lowest(x.dtype)
    places = None
    if len(outs) > 1:
        order = list(range(x.ndim))
        if node.get("storage_order", 0):
            order[2:] = order[:1:-1]
        numbers = np.arange(x.size).reshape([x.shape[axis] for axis in order])
        places = numbers.transpose(np.argsort(order))
        outs[1][...] = 0
    for seen, pixels in taps_of(windows, x.shape[2:]):
        target, source = out[(..., *seen)], x[(..., *pixels)]
        if places is not None:
            np.copyto(outs[1][(..., *seen)], places[(..., *pixels)], where=source > target)
        np.maximum(target, source, out=target)


def _max_by_rows(windows: Windows, x: np.ndarray, out: np.ndarray) -> None:
    """Along rows first, then along columns: 3 + 3 steps for a window of 3 x 3 in place of 9."""
    down, across = (Windows(*((field[axis],) for field in windows)) for axis in (0, 1))
    between = like(x, (*x.shape[:3], windows.outputs[1]))
    for half, source, target, axis in ((across, x, between, 3), (down, between, out, 2)):
        index: list[Any] = [slice(None)] * 4
        first = True
        taps = sorted(taps_of(half, (source.shape[axis],)), key=lambda tap: tap[0][0].start - tap[0][0].stop)
        for (seen,), (pixels,) in taps:
            index[axis] = seen
            part = target[tuple(index)]
            index[axis] = pixels
            pixels_seen = source[tuple(index)]
            if first and part.shape == target.shape:
                np.copyto(part, pixels_seen)
            else:
                if first:
                    target[...] = _lowest(x.dtype)
                np.maximum(part, pixels_seen, out=part)
            first = False
        if first:
            target[...] = _lowest(x.dtype)


def _lowest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


@into("AveragePool", "LpPool", empty=_pool_empty)
def average_pool(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Mean of every window, with or without the padding in the count; LpPool: the p-norm."""
    x, out = arrays[0], outs[0]
    windows = _pool_windows(node, x)
    p = node.get("p", 2)
    if node.op == "LpPool":
        x = np.abs(x) ** p
    out[...] = 0
    for seen, pixels in taps_of(windows, x.shape[2:]):
        target = out[(..., *seen)]
        np.add(target, x[(..., *pixels)], out=target)
    if node.op == "LpPool":
        np.power(out, 1 / p, out=out)
    else:
        np.multiply(out, 1 / window_counts(node, windows, x.shape[2:]).astype(x.dtype), out=out)


def window_counts(node: Node, windows: Windows, sizes: tuple[int, ...]) -> np.ndarray:
    """By how much the sum of every window is divided."""
    counts: Any = np.ones((), np.float64)
    for axis, size in enumerate(sizes):
        begins = np.arange(windows.outputs[axis], dtype=np.int64) * windows.strides[axis] - windows.begins[axis]
        low, high = 0, size
        if node.get("count_include_pad", 0):  # windows that `ceil_mode` adds may lie beyond the padding
            low, high = -windows.begins[axis], size + windows.ends[axis]
        taps, apart = windows.kernel[axis], windows.dilations[axis]
        first, last = (np.clip(-(-(bound - begins) // apart), 0, taps) for bound in (low, high))
        counts = np.multiply.outer(counts, np.maximum(last - first, 1))
    return counts


def _global_empty(node: Node, x: np.ndarray) -> np.ndarray:
    return like(x, (*x.shape[:2], *(1,) * (x.ndim - 2)))


@into("GlobalAveragePool", "GlobalMaxPool", empty=_global_empty)
def global_pool(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Mean or largest of all pixels of a channel."""
    x = arrays[0]
    if not x.size:  # of which NumPy warns
        outs[0][...] = np.nan if node.op == "GlobalAveragePool" else _lowest(x.dtype)
        return
    reduce = np.mean if node.op == "GlobalAveragePool" else np.max
    reduce(x, tuple(range(2, x.ndim)), out=outs[0], keepdims=True)
