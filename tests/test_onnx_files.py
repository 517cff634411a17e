"""Files that are no models, or are not what they claim, are refused with a `ValueError` that says what is wrong.

Nothing outside the folder that the caller names is read. Saved models are in `test_onnx_saved`.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dwcpu

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import (  # noqa: E402
    RELU,
    SMALL,
    X,
    chain_of_functions,
    function,
    ints,
    load,
    model,
    node,
    refused,
    weights,
    with_functions,
)

# --- no models --------------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused() -> None:
    for length in (*range(0, len(SMALL), 97), len(SMALL) - 1):
        with pytest.raises(ValueError, match="load_onnx: the model"):
            dwcpu.load_onnx(SMALL[:length])
    assert dwcpu.load_onnx(SMALL)(X).shape == (1, 10)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"text that is no model at all\n" * 9,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"{}",
        bytes(1000),
        b"\xff" * 1000,
        pickle.dumps({"graph": [1, 2, 3]}),
        b"\x08\x09",
    ],
    ids=["empty", "zero", "text", "picture", "JSON", "zeros", "ones", "pickle", "version only"],
)
def test_other_files_are_refused_by_name(content, tmp_path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    for source, name in ((path, "net.onnx"), (str(path), "net.onnx"), (content, "the model")):
        with pytest.raises(ValueError, match=rf"load_onnx: {name} (is|holds|was) "):
            dwcpu.load_onnx(source)
    with pytest.raises(ValueError, match=r"load_model: .*net\.onnx"):
        dwcpu.load_model(path)


def test_the_two_sorts_of_models_are_not_taken_for_each_other(tmp_path) -> None:
    path = tmp_path / "net"
    path.write_bytes(SMALL)
    with pytest.raises(ValueError, match=r"load_model: .*net"):
        dwcpu.load_model(path)
    dwcpu.load_onnx(SMALL).save(path)
    with pytest.raises(ValueError, match="load_onnx: net "):
        dwcpu.load_onnx(path)


@pytest.mark.parametrize("read", [dwcpu.load_onnx, dwcpu.load_model])
def test_where_no_file_can_be_read_there_is_an_os_error(read, tmp_path) -> None:
    text = rf"^{read.__name__}: .*none\.onnx: [^;]+; models are read from a file; check its name and that"
    with pytest.raises(FileNotFoundError, match=text) as caught:
        read(tmp_path / "none.onnx")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(OSError, match=tmp_path.name):  # a folder
        read(tmp_path)
    locked = tmp_path / "locked"
    locked.write_bytes(SMALL)
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root may
        with pytest.raises(PermissionError):
            read(locked)


def test_saving_leaves_what_is_no_file_and_keeps_permissions(tmp_path) -> None:
    net = dwcpu.load_onnx(SMALL)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"^save: .*{name} is not a file; [^;]+; "):
            net.save(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(FileNotFoundError, match=r"^save: there is no directory"):
        net.save(tmp_path / "none" / "net")
    with pytest.raises(TypeError, match=r"^save: path is of type BytesIO; [^;]+; "):
        net.save(io.BytesIO())
    with pytest.raises(OSError, match=r"^save: .* cannot be written \([^;]+; ") as caught:
        net.save(tmp_path / ("x" * 255))
    assert caught.value.errno == errno.ENAMETOOLONG
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.touch(0o600)
    link.symlink_to(secret)
    net.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert dwcpu.load_model(secret).inputs == net.inputs
    assert {each.name for each in tmp_path.iterdir()} == {"pipe", "folder", "secret", "link"}


# --- graphs that are none ---------------------------------------------------------------------------------------------

TWO = [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])]
FAULTS = {
    "a cycle": (
        model([node("Add", ["x", "b"], ["a"], name="n"), node("Relu", ["a"], ["b"]), node("Neg", ["b"], ["y"])]),
        "'n' (Add) waits for its own result; a graph must have no cycles",
    ),
    "a node that reads itself": (
        model([node("Add", ["x", "y"], ["y"], name="n")]), "'n' (Add) waits for its own result",
    ),
    "a value made twice": (model(TWO), "'y' is made twice; every value must be made once"),
    "a value made twice by one node": (model([node("Split", ["x"], ["y", "y"], axis=2)]), "'y' is made twice"),
    "a value that is an input": (model([node("Relu", ["x"], ["x"])], outputs=("x",)), "'x' is made twice"),
    "a value that is a constant": (model([node("Relu", ["x"], ["k"])], {"k": X}, outputs=("k",)), "'k' is made twice"),
    "a constant made twice": (
        model([
            *(node("Constant", [], ["k"], value_float=value) for value in (1.0, 2.0)), node("Add", ["x", "k"], ["y"])
        ]),
        "'k' is made twice",
    ),
    "a value that nothing makes": (
        model([node("Add", ["x", "z"], ["y"], name="n")]), "'n' (Add) reads 'z', which nothing makes",
    ),
    "an output that nothing makes": (model(RELU, outputs=("y", "z")), "the output 'z' is made by no node"),
    "no outputs": (model(RELU, outputs=()), "the graph has no outputs; there is nothing to compute"),
    "an input twice": (model(RELU, inputs=("x", "x")), "'x' is made twice"),
    "no nodes": (model([], outputs=("y",)), "the output 'y' is made by no node"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_graphs_that_cannot_be_computed_are_refused(fault) -> None:
    proto, words = FAULTS[fault]
    refused(proto, "load_onnx: the model: ", words)


def test_two_initializers_of_one_name_are_refused() -> None:
    tensors = [numpy_helper.from_array(np.float32(value), "k") for value in (1, 2)]
    refused(model([node("Add", ["x", "k"], ["y"])], tensors), "'k' is made twice")


def test_a_constant_without_a_name_is_refused() -> None:
    tensors = [numpy_helper.from_array(np.float32(1), "")]
    refused(
        model([node("Clip", ["x", "", "k"], ["y"])], [*tensors, numpy_helper.from_array(np.float32(2), "k")]), "name"
    )


def test_what_no_output_needs_may_be_wrong() -> None:
    proto = model([*RELU, node("Conv", ["x"], ["z"]), node("Reshape", ["x", "k"], ["w"])], {"k": ints(7)})
    np.testing.assert_array_equal(load(proto)(X), np.maximum(X, 0))


MALFORMED: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "no inputs": ([node("Identity", [], ["y"])], {}),
    "one summand": ([node("Add", ["x"], ["y"])], {}),
    "one summand of a hardsigmoid": (
        [node("Add", ["x"], ["a"]), node("Clip", ["a", "z", "s"], ["b"]), node("Div", ["b", "s"], ["y"])],
        {"z": np.float32(0), "s": np.float32(6)},
    ),
    "no weights": ([node("Conv", ["x"], ["y"])], {}),
    "no weights but a bias": ([node("Conv", ["x", "", "b"], ["y"])], {"b": weights(3)}),
    "weights of two axes": ([node("Conv", ["x", "w"], ["y"])], {"w": weights(3, 3)}),
    "weights of no groups": ([node("Conv", ["x", "w"], ["y"], group=0)], {"w": weights(3, 1, 1, 1)}),
    "a list of groups": ([node("Conv", ["x", "w"], ["y"], group=[1, 2])], {"w": weights(3, 1, 1, 1)}),
    "text as groups": ([node("Conv", ["x", "w"], ["y"], group="one")], {"w": weights(3, 3, 1, 1)}),
    "one number as strides": ([node("Conv", ["x", "w"], ["y"], strides=1)], {"w": weights(3, 3, 1, 1)}),
    "one number as pads": ([node("Conv", ["x", "w"], ["y"], pads=1)], {"w": weights(3, 3, 1, 1)}),
    "negative strides": ([node("Conv", ["x", "w"], ["y"], strides=[-1, 1])], {"w": weights(3, 3, 1, 1)}),
    "three pads": ([node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1])], {"w": weights(3, 3, 1, 1)}),
    "another kernel_shape": ([node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])], {"w": weights(3, 3, 1, 1)}),
    "a long bias": ([node("Conv", ["x", "w", "b"], ["y"])], {"w": weights(3, 3, 1, 1), "b": weights(4)}),
    "a bias of integers": ([node("Conv", ["x", "w", "b"], ["y"])], {"w": weights(3, 3, 1, 1), "b": ints(1, 2, 3)}),
    "a window of nothing": ([node("MaxPool", ["x"], ["y"], kernel_shape=[0, 0])], {}),
    "no window": ([node("MaxPool", ["x"], ["y"])], {}),
    "text as a slope": ([node("LeakyRelu", ["x"], ["y"], alpha="steep")], {}),
    "a list of slopes": ([node("LeakyRelu", ["x"], ["y"], alpha=[0.1])], {}),
    "an infinite slope": ([node("LeakyRelu", ["x"], ["y"], alpha=float("inf"))], {}),
    "text in a hardsigmoid": ([node("HardSigmoid", ["x"], ["y"], alpha="a")], {}),
    "text as epsilon": ([node("BatchNormalization", ["x", "b", "b", "b", "b"], ["y"], epsilon="a")], {"b": weights(3)}),
    "half a normalisation": ([node("BatchNormalization", ["x", "b", "b"], ["y"])], {"b": weights(3)}),
    "statistics of other channels": (
        [node("BatchNormalization", ["x", "b", "b", "c", "b"], ["y"])], {"b": weights(3), "c": weights(2)},
    ),
    "text as an axis": ([node("Softmax", ["x"], ["y"], axis="last")], {}),
    "an axis that is not there": ([node("Softmax", ["x"], ["y"], axis=4)], {}),
    "a list of types": ([node("Cast", ["x"], ["y"], to=[1])], {}),
    "text as a type": ([node("Cast", ["x"], ["y"], to="float")], {}),
    "a number as a tensor": ([node("Constant", [], ["k"], value=3.0), node("Add", ["x", "k"], ["y"])], {}),
    "no parts": ([node("Split", ["x"], ["y"], num_outputs=0)], {}),
    "blocks of nothing": ([node("DepthToSpace", ["x"], ["y"], blocksize=0)], {}),
    "a normalisation of no groups": (
        [node("GroupNormalization", ["x", "b", "b"], ["y"], num_groups=0)], {"b": weights(3)},
    ),
    "a step of zero": ([node("Range", ["a", "b", "a"], ["y"])], {"a": np.int64(0), "b": np.int64(9)}),
    "an axis twice": ([node("Transpose", ["x"], ["y"], perm=[0, 0, 1, 2])], {}),
    "an index beyond the end": ([node("Gather", ["x", "a"], ["y"])], {"a": ints(7)}),
    "constants that do not fit": (
        [node("Reshape", ["c", "a"], ["k"]), node("Add", ["x", "k"], ["y"])], {"c": weights(3), "a": ints(7)},
    ),
    "an axis of another": ([node("Slice", ["x", "a", "a", "a"], ["y"])], {"a": ints(9)}),
    "a factor that is infinite": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, np.inf, 1])}),
    "a factor that is no number": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, np.nan, 1])}),
    "nothing to join": ([node("Concat", [], ["y"], axis=0)], {}),
    "a third factor": ([node("Mul", ["x", "x", "x"], ["y"])], {}),
    "a second input": ([node("Neg", ["x", "x"], ["y"])], {}),
    "no window of channels": ([node("LRN", ["x"], ["y"])], {}),
    "a second result of one": ([node("Relu", ["x"], ["z", "y"])], {}),
    "more parts than told": ([node("Split", ["x"], ["z", "y"], axis=2, num_outputs=1)], {}),
    "a matrix of four axes": ([node("Gemm", ["x", "w"], ["y"])], {"w": weights(4, 4)}),
    "a bias of a product": ([node("MatMul", ["x", "w", "x"], ["y"])], {"w": weights(4, 4)}),
    "axes twice": ([node("ReduceMean", ["x", "a"], ["y"])], {"a": ints(1, 1)}),
    "an axis beyond the last": ([node("ReduceMean", ["x", "a"], ["y"])], {"a": ints(7)}),
    "an axis beyond the last to flatten": ([node("Flatten", ["x"], ["y"], axis=9)], {}),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_nodes_that_make_no_sense_are_a_value_error_that_says_where(what) -> None:
    """When they are loaded, or at the latest when they are called."""
    nodes, constants = MALFORMED[what]
    nodes = [helper.make_node(each.op_type, each.input, each.output, name=f"n.{each.op_type}") for each in nodes]
    for each, original in zip(nodes, MALFORMED[what][0], strict=True):
        each.attribute.extend(original.attribute)
    with pytest.raises(ValueError) as caught:
        load(model(nodes, constants))(X)
    text = str(caught.value)
    assert any(each.name in text for each in nodes) or text.startswith(("load_onnx: ", "the graph 'g' ")), text


def test_nothing_is_joined_across_a_hole() -> None:
    with pytest.raises(ValueError, match="Concat"):
        load(model([node("Concat", ["x", "", "x"], ["y"], axis=0)]))(X)


# --- tensors ----------------------------------------------------------------------------------------------------------


def tensor(dims: list[int], data_type: int = TensorProto.FLOAT, raw: bytes | None = bytes(24), **fields: Any) -> Any:
    proto = TensorProto(name="k", data_type=data_type, dims=dims, **fields)
    if raw is not None:
        proto.raw_data = raw
    return proto


TENSORS = {
    "a negative size": (tensor([-1, -6]), "(-1, -6)"),
    "negative sizes of a small product": (tensor([-2, -3]), "(-2, -3)"),
    "more than there is": (tensor([7, 7, 7]), "(7, 7, 7)"),
    "one more than there is": (tensor([7]), "'k'"),
    "less than there is": (tensor([5]), "'k'"),
    "sizes whose product overflows": (tensor([2**62, 4]), "4611686018427387904"),
    "sizes whose product overflows to 6": (tensor([2**63 - 1, 2**63 - 1, 6]), "9223372036854775807"),
    "nothing, of great size": (tensor([0, 2**62, 2**62], raw=b""), "'k'"),
    "an astronomical size": (tensor([10**12]), "(1000000000000,)"),
    "too many axes": (tensor([1] * 40 + [6]), "axes"),
    "an unknown type": (tensor([6], 99), "'k'"),
    "no type": (tensor([6], 0), "'k'"),
    "text of one entry for six": (tensor([6], TensorProto.STRING, raw=None, string_data=[b"a"]), "'k'"),
    "numbers in another list": (tensor([6], raw=None, int32_data=[1] * 6), "'k'"),
    "too few numbers": (tensor([6], raw=None, float_data=[1] * 3), "'k'"),
    "too many numbers": (tensor([6], raw=None, float_data=[1] * 7), "'k'"),
    "astronomically many half bytes": (tensor([10**12], TensorProto.INT4), "(1000000000000,)"),
    "astronomically many texts": (tensor([10**12], TensorProto.STRING, raw=None, string_data=[b"a"]), "'k'"),
}


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_tensors_that_do_not_hold_what_they_claim_are_refused_before_they_are_made(what, place) -> None:
    proto, word = TENSORS[what]
    if place == "initializer":
        content = model([node("Add", ["x", "k"], ["y"])], [proto])
    else:
        content = model([node("Constant", [], ["k"], value=proto), node("Add", ["x", "k"], ["y"])])
        word = "value" if word == "'k'" else word
    tracemalloc.start()
    try:
        refused(content, "load_onnx: the model", word)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# --- other files ------------------------------------------------------------------------------------------------------

OUTSIDE = weights(3, 3, 1, 1)


def external(location: str, shape: tuple[int, ...] = OUTSIDE.shape, *, constant: bool = False, **entries: Any) -> Any:
    """A convolution whose weights lie in another file."""
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        proto.external_data.add(key=key, value=str(value))
    if constant:
        return model([node("Constant", [], ["w"], value=proto), node("Conv", ["x", "w"], ["y"])])
    return model([node("Conv", ["x", "w"], ["y"])], [proto])


@pytest.fixture
def folder(tmp_path) -> Path:
    """With weights in it, below it, beside it, and links to these."""
    inner = tmp_path / "model"
    (inner / "below").mkdir(parents=True)
    for path in (inner / "w.bin", inner / "below" / "w.bin", tmp_path / "outside.bin"):
        path.write_bytes(OUTSIDE.tobytes())
    (inner / "long.bin").write_bytes(b"begin..." + OUTSIDE.tobytes() + b"end")
    (inner / "link.bin").symlink_to(tmp_path / "outside.bin")
    (inner / "out").symlink_to(tmp_path)
    (inner / "inside.bin").symlink_to(inner / "w.bin")
    return inner


WANTED = np.einsum("nchw,oc->nohw", X, OUTSIDE[:, :, 0, 0])


@pytest.mark.parametrize("constant", [False, True])
def test_weights_in_other_files_are_read_below_the_folder_that_is_named(folder, constant, monkeypatch) -> None:
    places = [("w.bin", {}), ("below/w.bin", {}), ("./below/../w.bin", {}), ("inside.bin", {})]
    places.append(("long.bin", {"offset": 8, "length": OUTSIDE.nbytes}))
    for location, entries in places:
        proto = external(location, constant=constant, **entries)
        for root in (folder, str(folder), folder / "below" / ".."):
            np.testing.assert_allclose(load(proto, external_data_dir=root)(X), WANTED, rtol=1e-5, atol=1e-6)
    monkeypatch.chdir(folder)
    np.testing.assert_allclose(load(proto, external_data_dir=".")(X), WANTED, rtol=1e-5, atol=1e-6)


def test_weights_in_other_files_are_not_read_unless_a_folder_is_named(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    words = ("'w'", "lies in another file, 'w.bin'", "give external_data_dir=FOLDER if you trust the model")
    refused(external("w.bin"), *words)
    path = folder / "net.onnx"
    path.write_bytes(external("w.bin").SerializeToString())
    with pytest.raises(ValueError, match="give external_data_dir=FOLDER"):
        dwcpu.load_onnx(path)


@pytest.mark.parametrize(
    "location",
    ["../outside.bin", "below/../../outside.bin", "ABSOLUTE", "link.bin", "out/outside.bin", "/etc/hostname",
     "none.bin", "below", ".", "", "w.bin/../../outside.bin", "~/w.bin", "w.bin\0", "\0",
     "x" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("constant", [False, True])
def test_nothing_outside_the_folder_is_read(folder, location, constant) -> None:
    location = str(folder.parent / "outside.bin") if location == "ABSOLUTE" else location
    refused(external(location, constant=constant), "load_onnx: the model: ", external_data_dir=folder)


SIZE = OUTSIDE.nbytes


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 1}, {"offset": SIZE}, {"offset": SIZE + 1}, {"offset": -1}, {"offset": 2**70}, {"offset": "first"},
        {"length": SIZE + 1}, {"length": -SIZE}, {"length": 2**70}, {"length": SIZE - 4}, {"length": 0},
        {"length": "all"},
        {"offset": 4, "length": SIZE}, {"offset": 4, "length": SIZE - 4}, {"offset": 1.5}, {"length": ""},
    ],
    ids=str,
)  # fmt: skip
def test_bytes_that_another_file_does_not_hold_are_refused(folder, entries) -> None:
    refused(external("w.bin", **entries), "'w'", external_data_dir=folder)


@pytest.mark.parametrize(
    "shape", [(10**12,), (3, 3, 1, 2), (-3, -3, 1, 1), (2**62, 2**62), (3, 3), (10**6, 10**6)], ids=str
)
def test_sizes_that_another_file_does_not_hold_are_refused(folder, shape) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            load(external("w.bin", shape), external_data_dir=folder)(X)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# --- what dwcpu lacks -------------------------------------------------------------------------------------------------


def test_all_that_is_missing_is_named_at_once() -> None:
    nodes = [
        node("Det", ["x"], ["a"], name="first.det"),
        node("Det", ["a"], ["b"], name="second.det"),
        node("Fancy", ["b"], ["c"], domain="com.example"),
        node("Resize", ["c", "", "s"], ["d"], name="odd.resize", mode="sinc"),
        node("Conv", ["d", "w"], ["e"], name="odd.conv", auto_pad="SAME_MIDDLE"),
        node("BatchNormalization", ["e", "s", "s", "s", "s"], ["f", "g"], name="train"),
        node("Cast", ["f"], ["h"], name="odd.cast", to=1234),
        node("If", ["h"], ["i"], name="branch", then_branch=helper.make_graph([], "t", [], [])),
        *(node("Mystery", ["i"], [f"m{number}"], name=f"mystery.{number}") for number in range(7)),
        node("Relu", ["m0"], ["y"]),
    ]
    proto = model(nodes, {"s": np.ones(4, np.float32), "w": weights(3, 3, 1, 1)})
    with pytest.raises(dwcpu.UnsupportedOperator) as caught:
        load(proto)
    text = str(caught.value)
    wanted = [
        "operator Det: 'first.det', 'second.det'", "operator com.example.Fancy: 'c'",
        "Resize with mode='sinc': 'odd.resize'", "Conv with auto_pad='SAME_MIDDLE': 'odd.conv'",
        "BatchNormalization with more than one output", "'train'", "element type number 1234: 'odd.cast'", "'branch'",
        "operator Mystery: 'mystery.0', 'mystery.1', 'mystery.2', 'mystery.3' and 3 more",
    ]  # fmt: skip
    assert all(line in text for line in wanted), text
    assert ("operator Det", "second.det") in caught.value.problems
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (text, caught.value.problems)
    assert isinstance(again, ValueError)


@pytest.mark.parametrize(
    ("op", "attributes", "words"),
    [
        ("Conv", {"stride": [2, 2]}, "Conv with attribute 'stride', of which it has none (it has 'strides'): 'odd'"),
        ("Conv", {"strides": [2.0, 2.0]}, "attribute 'strides' of type FLOATS, which must be INTS: 'odd'"),
        ("Softmax", {"dim": 1}, "Softmax with attribute 'dim', of which it has none: 'odd'"),
    ],
)
def test_attributes_that_the_standard_does_not_know_are_not_left_out(op, attributes, words) -> None:
    inputs = ["x", "w"] if op == "Conv" else ["x"]
    with pytest.raises(dwcpu.UnsupportedOperator) as caught:
        load(model([node(op, inputs, ["y"], name="odd", **attributes)], {"w": weights(3, 3, 1, 1)}))
    assert words in str(caught.value)


OPTIONAL = helper.make_value_info("s", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2])))
LACKING = {
    "a sequence as input": model(
        RELU, inputs=("x", helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    ),
    "an optional input": model(
        RELU, inputs=("x", OPTIONAL)
    ),
    "an element type as input": model(RELU, inputs=("x", helper.make_tensor_value_info("s", 99, [2]))),
    "a scan": model([
        node("Scan", ["x"], ["y"], name="only", num_scan_inputs=1, body=helper.make_graph([], "b", [], []))
    ]),
    "several graphs": model([node("Odd", ["x"], ["y"], name="only", bodies=[helper.make_graph([], "b", [], [])])]),
    "a sparse constant": model([
        node("Constant", [], ["k"], name="only", sparse_value=helper.make_sparse_tensor(
            helper.make_tensor("v", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0]), [2])),
        node("Add", ["x", "k"], ["y"]),
    ]),
    "a constant of two values": model([
        node("Constant", [], ["k"], name="only", value_float=1.0, value_int=2), node("Add", ["x", "k"], ["y"])
    ]),
    "a constant of none": model([node("Constant", [], ["k"], name="only"), node("Add", ["x", "k"], ["y"])]),
    "another domain": model([node("Relu", ["x"], ["y"], name="only", domain="com.microsoft")]),
    "pooling by another rule": model([node("MaxPool", ["x"], ["y"], name="only", kernel_shape=[1, 1], auto_pad="?")]),
    "another way to pad": model([node("Pad", ["x", "p"], ["y"], name="only", mode="mirror")], {"p": ints(*[0] * 8)}),
    "results of training": model(
        [node("BatchNormalization", ["x", "b", "b", "b", "b"], ["y", "m", "v"], name="only")], {"b": weights(3)}
    ),
    "nothing at all": model([node("", ["x"], ["y"], name="only")]),
}  # fmt: skip


@pytest.mark.parametrize("what", LACKING)
def test_what_is_lacking_is_an_unsupported_operator_that_names_it(what) -> None:
    with pytest.raises(
        dwcpu.UnsupportedOperator, match=r"load_onnx: the model needs what dwcpu does not have"
    ) as caught:
        load(LACKING[what])
    assert {name for _, name in caught.value.problems} <= {"only", "s", "v"}


@pytest.mark.parametrize("op", ["Activation", "Affine", "Separable", "InvertedResidual", "Align"])
def test_operators_of_our_own_are_not_read_from_onnx_files(op) -> None:
    constants = {"b": weights(3)}
    with pytest.raises(dwcpu.UnsupportedOperator, match=f"operator {op}: 'only'"):
        load(model([node(op, ["x", "b", "b"], ["y"], name="only", activation="relu", axis=1)], constants))


def test_what_passes_add_to_operators_is_not_read_from_onnx_files() -> None:
    constants = {"w": weights(3, 3, 1, 1), "b": weights(3)}
    for nodes in (
        [node("Conv", ["x", "w", "b"], ["y"], activation="relu")],
        [node("Conv", ["x", "w", "b", "x"], ["y"])],
        [node("MatMul", ["x", "m"], ["y"], activation="relu")],
    ):
        with pytest.raises(ValueError):
            load(model(nodes, {**constants, "m": weights(4, 4)}))(X)


def test_operator_sets_too_old_and_too_new_are_refused() -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in (0, 1, 5, newest + 1, 10**6, -1):
        fix = "convert it with onnx.version_converter" if opset < 6 else "upgrade onnx, or convert it with its version_"
        refused(model(RELU, opset=opset), f"operator set is version {opset}", f"6 to {newest}", fix)
    for opset in (6, 7, newest):
        np.testing.assert_array_equal(load(model(RELU, opset=opset))(X), np.maximum(X, 0))
    proto = model(RELU)
    del proto.opset_import[:]
    refused(proto, "operator set is version 1")
    proto.opset_import.add(domain="com.example", version=18)
    refused(proto, "operator set is version 1")
    proto.opset_import.add(domain="ai.onnx", version=18)
    np.testing.assert_array_equal(load(proto)(X), np.maximum(X, 0))


# --- functions --------------------------------------------------------------------------------------------------------


def leaky() -> Any:
    """A function with an attribute."""
    inner = node("LeakyRelu", ["a"], ["b"])
    inner.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    return function("Leaky", [inner], ["a"], ["b"], ["slope"])


def test_functions_are_taken_apart() -> None:
    swish = function("Swish", [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])], ["a"], ["b"])
    twice = [node("Swish", ["a"], ["t"], domain="ours"), node("Swish", ["t"], ["b"], domain="ours")]
    nodes = [
        node("Twice", ["x"], ["u"], domain="ours"),
        node("Swish", ["u"], ["v"], domain="ours"),
        node("Leaky", ["v"], ["y"], domain="ours", slope=0.25),
    ]
    made = load(with_functions(nodes, swish, function("Twice", twice, ["a"], ["b"]), leaky()))
    wanted = X.astype(np.float64)
    for _ in range(3):
        wanted = wanted / (1 + np.exp(-wanted))
    np.testing.assert_allclose(made(X), np.where(wanted < 0, 0.25 * wanted, wanted), rtol=0, atol=1e-6)
    assert [each.get("activation") for each in made.simplified.nodes] == ["silu"] * 3 + [("leaky_relu", 0.25)]


def test_functions_that_lack_something_are_refused() -> None:
    call = [node("F", ["x"], ["y"], domain="ours", name="call")]
    inner = function("F", [node("Det", ["a"], ["b"])], ["a"], ["b"])
    with pytest.raises(dwcpu.UnsupportedOperator, match="operator Det"):
        load(with_functions(call, inner))
    with pytest.raises(dwcpu.UnsupportedOperator, match=r"operator ours\.F: 'call'"):
        load(with_functions(call, leaky()))
    refused(with_functions(call, function("F", [node("Relu", ["z"], ["b"])], ["a"], ["b"])), "load_onnx: the model")
    refused(with_functions(call, function("F", [node("Relu", ["a"], ["c"])], ["a"], ["b"])), "load_onnx: the model")


def test_functions_that_call_themselves_or_are_there_twice_are_refused() -> None:
    calls = {name: [node(name, ["a"], ["b"], domain="ours")] for name in "FGH"}
    f, g, h = (function(*each, ["a"], ["b"]) for each in (("F", calls["F"]), ("G", calls["H"]), ("H", calls["G"])))
    refused(with_functions([node("F", ["x"], ["y"], domain="ours")], f), "functions of the model ")
    refused(with_functions([node("G", ["x"], ["y"], domain="ours")], g, h), "functions of the model ")
    twice = [function("F", [node(op, ["a"], ["b"])], ["a"], ["b"]) for op in ("Relu", "Neg")]
    refused(with_functions([node("F", ["x"], ["y"], domain="ours")], *twice), "functions of the model ")
    np.testing.assert_array_equal(load(chain_of_functions(6))(X), np.maximum(X, 0))
