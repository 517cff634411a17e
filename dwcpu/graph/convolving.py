"""How convolutions and chains of them run on kernels: as in `lowering`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ..layers import Conv2d, DepthwiseConv2d, InvertedResidual, PointwiseConv2d, SeparableConv2d
from .ir import Node
from .moves import known
from .operators.convolution import both, conv_windows
from .operators.pooling import Windows
from .planner import Operand, Planner, Symbol, channel_last

__all__ = ["chain", "conv", "floats", "layer_of", "options_of", "run", "vector"]


def floats(x: Operand, w: Operand) -> bool:
    """Whether x is to be computed and w known, of one type that kernels have."""
    return (
        isinstance(x, Symbol)
        and isinstance(w, np.ndarray)
        and x.array.dtype == w.dtype
        and w.dtype.char in "fd"
        and x.array.size > 0
    )


def _filters(w: np.ndarray) -> np.ndarray:
    """Weights (Cout, Cin / groups, KH, KW) or of a signal, as (KH, KW, Cin / groups, Cout)."""
    if w.ndim == 3:
        w = w[:, :, None]
    return w.transpose(2, 3, 1, 0)


def _depthwise(w: np.ndarray, groups: int) -> np.ndarray:
    """Weights (C * M, 1, KH, KW) as (KH, KW, C, M)."""
    filters = _filters(w)[:, :, 0]
    return filters.reshape(*filters.shape[:2], groups, -1)


def vector(bias: Operand) -> Any:
    """A bias as layers take it."""
    return None if bias is None else np.asarray(bias).reshape(-1)


def options_of(windows: Windows) -> dict[str, Any]:
    """stride, padding and dilation of a Conv, as layers take them.

    Raises
    ------
    ValueError
        If padding is negative.
    """
    begins, ends = both(windows.begins, 0), both(windows.ends, 0)
    if min(*begins, *ends) < 0:
        raise ValueError(f"padding {begins}, {ends} is negative; cut the image first")
    return {
        "stride": both(windows.strides, 1),
        "padding": tuple(zip(begins, ends, strict=True)),
        "dilation": both(windows.dilations, 1),
    }


def layer_of(w: np.ndarray, bias: Operand, groups: int, activation: Any, options: dict[str, Any]) -> Any:
    """The layer of a Conv of images or signals."""
    plain = options["stride"] == (1, 1) and not any(map(any, options["padding"]))
    if groups > 1 and w.shape[1] == 1:
        return DepthwiseConv2d(_depthwise(w, groups), vector(bias), activation=activation, **options)
    if groups == 1 and prod(w.shape[2:]) == 1 and plain:
        return PointwiseConv2d(_filters(w)[0, 0], vector(bias), activation=activation)
    return Conv2d(_filters(w), vector(bias), groups=groups, activation=activation, **options)


def _out_array(x: np.ndarray, layer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A fresh array for what a layer makes of images or signals x, whose shape it sees as `shape`."""
    batch, height, width, channels = layer.out_shape(shape)
    sizes = (batch, channels, height, width) if x.ndim == 4 else (batch, channels, width)
    return channel_last(sizes, x.dtype)


def run(
    planner: Planner, node: Node, key: tuple, make: Callable[..., Any], x: Symbol, residual: Operand
) -> list[Operand]:
    """Run the layer that ``make(activation)`` gives; a residual of another shape is added afterwards."""
    spec, weights = node.get("activation"), node.inputs[1 : 1 + 2 * len(node.get("parts", [node]))]
    layer = planner.layer((*key, spec), weights, lambda: make(spec))
    array = _out_array(x.array, layer, x.pixels().shape)
    if residual is None:
        return [planner.run_layer(layer, x, None, array)]
    if isinstance(residual, Symbol) and residual.array.shape == array.shape and residual.array.dtype == array.dtype:
        return [planner.run_layer(layer, x, residual, array)]
    bare = planner.layer((*key, None), weights, lambda: make(None))
    before = planner.run_layer(bare, x, None, array)
    return planner.finish(node, [before], [residual])


def conv(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Conv of images and signals."""
    x, w, bias, residual = (*operands, None, None, None)[:4]
    if not floats(x, w) or not known(bias):
        return None
    assert isinstance(x, Symbol) and isinstance(w, np.ndarray)
    if w.ndim not in (3, 4):
        return None
    options, groups = options_of(conv_windows(node, x.array, w)), int(node.get("group", 1))

    def make(activation: Any) -> Any:
        return layer_of(w, bias, groups, activation, options)

    return run(planner, node, (node.outputs[0], options["padding"]), make, x, residual)


def chain(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Separable and InvertedResidual."""
    x, *weights = operands
    parts = node.get("parts")
    residual = weights[2 * len(parts)] if len(weights) > 2 * len(parts) else None
    pairs = [(weights[2 * at], weights[2 * at + 1]) for at in range(len(parts))]
    arrays = [w for w, _ in pairs if isinstance(w, np.ndarray)]
    if not all(floats(x, w) for w, _ in pairs) or {w.ndim for w in arrays} not in ({3}, {4}):
        return _one_by_one(planner, node, operands)
    assert isinstance(x, Symbol)
    *expand, depthwise, pointwise = zip(parts, arrays, (bias for _, bias in pairs), strict=True)
    seen = x.array if not expand else _expanded(x.array, expand[0][1])
    options = options_of(conv_windows(depthwise[0], seen, depthwise[1]))
    if expand:
        conv_windows(expand[0][0], x.array, expand[0][1])  # checks that they fit
    dw = _depthwise(depthwise[1], int(depthwise[0].get("group", 1)))
    if options["dilation"] != (1, 1) and expand:  # the layer has none
        [widened] = planner.lowered(parts[0], operands[:3])
        inputs, attributes = ["", *node.inputs[3:]], {**node.attributes, "parts": parts[1:]}
        rest = Node("Separable", node.name, inputs, node.outputs, attributes)
        return chain(planner, rest, [widened, *operands[3:]])
    pw = _filters(pointwise[1])[0, 0]
    biases = [vector(bias) for _, bias in pairs]
    activations = [part.get("activation") for part in parts]
    key = node.outputs[0], options["padding"]

    def make(activation: Any) -> Any:
        if expand:
            plain = {name: option for name, option in options.items() if name != "dilation"}
            return InvertedResidual(
                _filters(expand[0][1])[0, 0], dw, pw, *biases, expand_activation=activations[0],
                dw_activation=activations[1], **plain,
            )  # fmt: skip
        return SeparableConv2d(dw, pw, *biases, dw_activation=activations[0], pw_activation=activation, **options)

    return run(planner, node, key, make, x, residual)


def _expanded(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Images as a pointwise convolution leaves them: shape alone counts."""
    return np.broadcast_to(np.empty((), x.dtype), (x.shape[0], w.shape[0], *x.shape[2:]))


def _one_by_one(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """The Convs of a chain each on its own, where no layer does them together."""
    x, *weights = operands
    parts = node.get("parts")
    for at, part in enumerate(parts):
        inputs: list[Operand] = [x, *weights[2 * at : 2 * at + 2]]
        if at == len(parts) - 1 and len(weights) > 2 * len(parts):
            inputs.append(weights[2 * len(parts)])
        [x] = planner.lowered(part, inputs)
    return [x]
