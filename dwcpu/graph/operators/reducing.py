"""Operators that sum over axes: reductions, softmax, normalisations, matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Node
from .moving import axis_of, integers, whole_axes
from .registry import check_size, into, like

Arrays = list[Any]

# --- reductions -------------------------------------------------------------------------------------------------------


def axes_of(node: Node, x: np.ndarray, axes: Any) -> tuple[int, ...]:
    """Axes that go away, or become 1."""
    if axes is None or axes.size == 0:
        return () if node.get("noop_with_empty_axes", 0) else tuple(range(x.ndim))
    return tuple(sorted(whole_axes(node, integers(axes), x.ndim)))


def _reduced(node: Node, x: np.ndarray, axes: Any = None) -> np.ndarray:
    gone = axes_of(node, x, axes)
    sizes = tuple(1 if axis in gone else size for axis, size in enumerate(x.shape))
    if node.get("keepdims", 1):
        return like(x, sizes)
    return np.empty(tuple(size for axis, size in enumerate(x.shape) if axis not in gone), x.dtype)


_REDUCTIONS = {
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}


def _bound(op: str, dtype: np.dtype) -> Any:
    """The largest of no elements, or the smallest."""
    if dtype.kind == "b":
        return op == "ReduceMin"
    if dtype.kind == "f":
        return -np.inf if op == "ReduceMax" else np.inf
    limits = np.iinfo(dtype)
    return limits.min if op == "ReduceMax" else limits.max


@into(*_REDUCTIONS, "ReduceL1", "ReduceL2", "ReduceSumSquare", empty=_reduced, shaping=(1,))
def reduce(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Over some axes, or all. Squares of float16 soon are too large for it, when their root is not."""
    x, out = arrays[0], outs[0]
    if x.dtype == np.float16:
        wide = np.empty(out.shape, np.float32)
        reduce(node, [x.astype(np.float32), *arrays[1:]], [wide])
        np.copyto(out, wide, casting="same_kind")
        return
    gone = axes_of(node, x, arrays[1] if len(arrays) > 1 else None)
    if node.op in ("ReduceL2", "ReduceSumSquare"):
        x = x * x
    elif node.op == "ReduceL1":
        x = np.abs(x)
    keep = bool(node.get("keepdims", 1))
    if node.op == "ReduceMean" and (x.dtype.kind not in "fc" or x.size == 0):
        count = x.size // max(out.size, 1)
        np.copyto(out, np.divide(np.sum(x, gone, keepdims=keep), count), casting="unsafe")
        return
    function: Any = _REDUCTIONS.get(node.op, np.sum)
    extra = {}
    if x.size == 0 and node.op in ("ReduceMax", "ReduceMin"):
        extra["initial"] = _bound(node.op, x.dtype)
    function(x, gone, out=out, keepdims=keep, **extra)
    if node.op == "ReduceL2":
        np.copyto(out, np.sqrt(out), casting="unsafe")


