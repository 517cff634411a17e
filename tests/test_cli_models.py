"""``python -m dwcpu run`` and ``inspect``: what they print and write."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

import dwcpu

onnx = pytest.importorskip("onnx")

from model_files import FLOAT, outputs_of, run, same, write_models, write_photo, written  # noqa: E402
from onnx import TensorProto  # noqa: E402
from onnx_networks import NETWORKS  # noqa: E402

TIME = r"time: \d+\.\d\d ms \(median of \d+ warmed-up runs, \d+ threads?\)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_models")
    write_models(folder)
    return folder


@pytest.fixture
def photo(folder):
    return write_photo(folder)


# --- run: what it prints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["net.onnx", "net.onnx.saved"])
def test_arrays(file, folder, capsys):
    x = np.load(folder / "x.npy")
    wanted = dwcpu.load_onnx(folder / "net.onnx")(x)
    status, out, err = run(["run", folder / file, "--input", folder / "x.npy", "--threads", "1"], capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 7
    head = re.fullmatch(r"(\S+): float32 \(1, 10\), min (\S+), mean (\S+), max (\S+)", lines[0])
    found = [float(text) for text in head.groups()[1:]]
    np.testing.assert_allclose(found, [wanted.min(), wanted.mean(), wanted.max()], rtol=1e-4)
    order = np.argsort(-wanted[0])[:5]
    assert [int(line.split()[0]) for line in lines[1:6]] == order.tolist()
    np.testing.assert_allclose([float(line.split()[1]) for line in lines[1:6]], wanted[0, order], rtol=1e-4)
    assert re.fullmatch(TIME, lines[6])
    assert "1 thread)" in lines[6]


def test_random_input(folder, capsys):
    """The same numbers each time; sizes that the file leaves open are told."""
    _, first, _ = run(["run", folder / "net.onnx", "--size", "16x12"], capsys)
    status, out, err = run(["run", folder / "net.onnx", "--size", "16x12"], capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("x: float32 (n, 3, h, w) leaves sizes open; (1, 3, 16, 12) is taken")
    assert lines[1] == "x: random standard normal numbers, float32 (1, 3, 16, 12)"
    assert lines[:-1] == first.splitlines()[:-1]


@pytest.mark.parametrize(
    ("file", "options", "line"),
    [
        ("net.onnx", [], "x: random standard normal numbers, float32 (1, 3, 224, 224)"),
        ("fixed.onnx", [], "x: random standard normal numbers, float32 (1, 3, 6, 8)"),
        ("fixed.onnx", ["--size", "4X5"], "x: random standard normal numbers, float32 (1, 3, 4, 5)"),
        ("last.onnx", ["--size", "4x5"], "x: random standard normal numbers, float32 (1, 4, 5, 3)"),
        ("vector.onnx", [], "x: random standard normal numbers, float32 (1, 4)"),
        ("double.onnx", [], "x: random standard normal numbers, float64 (2, 2)"),
        ("bytes.onnx", [], "x: random zeros and ones, uint8 (1, 3, 6, 8)"),
        ("bool.onnx", [], "flags: random zeros and ones, bool (3,)"),
    ],
)
def test_random_input_of_declared_shape(file, options, line, folder, capsys):
    status, out, _ = run(["run", folder / file, *options], capsys)
    assert status == 0
    assert line in out.splitlines()
    assert ("leaves sizes open" in out) == (file in ("net.onnx", "vector.onnx", "last.onnx"))


def test_random_signal(folder, tmp_path, capsys):
    write, _ = NETWORKS["audio"]
    (tmp_path / "audio.onnx").write_bytes(write())
    status, out, _ = run(["run", tmp_path / "audio.onnx"], capsys)
    assert status == 0
    assert "x: random standard normal numbers, float32 (1, 40, 224)" in out.splitlines()
    status, out, _ = run(["inspect", tmp_path / "audio.onnx", "--size", "98"], capsys)
    assert (status, "(1, 40, 98) is taken; --size chooses" in out, "input 1x40x98" in out) == (0, True, True)
    x, y = [("x", FLOAT, ["n", "t", 8])], [("y", FLOAT, None)]
    written(tmp_path / "tokens.onnx", [("Relu", ["x"], ["y"], {})], x, y)
    status, out, _ = run(["run", tmp_path / "tokens.onnx", "--size", "30"], capsys)
    assert "x: random standard normal numbers, float32 (1, 30, 8)" in out.splitlines()


@pytest.mark.parametrize(
    ("declared", "size", "taken"),
    [
        (["n", "h", "w", 1], "28x20", (1, 28, 20, 1)),
        (["n", 28, 28, 1], "28x20", (1, 28, 20, 1)),
        ([1, 9, 9, 4], "5x6", (1, 5, 6, 4)),
        (["n", 1, 28, 28], "28x20", (1, 1, 28, 20)),
        (["n", 64, 8, 8], "5x6", (1, 64, 5, 6)),
        (["n", "c", "h", "w"], "5x6", (1, 1, 5, 6)),
        (["n", "c", 9, 8], "5x6", (1, 1, 5, 6)),
        (["n", "h", "w", 64], "5x6", (1, 5, 6, 64)),
        (["n", 300, 1], "500", (1, 500, 1)),
        (["n", 1, 300], "500", (1, 1, 500)),
        (["n", 40, "t"], "98", (1, 40, 98)),
        (["n", "t"], "98", (1, 98)),
    ],
)
def test_size_is_that_of_space_and_time(declared, size, taken, tmp_path, capsys):
    written(tmp_path / "m.onnx", [("Relu", ["x"], ["y"], {})], [("x", FLOAT, declared)], [("y", FLOAT, None)])
    status, out, err = run(["run", tmp_path / "m.onnx", "--size", size], capsys)
    assert (status, err) == (0, "")
    assert f"x: random standard normal numbers, float32 {taken}" in out.splitlines()


def test_what_is_not_finite(folder, capsys):
    status, out, _ = run(["run", folder / "infinite.onnx", "--input", folder / "infinite.npy"], capsys)
    assert status == 0
    assert out.splitlines()[0] == "y: float32 (4,), 4 of 4 not finite"
    status, out, _ = run(["run", folder / "any.onnx", "--input", folder / "a.npy"], capsys)
    assert out.splitlines()[0] == "y: float32 (3,), min 5, mean 6, max 7"


def test_empty_and_half_and_constant(folder, tmp_path, capsys):
    np.save(tmp_path / "empty.npy", np.zeros((0, 4), np.float32))
    status, out, _ = run(["run", folder / "any.onnx", "--input", tmp_path / "empty.npy"], capsys)
    assert (status, out.splitlines()[0]) == (0, "y: float32 (0, 4)")
    np.save(tmp_path / "half.npy", np.array([[1, np.nan, 3, np.inf]], np.float16))
    status, out, _ = run(["run", folder / "half.onnx", "--input", tmp_path / "half.npy"], capsys)
    assert status == 0
    assert out.splitlines()[:5] == [
        "y: float16 (1, 4), min 1, mean 2, max 3, 2 of 4 not finite", "  3  inf", "  2  3", "  0  1", "  1  nan",
    ]  # fmt: skip
    status, out, _ = run(["run", folder / "constant.onnx"], capsys)
    assert (status, out.splitlines()[0]) == (0, "y: float32 (2,), min -1, mean -1, max -1")


def test_profile(folder, capsys):
    status, out, _ = run(["run", folder / "net.onnx", "--input", folder / "x.npy", "--profile"], capsys)
    assert status == 0
    for word in ("kernel", "us", "GFLOP/s", "of peak", "Conv.0", "Gemm", "total"):
        assert word in out


def test_without_a_plan(folder, tmp_path, capsys):
    arguments = ["run", folder / "dynamic.onnx", "--input", folder / "six.npy", folder / "to.npy"]
    outputs, _ = outputs_of(arguments, tmp_path, capsys)
    np.testing.assert_array_equal(outputs["y"], [[0, 1, 2], [3, 4, 5]])
    for each in ([*arguments, "--profile"], ["inspect", folder / "dynamic.onnx"]):
        status, out, _ = run(each, capsys)
        assert status == 0
        assert out.splitlines()[-1].startswith("values: shapes depend on values")


def test_progress_bar_is_not_needed(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run(["run", folder / "net.onnx", "--input", folder / "x.npy"], capsys)[0] == 0


# --- run: inputs and outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        ["a.npy", "b.npy"],
        ["b=b.npy", "a=a.npy"],
        ["b=b.npy", "a.npy"],
        ["b.npy", "a=a.npy"],
        ["pair.npz"],
        ["a=pair.npz", "b=pair.npz"],
        ["a=a.npy", "b=pair.npz"],
    ],
    ids=" ".join,
)
def test_several_inputs(inputs, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for arguments in (["--input", *inputs], [word for each in inputs for word in ("--input", each)]):
        outputs, out = outputs_of(["run", "pair.onnx", *arguments], tmp_path, capsys)
        assert list(outputs) == ["file", "size"]
        np.testing.assert_array_equal(outputs["file"], [4, 4, 3])
        np.testing.assert_array_equal(outputs["size"], [3])
        assert "size: int64 (1,), min 3, mean 3, max 3" in out.splitlines()


@pytest.mark.parametrize("file", ["one.npz", "x=one.npz", "big_endian.npy"])
def test_one_input_may_have_any_name_and_byte_order(file, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    outputs, _ = outputs_of(["run", "fixed.onnx", "--input", file], tmp_path, capsys)
    np.testing.assert_array_equal(outputs["y"], np.ones((1, 3, 6, 8)))
    assert outputs["y"].dtype == np.float32


def test_names_with_equals_signs(folder, tmp_path, capsys):
    """Of a file, and of an input."""
    (tmp_path / "seed=1.npy").write_bytes((folder / "a.npy").read_bytes())
    same(tmp_path / "net.onnx", ["n"], name="x=1")
    for text in (tmp_path / "seed=1.npy", f"x=1={folder / 'a.npy'}"):
        outputs, _ = outputs_of(["run", tmp_path / "net.onnx", "--input", text], tmp_path, capsys)
        np.testing.assert_array_equal(outputs["y"], [5, 6, 7])


def test_output_of_types_that_files_lack(tmp_path, capsys):
    """bfloat16 is written as float32."""
    nodes = [("Cast", ["x"], ["y"], {"to": TensorProto.BFLOAT16})]
    written(tmp_path / "net.onnx", nodes, [("x", FLOAT, [2])], [("y", TensorProto.BFLOAT16, None)])
    np.save(tmp_path / "x.npy", np.array([1, 2], np.float32))
    outputs, out = outputs_of(["run", tmp_path / "net.onnx", "--input", tmp_path / "x.npy"], tmp_path, capsys)
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"], [1, 2])
    assert "y: bfloat16 (2,), min 1, mean 1.5, max 2" in out


def test_external_data(folder, tmp_path, capsys):
    """Weights in another file are read only with leave."""
    array = np.array([1, 2, 3], np.float32)
    nodes, (a, y) = [("Add", ["a", "w"], ["y"], {})], (("a", FLOAT, ["n"]), ("y", FLOAT, None))
    written(tmp_path / "net.onnx", nodes, [a], [y], {"w": array})
    model = onnx.load(tmp_path / "net.onnx")
    (tmp_path / "weights").mkdir()
    onnx.save(
        model, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0,
    )  # fmt: skip
    (tmp_path / "w.bin").rename(tmp_path / "weights" / "w.bin")
    for command in ("run", "inspect"):
        status, out, err = run([command, tmp_path / "net.onnx"], capsys)
        assert (status, out) == (2, "")
        assert "give --external-data DIR" in err
        assert run([command, tmp_path / "net.onnx", "--external-data", tmp_path / "weights"], capsys)[0] == 0
    arguments = ["run", tmp_path / "net.onnx", "--external-data", tmp_path / "weights", "--input", folder / "a.npy"]
    outputs, _ = outputs_of(arguments, tmp_path, capsys)
    np.testing.assert_array_equal(outputs["y"], [6, 8, 10])
    pytest.importorskip("onnxruntime")
    assert run([*arguments, "--compare", "onnxruntime"], capsys)[0] == 0


# --- run: pictures ----------------------------------------------------------------------------------------------------


def normalised(pixels) -> np.ndarray:
    return (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def red_and_blue(height=6, width=8) -> np.ndarray:
    pixels = np.zeros((1, height, width, 3))
    pixels[:, :, : width // 2, 0] = pixels[:, :, width // 2 :, 2] = 1
    return pixels


@pytest.mark.parametrize("file", ["open.onnx", "any.onnx", "fixed.onnx", "last.onnx"])
def test_picture(file, photo, folder, tmp_path, capsys):
    """Where the model says no size the picture keeps its own; channels go where the model says."""
    outputs, out = outputs_of(["run", folder / file, "--input", photo], tmp_path, capsys)
    wanted = normalised(red_and_blue())
    wanted = wanted if file == "last.onnx" else wanted.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(outputs["y"], wanted, atol=1e-5)
    line = out.splitlines()[0]
    assert line.startswith("photo.png, 6x8 (height x width): RGB, ")
    assert ("at its own size" in line) == (file in ("open.onnx", "any.onnx"))
    assert "ImageNet's mean" in line
    assert f"float32 {wanted.shape} for 'x'" in line
    assert "other preprocessing" in line


@pytest.mark.parametrize("file", ["open.onnx", "fixed.onnx"])
def test_picture_of_a_given_size(file, photo, folder, tmp_path, capsys):
    arguments = ["run", folder / file, "--input", f"x={photo}", "--size", "12x16", "--raw"]
    outputs, out = outputs_of(arguments, tmp_path, capsys)
    assert outputs["y"].shape == (1, 3, 12, 16)
    far_from_the_edge = np.r_[0:6, 10:16]
    wanted = red_and_blue(12, 16).transpose(0, 3, 1, 2)[..., far_from_the_edge]
    np.testing.assert_allclose(outputs["y"][..., far_from_the_edge], wanted, atol=1e-6)
    assert "resized to 12x16, scaled to 0..1, as" in out
    assert "ImageNet" not in out


@pytest.mark.parametrize("options", [[], ["--raw"]])
def test_picture_for_a_model_of_bytes(options, photo, folder, tmp_path, capsys):
    """It takes the picture's own numbers."""
    outputs, out = outputs_of(["run", folder / "bytes.onnx", "--input", photo, *options], tmp_path, capsys)
    wanted = (255 * red_and_blue()).astype(np.uint8).transpose(0, 3, 1, 2)
    assert outputs["y"].dtype == np.uint8
    np.testing.assert_array_equal(outputs["y"], wanted)
    assert "as it is, as uint8 (1, 3, 6, 8) for 'x'" in out


