"""Convolutions and pooling of three axes of pixels, which kernels run as those of two, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import runtime

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_graphs import agree, assert_close, by_onnxruntime
from onnx_passes import node, random, write

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")

#: Of a convolution: window, groups (0: one for each of 8 channels), outputs, and other attributes.
WINDOWS: dict[str, tuple[tuple[int, int, int], int, int, dict[str, Any]]] = {
    "pixels": ((1, 1, 1), 1, 20, {}),
    "pixels, strides": ((1, 1, 1), 1, 20, {"strides": [2, 2, 2]}),
    "planes": ((1, 3, 3), 0, 8, {"pads": [0, 1, 1, 0, 1, 1]}),
    "planes, strides": ((1, 3, 2), 2, 12, {"strides": [3, 2, 1], "pads": [0, 2, 1, 0, 0, 0]}),
    "depth": ((3, 1, 1), 0, 8, {"pads": [1, 0, 0, 1, 0, 0]}),
    "depth, stride, dilation": ((3, 1, 1), 1, 12, {"strides": [2, 1, 1], "dilations": [2, 1, 1]}),
    "depth, strides": ((3, 1, 1), 1, 12, {"strides": [1, 2, 2], "pads": [2, 0, 0, 1, 0, 0]}),
    "columns": ((3, 3, 1), 1, 5, {"pads": [1, 1, 0, 1, 1, 0]}),
    "cubes": ((3, 3, 3), 1, 12, {"pads": [1] * 6}),
    "cubes of channels": ((3, 3, 3), 0, 8, {"pads": [1] * 6}),
    "cubes, one side": ((3, 2, 3), 4, 8, {"pads": [2, 0, 1, 0, 1, 1], "dilations": [1, 1, 2]}),
    "cubes, strides": ((3, 3, 3), 0, 16, {"strides": [2, 2, 2], "pads": [1] * 6}),
    "cubes, dilation": ((3, 3, 3), 1, 8, {"dilations": [2, 1, 2], "pads": [2, 0, 2, 2, 0, 2]}),
    "no padding": ((2, 2, 2), 1, 8, {"strides": [1, 1, 2]}),
}


def convolved(what: str, batch: int, dtype: Any, act: str | None = None) -> tuple[bytes, dict[str, np.ndarray]]:
    """The convolution of volumes of 8 channels, between pointwise ones, so that they lie as kernels have them."""
    window, groups, outputs, attributes = WINDOWS[what]
    w = {
        "w0": random(8, 3, 1, 1, 1), "w": random(outputs, 8 // (groups or 8), *window) / 3, "b": random(outputs),
        "w1": random(4, outputs, 1, 1, 1) / 3,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w0"], ["a"]),
        node("Conv", ["a", "w", "b"], ["c"], group=groups or 8, **attributes),
        *([node(act, ["c"], ["d"])] if act else []),
        node("Conv", ["d" if act else "c", "w1"], ["y"]),
    ]
    feeds = {"x": random(batch, 3, 5, 6, 7).astype(dtype)}
    return write(nodes, feeds, {key: each.astype(dtype) for key, each in w.items()}, ["y"], 17), feeds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("what", WINDOWS)
def test_kernels_run_convolutions_of_volumes(what, batch, dtype) -> None:
    content, feeds = convolved(what, batch, np.float32, "Relu")
    wanted = by_onnxruntime(content, feeds)  # which has none of float64
    content, feeds = convolved(what, batch, dtype, "Relu")
    model, x = dwcpu.load_onnx(content), feeds["x"]
    assert_close(model(x), [each.astype(dtype) for each in wanted])
    assert not any("numpy" in row.kernel for row in model.explain(x.shape).rows)
    found = model(x)
    assert model(x, num_threads=2).tobytes() == found.tobytes()
    for at in range(batch):
        assert model(x[at : at + 1]).tobytes() == found[at : at + 1].tobytes()


@pytest.mark.parametrize("what", ["planes", "depth", "cubes of channels"])
@pytest.mark.parametrize("batch", [1, 2])
def test_residuals_of_volumes_are_added_before_the_activation(what, batch) -> None:
    window, groups, outputs, attributes = WINDOWS[what]
    w = {"w0": random(8, 3, 1, 1, 1), "w": random(outputs, 8 // (groups or 8), *window)}
    nodes = [
        node("Conv", ["x", "w0"], ["a"]), node("Conv", ["a", "w"], ["c"], group=groups or 8, **attributes),
        node("Add", ["c", "a"], ["d"]), node("Relu", ["d"], ["y"]),
    ]  # fmt: skip
    feeds = {"x": random(batch, 3, 5, 6, 7)}
    model = agree(write(nodes, feeds, w, ["y"], 17), feeds)
    assert [row.kernel.partition("_")[0] for row in model.explain(feeds["x"].shape).rows] == ["pointwise", "depthwise"]


def test_residuals_that_are_spread_are_added_afterwards() -> None:
    w = {"w": random(3, 3, 3, 3, 3), "more": random(1, 3, 1, 1, 7)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 6), node("Mul", ["x", "more"], ["m"]),
        node("ReduceMax", ["m"], ["r"], axes=[2, 3]), node("Add", ["c", "r"], ["d"]), node("Relu", ["d"], ["y"]),
    ]  # fmt: skip
    feeds = {"x": random(2, 3, 5, 6, 7)}
    agree(write(nodes, feeds, w, ["y"], 17), feeds)


@pytest.mark.parametrize(
    ("window", "attributes"),
    [
        ((17, 1, 2), {}),  # as many passes
        ((3, 3, 3), {"dilations": [4, 1, 1], "pads": [8, 1, 1, 8, 1, 1], "strides": [3, 1, 1]}),  # no tap sees all
    ],
)
def test_other_windows_run_on_numpy(window, attributes) -> None:
    feeds = {"x": random(1, 3, 20, 3, 4)[:, :, : 20 if window[0] == 17 else 5]}
    content = write([node("Conv", ["x", "w"], ["y"], **attributes)], feeds, {"w": random(4, 3, *window) / 5}, ["y"], 17)
    model = agree(content, feeds)
    assert [row.kernel for row in model.explain(feeds["x"].shape).rows] == ["numpy"]


@pytest.mark.parametrize(
    ("window", "attributes"),
    [
        ([1, 3, 3], {"strides": [1, 2, 2], "pads": [0, 1, 1, 0, 1, 1]}),
        ([3, 1, 1], {"strides": [2, 1, 1], "pads": [1, 0, 0, 0, 0, 0]}),
        ([2, 2, 2], {"strides": [2, 2, 2], "ceil_mode": 1}),
        ([3, 2, 3], {"dilations": [2, 1, 1], "pads": [1, 0, 1, 2, 1, 1]}),
        ([1, 1, 1], {}),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_kernels_find_the_largest_of_volumes(window, attributes, batch) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("MaxPool", ["a"], ["y"], kernel_shape=window, **attributes)]
    feeds = {"x": random(batch, 3, 5, 6, 7)}
    model = agree(write(nodes, feeds, {"w": random(8, 3, 1, 1, 1)}, ["y"], 17), feeds)
    assert not any("numpy" in row.kernel for row in model.explain(feeds["x"].shape).rows)
    assert model(feeds["x"], num_threads=2).tobytes() == model(feeds["x"]).tobytes()


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 4, 5), (2, 6, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_normalise_what_has_its_channels_first(shape, dtype) -> None:
    statistics = {name: np.abs(random(6)).astype(dtype) + 1 for name in "smbv"}
    nodes = [node("BatchNormalization", ["x", *"smbv"], ["n"]), node("Relu", ["n"], ["y"])]
    feeds = {"x": random(*shape).astype(dtype)}
    model = agree(write(nodes, feeds, statistics, ["y"], 17), feeds)
    assert not any("numpy" in row.kernel for row in model.explain(shape).rows)
    assert model(feeds["x"], num_threads=2).tobytes() == model(feeds["x"]).tobytes()


def test_planes_of_other_volumes_do_not_matter() -> None:
    """A plane that is infinite spoils the planes that see it, and no others: nothing is multiplied by zeros beside."""
    content, feeds = convolved("cubes", 2, np.float32)
    x = feeds["x"].copy()
    x[0, 1, 0, 2, 2] = np.inf
    found = dwcpu.load_onnx(content)(x)
    assert np.isfinite(found[0, :, 2:]).all()
    assert np.isfinite(found[1]).all()
    assert not np.isfinite(found[0, :, :2, 1:4, 1:4]).any()


def test_the_bias_is_added_once_whatever_depths_were_met_before() -> None:
    w = {"w": random(4, 3, 3, 3, 3) / 5, "b": random(4)}
    nodes = [node("Conv", ["x", "w", "b"], ["y"], strides=[2, 1, 1], pads=[1] * 6)]
    deep = {depth: {"x": random(1, 3, depth, 4, 5)} for depth in (4, 5, 6, 1)}
    model = dwcpu.load_onnx(write(nodes, deep[4], w, ["y"], 17))
    for feeds in deep.values():
        assert_close(model(feeds), by_onnxruntime(write(nodes, feeds, w, ["y"], 17), feeds))
