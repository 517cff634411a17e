"""The specification: what each operation means, in plain NumPy.

Every function sums in float64, in the order in which all kernels sum (bias first, then the taps in the order kh, kw,
then input channels ascending; the matrix products of `pointwise` and `conv` leave the last to BLAS), adds the residual,
applies the activation and rounds once to the type of `x`. Taps that fall into the padding are left out, not multiplied
by zero: infinite weights next to a border do no harm.

Images are ``(N, H, W, C)`` of float32 or float64. `bias` ``(Cout,)`` and `residual` (the shape of the output) may be
None. Nothing is validated: that happened where the geometry was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .epilogue import Activation
from .fused_geometry import InvertedResidualGeometry, SeparableGeometry
from .geometry import ConvGeometry

__all__ = ["Part", "activate", "conv", "depthwise", "inverted_residual", "pointwise", "separable"]

#: Weights, bias and activation of one step of a fused operation.
Part = tuple[np.ndarray, np.ndarray | None, Activation]

_erfc = np.frompyfunc(math.erfc, 1, 1)


def depthwise(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    residual: np.ndarray | None,
    geometry: ConvGeometry,
    activation: Activation,
) -> np.ndarray:
    """``out[n, i, j, c * M + m] = sum over kh, kw of x[n, i', j', c] * w[kh, kw, c, m]``.

    Here ``i' = i * stride_h - pad_top + kh * dilation_h``, and `j'` likewise.

    Parameters
    ----------
    x : (N, H, W, C)
    w : (KH, KW, C) or (KH, KW, C, M)
    bias, residual, geometry, activation
        See the head of this module.

    Returns
    -------
    (N, OH, OW, C * M) ndarray of x's type

    Examples
    --------
    >>> g = ConvGeometry.depthwise((1, 1, 4, 1), (1, 2, 1))
    >>> x, w = np.array([1.0, 2, 4, 8]).reshape(1, 1, 4, 1), np.ones((1, 2, 1))
    >>> depthwise(x, w, None, None, g, Activation()).ravel()
    array([ 3.,  6., 12.])
    """
    w = w.reshape(geometry.w_shape).astype(np.float64)
    total = _bias(bias, geometry)
    split = total.reshape(*geometry.out_shape[:3], geometry.in_channels, geometry.multiplier)
    with np.errstate(all="ignore"):
        for kh, kw, out_rows, out_columns, rows, columns in _taps(geometry):
            split[:, out_rows, out_columns] += x[:, rows, columns, :, None].astype(np.float64) * w[kh, kw]
    return _finish(total, residual, activation, x.dtype)


def pointwise(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    residual: np.ndarray | None,
    geometry: ConvGeometry,
    activation: Activation,
) -> np.ndarray:
    """``out[n, i, j, o] = sum over c of x[n, i, j, c] * w[c, o]``.

    Parameters
    ----------
    x : (N, H, W, Cin)
    w : (Cin, Cout)
    bias, residual, geometry, activation
        See the head of this module.

    Returns
    -------
    (N, H, W, Cout) ndarray of x's type
    """
    total = _bias(bias, geometry)
    with np.errstate(all="ignore"):
        total += x.astype(np.float64) @ w.astype(np.float64)
    return _finish(total, residual, activation, x.dtype)


def conv(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    residual: np.ndarray | None,
    geometry: ConvGeometry,
    activation: Activation,
) -> np.ndarray:
    """``out[n, i, j, o] = sum over kh, kw, c of x[n, i', j', first + c] * w[kh, kw, c, o]``.

    `i'` and `j'` as in `depthwise`; `first` is the first input channel of the group that `o` belongs to.

    Parameters
    ----------
    x : (N, H, W, Cin)
    w : (KH, KW, Cin / groups, Cout)
    bias, residual, geometry, activation
        See the head of this module.

    Returns
    -------
    (N, OH, OW, Cout) ndarray of x's type
    """
    w = w.astype(np.float64)
    total = _bias(bias, geometry)
    inputs, outputs = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    with np.errstate(all="ignore"):
        for kh, kw, out_rows, out_columns, rows, columns in _taps(geometry):
            image = x[:, rows, columns].astype(np.float64)
            for group in range(geometry.groups):
                read = slice(group * inputs, (group + 1) * inputs)
                written = slice(group * outputs, (group + 1) * outputs)
                total[:, out_rows, out_columns, written] += image[..., read] @ w[kh, kw, :, written]
    return _finish(total, residual, activation, x.dtype)


def separable(
    x: np.ndarray, first: Part, second: Part, residual: np.ndarray | None, geometry: SeparableGeometry
) -> np.ndarray:
    """`pointwise` of `depthwise`, the image between them rounded to the type of `x`.

    Parameters
    ----------
    x : (N, H, W, C)
    first, second : (weights, bias, activation)
        Of the depthwise and of the pointwise step.
    residual, geometry
        See the head of this module.

    Returns
    -------
    (N, OH, OW, Cout) ndarray of x's type
    """
    between = depthwise(x, first[0], first[1], None, geometry.depthwise, first[2])
    return pointwise(between, second[0], second[1], residual, geometry.pointwise, second[2])


def inverted_residual(
    x: np.ndarray,
    first: Part,
    second: Part,
    third: Part,
    residual: np.ndarray | None,
    geometry: InvertedResidualGeometry,
) -> np.ndarray:
    """`separable` of `pointwise`, the image between them rounded to the type of `x`.

    Parameters
    ----------
    x : (N, H, W, C)
    first, second, third : (weights, bias, activation)
        Of the expanding, the depthwise and the projecting step.
    residual, geometry
        See the head of this module.

    Returns
    -------
    (N, OH, OW, Cout) ndarray of x's type
    """
    between = pointwise(x, first[0], first[1], None, geometry.expand, first[2])
    return separable(between, second, third, residual, geometry.separable)


def activate(values: np.ndarray, activation: Activation) -> np.ndarray:
    """`activation` of float64 `values`, as the table in `epilogue` defines it.

    NaN stays NaN; a clamp leaves -0.0 as it is.

    Parameters
    ----------
    values : float64 ndarray
    activation : Activation

    Returns
    -------
    float64 ndarray

    Examples
    --------
    >>> from dwcpu.epilogue import parse_activation
    >>> activate(np.array([-1.0, 0.5, 9.0]), parse_activation("relu6", "example"))
    array([0. , 0.5, 6. ])
    """
    with np.errstate(all="ignore"):
        values = _clamp(values, activation.low, activation.high)
        match activation.name:
            case "hardsigmoid":
                return _clamp(values + 3.0, 0.0, 6.0) * (1.0 / 6.0)
            case "hardswish":
                return values * (_clamp(values + 3.0, 0.0, 6.0) * (1.0 / 6.0))
            case "leaky_relu":
                return np.where(values < 0, activation.alpha * values, values)
            case "sigmoid":
                return 1.0 / (1.0 + np.exp(-values))
            case "silu":
                return values / (1.0 + np.exp(-values))
            case "gelu":
                # 1 + erf(z) written as erfc(-z), which keeps its digits where erf(z) is near -1.
                # Minus infinity has zero, its limit, not the product of both.
                half_erfc = 0.5 * np.asarray(_erfc(-values / math.sqrt(2.0)), dtype=np.float64)
                return np.maximum(values, -1e300) * half_erfc
            case _:
                return values


def _clamp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.where(values < low, low, np.where(values > high, high, values))


def _bias(bias: np.ndarray | None, geometry: ConvGeometry) -> np.ndarray:
    """The sums as they start: float64 ``(N, OH, OW, Cout)``, everywhere the bias."""
    total = np.zeros(geometry.out_shape)
    if bias is not None:
        total[...] = bias  # not added: -0 stays -0
    return total


def _finish(total: np.ndarray, residual: np.ndarray | None, activation: Activation, dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        if residual is not None:
            total = total + residual
        return activate(total, activation).astype(dtype)


def _taps(geometry: ConvGeometry) -> Iterator[tuple[int, int, slice, slice, slice, slice]]:
    """For each tap that meets the image: kh, kw, the outputs that it reaches, and the inputs that they read."""
    for kh in range(geometry.kernel_h):
        offset = kh * geometry.dilation_h - geometry.pad_top
        out_rows, rows = _reach(offset, geometry.stride_h, geometry.height, geometry.out_height)
        for kw in range(geometry.kernel_w):
            offset = kw * geometry.dilation_w - geometry.pad_left
            out_columns, columns = _reach(offset, geometry.stride_w, geometry.width, geometry.out_width)
            yield kh, kw, out_rows, out_columns, rows, columns


def _reach(offset: int, stride: int, size: int, outputs: int) -> tuple[slice, slice]:
    """Along one axis: outputs `i` and inputs ``i * stride + offset``, as far as the input is inside the image."""
    begin = max(0, -(offset // stride))
    end = min(outputs, (size - 1 - offset) // stride + 1)
    if end <= begin:
        return slice(0, 0), slice(0, 0)
    start = begin * stride + offset
    return slice(begin, end), slice(start, start + (end - begin - 1) * stride + 1, stride)
