"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import ArrayLike

from . import arrays
from .epilogue import real_number

__all__ = ["fold_batchnorm"]


def fold_batchnorm(
    w: ArrayLike,
    bias: ArrayLike | None,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    mean: ArrayLike,
    var: ArrayLike,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias that do a convolution and the batch normalisation after it in one go.

    ``gamma * (conv(x, w) + bias - mean) / sqrt(var + eps) + beta`` is ``conv(x, w') + bias'``.

    Parameters
    ----------
    w : ndarray
        Weights of any operation of this package, of float32 or float64. With four axes they are (KH, KW, C, M), for
        `mean` of C * M entries, or (KH, KW, Cin / groups, Cout), for Cout entries; where C is 1 that is the same. With
        three they are (KH, KW, C), with two (Cin, Cout) or (K, C): one entry for each element of the last axis. For
        the (K, C, M) of a signal with a multiplier, fold ``w[None]`` and take ``[0]`` of the result.
    bias : (Cout,) ndarray or None
    gamma, beta : (Cout,) ndarray or None
        None for a normalisation that does not scale or shift.
    mean, var : (Cout,) ndarray
    eps : float
        Finite.

    Returns
    -------
    w', bias' : ndarray
        Of the type of `w`, computed in float64 and rounded once.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or an array the wrong length, or ``var + eps`` is not positive.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> one, four = np.ones(2, np.float32), np.full(2, 4, np.float32)
    >>> dwcpu.fold_batchnorm(np.ones((1, 2), np.float32), None, one, one, mean=one, var=four, eps=0.0)
    (array([[0.5, 0.5]], dtype=float32), array([0.5, 0.5], dtype=float32))
    """
    operation = "fold_batchnorm"
    weights = arrays.floating(w, "w", operation)
    epsilon = real_number(eps, "eps", operation)
    if not isfinite(epsilon):
        raise ValueError(f"{operation}: eps is {epsilon}; it must be finite; give a small positive number")
    mean64 = _vector(mean, "mean", operation)
    outputs = mean64.size
    if weights.ndim not in (2, 3, 4):
        raise ValueError(
            f"{operation}: w has shape {weights.shape}; it must have 2, 3 or 4 axes; give the weights of an operation"
        )
    # Four axes may be those of a standard convolution, whose output channels are the last one, or depthwise ones with a
    # multiplier, whose output channels are the last two, as c * M + m. The length tells; it tells nothing only where
    # there is one input channel, and there both say the same. Three axes are never (K, C, M): a normalisation of W * C
    # channels would pass for the right one.
    pair = weights.ndim == 4 and outputs == weights.shape[2] * weights.shape[3]
    if not pair and outputs != weights.shape[-1]:
        wanted = f"{weights.shape[-1]}"
        if weights.ndim == 4 and weights.shape[2] != 1:
            wanted += f", or {weights.shape[2] * weights.shape[3]} for depthwise weights with a multiplier"
        raise ValueError(
            f"{operation}: mean has {outputs} entries but w has shape {weights.shape}; there must be one for each "
            f"output channel; give {wanted}{_turned(weights.shape, outputs)}"
        )
    var64 = _vector(var, "var", operation, outputs)
    gamma64, beta64, bias64 = (
        np.full(outputs, default) if values is None else _vector(values, what, operation, outputs)
        for values, what, default in ((gamma, "gamma", 1.0), (beta, "beta", 0.0), (bias, "bias", 0.0))
    )
    if not np.all(var64 + epsilon > 0):
        raise ValueError(
            f"{operation}: var + eps is not positive everywhere (eps is {epsilon}); a variance is at least 0; check var"
        )
    scale = gamma64 / np.sqrt(var64 + epsilon)
    shape = weights.shape[-2:] if pair else weights.shape[-1:]
    dtype = arrays.native_dtype(weights)
    folded = np.ascontiguousarray((weights * scale.reshape(shape)).astype(dtype))
    return folded, ((bias64 - mean64) * scale + beta64).astype(dtype)


def _turned(shape: tuple[int, ...], outputs: int) -> str:
    """What probably happened where the first axis of weights is that of their outputs."""
    if shape[0] != outputs:
        return ""
    if len(shape) == 4 and shape[1] == 1:
        return "; if these are PyTorch's depthwise weights, (C, 1, KH, KW), pass w[:, 0].transpose(1, 2, 0)"
    axes = {2: "(Cout, Cin), pass w.T", 3: "(C, KH, KW), pass w.transpose(1, 2, 0)"}
    return f"; if these are weights {axes.get(len(shape), '(Cout, Cin, KH, KW), pass w.transpose(2, 3, 1, 0)')}"


def _vector(values: ArrayLike, what: str, operation: str, length: int | None = None) -> np.ndarray:
    vector = arrays.floating(values, what, operation)
    if vector.ndim != 1 or (length is not None and vector.size != length):
        wanted = "one axis" if length is None else f"shape ({length},), like mean"
        raise ValueError(f"{operation}: {what} has shape {vector.shape}; it must have {wanted}; reshape {what}")
    return vector.astype(np.float64)
