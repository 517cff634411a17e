"""ncnn: its parameter text and weights are written here; input and output are packed as its layers like them.

It computes one image at a time, so a batch is that many runs in a row.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from graph import Graph, Node, Unsupported
from peer_onnx import nchw, oihw
from problem import Prepared

__all__ = ["prepare", "written"]

#: Activations that a convolution can carry: number and parameters.
_FUSED: dict[str | None, tuple[int, list[float]]] = {
    None: (0, []),
    "relu": (1, []),
    "relu6": (3, [0.0, 6.0]),
    "sigmoid": (4, []),
    "hardswish": (6, [1 / 6, 0.5]),
}

_OTHERS = {"silu": "Swish", "gelu": "GELU"}


def written(graph: Graph) -> tuple[str, bytes]:
    """The model as ncnn's parameter text and weights; blobs are called `v0`, `v1`, … as the values of the graph are."""
    uses = [0] * (len(graph.nodes) + 1)
    for node in graph.nodes:
        for value in node.inputs:
            uses[value] += 1
    layers: list[str] = []
    weights: list[bytes] = []
    taken = [0] * len(uses)

    def layer(kind: str, inputs: list[str], outputs: list[str], *parameters: str) -> None:
        counts = f"{len(inputs)} {len(outputs)}"
        layers.append(" ".join([kind, f"l{len(layers)}", counts, *inputs, *outputs, *parameters]))

    def copies(value: int) -> None:
        if uses[value] > 1:  # a blob has one reader
            layer("Split", [f"v{value}"], [f"v{value}_{i}" for i in range(uses[value])])

    def name(value: int) -> str:
        if uses[value] < 2:
            return f"v{value}"
        taken[value] += 1
        return f"v{value}_{taken[value] - 1}"

    layer("Input", [], ["v0"])
    copies(0)
    for i, node in enumerate(graph.nodes, 1):
        inputs = [name(value) for value in node.inputs]
        if node.op == "add":
            layer("BinaryOp", inputs, [f"v{i}"], "0=0")
        elif node.op == "pool":
            layer("Pooling", inputs, [f"v{i}"], "0=1", "4=1")
        elif node.op == "dense":
            w, b = node.matrix
            layer("InnerProduct", inputs, [f"v{i}"], f"0={w.shape[1]}", "1=1", f"2={w.size}")
            weights += [bytes(4), np.ascontiguousarray(w.T).tobytes(), b.tobytes()]
        else:
            activation = node.convolution[0].activation
            fused = activation in _FUSED
            _convolution(node, inputs, f"v{i}" if fused else f"v{i}_linear", layer, weights)
            if not fused:
                if activation not in _OTHERS:
                    raise Unsupported(f"ncnn has no {activation}")
                layer(_OTHERS[activation], [f"v{i}_linear"], [f"v{i}"])
        copies(i)
    blobs = sum(int(line.split()[3]) for line in layers)
    return f"7767517\n{len(layers)} {blobs}\n" + "\n".join(layers) + "\n", b"".join(weights)


def _convolution(node: Node, inputs: list[str], output: str, layer: Any, weights: list[bytes]) -> None:
    conv, w, b = node.convolution
    kernel = (1, 1) if conv.op == "pointwise" else conv.w_shape[:2]
    (top, bottom), (left, right) = conv.padding
    number, values = _FUSED.get(conv.activation, (0, []))
    numbers = {
        0: len(b), 1: kernel[1], 11: kernel[0], 2: conv.dilation[1], 12: conv.dilation[0],
        3: conv.stride[1], 13: conv.stride[0], 4: left, 15: right, 14: top, 16: bottom, 5: 1, 6: w.size, 9: number,
    }  # fmt: skip
    if conv.groups > 1:
        numbers[7] = conv.groups
    parameters = [f"{key}={value}" for key, value in numbers.items()]
    if values:
        parameters.append(f"-23310={len(values)}," + ",".join(f"{value:.9e}" for value in values))
    layer("ConvolutionDepthWise" if conv.groups > 1 else "Convolution", inputs, [output], *parameters)
    weights += [bytes(4), oihw(w, conv.op).tobytes(), b.tobytes()]  # four zeros: float32 follows


def prepare(graph: Graph, threads: int) -> Prepared:
    """Prepare ncnn with packed layouts and pools of memory, in float32 throughout."""
    import ncnn

    if graph.x.dtype != np.float32:
        raise Unsupported("ncnn has no convolution in float64")
    text, weights = written(graph)
    net = ncnn.Net()
    options = net.opt
    options.num_threads = threads
    options.blob_allocator, options.workspace_allocator = _pools()
    options.use_packing_layout = True
    for kind in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        setattr(options, f"use_{kind}", False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        path.write_bytes(weights)
        if net.load_param_mem(text) != 0 or net.load_model(str(path)) != 0:
            raise Unsupported("ncnn does not read the model")
    images = nchw(graph.x)
    channels = graph.x.shape[3]
    pack = next(size for size in (16, 8, 4, 1) if channels % size == 0 and size <= _lanes())
    inputs = [ncnn.convert_packing(ncnn.Mat(image).clone(), pack) for image in images]
    last = f"v{len(graph.nodes)}"
    outputs: list[Any] = [None] * len(inputs)

    def run() -> None:
        for i, image in enumerate(inputs):
            extractor = net.create_extractor()
            extractor.input("v0", image)
            outputs[i] = extractor.extract(last, 1)[1]  # 1: as it is, not unpacked

    def result() -> np.ndarray:
        plain = np.stack([np.array(ncnn.convert_packing(mat, 1)) for mat in outputs])
        return plain.transpose(0, 2, 3, 1) if len(graph.out_shape) == 4 else plain

    return Prepared("ncnn", run, result, f"channels in packs of {pack}")


@cache
def _pools() -> tuple[Any, Any]:
    """Memory for results and for work, kept between runs; it must outlive everything that was made in it."""
    import ncnn

    return ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()


def _lanes() -> int:
    """Float32 lanes of ncnn's vectors on this CPU."""
    import ncnn

    return 8 if ncnn.cpu_support_x86_avx() else 4
