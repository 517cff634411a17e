"""Kernels, backends, threads and shapes that users ask for: what is said where they cannot be had."""

from __future__ import annotations

import numpy as np
import pytest

import dwcpu
from dwcpu import dispatch, layers, list_kernels, ops, runtime

F32 = np.float32
X = np.ones((1, 8, 8, 16), F32)
DW, PW = np.ones((3, 3, 16), F32), np.ones((16, 24), F32)


def kernel_of(op: str, dtype: str) -> str:
    return next(name for name in list_kernels() if name.startswith(f"{op}_{dtype}_"))


@pytest.mark.parametrize("name", [("pointwise", "f32"), ("depthwise", "f64")])
def test_a_kernel_for_something_else_is_refused_by_name(name) -> None:
    with pytest.raises(ValueError, match=r"^depthwise_conv2d: "):
        ops.depthwise_conv2d(X, DW, backend=kernel_of(*name))


def test_a_kernel_for_something_else_is_told_in_few_words() -> None:
    text = (
        r"^depthwise_conv2d: kernel \S+ does not compute depthwise 3x3 from 16 to 16 channels of 8x8, stride 2x2, "
        r"dilation 1x1; it takes pointwise; use backend='auto' or another one of list_kernels\(\)$"
    )
    with pytest.raises(ValueError, match=text):
        ops.depthwise_conv2d(X, DW, stride=2, backend=kernel_of("pointwise", "f32"))
    with pytest.raises(
        ValueError, match=r" depthwise 3x3 from .* then pointwise 1x1 from 16 to 24 channels of \S+, stride"
    ):
        ops.separable_conv2d(X, DW, PW, backend=kernel_of("pointwise", "f32"))


@pytest.mark.parametrize("name", [("pointwise", "f32"), ("depthwise", "f64")])
def test_a_layer_refuses_a_kernel_for_something_else_when_it_is_made(name) -> None:
    with pytest.raises(ValueError, match=r"^DepthwiseConv2d: "):
        layers.DepthwiseConv2d(DW, backend=kernel_of(*name))


def test_a_layer_refuses_a_backend_that_is_not_there_when_it_is_made(monkeypatch) -> None:
    monkeypatch.setattr(runtime, "cython_kernels", lambda: None)
    # No other test has this window: choices are remembered.
    with pytest.raises(ValueError, match=r"^InvertedResidual: backend is 'cython' but the Cython kernels"):
        layers.InvertedResidual(None, np.ones((1, 6, 16), F32), PW, backend="cython")


@pytest.mark.parametrize("count", [1025, 10**8, 2**40])
def test_more_threads_than_can_be_meant(count: int) -> None:
    layer = layers.PointwiseConv2d(PW)
    for call in (
        lambda: ops.pointwise_conv2d(X, PW, num_threads=count),
        lambda: layer(X, num_threads=count),
        lambda: layer.explain(X.shape, num_threads=count),
    ):
        with pytest.raises(ValueError, match=r"(?i)^pointwise_?conv2d: num_threads is \d+; it must be"):
            call()
    with pytest.raises(ValueError, match="set_num_threads: n is"):
        dwcpu.set_num_threads(count)


@pytest.mark.parametrize("ask", ["explain", "out_shape"])
@pytest.mark.parametrize(
    ("shape", "error", "text"),
    [
        ((8, -8, 16), ValueError, r"shape\[1\] is -8; it must be at least 0; "),
        ((8, 2**40, 16), ValueError, r"shape\[1\] is 1099511627776; it must be below 2\*\*31; "),
        ((8, 8.0, 16), TypeError, r"shape\[1\] is 8.0 of type float; it must be an integer; "),
        ((True, 8, 16), TypeError, r"shape\[0\] is True, a bool; it must be an integer; "),
        (5, TypeError, "shape is of type int; it must be a tuple of integers; "),
        ("abc", TypeError, "shape is of type str; it must be a tuple of integers; "),
        (None, TypeError, "shape is of type NoneType; it must be a tuple of integers; "),
        ((), ValueError, r"x has shape \(\); it must be \(N, H, W, C\) or \(H, W, C\); "),
        ((1,) * 80, ValueError, r"x has shape .*; it must be \(N, H, W, C\) or \(H, W, C\); "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_asking_for_what_is_no_shape(ask: str, shape: object, error: type, text: str) -> None:
    with pytest.raises(error, match="^DepthwiseConv2d: " + text):
        getattr(layers.DepthwiseConv2d(DW), ask)(shape)


@pytest.mark.parametrize(
    ("way", "text"),
    [("several", "2 to 8 outputs a channel"), ("3x3s1", "depthwise 3x3, stride 1 .*, 1 output a channel")],
)
def test_a_kernel_says_what_it_takes(way: str, text: str) -> None:
    found = next(name for name in list_kernels() if name.startswith(f"depthwise_f32_{way}_") and "__numba" in name)
    with pytest.raises(ValueError, match=rf"; it takes .*{text}; use "):
        ops.depthwise_conv2d(X, np.ones((5, 5, X.shape[-1]), np.float32), backend=found)


@pytest.mark.parametrize("label", ["flat3", "flat"])
def test_a_layer_takes_a_kernel_of_long_rows_by_its_name(label: str) -> None:
    """It is asked for before there is an image: of short rows the one computes none, the other fewer channels."""
    kernel = next((each for each in dispatch.kernels(F32) if each.label == label), None)
    if kernel is None:
        pytest.skip("the Cython kernels were not built")
    channels = kernel.channels[1]
    rng = np.random.default_rng(1)
    x, w = rng.random((5, 70, channels), F32), rng.random((3, 3, channels), F32)
    layer = layers.DepthwiseConv2d(w, padding="same", backend=kernel.name)
    assert layer(x).tobytes() == ops.depthwise_conv2d(x, w, padding="same").tobytes()
    if label == "flat3" or channels > kernel.lanes:
        with pytest.raises(ValueError, match=r" does not compute depthwise 3x3 .* of 5x3, .*; it takes depthwise"):
            layer(x[:, :3])
