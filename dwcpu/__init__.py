"""Depthwise-separable convolution for NumPy, on CPUs, without a deep-learning framework.

========================  ==============================================================================================
on arrays                 depthwise_conv2d, depthwise_conv1d, pointwise_conv2d, separable_conv2d, inverted_residual,
                          conv2d, and dwconv2d with the signature of ``torch.nn.functional.conv2d``
as layers                 DepthwiseConv2d, PointwiseConv2d, SeparableConv2d, InvertedResidual, Conv2d: weights packed
                          once, called many times; Sequential and Residual, networks of them
helpers                   fold_batchnorm, compare_cost
networks                  load_onnx(file) and load_model(file) give a Model, or raise UnsupportedOperator;
                          models.load(name): MobileNetV1, MobileNetV2, EfficientNet-Lite0
control                   set_num_threads, num_threads, get_num_threads, warmup, autotune, list_kernels, show_config
on the command line       ``python -m dwcpu`` run, inspect, classify, bench and info
========================  ==============================================================================================

Inside: `ops` and `layers` describe, `frontdoor` validates, `dispatch` chooses a kernel, `numba_kernels` and
`cython_kernels` compute, `reference` defines what is right; `calls` is the short cut for what was seen before. `graph`
reads models and plans them.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

from .dispatch import list_kernels, warmup
from .layers import (
    Conv2d,
    DepthwiseConv2d,
    InvertedResidual,
    PointwiseConv2d,
    SeparableConv2d,
    fold_batchnorm,
)
from .ops import (
    compare_cost,
    conv2d,
    depthwise_conv1d,
    depthwise_conv2d,
    dwconv2d,
    inverted_residual,
    pointwise_conv2d,
    separable_conv2d,
)
from .runtime import get_num_threads, num_threads, set_num_threads, show_config
from .sequential import Residual, Sequential
from .tuning import autotune

__version__ = "0.1.0"

#: What comes from `dwcpu.graph`.
_GRAPH = ("Model", "UnsupportedOperator", "load_model", "load_onnx")

__all__ = [
    "Conv2d",
    "DepthwiseConv2d",
    "InvertedResidual",
    "Model",
    "PointwiseConv2d",
    "Residual",
    "SeparableConv2d",
    "Sequential",
    "UnsupportedOperator",
    "__version__",
    "autotune",
    "compare_cost",
    "conv2d",
    "depthwise_conv1d",
    "depthwise_conv2d",
    "dwconv2d",
    "fold_batchnorm",
    "get_num_threads",
    "inverted_residual",
    "list_kernels",
    "load_model",
    "load_onnx",
    "models",
    "num_threads",
    "pointwise_conv2d",
    "separable_conv2d",
    "set_num_threads",
    "show_config",
    "warmup",
]


with contextlib.suppress(ImportError):  # there is no threadpoolctl
    import_module("dwcpu.threadpools")


def __getattr__(name: str) -> Any:
    # Networks, their readers and labels are loaded when they are asked for.
    if name == "models":
        return import_module("dwcpu.models")
    if name in _GRAPH:
        return getattr(import_module("dwcpu.graph"), name)
    raise AttributeError(f"module 'dwcpu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
