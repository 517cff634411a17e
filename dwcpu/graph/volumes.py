"""How convolutions and pooling of three axes of pixels run on kernels, which know two: as in `lowering`.

A window that is one pixel deep is one of images: planes are images of a batch. One that extends along the depth alone
sees images too, whose rows are planes. Of any other, each tap along the depth is a convolution of planes, whose result
is the residual of the next one.
"""

from __future__ import annotations

from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import pixels
from . import convolving
from .convolving import floats, layer_of, options_of
from .ir import Node
from .moves import known
from .operators.convolution import conv_windows
from .operators.pooling import Windows, windows_of
from .planner import Operand, Planner, Symbol, channel_last

__all__ = ["conv", "max_pool"]

#: Taps along the depth at most, of which each is a pass over everything.
_MOST_TAPS = 16


def conv(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Conv of images, signals, and volumes."""
    x, w, bias, residual = (*operands, None, None, None)[:4]
    if not isinstance(w, np.ndarray) or w.ndim != 5:
        return convolving.conv(planner, node, operands)
    if not floats(x, w) or not known(bias):
        return None
    assert isinstance(x, Symbol)
    windows = conv_windows(node, x.array, w)
    if min(*windows.begins, *windows.ends) < 0:
        return None
    made, added, later = channel_last((x.array.shape[0], w.shape[0], *windows.outputs), w.dtype), None, []
    if isinstance(residual, Symbol) and (residual.array.shape, residual.array.dtype) == (made.shape, made.dtype):
        added = _lying(planner, residual)
    elif residual is not None:
        later = [residual]
    activation = None if later else node.get("activation")
    task = _Task(planner, node, w, bias, windows, activation, _lying(planner, x), added, planner.symbol(made))
    along = [axis for axis in range(3) if windows.kernel[axis] == 1 and not windows.begins[axis] + windows.ends[axis]]
    if 0 in along:
        task.by_planes()
    elif along == [1, 2]:
        task.along_the_depth()
    elif not task.by_taps():
        return None
    return planner.finish(node, [task.out], later) if later else [task.out]


def _lying(planner: Planner, x: Symbol) -> Symbol:
    """A volume that has its channels last in memory."""
    return planner.ordered(x, channel_last(x.array.shape, x.array.dtype))


def _images(x: Symbol) -> Symbol:
    """Planes of volumes as images of a batch."""
    batch, channels, depth, *sizes = x.array.shape
    return x.view(np.moveaxis(x.array, 1, 2).reshape(batch * depth, channels, *sizes))


def _deep(x: Symbol) -> Symbol:
    """Planes of volumes as rows of images."""
    batch, channels, depth, *sizes = x.array.shape
    return x.view(x.array.reshape(batch, channels, depth, prod(sizes)))


def _cut(x: Symbol, image: int, planes: slice) -> Symbol:
    """Planes of one volume, as images."""
    return x.view(np.moveaxis(x.array[image, :, planes], 1, 0))


class _Task(NamedTuple):
    """One convolution: x, the residual and out have their channels last."""

    planner: Planner
    node: Node
    w: np.ndarray
    bias: Operand
    windows: Windows
    activation: Any
    x: Symbol
    residual: Symbol | None
    out: Symbol

    def _layer(self, name: Any, w: np.ndarray, windows: Windows, last: bool = True) -> Any:
        """A layer of images; those that are not the last to add something have no bias and no activation."""
        bias, activation = (self.bias, self.activation) if last else (None, None)
        options = options_of(windows)
        groups = int(self.node.get("group", 1))
        key = self.node.outputs[0], name, last, activation, options["padding"]  # which is last depends on the depth
        return self.planner.layer(
            key, self.node.inputs[1:3], lambda: layer_of(np.ascontiguousarray(w), bias, groups, activation, options)
        )

    def _every(self, deep: int, down: int, across: int) -> Symbol:
        """Every so many pixels of x along each axis."""
        if (deep, down, across) == (1, 1, 1):
            return self.x
        seen = self.x.array[:, :, ::deep, ::down, ::across]
        taken = self.planner.symbol(channel_last(seen.shape, seen.dtype))
        self.planner.move(self.x, seen, taken, taken.array)
        return taken

    def by_planes(self) -> None:
        """The window is one pixel deep."""
        x = self._every(self.windows.strides[0], 1, 1)
        layer = self._layer("planes", self.w[:, :, 0], _without(self.windows, 0))
        residual = None if self.residual is None else _images(self.residual)
        self.planner.run_layer(layer, _images(x), residual, _images(self.out))

    def along_the_depth(self) -> None:
        """The window is one pixel wide and high."""
        strides = self.windows.strides
        x = self._every(1, *strides[1:])
        layer = self._layer("depth", self.w[..., 0], _without(self.windows._replace(strides=(strides[0], 1, 1)), 2))
        residual = None if self.residual is None else _deep(self.residual)
        self.planner.run_layer(layer, _deep(x), residual, _deep(self.out))

    def by_taps(self) -> bool:
        """Any window: whether some tap sees a plane for each plane of the result, so that it can be the last one."""
        depth, windows = self.x.array.shape[2], self.windows
        if windows.kernel[0] > _MOST_TAPS:
            return False
        step, apart, begin = windows.strides[0], windows.dilations[0], windows.begins[0]
        seen = [
            tuple(tap for tap in range(windows.kernel[0]) if 0 <= plane * step + tap * apart - begin < depth)
            for plane in range(windows.outputs[0])
        ]
        everywhere = set(seen[0]).intersection(*seen)
        if not everywhere:
            return False
        last, across = sorted(everywhere)[len(everywhere) // 2], _without(windows, 0)
        for image in range(self.x.array.shape[0]):
            for taps, group in groupby(range(len(seen)), seen.__getitem__):
                planes = list(group)
                place = slice(planes[0], planes[-1] + 1)
                target = _cut(self.out, image, place)
                total = None if self.residual is None else _cut(self.residual, image, place)
                for tap in [tap for tap in taps if tap != last] + [last]:
                    first = planes[0] * step + tap * apart - begin
                    images = _cut(self.x, image, slice(first, first + (len(planes) - 1) * step + 1, step))
                    layer = self._layer(tap, self.w[:, :, tap], across, tap == last)
                    into = target if tap == last else channel_last(target.array.shape, target.array.dtype)
                    total = self.planner.run_layer(layer, images, total, into)
        return True


def _without(windows: Windows, axis: int) -> Windows:
    """Windows of the other two axes."""
    return Windows(*(each[:axis] + each[axis + 1 :] for each in windows))


def max_pool(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """MaxPool of volumes: of the pixels of each plane, then of planes."""
    x = operands[0]
    if not isinstance(x, Symbol) or x.array.ndim != 5 or x.array.dtype.char not in "fd":
        return None
    if len([name for name in node.outputs if name]) > 1:
        return None
    windows = windows_of(node, x.array.shape[2:], tuple(map(int, node.get("kernel_shape"))))
    x = _lying(planner, x)
    batch, channels, depth = x.array.shape[:3]
    across = channel_last((batch, channels, depth, *windows.outputs[1:]), x.array.dtype)
    made = channel_last((batch, channels, *windows.outputs), x.array.dtype)
    one = Windows((1,), (1,), (1,), (0,), (0,), (prod(windows.outputs[1:]),))
    deep = Windows(*(each[:1] + other for each, other in zip(windows, one, strict=True)))
    for seen, array, part in ((_images, across, _without(windows, 0)), (_deep, made, deep)):
        if {*part.kernel, *part.strides} == {1} and not any(part.begins + part.ends):
            continue
        image = planner.image(seen(x))
        outputs, taps, steps, apart, begins = map(_pair, (part.outputs, *part[:4]))
        kernel = pixels.pool("max_pool", image.shape, outputs, taps, steps, apart, begins, image.dtype)
        if kernel is None:
            return None
        x = planner.run_kernel("max_pool", kernel, image, None, array)
    return [x]


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    first, second = numbers
    return first, second
