"""Weights in PyTorch's order of axes: what is said about them, and that following it gives the right result."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dwcpu import layers, ops

F32 = np.float32

#: Name of the weights -> their shape as PyTorch has it, for 6 channels, and a call that takes them in our order.
Call = Callable[[np.ndarray, np.ndarray], Any]
X = np.random.default_rng(0).integers(-3, 4, (2, 8, 8, 6)).astype(F32)
MAT, DW = np.ones((6, 6), F32), np.ones((3, 3, 6), F32)
MATRICES: dict[str, tuple[str, Call]] = {
    "pointwise": ("w", lambda x, w: ops.pointwise_conv2d(x, w)),
    "pointwise layer": ("w", lambda x, w: layers.PointwiseConv2d(w)(x)),
    "separable": ("pw", lambda x, w: ops.separable_conv2d(x, DW, w)),
    "separable layer": ("pw", lambda x, w: layers.SeparableConv2d(DW, w)(x)),
    "expand": ("expand", lambda x, w: ops.inverted_residual(x, w, np.ones((3, 3, 9), F32), np.ones((9, 6), F32))),
    "project": ("project", lambda x, w: ops.inverted_residual(x, MAT, DW, w)),
    "project layer": ("project", lambda x, w: layers.InvertedResidual(MAT, DW, w)(x)),
}
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Call]] = {
    "window too large": ((16, 6, 3, 3), lambda x, w: ops.conv2d(x, w)),
    "channels": ((5, 6, 3, 1), lambda x, w: ops.conv2d(x, w)),
    "groups": ((4, 3, 3, 3), lambda x, w: ops.conv2d(x, w, groups=2)),
    "layer": ((16, 6, 3, 3), lambda x, w: layers.Conv2d(w, padding=1)(x)),
}


def advised(call: Call, w: np.ndarray, name: str) -> Any:
    """The result of a call once what its error says has been done to the weights."""
    with pytest.raises(ValueError) as caught:
        call(X, w)
    expression = re.search(rf"pass ({name}[^;]*)$", str(caught.value))
    assert expression is not None, str(caught.value)
    assert "PyTorch" in str(caught.value)
    return call(X, eval(expression[1], {name: w}))


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("axes", [2, 4])
def test_advice_for_matrices_is_right(kind: str, axes: int) -> None:
    name, call = MATRICES[kind]
    right = np.random.default_rng(1).integers(-3, 4, (6, 9)).astype(F32)
    theirs = right.T.copy().reshape((9, 6, 1, 1)[:axes])
    assert np.array_equal(advised(call, theirs, name), call(X, right))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_advice_for_convolutions_is_right(kind: str) -> None:
    shape, call = CONVOLUTIONS[kind]
    theirs = np.random.default_rng(1).integers(-3, 4, shape).astype(F32)
    assert np.array_equal(advised(call, theirs, "w"), call(X, theirs.transpose(2, 3, 1, 0)))


@pytest.mark.parametrize("axes", [3, 4])
def test_advice_for_several_outputs_a_channel_is_right(axes: int) -> None:
    theirs = np.random.default_rng(1).integers(-3, 4, (12, 1, 3, 3)[:axes]).astype(F32)

    def call(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return ops.depthwise_conv2d(x, w) if axes == 4 else ops.depthwise_conv1d(x[0], w)

    right = theirs.reshape(6, 2, *theirs.shape[2:])
    right = right.transpose(2, 3, 0, 1) if axes == 4 else right.transpose(2, 0, 1)
    assert np.array_equal(advised(call, theirs, "w"), call(X, right))


def test_advice_for_signals_is_right() -> None:
    theirs = np.random.default_rng(1).integers(-3, 4, (6, 1, 4)).astype(F32)

    def call(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return ops.depthwise_conv1d(x[0], w)

    assert np.array_equal(advised(call, theirs, "w"), call(X, theirs[:, 0].T))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.pointwise_conv2d(X, np.ones((5, 7), F32)),
        lambda: ops.pointwise_conv2d(X, np.ones((6, 9, 1), F32)),
        lambda: ops.conv2d(X, np.ones((9, 9, 6, 4), F32)),
        lambda: ops.conv2d(X, np.ones((16, 6, 3, 3), F32), stride=0),
        lambda: ops.dwconv2d(X.transpose(0, 3, 1, 2), np.ones((3, 6, 16, 3), F32)),
        lambda: ops.depthwise_conv1d(X[0], np.ones((4, 7), F32)),
    ],
)
def test_there_is_no_such_advice_where_it_would_not_help(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert "PyTorch" not in str(caught.value)
