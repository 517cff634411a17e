"""How much there is to compute in a node that no kernel of ours runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from .. import runtime
from .ir import Node

__all__ = ["flops"]


def flops(node: Node, operands: Sequence[Any], results: Sequence[Any]) -> int:
    """Floating-point operations of a node: of sums of products two each, of all others one for each result.

    Parameters
    ----------
    node : Node
    operands, results : sequence of ndarray or None
        Of which only shapes are looked at.
    """
    made = sum(each.size for each in results if each is not None)
    plan = node.get("run") and node.get("run").plan(operands, runtime.get_num_threads())
    if plan is not None:
        return sum(entry.row.flops for entry in plan.entries)
    if len(operands) < 2 or any(each is None for each in (*operands[:2], *results[:1])):
        return made
    x, w = operands[:2]
    if node.op == "Conv":
        return int(2 * results[0].size * prod(w.shape[1:]))
    if node.op == "ConvTranspose":
        return int(2 * x.size * prod(w.shape[1:]))
    if node.op in ("Gemm", "MatMul") and x.ndim:
        return int(2 * results[0].size * x.shape[0 if node.get("transA", 0) else -1])
    if node.op in ("GRU", "LSTM", "RNN"):
        return int(2 * prod(x.shape[:2]) * (w.size + operands[2].size))
    return made
