"""A graph as an ONNX model, NCHW, and onnxruntime (MLAS) running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from graph import Graph, Node, Unsupported
from problem import Prepared
from timing import quickest

__all__ = ["nchw", "oihw", "onnx_model", "prepare", "prepare_file"]


def nchw(array: np.ndarray) -> np.ndarray:
    """An NHWC array in the layout of ONNX; `(N, C)` stays what it is."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def oihw(w: np.ndarray, op: str) -> np.ndarray:
    """Our weights in the layout of ONNX and PyTorch, `(Cout, Cin / groups, KH, KW)`."""
    if op == "pointwise":
        return np.ascontiguousarray(w.T)[:, :, None, None]
    if op == "depthwise":  # (KH, KW, C, M) -> (C * M, 1, KH, KW)
        kernel_h, kernel_w, channels, multiplier = w.shape
        return np.ascontiguousarray(w.transpose(2, 3, 0, 1)).reshape(channels * multiplier, 1, kernel_h, kernel_w)
    return np.ascontiguousarray(w.transpose(3, 2, 0, 1))


def _activation(activation: str | None, source: str, target: str) -> Iterator[Any]:
    from onnx import helper

    if activation is None:
        yield helper.make_node("Identity", [source], [target])  # removed by every graph optimiser
    elif activation == "relu6":
        yield helper.make_node("Clip", [source, "zero", "six"], [target])
    elif activation == "silu":
        yield helper.make_node("Sigmoid", [source], [source + "_sigmoid"])
        yield helper.make_node("Mul", [source, source + "_sigmoid"], [target])
    elif activation == "hardsigmoid":
        yield helper.make_node("HardSigmoid", [source], [target], alpha=1 / 6, beta=0.5)
    else:
        kind = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid", "gelu": "Gelu"}[activation]
        yield helper.make_node(kind, [source], [target])


def _nodes(node: Node, name: str, constants: dict[str, np.ndarray]) -> Iterator[Any]:
    """The ONNX nodes of one of ours, whose result is called `name`; adds what is constant to `constants`."""
    from onnx import helper

    inputs = [f"v{i}" for i in node.inputs]
    if node.op == "add":
        yield helper.make_node("Add", inputs, [name])
    elif node.op == "pool":
        yield helper.make_node("GlobalAveragePool", inputs, [name])
    elif node.op == "dense":
        constants[name + "_w"], constants[name + "_b"] = node.matrix
        yield helper.make_node("Flatten", inputs, [name + "_flat"])
        yield helper.make_node("Gemm", [name + "_flat", name + "_w", name + "_b"], [name])
    else:
        conv, w, b = node.convolution
        constants[name + "_w"], constants[name + "_b"] = oihw(w, conv.op), b
        (top, bottom), (left, right) = conv.padding
        pads = [top, left, bottom, right]
        options: dict[str, Any] = {"strides": conv.stride, "pads": pads, "dilations": conv.dilation}
        operands = [*inputs, name + "_w", name + "_b"]
        yield helper.make_node("Conv", operands, [name + "_conv"], group=conv.groups, **options)
        yield from _activation(conv.activation, name + "_conv", name)


def onnx_model(graph: Graph) -> bytes:
    """Write a graph as an ONNX model with input "v0", a Conv and its activation for each convolution."""
    from onnx import TensorProto, helper, numpy_helper

    element = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}[graph.x.dtype]
    constants = {"zero": np.array(0, graph.x.dtype), "six": np.array(6, graph.x.dtype)}
    nodes = [made for i, node in enumerate(graph.nodes) for made in _nodes(node, f"v{i + 1}", constants)]
    used = {name for node in nodes for name in node.input}
    shapes = [(s[0], s[3], s[1], s[2]) if len(s) == 4 else s for s in (graph.x.shape, graph.out_shape)]
    written = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info("v0", element, shapes[0])],
        [helper.make_tensor_value_info(f"v{len(graph.nodes)}", element, shapes[1])],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items() if name in used],
    )
    model = helper.make_model(written, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


def _session(model: bytes, threads: int, blocked: bool) -> Any:
    """Make a session set up for latency: a thread pool of `threads` that spins, all graph optimisations.

    `blocked` allows the layout NCHWc inside the graph; a graph of one layer pays for the way there and back.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if blocked else levels.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bind(session: Any, x: np.ndarray) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """Bind input and output of a session with one of each to memory: a call to run it and one to look at the output."""
    import onnxruntime

    (source,), (target,) = session.get_inputs(), session.get_outputs()
    inside = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    (made,) = session.run(None, {source.name: x})  # shapes that the file leaves open
    outside = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(made.shape, made.dtype))
    binding = session.io_binding()
    binding.bind_ortvalue_input(source.name, inside)
    binding.bind_ortvalue_output(target.name, outside)

    def result() -> np.ndarray:
        array = outside.numpy()
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

    return (lambda: session.run_with_iobinding(binding)), result


def prepare(graph: Graph, threads: int) -> Prepared:
    """Prepare MLAS through onnxruntime, in its plain or its blocked layout: whichever runs this graph faster."""
    if graph.x.dtype != np.float32:
        raise Unsupported("onnxruntime's Conv runs in float32 only")
    return prepare_file(onnx_model(graph), nchw(graph.x), graph.out_shape, threads)


def prepare_file(model: bytes, x: np.ndarray, out_shape: tuple[int, ...], threads: int) -> Prepared:
    """As `prepare`, from the contents of a file; `out_shape` is of no use here."""
    ways = {
        "blocked (NCHWc) inside": _bind(_session(model, threads, blocked=True), x),
        "plain NCHW": _bind(_session(model, threads, blocked=False), x),
    }
    note = quickest({way: run for way, (run, _) in ways.items()})
    return Prepared("onnxruntime", *ways[note], note)
