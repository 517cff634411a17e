"""Graphs with the structure of well-known networks, in ONNX, with random weights.

They are small: fewer blocks than the originals, every sort of block that those have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dwcpu.bench_command import folder
from dwcpu.models import architectures

sys.path.append(str(folder()))  # also where these files lie alone, beside an installed package

from onnx_builder import Builder

__all__ = ["NETWORKS", "Builder", "architecture_model"]


def mobilenet_v3(**options: Any) -> bytes:
    b = Builder(1, **options)
    x = b.conv("x", 3, 16, 3, stride=2, act="hardswish_decomposed")
    x = b.conv(b.conv(x, 16, 16, 3, groups=16, act="relu"), 16, 16)
    channels = 16
    for k, inner, out, se, act, stride in (
        (3, 64, 24, False, "relu", 2), (5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hardswish_gate", 2), (3, 184, 80, True, "hardswish", 1),
    ):  # fmt: skip
        y = b.conv(x, channels, inner, act=act)
        y = b.conv(y, inner, inner, k, groups=inner, stride=stride, act=act)
        y = b.squeeze_excite(y, inner, inner // 4, "relu", "hardsigmoid_decomposed") if se else y
        y = b.conv(y, inner, out)
        x, channels = (b.add("Add", x, y) if stride == 1 and channels == out else y), out
    x = b.add("GlobalAveragePool", b.conv(x, channels, 96, act="hardswish"))
    x = b.conv(x, 96, 128, norm=False, act="hardswish_decomposed")
    x = b.add("Flatten", x)
    return b.model("mobilenet_v3", [b.add("Gemm", x, b.random(10, 128, scale=0.1), b.random(10), transB=1)])


def efficientnet_b0(**options: Any) -> bytes:
    b = Builder(2, **options)
    x = b.conv("x", 3, 32, 3, stride=2, act="silu", pads=[0, 0, 1, 1])
    channels = 32
    for k, expand, out, stride in ((3, 1, 16, 1), (3, 6, 24, 2), (3, 6, 24, 1), (5, 6, 40, 2), (5, 6, 40, 1)):
        inner = channels * expand
        y = b.conv(x, channels, inner, act="silu") if expand > 1 else x
        y = b.conv(y, inner, inner, k, groups=inner, stride=stride, act="silu")
        y = b.squeeze_excite(y, inner, max(4, channels // 4), "silu", "sigmoid", mean=True)
        y = b.conv(y, inner, out)
        x, channels = (b.add("Add", y, x) if stride == 1 and channels == out else y), out
    return b.model("efficientnet_b0", [b.classifier(b.conv(x, channels, 64, act="silu"), 64)])


def mnasnet(**options: Any) -> bytes:
    b = Builder(3, **options)
    x = b.conv("x", 3, 32, 3, stride=2, act="relu")
    x = b.conv(b.conv(x, 32, 32, 3, groups=32, act="relu"), 32, 16)
    channels = 16
    for k, inner, out, stride in ((3, 48, 24, 2), (3, 72, 24, 1), (5, 72, 40, 2), (5, 120, 40, 1)):
        y = b.conv(x, channels, inner, act="relu")
        y = b.conv(b.conv(y, inner, inner, k, groups=inner, stride=stride, act="relu"), inner, out)
        x, channels = (b.add("Add", y, x) if stride == 1 and channels == out else y), out
    x = b.add("ReduceMean", b.conv(x, channels, 64, act="relu"), b.ints(2, 3), keepdims=0)
    return b.model("mnasnet", [b.add("Gemm", x, b.random(10, 64, scale=0.1), b.random(10), transB=1)])


def shufflenet_v2(**options: Any) -> bytes:
    b = Builder(4, **options)

    def shuffle(x: str, channels: int) -> str:
        """Sizes are computed in the graph, as exporters of dynamic shapes write it."""
        shape = b.add("Shape", x)
        n, h, w = (b.add("Gather", shape, b.constant(at, np.int64), axis=0) for at in (0, 2, 3))
        n, h, w = (b.add("Unsqueeze", each, b.ints(0)) for each in (n, h, w))
        x = b.add("Reshape", x, b.add("Concat", n, b.ints(2), b.ints(channels // 2), h, w, axis=0))
        x = b.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        return b.add("Reshape", x, b.add("Concat", n, b.ints(-1), h, w, axis=0))

    x = b.conv("x", 3, 24, 3, stride=2, act="relu")
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    left = b.conv(b.conv(x, 24, 24, 3, groups=24, stride=2), 24, 58, act="relu")
    right = b.conv(b.conv(b.conv(x, 24, 58, act="relu"), 58, 58, 3, groups=58, stride=2), 58, 58, act="relu")
    x = shuffle(b.add("Concat", left, right, axis=1), 116)
    for _ in range(2):
        left, right = b.add("Split", x, b.ints(58, 58), outputs=2, axis=1)
        right = b.conv(b.conv(b.conv(right, 58, 58, act="relu"), 58, 58, 3, groups=58), 58, 58, act="relu")
        x = shuffle(b.add("Concat", left, right, axis=1), 116)
    return b.model("shufflenet_v2", [b.classifier(b.conv(x, 116, 64, act="relu"), 64)])


def convnext(**options: Any) -> bytes:
    b = Builder(5, **options)
    x = b.conv("x", 3, 24, 4, stride=4, norm=False, pads=[0] * 4)
    for number in range(3):
        y = b.conv(x, 24, 24, 7, groups=24, norm=False)
        y = b.add("Transpose", y, perm=[0, 2, 3, 1])
        if number == 0:
            y = b.add("LayerNormalization", y, b.random(24), b.random(24), axis=-1, epsilon=1e-6)
        else:  # as older exporters write it
            centred = b.add("Sub", y, b.add("ReduceMean", y, b.ints(-1), keepdims=1))
            squares = b.add("ReduceMean", b.add("Pow", centred, b.constant(2)), b.ints(-1), keepdims=1)
            y = b.add("Div", centred, b.add("Sqrt", b.add("Add", squares, b.constant(1e-6))))
            y = b.add("Add", b.add("Mul", y, b.random(24)), b.random(24))
        y = b.act(b.add("Add", b.add("MatMul", y, b.random(24, 96, scale=0.2)), b.random(96)), "gelu")
        y = b.add("Add", b.random(24), b.add("MatMul", y, b.random(96, 24, scale=0.1)))
        y = b.add("Transpose", b.add("Mul", b.random(24), y), perm=[0, 3, 1, 2])
        x = b.add("Add", x, y)
    return b.model("convnext", [b.classifier(x, 24)])


def pp_lcnet(**options: Any) -> bytes:
    b = Builder(6, **options)
    x = b.conv("x", 3, 16, 3, stride=2, act="hardswish")
    channels = 16
    for k, out, stride, se in ((3, 32, 1, False), (3, 64, 2, False), (5, 64, 1, True), (5, 128, 2, True)):
        x = b.conv(x, channels, channels, k, groups=channels, stride=stride, act="hardswish")
        if se:
            x = b.squeeze_excite(x, channels, channels // 4, "relu", "hardsigmoid_decomposed")
        x, channels = b.conv(x, channels, out, act="hardswish"), out
    return b.model("pp_lcnet", [b.classifier(x, channels, softmax=True)])


def unet(**options: Any) -> bytes:
    b = Builder(7, **options)
    skips, x, channels = [], "x", 3
    for out in (16, 24, 32):
        x = b.conv(x, channels, out, 3, act="relu")
        x = b.conv(b.conv(x, out, out, 3, groups=out, act="relu"), out, out, act="relu")
        skips.append((x, out))
        x, channels = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), out
    for at, (skip, out) in enumerate(reversed(skips)):
        if at == 0:
            x = b.add("ConvTranspose", x, b.random(channels, out, 2, 2, scale=0.2), b.random(out), strides=[2, 2])
        elif at == 1:
            x = b.add("Resize", x, "", b.constant([1, 1, 2, 2]), mode="linear")
            x = b.conv(x, channels, out)
        else:  # to the size of the skip, as exporters write F.interpolate
            size = b.add("Slice", b.add("Shape", skip), b.ints(2), b.ints(4), b.ints(0))
            head = b.add("Slice", b.add("Shape", x), b.ints(0), b.ints(2), b.ints(0))
            sizes = b.add("Concat", head, size, axis=0)
            x = b.add(
                "Resize", x, "", "", sizes, mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )  # fmt: skip
            x = b.conv(x, channels, out)
        x = b.conv(b.add("Concat", x, skip, axis=1), 2 * out, out, 3, act="relu")
        channels = out
    return b.model("unet", [b.conv(x, channels, 5, norm=False)])


def blazeface(**options: Any) -> bytes:
    """Two outputs; channels padded with zeros to be added; boxes and scores reshaped and joined."""
    b = Builder(8, **options)
    x = b.conv("x", 3, 24, 5, stride=2, act="relu", pads=[1, 1, 2, 2])
    channels, boxes, scores = 24, [], []
    for out, stride in ((24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2)):
        y = b.conv(b.conv(x, channels, channels, 3, groups=channels, stride=stride, norm=False), channels, out)
        skip = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1) if stride == 2 else x
        if out > channels:
            skip = b.add("Pad", skip, b.ints(0, 0, 0, 0, 0, out - channels, 0, 0), mode="constant")
        x, channels = b.act(b.add("Add", skip, y), "relu"), out
        if channels in (42, 48):
            for found, each in ((boxes, 4), (scores, 1)):
                head = b.add("Transpose", b.conv(x, channels, 2 * each, norm=False), perm=[0, 2, 3, 1])
                batch = b.add("Slice", b.add("Shape", head), b.ints(0), b.ints(1))
                found.append(b.add("Reshape", head, b.add("Concat", batch, b.ints(-1), b.ints(each), axis=0)))
    boxes, scores = (b.add("Concat", *found, axis=1) for found in (boxes, scores))
    return b.model("blazeface", [boxes, b.add("Sigmoid", scores)])


def audio(**options: Any) -> bytes:
    """One axis of pixels: dilated depthwise convolutions over a signal, a residual, pooling over time."""
    b = Builder(9, **options)
    x = b.conv("x", 40, 64, 5, act="relu", axes=1)
    for dilation in (1, 2, 4):
        y = b.conv(x, 64, 64, 3, groups=64, dilation=dilation, act="relu", axes=1)
        x = b.add("Add", x, b.conv(y, 64, 64, act="relu", axes=1))
    x = b.add("ReduceMean", x, b.ints(2), keepdims=0)
    x = b.add("Add", b.add("MatMul", x, b.random(64, 12, scale=0.1)), b.random(12))
    return b.model("audio", [x], x_shape=("n", 40, "t"))


def architecture_model(
    architecture: architectures.Architecture, weights: Mapping[str, np.ndarray], *, folded: bool = False
) -> bytes:
    """One of our networks in ONNX, NCHW, every BatchNorm a node of its own or, if `folded`, part of the convolution."""
    b = Builder()
    at = "x"
    for block in architecture.blocks:
        begin = at
        for conv in block.convolutions:
            (top, bottom), (left, right) = conv.padding
            norm = [np.asarray(weights[f"{conv.norm}.{part}"], np.float64) for part in _NORM]
            w = np.asarray(weights[conv.weight + ".weight"], np.float64)
            inputs = [at, b.constant(w)]
            if folded:
                gamma, beta, mean, variance = norm
                factor = gamma / np.sqrt(variance + architecture.eps)
                inputs = [at, b.constant(w * factor[:, None, None, None]), b.constant(beta - mean * factor)]
            at = b.add(
                "Conv", *inputs, strides=[conv.stride] * 2, pads=[top, left, bottom, right],
                group=conv.in_channels if conv.kind == "depthwise" else 1,
            )  # fmt: skip
            if not folded:
                at = b.add("BatchNormalization", at, *map(b.constant, norm), epsilon=architecture.eps)
            at = b.act(at, conv.activation)
        if block.residual:
            at = b.add("Add", at, begin)
    at = b.add("Flatten", b.add("GlobalAveragePool", at))
    dense, bias = (b.constant(weights[f"{architecture.classifier}.{part}"]) for part in ("weight", "bias"))
    return b.model(architecture.name, [b.add("Gemm", at, dense, bias, transB=1)], opset=17)


_NORM = ("weight", "bias", "running_mean", "running_var")


#: Name -> how to write it, and input shapes to try.
NETWORKS: dict[str, tuple[Callable[..., bytes], tuple[tuple[int, ...], ...]]] = {
    "mobilenet_v3": (mobilenet_v3, ((1, 3, 64, 64), (2, 3, 96, 65))),
    "efficientnet_b0": (efficientnet_b0, ((1, 3, 64, 64), (2, 3, 70, 97))),
    "mnasnet": (mnasnet, ((1, 3, 64, 64), (3, 3, 33, 40))),
    "shufflenet_v2": (shufflenet_v2, ((1, 3, 64, 64), (2, 3, 96, 64))),
    "convnext": (convnext, ((1, 3, 64, 64), (2, 3, 36, 52))),
    "pp_lcnet": (pp_lcnet, ((1, 3, 64, 64), (2, 3, 80, 49))),
    "unet": (unet, ((1, 3, 64, 64), (2, 3, 32, 48))),
    "blazeface": (blazeface, ((1, 3, 64, 64), (2, 3, 96, 64))),
    "audio": (audio, ((1, 40, 101), (2, 40, 50))),
}
