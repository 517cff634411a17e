"""The engines we are measured against, each behind one call: prepare once, run many times.

A peer is a function ``(problem, threads) -> Prepared`` in the table `PEERS`; it may raise `Unsupported`. Every peer
gets what it likes best: its own layout, its weights packed beforehand, its graph optimised, its output written into
memory that is already there. Adding one is two edits: write the function, add its row.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from problem import Prepared, Problem

__all__ = ["PEERS", "Unsupported", "available", "onnx_model", "onnxruntime_session", "prepare"]


class Unsupported(Exception):
    """The peer has no implementation of this problem (a dtype, say)."""


# ---------------------------------------------------------------------------------------------------------------------
# onnxruntime
# ---------------------------------------------------------------------------------------------------------------------


def _oihw(w: np.ndarray, op: str) -> np.ndarray:
    """Our weights in the layout of ONNX and PyTorch, `(Cout, Cin / groups, KH, KW)`."""
    if op == "pointwise":
        return np.ascontiguousarray(w.T)[:, :, None, None]
    if op == "depthwise":  # (KH, KW, C, M) -> (C * M, 1, KH, KW)
        kernel_h, kernel_w, channels, multiplier = w.shape
        return np.ascontiguousarray(w.transpose(2, 3, 0, 1)).reshape(channels * multiplier, 1, kernel_h, kernel_w)
    return np.ascontiguousarray(w.transpose(3, 2, 0, 1))


def _activation_nodes(activation: str | None, source: str, target: str) -> Iterator[Any]:
    from onnx import helper

    if activation is None:
        yield helper.make_node("Identity", [source], [target])
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


def onnx_model(problem: Problem) -> bytes:
    """Write the problem as an ONNX graph on NCHW: a Conv and its activation for each convolution, an Add at the end."""
    from onnx import TensorProto, helper, numpy_helper

    element = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}[problem.x.dtype]
    constants = [
        numpy_helper.from_array(np.array(0, problem.x.dtype), "zero"),
        numpy_helper.from_array(np.array(6, problem.x.dtype), "six"),
    ]
    nodes = []
    value = "x"
    for i, (conv, w, b) in enumerate(zip(problem.shape.convs, problem.weights, problem.biases, strict=True)):
        oihw = _oihw(w, conv.op)
        constants += [numpy_helper.from_array(oihw, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        (top, bottom), (left, right) = conv.padding
        pads = [top, left, bottom, right]
        options: dict[str, Any] = {"strides": conv.stride, "pads": pads, "dilations": conv.dilation}
        names = [value, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Conv", names, [f"conv{i}"], group=conv.groups, **options))
        nodes += _activation_nodes(conv.activation, f"conv{i}", f"act{i}")
        value = f"act{i}"
    nodes.append(helper.make_node("Add", [value, "x"], ["y"]) if problem.shape.residual else _identity(value))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        problem.shape.suite,
        [helper.make_tensor_value_info("x", element, _nchw(problem.x.shape))],
        [helper.make_tensor_value_info("y", element, _nchw(problem.out_shape))],
        [constant for constant in constants if constant.name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


def _identity(value: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [value], ["y"])  # removed by the graph optimiser


def _nchw(nhwc: tuple[int, ...]) -> tuple[int, ...]:
    return nhwc[0], nhwc[3], nhwc[1], nhwc[2]


def onnxruntime_session(model: bytes, threads: int, blocked: bool = True) -> Any:
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


def bind(session: Any, x: np.ndarray) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """Bind input and output of a session with one of each to memory: a call to run it and one to look at the output."""
    import onnxruntime

    (source,), (target,) = session.get_inputs(), session.get_outputs()
    inside = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    outside = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(target.shape, x.dtype))
    binding = session.io_binding()
    binding.bind_ortvalue_input(source.name, inside)
    binding.bind_ortvalue_output(target.name, outside)
    return (lambda: session.run_with_iobinding(binding)), outside.numpy


def _onnxruntime(problem: Problem, threads: int) -> Prepared:
    """Prepare MLAS through onnxruntime, in its plain or its blocked layout: whichever runs this problem faster."""
    if problem.x.dtype != np.float32:
        raise Unsupported("onnxruntime's Conv runs in float32 only")
    model = onnx_model(problem)
    x = np.ascontiguousarray(problem.x.transpose(0, 3, 1, 2))
    ways = {
        "blocked (NCHWc) inside": bind(onnxruntime_session(model, threads, blocked=True), x),
        "plain NCHW": bind(onnxruntime_session(model, threads, blocked=False), x),
    }
    note = min(ways, key=lambda way: _quick(ways[way][0]))
    run, output = ways[note]
    return Prepared("onnxruntime", run, lambda: output().transpose(0, 2, 3, 1), note)


def _quick(run: Callable[[], object], rounds: int = 15) -> float:
    """Best of a few calls, in seconds; good enough to choose between two ways."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[3:])


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch
# ---------------------------------------------------------------------------------------------------------------------


def _torch(problem: Problem, threads: int) -> Prepared:
    """Prepare oneDNN through PyTorch: channels-last tensors, inference mode, activations in place."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    x = torch.from_numpy(problem.x).permute(0, 3, 1, 2)  # NHWC memory seen as NCHW: channels last
    apply = {
        None: lambda v: v,
        "relu": functional.relu_,
        "relu6": lambda v: functional.hardtanh_(v, 0.0, 6.0),
        "hardswish": lambda v: functional.hardswish(v, inplace=True),
        "hardsigmoid": lambda v: functional.hardsigmoid(v, inplace=True),
        "silu": lambda v: functional.silu(v, inplace=True),
        "sigmoid": lambda v: v.sigmoid_(),
        "gelu": functional.gelu,
    }
    steps = []
    for conv, w, b in zip(problem.shape.convs, problem.weights, problem.biases, strict=True):
        weight = torch.from_numpy(_oihw(w, conv.op)).contiguous(memory_format=torch.channels_last)
        pads = [side for pair in reversed(conv.padding) for side in pair]  # left, right, top, bottom
        even = pads[0] == pads[1] and pads[2] == pads[3]
        steps.append((conv, weight, torch.from_numpy(b), pads, (pads[2], pads[0]) if even else None))
    last: list[Any] = [None]

    def run() -> None:
        value = x
        with torch.inference_mode():
            for conv, weight, bias, pads, padding in steps:
                if padding is None:
                    value = functional.pad(value, pads)
                value = functional.conv2d(value, weight, bias, conv.stride, padding or 0, conv.dilation, conv.groups)
                value = apply[conv.activation](value)
            last[0] = value + x if problem.shape.residual else value

    return Prepared("torch", run, lambda: last[0].permute(0, 2, 3, 1).numpy(), note="eager, channels_last")


#: name -> (module that must be installed, how to prepare a problem)
PEERS: dict[str, tuple[str, Callable[[Problem, int], Prepared]]] = {
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "torch": ("torch", _torch),
}


def available() -> list[str]:
    """Names of the peers that are installed."""
    return [name for name, (module, _) in PEERS.items() if importlib.util.find_spec(module) is not None]


def prepare(name: str, problem: Problem, threads: int = 1) -> Prepared:
    """Make a peer ready for a problem; raises `Unsupported` where it has no implementation."""
    return PEERS[name][1](problem, threads)
