"""Activations that are more than a clamp, applied in place to values that a kernel has just written.

Assumes: a rows x columns block, rows `row_stride` reals apart. Guarantees: each element is a function of itself alone,
made of correctly rounded operations in a fixed order, so that vectors of any width and both kernel families give the
same bits; NaN stays NaN. The loops are scalar: LLVM vectorises them, having no calls or branches to mind.

The sigmoid family rests on exp(-v): -v = n ln 2 + r, a polynomial for exp(r), times 2^n. Where sigmoid nears the
smallest normal numbers, it is one over the polynomial, times 2^-n in two factors, so that results below these are
reached without a detour through zero; gelu does not get that low.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
from numba import types

from dwcpu.abi import (
    ACTIVATION_CODES,
    ERFC_CENTRE,
    ERFC_TERMS,
    EXP_LOWEST,
    EXP_NORMAL,
    EXP_TERMS,
    GELU_HIGHEST,
    GELU_LOWEST,
    LN2,
    SIGMOID_HIGHEST,
)
from dwcpu.numba_kernels.memory import REAL
from dwcpu.numba_kernels.scalar import fma, polynomial, power_of_two, scaled
from dwcpu.numba_kernels.target import compile_kernel, part, target

__all__ = ["address"]


def _functions(dtype: np.dtype) -> dict[str, Callable]:
    """Scalar activation functions (v, alpha) -> value of one dtype, by name."""
    T = dtype.type
    zero, minus_half, one, two, three, six, sixth = (T(v) for v in (0, -0.5, 1, 2, 3, 6, 1 / 6))
    fused, splitter = target().fma, T(4097 if dtype == np.float32 else 134217729)
    lowest, normal, highest = T(EXP_LOWEST[dtype.name]), T(EXP_NORMAL[dtype.name]), T(SIGMOID_HIGHEST)
    # 1.5 * 2^(mantissa bits): adding it rounds to the nearest integer, left in the low bits
    shift = T(1.5 * 2.0 ** np.finfo(dtype).nmant)
    biased = shift + T(1 - np.finfo(dtype).minexp)
    inverse_ln2 = T(1 / log(2))
    ln2_head, ln2_tail = (T(v) for v in LN2[dtype.name])
    series = polynomial(dtype, EXP_TERMS[dtype.name])
    erfc, centre = polynomial(dtype, ERFC_TERMS[dtype.name]), T(ERFC_CENTRE[dtype.name])
    gelu_lowest, gelu_highest = T(GELU_LOWEST[dtype.name]), T(GELU_HIGHEST[dtype.name])
    diameter, minus_zero = T(2) * centre, T(-0.0)
    power, scale, scale_normal = power_of_two(dtype), scaled(dtype), scaled(dtype, normal=True)

    @part
    def sigmoid_times(v, factor):
        w = lowest if v < lowest else highest if v > highest else v
        shifted = fma(-w, inverse_ln2, biased)
        n = shifted - biased
        e = series(fma(-n, ln2_tail, fma(-n, ln2_head, -w)))
        far, near = factor * scale(shift - n, one / e), factor / fma(e, power(shifted), one)
        return far if v < normal else near

    @part
    def square_rest(a, square):
        """What rounding took from the square of a, exactly; without a fused multiply-add from two halves of a."""
        if fused:
            return fma(a, a, -square)
        wide = a * splitter
        high = wide - (wide - a)
        low = a - high
        return ((high * high - square) + two * high * low) + low * low

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
        return sigmoid_times(v, one)

    @part
    def silu(v, alpha):
        return sigmoid_times(v, v)

    @part
    def gelu(v, alpha):
        w = (zero if v < gelu_lowest else -v) if v <= zero else gelu_highest if v > gelu_highest else v
        inverse = diameter / (w + centre)
        square = w * w
        rest = square_rest(w, square)  # exp would magnify it
        shifted = fma(minus_half * square, inverse_ln2, shift)
        n = shifted - shift
        r = fma(-n, ln2_tail, fma(-n, ln2_head, minus_half * square)) + minus_half * rest
        half_erfc = scale_normal(shifted, series(r)) * (erfc(one - inverse) * inverse)
        return fma(-w, half_erfc, minus_zero if v < zero else v)

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
