"""Graphs for tests, node by node, and what onnxruntime makes of them."""

from __future__ import annotations

import random as random_module
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx_networks import NETWORKS

import dwcpu

node = helper.make_node
Random = random_module.Random


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def random(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def write(
    nodes: Sequence[Any],
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    outputs: Sequence[str] = ("y",),
    *,
    opset: int = 18,
    shapes: Mapping[str, Any] | None = None,
    listed: bool = False,
) -> bytes:
    """A model with inputs of the types of `feeds`, of any shape unless `shapes` declares them.

    `listed` names constants among the inputs, as files before version 4 of the format had to.
    """
    constants = {name: np.asarray(array) for name, array in (constants or {}).items()}
    given = {**feeds, **(constants if listed else {})}
    inputs = []
    for name, array in given.items():
        dtype = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
        inputs.append(helper.make_tensor_value_info(name, dtype, (shapes or {}).get(name)))
    graph = helper.make_graph(
        list(nodes),
        "g",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(model.SerializeToString())


def by_onnxruntime(content: bytes, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"]).run(None, dict(feeds))


def several(results: Any) -> tuple[np.ndarray, ...]:
    return results if isinstance(results, tuple) else (results,)


def assert_close(results: Any, wanted: Sequence[np.ndarray], rounding: float = 2e-5) -> None:
    results = several(results)
    assert len(results) == len(wanted)
    for result, each in zip(results, wanted, strict=True):
        assert type(result) is np.ndarray
        assert result.shape == each.shape
        assert result.dtype == each.dtype
        assert result.flags.c_contiguous
        if each.dtype.kind == "f":
            finite = np.abs(each[np.isfinite(each)]).max(initial=1)
            np.testing.assert_allclose(result, each, rtol=0, atol=rounding * finite)
        else:
            np.testing.assert_array_equal(result, each)


def assert_same_bits(results: Any, wanted: Any) -> None:
    results, wanted = several(results), several(wanted)
    assert len(results) == len(wanted)
    for result, each in zip(results, wanted, strict=True):
        assert result.dtype == each.dtype
        np.testing.assert_array_equal(result, each, strict=True)


def agree(content: bytes, feeds: Mapping[str, np.ndarray], rounding: float = 2e-5) -> dwcpu.graph.Model:
    """Check a model against onnxruntime: the model."""
    model = dwcpu.load_onnx(content)
    assert_close(model(dict(feeds)), by_onnxruntime(content, feeds), rounding)
    return model


def network_input(name: str, at: int = -1) -> np.ndarray:
    return random(*NETWORKS[name][1][at])


IMAGES = [name for name, (_, shapes) in NETWORKS.items() if len(shapes[0]) == 4]
