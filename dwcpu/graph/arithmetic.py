"""Which nodes that treat every element on its own run on kernels, and how: as in `lowering`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import elementwise
from ..epilogue import parse_activation
from .ir import Node
from .operators.registry import check_size
from .planner import Operand, Planner, Symbol, channel_last, same_order

__all__ = ["ARITHMETIC"]

_COMBINED = {
    "Add": "add",
    "Div": "divide",
    "Max": "maximum",
    "Min": "minimum",
    "Mul": "multiply",
    "PRelu": "prelu",
    "Sub": "subtract",
}


#: Of one tensor, and what kernels call them.
_FUNCTIONS = {"Abs": "abs", "Elu": "elu", "Erf": "erf", "Mish": "mish", "Sqrt": "sqrt", "Tanh": "tanh"}


def _combine(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Two tensors, and functions of them before, if there are any."""
    before = node.get("before")
    if before is None:
        return _combined(planner, node, operands)
    bare = node.copy()
    del bare.attributes["before"]
    shapes = [each.array.shape if isinstance(each, Symbol) else () if each is None else each.shape for each in operands]
    functions: list[elementwise.Function | None] = [None, None]
    kernels: list[str] = []
    for at, part in enumerate(before):
        if part is not None:
            functions[at] = _function_of(part, operands[at]) if shapes[0] == shapes[1] else None
            if functions[at] is None:
                operands[at] = _apart(planner, part, operands[at])
                kernels.append(planner.described)
    made = _combined(planner, bare, operands, functions)
    if made is None:
        for at, function in enumerate(functions):
            operands[at] = operands[at] if function is None else _apart(planner, before[at], operands[at])
        made = _combined(planner, bare, operands) or planner.apart(bare, operands)
    planner.describe(*kernels, planner.described)
    return made


def _function_of(part: Node, x: Operand) -> elementwise.Function | None:
    """What a kernel of two tensors calls for a node of one, if it can."""
    if not isinstance(x, Symbol) or x.array.dtype.char not in "fd":
        return None
    if part.op == "Activation":
        return elementwise.activation_before(parse_activation(part.get("activation"), ""), x.array.dtype)
    name = _function_name(part)
    return None if name is None else elementwise.function_before(name, float(part.get("alpha", 1.0)), x.array.dtype)


def _apart(planner: Planner, part: Node, x: Operand) -> Operand:
    """A function on its own."""
    lowering = _activation if part.op == "Activation" else _function
    return (lowering(planner, part, [x]) or planner.apart(part, [x]))[0]


def _combined(
    planner: Planner,
    node: Node,
    operands: list[Operand],
    before: Sequence[elementwise.Function | None] = (None, None),
) -> list[Operand] | None:
    """Two tensors, of which one may be known; with one number a map."""
    if len(operands) != 2 or not any(isinstance(each, Symbol) for each in operands):
        return None
    arrays = [each.array if isinstance(each, Symbol) else each for each in operands]
    a, b = arrays
    if a is None or b is None or a.dtype != b.dtype or a.dtype.char not in "fd":
        return None
    mapped = _with_number(planner, node, operands) if list(before) == [None, None] else None
    if mapped is not None:
        return mapped
    shape = np.broadcast_shapes(a.shape, b.shape)
    check_size(shape, a.dtype)
    if node.op == "PRelu" and shape != a.shape:
        return None  # NumPy says what is wrong
    out = _as_it_will_lie(shape, a.dtype, [each for each in operands if isinstance(each, Symbol)])
    activation = parse_activation(node.get("activation"), "")
    known = next((at for at, each in enumerate(operands) if not isinstance(each, Symbol)), None)
    seen: list[np.ndarray] = []
    values: list[Any] = []
    for each, array in zip(operands, (a, b), strict=True):
        if not isinstance(each, Symbol):
            seen.append(array)
        elif elementwise.combine("add", array, out, out, activation) is not None:
            seen.append(array)
            values.append(each.value())
        else:
            seen.append(elementwise.in_order(array.shape, out))
            values.append(planner.like(each, seen[-1]))
    kernel = elementwise.combine(_COMBINED[node.op], seen[0], seen[1], out, activation, known, before)
    if kernel is None:
        return None
    name = ", ".join([*(each.name for each in before if each is not None), _COMBINED[node.op]])
    return [planner.run_kernel(name, kernel, values[0], (*values, None)[1], out)]


