"""The engines we are measured against, each behind one call: prepare once, run many times.

A peer is a function ``(graph, threads) -> Prepared`` in a file of its own, named in the table `PEERS`; it raises
`Unsupported` where it cannot compute a graph. Every peer gets what it likes best: its own layout, its weights packed
beforehand, its graph optimised, threads that spin between calls, and its output written into memory that is already
there. Adding one is two edits: write the file, add its row.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING

from graph import Graph, Unsupported
from problem import Prepared

if TYPE_CHECKING:
    from onnx_files import File

__all__ = ["PEERS", "Unsupported", "available", "prepare", "prepare_file", "version"]

#: name -> (modules that must be installed, module of this folder with its `prepare`)
PEERS: dict[str, tuple[tuple[str, ...], str]] = {
    "onnxruntime": (("onnxruntime", "onnx"), "peer_onnx"),
    "openvino": (("openvino", "onnx"), "peer_openvino"),
    "litert": (("ai_edge_litert", "flatbuffers"), "peer_litert"),
    "ncnn": (("ncnn",), "peer_ncnn"),
    "torch": (("torch",), "peer_torch"),
}


def available() -> list[str]:
    """Names of the peers that are installed."""
    return [
        name
        for name, (modules, _) in PEERS.items()
        if all(importlib.util.find_spec(module) is not None for module in modules)
    ]


def version(name: str) -> str:
    """Version of an installed peer."""
    module = PEERS[name][0][0]
    return importlib.metadata.version(module.replace("_", "-"))


def prepare(name: str, graph: Graph, threads: int = 1) -> Prepared:
    """Make a peer ready for a graph; raises `Unsupported` where it has no implementation."""
    made: Prepared = importlib.import_module(PEERS[name][1]).prepare(graph, threads)
    return made


def prepare_file(name: str, file: File, threads: int = 1) -> Prepared:
    """Make a peer ready for a model: from its ONNX file if the peer reads those, else from the same network's graph."""
    module = importlib.import_module(PEERS[name][1])
    if hasattr(module, "prepare_file"):
        out_shape = file.model(file.x).shape  # which may depend on values
        made: Prepared = module.prepare_file(file.content, file.x, out_shape, threads)
        return made
    if file.graph is None:
        raise Unsupported("it does not read ONNX files")
    return prepare(name, file.graph, threads)
