"""How transposed convolutions run on kernels: as in `lowering`."""

from __future__ import annotations

from math import prod

import numpy as np

from ..epilogue import parse_activation
from ..layers import Conv2d
from ..transposed import TransposedConv
from .ir import Node
from .operators.convolution import both, transposed_shape
from .planner import Operand, Planner, Symbol, channel_last

__all__ = ["conv_transpose"]

#: Phases at most, of which each may be a copy.
_MOST_PHASES = 64


def conv_transpose(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """ConvTranspose of images and signals: in groups, depthwise, or neither."""
    x, w, bias = (*operands, None)[:3]
    if not isinstance(x, Symbol) or not isinstance(w, np.ndarray) or isinstance(bias, Symbol):
        return None
    if x.array.dtype != w.dtype or w.dtype.char not in "fd" or w.ndim not in (3, 4) or not w.size:
        return None
    shape, *placed = transposed_shape(node, x.array, w, bias)
    kernel, outputs = both(w.shape[2:], 1), both(shape[2:], 1)
    begins, strides, dilations = (both(pair, default) for pair, default in zip(placed, (0, 1, 1), strict=True))
    groups, each = int(node.get("group", 1)), w.shape[1]
    filters = w.reshape(*w.shape[:2], *kernel)
    depthwise = each == 1 and groups == w.shape[0] > 1
    # Taps that a phase lacks would be zeros, times which infinity is NaN.
    whole = not any(size % stride for size, stride in zip(kernel, strides, strict=True))
    phased = dilations == (1, 1) and whole and prod(strides) <= _MOST_PHASES and not node.get("output_shape")
    if not depthwise and (strides == (1, 1) or phased):
        made = _by_phases(planner, node, x, filters, bias, shape, outputs, begins, strides, dilations)
        if made is not None:
            return made
    if groups > 1 and not depthwise:
        return None
    spec = node.get("activation")

    def make() -> TransposedConv:
        lying = filters[:, 0].transpose(1, 2, 0) if depthwise else filters.transpose(0, 2, 3, 1)
        return TransposedConv(lying, bias, parse_activation(spec, ""))

    layer = planner.layer((node.outputs[0], spec), node.inputs[1:3], make)
    image = planner.image(x)
    run = layer.kernel(image.shape, outputs, strides, dilations, begins)
    return None if run is None else [planner.run_kernel("transposed", run, image, None, channel_last(shape, w.dtype))]


def _by_phases(
    planner: Planner,
    node: Node,
    x: Symbol,
    w: np.ndarray,
    bias: np.ndarray | None,
    shape: tuple[int, ...],
    outputs: tuple[int, int],
    begins: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
) -> list[Operand] | None:
    """A convolution whose channels are those of stride x stride outputs; then each goes to its place.

    Output q * stride + phase, counted before anything is cut off, takes tap t * stride + phase of the window from pixel
    q - t. At stride 1 there is one phase, and nothing to move.
    """
    groups, (_, each, *kernel) = int(node.get("group", 1)), w.shape
    taps = [size // stride for size, stride in zip(kernel, strides, strict=True)]
    firsts = [begin // stride for begin, stride in zip(begins, strides, strict=True)]
    lasts = [(begin + size - 1) // stride for begin, size, stride in zip(begins, outputs, strides, strict=True)]
    batch, sizes = x.array.shape[0], both(x.array.shape[2:], 1)
    padding = tuple(
        ((count - 1) * apart - first, last - size + 1)
        for count, apart, first, last, size in zip(taps, dilations, firsts, lasts, sizes, strict=True)
    )
    if not all(0 <= size < 2**31 for pair in (*padding, dilations) for size in pair):  # more than convolutions take
        return None

    def make() -> Conv2d:
        apart = w.reshape(groups, -1, each, taps[0], strides[0], taps[1], strides[1])[:, :, :, ::-1, :, ::-1]
        filters = apart.transpose(3, 5, 1, 0, 4, 6, 2).reshape(*taps, w.shape[0] // groups, -1)
        known = np.zeros(groups * each, w.dtype) if bias is None else bias
        biases = np.broadcast_to(known.reshape(groups, 1, 1, each), (groups, *strides, each)).reshape(-1)
        return Conv2d(
            filters, biases, padding=padding, dilation=dilations, groups=groups, activation=node.get("activation")
        )

    layer = planner.layer((node.outputs[0], node.get("activation"), padding), node.inputs[1:3], make)
    made = channel_last(shape, w.dtype)
    if strides == (1, 1):
        return [planner.run_layer(layer, x, None, made)]
    phases = planner.run_layer(layer, x, None, np.empty(layer.out_shape(x.pixels().shape), w.dtype))
    apart = phases.array.reshape(*phases.array.shape[:3], groups, *strides, each)
    out = planner.symbol(made)
    place = np.moveaxis(made, 1, -1).reshape(batch, *outputs, groups, each)
    if not any(number % stride for pair in (begins, outputs) for number, stride in zip(pair, strides, strict=True)):
        rows, columns = (size // stride for size, stride in zip(outputs, strides, strict=True))
        whole = place.reshape(batch, rows, strides[0], columns, strides[1], groups, each)
        planner.move(phases, apart, out, whole.transpose(0, 1, 3, 5, 2, 4, 6))
        return [out]
    down, across = (
        [_phase(phase, *numbers) for phase in range(numbers[2])]
        for numbers in zip(firsts, begins, strides, outputs, strict=True)
    )
    for row, (from_rows, to_rows) in enumerate(down):
        for column, (from_columns, to_columns) in enumerate(across):
            seen = apart[:, from_rows, from_columns, :, row, column]
            planner.move(phases, seen, out, place[:, to_rows, to_columns])
    return [out]


def _phase(phase: int, first: int, begin: int, stride: int, size: int) -> tuple[slice, slice]:
    """Which outputs of the convolution are those of a phase, and where they go."""
    at = first * stride + phase - begin
    skipped = 1 if at < 0 else 0
    at += skipped * stride
    return slice(skipped, skipped + len(range(at, size, stride))), slice(at, size, stride)
