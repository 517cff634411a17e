"""Models in a file of our own: an npz archive of the constants, and the rest as JSON in one more array.

Such a file holds numbers and names only. It is read by the same careful reader as weight files, and no package is
needed for that.
"""

from __future__ import annotations

import io
import json
import os
import re
from typing import Any

import numpy as np

from ..models.weights import read_arrays, read_file
from .ir import Graph, Node, Spec
from .operators import OPERATORS, OURS
from .operators.branching import GRAPHS, problem

__all__ = ["dump", "parse", "read"]

#: Of the file; the next one if its entries ever mean something else.
_FORMAT = 1
_GRAPH = "graph"
#: Types that `.npy` files do not know, as the integers that they are stored as.
_STORED = {2: np.uint16, 1: np.uint8}
#: Names of types that NumPy knows itself.
_TYPES = ["bool", "object", "float16", "float32", "float64"] + [
    f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)
]


def dump(graph: Graph) -> bytes:
    """A graph as the contents of a file."""
    arrays: dict[str, np.ndarray] = {}

    def stored(array: np.ndarray) -> dict[str, Any]:
        name = f"a{len(arrays)}"
        entry = {"array": name}
        if array.dtype.kind not in "biuf":
            if array.dtype.kind == "O":
                return {"strings": [str(each) for each in array.reshape(-1)], "shape": list(array.shape)}
            entry["dtype"] = array.dtype.name
            array = array.view(_STORED[array.dtype.itemsize])
        arrays[name] = np.require(array, requirements="C")  # which leaves a number without axes one
        return entry

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return stored(value)
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if isinstance(value, Graph):
            return {"graph": body(value)}
        return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

    def body(graph: Graph) -> dict[str, Any]:
        return {
            "name": graph.name,
            "inputs": [_spec(spec) for spec in graph.inputs],
            "outputs": [_spec(spec) for spec in graph.outputs],
            "nodes": [
                [
                    node.op,
                    node.name,
                    node.inputs,
                    node.outputs,
                    {key: plain(value) for key, value in node.attributes.items()},
                ]
                for node in graph.nodes
            ],
            "constants": {name: stored(array) for name, array in graph.constants.items()},
        }

    head = {"format": _FORMAT, **body(graph)}
    text = np.frombuffer(json.dumps(head, separators=(",", ":")).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **{_GRAPH: text}, **arrays)  # type: ignore[arg-type]  # to mypy any name may be `allow_pickle`
    return content.getvalue()


def read(path: str | os.PathLike[str]) -> Graph:
    """Read a file that `dump` made.

    Raises
    ------
    ValueError
        The file is damaged or something else.
    OSError
        It cannot be read.
    """
    return parse(read_file(path, "load_model", "models"), os.fspath(path))


def parse(content: bytes, what: str = "the model") -> Graph:
    """The graph in the contents of such a file; everything in it is checked, since anybody can have written it."""
    if not content:
        raise ValueError(f"load_model: {what} is empty; a saved model is needed; was it written to the end?")
    if content[:2] != b"PK":
        raise ValueError(f"load_model: {what} was not written by Model.save; dwcpu.load_onnx reads ONNX models")
    try:
        arrays = read_arrays(content)
        text = arrays.pop(_GRAPH, None)
        if text is None or text.dtype != np.uint8 or text.ndim != 1:
            raise ValueError("it holds no graph; model.save(path) makes such files")
        head = json.loads(text.tobytes())
        if head["format"] != _FORMAT:
            raise ValueError(
                f"its format is {head['format']!r}; this version reads {_FORMAT}; load the ONNX file again"
            )
        return _graph(head, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else (str(error).splitlines() or ["damaged"])[0]
        raise ValueError(
            f"load_model: {what} is damaged or no saved model: {reason:.160}; save or copy it again"
        ) from None


def _graph(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> Graph:
    def revived(entry: dict[str, Any]) -> np.ndarray:
        if "strings" in entry:
            return np.array([_text(each) for each in entry["strings"]], object).reshape(
                [int(n) for n in entry["shape"]]
            )
        array = arrays[entry["array"]]
        if "dtype" in entry:
            dtype = _dtype(entry["dtype"])
            if dtype.hasobject:
                raise ValueError("an array of it holds objects")
            array = array.view(dtype)
        array.flags.writeable = False
        return array

    def valued(value: Any) -> Any:
        if isinstance(value, dict):
            if "graph" in value:
                return _graph(value["graph"], arrays)
            return _dtype(value["dtype"]) if "array" not in value and "strings" not in value else revived(value)
        return [valued(each) for each in value] if isinstance(value, list) else value

    nodes = []
    for op, name, inputs, outputs, attributes in head["nodes"]:
        if op not in OPERATORS or (op in OURS and op != "Align"):
            raise ValueError(f"it has an operator {_text(op)!r:.40}, which this version does not know")
        nodes.append(
            _checked(Node(
                op, _text(name), [_text(each) for each in inputs], [_text(each) for each in outputs],
                {_text(key): valued(value) for key, value in attributes.items()},
            ))
        )  # fmt: skip
    constants = {_text(name): revived(entry) for name, entry in head["constants"].items()}
    inputs, outputs = ([_spec_of(entry) for entry in head[kind]] for kind in ("inputs", "outputs"))
    graph = Graph(_text(head["name"]), inputs, outputs, nodes, constants)
    graph.check()
    graph.sort()
    return graph


def _checked(node: Node) -> Node:
    """The node, if its attributes are such as `reader` lets pass."""
    check = problem if node.op in GRAPHS else OPERATORS[node.op].check
    reason = None if check is None else check(node)
    if reason is not None:
        raise ValueError(f"it has {node.op} with {reason}")
    return node


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _spec(spec: Spec) -> list[Any]:
    return [
        spec.name,
        None if spec.dtype is None else spec.dtype.name,
        None if spec.shape is None else list(spec.shape),
    ]


def _spec_of(entry: list[Any]) -> Spec:
    name, dtype, shape = entry
    if shape is not None and not all(size is None or isinstance(size, (int, str)) for size in shape):
        raise TypeError("sizes are integers or names")
    return Spec(_text(name), None if dtype is None else _dtype(dtype), None if shape is None else tuple(shape))


def _dtype(name: Any) -> np.dtype:
    """A type by name; those that NumPy does not know need ml_dtypes, which comes with onnx."""
    if _text(name) in _TYPES:
        return np.dtype(name)
    if not re.fullmatch(r"bfloat16|float[468]_\w+|u?int[124]", name):
        raise ValueError(f"it has the element type {name!r:.40}, which is none")
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError):
        raise ValueError(f"it has the element type {name!r:.40}, which needs the package ml_dtypes") from None
