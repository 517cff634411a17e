"""Scalar operations that activations are made of and Numba has none for: LLVM vectorises loops over them."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from dwcpu.numba_kernels.target import target

__all__ = ["fma", "polynomial", "power_of_two", "scaled"]


def _fma_scalar(builder, x, y, z):
    if not target().fma:
        return builder.fadd(builder.fmul(x, y), z)
    name = "llvm.fma.f32" if x.type == ir.FloatType() else "llvm.fma.f64"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(x.type, [x.type] * 3), name)
    return builder.call(function, [x, y, z])


@intrinsic
def fma(typingctx, x, y, z):
    """x * y + z, rounded once, of three scalars of one type."""

    def codegen(context, builder, signature, args):
        return _fma_scalar(builder, *args)

    return x(x, x, x), codegen


def polynomial(dtype, terms):
    """Intrinsic that evaluates the polynomial with these terms, constant first, by Horner's rule."""

    @intrinsic
    def evaluate(typingctx, x):
        def codegen(context, builder, signature, args):
            real = args[0].type
            value = ir.Constant(real, float(dtype.type(terms[-1])))
            for term in reversed(terms[:-1]):
                value = _fma_scalar(builder, value, args[0], ir.Constant(real, float(dtype.type(term))))
            return value

        return x(x), codegen

    return evaluate


def scaled(dtype, *, normal=False):
    """Intrinsic (shifted, v) -> v * 2^n, where `shifted` is n plus 1.5 * 2^(mantissa bits).

    In two factors, each a normal number for every n down to twice the smallest exponent, so that only the last product
    rounds. `normal`: v and the result are normal numbers, so that n can be added to the exponent.
    """
    bits, mantissa, bias = (32, 23, 127) if dtype == np.float32 else (64, 52, 1023)

    @intrinsic
    def scale(typingctx, shifted, v):
        def codegen(context, builder, signature, args):
            integer, real = ir.IntType(bits), args[0].type
            unshifted = integer(0x4B400000 if bits == 32 else 0x4338000000000000)
            n = builder.sub(builder.bitcast(args[0], integer), unshifted)
            if normal:
                added = builder.add(builder.bitcast(args[1], integer), builder.shl(n, integer(mantissa)))
                return builder.bitcast(added, real)
            first = builder.ashr(n, integer(1))
            value = args[1]
            for part in (first, builder.sub(n, first)):
                exponent = builder.shl(builder.add(part, integer(bias)), integer(mantissa))
                value = builder.fmul(value, builder.bitcast(exponent, real))
            return value

        return v(shifted, v), codegen

    return scale


def power_of_two(dtype):
    """Intrinsic shifted -> 2^n, a normal number, where `shifted` is n plus 1.5 * 2^(mantissa bits) plus the bias."""
    bits, mantissa = (32, 23) if dtype == np.float32 else (64, 52)

    @intrinsic
    def power(typingctx, shifted):
        def codegen(context, builder, signature, args):
            integer = ir.IntType(bits)
            return builder.bitcast(builder.shl(builder.bitcast(args[0], integer), integer(mantissa)), args[0].type)

        return shifted(shifted), codegen

    return power
