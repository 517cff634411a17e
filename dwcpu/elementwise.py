"""Elements of tensors, each on its own, on compiled kernels: see `cython_kernels/elementwise.pxi`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from . import runtime
from .epilogue import Activation
from .pipeline import Value
from .pixels import PixelKernel, epilogue, made

__all__ = [
    "Function",
    "activation_before",
    "combine",
    "fill",
    "function",
    "function_before",
    "in_order",
    "mapped",
]

#: Elements that are one row of the grid.
_RUN = 4096
#: As in `elementwise.pxi`.
_AXES = 4


class Function(NamedTuple):
    """A function of one tensor that a kernel of two calls first.

    Attributes
    ----------
    name : str
        For people.
    address : int
    alpha : float
        Its parameter.
    """

    name: str
    address: int
    alpha: float


def activation_before(activation: Activation, dtype: np.dtype) -> Function | None:
    """An activation as such a function; None for clamps, which are none, and without compiled kernels."""
    compiled = runtime.cython_kernels()
    if not activation.code or compiled is None or not compiled.available():
        return None
    return Function(str(activation.name), compiled.activations(dtype.name)[activation.code], activation.alpha)


def function_before(name: str, alpha: float, dtype: np.dtype) -> Function | None:
    """As such a function what `function` computes."""
    compiled = runtime.cython_kernels()
    return None if compiled is None else Function(name, compiled.functions(dtype.name)[name], alpha)


def combine(
    name: str,
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    activation: Activation,
    known: int | None = None,
    before: Sequence[Function | None] = (None, None),
) -> PixelKernel | None:
    """What a pipeline runs for ``activation(f(a) op g(b))``; None where that is left to NumPy.

    Parameters
    ----------
    name : {"add", "divide", "maximum", "minimum", "multiply", "prelu", "subtract"}
        "prelu" is ``a * b if a < 0 else a``.
    a, b : ndarray
        Of one dtype. Their contents do not matter, but for the one that is known; their steps do.
    out : ndarray
        As a result is to lie, without gaps; a and b are broadcast to its shape.
    activation : Activation
    known : {0, 1}, optional
        Which of the two does not change: the kernel keeps it, and a pipeline gives it the other one alone.
    before : (Function or None, Function or None)
        f and g, for tensors of which none is broadcast along the innermost axis.
    """
    size, shape, strides = out.itemsize, out.shape, out.strides
    pair = [a, b]
    kept: Any = None
    if known is not None:
        pair[known] = in_order(pair[known].shape, out)
        kept = pair[known].base
        np.copyto(pair[known], (a, b)[known])
    seen = [np.broadcast_to(each, shape).strides for each in pair]
    axes: list[list[int]] = []  # size, steps of a and b
    for axis in sorted((axis for axis, count in enumerate(shape) if count > 1), key=lambda axis: -out.strides[axis]):
        count, steps = shape[axis], [strides[axis] // size for strides in seen]
        if axes and axes[-1][1:] == [step * count for step in steps]:
            axes[-1] = [axes[-1][0] * count, *steps]
        else:
            axes.append([count, *steps])
    axes = [[1, 0, 0]] * (_AXES - len(axes)) + axes
    count, *steps = axes[-1]
    if len(axes) > _AXES or not {0, 1}.issuperset(steps) or (count > 1 and not any(steps)):
        return None
    functions = [each or Function("", 0, 0.0) for each in before]
    if any(before) and not all(steps):
        return None
    given = 0 if known is None else 2 - known
    called = [each.address for each in functions], np.array([each.alpha for each in functions]).view(np.int64)
    table = np.array([*np.array(axes).T.reshape(-1), given, *called[0], *called[1]], np.int64)
    fields = _flat(shape, out.dtype, activation) | {"weights": table.ctypes.data}
    if kept is not None:
        fields["bias"] = kept.ctypes.data
    over = True, known is None  # every element is read where it is written, unless it lies elsewhere
    kernel = made(name, out.dtype, shape, shape, -(-prod(shape) // _RUN), fields, (table, kept), over=over)
    if kernel is not None:
        constant = np.empty(0) if known is None else (a, b)[known]

        def remade(x: Value, residual: Value | None, target: Value) -> PixelKernel | None:
            if target.steps != strides:
                return None
            given = iter((x, residual))
            first, second = (constant if at == known else _like(next(given)) for at in range(2))
            return combine(name, first, second, _like(target), activation, known, before)

        kernel.remade = remade
    return kernel


def _like(value: Value | None) -> np.ndarray:
    """An array that lies as a value does, and has no contents."""
    assert value is not None
    return np.lib.stride_tricks.as_strided(np.empty(0, value.dtype), value.shape, value.strides)


def in_order(shape: tuple[int, ...], out: np.ndarray) -> np.ndarray:
    """A fresh array of `shape`, which is broadcast to that of `out`, whose axes lie in the order of those of `out`."""
    more = out.ndim - len(shape)
    sizes = (1,) * more + shape
    order = sorted(range(out.ndim), key=lambda axis: -out.strides[axis])
    made = np.empty([sizes[axis] for axis in order], out.dtype).transpose(np.argsort(order))
    return made.squeeze(tuple(range(more)))  # where indices could make a scalar of it


def mapped(
    shape: tuple[int, ...], dtype: np.dtype, factor: float, shift: float, activation: Activation
) -> PixelKernel | None:
    """``activation(factor x + shift)``, the product rounded before the sum."""
    numbers = np.array([factor, shift], dtype)
    fields = _flat(shape, dtype, activation) | {"weights": numbers.ctypes.data}
    return made("map", dtype, shape, shape, -(-prod(shape) // _RUN), fields, numbers, over=(True, False))


def function(shape: tuple[int, ...], dtype: np.dtype, name: str, alpha: float = 0.0) -> PixelKernel | None:
    """A function of every element, in any order of memory.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    name : {"abs", "elu", "erf", "gelu_tanh", "mish", "sqrt", "tanh"}
    alpha : float
        What "elu" multiplies ``exp(x) - 1`` by.
    """
    compiled = runtime.cython_kernels()
    if compiled is None:
        return None
    numbers = np.array([1, -0.0], dtype)
    fields = _flat(shape, dtype, Activation()) | {"weights": numbers.ctypes.data, "alpha": alpha}
    fields["activation"] = compiled.functions(dtype.name)[name]
    return made("map", dtype, shape, shape, -(-prod(shape) // _RUN), fields, numbers, over=(True, False))


def fill(shape: tuple[int, ...], dtype: np.dtype, value: float) -> PixelKernel | None:
    """One value everywhere."""
    fields = {"height": prod(shape), "width": _RUN, "low": value}
    return made("fill", dtype, shape, shape, -(-prod(shape) // _RUN), fields)


def _flat(shape: tuple[int, ...], dtype: np.dtype, activation: Activation) -> dict[str, Any]:
    """Fields of a plan for tensors that are looked at as rows of elements."""
    return {"height": prod(shape), "width": _RUN} | epilogue(dtype, activation)
