"""Networks of the mobile family and their neighbours in ONNX, in full size, with random weights.

Each has the layers of the published network, or of one of its kind, in the order that exporters write them, with
batch normalisation folded. What they compute means nothing; how long that takes does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx_builder import Builder

__all__ = ["NETWORKS"]


def _inverted(
    b: Builder, x: str, channels: int, rows: Sequence[Sequence[int]], act: str, *, squeeze: bool = False
) -> tuple[str, int]:
    """Blocks of inverted residuals: rows of (times, window, expansion, outputs, stride, dilation)."""
    for times, k, expansion, out, stride, dilation in rows:
        for at in range(times):
            step, inner = stride if at == 0 else 1, channels * expansion
            y = b.conv(x, channels, inner, act=act) if expansion > 1 else x
            y = b.conv(y, inner, inner, k, groups=inner, stride=step, dilation=dilation, act=act)
            y = b.squeeze_excite(y, inner, max(4, channels // 4), "silu", "sigmoid") if squeeze else y
            y = b.conv(y, inner, out)
            x, channels = (b.add("Add", y, x) if step == 1 and channels == out else y), out
    return x, channels


def mobilenet_v3_large() -> bytes:
    """Howard et al., 2019."""
    b = Builder(1, folded=True)
    x, channels = b.conv("x", 3, 16, 3, stride=2, act="hardswish"), 16
    for k, inner, out, squeeze, act, stride in (
        (3, 16, 16, 0, "relu", 1), (3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1), (5, 72, 40, 1, "relu", 2),
        (5, 120, 40, 1, "relu", 1), (5, 120, 40, 1, "relu", 1), (3, 240, 80, 0, "hardswish", 2),
        (3, 200, 80, 0, "hardswish", 1), (3, 184, 80, 0, "hardswish", 1), (3, 184, 80, 0, "hardswish", 1),
        (3, 480, 112, 1, "hardswish", 1), (3, 672, 112, 1, "hardswish", 1), (5, 672, 160, 1, "hardswish", 2),
        (5, 960, 160, 1, "hardswish", 1), (5, 960, 160, 1, "hardswish", 1),
    ):  # fmt: skip
        y = b.conv(x, channels, inner, act=act) if inner != channels else x
        y = b.conv(y, inner, inner, k, groups=inner, stride=stride, act=act)
        y = b.squeeze_excite(y, inner, inner // 4, "relu", "hardsigmoid_decomposed") if squeeze else y
        y = b.conv(y, inner, out)
        x, channels = (b.add("Add", x, y) if stride == 1 and channels == out else y), out
    x = b.add("GlobalAveragePool", b.conv(x, channels, 960, act="hardswish"))
    x = b.add("Flatten", b.conv(x, 960, 1280, norm=False, act="hardswish"))
    return b.model("mobilenet_v3", [b.add("Gemm", x, b.random(1000, 1280, scale=0.1), b.random(1000), transB=1)])


def efficientnet_b0() -> bytes:
    """Tan and Le, 2019."""
    b = Builder(2, folded=True)
    x = b.conv("x", 3, 32, 3, stride=2, act="silu")
    rows = (
        (1, 3, 1, 16, 1, 1), (2, 3, 6, 24, 2, 1), (2, 5, 6, 40, 2, 1), (3, 3, 6, 80, 2, 1), (3, 5, 6, 112, 1, 1),
        (4, 5, 6, 192, 2, 1), (1, 3, 6, 320, 1, 1),
    )  # fmt: skip
    x, channels = _inverted(b, x, 32, rows, "silu", squeeze=True)
    return b.model("efficientnet_b0", [b.classifier(b.conv(x, channels, 1280, act="silu"), 1280, 1000)])


def mnasnet() -> bytes:
    """Tan et al., 2019: MNASNet-B1."""
    b = Builder(3, folded=True)
    x = b.conv("x", 3, 32, 3, stride=2, act="relu")
    x = b.conv(b.conv(x, 32, 32, 3, groups=32, act="relu"), 32, 16)
    rows = (
        (3, 3, 3, 24, 2, 1), (3, 5, 3, 40, 2, 1), (3, 5, 6, 80, 2, 1), (2, 3, 6, 96, 1, 1), (4, 5, 6, 192, 2, 1),
        (1, 3, 6, 320, 1, 1),
    )  # fmt: skip
    x, channels = _inverted(b, x, 16, rows, "relu")
    return b.model("mnasnet", [b.classifier(b.conv(x, channels, 1280, act="relu"), 1280, 1000)])


def shufflenet_v2() -> bytes:
    """Ma et al., 2018: channels are split, joined and shuffled."""
    b = Builder(4, folded=True)

    def joined(left: str, right: str, channels: int, size: int) -> str:
        x = b.add("Reshape", b.add("Concat", left, right, axis=1), b.ints(1, 2, channels // 2, size, size))
        return b.add("Reshape", b.add("Transpose", x, perm=[0, 2, 1, 3, 4]), b.ints(1, channels, size, size))

    x = b.conv("x", 3, 24, 3, stride=2, act="relu")
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels, size = 24, 56
    for out, units in ((116, 4), (232, 8), (464, 4)):
        half, size = out // 2, size // 2
        left = b.conv(b.conv(x, channels, channels, 3, groups=channels, stride=2), channels, half, act="relu")
        right = b.conv(b.conv(x, channels, half, act="relu"), half, half, 3, groups=half, stride=2)
        x, channels = joined(left, b.conv(right, half, half, act="relu"), out, size), out
        for _ in range(units - 1):
            left, right = b.add("Split", x, b.ints(half, half), outputs=2, axis=1)
            right = b.conv(b.conv(right, half, half, act="relu"), half, half, 3, groups=half)
            x = joined(left, b.conv(right, half, half, act="relu"), out, size)
    classes = b.classifier(b.conv(x, channels, 1024, act="relu"), 1024, 1000)
    return b.model("shufflenet_v2", [classes], x_shape=(1, 3, 224, 224))


def ghostnet() -> bytes:
    """In the manner of Han et al., 2020: half of the channels come from the other half."""
    b = Builder(5, folded=True)

    def ghost(x: str, channels: int, out: int, act: str | None) -> str:
        half = out // 2
        first = b.conv(x, channels, half, act=act)
        return b.add("Concat", first, b.conv(first, half, half, 3, groups=half, act=act), axis=1)

    x, channels = b.conv("x", 3, 16, 3, stride=2, act="relu"), 16
    for k, inner, out, squeeze, stride in (
        (3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2), (5, 120, 40, 1, 1),
        (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 480, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1),
    ):  # fmt: skip
        y = ghost(x, channels, inner, "relu")
        y = b.conv(y, inner, inner, k, groups=inner, stride=stride) if stride > 1 else y
        y = b.squeeze_excite(y, inner, inner // 4, "relu", "hardsigmoid_decomposed") if squeeze else y
        y = ghost(y, inner, out, None)
        if stride > 1 or channels != out:
            x = b.conv(b.conv(x, channels, channels, k, groups=channels, stride=stride), channels, out)
        x, channels = b.add("Add", y, x), out
    return b.model("ghostnet", [b.classifier(b.conv(x, channels, 960, act="relu"), 960, 1000)])


def convnext_tiny() -> bytes:
    """Liu et al., 2022."""
    b = Builder(6)

    def turned(x: str, last: bool) -> str:
        return b.add("Transpose", x, perm=[0, 2, 3, 1] if last else [0, 3, 1, 2])

    def norm(x: str, channels: int) -> str:
        scale, shift = b.random(channels), b.random(channels)
        return b.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-6)

    x, channels = b.conv("x", 3, 96, 4, stride=4, norm=False, pads=[0] * 4), 96
    x = turned(norm(turned(x, True), 96), False)
    for number, (out, blocks) in enumerate(((96, 3), (192, 3), (384, 9), (768, 3))):
        if number:
            x = turned(norm(turned(x, True), channels), False)
            x, channels = b.conv(x, channels, out, 2, stride=2, norm=False, pads=[0] * 4), out
        for _ in range(blocks):
            y = norm(turned(b.conv(x, out, out, 7, groups=out, norm=False), True), out)
            y = b.add("Add", b.add("MatMul", y, b.random(out, 4 * out, scale=0.05)), b.random(4 * out))
            y = b.add("MatMul", b.act(y, "gelu"), b.random(4 * out, out, scale=0.05))
            y = b.add("Mul", b.random(out, scale=0.1), b.add("Add", b.random(out), y))
            x = b.add("Add", x, turned(y, False))
    return b.model("convnext_tiny", [b.classifier(x, channels, 1000)])


def blazeface() -> bytes:
    """In the manner of Bazarevsky et al., 2019: channels padded with zeros are added."""
    b = Builder(7, folded=True)
    x, channels = b.conv("x", 3, 24, 5, stride=2, act="relu", pads=[1, 1, 2, 2]), 24
    for out, stride in (
        (24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2), (56, 1), (64, 1), (72, 1), (80, 1), (88, 1), (96, 2),
        (96, 1), (96, 1), (96, 1), (96, 1),
    ):  # fmt: skip
        y = b.conv(b.conv(x, channels, channels, 3, groups=channels, stride=stride, norm=False), channels, out)
        skip = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]) if stride == 2 else x
        if out > channels:
            skip = b.add("Pad", skip, b.ints(0, 0, 0, 0, 0, out - channels, 0, 0), mode="constant")
        x, channels = b.act(b.add("Add", skip, y), "relu"), out
    return b.model("blazeface", [b.add("Sigmoid", b.conv(x, channels, 6, norm=False))])


def yolo() -> bytes:
    """A small detector in the manner of YOLOv8: ordinary convolutions, parts of channels joined again and again."""
    b = Builder(8, folded=True)

    def joined(x: str, channels: int, out: int, times: int, residual: bool = True) -> str:
        half = out // 2
        parts = b.add("Split", b.conv(x, channels, out, act="silu"), b.ints(half, half), outputs=2, axis=1)
        for _ in range(times):
            y = b.conv(b.conv(parts[-1], half, half, 3, act="silu"), half, half, 3, act="silu")
            parts.append(b.add("Add", parts[-1], y) if residual else y)
        return b.conv(b.add("Concat", *parts, axis=1), half * (2 + times), out, act="silu")

    def twice(x: str) -> str:
        return b.add(
            "Resize", x, "", b.constant([1, 1, 2, 2]), mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip

    x = b.conv(b.conv("x", 3, 16, 3, stride=2, act="silu"), 16, 32, 3, stride=2, act="silu")
    large = joined(b.conv(joined(x, 32, 32, 1), 32, 64, 3, stride=2, act="silu"), 64, 64, 2)
    middle = joined(b.conv(large, 64, 128, 3, stride=2, act="silu"), 128, 128, 2)
    small = joined(b.conv(middle, 128, 256, 3, stride=2, act="silu"), 256, 256, 1)
    pooled = [b.conv(small, 256, 128, act="silu")]
    for _ in range(3):
        pooled.append(b.add("MaxPool", pooled[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
    small = b.conv(b.add("Concat", *pooled, axis=1), 512, 256, act="silu")
    middle = joined(b.add("Concat", twice(small), middle, axis=1), 384, 128, 1, False)
    large = joined(b.add("Concat", twice(middle), large, axis=1), 192, 64, 1, False)
    heads = [b.conv(x, channels, 85, norm=False) for x, channels in ((large, 64), (middle, 128), (small, 256))]
    boxes = b.add("Concat", *(b.add("Reshape", head, b.ints(1, 85, -1)) for head in heads), axis=2)
    return b.model("yolo", [b.add("Sigmoid", boxes)])


def deeplab_v3() -> bytes:
    """In the manner of Chen et al., 2018: MobileNetV2 with dilation, dilated branches, pixels for pixels."""
    b = Builder(9, folded=True)
    x = b.conv("x", 3, 32, 3, stride=2, act="relu6")
    rows = (
        (1, 3, 1, 16, 1, 1), (2, 3, 6, 24, 2, 1), (3, 3, 6, 32, 2, 1), (4, 3, 6, 64, 2, 1), (3, 3, 6, 96, 1, 1),
        (3, 3, 6, 160, 1, 2), (1, 3, 6, 320, 1, 2),
    )  # fmt: skip
    x, channels = _inverted(b, x, 32, rows, "relu6")
    whole = b.conv(b.add("GlobalAveragePool", x), channels, 256, act="relu")
    branches = [b.add("Resize", whole, "", "", b.ints(1, 256, 16, 16), mode="linear")]
    branches.append(b.conv(x, channels, 256, act="relu"))
    for dilation in (6, 12, 18):
        y = b.conv(x, channels, channels, 3, groups=channels, dilation=dilation, act="relu")
        branches.append(b.conv(y, channels, 256, act="relu"))
    x = b.conv(b.conv(b.add("Concat", *branches, axis=1), 5 * 256, 256, act="relu"), 256, 21, norm=False)
    x = b.add("Resize", x, "", b.constant([1, 1, 16, 16]), mode="linear")
    return b.model("deeplab_v3", [x], x_shape=(1, 3, 256, 256))


def unet() -> bytes:
    """In the manner of Ronneberger et al., 2015: down with pooling, up with transposed convolutions or resizing."""
    b = Builder(10, folded=True)
    x, channels, skips = "x", 3, []
    for out in (16, 32, 64, 128):
        x = b.conv(x, channels, out, 3, act="relu")
        x = b.conv(b.conv(x, out, out, 3, groups=out, act="relu"), out, out, act="relu")
        skips.append((x, out))
        x, channels = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), out
    for at, (skip, out) in enumerate(reversed(skips)):
        if at % 2 == 0:
            x = b.add("ConvTranspose", x, b.random(channels, out, 2, 2, scale=0.2), b.random(out), strides=[2, 2])
        else:
            x = b.conv(b.add("Resize", x, "", b.constant([1, 1, 2, 2]), mode="linear"), channels, out)
        x, channels = b.conv(b.add("Concat", x, skip, axis=1), 2 * out, out, 3, act="relu"), out
    return b.model("unet", [b.conv(x, channels, 5, norm=False)])


def tcn() -> bytes:
    """A temporal network in the manner of Conv-TasNet (Luo and Mesgarani, 2019): dilations from 1 to 128."""
    b = Builder(11, folded=True)
    x = b.conv("x", 64, 128, 1, axes=1)
    for _ in range(2):
        for power in range(8):
            y = b.conv(x, 128, 256, 1, act="relu", axes=1)
            y = b.conv(y, 256, 256, 3, groups=256, dilation=2**power, act="relu", axes=1)
            x = b.add("Add", x, b.conv(y, 256, 128, 1, axes=1))
    return b.model("tcn", [b.conv(x, 128, 64, 1, act="relu", axes=1)], x_shape=("n", 64, "t"))


def fsrcnn() -> bytes:
    """Dong et al., 2016: brightness of 120 x 160 pixels, three times as large, by a window of 9x9."""
    b = Builder(12)

    def conv(x: str, cin: int, cout: int, k: int = 1) -> str:
        return str(b.add("PRelu", b.conv(x, cin, cout, k, norm=False), b.random(cout, 1, 1, scale=0.2)))

    x = conv(conv("x", 1, 56, 5), 56, 12)
    for _ in range(4):
        x = conv(x, 12, 12, 3)
    w, bias = b.random(56, 1, 9, 9, scale=0.1), b.random(1)
    y = b.add(
        "ConvTranspose", conv(x, 12, 56), w, bias, strides=[3, 3], pads=[4, 4, 4, 4], output_padding=[2, 2]
    )  # fmt: skip
    return b.model("fsrcnn", [y], x_shape=(1, 1, "h", "w"))


def wavenet() -> bytes:
    """In the manner of van den Oord et al., 2016: windows of two samples, 1 to 128 apart, tanh times sigmoid."""
    b, channels = Builder(13), 64
    x, skipped = b.conv("x", 1, channels, axes=1, norm=False), []
    for at in range(16):
        dilation = 2 ** (at % 8)
        y = b.add("Pad", x, b.ints(0, 0, dilation, 0, 0, 0))
        y = b.conv(y, channels, 2 * channels, 2, dilation=dilation, axes=1, norm=False, pads=[0, 0])
        y, gate = b.add("Split", y, b.ints(channels, channels), outputs=2, axis=1)
        y = b.add("Mul", b.add("Tanh", y), b.add("Sigmoid", gate))
        skipped.append(b.conv(y, channels, channels, axes=1, norm=False))
        x = b.add("Add", x, b.conv(y, channels, channels, axes=1, norm=False))
    total = skipped[0]
    for each in skipped[1:]:
        total = b.add("Add", total, each)
    x = b.conv(b.act(total, "relu"), channels, channels, axes=1, norm=False, act="relu")
    return b.model("wavenet", [b.conv(x, channels, 256, axes=1, norm=False)], x_shape=("n", 1, "t"))


def conv_tasnet() -> bytes:
    """Luo and Mesgarani, 2019: as `tcn`, every convolution normalised over all of the signal, as PyTorch exports it."""
    b = Builder(14)

    def prelu_norm(x: str, channels: int) -> str:
        x = b.add("Reshape", b.add("PRelu", x, b.constant([[0.25]])), b.ints(0, 1, -1))
        x = b.add("InstanceNormalization", x, b.constant([1]), b.constant([0]), epsilon=1e-8)
        x = b.add("Mul", b.add("Reshape", x, b.ints(0, channels, -1)), b.random(channels, 1))
        return str(b.add("Add", x, b.random(channels, 1)))

    x, skipped = b.conv("x", 256, 128, axes=1, norm=False), []
    for _ in range(2):
        for power in range(8):
            y = prelu_norm(b.conv(x, 128, 256, axes=1, norm=False), 256)
            y = prelu_norm(b.conv(y, 256, 256, 3, groups=256, dilation=2**power, axes=1, norm=False), 256)
            x = b.add("Add", x, b.conv(y, 256, 128, axes=1, norm=False))
            skipped.append(b.conv(y, 256, 128, axes=1, norm=False))
    total = skipped[0]
    for each in skipped[1:]:
        total = b.add("Add", total, each)
    x = b.conv(b.add("PRelu", total, b.constant([[0.25]])), 128, 512, axes=1, norm=False, act="sigmoid")
    return b.model("conv_tasnet", [x], x_shape=("n", 256, "t"))


def ds_cnn() -> bytes:
    """Zhang et al., 2017, "Hello Edge": keywords in a second of speech. So small that what is around kernels counts."""
    b = Builder(15, folded=True)
    x = b.conv("x", 1, 64, (10, 4), stride=2, pads=[4, 1, 5, 1], act="relu")
    for _ in range(4):
        x = b.conv(b.conv(x, 64, 64, 3, groups=64, act="relu"), 64, 64, act="relu")
    return b.model("ds_cnn", [b.classifier(x, 64, 12, softmax=True)], x_shape=("n", 1, "h", "w"))


def mobilefacenet() -> bytes:
    """Chen et al., 2018: faces; a slope for every channel after nearly every convolution."""
    b = Builder(16, folded=True)

    def conv(x: str, cin: int, cout: int, k: int = 1, stride: int = 1, groups: int = 1) -> str:
        y = b.conv(x, cin, cout, k, stride=stride, groups=groups)
        return str(b.add("PRelu", y, b.constant(b.rng.uniform(0.1, 0.3, (cout, 1, 1)))))

    x, channels = conv(conv("x", 3, 64, 3, 2), 64, 64, 3, groups=64), 64
    for times, inner, out, stride in (
        (1, 128, 64, 2), (4, 128, 64, 1), (1, 256, 128, 2), (6, 256, 128, 1), (1, 512, 128, 2), (2, 256, 128, 1),
    ):  # fmt: skip
        for _ in range(times):
            y = conv(conv(x, channels, inner), inner, inner, 3, stride, inner)
            y = b.conv(y, inner, out)
            x, channels = (b.add("Add", x, y) if stride == 1 else y), out
    x = b.conv(conv(x, channels, 512), 512, 512, 7, groups=512, pads=[0] * 4)
    return b.model("mobilefacenet", [b.add("Flatten", b.conv(x, 512, 128))])


def mobilenet_v4() -> bytes:
    """Qin et al., 2024, the small one: windows before an expansion, in its middle, or both."""
    b = Builder(17, folded=True)
    x = b.conv(b.conv("x", 3, 32, 3, stride=2, act="relu"), 32, 32, 3, stride=2, act="relu")
    x = b.conv(b.conv(x, 32, 32, act="relu"), 32, 96, 3, stride=2, act="relu")
    x, channels = b.conv(x, 96, 64, act="relu"), 64
    for times, start, middle, stride, expansion, out in (
        (1, 5, 5, 2, 3, 96), (4, 0, 3, 1, 2, 96), (1, 3, 0, 1, 4, 96), (1, 3, 3, 2, 6, 128), (1, 5, 5, 1, 4, 128),
        (1, 0, 5, 1, 4, 128), (1, 0, 5, 1, 3, 128), (2, 0, 3, 1, 4, 128),
    ):  # fmt: skip
        for _ in range(times):
            inner = channels * expansion
            y = b.conv(x, channels, channels, start, groups=channels) if start else x
            y = b.conv(y, channels, inner, act="relu")
            y = b.conv(y, inner, inner, middle, groups=inner, stride=stride, act="relu") if middle else y
            y = b.conv(y, inner, out)
            x, channels = (b.add("Add", y, x) if stride == 1 and channels == out else y), out
    x = b.add("GlobalAveragePool", b.conv(x, channels, 960, act="relu"))
    x = b.add("Flatten", b.conv(x, 960, 1280, act="relu"))
    return b.model("mobilenet_v4", [b.add("Gemm", x, b.random(1000, 1280, scale=0.1), b.random(1000), transB=1)])


#: Name -> what writes it, and the shape of its input.
NETWORKS: dict[str, tuple[Callable[[], bytes], tuple[int, ...]]] = {
    "mobilenet_v3_large": (mobilenet_v3_large, (1, 3, 224, 224)),
    "efficientnet_b0": (efficientnet_b0, (1, 3, 224, 224)),
    "mnasnet": (mnasnet, (1, 3, 224, 224)),
    "shufflenet_v2": (shufflenet_v2, (1, 3, 224, 224)),
    "ghostnet": (ghostnet, (1, 3, 224, 224)),
    "convnext_tiny": (convnext_tiny, (1, 3, 224, 224)),
    "blazeface": (blazeface, (1, 3, 128, 128)),
    "yolo": (yolo, (1, 3, 320, 320)),
    "deeplab_v3": (deeplab_v3, (1, 3, 256, 256)),
    "unet": (unet, (1, 3, 256, 256)),
    "tcn": (tcn, (1, 64, 2000)),
    "fsrcnn": (fsrcnn, (1, 1, 120, 160)),
    "wavenet": (wavenet, (1, 1, 2048)),
    "conv_tasnet": (conv_tasnet, (1, 256, 1000)),
    "ds_cnn": (ds_cnn, (1, 1, 49, 10)),
    "mobilefacenet": (mobilefacenet, (1, 3, 112, 112)),
    "mobilenet_v4": (mobilenet_v4, (1, 3, 224, 224)),
}
