"""Operators that go along a sequence and hand a state from step to step.

Equations and orders of gates are those of ONNX's standard: LSTM after Hochreiter and Schmidhuber (1997), gates "iofc";
GRU after Cho et al. (2014), gates "zrh".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..ir import Node
from .registry import check_size, general

__all__ = ["Shapes", "activations", "biases", "directions"]

Function = Callable[[np.ndarray], np.ndarray]

#: Gates, and the activations by default.
_KINDS = {"GRU": (3, ("sigmoid", "tanh")), "LSTM": (4, ("sigmoid", "tanh", "tanh")), "RNN": (1, ("tanh",))}
_DIRECTIONS = {"forward": (1,), "reverse": (-1,), "bidirectional": (1, -1)}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    made = np.negative(x)
    np.exp(made, out=made)
    made += 1
    return np.reciprocal(made, out=made)


_FUNCTIONS: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "softplus": lambda x: np.logaddexp(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
}


def activations(node: Node) -> list[str]:
    """Names of the activations, of each direction those of one."""
    return [str(name).lower() for name in node.get("activations") or ()] or list(_KINDS[node.op][1])


def directions(node: Node) -> tuple[int, ...]:
    """The step of each direction: 1, or backwards -1."""
    return _DIRECTIONS[node.get("direction", "forward")]


def biases(node: Node, bias: np.ndarray | None, shapes: Shapes, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the products of inputs, and to those of states: ``(directions, gates * H)`` each.

    The second is zero, but for the last gate of a GRU, which may want it within a product.
    """
    size = shapes.size
    pair = np.zeros((2, shapes.sides, shapes.gates * size), dtype)
    if bias is not None:
        pair[...] = bias.reshape(shapes.sides, 2, -1).swapaxes(0, 1)
    after = np.zeros_like(pair[1])
    if node.op == "GRU":
        after[:, 2 * size :] = pair[1, :, 2 * size :]
        pair[1, :, 2 * size :] = 0
    return pair[0] + pair[1], after


def _check(node: Node) -> str | None:
    if node.get("direction", "forward") not in _DIRECTIONS:
        return f"direction={node.get('direction')}"
    names, count = activations(node), len(_KINDS[node.op][1])
    alike = len(names) >= count and names in (names[:count], 2 * names[:count])  # both directions go on at once
    return None if alike and {*names} <= _FUNCTIONS.keys() else f"activations={node.get('activations')}"


class Shapes(NamedTuple):
    """How much of everything there is."""

    steps: int
    batch: int
    sides: int
    gates: int
    size: int

    @classmethod
    def of(cls, node: Node, x: Any, w: Any, r: Any, **others: Any) -> Shapes:
        """Those of a node, whose inputs (T, N, I), weights and `others` are looked at, but not their contents.

        Raises
        ------
        ValueError
            They do not fit.
        """
        gates, sides = _KINDS[node.op][0], len(directions(node))
        size = r.shape[-1]
        if x.ndim != 3 or w.shape != (sides, gates * size, x.shape[-1]) or r.shape != (sides, gates * size, size):
            raise ValueError(
                f"{node.op} {node.name!r}: X is {x.shape}, W {w.shape} and R {r.shape}; they must be (T, N, I), "
                f"({sides}, {gates} * H, I) and ({sides}, {gates} * H, H)"
            )
        steps, batch = x.shape[:2]
        check_size((steps, sides, batch, gates * size), np.result_type(x.dtype, np.float32))
        state = sides, batch, size
        rules = {
            "bias": (sides, 2 * gates * size), "initial_h": state, "initial_c": state, "P": (sides, 3 * size),
            "sequence_lens": (batch,),
        }  # fmt: skip
        for what, each in others.items():
            if each is not None and each.shape != rules[what]:
                raise ValueError(f"{node.op} {node.name!r}: {what} is of shape {each.shape}; it must be {rules[what]}")
        return cls(steps, batch, sides, gates, size)


