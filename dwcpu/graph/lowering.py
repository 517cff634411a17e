"""Which nodes run on kernels, and how: each function plans one node, or gives None to leave it to NumPy."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from .. import pixels
from ..epilogue import parse_activation
from ..layers import DepthwiseConv2d, PointwiseConv2d
from ..products import products
from .arithmetic import ARITHMETIC
from .convolving import chain, floats, run, vector
from .ir import Node
from .moves import MOVES, known
from .operators.branching import taken
from .operators.convolution import both
from .operators.moving import axis_of
from .operators.pooling import window_counts, windows_of
from .operators.reducing import axes_of
from .operators.registry import OPERATORS, check_size
from .passes.matching import channel_values
from .planner import Operand, Planner, Symbol, channel_last
from .recurring import recurrent
from .upsampling import conv_transpose
from .volumes import conv, max_pool

__all__ = ["LOWERINGS"]

Lowering = Callable[[Planner, Node, list[Operand]], "list[Operand] | None"]


def _product(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Gemm and MatMul with constant weights; MatMul of tensors."""
    a, b, c = (*operands, None)[:3]
    if node.op == "MatMul" and isinstance(a, Symbol) and isinstance(b, Symbol) and c is None:
        return _tensor_product(planner, a, b)
    fits = floats(a, b) and known(c) and isinstance(b, np.ndarray) and b.ndim == 2
    if not fits or (node.op == "Gemm" and node.get("transA", 0)):
        return None
    assert isinstance(a, Symbol) and isinstance(b, np.ndarray)
    w, bias = b, None
    if node.op == "Gemm":
        w = w.T if node.get("transB", 0) else w
        w = w if node.get("alpha", 1.0) == 1 else (w * node.get("alpha")).astype(w.dtype)
    if isinstance(c, np.ndarray):
        values = channel_values(c, 2 if node.op == "Gemm" else 1, w.shape[1], -1)
        if values is None:
            return None
        bias = np.ascontiguousarray(values * c.dtype.type(node.get("beta", 1.0)))
    if a.array.ndim < 1 or a.array.shape[-1] != w.shape[0] or (node.op == "Gemm" and a.array.ndim != 2):
        raise ValueError(f"matrices of shapes {a.array.shape} and {w.shape} cannot be multiplied")
    rows = prod(a.array.shape[:-1])
    layer = planner.layer(
        (node.outputs[0],), node.inputs[1:3], lambda: PointwiseConv2d(w, bias, activation=node.get("activation"))
    )
    out = np.empty((*a.array.shape[:-1], w.shape[1]), w.dtype)
    return [planner.run_layer(layer, planner.matrix(a)._replace(shape=(1, 1, rows, w.shape[0])), None, out)]


def _tensor_product(planner: Planner, a: Symbol, b: Symbol) -> list[Operand] | None:
    """MatMul of matrices that are both computed."""
    left, right = a.array, b.array
    if min(left.ndim, right.ndim) < 2 or left.dtype != right.dtype or left.dtype.char not in "fd":
        return None
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"tensors of shapes {left.shape} and {right.shape} cannot be multiplied")
    x = a.value() if left.strides[-1] == left.itemsize else planner.matrix(a)
    y = b.value()
    seen = left if x.strides else np.empty_like(left, order="C")
    kernel = products(seen, right if y.strides else np.empty_like(right, order="C"))
    if kernel is None:
        return None
    check_size(kernel.out_shape, left.dtype)
    return [planner.run_kernel("products", kernel, x, y, np.empty(kernel.out_shape, left.dtype))]


