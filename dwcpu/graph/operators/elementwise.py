"""Operators that compute every element on its own. NumPy does the work, in place where it takes several steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...epilogue import Activation, parse_activation
from ..ir import Node
from .registry import broadcast, into, like

__all__ = ["activation_of", "activate"]

Arrays = list[Any]


def _same(node: Node, x: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return like(x)


def _together(node: Node, *arrays: np.ndarray) -> np.ndarray:
    return broadcast(*arrays)


def _truth(node: Node, *arrays: np.ndarray) -> np.ndarray:
    return broadcast(*arrays, dtype=np.bool_)


# --- one ufunc --------------------------------------------------------------------------------------------------------

_UNARY = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Sqrt": np.sqrt,
    "Tan": np.tan,
    "Tanh": np.tanh,
}
_UNARY_TRUTH = {"IsNaN": np.isnan, "Not": np.logical_not}
_BINARY = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract}
_BINARY_TRUTH = {
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}
_SEVERAL = {"Max": np.maximum, "Mean": np.add, "Min": np.minimum, "Sum": np.add}


def _ufunc(node: Node, arrays: Arrays, outs: Arrays) -> None:
    _UFUNCS[node.op](*arrays, out=outs[0])


_UFUNCS: dict[str, Any] = {**_UNARY, **_UNARY_TRUTH, **_BINARY, **_BINARY_TRUTH}
into(*_UNARY, empty=_same)(_ufunc)
into(*_BINARY, empty=_together)(_ufunc)
into(*_UNARY_TRUTH, *_BINARY_TRUTH, empty=_truth)(_ufunc)


@into(*_SEVERAL, empty=_together)
def several(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Max, Min, Sum and Mean of any number of arrays."""
    out = outs[0]
    np.copyto(out, arrays[0])
    for array in arrays[1:]:
        _SEVERAL[node.op](out, array, out=out)
    if node.op == "Mean":
        np.divide(out, out.dtype.type(len(arrays)), out=out)