@general("GRU", "LSTM", "RNN", check=_check)
def recurrent(
    node: Node, x: np.ndarray, w: np.ndarray, r: np.ndarray, bias: Any = None, lengths: Any = None, h: Any = None,
    c: Any = None, peepholes: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """States at every step (T, directions, N, H), and the last ones (directions, N, H) of sequences (T, N, I).

    With the attribute `layout` 1 batches are the first axis of all of them. The last states of a sequence without steps
    are those that it begins with.
    """
    signs, first = directions(node), bool(node.get("layout", 0))
    if first:
        x, h, c = x.swapaxes(0, 1), *(None if each is None else each.swapaxes(0, 1) for each in (h, c))
    shapes = Shapes.of(
        node, x, w, r, bias=bias, initial_h=h, initial_c=c, P=peepholes, sequence_lens=lengths
    )  # fmt: skip
    steps, batch, sides, gates, size = shapes
    dtype, wide = x.dtype, np.result_type(x.dtype, np.float32)
    if lengths is not None and lengths.size and not 0 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(
            f"{node.op} {node.name!r}: sequence_lens are {lengths.min()} to {lengths.max()}; they must be 0 to the "
            f"{steps} steps that there are"
        )
    x, w, r = (each.astype(wide, copy=False) for each in (x, w, r))
    before, after = biases(node, bias, shapes, wide)
    cell = _Cell(node, r.swapaxes(1, 2), after, peepholes)
    products = np.matmul(x.reshape(steps * batch, x.shape[2]), w.swapaxes(1, 2)) + before[:, None]  # of all steps
    inputs = _in_turn(products.reshape(sides, steps, batch, gates * size).swapaxes(0, 1), signs)
    goes_on = None
    if lengths is not None:  # what has ended, or not begun from its end, stays as it is
        goes_on = np.arange(steps)[:, None, None, None] < np.tile(lengths.reshape(-1, 1), (1, sides, 1, 1))
        goes_on = _in_turn(goes_on, signs)
    state = [np.zeros((sides, batch, size), wide) if each is None else each.astype(wide) for each in (h, c)]
    states = np.zeros((steps, sides, batch, size), wide)
    step = cell.step
    for at in range(steps):
        made = step(inputs[at], *state)
        if goes_on is None:
            states[at], state = made[0], made
        else:
            states[at] = np.where(goes_on[at], made[0], 0)
            state = [np.where(goes_on[at], new, old) for new, old in zip(made, state, strict=True)]
    states = _in_turn(states, signs)
    results = [states, *state[: 2 if node.op == "LSTM" else 1]]
    if first:
        results = [np.moveaxis(states, 2, 0), *(each.swapaxes(0, 1) for each in results[1:])]
    return tuple(each.astype(dtype, copy=False) for each in results)


def _in_turn(array: np.ndarray, signs: tuple[int, ...]) -> np.ndarray:
    """Steps (T, directions, …) of each direction in the order in which it takes them; or back."""
    return np.stack([array[::sign, side] for side, sign in enumerate(signs)], 1)


class _Cell:
    """One step, of all directions: weights are ``(directions, H, gates * H)``.

    Attributes
    ----------
    step : callable
        ``step(inputs, h, c)`` gives what comes after them.
    """

    def __init__(self, node: Node, r: np.ndarray, after: np.ndarray, peepholes: Any) -> None:
        names = activations(node)
        self._functions, self._r, self._size = [_FUNCTIONS[name] for name in names], r, r.shape[1]
        self._after = after[:, None, 2 * self._size :]
        parts = None if peepholes is None else peepholes.astype(r.dtype).reshape(len(r), 1, 3, self._size)
        self._peepholes = None if parts is None else [parts[:, :, at] for at in range(3)]
        self._clip, self._coupled = node.get("clip"), node.get("input_forget", 0)
        self._reset_after = node.get("linear_before_reset", 0)
        self.step = getattr(self, f"_{node.op.lower()}")

    def _apply(self, number: int, x: np.ndarray) -> np.ndarray:
        """An activation, within the bounds of `clip`."""
        return self._functions[number](x if self._clip is None else np.clip(x, -self._clip, self._clip))

    def _rnn(self, inputs: np.ndarray, h: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
        return [self._apply(0, inputs + h @ self._r), c]

    def _lstm(self, inputs: np.ndarray, h: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
        size, sums = self._size, h @ self._r
        sums += inputs
        if self._peepholes is not None:
            sums[..., :size] += self._peepholes[0] * c
            sums[..., 2 * size : 3 * size] += self._peepholes[2] * c
        open_ = self._apply(0, sums[..., : 3 * size])
        i, o, f = (open_[..., at * size : (at + 1) * size] for at in range(3))
        c = (1 - i if self._coupled else f) * c + i * self._apply(1, sums[..., 3 * size :])
        if self._peepholes is not None:  # of the output gate, which sees what has just been computed
            o = self._apply(0, sums[..., size : 2 * size] + self._peepholes[1] * c)
        return [o * self._functions[2](c), c]

    def _gru(self, inputs: np.ndarray, h: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
        size, r, after = self._size, self._r[..., 2 * self._size :], self._after
        gates = self._apply(0, inputs[..., : 2 * size] + h @ self._r[..., : 2 * size])
        update, reset = gates[..., :size], gates[..., size:]
        of_state = reset * (h @ r + after) if self._reset_after else (reset * h) @ r + after
        new = self._apply(1, inputs[..., 2 * size :] + of_state)
        return [new + update * (h - new), c]
