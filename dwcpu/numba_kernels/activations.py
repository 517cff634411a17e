"""Activations that are more than a clamp, applied in place to values that a kernel has just written.

Assumes: a rows x columns block, rows `row_stride` reals apart. Guarantees: each element is a function of itself alone,
made of correctly rounded operations in a fixed order, so that vectors of any width and both kernel families give the
same bits; NaN stays NaN. The loops are scalar: LLVM vectorises them, having no calls or branches to mind.

The sigmoid family rests on exp(v) for v <= 0: v = n ln 2 + r, the Taylor series of exp(r), times 2^n in two factors, so
that results below the smallest normal number are reached without a detour through zero.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, log, sqrt
from typing import Any

import numpy as np
from numba import types

from dwcpu.abi import ACTIVATION_CODES, ERFC_CENTRE, ERFC_TERMS, EXP_LOWEST, EXP_TERMS, LN2
from dwcpu.numba_kernels.memory import REAL
from dwcpu.numba_kernels.scalar import fma, polynomial, power_of_two
from dwcpu.numba_kernels.target import compile_kernel, part

__all__ = ["address"]


def _functions(dtype: np.dtype) -> dict[str, Callable]:
    """Scalar activation functions (v, alpha) -> value of one dtype, by name."""
    T = dtype.type
    zero, half, one, two, three, six, sixth = (T(v) for v in (0, 0.5, 1, 2, 3, 6, 1 / 6))
    lowest, inverse_ln2, inverse_sqrt2 = T(EXP_LOWEST[dtype.name]), T(1 / log(2)), T(1 / sqrt(2))
    # 1.5 * 2^(mantissa bits): adding it rounds to the nearest integer, left in the low bits
    shift = T(1.5 * 2.0 ** np.finfo(dtype).nmant)
    ln2_head, ln2_tail = (T(v) for v in LN2[dtype.name])
    series = polynomial(dtype, [1 / factorial(k) for k in range(EXP_TERMS[dtype.name])])
    erfc = polynomial(dtype, ERFC_TERMS[dtype.name])
    centre, farthest = T(ERFC_CENTRE), T(64)
    power = power_of_two(dtype)

    @part
    def exp(v):
        """exp(v) for v <= 0."""
        v = lowest if v < lowest else v
        shifted = fma(v, inverse_ln2, shift)
        n = shifted - shift
        r = fma(-n, ln2_tail, fma(-n, ln2_head, v))
        return power(shifted, series(r))

    @part
    def hardsigmoid(v, alpha):
        t = v + three
        t = zero if t < zero else t
        t = six if t > six else t
        return t * sixth

    @part
    def hardswish(v, alpha):
        return v * hardsigmoid(v, alpha)

    @part
    def leaky_relu(v, alpha):
        return alpha * v if v < zero else v

    @part
    def sigmoid(v, alpha):
        e = exp(-v if v > zero else v)
        return (e if v < zero else one) / (one + e)

    @part
    def silu(v, alpha):
        return v * sigmoid(v, alpha)

    @part
    def gelu(v, alpha):
        w = -v if v < zero else v
        w = farthest if w > farthest else w  # erfc is zero long before
        z = w * inverse_sqrt2
        square = w * w
        rest = fma(w, w, -square)  # what the rounding of the square lost: exp would magnify it
        e = exp(-half * square)
        e = fma(-half * rest, e, e)
        tail = e * erfc((z - centre) / (z + centre)) / (one + two * z)  # erfc(z) / 2
        return v * (tail if v < zero else one - tail)

    return {
        "hardswish": hardswish,
        "hardsigmoid": hardsigmoid,
        "leaky_relu": leaky_relu,
        "sigmoid": sigmoid,
        "silu": silu,
        "gelu": gelu,
    }


def _build(dtype: np.dtype, name: str) -> tuple[Callable, Any]:
    function, T = _functions(dtype)[name], dtype.type

    def activation(values, rows, row_stride, columns, alpha):
        slope = T(alpha)
        for i in range(rows):
            for j in range(columns):
                k = i * row_stride + j
                values[k] = function(values[k], slope)

    i = types.int64
    return activation, types.void(REAL[dtype], i, i, i, types.float64)


def address(dtype: np.dtype, code: int) -> int:
    """Address of the activation with this code (`dwcpu.abi.ACTIVATION_CODES`)."""
    name = next(name for name, number in ACTIVATION_CODES.items() if number == code)
    return compile_kernel(f"activation_f{dtype.itemsize * 8}_{name}", lambda: _build(dtype, name))
