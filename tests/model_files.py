"""Models, arrays and pictures for ``python -m dwcpu run`` and ``inspect``, and the two as functions."""

from __future__ import annotations

import numpy as np
import pytest

import dwcpu
from dwcpu.cli import main

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_networks import Builder  # noqa: E402

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def written(path, nodes, inputs, outputs, constants=()) -> None:
    """Write a model; inputs and outputs are (name, element type, shape)."""
    specs = [[helper.make_tensor_value_info(*each) for each in group] for group in (inputs, outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], path.stem, *specs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def same(path, shape, element=FLOAT, name="x", **options) -> None:
    """Write a model that gives back its input."""
    written(path, [("Identity", [name], ["y"], {})], [(name, element, shape)], [("y", element, None)], **options)


def write_models(folder) -> None:
    """Models and arrays that the tests share."""
    b = Builder(0)
    x = b.conv("x", 3, 8, 3, stride=2, act="relu6")
    (folder / "net.onnx").write_bytes(b.model("net", [b.classifier(x, 8)]))
    dwcpu.load_onnx(folder / "net.onnx").save(folder / "net.onnx.saved")
    same(folder / "any.onnx", None)
    same(folder / "open.onnx", ["n", 3, None, None])
    same(folder / "fixed.onnx", [1, 3, 6, 8])
    same(folder / "last.onnx", ["n", 6, 8, 3])
    same(folder / "grey.onnx", [1, 1, 6, 8])
    same(folder / "bytes.onnx", [1, 3, 6, 8], TensorProto.UINT8)
    same(folder / "ints.onnx", [1, 3, 6, 8], INT64)
    same(folder / "strings.onnx", [2], TensorProto.STRING)
    same(folder / "vector.onnx", ["n", 4])
    same(folder / "double.onnx", [2, 2], TensorProto.DOUBLE)
    same(folder / "half.onnx", [1, 4], TensorProto.FLOAT16)
    flags = [("flags", TensorProto.BOOL, [3])]
    written(folder / "bool.onnx", [("Not", ["flags"], ["y"], {})], flags, [("y", TensorProto.BOOL, None)])
    # Takes one size only: the rest of the graph is made for 6 x 8 pixels.
    nodes = [("Flatten", ["x"], ["f"], {}), ("MatMul", ["f", "w"], ["y"], {})]
    weights = {"w": np.ones((144, 2), np.float32)}
    written(folder / "rigid.onnx", nodes, [("x", FLOAT, ["n", 3, "h", "w"])], [("y", FLOAT, None)], weights)
    # Two inputs, two outputs; one is called as an argument of np.savez is.
    nodes = [("Sub", ["a", "b"], ["file"], {}), ("Shape", ["a"], ["size"], {})]
    pair = [("a", FLOAT, ["n"]), ("b", FLOAT, ["n"])]
    written(folder / "pair.onnx", nodes, pair, [("file", FLOAT, None), ("size", INT64, None)])
    # The shape of the output depends on values: there is no plan.
    nodes = [("Reshape", ["x", "to"], ["y"], {})]
    written(folder / "dynamic.onnx", nodes, [("x", FLOAT, [6]), ("to", INT64, [2])], [("y", FLOAT, None)])
    written(folder / "constant.onnx", [("Neg", ["c"], ["y"], {})], [], [("y", FLOAT, None)], {"c": np.ones(2, "f")})
    nodes = [("Div", ["x", "zero"], ["y"], {})]
    written(folder / "infinite.onnx", nodes, [("x", FLOAT, [4])], [("y", FLOAT, None)], {"zero": np.zeros(1, "f")})
    nodes = [("Det", ["x"], ["y"], {})]
    written(folder / "unsupported.onnx", nodes, [("x", FLOAT, None)], [("y", FLOAT, None)])

    (folder / "text.onnx").write_text("not a model")
    (folder / "text.dwcpu").write_text("not a model")
    (folder / "empty.dwcpu").write_bytes(b"")
    (folder / "page.onnx").write_text("<!DOCTYPE html><html>not found</html>")
    (folder / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "zip.onnx").write_bytes(b"PK and so on")
    random = np.random.default_rng(0)
    np.save(folder / "x.npy", random.standard_normal((1, 3, 6, 8)).astype(np.float32))
    np.save(folder / "big_endian.npy", np.ones((1, 3, 6, 8), ">f4"))
    np.save(folder / "double.npy", np.ones((1, 3, 6, 8)))
    np.save(folder / "last.npy", np.zeros((1, 6, 8, 3), np.float32))
    np.save(folder / "pixels.npy", np.zeros((1, 3, 6, 8), np.uint8))
    np.save(folder / "a.npy", np.array([5, 6, 7], np.float32))
    np.save(folder / "b.npy", np.array([1, 2, 4], np.float32))
    np.save(folder / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.savez(folder / "pair.npz", a=np.array([5, 6, 7], np.float32), b=np.array([1, 2, 4], np.float32))
    np.savez(folder / "one.npz", whatever=np.ones((1, 3, 6, 8), np.float32))
    np.savez(folder / "odd.npz", a=np.ones(3, np.float32), c=np.ones(3, np.float32))
    np.savez(folder / "pickled.npz", x=np.array([{}], object))
    np.save(folder / "six.npy", np.arange(6, dtype=np.float32))
    np.save(folder / "to.npy", np.array([2, 3]))
    np.save(folder / "infinite.npy", np.array([1, -1, 0, 2], np.float32))
    (folder / "text.npy").write_text("not an array")
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:150])
    (folder / "cut.npz").write_bytes((folder / "one.npz").read_bytes()[:150])
    (folder / "text.png").write_text("not a picture")


def write_photo(folder):
    """A picture, 8 wide and 6 high, that is red on its left and blue on its right."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow, in the extra [demo], is not installed")
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, :4, 0] = pixels[:, 4:, 2] = 255
    pillow.fromarray(pixels).save(folder / "photo.png")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:48])
    return folder / "photo.png"


def run(arguments, capsys) -> tuple[int, str, str]:
    status = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def outputs_of(arguments, tmp_path, capsys) -> tuple[dict[str, np.ndarray], str]:
    """What a command writes with ``--output``, and what it prints."""
    target = tmp_path / "y.npz"
    status, out, err = run([*arguments, "--output", target], capsys)
    assert (status, err) == (0, "")
    assert f"outputs: {target}\n" in out
    with np.load(target, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}, out
