"""The peers compute what they are asked for: each against a definition in plain NumPy that shares no code with us."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import peers
import problem
import pytest
import shapes

ACTIVATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "relu6": lambda v: np.clip(v, 0, 6),
    "hardswish": lambda v: v * np.clip(v + 3, 0, 6) / 6,
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "silu": lambda v: v / (1 + np.exp(-v)),
    "gelu": lambda v: v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))) / 2,
}


def by_hand(made: problem.Problem) -> np.ndarray:
    """The whole chain in float64: for every tap, a strided view of the padded input times that tap's weights."""
    value = made.x.astype(np.float64)
    for conv, w, b in zip(made.shape.convs, made.weights, made.biases, strict=True):
        if conv.op == "pointwise":
            value = ACTIVATIONS[conv.activation](value @ w.astype(np.float64) + b)
            continue
        (stride_h, stride_w), (dilation_h, dilation_w) = conv.stride, conv.dilation
        padded = np.pad(value, ((0, 0), *conv.padding, (0, 0)))
        kernel_h, kernel_w = w.shape[:2]
        out_h = (padded.shape[1] - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
        out_w = (padded.shape[2] - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
        total: np.ndarray | float = 0.0
        for i, j in np.ndindex(kernel_h, kernel_w):
            rows = slice(i * dilation_h, i * dilation_h + (out_h - 1) * stride_h + 1, stride_h)
            columns = slice(j * dilation_w, j * dilation_w + (out_w - 1) * stride_w + 1, stride_w)
            seen = padded[:, rows, columns]
            if conv.op == "depthwise":
                term = (seen[..., None] * w[i, j]).reshape(*seen.shape[:3], -1)
            else:
                parts = zip(np.split(seen, conv.groups, axis=3), np.split(w[i, j], conv.groups, axis=1), strict=True)
                term = np.concatenate([part @ weights for part, weights in parts], axis=3)
            total = total + term
        value = ACTIVATIONS[conv.activation](total + b)
    return value + made.x if made.shape.residual else value


@pytest.mark.parametrize("peer", peers.available())
def test_peer_computes_the_problem(peer: str, shape: shapes.Shape) -> None:
    made = problem.make(shape)
    contender = peers.prepare(peer, made.graph)
    contender.run()
    assert problem.agree(contender.result(), by_hand(made)) < 1e-5


def test_ids_are_unique_and_suites_are_as_long_as_promised() -> None:
    least = {"depthwise": 45, "pointwise": 25, "separable": 20, "inverted_residual": 17, "conv": 5}
    for suite, entries in shapes.SUITES.items():
        assert len({shape.id for shape in entries}) == len(entries) >= least[suite]
    assert len(shapes.select("separable", "mobilenet_v1")) == 9
