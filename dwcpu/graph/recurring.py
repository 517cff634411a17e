"""How recurrences run on kernels: as in `lowering`."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..layers import PointwiseConv2d
from ..pipeline import Value
from ..recurrent import Recurrence
from .ir import Node
from .moves import known
from .operators.recurrent import Shapes, activations, biases, directions
from .planner import Operand, Planner, Symbol, copy_array

__all__ = ["recurrent"]

_ACTIVATIONS = {"GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"], "RNN": ["tanh"]}


def recurrent(planner: Planner, node: Node, operands: list[Operand]) -> list[Operand] | None:
    """LSTM, GRU and RNN with constant weights, of sequences of equal length."""
    x, w, r, bias, lengths, h, c, peepholes = (*operands, *[None] * 8)[:8]
    if not isinstance(x, Symbol) or not isinstance(w, np.ndarray) or not isinstance(r, np.ndarray) or not known(bias):
        return None
    if not x.array.dtype == w.dtype == r.dtype or w.dtype.char not in "fd" or not r.size:
        return None
    if activations(node) != _ACTIVATIONS[node.op]:
        return None
    if node.get("clip") is not None or node.get("input_forget", 0) or peepholes is not None:
        return None
    first = bool(node.get("layout", 0))
    if first and x.array.ndim == 3:
        x = x.view(x.array.swapaxes(0, 1))
    begin = [_turned(each) if first else each for each in (h, c)]
    seen = [each.array if isinstance(each, Symbol) else each for each in (bias, lengths, *begin)]
    names = "bias", "sequence_lens", "initial_h", "initial_c"
    shapes = Shapes.of(node, x.array, w, r, **dict(zip(names, seen, strict=True)))
    steps, batch, sides, gates, size = shapes
    if any(each is not None and each.dtype != w.dtype for each in seen[2:]):
        return None  # NumPy converts them
    if lengths is not None and not (isinstance(lengths, np.ndarray) and (lengths == steps).all()):
        return None
    key, weights = tuple(node.outputs), node.inputs[1:4]
    before, after = biases(node, bias if isinstance(bias, np.ndarray) else None, shapes, w.dtype)
    kind = "gru_before" if node.op == "GRU" and not node.get("linear_before_reset", 0) else node.op.lower()
    backwards = [*directions(node), -1].index(-1)
    layer = planner.layer(
        (key, "inputs"), weights, lambda: PointwiseConv2d(w.reshape(-1, w.shape[-1]).T, before.reshape(-1))
    )
    states = planner.layer((key, "states"), weights, lambda: Recurrence(kind, r.swapaxes(1, 2), after, backwards))
    kernel = states.kernel(steps, batch, planner.threads)
    if kernel is None:
        return None
    rows = planner.matrix(x)._replace(shape=(1, 1, steps * batch, w.shape[-1]))
    given = planner.run_layer(layer, rows, None, np.empty((steps, batch, sides, gates * size), w.dtype), named=False)
    held = _begun(planner, begin[: 2 if kind == "lstm" else 1], (sides, batch, size), w.dtype)
    made = planner.symbol(np.empty(kernel.out_shape, w.dtype))
    planner.operate(kernel, given.value(), held, made.value())
    planner.describe(node.op.lower())
    every, *last = made.array[:steps], *made.array[steps:]
    if first:
        every, last = np.moveaxis(every, 2, 0), [each.swapaxes(0, 1) for each in last]
    return [made.view(each) for each in (every, *last)]


def _turned(state: Operand) -> Operand:
    """A state whose batches come first, as one whose directions do."""
    if isinstance(state, Symbol):
        return state.view(state.array.swapaxes(0, 1))
    return None if state is None else state.swapaxes(0, 1)


def _begun(planner: Planner, states: list[Operand], shape: tuple[int, ...], dtype: np.dtype) -> Value | None:
    """What sequences begin with, one state behind the other; None for zeros."""
    if all(each is None or (isinstance(each, np.ndarray) and not each.any()) for each in states):
        return None
    held = planner.symbol(np.empty((len(states), *shape), dtype))
    for at, each in enumerate(states):
        place = held.array[at]
        if isinstance(each, Symbol):
            planner.move(each, each.array, held, place)
        else:
            planner.call(partial(copy_array, np.zeros(shape) if each is None else each), [], [held.value(place)])
    return held.value()
