"""Named layer shapes: what the benchmarks, the comparison script and the dispatcher's rules are measured on.

Five lists, one a suite: `DEPTHWISE`, `POINTWISE`, `SEPARABLE`, `INVERTED_RESIDUAL`, `CONV`. Every entry is a `Shape`:
an input and a chain of convolutions on it. Ids are made from the numbers and are unique in their suite; `groups` says
which networks or families of shapes an entry stands for, so that ``--group mobilenet_v1`` selects the rows of one
network. A layer that several networks share is listed once, with all of their groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = ["CONV", "DEPTHWISE", "INVERTED_RESIDUAL", "POINTWISE", "SEPARABLE", "SUITES", "Conv", "Shape", "select"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


@dataclass(frozen=True)
class Conv:
    """One convolution of a chain, with a bias and an activation.

    `w_shape` is `(KH, KW, C, M)` for op "depthwise", `(Cin, Cout)` for "pointwise" and `(KH, KW, Cin/groups, Cout)` for
    "conv"; padding is `((top, bottom), (left, right))`.
    """

    op: str
    w_shape: tuple[int, ...]
    stride: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    activation: str | None = "relu"


@dataclass(frozen=True)
class Shape:
    """A problem to time: `convs` one after the other on an input of `x_shape` (NHWC), plus the input if `residual`."""

    id: str
    suite: str
    groups: tuple[str, ...]
    x_shape: tuple[int, int, int, int]
    convs: tuple[Conv, ...]
    residual: bool = False


def _same(kernel: Pair, dilation: int = 1) -> Padding:
    """Padding that keeps the size at stride 1; the odd one goes to the end."""
    totals = [dilation * (k - 1) for k in kernel]
    return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)


def _lite(kernel: int) -> Padding:
    """TensorFlow's "same" for stride 2 on an even size: one less in front."""
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return (before, after), (before, after)


def _dw(
    channels: int, kernel: int | Pair, stride: int, padding: Padding | None, dilation: int, multiplier: int
) -> Conv:
    window = (kernel, kernel) if isinstance(kernel, int) else kernel
    flat = window[0] == 1  # 1-D: nothing to stride over or dilate along the height
    return Conv(
        op="depthwise",
        w_shape=(*window, channels, multiplier),
        stride=(1 if flat else stride, stride),
        padding=_same(window, dilation) if padding is None else padding,
        dilation=(1 if flat else dilation, dilation),
        groups=channels,
    )


def _name(x_shape: tuple[int, ...], conv: Conv, tail: str = "") -> str:
    """Id of a shape, from its input and its first windowed convolution."""
    batch, height, width, channels = x_shape
    kernel_h, kernel_w = conv.w_shape[:2] if conv.op != "pointwise" else (1, 1)
    parts = f"{height}x{width}x{channels}" + tail
    parts = (f"n{batch}_" if batch > 1 else "") + parts
    if conv.op != "pointwise":
        parts += f"_{kernel_h}x{kernel_w}"
    parts += f"s{conv.stride[1]}" if conv.stride[1] > 1 else ""
    parts += f"d{conv.dilation[1]}" if conv.dilation[1] > 1 else ""
    parts += f"m{conv.w_shape[3]}" if conv.op == "depthwise" and conv.w_shape[3] > 1 else ""
    parts += f"g{conv.groups}" if conv.op == "conv" and conv.groups > 1 else ""
    if conv.op != "pointwise" and conv.padding != _same((kernel_h, kernel_w), conv.dilation[1]):
        left, right = conv.padding[1]
        parts += "_valid" if conv.padding == ((0, 0), (0, 0)) else f"_pad{left}{right}"
    return parts


def _act(name: str, activation: str | None) -> str:
    return name if activation == "relu" else f"{name}_{activation or 'linear'}"


def _depthwise(
    group: str,
    height: int,
    width: int,
    channels: int,
    kernel: int | Pair = 3,
    stride: int = 1,
    *,
    padding: Padding | None = None,
    dilation: int = 1,
    multiplier: int = 1,
    activation: str | None = "relu",
    batch: int = 1,
) -> Shape:
    x_shape = (batch, height, width, channels)
    conv = replace(_dw(channels, kernel, stride, padding, dilation, multiplier), activation=activation)
    return Shape(_act(_name(x_shape, conv), activation), "depthwise", (group,), x_shape, (conv,))


