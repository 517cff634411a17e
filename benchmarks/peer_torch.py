"""PyTorch (oneDNN and kernels of its own): channels-last tensors, inference mode, activations in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from graph import Graph, Node
from peer_onnx import oihw
from problem import Prepared

__all__ = ["prepare"]


def prepare(graph: Graph, threads: int) -> Prepared:
    """Prepare eager PyTorch, which computes node after node."""
    import torch

    torch.set_num_threads(threads)
    x = torch.from_numpy(graph.x).permute(0, 3, 1, 2)  # NHWC memory seen as NCHW: channels last
    steps = [(_step(node), node.inputs) for node in graph.nodes]
    last: list[Any] = [None]

    def run() -> None:
        values = [x]
        with torch.inference_mode():
            for step, inputs in steps:
                values.append(step(*[values[i] for i in inputs]))
        last[0] = values[-1]

    def result() -> np.ndarray:
        return (last[0].permute(0, 2, 3, 1) if last[0].ndim == 4 else last[0]).numpy()

    return Prepared("torch", run, result, "eager, channels last")


def _step(node: Node) -> Callable[..., Any]:
    """The node as a function of tensors."""
    import torch
    from torch.nn import functional

    if node.op == "add":
        return torch.add
    if node.op == "pool":
        return lambda v: v.mean((2, 3), keepdim=True)
    if node.op == "dense":
        matrix, offset = (torch.from_numpy(a) for a in node.matrix)
        return lambda v: torch.addmm(offset, v.flatten(1), matrix)
    conv, w, b = node.convolution
    activate: Callable[[Any], Any] = {
        None: lambda v: v,
        "relu": functional.relu_,
        "relu6": lambda v: functional.hardtanh_(v, 0.0, 6.0),
        "hardswish": lambda v: functional.hardswish(v, inplace=True),
        "hardsigmoid": lambda v: functional.hardsigmoid(v, inplace=True),
        "silu": lambda v: functional.silu(v, inplace=True),
        "sigmoid": lambda v: v.sigmoid_(),
        "gelu": functional.gelu,
    }[conv.activation]
    weight = torch.from_numpy(oihw(w, conv.op)).contiguous(memory_format=torch.channels_last)
    bias = torch.from_numpy(b)
    (top, bottom), (left, right) = conv.padding
    even = top == bottom and left == right

    def run(value: Any) -> Any:
        if not even:
            value = functional.pad(value, (left, right, top, bottom))
        padding = (top, left) if even else 0
        return activate(functional.conv2d(value, weight, bias, conv.stride, padding, conv.dilation, conv.groups))

    return run
