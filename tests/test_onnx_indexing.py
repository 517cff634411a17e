"""Operators that find and put elements by number: what the cases of the onnx package do not try."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import runtime

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_passes import ints, node, random, simplified, write  # noqa: E402


@pytest.mark.parametrize("largest", [0, 1])
def test_a_few_of_a_long_line_are_found_before_they_are_sorted(largest) -> None:
    x = random(2, 3000).round(1)  # many are equal
    x[1, 70] = np.nan
    for feeds in ({"x": x[:1]}, {"x": (x[:1] * 10).astype(np.int32)}, {"x": np.ascontiguousarray(x[:1].T)}):
        axis = int(np.argmax(feeds["x"].shape))
        for count in (0, 1, 7, 749, 751, 3000):
            nodes = [node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest)]
            simplified(nodes, {"k": ints(count)}, ["y", "i"], feeds=feeds)
    nodes = [node("TopK", ["x", "k"], ["y", "i"], largest=largest)]
    found = dwcpu.load_onnx(write(nodes, {"x": x}, {"k": ints(5)}, ["y", "i"], 18))(x)
    assert np.isnan(found[0]).any() == bool(largest)


def test_tensors_of_a_batch_are_looked_up_together() -> None:
    indices = np.array([[[1, -1], [0, 2]], [[2, 0], [-3, 1]]])
    for shared, shape in ((0, (3, 4, 5)), (1, (2, 3, 4, 5)), (2, (2, 2, 5))):
        chosen = indices[..., :1] if shared == 2 else indices
        simplified([node("GatherND", ["x", "i"], ["y"], batch_dims=shared)], {"i": chosen}, feeds={"x": random(*shape)})


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_slices_are_assigned(reduction) -> None:
    box = np.stack(np.meshgrid([0, 1], [1, 2, 3], [-2, -1], indexing="ij"), -1)
    nodes = [node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction)]
    simplified(nodes, {"i": box, "u": random(2, 3, 2)}, feeds={"x": random(2, 5, 4)})
    simplified(nodes, {"i": ints(3, 0, -2).reshape(3, 1), "u": random(3, 2)}, feeds={"x": random(5, 2)})


def test_elements_of_a_slice_are_copied() -> None:
    box = np.stack(np.meshgrid([0, 1], [1, 2, 3], [2, 3], indexing="ij"), -1)
    nodes = [node("Abs", ["v"], ["u"]), node("ScatterND", ["x", "i", "u"], ["y"])]
    feeds = {"x": random(2, 5, 4), "v": random(2, 3, 2)}
    if runtime.cython_kernels() is not None:
        assert how(nodes, {"i": box}, feeds) == "copy"
        rows = {"i": np.stack(np.meshgrid([1], [2, 3], indexing="ij"), -1)}
        assert how(nodes, rows, {**feeds, "v": random(1, 2, 4)}) == "copy"
    apart = {"backwards": box[:, ::-1], "one twice": box[:, [0, 0, 1]], "from the end": box - [0, 0, 4]}
    for name, indices in apart.items():
        assert how(nodes, {"i": np.ascontiguousarray(indices)}, feeds) == "numpy", name
    assert how(nodes, {"i": ints(1, 2).reshape(1, 2)}, {**feeds, "v": random(1, 4)}) == "numpy"
    nodes[1] = node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")
    assert how(nodes, {"i": box}, feeds) == "numpy"


def how(nodes: list[Any], constants: dict[str, Any], feeds: dict[str, np.ndarray]) -> str:
    """What runs the last node, which gives what it should."""
    simplified(nodes, constants, feeds=feeds)
    model = dwcpu.load_onnx(write(nodes, feeds, constants, ["y"], 18))
    *_, row = model.explain({name: each.shape for name, each in feeds.items()}).rows
    return str(row.kernel)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("GatherND", ["x", "i"], ["y"])], {"i": ints(7).reshape(1, 1)}),
        ([node("GatherND", ["x", "i"], ["y"])], {"i": ints(0, 0, 0).reshape(1, 3)}),
        ([node("GatherND", ["x", "i"], ["y"], batch_dims=2)], {"i": ints(0).reshape(1, 1)}),
        ([node("ScatterND", ["x", "i", "u"], ["y"])], {"i": ints(-4).reshape(1, 1), "u": random(1, 4)}),
        ([node("ScatterND", ["x", "i", "u"], ["y"])], {"i": ints(0).reshape(1, 1), "u": random(1, 3)}),
        ([node("ScatterND", ["x", "i", "u"], ["y"])], {"i": ints(3).reshape(1, 1), "u": random(1, 4)}),
        ([node("ScatterElements", ["x", "i", "u"], ["y"])], {"i": ints(3).reshape(1, 1), "u": random(1, 1)}),
        ([node("ScatterElements", ["x", "i", "u"], ["y"])], {"i": ints(0, 0).reshape(1, 2), "u": random(1, 1)}),
        (
            [node("ScatterElements", ["x", "i", "u"], ["y"], axis=1)],
            {"i": np.zeros((4, 1), np.int64), "u": random(4, 1)},
        ),
        ([node("CumSum", ["x", "i"], ["y"])], {"i": ints(2)}),
        ([node("CumSum", ["x", "i"], ["y"])], {"i": ints(0, 1)}),
        ([node("Trilu", ["x", "i"], ["y"])], {"i": ints(0, 1)}),
        ([node("Trilu", ["i"], ["y"])], {"i": ints(0, 1)}),
        ([node("EyeLike", ["i"], ["y"])], {"i": ints(0, 1)}),
        ([node("OneHot", ["i", "i", "u"], ["y"])], {"i": ints(3), "u": random(3)}),
        ([node("OneHot", ["i", "i", "u"], ["y"])], {"i": ints(0), "u": random(2)}),
        ([node("TopK", ["x", "i"], ["y", "z"])], {"i": ints(5)}),
    ],
    ids=str,
)
def test_indices_that_are_nowhere_are_refused(nodes: list[Any], constants: dict[str, Any]) -> None:
    x = random(3, 4)
    content = write(nodes, {"x": x}, constants, nodes[0].output, 18)
    with pytest.raises(ValueError, match=nodes[0].op_type):
        dwcpu.load_onnx(content)(x)


def test_triangles_beyond_every_diagonal() -> None:
    for far in (-(2**63), 2**63 - 1, -3, 4):
        simplified([node("Trilu", ["x", "i"], ["y"])], {"i": ints(far)}, feeds={"x": random(3, 4)})


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (node("EyeLike", ["x"], ["y"], dtype=onnx.TensorProto.STRING), "EyeLike with dtype=STRING"),
        (node("Einsum", ["x"], ["y"], equation=""), "Einsum with an equation that is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_when_a_model_is_loaded(made: Any, words: str) -> None:
    with pytest.raises(dwcpu.UnsupportedOperator, match=words):
        dwcpu.load_onnx(write([made], {"x": random(3, 4)}, {}, ["y"], 18))


def test_errors_name_the_node_once() -> None:
    x, indices = random(3, 4), np.array([[5]])
    content = write([node("GatherND", ["x", "i"], ["y"], name="here")], {"x": x, "i": indices}, {}, ["y"], 18)
    with pytest.raises(ValueError, match="an index is 5; of an axis of 3 they must be -3 to 2") as caught:
        dwcpu.load_onnx(content)(x, indices)
    assert str(caught.value).count("here") == 1


def test_files_that_fix_the_batch_say_so() -> None:
    made = onnx.helper.make_graph(
        [node("Reshape", ["x", "s"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 3, 4, 5])], [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(ints(12, 5), "s")],
    )  # fmt: skip
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ValueError, match=r"the file fixes 1 as the number of images: give x\[:1\] and so on"):
        dwcpu.load_onnx(model.SerializeToString())(random(2, 3, 4, 5))


def test_the_number_of_the_largest_may_be_an_attribute_as_it_was() -> None:
    simplified([node("TopK", ["x"], ["y", "z"], k=2)], {}, ["y", "z"], feeds={"x": random(3, 5)}, opset=9)