def _pointwise(
    group: str, height: int, width: int, cin: int, cout: int, activation: str | None = "relu", batch: int = 1
) -> Shape:
    x_shape = (batch, height, width, cin)
    conv = Conv("pointwise", (cin, cout), activation=activation)
    return Shape(_act(_name(x_shape, conv, f"_{cout}"), activation), "pointwise", (group,), x_shape, (conv,))


def _separable(
    group: str,
    height: int,
    width: int,
    channels: int,
    out_channels: int,
    kernel: int | Pair = 3,
    stride: int = 1,
    *,
    padding: Padding | None = None,
    dilation: int = 1,
    multiplier: int = 1,
    dw_activation: str | None = "relu",
    pw_activation: str | None = "relu",
) -> Shape:
    x_shape = (1, height, width, channels)
    first = replace(_dw(channels, kernel, stride, padding, dilation, multiplier), activation=dw_activation)
    second = Conv("pointwise", (channels * multiplier, out_channels), activation=pw_activation)
    name = _name(x_shape, first, f"_{out_channels}")
    name = _act(name, dw_activation if dw_activation == pw_activation else pw_activation)
    return Shape(name, "separable", (group,), x_shape, (first, second))


def _inverted(
    group: str,
    size: int,
    channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    padding: Padding | None = None,
    expansion: int = 6,
) -> Shape:
    x_shape = (1, size, size, channels)
    wide = channels * expansion
    middle = replace(_dw(wide, kernel, stride, padding, 1, 1), activation="relu6")
    convs = (
        Conv("pointwise", (channels, wide), activation="relu6"),
        middle,
        Conv("pointwise", (wide, out_channels), activation=None),
    )
    name = _name(x_shape, middle, f"_{wide}_{out_channels}")
    return Shape(name, "inverted_residual", (group,), x_shape, convs, stride == 1 and channels == out_channels)


