"""``python -m dwcpu run`` and ``inspect``: one clear line for what users get wrong."""

from __future__ import annotations

import numpy as np
import pytest

from dwcpu.cli import main

onnx = pytest.importorskip("onnx")

from model_files import run, write_models, write_photo  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_models")
    write_models(folder)
    return folder


@pytest.fixture
def photo(folder):
    return write_photo(folder)


def test_help(capsys):
    for command in ("run", "inspect"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert "MODEL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run", "required: MODEL"),
        ("inspect", "required: MODEL"),
        ("run none.onnx", "none.onnx: No such file"),
        ("inspect none.onnx", "none.onnx: No such file"),
        ("run .", "Is a directory"),
        ("run text.onnx", "text.onnx is damaged or no ONNX model"),
        ("inspect text.onnx", "text.onnx is damaged or no ONNX model"),
        ("run empty.onnx", "empty.onnx is empty"),
        ("run zip.onnx", "zip.onnx is damaged or no saved model"),
        ("inspect text.dwcpu", "text.dwcpu was not written by Model.save"),
        ("inspect empty.dwcpu", "empty.dwcpu is empty; a saved model is needed"),
        ("inspect page.onnx", "page.onnx is damaged or no ONNX model but a web page"),
        ("inspect pointer.onnx", "pointer.onnx is damaged or no ONNX model but a pointer of Git LFS"),
        ("run one.npz", "holds no graph"),
        ("run unsupported.onnx", "or run it elsewhere: operator Det: 'y'"),
        ("run net.onnx --threads 0", "--threads: '0'"),
        ("run net.onnx --threads 5000", "--threads: '5000' is not a whole number from 1 to 1024"),
        ("inspect net.onnx --threads 5000", "--threads: '5000' is not a whole number from 1 to 1024"),
        ("run net.onnx --external-data none", "--external-data none: this is no folder"),
        ("run net.onnx.saved --external-data .", "--external-data .: net.onnx.saved was written by Model.save"),
        # sizes
        ("run net.onnx --size 32x", "--size: '32x' is no size"),
        ("run net.onnx --size 32", "--size 32: no input of the model is a signal"),
        ("run net.onnx --size 32", "write 32x32 for images"),
        ("run net.onnx --size 99999999", "goes up to 16777216"),
        ("run net.onnx --size 0x32", "--size: '0x32' is no size"),
        ("run net.onnx --size 99999x1", "from 1 to 16384"),
        ("inspect net.onnx --size -1x3", "--size"),
        ("run vector.onnx --size 4x4", "--size 4x4: no input of the model has height and width"),
        ("inspect vector.onnx --size 4x4", "--size 4x4: no input of the model has height and width"),
        ("run rigid.onnx --size 6x9", "given: x (1, 3, 6, 9); the file declares: x: float32 (n, 3, h, w)"),
        ("run net.onnx --input x.npy --size 6x8", "--size is given with arrays only"),
        ("run net.onnx --input x.npy --raw", "--raw is given with arrays only"),
        ("run net.onnx --raw", "--raw is given without --input"),
        ("run any.onnx", "x: float32, any shape; its sizes must be known; give them, --shape x=AxB…, or the array"),
        ("run net.onnx --shape 1x3x8x8", "'1x3x8x8' is no shape; it is the name of an input and all of its sizes"),
        ("run net.onnx --shape x=1x3x8x", "'x=1x3x8x' is no shape"),
        ("run net.onnx --shape y=1x3x8x8", "--shape y=1x3x8x8: there is no such input; inputs are x: float32"),
        ("run net.onnx --shape x=3x8x8", "give 4 sizes"),
        ("run net.onnx --shape x=1x3x8x8 --shape x=1x3x9x9", "'x' has a shape already"),
        ("run net.onnx --input x.npy --shape x=1x3x8x8", "--shape is given with --input"),
        ("run net.onnx --shape x=1x3x8x8 --size 8x8", "no input of the model has height and width and is left by"),
        ("run net.onnx --shape x=99999999x3x99999x99", "elements; 8589934592 is the limit; give fewer"),
        ("inspect any.onnx --shape y=1x3x8x8", "--shape y=1x3x8x8: there is no such input; inputs are x: float32"),
        ("run strings.onnx", "random numbers are no strings"),
        # inputs
        ("run net.onnx --input", "--input"),
        ("run net.onnx --input none.npy", "none.npy: No such file"),
        ("run net.onnx --input x=none.npy", "none.npy: No such file"),
        ("run net.onnx --input y=x.npy", "'y' is no input of the model; inputs are 'x'"),
        ("run constant.onnx --input x.npy", "no input is left for it; the model's inputs are none"),
        ("run net.onnx --input x.npy a.npy", "--input a.npy: no input is left for it"),
        ("run net.onnx --input x=x.npy x=x.npy", "'x' is given twice"),
        ("run pair.onnx --input pair.npz a=a.npy", "'a' is given twice"),
        ("run pair.onnx --input a.npy", "nothing is given for b: float32 (n); every input needs an array; add b=FILE"),
        ("run pair.onnx --input odd.npz", "--input odd.npz: 'c' in it is no input of the model; inputs are 'a', 'b'"),
        ("run pair.onnx --input b=odd.npz a.npy", "the file has the arrays 'a', 'c'"),
        ("run net.onnx --input double.npy", "dtype is float64; the model's input 'x' takes float32; write the file"),
        ("run double.onnx --input x.npy", "again with array.astype(np.float64)"),
        ("run net.onnx --input pixels.npy", "array.astype(np.float32), and if these are pixels, scaled as the model"),
        ("run strings.onnx --input a.npy", "files of strings are not read"),
        ("run net.onnx --input a.npy", "given: x (3,)"),
        ("run net.onnx --input last.npy", "the channels of x are last, save x.transpose(0, 3, 1, 2)"),
        ("run net.onnx --input text.npy", "--input text.npy: it begins with b'not an a'; .npy files do not"),
        ("run net.onnx --input cut.npy", "--input cut.npy: it cannot be read"),
        ("run net.onnx --input cut.npz", "--input cut.npz: it cannot be read"),
        ("run net.onnx --input pickled.npy", "never pickled objects"),
        ("run net.onnx --input pickled.npz", "never pickled objects"),
        ("run net.onnx --input net.onnx.saved x.npy", "is no input of the model"),
        # outputs and other engines
        ("run net.onnx --output y.npy", "--output y.npy: the name must end in .npz"),
        ("run none.onnx --output y.npy", "--output y.npy: the name must end in .npz"),
        ("run net.onnx --output none/y.npz", "--output none/y.npz: there is no directory none"),
        ("run pair.onnx --input pair.npz --output pair.npz", "--output pair.npz: this file is read"),
        ("run pair.onnx --input a=pair.npz b.npy --output ./pair.npz", "--output pair.npz: this file is read"),
        ("run net.onnx --compare tvm", "invalid choice: 'tvm'"),
        ("run net.onnx.saved --compare onnxruntime", "was written by Model.save; only .onnx files run there"),
        ("run none.onnx --compare onnxruntime", "none.onnx: No such file"),
        ("inspect net.onnx --profile", "--profile"),
    ],
)
def test_errors_are_one_line(arguments, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    status, out, err = run(arguments.split(), capsys)
    assert (status, out) == (2, "")
    assert err.startswith("dwcpu: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run net.onnx --input photo.png --size 6", "photo.png is a picture; it has height and width; write 6x6"),
        ("run net.onnx --input text.png", "text.png: not an image that Pillow can read"),
        ("run net.onnx --input cut.png", "cut.png"),
        ("run vector.onnx --input photo.png", "the model declares x: float32 (n, 4)"),
        ("run grey.onnx --input photo.png", "a picture has four axes and three channels"),
        ("run ints.onnx --input photo.png", "takes int64; give an array in place of a picture: x=FILE.npy"),
        ("run rigid.onnx --input photo.png --size 9x9", "given: x (1, 3, 9, 9)"),
        ("run net.onnx --input photo.png photo.png", "no input is left"),
    ],
)
def test_errors_about_pictures_are_one_line(arguments, words, photo, folder, monkeypatch, capsys):
    test_errors_are_one_line(arguments, words, folder, monkeypatch, capsys)


def test_output_must_be_no_directory(folder, tmp_path, capsys):
    (tmp_path / "y.npz").mkdir()
    status, out, err = run(["run", folder / "net.onnx", "--output", tmp_path / "y.npz"], capsys)
    assert (status, out) == (2, "")
    assert "this is a directory" in err


def test_nothing_is_unpickled(folder, tmp_path, capsys):
    """An array of objects would run code when it is read."""

    class Bomb:
        def __reduce__(self):
            return (tmp_path / "exploded").mkdir, ()

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], object))
    for name in ("bomb.npy", "bomb.npz"):
        status, _, err = run(["run", folder / "net.onnx", "--input", tmp_path / name], capsys)
        assert status == 2
        assert "pickled" in err
    assert not (tmp_path / "exploded").exists()
