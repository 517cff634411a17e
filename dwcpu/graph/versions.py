"""Older versions of operators, brought to the newest form, so that everything else knows one form of each.

The versions are those of ONNX's operator sets 6 to the newest. Most changes moved an attribute to an input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .ir import Node

__all__ = ["OLDEST", "modernise"]

#: The oldest operator set that is read. Its arithmetic broadcasts by attributes; 7 and later do as NumPy does.
OLDEST = 6

_ARITHMETIC = {"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"}
#: Operator -> version from which on its axes are an input.
_AXES = {
    "ReduceL1": 18,
    "ReduceL2": 18,
    "ReduceMax": 18,
    "ReduceMean": 18,
    "ReduceMin": 18,
    "ReduceProd": 18,
    "ReduceSum": 13,
    "ReduceSumSquare": 18,
    "Squeeze": 13,
    "Unsqueeze": 13,
}

#: Makes a constant of an array: its name.
Keep = Callable[[str, np.ndarray], str]


def modernise(node: Node, opset: int, keep: Keep) -> list[Node]:
    """The node as the newest operator set writes it, behind others that it then needs.

    Parameters
    ----------
    node : Node
        Changed in place.
    opset : int
        Version of its operator set.
    keep : callable
        ``keep(hint, array)`` makes a constant and gives its name.
    """
    before: list[Node] = []

    def as_input(index: int, attribute: str, dtype: Any = np.int64) -> None:
        """Turn an attribute into an input."""
        value = node.attributes.pop(attribute, None)
        if value is not None:
            node.inputs += [""] * (index + 1 - len(node.inputs))
            node.inputs[index] = keep(f"{node.name}.{attribute}", np.array(value, dtype))

    op = node.op
    if op == "TopK" and opset < 10:
        as_input(1, "k")
    if op in _AXES and opset < _AXES[op]:
        as_input(1, "axes")
    elif op in _ARITHMETIC and opset < 7:
        axis = node.attributes.pop("axis", None)
        if node.attributes.pop("broadcast", 0) and axis is not None:
            before.append(_aligned(node, axis))
    elif op == "PRelu" and opset < 7:
        before.append(_aligned(node, 1))
    elif op == "Clip" and opset < 11:
        as_input(1, "min", np.float32)
        as_input(2, "max", np.float32)
    elif op == "Pad" and opset < 11:
        as_input(1, "pads")
        as_input(2, "value", np.float32)
    elif op == "Slice" and opset < 10:
        as_input(1, "starts")
        as_input(2, "ends")
        as_input(3, "axes")
    elif op == "Split" and opset < 13:
        as_input(1, "split")
    elif op in ("Softmax", "LogSoftmax") and opset < 13:
        node.attributes.setdefault("axis", 1)
        node.attributes["flattened"] = 1
    elif op == "Upsample" or (op == "Resize" and opset < 11):
        as_input(1, "scales", np.float32)
        mode = node.get("mode", "nearest")
        node.attributes["mode"] = "linear" if mode == "bilinear" else mode
        node.attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        node.op, node.inputs = "Resize", [node.inputs[0], "", *node.inputs[1:]]
    elif op == "RoiAlign" and opset < 16:
        node.attributes["coordinate_transformation_mode"] = "output_half_pixel"
    elif op == "BatchNormalization" and opset < 9 and node.get("spatial", 1) != 1:
        node.attributes["training_mode"] = 1  # statistics of every pixel: nobody exports that any more
    return [*before, node]


def _aligned(node: Node, axis: int) -> Node:
    """A node that brings the second input's axes below those of the first from `axis` on."""
    name = f"{node.outputs[0]}.aligned"
    made = Node("Align", f"{node.name}.align", [node.inputs[1], node.inputs[0]], [name], {"axis": int(axis)})
    node.inputs[1] = name
    return made