def test_pictures_of_any_mode(photo, folder, tmp_path, capsys):
    from PIL import Image

    with Image.open(photo) as picture:
        grey, palette = picture.convert("L"), picture.convert("P")
        picture.save(tmp_path / "photo.jpg", quality=95)
    for name, each in (("grey.png", grey), ("palette.gif", palette)):
        each.save(tmp_path / name)
    for name in ("grey.png", "palette.gif", "photo.jpg"):
        arguments = ["run", folder / "open.onnx", "--input", tmp_path / name, "--raw"]
        outputs, _ = outputs_of(arguments, tmp_path, capsys)
        assert outputs["y"].shape == (1, 3, 6, 8)
        assert outputs["y"].max() <= 1


def test_pillow_is_missing(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    status, out, err = run(["run", folder / "net.onnx", "--input", folder / "text.png"], capsys)
    assert (status, out) == (2, "")
    assert "pip install 'dwcpu[demo]'" in err


# --- run: onnxruntime -------------------------------------------------------------------------------------------------


def test_compare(folder, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(folder)
    arguments = ["run", "pair.onnx", "--input", "pair.npz", "--compare", "onnxruntime", "--threads", "1"]
    status, out, err = run(arguments, capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()[-5:]
    assert lines[0] == ""
    assert lines[1] == "file: largest difference from onnxruntime 0 of the largest value"
    assert lines[2].startswith("size: largest difference")
    assert re.fullmatch(f"onnxruntime {TIME}", lines[3])
    assert re.fullmatch(r"dwcpu \d+\.\d\d ms, onnxruntime \d+\.\d\d ms: \w+ is \d+\.\d\d times as fast", lines[4])


def test_compare_finds_differences(folder, monkeypatch, capsys):
    """An engine that is a little off, and one that is far off or finds other sizes, or something that is no number."""
    onnxruntime = pytest.importorskip("onnxruntime")
    real = onnxruntime.InferenceSession
    off = [lambda y: y * np.float32(1 + 1e-4)]

    class Session:
        def __init__(self, *args, **named) -> None:
            self.session = real(*args, **named)

        def run(self, names, inputs):
            return [off[0](y) for y in self.session.run(names, inputs)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    arguments = ["run", folder / "net.onnx", "--input", folder / "x.npy", "--compare", "onnxruntime"]
    status, out, _ = run(arguments, capsys)
    assert status == 0
    [found] = re.findall(r"difference from onnxruntime (\S+) of the largest value\n", out)
    assert float(found) == pytest.approx(1e-4, rel=0.1)
    for off[0] in (lambda y: y + np.abs(y).max(), lambda y: y[:, :3], lambda y: np.where(y == y.max(), np.nan, y)):
        status, out, err = run(arguments, capsys)
        assert (status, err) == (1, "")
        assert "of the largest value: more than 0.001" in out


def test_compare_of_what_is_not_finite(folder, capsys):
    """Infinities and NaN that both find are no difference."""
    pytest.importorskip("onnxruntime")
    arguments = ["run", folder / "infinite.onnx", "--input", folder / "infinite.npy", "--compare", "onnxruntime"]
    assert run(arguments, capsys)[0] == 0


def test_compare_where_onnxruntime_refuses(folder, capsys):
    """It trusts the sizes that a file declares, and we do not."""
    pytest.importorskip("onnxruntime")
    status, out, err = run(["run", folder / "fixed.onnx", "--size", "4x4", "--compare", "onnxruntime"], capsys)
    assert (status, out) == (2, "")
    assert "--compare onnxruntime: it cannot run this: " in err
    assert err.count("\n") == 1


def test_onnxruntime_is_missing(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, out, err = run(["run", folder / "net.onnx", "--compare", "onnxruntime"], capsys)
    assert (status, out) == (2, "")
    assert "pip install onnxruntime" in err


def test_onnx_is_missing(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, out, err = run(["run", folder / "net.onnx"], capsys)
    assert (status, out) == (2, "")
    assert "pip install onnx" in err
    assert run(["run", folder / "net.onnx.saved", "--input", folder / "x.npy"], capsys)[0] == 0


# --- inspect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["net.onnx", "net.onnx.saved"])
def test_inspect(file, folder, capsys):
    status, out, err = run(["inspect", folder / file, "--size", "16x12", "--threads", "1"], capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["model       net", "input       x: float32 (n, 3, h, w)"]
    assert re.fullmatch(r"output      \S+: float32, any shape", lines[2])
    # Weights of the convolution, four numbers for each of its channels in the normalisation, two for relu6, the Gemm.
    assert lines[3] == f"parameters  {8 * 3 * 9 + 4 * 8 + 2 + 8 * 10 + 10}"
    assert re.fullmatch(r"nodes       6, after simplification [1-5]", lines[4])
    counts = dict(each.split(" ") for each in lines[5].removeprefix("operators   ").split(", "))
    names = ("Conv", "BatchNormalization", "Clip", "GlobalAveragePool", "Flatten", "Gemm")
    assert counts == dict.fromkeys(names, "1")
    assert "leaves sizes open; (1, 3, 16, 12) is taken" in lines[6]
    found = re.fullmatch(r"multiply-adds: (\S+) million, without those on padding", lines[7])
    macs = 8 * 3 * (3 * 8 - 1) * (3 * 6 - 1)  # and a few more, in what is no convolution
    assert macs <= float(found[1]) * 1e6 + 5e3 < macs * 1.1 + 1e4
    assert "net, input 1x3x16x12" in lines
    for word in ("kernel", "MFLOP", "bound us", "Conv.0", "total"):
        assert word in out


def test_inspect_without_size(folder, capsys):
    status, out, _ = run(["inspect", folder / "net.onnx"], capsys)
    assert status == 0
    assert "net, input 1x3x224x224" in out
    status, out, _ = run(["inspect", folder / "fixed.onnx"], capsys)
    assert "fixed, input 1x3x6x8" in out
    assert "leaves sizes open" not in out
    status, out, _ = run(["inspect", folder / "pair.onnx"], capsys)
    assert (status, out.count("input  ")) == (0, 2)
    assert "pair, input 1, 1" in out


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("any.onnx", [], "any shape; a table needs all sizes"),
        ("rigid.onnx", [], "(1, 150528)"),
        ("rigid.onnx", ["--size", "6x9"], "the file declares: x: float32 (n, 3, h, w)"),
    ],
)
def test_inspect_says_why_there_is_no_table(file, options, words, folder, capsys):
    status, out, err = run(["inspect", folder / file, *options], capsys)
    assert (status, err) == (0, "")
    assert out.startswith("model ")
    last = out.splitlines()[-1]
    assert last.startswith("no table of the nodes: ")
    assert words in last


def test_shapes_of_inputs_are_chosen_one_by_one(tmp_path, capsys):
    nodes = [("Relu", ["x"], ["a"], {}), ("Relu", ["z"], ["b"], {})]
    inputs = [("x", FLOAT, ["n", 3, "d", "h", "w"]), ("z", FLOAT, None)]
    written(tmp_path / "m.onnx", nodes, inputs, [("a", FLOAT, None), ("b", FLOAT, None)])
    shapes = ["--shape", "x=2x3x4x5x6", "--shape", "z=7"]
    for command in ("run", "inspect"):
        status, out, err = run([command, tmp_path / "m.onnx", *shapes], capsys)
        assert (status, err, "is taken" in out) == (0, "", False)
        assert ("float32 (2, 3, 4, 5, 6)" if command == "run" else "2x3x4x5x6") in out
    status, out, _ = run(["run", tmp_path / "m.onnx", *shapes[2:]], capsys)
    assert (status, "--shape chooses others" in out) == (0, True)