def _affine(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    x, factor, shift = operands
    if not floats(x, factor) or not known(shift):
        return None
    assert isinstance(x, Symbol) and isinstance(factor, np.ndarray)
    if x.array.ndim < 2 or x.array.shape[1] != factor.size:
        return None
    if not x.has_pixels:
        return _spread_affine(planner, node, operands)

    def make(activation: Any) -> Any:
        return DepthwiseConv2d(factor.reshape(1, 1, -1), vector(shift), activation=activation)

    return run(planner, node, (node.outputs[0],), make, x, None)


def _spread_affine(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand]:
    """An Affine of what does not have its channels last: a product and a sum."""
    x, *values = operands
    assert isinstance(x, Symbol)
    kernels: list[str] = []
    results: list[Operand] = [x]
    for op, each in zip(("Mul", "Add"), values, strict=True):
        spread = np.asarray(each).reshape(-1, *(1,) * (x.array.ndim - 2))
        spec = {"activation": node.get("activation")} if op == "Add" else {}
        results = planner.lowered(Node(op, node.name, [], [], spec), [*results, spread])
        kernels.append(planner.described)
    planner.describe(*kernels)
    return results


_REDUCED = {
    "GlobalAveragePool": "mean",
    "GlobalMaxPool": "maximum",
    "ReduceL2": "length",
    "ReduceMax": "maximum",
    "ReduceMean": "mean",
    "ReduceMin": "minimum",
    "ReduceSum": "sum",
    "ReduceSumSquare": "squares",
}


def _reduce(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Reductions over axes that lie together in memory, and pooling over all pixels."""
    x, axes = (*operands, None)[:2]
    if not isinstance(x, Symbol) or isinstance(axes, Symbol) or x.array.dtype.char not in "fd":
        return None
    lies, shape, kind = np.empty_like(x.array), x.array.shape, _REDUCED[node.op]
    whole = node.op in ("GlobalAveragePool", "GlobalMaxPool")
    gone = range(2, lies.ndim) if whole else axes_of(node, x.array, axes)
    if len(set(gone)) < len(gone):
        return None  # NumPy says what is wrong
    if all(shape[axis] == 1 for axis in gone) and kind not in ("length", "squares"):
        planner.describe("view")
        return [x.view(x.array if whole or node.get("keepdims", 1) else x.array.squeeze(tuple(gone)))]
    order = sorted(range(lies.ndim), key=lambda axis: -lies.strides[axis])
    long = [axis for axis in order if shape[axis] > 1]
    taken = [at for at, axis in enumerate(long) if axis in gone]
    if not taken or taken[-1] - taken[0] >= len(taken):
        return None
    sizes = [shape[axis] for axis in long]
    outer, inner = prod(sizes[: taken[0]]), prod(sizes[taken[-1] + 1 :])
    rows, columns = prod(sizes[taken[0] : taken[-1]]), sizes[taken[-1]]
    if inner > 1 or whole:
        kernel = pixels.reduced(kind, (outer, rows, columns, inner), lies.dtype)
    else:
        kernel = pixels.reduced_rows(kind, outer, rows * columns, lies.dtype)
    if kernel is None:
        return None
    made = np.empty([1 if axis in gone else shape[axis] for axis in order], lies.dtype).transpose(np.argsort(order))
    if not whole and not node.get("keepdims", 1):
        made = made.squeeze(tuple(gone))
    return [planner.run_kernel(kind, kernel, planner.like(x, lies), None, made)]


def _pool(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """MaxPool and AveragePool of images and signals, and MaxPool of volumes."""
    x = operands[0]
    if isinstance(x, Symbol) and x.array.ndim == 5 and node.op == "MaxPool":
        return max_pool(planner, node, operands)
    if not isinstance(x, Symbol) or x.array.ndim not in (3, 4) or x.array.dtype.char not in "fd":
        return None
    if len([name for name in node.outputs if name]) > 1:
        return None
    windows = windows_of(node, x.array.shape[2:], tuple(map(int, node.get("kernel_shape"))))
    kind = "max_pool"
    if node.op == "AveragePool":
        kind = "average_pool"
        if node.get("count_include_pad", 0):
            kind = "padded_pool"
            counts = window_counts(node, windows, x.array.shape[2:])
            if (counts != prod(windows.kernel)).any():  # `ceil_mode` has added windows that go beyond the padding
                return None
    image = planner.image(x)
    outputs, kernel_size, strides, dilations = (both(pair, 1) for pair in (windows.outputs, *windows[:3]))
    begins = both(windows.begins, 0)
    kernel = pixels.pool(kind, image.shape, outputs, kernel_size, strides, dilations, begins, image.dtype)
    if kernel is None:
        return None
    out = channel_last((*x.array.shape[:2], *windows.outputs), x.array.dtype)
    return [planner.run_kernel(kind, kernel, image, None, out)]


def _softmax(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Softmax along one axis, which is the last in memory or becomes so; before version 13 along the last few axes."""
    x = operands[0]
    if not isinstance(x, Symbol) or x.array.dtype.char not in "fd" or not x.array.ndim:
        return None
    array = x.array
    axis = axis_of(node, array, -1)
    count = prod(array.shape[axis:]) if node.get("flattened", 0) else array.shape[axis]
    if count == prod(array.shape[axis:]) and (array.flags.c_contiguous or axis > 1):
        source, out = planner.matrix(x), np.empty(array.shape, array.dtype)
    elif node.get("flattened", 0):
        return None
    else:
        order = sorted(range(array.ndim), key=lambda each: (each == axis, -array.strides[each]))
        out = np.empty([array.shape[each] for each in order], array.dtype).transpose(np.argsort(order))
        source = planner.like(x, out)
    kernel = pixels.softmax(array.size // count, count, array.dtype)
    return None if kernel is None else [planner.run_kernel("softmax", kernel, source, None, out)]


def _layer_norm(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """LayerNormalization over the last axis, with constants."""
    x, scale, bias = (*operands, None)[:3]
    if not floats(x, scale) or not known(bias) or len([name for name in node.outputs if name]) > 1:
        return None
    assert isinstance(x, Symbol) and isinstance(scale, np.ndarray)
    array = x.array
    if axis_of(node, array, -1) != array.ndim - 1 or scale.size != array.shape[-1]:
        return None
    if isinstance(bias, np.ndarray) and bias.size != scale.size:
        return None
    rows = array.size // array.shape[-1]
    known_bias = bias if isinstance(bias, np.ndarray) else None
    kernel = pixels.layer_norm(rows, scale, known_bias, float(node.get("epsilon", 1e-5)), array.dtype)
    if kernel is None:
        return None
    return [planner.run_kernel("layer_norm", kernel, planner.matrix(x), None, np.empty(array.shape, array.dtype))]


def _group_norm(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """GroupNormalization and InstanceNormalization of images and signals, with constants."""
    x, scale, bias = operands
    if not floats(x, scale) or not isinstance(bias, np.ndarray):
        return None
    assert isinstance(x, Symbol) and isinstance(scale, np.ndarray)
    channels = x.array.shape[1] if x.array.ndim > 1 else 0
    groups = channels if node.op == "InstanceNormalization" else int(node.get("num_groups"))
    if groups < 1 or channels % groups or not scale.size == bias.size in (groups, channels):
        return None
    scale, bias = (np.repeat(each.reshape(-1), channels // each.size) for each in (scale, bias))
    return _grouped(planner, node, x, groups, scale, bias, float(node.get("epsilon", 1e-5)))


def _group_pattern(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand]:
    """GroupNorm: its parts at once, or one after the other where shapes are of something else."""
    x, scale, bias, first, second, *others = operands
    parts, results = node.get("parts"), None
    if isinstance(x, Symbol) and x.array.ndim in (3, 4) and all(map(known, operands[1:])) and floats(x, scale):
        found = _pattern_of(parts, x.array, [each for each in operands[1:] if isinstance(each, np.ndarray)])
        results = _grouped(planner, node, x, *found, float(parts[1].get("epsilon", 1e-5))) if found else None
    if results is not None:
        return results
    results, kernels = [x], []
    for part, more in zip(parts, [[first], [scale, bias], [second], *([each] for each in others)], strict=True):
        planner.describe()
        results = planner.lowered(part, [*results, *more])
        kernels.append(planner.described)
    planner.describe(*kernels)
    return planner.finish(node, results, [])


def _pattern_of(
    parts: list[Node], x: np.ndarray, constants: list[np.ndarray]
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Groups, and scale and bias of each channel of x, if the parts of a GroupNorm are one."""
    scale, bias, first, second, *others = constants
    apart = OPERATORS["Reshape"](parts[0], [x, first])[0]
    back = OPERATORS["Reshape"](parts[2], [np.empty(apart.shape, x.dtype), second])[0]
    groups, channels = apart.shape[1] if apart.ndim > 2 else 0, x.shape[1]
    if back.shape != x.shape or apart.shape[0] != x.shape[0] or not groups or channels % groups:
        return None
    if not scale.size == bias.size == groups:
        return None
    factor, shift = (np.repeat(each.reshape(-1), channels // groups) for each in (scale, bias))
    for part, each in zip(parts[3:], others, strict=True):
        values = channel_values(each, x.ndim, channels)
        if values is None:
            return None
        factor, shift = (factor * values, shift * values) if part.op == "Mul" else (factor, shift + values)
    return groups, factor, shift


def _grouped(
    planner: Planner, node: Node, x: Symbol, groups: int, scale: np.ndarray, bias: np.ndarray, epsilon: float
) -> list[Operand] | None:
    """Groups of channels of images or signals, normalised."""
    if x.array.ndim not in (3, 4):
        return None
    image, activation = planner.image(x), parse_activation(node.get("activation"), "")
    kernels = pixels.group_norm(image.shape, groups, scale, bias, epsilon, activation, image.dtype)
    if kernels is None:
        return None
    found = image
    for kernel in kernels[:-1]:
        made = planner.symbol(np.empty(kernel.out_shape, image.dtype)).value()
        planner.operate(kernel, found, None, made)
        found = made
    name = "instance_norm" if groups == x.array.shape[1] else "group_norm"
    return [planner.run_kernel(name, kernels[-1], image, found, channel_last(x.array.shape, image.dtype))]


def _branch(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """If, where shapes alone decide which of its graphs runs: as one node."""
    condition = operands[0]
    if not isinstance(condition, np.ndarray):
        return None
    graph, own = taken(node, condition)
    values: dict[str, Operand] = {"": None, **graph.constants}
    values |= dict(zip((spec.name for spec in graph.inputs), operands[own], strict=True))
    kernels, place = [], "+".join(node.outputs)
    for part in graph.nodes:
        part = part.copy()
        inputs = [values[name] for name in part.inputs]
        # layers are kept by names, which are those of values in here alone
        part.inputs, made = [f"{place}/{name}" if name else "" for name in part.inputs], part.outputs
        part.outputs = [f"{place}/{name}" if name else "" for name in made]
        planner.describe()
        results = planner.lowered(part, inputs)
        kernels.append(planner.described)
        values |= dict(zip(made, results, strict=False))
    planner.describe(*kernels)
    return [values[spec.name] for spec in graph.outputs]


LOWERINGS: dict[str, Lowering] = {
    **ARITHMETIC,
    **MOVES,
    **dict.fromkeys(_REDUCED, _reduce),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), recurrent),
    "Affine": _affine,
    "AveragePool": _pool,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": _product,
    "GroupNorm": _group_pattern,
    "GroupNormalization": _group_norm,
    "If": _branch,
    "InstanceNormalization": _group_norm,
    "InvertedResidual": chain,
    "LayerNormalization": _layer_norm,
    "MatMul": _product,
    "MaxPool": _pool,
    "Separable": chain,
    "Softmax": _softmax,
}