def _conv(
    group: str,
    height: int,
    width: int,
    channels: int,
    out_channels: int,
    kernel: int | Pair,
    stride: int = 1,
    *,
    padding: Padding | None = None,
    groups: int = 1,
    activation: str | None = "relu",
) -> Shape:
    x_shape = (1, height, width, channels)
    window = (kernel, kernel) if isinstance(kernel, int) else kernel
    conv = Conv(
        op="conv",
        w_shape=(*window, channels // groups, out_channels),
        stride=(1 if window[0] == 1 else stride, stride),
        padding=_same(window) if padding is None else padding,
        groups=groups,
        activation=activation,
    )
    return Shape(_act(_name(x_shape, conv, f"_{out_channels}"), activation), "conv", (group,), x_shape, (conv,))


def _merge(shapes: Iterable[Shape]) -> list[Shape]:
    """List each shape once, where it first appears, with the groups of all its appearances."""
    merged: dict[str, Shape] = {}
    for shape in shapes:
        known = merged.get(shape.id)
        if known is None:
            merged[shape.id] = shape
        elif replace(known, groups=()) == replace(shape, groups=()):
            merged[shape.id] = replace(known, groups=tuple(dict.fromkeys(known.groups + shape.groups)))
        else:
            raise ValueError(f"shapes: two different problems are called {shape.id}; ids must tell them apart")
    return list(merged.values())


_CAUSAL_4: Padding = ((0, 0), (3, 0))
_VALID: Padding = ((0, 0), (0, 0))

#: height = width, channels, stride, channels of the 1x1 that follows
_MOBILENET_V1 = [
    (112, 32, 1, 64),
    (112, 64, 2, 128),
    (56, 128, 1, 128),
    (56, 128, 2, 256),
    (28, 256, 1, 256),
    (28, 256, 2, 512),
    (14, 512, 1, 512),
    (14, 512, 2, 1024),
    (7, 1024, 1, 1024),
]

#: the distinct blocks: height = width, channels in, channels out, stride; expansion is 6 (the first block has none)
_MOBILENET_V2 = [
    (112, 16, 24, 2),
    (56, 24, 24, 1),
    (56, 24, 32, 2),
    (28, 32, 32, 1),
    (28, 32, 64, 2),
    (14, 64, 64, 1),
    (14, 64, 96, 1),
    (14, 96, 96, 1),
    (14, 96, 160, 2),
    (7, 160, 160, 1),
    (7, 160, 320, 1),
]

#: the same with the window; stride 2 is padded as TensorFlow pads
_EFFICIENTNET_LITE0 = [
    (112, 16, 24, 3, 2),
    (56, 24, 24, 3, 1),
    (56, 24, 40, 5, 2),
    (28, 40, 40, 5, 1),
    (28, 40, 80, 3, 2),
    (14, 80, 80, 3, 1),
    (14, 80, 112, 5, 1),
    (14, 112, 112, 5, 1),
    (14, 112, 192, 5, 2),
    (7, 192, 192, 5, 1),
    (7, 192, 320, 3, 1),
]

#: depthwise layers: height = width, channels, window, stride, activation
_MOBILENET_V3_LARGE = [
    (112, 16, 3, 1, "relu"),
    (112, 64, 3, 2, "relu"),
    (56, 72, 3, 1, "relu"),
    (56, 72, 5, 2, "relu"),
    (28, 120, 5, 1, "relu"),
    (28, 240, 3, 2, "hardswish"),
    (14, 200, 3, 1, "hardswish"),
    (14, 184, 3, 1, "hardswish"),
    (14, 480, 3, 1, "hardswish"),
    (14, 672, 3, 1, "hardswish"),
    (14, 672, 5, 2, "hardswish"),
    (7, 960, 5, 1, "hardswish"),
]

DEPTHWISE: list[Shape] = _merge(
    [_depthwise("mobilenet_v1", s, s, c, 3, stride) for s, c, stride, _ in _MOBILENET_V1]
    + [_depthwise("mobilenet_v2", 112, 112, 32)]
    + [_depthwise("mobilenet_v2", s, s, 6 * c, 3, stride) for s, c, _, stride in _MOBILENET_V2]
    + [_depthwise("mobilenet_v3", s, s, c, k, stride, activation=a) for s, c, k, stride, a in _MOBILENET_V3_LARGE]
    + [_depthwise("efficientnet_lite0", 112, 112, 32)]
    + [
        _depthwise("efficientnet_lite0", s, s, 6 * c, k, stride, padding=_lite(k) if stride == 2 else None)
        for s, c, _, k, stride in _EFFICIENTNET_LITE0
    ]
    + [_depthwise("convnext_tiny", s, s, c, 7, activation=None) for s, c in [(56, 96), (28, 192), (14, 384), (7, 768)]]
    + [
        # off the beaten track: windows, dilations, multipliers, few and odd channels
        _depthwise("large_window", 56, 56, 144, 5, 2),
        _depthwise("large_window", 56, 56, 128, 4),
        _depthwise("large_window", 56, 56, 96, 11),
        _depthwise("large_window", 56, 56, 96, 7, 2),
        _depthwise("large_window", 28, 28, 192, 7, 2),
        _depthwise("large_window", 14, 14, 384, 13),
        _depthwise("large_window", 28, 28, 128, (1, 7)),
        _depthwise("large_window", 28, 28, 128, (7, 1)),
        _depthwise("dilation", 56, 56, 128, 3, dilation=2),
        _depthwise("dilation", 28, 28, 256, 3, dilation=4),
        _depthwise("dilation", 33, 33, 256, 3, dilation=2),
        _depthwise("dilation", 33, 33, 320, 5, dilation=2),
        _depthwise("dilation", 56, 56, 4, 3, dilation=2),
        # filters of pictures and of signals
        _depthwise("filter", 224, 224, 3, 13, activation=None),
        _depthwise("filter", 224, 224, 1, 9, activation=None),
        _depthwise("filter", 1, 16000, 1, (1, 101), activation=None),
        _depthwise("multiplier", 56, 56, 64, 3, multiplier=2),
        _depthwise("multiplier", 28, 28, 32, 3, 2, multiplier=4),
        _depthwise("multiplier", 112, 112, 3, 3, multiplier=8),
        _depthwise("multiplier", 112, 112, 3, 3, multiplier=6),
        _depthwise("multiplier", 224, 224, 1, 7, multiplier=4),
        _depthwise("multiplier", 64, 64, 3, 7, 2, multiplier=5),
        _depthwise("multiplier", 1, 16000, 1, (1, 31), multiplier=8),
        _depthwise("odd", 224, 224, 3, 3),
        _depthwise("odd", 224, 224, 3, 3, 2),
        _depthwise("odd", 224, 224, 1, 5),
        _depthwise("odd", 112, 112, 20),
        _depthwise("odd", 56, 56, 100),
        _depthwise("odd", 30, 30, 17, 5),
        _depthwise("odd", 57, 43, 37, 3, 2),
        _depthwise("odd", 14, 14, 512, 3, padding=_VALID),
        _depthwise("odd", 14, 14, 96, batch=8),
        # sizes of detectors, segmenters and trackers
        _depthwise("sizes", 112, 112, 48),
        _depthwise("sizes", 80, 60, 64),
        _depthwise("sizes", 52, 52, 80, 5),
        _depthwise("sizes", 16, 16, 320, 7),
        _depthwise("sizes", 13, 13, 480, 5),
        _depthwise("sizes", 96, 96, 32, 3, 2),
        _depthwise("sizes", 20, 15, 320),
        _depthwise("sizes", 5, 5, 1280),
        _depthwise("sizes", 19, 19, 384, 3, 2),
        # call overhead rules here
        _depthwise("small", 12, 12, 32),
        _depthwise("small", 4, 4, 64),
        _depthwise("small", 1, 1, 256),
        # 1-D: speech (Conformer, QuartzNet), state-space models and temporal networks (causal)
        _depthwise("audio", 1, 512, 256, (1, 31), activation=None),
        _depthwise("audio", 1, 1000, 512, (1, 9), activation=None),
        _depthwise("audio", 1, 400, 256, (1, 33), 2, activation=None),
        _depthwise("audio", 1, 2048, 1536, (1, 4), padding=_CAUSAL_4, activation=None),
        _depthwise("audio", 1, 16, 2048, (1, 4), padding=_CAUSAL_4, activation="silu"),
        _depthwise("audio", 1, 3000, 128, (1, 3), dilation=16, padding=((0, 0), (32, 0))),
    ]
)

POINTWISE: list[Shape] = _merge(
    [_pointwise("mobilenet_v1", s // stride, s // stride, c, cout) for s, c, stride, cout in _MOBILENET_V1]
    + [_pointwise("mobilenet_v2", 112, 112, 32, 16, None)]
    + [_pointwise("mobilenet_v2", s, s, c, 6 * c, "relu6") for s, c, _, _ in _MOBILENET_V2]
    + [_pointwise("mobilenet_v2", s // st, s // st, 6 * c, cout, None) for s, c, cout, st in _MOBILENET_V2]
    + [_pointwise("mobilenet_v2", 7, 7, 320, 1280, "relu6"), _pointwise("mobilenet_v2", 1, 1, 1280, 1000, None)]
    + [_pointwise("efficientnet_lite0", s, s, c, 6 * c, "relu6") for s, c, _, _, _ in _EFFICIENTNET_LITE0]
    + [_pointwise("efficientnet_lite0", s // st, s // st, 6 * c, o, None) for s, c, o, _, st in _EFFICIENTNET_LITE0]
    + [
        _pointwise("convnext_tiny", 56, 56, 96, 384, "gelu"),
        _pointwise("convnext_tiny", 14, 14, 1536, 384, None),
        _pointwise("audio", 1, 512, 256, 512, None),
        _pointwise("odd", 31, 31, 100, 37),
        _pointwise("odd", 56, 56, 3, 9),
        _pointwise("odd", 13, 13, 255, 85, None),
        _pointwise("odd", 1, 1, 1024, 1000, None, batch=8),
        _pointwise("mask", 48, 48, 96, 1, "sigmoid"),
        _pointwise("flow", 128, 128, 32, 2, None),
        _pointwise("small", 4, 4, 64, 64),
        # results of several MB
        _pointwise("large", 150, 150, 24, 144, "relu6"),
        _pointwise("large", 256, 256, 16, 64),
        _pointwise("large", 112, 112, 24, 256),
        _pointwise("large", 80, 80, 40, 240, "relu6"),
        _pointwise("large", 56, 56, 24, 1000, None),
        _pointwise("large", 112, 112, 18, 512, None),
        _pointwise("large", 48, 48, 13, 1264, None),
    ]
)

SEPARABLE: list[Shape] = _merge(
    [_separable("mobilenet_v1", s, s, c, cout, 3, stride) for s, c, stride, cout in _MOBILENET_V1]
    + [
        _separable("mobilenet_v1_025", 112, 112, 8, 16),
        _separable("mobilenet_v1_025", 14, 14, 128, 128),
        _separable("mobilenet_v2", 112, 112, 32, 16, dw_activation="relu6", pw_activation=None),
        _separable("xception", 19, 19, 728, 728, dw_activation=None, pw_activation=None),
        _separable("segmentation", 33, 33, 256, 256, dilation=6),
        _separable("segmentation", 128, 128, 48, 48),
        _separable("detection", 64, 64, 64, 64, dw_activation=None, pw_activation="silu"),
        _separable("detection", 8, 8, 64, 64, dw_activation=None, pw_activation="silu"),
        _separable("detection", 64, 64, 24, 24, 5, dw_activation=None),
        _separable("large_window", 28, 28, 128, 128, 7),
        _separable("multiplier", 28, 28, 64, 128, multiplier=2),
        _separable("odd", 224, 224, 3, 9, 3, 2),
        _separable("odd", 57, 43, 20, 37),
        _separable("small", 4, 4, 64, 64),
        _separable("small", 7, 7, 224, 80),
        _separable("small", 10, 10, 128, 128, 3, 2),
        _separable("sizes", 17, 17, 512, 512),
        _separable("audio", 1, 512, 256, 256, (1, 31), dw_activation=None),
        _separable("audio", 1, 1000, 128, 128, (1, 3), dilation=8, padding=((0, 0), (16, 0))),
    ]
)

INVERTED_RESIDUAL: list[Shape] = _merge(
    [_inverted("mobilenet_v2", s, c, cout, 3, stride) for s, c, cout, stride in _MOBILENET_V2]
    + [
        _inverted("efficientnet_lite0", s, c, cout, k, stride, padding=_lite(k) if stride == 2 else None)
        for s, c, cout, k, stride in _EFFICIENTNET_LITE0
    ]
    + [
        _inverted("small", 8, 80, 80, expansion=3),
        _inverted("small", 18, 20, 20, 3, 2, expansion=2),
        _inverted("sizes", 19, 64, 64),
    ]
)

CONV: list[Shape] = _merge(
    [
        _conv("stem", 224, 224, 3, 32, 3, 2),
        _conv("stem", 224, 224, 3, 32, 3, 2, padding=_lite(3), activation="relu6"),
        _conv("stem", 224, 224, 3, 16, 3, 2, activation="hardswish"),
        _conv("stem", 224, 224, 3, 96, 4, 4, padding=_VALID, activation=None),
        _conv("stem", 224, 224, 3, 64, 7, 2),
        _conv("standard", 56, 56, 64, 64, 3),
        _conv("standard", 14, 14, 256, 256, 3),
        _conv("standard", 56, 56, 24, 24, 3),
        _conv("short cut", 14, 14, 256, 512, 1, 2, activation=None),
        _conv("colours", 224, 224, 16, 3, 9, activation=None),
        _conv("mask", 64, 64, 64, 1, 3, activation=None),
        _conv("grouped", 28, 28, 256, 256, 3, groups=32),
        _conv("grouped", 14, 14, 120, 120, 3, groups=3),
        _conv("grouped", 56, 56, 128, 128, 3, groups=32),
        _conv("grouped", 28, 28, 56, 56, 3, groups=7),
        _conv("audio", 1, 3000, 80, 256, (1, 3), 2, activation="gelu"),
    ]
)

SUITES: dict[str, list[Shape]] = {
    "depthwise": DEPTHWISE,
    "pointwise": POINTWISE,
    "separable": SEPARABLE,
    "inverted_residual": INVERTED_RESIDUAL,
    "conv": CONV,
}


def select(suite: str, group: str | None = None, *, smoke: bool = False) -> list[Shape]:
    """Shapes of one suite: all, those of one group, or for `smoke` the smallest problem of each group."""
    shapes = [shape for shape in SUITES[suite] if group is None or group in shape.groups]
    if not smoke:
        return shapes
    smallest: dict[str, Shape] = {}
    for shape in sorted(shapes, key=lambda s: s.x_shape[1] * s.x_shape[2] * s.x_shape[3]):
        smallest.setdefault(shape.groups[0], shape)
    return list(smallest.values())