def _as_it_will_lie(shape: tuple[int, ...], dtype: np.dtype, symbols: list[Symbol]) -> np.ndarray:
    """A fresh array for a result: in the order of an operand of its shape, that of kernels if there is one."""
    whole = [each for each in symbols if each.array.shape == shape and not _is_spread(each.array)]
    whole.sort(key=lambda each: (not _as_kernels_write(each), not same_order(each.array, np.empty_like(each.array))))
    if whole:
        return np.empty_like(whole[0].array)
    images = len(shape) == 4 and any(each.has_pixels for each in symbols if each.array.ndim == 4)
    return channel_last(shape, dtype) if images else np.empty(shape, dtype)


def _is_spread(array: np.ndarray) -> bool:
    """Whether elements are there several times: such an axis has no place in an order."""
    return any(step == 0 for step, size in zip(array.strides, array.shape, strict=True) if size > 1)


def _as_kernels_write(symbol: Symbol) -> bool:
    """Whether images have their channels last, and other tensors their last axis."""
    return symbol.has_pixels or (symbol.array.ndim != 4 and symbol.array.flags.c_contiguous)


def _flat(planner: Planner, x: Symbol, name: str, make: Callable[..., Any], *arguments: Any) -> list[Operand] | None:
    """What ``make(shape, dtype, *arguments)`` does to every element, in any order of memory."""
    if x.array.dtype.char not in "fd":
        return None
    target = np.empty_like(x.array)
    kernel = make(x.array.shape, x.array.dtype, *arguments)
    return None if kernel is None else [planner.run_kernel(name, kernel, planner.like(x, target), None, target)]


def _mapped(planner: Planner, x: Symbol, factor: float, shift: float, spec: Any) -> list[Operand] | None:
    """``activation(factor x + shift)``; a shift of -0.0 changes nothing."""
    return _flat(planner, x, "map", elementwise.mapped, factor, shift, parse_activation(spec, ""))


def _activation(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """One that no kernel before it could do."""
    x = operands[0]
    return _mapped(planner, x, 1.0, -0.0, node.get("activation")) if isinstance(x, Symbol) else None


def _with_number(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Add, Div, Mul and Sub of a tensor and a number that is known."""
    first, second = operands
    x, number = (second, first) if isinstance(second, Symbol) else (first, second)
    if not isinstance(x, Symbol) or not isinstance(number, np.ndarray) or number.size != 1:
        return None
    if number.ndim > x.array.ndim:
        return None
    value, spec = float(number.reshape(-1)[0]), node.get("activation")
    if node.op == "Mul":
        return _mapped(planner, x, value, -0.0, spec)
    if node.op == "Add":
        return _mapped(planner, x, 1.0, value, spec)
    if node.op == "Sub":
        return _mapped(planner, x, 1.0, -value, spec) if x is first else _mapped(planner, x, -1.0, value, spec)
    limits = np.finfo(number.dtype)
    if node.op != "Div" or x is not first or not limits.tiny <= abs(1 / value if value else 0) <= limits.max:
        return None  # what a reciprocal would round to nothing, or to infinity
    return _mapped(planner, x, 1 / value, -0.0, spec)


def _function(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Functions that kernels have."""
    x, name = operands[0], _function_name(node)
    if not isinstance(x, Symbol) or name is None:
        return None
    return _flat(planner, x, name, elementwise.function, name, float(node.get("alpha", 1.0)))


def _function_name(node: Node) -> str | None:
    """What a kernel calls the function of a node, if there is one."""
    if node.op == "Gelu":
        return "gelu_tanh" if node.get("approximate", "none") == "tanh" else None
    return _FUNCTIONS[node.op]


def _power(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """Squares; other powers are left to NumPy."""
    x, exponent = operands
    if not isinstance(x, Symbol) or not isinstance(exponent, np.ndarray) or exponent.size != 1:
        return None
    if exponent.ndim > x.array.ndim or x.array.dtype.char not in "fd" or exponent.reshape(-1)[0] != 2:
        return None
    return _combined(planner, Node("Mul", node.name, [], []), [x, x])


def _cast(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """To the type that a tensor has anyway."""
    x = operands[0]
    if not isinstance(x, Symbol) or x.array.dtype != node.get("to"):
        return None
    planner.describe("view")
    return [x]


ARITHMETIC: dict[str, Callable[[Planner, Node, list[Operand]], list[Operand] | None]] = {
    **dict.fromkeys(_COMBINED, _combine),
    **dict.fromkeys(("Gelu", *_FUNCTIONS), _function),
    "Activation": _activation,
    "Cast": _cast,
    "Pow": _power,
}
