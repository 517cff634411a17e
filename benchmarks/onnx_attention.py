"""Networks with attention, and with instance normalisation, in ONNX with random weights: as in `onnx_architectures`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx_builder import Builder

__all__ = ["NETWORKS"]


def _linear(b: Builder, x: str, cin: int, cout: int) -> str:
    """Tokens times a matrix, plus a bias, as exporters write it."""
    return str(b.add("Add", b.add("MatMul", x, b.random(cin, cout, scale=0.05)), b.random(cout)))


def _norm(b: Builder, x: str, channels: int) -> str:
    return str(b.add("LayerNormalization", x, b.random(channels), b.random(channels), axis=-1, epsilon=1e-5))


def _attention(b: Builder, x: str, batch: int, tokens: int, channels: int, heads: int) -> str:
    """Queries, keys and values from one product."""
    each = channels // heads
    y = b.add("Reshape", _linear(b, x, channels, 3 * channels), b.ints(batch, tokens, 3, heads, each))
    y = b.add("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.add("Gather", y, b.constant(at, np.int64), axis=0) for at in range(3))
    q = b.add("Mul", q, b.constant(each**-0.5))
    weights = b.add("Softmax", b.add("MatMul", q, b.add("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = b.add("Transpose", b.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    return _linear(b, b.add("Reshape", y, b.ints(batch, tokens, channels)), channels, channels)


def _transformer(
    b: Builder, x: str, batch: int, tokens: int, channels: int, heads: int, act: str, expansion: int
) -> str:
    """Attention and two matrices, each normalised before and added after."""
    x = b.add("Add", x, _attention(b, _norm(b, x, channels), batch, tokens, channels, heads))
    y = b.act(_linear(b, _norm(b, x, channels), channels, expansion * channels), act)
    return str(b.add("Add", x, _linear(b, y, expansion * channels, channels)))


def mobilevit_s() -> bytes:
    """Mehta and Rastegari, 2022: attention among pixels at the same place of every patch of 2 x 2."""
    b = Builder(20, folded=True)

    def inverted(x: str, cin: int, cout: int, stride: int) -> str:
        y = b.conv(b.conv(x, cin, 4 * cin, act="silu"), 4 * cin, 4 * cin, 3, groups=4 * cin, stride=stride, act="silu")
        y = b.conv(y, 4 * cin, cout)
        return b.add("Add", x, y) if stride == 1 and cin == cout else y

    def block(x: str, channels: int, inner: int, depth: int, size: int) -> str:
        half = size // 2
        y = b.conv(b.conv(x, channels, channels, 3, act="silu"), channels, inner, norm=False)
        y = b.add("Reshape", y, b.ints(inner * half, 2, half, 2))
        y = b.add("Reshape", b.add("Transpose", y, perm=[0, 2, 1, 3]), b.ints(1, inner, half * half, 4))
        y = b.add("Reshape", b.add("Transpose", y, perm=[0, 3, 2, 1]), b.ints(4, half * half, inner))
        for _ in range(depth):
            y = _transformer(b, y, 4, half * half, inner, 4, "silu", 2)
        y = b.add("Reshape", _norm(b, y, inner), b.ints(1, 4, half * half, inner))
        y = b.add("Reshape", b.add("Transpose", y, perm=[0, 3, 2, 1]), b.ints(inner * half, half, 2, 2))
        y = b.add("Reshape", b.add("Transpose", y, perm=[0, 2, 1, 3]), b.ints(1, inner, size, size))
        y = b.conv(y, inner, channels, act="silu")
        return b.conv(b.add("Concat", x, y, axis=1), 2 * channels, channels, 3, act="silu")

    x = b.conv("x", 3, 16, 3, stride=2, act="silu")
    for cin, cout, stride in ((16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 96, 2)):
        x = inverted(x, cin, cout, stride)
    x = inverted(block(x, 96, 144, 2, 32), 96, 128, 2)
    x = inverted(block(x, 128, 192, 4, 16), 128, 160, 2)
    x = b.conv(block(x, 160, 240, 3, 8), 160, 640, act="silu")
    return b.model("mobilevit_s", [b.classifier(x, 640, 1000)])


def svtr() -> bytes:
    """Text recognition in the manner of SVTR (Du et al., 2022): a line of text of 32 x 160 pixels."""
    b = Builder(21, folded=True)
    x = b.conv(b.conv("x", 3, 32, 3, stride=2, act="gelu"), 32, 64, 3, stride=2, act="gelu")
    height, width, channels = 8, 40, 64
    x = b.add("Transpose", b.add("Reshape", x, b.ints(1, channels, height * width)), perm=[0, 2, 1])
    for heads, depth in ((2, 3), (4, 6), (8, 3)):
        for _ in range(depth):
            x = _transformer(b, x, 1, height * width, channels, heads, "gelu", 4)
        if channels < 256:
            x = b.add("Reshape", b.add("Transpose", x, perm=[0, 2, 1]), b.ints(1, channels, height, width))
            w, bias = b.random(2 * channels, channels, 3, 3, scale=0.05), b.random(2 * channels)
            x = b.add("Conv", x, w, bias, strides=[2, 1], pads=[1] * 4)
            height, channels = height // 2, 2 * channels
            x = b.add("Transpose", b.add("Reshape", x, b.ints(1, channels, height * width)), perm=[0, 2, 1])
            x = _norm(b, x, channels)
    x = b.add("ReduceMean", b.add("Reshape", x, b.ints(1, height, width, channels)), b.ints(1), keepdims=0)
    return b.model("svtr", [b.add("Softmax", b.add("MatMul", x, b.random(channels, 97, scale=0.1)), axis=-1)])


def conformer() -> bytes:
    """Four blocks in the manner of Conformer (Gulati et al., 2020): 100 frames of 80 bands, depthwise 1x31 windows."""
    b, channels, frames = Builder(22, folded=True), 144, 100
    x = b.add("Transpose", b.conv("x", 80, channels, 3, axes=1, norm=False), perm=[0, 2, 1])
    for _ in range(4):
        x = _transformer(b, x, 1, frames, channels, 4, "silu", 4)
        y = b.conv(b.add("Transpose", _norm(b, x, channels), perm=[0, 2, 1]), channels, 2 * channels, axes=1)
        y, gate = b.add("Split", y, b.ints(channels, channels), outputs=2, axis=1)
        y = b.add("Mul", y, b.add("Sigmoid", gate))
        y = b.conv(b.conv(y, channels, channels, 31, groups=channels, axes=1, act="silu"), channels, channels, axes=1)
        x = b.add("Add", x, b.add("Transpose", y, perm=[0, 2, 1]))
    return b.model("conformer", [x], x_shape=(1, 80, frames))


def style_transfer() -> bytes:
    """Johnson et al., 2016, half as wide: mirrored edges, instance normalisation, windows of 9x9."""
    b = Builder(23)

    def norm(x: str, channels: int) -> str:
        return str(b.add("InstanceNormalization", x, b.random(channels), b.random(channels)))

    def conv(x: str, cin: int, cout: int, k: int, stride: int = 1) -> str:
        x = b.add("Pad", x, b.ints(0, 0, k // 2, k // 2, 0, 0, k // 2, k // 2), mode="reflect")
        return b.conv(x, cin, cout, k, stride=stride, norm=False, pads=[0] * 4)

    x = "x"
    for cin, cout, k, stride in ((3, 16, 9, 1), (16, 32, 3, 2), (32, 64, 3, 2)):
        x = b.add("Relu", norm(conv(x, cin, cout, k, stride), cout))
    for _ in range(5):
        y = b.add("Relu", norm(conv(x, 64, 64, 3), 64))
        x = b.add("Add", x, norm(conv(y, 64, 64, 3), 64))
    nearest: dict[str, Any] = {
        "mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric",
    }  # fmt: skip
    for cin, cout in ((64, 32), (32, 16)):
        x = b.add("Relu", norm(conv(b.add("Resize", x, "", b.constant([1, 1, 2, 2]), **nearest), cin, cout, 3), cout))
    return b.model("style_transfer", [b.add("Tanh", conv(x, 16, 3, 9))])


#: Name -> what writes it, and the shape of its input.
NETWORKS: dict[str, tuple[Callable[[], bytes], tuple[int, ...]]] = {
    "mobilevit_s": (mobilevit_s, (1, 3, 256, 256)),
    "svtr": (svtr, (1, 3, 32, 160)),
    "conformer": (conformer, (1, 80, 100)),
    "style_transfer": (style_transfer, (1, 3, 224, 224)),
}
