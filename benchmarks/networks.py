"""Whole networks against onnxruntime: the graph is written from the same record of layers and the same arrays.

BatchNorm stays in the graph as nodes of its own; folding it into the convolutions is the optimiser's job there and
`fold_batchnorm`'s here. Weights are random: time does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import peers
import roofline
from problem import Prepared

from dwcpu.models import architectures, load
from dwcpu.models.architectures import Architecture, Convolution

__all__ = ["NAMES", "contenders", "onnx_model"]

NAMES = ("mobilenet_v1", "mobilenet_v2", "efficientnet_lite0")
SIZE = 224


def _convolution(conv: Convolution, source: str, eps: float) -> Iterator[Any]:
    """Conv, BatchNormalization, Clip; the result is called `conv.name`."""
    from onnx import helper

    (top, bottom), (left, right) = conv.padding
    yield helper.make_node(
        "Conv", [source, conv.weight + ".weight"], [conv.name + ".conv"],
        kernel_shape=[conv.kernel, conv.kernel], strides=[conv.stride, conv.stride], pads=[top, left, bottom, right],
        group=conv.in_channels if conv.kind == "depthwise" else 1,
    )  # fmt: skip
    normed = conv.name if conv.activation is None else conv.name + ".norm"
    parts = [f"{conv.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    yield helper.make_node("BatchNormalization", [conv.name + ".conv", *parts], [normed], epsilon=eps)
    if conv.activation is not None:
        yield helper.make_node("Clip", [normed, "zero", "six"], [conv.name])


def onnx_model(architecture: Architecture, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write a network as an ONNX graph: NCHW picture "x" in, logits "y" out."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    value = "x"
    for block in architecture.blocks:
        source = value
        for conv in block.convolutions:
            nodes += _convolution(conv, value, architecture.eps)
            value = conv.name
        if block.residual:
            nodes.append(helper.make_node("Add", [value, source], [block.name + ".sum"]))
            value = block.name + ".sum"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    head = [architecture.classifier + ".weight", architecture.classifier + ".bias"]
    nodes.append(helper.make_node("Gemm", ["flat", *head], ["y"], transB=1))
    constants = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)} | {
        key: arrays[key] for key in architecture.weight_shapes()
    }
    graph = helper.make_graph(
        nodes,
        architecture.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, architecture.classes])],
        [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


def contenders(name: str, threads: int = 1, backend: str = "auto") -> tuple[list[Prepared], int, float]:
    """Prepare our network and onnxruntime's; with them FLOPs and the sum of the layers' bounds in microseconds."""
    architecture: Architecture = getattr(architectures, name)()
    arrays = architectures.random_weights(architecture, seed=0)
    network = load(name, weights=arrays, backend=backend)
    x = np.random.default_rng(1).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32)
    last: list[Any] = [None]

    def run() -> None:
        last[0] = network(x, num_threads=threads)

    session = peers.onnxruntime_session(onnx_model(architecture, arrays), threads)
    theirs, output = peers.bind(session, np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    ready = [Prepared("dwcpu", run, lambda: last[0]), Prepared("onnxruntime", theirs, output)]
    flops, bound = cost(architecture, threads)
    return ready, flops, bound


def cost(architecture: Architecture, threads: int = 1) -> tuple[int, float]:
    """FLOPs of a network, and the sum of its layers' roofline bounds in microseconds (fusing can go below that)."""
    size, flops, bound = SIZE, 0, 0.0
    for block in architecture.blocks:
        for conv in block.convolutions:
            out = (size + sum(conv.padding[0]) - conv.kernel) // conv.stride + 1
            weights = int(np.prod(conv.weight_shape))
            operations = 2 * out * out * weights
            moved = 4 * (size * size * conv.in_channels + weights + out * out * conv.out_channels)
            flops += operations
            bound += roofline.bound_of(operations, moved, "float32", threads)
            size = out
    classifier = architecture.classes * architecture.features
    return flops + 2 * classifier, bound + roofline.bound_of(2 * classifier, 4 * classifier, "float32", threads)
