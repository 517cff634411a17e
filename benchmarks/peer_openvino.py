"""OpenVINO (oneDNN and kernels of its own), from the ONNX model, in float32, on arrays in our layout, NHWC.

The transposes that this puts at both ends of the model are merged into the layouts that its layers choose. Arrays in
NCHW were slower on every layer that was tried: then the layers' layouts cost copies.
"""

from __future__ import annotations

import numpy as np
from graph import Graph, Unsupported
from peer_onnx import onnx_model
from problem import Prepared

__all__ = ["prepare"]


def prepare(graph: Graph, threads: int) -> Prepared:
    """Prepare OpenVINO's CPU plugin, with input and output in memory that is there before."""
    import openvino

    if graph.x.dtype != np.float32:
        raise Unsupported("OpenVINO's CPU plugin computes float64 in float32")
    core = openvino.Core()
    steps = openvino.preprocess.PrePostProcessor(core.read_model(onnx_model(graph)))
    ends = [steps.input()] + ([steps.output()] if len(graph.out_shape) == 4 else [])
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
    out = np.empty(graph.out_shape, graph.x.dtype)
    request.set_input_tensor(openvino.Tensor(graph.x, shared_memory=True))
    request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
    start, wait = request.start_async, request.wait
    shared = graph.x, out  # the request writes to their memory but does not keep it

    def run() -> object:
        start()  # and `wait`: they have less to do than `infer`, which makes a dictionary of outputs
        wait()
        return shared

    return Prepared("openvino", run, lambda: out, "NHWC")
