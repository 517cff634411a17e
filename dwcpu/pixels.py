"""What stands between convolutions: means, pooling, resizing, normalisation and copies, on compiled kernels.

Where these are not there, whoever wants them leaves the work to NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy as copy_object
from math import log, prod
from typing import Any

import numpy as np

from . import runtime
from .abi import plan_dtype
from .epilogue import Activation
from .grid import cut
from .pipeline import Node, Pass, Value

__all__ = [
    "GlobalAveragePool",
    "PixelKernel",
    "boxes",
    "copy",
    "epilogue",
    "group_norm",
    "layer_norm",
    "made",
    "pool",
    "reduced",
    "reduced_rows",
    "regions",
    "resize",
    "softmax",
]

_FLOAT32 = np.dtype(np.float32)
#: Elements of a cache line, of any dtype at most.
LINE = 16
#: As in `copies.pxi`.
_COPY_AXES = 5
#: Elements that a row of the grid of `copy` has, about.
_COPIED = 1024
#: Elements of a run that is copied one by one.
_SHORT = 8
#: As in `reductions.pxi`.
_REDUCE_RUN = 64
#: Pixels of rows, at least, whose sums are taken first: of shorter ones there are too many.
_LEAST_WIDTH = 4
_STRETCH = 256
#: As in `norms.pxi`.
_MOMENT_RUN, _MOMENT_STRETCH = 32, 64
#: Of kernels that read every element, of a row at least, before they write it.
_OVER_INPUT = True, False
#: Bytes read and written from which on a second thread gains something.
_WORTH_BYTES = 1 << 17
#: The same for floating-point operations.
_WORTH_FLOPS = 1 << 20


class PixelKernel:
    """A kernel of `cython_kernels/pixels.pxi`, or of the files that it names, for one shape: what a pipeline runs.

    Parameters
    ----------
    address : int
        Of the kernel.
    out_shape : tuple of int
    rows, blocks : int
        Of its grid.
    shared : bool
        Whether to share the rows among threads.
    fields : mapping
        Of the plan.
    kept : object
        What the plan points to.
    scratch : int
        Bytes that each task needs.
    flops : int
        What it computes, where that is more than an operation for each output.
    over : (bool, bool)
        As of `pipeline.Pass`.

    Attributes
    ----------
    remade : callable, optional
        ``remade(x, residual, out)`` gives the kernel for arrays that lie as these `pipeline.Value`, or None. Without
        it, kernels whose plans have steps of pixels are given other ones, and others take no other arrays.
    by_rows : bool
        Whether threads share rows alone, even if blocks could be shared more evenly.
    parts : tuple of PixelKernel
        Kernels that do the same one after the other, and in whose first one several threads share rows of pixels. Each
        then reads what it has written itself, as it mostly has. By channels it also reads what others wrote, and lines
        that two cores have are slow to write to: a product in place, after a mean of 112x112x32, took 235 us, now 25.
    """

    remade: Callable[[Value, Value | None, Value], PixelKernel | None] | None = None
    parts: tuple[PixelKernel, ...] = ()
    by_rows = False

    def __init__(
        self,
        address: int,
        out_shape: tuple[int, ...],
        rows: int,
        blocks: int,
        shared: bool,
        fields: Mapping[str, Any],
        kept: object = None,
        scratch: int = 0,
        flops: int = 0,
        over: tuple[bool, bool] = (False, False),
    ) -> None:
        plan: Any = np.zeros(1, plan_dtype())
        for name, value in fields.items():
            plan[name] = value
        self._address, self._plan, self.out_shape, self.flops, self._over = address, plan, out_shape, flops, over
        self._rows, self._blocks, self._shared, self._kept, self._scratch = rows, blocks, shared, kept, scratch

    def passes(self, threads: int) -> tuple[Pass, ...]:
        """The one kernel, or its parts where threads share what is less than an image each."""
        if threads > self._rows and self.parts and self.parts[0]._shared:
            return tuple(each for part in self.parts for each in part.passes(threads))
        grid = cut(self._rows, 1, self._blocks, threads if self._shared else 1, not self.by_rows)
        grid = grid._replace(scratch=self._scratch)
        return (Pass(self._address, self._plan, grid, self.out_shape, self, self._over),)

    def placed(self, x: Value, residual: Value | None, out: Value) -> PixelKernel | None:
        """As `pipeline.Kernels` says."""
        if self.remade is not None:
            return self.remade(x, residual, out)
        x_step, out_step = x.pixel_step, out.pixel_step
        if not self._plan["x_step"][0] or x_step is None or out_step is None:
            return None
        other = copy_object(self)
        other._plan = self._plan.copy()
        other._plan["x_step"], other._plan["out_step"] = x_step, out_step
        return other


def made(
    name: str,
    dtype: np.dtype,
    x_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    rows: int,
    fields: dict[str, Any],
    kept: object = None,
    blocks: int = 1,
    scratch: int = 0,
    flops: int = 0,
    over: tuple[bool, bool] = (False, False),
) -> PixelKernel | None:
    """The kernel `name` for one shape; None where there are no compiled kernels."""
    compiled = runtime.cython_kernels()
    address = None if compiled is None else compiled.pixels(dtype.name).get(name)
    if address is None:
        return None
    moved = (prod(x_shape) + prod(out_shape)) * dtype.itemsize
    shared = moved >= _WORTH_BYTES or flops >= _WORTH_FLOPS
    scratch = -(-scratch // 64) * 64  # tasks share no cache line
    return PixelKernel(address, out_shape, rows, blocks, shared, fields, kept, scratch, flops, over)


def epilogue(dtype: np.dtype, activation: Activation) -> dict[str, Any]:
    """Fields of a plan for what comes last."""
    fields: dict[str, Any] = {"low": activation.low, "high": activation.high}
    compiled = runtime.cython_kernels()
    if activation.code and compiled is not None and compiled.available():
        fields |= {"activation": compiled.activations(dtype.name)[activation.code], "alpha": activation.alpha}
    return fields


def pool(
    kind: str,
    x_shape: tuple[int, ...],
    outputs: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    begin: tuple[int, int],
    dtype: np.dtype,
) -> PixelKernel | None:
    """Pooling of images (N, H, W, C).

    Parameters
    ----------
    kind : {"max_pool", "average_pool", "padded_pool"}
        The second divides by the number of pixels in the image, the third by that of the whole window.
    x_shape : tuple of int
    outputs, window, stride, dilation, begin : (int, int)
        Vertical and horizontal; `begin` is the padding before the first pixel.
    dtype : dtype
    """
    batch, height, width, channels = x_shape
    fields = {
        "height": height, "width": width, "in_channels": channels, "x_step": channels, "out_step": channels,
        "out_height": outputs[0], "out_width": outputs[1], "kernel_h": window[0], "kernel_w": window[1],
        "stride_h": stride[0], "stride_w": stride[1], "dilation_h": dilation[0], "dilation_w": dilation[1],
        "pad_top": begin[0], "pad_left": begin[1], "low": -np.inf,
    }  # fmt: skip
    return made(kind, dtype, x_shape, (batch, *outputs, channels), batch * outputs[0], fields)


def softmax(rows: int, channels: int, dtype: np.dtype) -> PixelKernel | None:
    """Softmax of `rows` rows that lie together.

    Results below `channels` times the smallest normal number are zero: no product with them is slow then.
    """
    shape = rows, channels
    # Sums are up to `channels`; a little more, since what is made of them is rounded.
    lowest = log(np.finfo(dtype).tiny) + log(max(channels, 1)) + 1e-3
    fields = {"in_channels": channels, "alpha": lowest}
    return made("softmax", dtype, shape, shape, rows, fields, over=_OVER_INPUT)


def copy(
    shape: tuple[int, ...], dtype: np.dtype, source: tuple[int, ...], target: tuple[int, ...]
) -> PixelKernel | None:
    """A copy of a tensor between two orders of memory, which `source` and `target` give as strides in bytes.

    None if it has too many axes that cannot be taken together, or elements of neither 4 nor 8 bytes.
    """
    if dtype.itemsize not in (4, 8) or dtype.hasobject:
        return None
    order = sorted((axis for axis, size in enumerate(shape) if size > 1), key=lambda axis: -abs(target[axis]))
    apart, itemsize = _in_pairs([(shape[axis], source[axis], target[axis]) for axis in order], dtype.itemsize)
    kind = np.dtype(np.float32 if itemsize == 4 else np.float64)
    axes: list[list[int]] = []  # size, steps of source and target, the innermost in the target last
    for size, *distances in apart:
        step, other = (each // itemsize for each in distances)
        if axes and axes[-1][1] == step * size and axes[-1][2] == other * size:
            axes[-1] = [axes[-1][0] * size, step, other]
        else:
            axes.append([size, step, other])
    if len(axes) > _COPY_AXES:
        return None
    down = axes.pop() if axes else [1, 0, 0]
    # with it, the axis that is contiguous in the source, if there is another, makes a plane: see copies.pxi
    across = next((axis for axis in axes if axis[1] == 1 and down[1] != 1), axes[-1] if axes else [1, 0, 0])
    outer = [axis for axis in axes if axis is not across]
    outer += [[1, 0, 0]] * (_COPY_AXES - 2 - len(outer))
    table = np.array([*outer, across, down], np.int64).T.copy()
    run = max(1, _COPIED // down[0] // LINE) * LINE
    runs = max(1, across[0] // run)
    fields = {"weights": table.ctypes.data, "width": run, "height": runs}
    kernel = made("copy", kind, shape, shape, outer[0][0] * runs, fields, table)
    if kernel is not None:

        def remade(x: Value, residual: Value | None, out: Value) -> PixelKernel | None:
            # What is copied anyway gains nothing from gaps: of 16 among 96 channels copies take twice as long.
            same = all(step == old for step, old, size in zip(x.steps, source, shape, strict=True) if size > 1)
            return copy(shape, dtype, x.steps, out.steps) if same else None

        kernel.remade = remade
    return kernel


def order_between(
    shape: tuple[int, ...], dtype: np.dtype, source: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, ...] | None:
    """An order of memory, its axes from the outermost on, by way of which a copy takes two fast steps; mostly None.

    Where few elements are neighbours on one side, but with the next axis many, and others are neighbours on the other
    side, one step turns both axes at once, and the other moves runs. With elements of eight bytes both together take
    1.15 to 1.4 times as long as one, and so they do where NumPy copies.
    """
    if dtype.itemsize != 4 or runtime.cython_kernels() is None:
        return None
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    first, last = (next((axis for axis in axes if steps[axis] == dtype.itemsize), -1) for steps in (source, target))
    if first < 0 or last < 0 or min(source[axis] for axis in axes) <= 0:  # repeated or mirrored: nothing is known
        return None
    for few, many, steps, others in ((first, last, source, target), (last, first, target, source)):
        beyond = (axis for axis in axes if axis != many and steps[axis] == shape[few] * steps[few])
        # where both are one axis on the other side too, they turn together anyway
        apart = (axis for axis in beyond if others[axis] != shape[few] * others[few])
        if shape[few] < _SHORT <= shape[many] and any(shape[few] * shape[axis] >= _SHORT for axis in apart):
            rest = [axis for axis in range(len(shape)) if axis != many]
            return *sorted(rest, key=lambda axis: -steps[axis]), many
    return None


def _in_pairs(axes: list[tuple[int, int, int]], itemsize: int) -> tuple[list[tuple[int, int, int]], int]:
    """Axes (size, bytes from entry to entry in source and target) of a copy, and the size of its elements.

    Pairs of 4 bytes that stay together are elements of 8: runs of two, such as of 2x2 patches, are then turned in
    registers, in place of being copied one by one. They may begin at an odd multiple of 4 bytes: kernels assume no
    alignment beyond that of a real, and x86-64 and ARM64 load and store doubles there.
    """
    *outer, (size, *steps) = axes or [(1, 0, 0)]
    if itemsize != 4 or steps != [4, 4] or size % 2 or any(s % 8 or t % 8 for _, s, t in outer):
        return axes, itemsize
    return [*outer, (size // 2, 8, 8)] if size > 2 else outer, 8


def reduced(kind: str, shape: tuple[int, ...], dtype: np.dtype) -> PixelKernel | None:
    """All pixels of each image of `shape`, (N, H, W, C), taken together: (N, 1, 1, C).

    Parameters
    ----------
    kind : {"sum", "mean", "maximum", "minimum", "squares", "length"}
        "squares": their sum, "length": its root.
    shape : tuple of int
    dtype : dtype
    """
    batch, height, width, channels = shape
    name = {"maximum": "maxima", "minimum": "minima", "squares": "squares", "length": "lengths"}.get(kind, "sums")
    parts = {"squares": ("squares", "sums"), "lengths": ("squares", "roots")}.get(name, (name, name))
    factor, blocks = _factor(kind, height * width, dtype), -(-channels // _REDUCE_RUN)

    def kernel(name: str, images: int, rows: int, columns: int, factor: float) -> PixelKernel | None:
        fields = {"height": rows, "width": columns, "in_channels": channels, "alpha": factor}
        sizes = (images, rows, columns, channels), (images, 1, 1, channels)
        return made(name, dtype, *sizes, images, fields, blocks=blocks)

    whole = kernel(name, batch, height, width, factor)
    rows, images = kernel(parts[0], batch * height, 1, width, 1.0), kernel(parts[1], batch, height, 1, factor)
    if height > 1 and width >= _LEAST_WIDTH and whole is not None and rows is not None and images is not None:
        rows.by_rows, whole.parts = True, (rows, images)
    return whole


def reduced_rows(kind: str, rows: int, count: int, dtype: np.dtype) -> PixelKernel | None:
    """The elements of each of `rows` rows taken together: (rows,); as `reduced`, but for "minimum"."""
    name = {"maximum": "row_maxima", "minimum": "", "squares": "row_squares", "length": "row_lengths"}.get(
        kind, "row_sums"
    )
    fields = {"in_channels": count, "alpha": _factor(kind, count, dtype)}
    return made(name, dtype, (rows, count), (rows,), rows, fields)


def _factor(kind: str, count: int, dtype: np.dtype) -> float:
    """What a sum is multiplied by."""
    return float(dtype.type(1) / dtype.type(count)) if kind == "mean" else 1.0


def resize(
    x_shape: tuple[int, ...],
    down: tuple[np.ndarray, np.ndarray],
    across: tuple[np.ndarray, np.ndarray],
    dtype: np.dtype,
) -> PixelKernel | None:
    """Images (N, H, W, C) of another size: `down` and `across` are tables (outputs, taps) of pixels and weights."""
    batch, height, width, channels = x_shape
    numbers = np.concatenate([down[0].reshape(-1), across[0].reshape(-1)]).astype(np.int64)
    weights = np.concatenate([down[1].reshape(-1), across[1].reshape(-1)]).astype(dtype)
    outputs = len(down[0]), len(across[0])
    row = (outputs[1] * channels // LINE + 2) * LINE  # with room for one more vector, a line at most
    fields = {
        "height": height, "width": width, "in_channels": channels, "out_height": outputs[0], "out_width": outputs[1],
        "kernel_h": down[0].shape[1], "kernel_w": across[0].shape[1], "weights": numbers.ctypes.data,
        "bias": weights.ctypes.data, "window_size": row,
    }  # fmt: skip
    out_shape = (batch, *outputs, channels)
    scratch = down[0].shape[1] * (row * dtype.itemsize + numbers.itemsize)
    return made("resize", dtype, x_shape, out_shape, batch * outputs[0], fields, (numbers, weights), scratch=scratch)


def boxes(begins: np.ndarray, count: int, share: float, most: int) -> PixelKernel | None:
    """Which of `count` boxes go that others of their group overlap: see `boxes.pxi`.

    Groups begin at `begins`. Of each `most` stay.
    """
    table = np.append(begins, count).astype(np.int64)
    fields = {"in_channels": count, "out_channels": most, "weights": table.ctypes.data, "alpha": share}
    sizes = np.diff(table)
    flops = int((sizes * np.minimum(sizes, most)).sum()) * 8
    return made("boxes", _FLOAT32, (4, count), (count,), begins.size, fields, table, flops=flops)


def regions(
    x_shape: tuple[int, ...],
    images: np.ndarray,
    cells: tuple[int, int],
    samples: int,
    least: float,
    most: tuple[int, int],
    dtype: np.dtype,
) -> PixelKernel | None:
    """Regions of images (N, H, W, C) cut into cells: see `regions.pxi`.

    It reads what begins and ends regions in place of a residual, (regions, 4), and writes (regions, *cells, C).

    Parameters
    ----------
    x_shape : tuple of int
    images : ndarray, shape (regions,)
        In which image each of them is.
    cells : (int, int)
        Down and across.
    samples : int
        Points of each cell along an axis; 0: about one for a pixel.
    least : float
        As long as shorter regions count.
    most : (int, int)
        Pixels that the points of a cell have as neighbours, at most, down and across.
    dtype : dtype
    """
    _, height, width, channels = x_shape
    table, entries = images.astype(np.int64), [each + each % 2 for each in most]  # what lies behind is aligned
    fields = {
        "height": height, "width": width, "in_channels": channels, "out_height": cells[0], "out_width": cells[1],
        "kernel_h": samples, "dilation_h": entries[0], "dilation_w": entries[1], "alpha": least,
        "weights": table.ctypes.data,
    }  # fmt: skip
    out_shape = (table.size, *cells, channels)
    scratch = sum(count * (8 + each * (8 + dtype.itemsize)) for count, each in zip(cells, entries, strict=True))
    flops = 2 * prod(out_shape) * prod(most)
    return made("regions", dtype, x_shape, out_shape, table.size, fields, table, scratch=scratch, flops=flops)


def layer_norm(
    rows: int, scale: np.ndarray, bias: np.ndarray | None, epsilon: float, dtype: np.dtype
) -> PixelKernel | None:
    """Layer normalisation of `rows` rows of as many channels as `scale` has."""
    channels = scale.size
    kept = np.array([scale.reshape(-1), np.zeros(channels) if bias is None else bias.reshape(-1)], dtype)
    weights = kept.ctypes.data
    fields = {"in_channels": channels, "alpha": epsilon, "weights": weights, "bias": weights + kept.strides[0]}
    return made("layer_norm", dtype, (rows, channels), (rows, channels), rows, fields, kept, over=_OVER_INPUT)


def group_norm(
    shape: tuple[int, ...],
    groups: int,
    scale: np.ndarray,
    bias: np.ndarray,
    epsilon: float,
    activation: Activation,
    dtype: np.dtype,
) -> tuple[PixelKernel, ...] | None:
    """Normalisation over the pixels and channels of groups of channels of images (N, H, W, C).

    The last kernel takes in place of a residual what those before it find one after the other: the moments of every
    channel, (N, 2, C), where images are longer than a stretch from those of their stretches.
    """
    batch, height, width, channels = shape
    kept = np.concatenate([scale.reshape(-1), bias.reshape(-1), [epsilon]]).astype(dtype)
    weights, pixels = kept.ctypes.data, height * width
    stretches, blocks = -(-pixels // _MOMENT_STRETCH), -(-channels // _MOMENT_RUN)
    fields: dict[str, Any] = {"height": stretches, "width": pixels, "in_channels": channels}
    found, whole = (batch * stretches, 2, channels), (batch, 2, channels)
    first = made("stretch_moments", dtype, shape, found, found[0], fields, blocks=blocks)
    second = made("moments", dtype, found, whole, batch, fields, blocks=blocks)
    fields |= {"groups": groups, "weights": weights, "bias": weights + channels * dtype.itemsize}
    fields |= epilogue(dtype, activation)
    scratch = 2 * channels * dtype.itemsize
    last = made("group_norm", dtype, shape, shape, batch * pixels, fields, kept, scratch=scratch, over=_OVER_INPUT)
    if first is None or second is None or last is None:
        return None
    first.by_rows = stretches > 1
    return (first, second, last) if stretches > 1 else (first, last)


class GlobalAveragePool:
    """Mean over height and width: (N, H, W, C) -> (N, 1, 1, C).

    Pixels are added row by row, in long rows by stretches, then the sums of rows, image by image, so the bits depend
    neither on the batch nor on threads.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePool()(np.ones((2, 7, 7, 5), np.float32)).shape
    (2, 1, 1, 5)
    """

    def __call__(
        self,
        x: np.ndarray,
        *,
        out: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        num_threads: int | None = None,
    ) -> np.ndarray:
        """Pool `x`; the keywords are those of every layer, `residual` and `num_threads` without effect."""
        batch, height, width, channels = x.shape
        if out is None:
            out = np.empty((batch, 1, 1, channels), x.dtype)
        for image, mean in zip(x, out, strict=True):
            rows = np.add.reduce(image[:, :_STRETCH], axis=1)
            for begin in range(_STRETCH, width, _STRETCH):
                rows += np.add.reduce(image[:, begin : begin + _STRETCH], axis=1)
            np.add.reduce(rows, axis=0, out=mean[0, 0])
        out *= x.dtype.type(1) / x.dtype.type(height * width)
        return out

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`."""
        return shape[0], 1, 1, shape[3]

    def nodes(self, shape: tuple[int, ...], threads: int, dtype: np.dtype = _FLOAT32) -> list[Node]:
        """What a pipeline runs for an input of `shape`: the same sums, compiled where that is possible."""
        if shape[0] == 0:
            return []
        kernel = reduced("mean", shape, dtype)
        if kernel is None:
            return [Node(lambda x, residual, out, threads: self(x, out=out), self.out_shape(shape))]
        return [Node(kernel, self.out_shape(shape))]