@into("ArgMax", "ArgMin", empty=lambda node, x: _arg_empty(node, x))
def arg_max(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Where along an axis the largest or smallest element is: the first such place, or the last."""
    x = arrays[0]
    axis = axis_of(node, x)
    find = np.argmax if node.op == "ArgMax" else np.argmin
    last = node.get("select_last_index", 0)
    found = find(np.flip(x, axis) if last else x, axis)
    found = x.shape[axis] - 1 - found if last else found
    np.copyto(outs[0], np.expand_dims(found, axis) if node.get("keepdims", 1) else found)


def _arg_empty(node: Node, x: np.ndarray) -> np.ndarray:
    sizes = list(x.shape)
    axis = axis_of(node, x)
    sizes[axis : axis + 1] = [1] if node.get("keepdims", 1) else []
    return np.empty(sizes, np.int64)


@into("Softmax", "LogSoftmax", empty=lambda node, x: like(x))
def softmax(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Along one axis, the largest element subtracted first; before version 13 along all axes from that one on."""
    x, out = arrays[0], outs[0]
    if not x.size:
        return
    first = axis_of(node, x, -1) if x.ndim else 0
    axes = tuple(range(first, x.ndim)) if node.get("flattened", 0) else (first,) if x.ndim else ()
    np.subtract(x, x.max(axes, keepdims=True), out=out)
    if node.op == "Softmax":
        np.exp(out, out=out)
        np.divide(out, out.sum(axes, keepdims=True), out=out)
    else:
        np.subtract(out, np.log(np.exp(out).sum(axes, keepdims=True)), out=out)


# --- normalisation ----------------------------------------------------------------------------------------------------


def _normalise(x: np.ndarray, axes: tuple[int, ...], epsilon: float, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x - mean) / sqrt(variance + epsilon) over some axes; gives mean and 1 / deviation."""
    mean = x.mean(axes, keepdims=True)
    np.subtract(x, mean, out=out)
    variance = np.square(out).mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + x.dtype.type(epsilon))
    np.multiply(out, inverse, out=out)
    return mean, inverse


def _layer_empty(node: Node, x: np.ndarray, *others: Any) -> list[np.ndarray]:
    first = axis_of(node, x, -1)
    sizes = tuple(size if axis < first else 1 for axis, size in enumerate(x.shape))
    whole = np.broadcast_shapes(x.shape, others[0].shape)  # a scale may widen an axis of size 1
    return [like(x, whole), like(x, sizes), like(x, sizes)][: max(1, len(node.outputs))]


@into("LayerNormalization", empty=_layer_empty)
def layer_normalization(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Over the axes from `axis` on."""
    x, scale, bias = (*arrays, None)[:3]
    out = outs[0]
    axes = tuple(range(axis_of(node, x, -1), x.ndim))
    normal = out if out.shape == x.shape else like(x)
    statistics = _normalise(x, axes, node.get("epsilon", 1e-5), normal)
    np.multiply(normal, scale, out=out)
    if bias is not None:
        np.add(out, bias, out=out)
    for target, value in zip(outs[1:], statistics, strict=False):
        np.copyto(target, value)


def _channels(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One value a channel, as it broadcasts against `x`."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


@into("InstanceNormalization", empty=lambda node, x, *others: like(x))
def instance_normalization(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Over the pixels of every channel of every image."""
    x, scale, bias = arrays
    _normalise(x, tuple(range(2, x.ndim)), node.get("epsilon", 1e-5), outs[0])
    np.multiply(outs[0], _channels(scale, x), out=outs[0])
    np.add(outs[0], _channels(bias, x), out=outs[0])


@into("GroupNormalization", empty=lambda node, x, *others: like(x))
def group_normalization(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Over the pixels and channels of every group of channels."""
    x, scale, bias = arrays
    groups = int(node.get("num_groups"))
    if scale.size == groups != x.shape[1]:  # before version 21: one number for each group
        scale, bias = (np.repeat(each.reshape(-1), x.shape[1] // groups) for each in (scale, bias))
    apart = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    _normalise(x.reshape(apart), tuple(range(2, len(apart))), node.get("epsilon", 1e-5), outs[0].reshape(apart))
    np.multiply(outs[0], _channels(scale, x), out=outs[0])
    np.add(outs[0], _channels(bias, x), out=outs[0])


def _check_batchnorm(node: Node) -> str | None:
    more = len([name for name in node.outputs if name]) > 1 and not node.get("training_mode", 0)
    return "more than one output, which only training gives" if more else None


def _batchnorm_empty(node: Node, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *others: Any) -> list[np.ndarray]:
    return [like(x), *(like(each) for each in others)][: len(node.outputs)]


@into("BatchNormalization", empty=_batchnorm_empty, check=_check_batchnorm)
def batch_normalization(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """With the statistics that are given: `passes.affine` moves it into the convolution before it.

    With `training_mode` of x itself: weights, which are constants, are standardised so.
    """
    x, scale, bias, mean, variance = arrays
    if node.get("training_mode", 0):
        axes, keep = tuple(axis for axis in range(x.ndim) if axis != 1), node.get("momentum", 0.9)
        given = mean, variance
        mean, variance = np.mean(x, axes, dtype=np.float64), np.var(x, axes, dtype=np.float64)
        for out, old, new in zip(outs[1:], given, (mean, variance), strict=False):
            np.copyto(out, old * keep + new * (1 - keep), casting="unsafe")
    factor, shift = affine_of(scale, bias, mean, variance, node.get("epsilon", 1e-5))
    np.multiply(x, _channels(factor.astype(x.dtype), x), out=outs[0])
    np.add(outs[0], _channels(shift.astype(x.dtype), x), out=outs[0])


def affine_of(
    scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """A batch normalisation as factor and shift of every channel, in float64."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return factor, bias - mean.astype(np.float64) * factor


@into("Affine", empty=lambda node, x, *others: like(x))
def affine(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """A factor and a shift for every channel: what is left of a batch normalisation that has no convolution."""
    x, factor, shift = arrays
    np.multiply(x, _channels(factor, x), out=outs[0])
    np.add(outs[0], _channels(shift, x), out=outs[0])


# --- matrix products --------------------------------------------------------------------------------------------------


def _product_empty(node: Node, a: np.ndarray, b: np.ndarray, c: Any = None) -> np.ndarray:
    left, right = a.shape if a.ndim > 1 else (1, *a.shape), b.shape if b.ndim > 1 else (*b.shape, 1)
    if left[-1] != right[-2]:
        raise ValueError(f"MatMul {node.name!r}: tensors of shapes {a.shape} and {b.shape} cannot be multiplied")
    sizes = [*np.broadcast_shapes(left[:-2], right[:-2])]
    sizes += [left[-2]] if a.ndim > 1 else []
    sizes += [right[-1]] if b.ndim > 1 else []
    check_size(tuple(sizes), a.dtype)
    return np.empty(sizes, a.dtype)


@into("MatMul", empty=_product_empty)
def matmul(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """As `numpy.matmul`; the third input, which only a pass gives it, is added."""
    a, b, c = (*arrays, None)[:3]
    if outs[0].ndim:
        np.matmul(a, b, out=outs[0])
    else:
        np.copyto(outs[0], np.matmul(a, b))
    if c is not None:
        np.add(outs[0], c, out=outs[0])


def gemm_operands(node: Node, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two matrices, transposed where the attributes say so."""
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"Gemm {node.name!r}: matrices of shapes {a.shape} and {b.shape} cannot be multiplied")
    return a, b


def _gemm_empty(node: Node, a: np.ndarray, b: np.ndarray, c: Any = None) -> np.ndarray:
    left, right = gemm_operands(node, a, b)
    check_size((left.shape[0], right.shape[1]), a.dtype)
    return np.empty((left.shape[0], right.shape[1]), a.dtype)


@into("Gemm", empty=_gemm_empty)
def gemm(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """alpha A B + beta C."""
    a, b, c = (*arrays, None)[:3]
    out = outs[0]
    left, right = gemm_operands(node, a, b)
    np.copyto(out, left @ right)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha != 1:
        np.copyto(out, out * alpha, casting="unsafe")
    if c is not None:
        np.copyto(out, out + (c if beta == 1 else c * beta), casting="unsafe")


@into("LRN", empty=lambda node, x: like(x))
def local_response_normalization(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """x over a power of the squares of neighbouring channels."""
    x, out = arrays[0], outs[0]
    size, channels = int(node.get("size")), x.shape[1]
    squares, total = np.square(x), np.zeros_like(x)
    for offset in range(max(-((size - 1) // 2), -channels), min(size - (size - 1) // 2, channels)):
        first, last = max(0, -offset), min(channels, channels - offset)
        if first < last:
            total[:, first:last] += squares[:, first + offset : last + offset]
    kind = x.dtype.type
    total *= kind(node.get("alpha", 1e-4) / size)
    total += kind(node.get("bias", 1.0))
    np.divide(x, np.power(total, kind(node.get("beta", 0.75)), out=total), out=out)
