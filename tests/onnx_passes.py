"""What tests of passes share: a graph is run with each pass left out, and looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import dwcpu
from dwcpu.graph.passes import PASSES

node = helper.make_node
C = 6
X = np.random.default_rng(0).standard_normal((2, C, 5, 4)).astype(np.float32) * 3


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(random(*shape)) + 0.5


def number(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def write(
    nodes: Sequence[Any],
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, Any],
    outputs: Sequence[str],
    opset: int,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(model.SerializeToString())


def expected(content: bytes, feeds: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    if opset > 22:  # newer than onnxruntime is sure to know
        return list(ReferenceEvaluator(content).run(None, dict(feeds)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"]).run(None, dict(feeds))


def simplified(
    nodes: Sequence[Any],
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    *,
    feeds: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
    rounding: float = 2e-5,
) -> list[Any]:
    """Check that a graph gives what onnxruntime gives, whatever passes are left out: the nodes that all leave."""
    feeds = {"x": X} if feeds is None else feeds
    content = write(nodes, feeds, constants or {}, outputs, opset)
    wanted = expected(content, feeds, opset)
    for without in ((), *((name,) for name in PASSES), tuple(PASSES)):
        results = dwcpu.load_onnx(content, without=without)(dict(feeds))
        for result, each in zip(results if isinstance(results, tuple) else (results,), wanted, strict=True):
            assert (result.shape, result.dtype) == (each.shape, each.dtype), without
            if each.dtype.kind != "f":
                np.testing.assert_array_equal(result, each, err_msg=f"without {without}")
                continue
            finite = np.abs(each[np.isfinite(each)]).max(initial=1)
            np.testing.assert_allclose(result, each, rtol=0, atol=rounding * finite, err_msg=f"without {without}")
    return dwcpu.load_onnx(content).simplified.nodes


def operators(nodes: Sequence[Any]) -> list[str]:
    return [each.op for each in nodes]


def activations(nodes: Sequence[Any]) -> list[Any]:
    before = [part for each in nodes for part in each.get("before", ()) if part is not None]
    return [each.get("activation") for each in (*before, *nodes) if each.get("activation") is not None]


def norm(source: str = "c", result: str = "y") -> Any:
    return node("BatchNormalization", [source, "s", "b", "m", "v"], [result])