@into("Div", empty=_together)
def divide(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Integers are rounded towards zero."""
    a, b = arrays
    if outs[0].dtype.kind not in "iu":
        np.divide(a, b, out=outs[0])
        return
    quotient = np.floor_divide(a, b, out=outs[0])
    if quotient.dtype.kind == "i":
        quotient += (quotient < 0) & (quotient * b != a)


@into("Mod", empty=_together)
def modulo(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """As C's fmod, or with the sign of the divisor."""
    function: Any = np.fmod if node.get("fmod", 0) else np.mod
    function(*arrays, out=outs[0])


@into("Pow", empty=lambda node, a, b: broadcast(a, b, dtype=a.dtype))
def power(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """The result has the type of the base."""
    base, exponent = arrays
    if exponent.size == 1 and exponent.reshape(-1)[0] == 2:  # as variances are computed; far faster
        np.multiply(base, base, out=outs[0])
    elif base.dtype == exponent.dtype and base.dtype.kind == "f":
        np.power(base, exponent, out=outs[0])
    else:
        np.copyto(outs[0], np.power(base, exponent, dtype=np.result_type(base, exponent)), casting="unsafe")


@into("Where", empty=lambda node, condition, a, b: broadcast(a, b, condition))
def where(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Elements of the second input where the first is true, of the third elsewhere."""
    condition, a, b = arrays
    np.copyto(outs[0], b)
    np.copyto(outs[0], a, where=condition)


@into("IsInf", empty=_truth)
def is_infinite(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Infinities of the signs that are asked for."""
    x = arrays[0]
    np.isinf(x, out=outs[0])
    for name, other in (("detect_negative", x > 0), ("detect_positive", x < 0)):
        if not node.get(name, 1):
            outs[0] &= other


@into("PRelu", empty=_together)
def parametric_relu(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """x, or x times a slope where x is negative."""
    x, slope = arrays
    np.multiply(x, slope, out=outs[0])
    np.copyto(outs[0], x, where=x >= 0)


# --- activations ------------------------------------------------------------------------------------------------------

_ERF = np.frompyfunc(math.erf, 1, 1)


@into("Erf", empty=_same)
def erf(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """One element after the other: exact and slow. Where it is part of a gelu, `passes.activations` sees to it."""
    np.copyto(outs[0], np.asarray(_ERF(arrays[0].astype(np.float64)), np.float64), casting="same_kind")


@into("Relu", empty=_same)
def relu(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """NaN stays NaN."""
    np.maximum(arrays[0], arrays[0].dtype.type(0), out=outs[0])


@into("Clip", empty=_same)
def clip(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Bounds may be left out; if they are the wrong way round, the upper one holds."""
    x, low, high = (*arrays, None, None)[:3]
    np.copyto(outs[0], x)
    if low is not None:
        np.maximum(outs[0], low, out=outs[0])
    if high is not None:
        np.minimum(outs[0], high, out=outs[0])


@into("LeakyRelu", empty=_same)
def leaky_relu(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """x, or x times `alpha` where x is negative."""
    x = arrays[0]
    np.multiply(x, x.dtype.type(node.get("alpha", 0.01)), out=outs[0])
    np.copyto(outs[0], x, where=x >= 0)


@into("Sigmoid", "Swish", empty=_same)
def sigmoid(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Without overflow: exp(-x) may become infinite, and 1 / inf is the right answer."""
    x, out = arrays[0], outs[0]
    one = x.dtype.type(1)
    np.multiply(x, x.dtype.type(-node.get("alpha", 1.0)), out=out)
    np.exp(out, out=out)
    np.add(out, one, out=out)
    if node.op == "Swish":
        np.divide(x, out, out=out)
    else:
        np.divide(one, out, out=out)


@into("HardSigmoid", "HardSwish", empty=_same)
def hard_sigmoid(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """clamp(alpha x + beta, 0, 1), times x for HardSwish."""
    x, out = arrays[0], outs[0]
    kind = x.dtype.type
    alpha, beta = (1 / 6, 0.5) if node.op == "HardSwish" else (node.get("alpha", 0.2), node.get("beta", 0.5))
    np.multiply(x, kind(alpha), out=out)
    np.add(out, kind(beta), out=out)
    np.maximum(out, kind(0), out=out)
    np.minimum(out, kind(1), out=out)
    if node.op == "HardSwish":
        np.multiply(out, x, out=out)


@into("Gelu", empty=_same)
def gelu(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """With the error function, or with `approximate` = "tanh"."""
    x = arrays[0].astype(np.float64)
    if node.get("approximate", "none") == "tanh":
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        inner = np.asarray(_ERF(x * math.sqrt(0.5)), np.float64)
    np.copyto(outs[0], 0.5 * x * (1 + inner), casting="same_kind")


@into("Elu", "Selu", "Celu", empty=_same)
def elu(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Exponential below zero."""
    x = arrays[0]
    alpha = node.get("alpha", 1.67326319217681884765625 if node.op == "Selu" else 1.0)
    scale = node.get("gamma", 1.05070102214813232421875) if node.op == "Selu" else 1.0
    below = np.expm1(np.minimum(x, 0) / (alpha if node.op == "Celu" else 1.0)) * alpha
    np.copyto(outs[0], scale * np.where(x > 0, x, below), casting="same_kind")


@into("Softplus", "Softsign", "Mish", "ThresholdedRelu", empty=_same)
def other_activations(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Those that are seen rarely."""
    x = arrays[0]
    if node.op == "Softsign":
        result = x / (1 + np.abs(x))
    elif node.op == "ThresholdedRelu":
        result = np.where(x > x.dtype.type(node.get("alpha", 1.0)), x, x.dtype.type(0))
    else:
        result = np.logaddexp(x, x.dtype.type(0))
        if node.op == "Mish":
            result = x * np.tanh(result)
    np.copyto(outs[0], result, casting="same_kind")


# --- the node that `passes.activations` makes -------------------------------------------------------------------------


def activation_of(node: Node) -> Activation:
    """The activation of a node of ours, as kernels know it."""
    return parse_activation(node.get("activation"), node.name)


def activate(x: np.ndarray, activation: Activation, out: np.ndarray) -> None:
    """``out = activation(x)``, by the operators above."""
    kind = x.dtype.type
    if not activation.code:
        node = Node("Clip", "", [], [])
        low = None if activation.low == -math.inf else kind(activation.low)
        clip(node, [x, low, None if activation.high == math.inf else kind(activation.high)], [out])
        return
    op, function, attributes = {
        "hardswish": ("HardSwish", hard_sigmoid, {}),
        "hardsigmoid": ("HardSigmoid", hard_sigmoid, {"alpha": 1 / 6}),
        "leaky_relu": ("LeakyRelu", leaky_relu, {"alpha": activation.alpha}),
        "sigmoid": ("Sigmoid", sigmoid, {}),
        "silu": ("Swish", sigmoid, {}),
        "gelu": ("Gelu", gelu, {}),
    }[str(activation.name)]
    function(Node(op, "", [], [], attributes), [x], [out])


@into("Activation", empty=_same)
def activation(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Any activation that kernels know, on its own."""
    activate(arrays[0], activation_of(node), outs[0])


# --- types ------------------------------------------------------------------------------------------------------------


def _check_cast(node: Node) -> str | None:
    exponent_only = isinstance(node.get("to"), np.dtype) and node.get("to").name == "float8_e8m0fnu"
    return "to=float8_e8m0" if exponent_only else None


@into("Cast", check=_check_cast, empty=lambda node, x: like(x, dtype=node.get("to")))
def cast(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """To the type that the attribute `to` names; out of range as C does it, but for `saturate` of float8."""
    x, out = arrays[0], outs[0]
    if x.dtype.kind in "OUS" and out.dtype.kind in "fiub":
        x = x.astype(np.float64)
    if out.dtype.kind == "O":
        out[...] = np.array([str(value) for value in x.reshape(-1)], object).reshape(x.shape)
        return
    if out.dtype.name.startswith("float8") and node.get("saturate", 1):
        import ml_dtypes  # which has made this type known to NumPy, or there would be none

        top = float(ml_dtypes.finfo(out.dtype).max)
        x = np.clip(x.astype(np.float32), -top, top)
    np.copyto(out, x, casting="unsafe")


@into("CastLike", empty=lambda node, x, target: like(x, dtype=target.dtype))
def cast_like(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """To the type of the second input."""
    cast(node, arrays, outs)
