"""Small ONNX models for tests of files, and what is expected of bad ones."""

from __future__ import annotations

import io
import json
import random as random_module
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_networks import Builder

import dwcpu

node = helper.make_node
Random = random_module.Random
X = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def model(
    nodes: list[Any], constants: Any = (), *, outputs: tuple[str, ...] = ("y",), opset: int = 18, inputs: Any = ("x",)
) -> Any:
    """An ONNX model of one image x; `constants` are arrays by name, or tensors, `inputs` names or declarations."""
    if isinstance(constants, dict):
        constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(each, TensorProto.FLOAT, None) if isinstance(each, str) else each
            for each in inputs
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def load(proto: Any, **options: Any) -> dwcpu.graph.Model:
    return dwcpu.load_onnx(proto.SerializeToString(), **options)


def refused(proto: Any, *words: str, **options: Any) -> str:
    """Check that loading raises nothing but a ValueError with these words: its text."""
    with pytest.raises(ValueError) as caught:
        load(proto, **options)
    text = str(caught.value)
    assert all(word in text for word in words), text
    return text


RELU = [node("Relu", ["x"], ["y"], name="only")]


def small() -> bytes:
    b = Builder(3)
    x = b.conv("x", 3, 8, 3, act="relu6")
    x = b.squeeze_excite(b.conv(x, 8, 8, 3, groups=8, act="hardswish_decomposed"), 8, 4, "relu", "sigmoid")
    return b.model("small", [b.classifier(b.add("Add", x, b.conv(x, 8, 8)), 8, softmax=True)])


SMALL = small()


def saved() -> bytes:
    from dwcpu.graph import store

    return store.dump(dwcpu.load_onnx(SMALL).graph)


def parts(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the arrays of a saved model."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    return json.loads(arrays.pop("graph").tobytes()), arrays


def joined(head: Any, arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    np.savez(content, graph=np.frombuffer(text, np.uint8), **arrays)
    return content.getvalue()


def chain_of_functions(count: int, within: bool = False) -> Any:
    """Each calls the one before it twice, in a branch if that is asked for: 2**(count - 1) nodes in a few lines."""
    functions = [function("F0", [node("Relu", ["a"], ["b"])], ["a"], ["b"])]
    for number in range(1, count):
        names = (("a", "t"), ("t", "b"))
        calls = [node(f"F{number - 1}", [begin], [end], domain="ours") for begin, end in names]
        if within:
            branch = helper.make_graph(calls, "within", [], [helper.make_empty_tensor_value_info("b")])
            calls = [node("If", ["a"], ["b"], then_branch=branch, else_branch=branch)]
        functions.append(function(f"F{number}", calls, ["a"], ["b"]))
    return with_functions([node(f"F{count - 1}", ["x"], ["y"], domain="ours")], *functions)


def function(name: str, nodes: list[Any], inputs: list[str], outputs: list[str], attributes: Sequence[str] = ()) -> Any:
    sets = [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)]
    return helper.make_function("ours", name, inputs, outputs, nodes, sets, attributes)


def with_functions(nodes: list[Any], *functions: Any, **options: Any) -> Any:
    proto = model(nodes, **options)
    proto.opset_import.add(domain="ours", version=1)
    proto.functions.extend(functions)
    return proto
