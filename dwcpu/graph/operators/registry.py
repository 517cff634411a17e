"""The table of operators: what each computes on NumPy arrays, and how a plan may run it.

Every operator is a function of a node and its input arrays (None for those left out). How a plan runs it depends on the
decorator that put it here:

`view`
    Gives arrays that look at their input's memory wherever NumPy can: nothing is done when a plan runs.
`into`
    Comes with a function that gives uninitialised arrays of the result's shape, dtype and memory order, and then
    writes into such arrays: a plan lets it write into the arena.
`general`
    Gives new arrays. A plan runs it once on zeros to learn their shapes, and copies what it gives into the arena.
`valued`
    Gives new arrays, whose shapes depend on the values of all inputs: no plan can run it.

`shaping` names the inputs whose values, not only whose shapes, decide the shape of the result. Arrays have the axes of
ONNX's standard in any order of memory: images mostly with their channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..ir import Node

__all__ = ["OPERATORS", "OURS", "Operator", "broadcast", "check_size", "general", "into", "like", "valued", "view"]

#: ``function(node, *arrays)``
Function = Callable[..., Any]
#: What is wrong with a node before there are shapes; None if nothing is.
Check = Callable[[Node], "str | None"]


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes
    ----------
    name : str
    way : {"view", "into", "general", "valued"}
    function : callable
        ``function(node, *arrays)`` gives the results; for "into" ``function(node, arrays, outs)`` writes them.
    shaping : tuple of int
    empty : callable or None
        ``empty(node, *arrays)`` gives what "into" writes to, or a list of that.
    check : callable or None
    """

    name: str
    way: str
    function: Function
    shaping: tuple[int, ...] = ()
    empty: Function | None = None
    check: Check | None = None

    def targets(self, node: Node, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
        """What `function` of an "into" operator writes to."""
        assert self.empty is not None
        made = self.empty(node, *arrays)
        return made if isinstance(made, list) else [made]

    def __call__(self, node: Node, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
        """The results, computed now."""
        if self.way == "into":
            outs = self.targets(node, arrays)
            self.function(node, arrays, outs)
            return outs
        made = self.function(node, *arrays)
        return list(made) if isinstance(made, (tuple, list)) else [made]


OPERATORS: dict[str, Operator] = {}

#: Operators that passes and `versions` make, and no file may name.
OURS = ("Activation", "Affine", "Align", "GroupNorm", "InvertedResidual", "Separable")


def view(*names: str, shaping: tuple[int, ...] = (), check: Check | None = None) -> Callable[[Function], Function]:
    """Register a function that gives views of its first input."""

    def register(function: Function) -> Function:
        OPERATORS.update({name: Operator(name, "view", function, shaping, None, check) for name in names})
        return function

    return register


def general(*names: str, shaping: tuple[int, ...] = (), check: Check | None = None) -> Callable[[Function], Function]:
    """Register a function that gives new arrays."""

    def register(function: Function) -> Function:
        OPERATORS.update({name: Operator(name, "general", function, shaping, None, check) for name in names})
        return function

    return register


def valued(*names: str, check: Check | None = None) -> Callable[[Function], Function]:
    """Register a function that gives new arrays, of shapes that depend on values."""

    def register(function: Function) -> Function:
        OPERATORS.update({name: Operator(name, "valued", function, (), None, check) for name in names})
        return function

    return register


def into(
    *names: str, empty: Function, shaping: tuple[int, ...] = (), check: Check | None = None
) -> Callable[[Function], Function]:
    """Register a function that writes into arrays as `empty` makes them."""

    def register(function: Function) -> Function:
        OPERATORS.update({name: Operator(name, "into", function, shaping, empty, check) for name in names})
        return function

    return register


#: Bytes of a tensor at most.
_MOST_BYTES = 1 << 34


def check_size(shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse a tensor that a file asks for and no machine has room for, before it is made.

    Raises
    ------
    ValueError
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size > _MOST_BYTES or min(shape, default=0) < 0:
        what = (
            f"takes {size} bytes; {_MOST_BYTES} is the limit" if size > _MOST_BYTES else "cannot be; sizes start at 0"
        )
        raise ValueError(f"a tensor of shape {tuple(shape)} {what}")


def like(x: np.ndarray, shape: tuple[int, ...] | None = None, dtype: Any = None) -> np.ndarray:
    """An uninitialised array with the axes of `x` in its order of memory; of another shape or dtype if given."""
    shape = x.shape if shape is None else shape
    check_size(shape, x.dtype if dtype is None else dtype)
    if len(shape) != x.ndim:
        return np.empty(shape, x.dtype if dtype is None else dtype)
    return np.empty_like(x, dtype=dtype, order="K", subok=False, shape=shape)


def broadcast(*arrays: np.ndarray | None, dtype: Any = None) -> np.ndarray:
    """An uninitialised array of the shape that all arrays together have, in the order of memory of the largest."""
    given = [array for array in arrays if array is not None]
    shape = np.broadcast_shapes(*(array.shape for array in given))
    largest = max(given, key=lambda array: array.size)
    return like(largest, shape, given[0].dtype if dtype is None else dtype)
