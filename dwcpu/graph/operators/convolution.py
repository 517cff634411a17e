"""Convolutions, on arrays: what plans do with prepared layers (`planner`), for one call.

Nodes that only passes make:

Conv with an attribute `activation` and a fourth input
    The residual that is added before the activation.
Separable, InvertedResidual
    Two or three Convs in a row: `attributes["parts"]` are their nodes, the inputs are those of all of them.
GroupNorm
    Reshape, InstanceNormalization, Reshape, and maybe Mul, Add or both: the same.
Gemm and MatMul with an attribute `activation`, and MatMul with a third input
    The bias.
Activation, Affine
    See `elementwise` and `reducing`.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ... import ops
from ..ir import Node
from .pooling import Windows, windows_of
from .registry import general, like

__all__ = ["both", "conv_windows", "transposed_shape"]

#: Places in images are computed in int64.
_FARTHEST = 2**61


def both(pair: tuple[int, ...], default: int) -> tuple[int, int]:
    """A number for each of two axes of pixels, of signals too."""
    return (pair[0], pair[1]) if len(pair) == 2 else (default, pair[0])


def conv_windows(node: Node, x: np.ndarray, w: np.ndarray) -> Windows:
    """The windows of a Conv.

    Raises
    ------
    ValueError
        If x, w and the attributes do not fit one another.
    """
    if w.ndim != x.ndim or x.ndim < 3:
        raise ValueError(f"Conv {node.name!r}: images of shape {x.shape} and weights of shape {w.shape} do not fit")
    groups = int(node.get("group", 1))
    if groups < 1 or w.shape[0] % groups:
        raise ValueError(f"Conv {node.name!r}: group is {groups}, which does not divide weights of shape {w.shape}")
    if w.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"Conv {node.name!r}: images of shape {x.shape} have {x.shape[1]} channels, but weights of shape {w.shape} "
            f"with group {groups} take {w.shape[1] * groups}; the channels are axis 1 of the images"
        )
    kernel = node.get("kernel_shape")
    if kernel is not None and tuple(kernel) != w.shape[2:]:
        raise ValueError(f"Conv {node.name!r}: kernel_shape is {tuple(kernel)}, but the weights have {w.shape[2:]}")
    return windows_of(node, x.shape[2:], w.shape[2:])


@general("Conv")
def conv(node: Node, x: np.ndarray, w: np.ndarray, bias: Any = None) -> np.ndarray:
    """One or two axes of pixels on our kernels; more of them one slice after the other."""
    windows = conv_windows(node, x, w)
    groups = int(node.get("group", 1))
    if x.dtype.kind == "f" and x.dtype.itemsize < 4:
        wide = [None if array is None else array.astype(np.float32) for array in (x, w, bias)]
        return conv(node, *wide).astype(x.dtype)
    if x.ndim > 4:
        return _by_planes(node, windows, x, w, bias)
    pads = tuple(zip(windows.begins, windows.ends, strict=True))
    if min(min(pair) for pair in pads) < 0:
        raise ValueError(f"Conv {node.name!r}: padding {pads} is negative; cut the image first")
    strides: Any = windows.strides
    dilations: Any = windows.dilations
    if x.ndim == 3:
        x, w = x[:, :, None], w[:, :, None]
        strides, dilations, pads = (1, *strides), (1, *dilations), ((0, 0), *pads)
    out = ops.conv2d(
        x, np.ascontiguousarray(w.transpose(2, 3, 1, 0)), bias, stride=strides, padding=pads, dilation=dilations,
        groups=groups, layout="NCHW",
    )  # fmt: skip
    return out if len(windows.kernel) == 2 else out[:, :, 0]


def _by_planes(node: Node, windows: Windows, x: np.ndarray, w: np.ndarray, bias: Any) -> np.ndarray:
    """A sum over the taps of the first axis of pixels, each a convolution of the others."""
    out = np.zeros((x.shape[0], w.shape[0], *windows.outputs), x.dtype)
    if bias is not None:
        out += bias.reshape(-1, *(1,) * (x.ndim - 2))
    axes = slice(1, None)
    flat = Node(
        "Conv", node.name, [], [],
        {
            "group": node.get("group", 1), "strides": windows.strides[axes], "dilations": windows.dilations[axes],
            "pads": (*windows.begins[axes], *windows.ends[axes]),
        },
    )  # fmt: skip
    for plane in range(windows.outputs[0]):
        for tap in range(windows.kernel[0]):
            at = plane * windows.strides[0] + tap * windows.dilations[0] - windows.begins[0]
            if 0 <= at < x.shape[2]:
                out[:, :, plane] += conv(flat, np.ascontiguousarray(x[:, :, at]), np.ascontiguousarray(w[:, :, tap]))
    return out


def transposed_shape(
    node: Node, x: np.ndarray, w: np.ndarray, bias: Any = None
) -> tuple[tuple[int, ...], tuple[int, ...], Any, Any]:
    """Sizes of what a ConvTranspose gives, how much of its beginning is cut off, strides and dilations.

    Raises
    ------
    ValueError
        If x, w, the bias and the attributes do not fit one another.
    """
    groups = int(node.get("group", 1))
    if w.ndim != x.ndim or x.ndim < 3 or w.shape[0] != x.shape[1] or groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"ConvTranspose {node.name!r}: images of shape {x.shape} do not fit weights of shape {w.shape} with "
            f"group {groups}"
        )
    if bias is not None and bias.shape != (w.shape[1] * groups,):
        raise ValueError(
            f"ConvTranspose {node.name!r}: the bias has shape {bias.shape}; it must have one number for each of the "
            f"{w.shape[1] * groups} channels of the result"
        )
    axes = x.ndim - 2
    strides, dilations = (tuple(map(int, node.get(name) or [1] * axes)) for name in ("strides", "dilations"))
    extra = tuple(map(int, node.get("output_padding") or [0] * axes))
    pads = [int(pad) for pad in node.get("pads") or [0] * (2 * axes)]
    if (
        not len(strides) == len(dilations) == len(extra) == axes
        or len(pads) != 2 * axes
        or min(*strides, *dilations) < 1
    ):
        raise ValueError(
            f"ConvTranspose {node.name!r}: strides, dilations, pads or output_padding do not fit {x.shape}"
        )
    full = [
        step * (size - 1) + more + (taps - 1) * apart + 1
        for size, taps, step, apart, more in zip(x.shape[2:], w.shape[2:], strides, dilations, extra, strict=True)
    ]
    auto, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(x.shape[2:], strides, strict=True)]
    if wanted is None:
        sizes = [size - before - after for size, before, after in zip(full, pads[:axes], pads[axes:], strict=True)]
        begins = pads[:axes]
    else:
        sizes = [int(size) for size in wanted][-axes:]
        cut = [size - want for size, want in zip(full, sizes, strict=True)]
        begins = [total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in cut]
    if max(*full, *map(abs, begins)) >= _FARTHEST:
        raise ValueError(f"ConvTranspose {node.name!r}: it reaches {max(full)} pixels; 2**61 is the limit")
    if min(sizes) < 1:
        raise ValueError(f"ConvTranspose {node.name!r}: nothing would be left of images of shape {x.shape}")
    shape = (x.shape[0], w.shape[1] * groups, *sizes)
    return shape, tuple(begins), strides, dilations


def scatter(
    columns: np.ndarray, begins: tuple[int, ...], strides: Any, dilations: Any, bias: Any, out: np.ndarray
) -> None:
    """Add up what every pixel gives to the outputs around it.

    Parameters
    ----------
    columns : (N, *pixels, *taps, Cout)
        The products of pixels and weights.
    begins, strides, dilations
        As `transposed_shape` gives them.
    bias : (Cout,) or None
    out : (N, Cout, *outputs)
    """
    axes = len(begins)
    sizes, kernel = columns.shape[1 : 1 + axes], columns.shape[1 + axes : 1 + 2 * axes]
    target = np.moveaxis(out, 1, -1)
    target[...] = 0 if bias is None else bias
    for tap in np.ndindex(*kernel):
        into: list[Any] = []
        source: list[Any] = []
        for axis in range(axes):
            offset = tap[axis] * dilations[axis] - begins[axis]
            step = strides[axis]
            first = max(0, -(offset // step)) if offset < 0 else 0
            last = min(sizes[axis], (out.shape[2 + axis] - 1 - offset) // step + 1)
            if last <= first:
                break
            start = first * step + offset
            into.append(slice(start, start + (last - first - 1) * step + 1, step))
            source.append(slice(first, last))
        else:
            target[(slice(None), *into)] += columns[(slice(None), *source, *tap)]


@general("ConvTranspose")
def conv_transpose(node: Node, x: np.ndarray, w: np.ndarray, bias: Any = None) -> np.ndarray:
    """A product with all weights at once, then `scatter`."""
    shape, begins, strides, dilations = transposed_shape(node, x, w, bias)
    groups, kernel = int(node.get("group", 1)), w.shape[2:]
    each = x.shape[1] // groups
    pixels = np.moveaxis(x, 1, -1).reshape(*x.shape[:1], *x.shape[2:], groups, 1, each)
    matrices = np.moveaxis(w.reshape(groups, each, *w.shape[1:]), 2, -1).reshape(groups, each, prod(w.shape[1:]))
    columns = np.matmul(pixels, matrices)[..., 0, :].reshape(*pixels.shape[:-2], *kernel, w.shape[1])
    columns = np.moveaxis(columns, x.ndim - 1, -2).reshape(x.shape[0], *x.shape[2:], *kernel, shape[1])
    out = like(x, shape)
    scatter(columns, begins, strides, dilations, bias, out)
    return out


@general("Separable", "InvertedResidual", "GroupNorm")
def chain(node: Node, x: np.ndarray, *weights: Any) -> np.ndarray:
    """Never: plans run these on kernels, and other ways of running do without passes."""
    raise ValueError("only plans can run this")
