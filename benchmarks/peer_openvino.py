"""OpenVINO (oneDNN and kernels of its own), from the ONNX model, in float32, on arrays in our layout, NHWC.

The transposes that this puts at both ends of the model are merged into the layouts that its layers choose. Arrays in
NCHW were slower on every layer that was tried: then the layers' layouts cost copies.
"""

from __future__ import annotations

import numpy as np
from graph import Graph, Unsupported
from peer_onnx import onnx_model
from problem import Prepared

__all__ = ["prepare", "prepare_file"]


def prepare(graph: Graph, threads: int) -> Prepared:
    """Prepare OpenVINO's CPU plugin, with input and output in memory that is there before."""
    if graph.x.dtype != np.float32:
        raise Unsupported("OpenVINO's CPU plugin computes float64 in float32")
    return _prepare(onnx_model(graph), graph.x, graph.out_shape, threads)


def prepare_file(model: bytes, x: np.ndarray, out_shape: tuple[int, ...], threads: int) -> Prepared:
    """As `prepare`, from the contents of a file; images, which are NCHW there, it gets and gives in our layout."""
    given = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x
    made = (out_shape[0], *out_shape[2:], out_shape[1]) if len(out_shape) == 4 else out_shape
    return _prepare(model, given, made, threads)


def _prepare(model: bytes, x: np.ndarray, out_shape: tuple[int, ...], threads: int) -> Prepared:
    import openvino

    core = openvino.Core()
    read = core.read_model(model)
    images = x.ndim == 4
    read.reshape({read.input(): [x.shape[0], x.shape[3], *x.shape[1:3]] if images else list(x.shape)})
    steps = openvino.preprocess.PrePostProcessor(read)
    ends = ([steps.input()] if images else []) + ([steps.output()] if len(out_shape) == 4 else [])
    for end in ends:
        end.tensor().set_layout(openvino.Layout("NHWC"))
        end.model().set_layout(openvino.Layout("NCHW"))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # whoever measures may have pinned the process
    }
    request = core.compile_model(steps.build(), "CPU", options).create_infer_request()
    out = np.empty(out_shape, x.dtype)
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
    start, wait = request.start_async, request.wait
    shared = x, out  # the request writes to their memory but does not keep it

    def run() -> object:
        start()  # and `wait`: they have less to do than `infer`, which makes a dictionary of outputs
        wait()
        return shared

    return Prepared("openvino", run, lambda: out, "NHWC")
