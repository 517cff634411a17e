"""From an ONNX file to a `Graph`. The only file that needs the `onnx` package, which parses; nothing here trusts it.

A model is data from somebody else: sizes are checked against the bytes that are there before anything is allocated,
files outside the one that was given are read only below a folder that the caller names, and nothing is ever executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import copy
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..models.weights import read_file
from .errors import UnsupportedOperator
from .ir import Graph, Node, Spec
from .operators import OPERATORS, OURS
from .operators.branching import GRAPHS, close
from .versions import OLDEST, modernise

__all__ = ["read"]

#: Largest number of axes that arrays have here; NumPy allows 64.
_MOST_AXES = 32
_OURS = ("", "ai.onnx")
#: Nodes, once functions are written out, and functions at most.
_MOST_NODES, _MOST_FUNCTIONS = 1_000_000, 500
#: Values of this attribute that all operators with windows know.
_AUTO_PAD = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def read(source: str | os.PathLike[str] | bytes, external_data_dir: str | os.PathLike[str] | None = None) -> Graph:
    """Read a model.

    Parameters
    ----------
    source : path or bytes
    external_data_dir : path, optional
        Folder below which files that the model names may be read.

    Returns
    -------
    Graph
        Sorted, and with every operator in its newest form.

    Raises
    ------
    ImportError
        The `onnx` package is not installed.
    UnsupportedOperator
        Something in it is not supported: all of what is missing is named.
    ValueError
        The file is damaged, or is no model.
    OSError
        A file cannot be read.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"load_onnx needs the onnx package ({error}): pip install onnx") from error
    name, file = "the model", None
    if isinstance(source, (str, os.PathLike)):
        file = Path(source)
        name = file.name
        content = read_file(source, "load_onnx", "models")
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        raise TypeError(
            f"load_onnx: the model is of type {type(source).__name__}; it must be a path or bytes; "
            f"give model.SerializeToString() of an onnx model"
        )
    if content[:2] == b"PK":
        raise ValueError(f"load_onnx: {name} is no ONNX model but a zip file; dwcpu.load_model reads saved models")
    if not content:
        raise ValueError(f"load_onnx: {name} is empty; an ONNX model is needed; was it written to the end?")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's own class, which differs among its versions
        raise ValueError(
            f"load_onnx: {name} is damaged or no ONNX model{_looks_like(content)}: {_first_line(error)}; export, "
            f"download or copy it again"
        ) from None
    if not model.graph.node and not model.graph.output:
        raise ValueError(f"load_onnx: {name} holds no graph; an ONNX model has nodes and outputs; is it another file?")
    if model.functions:
        from onnx import inliner

        _check_expansion(model, name)

        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:  # of C++, without a common class
            raise ValueError(f"load_onnx: functions of {name} cannot be inlined: {_first_line(error)}") from None
    folder = None if external_data_dir is None else Path(external_data_dir)
    try:
        return _Reader(onnx, model, name, file, folder).graph()
    except UnsupportedOperator:
        raise
    except ValueError as error:
        raise ValueError(f"load_onnx: {name}: {error}") from None


def _check_expansion(model: Any, name: str) -> None:
    """Refuse functions that call each other so often that writing them out would never end."""
    bodies = {(function.domain, function.name): function for function in model.functions}
    known: dict[tuple[str, str], int] = {}

    def cost(nodes: Any, depth: int) -> int:
        total = 0
        for node in nodes:
            key = node.domain, node.op_type
            if key in bodies and key not in known:
                if depth > len(bodies):
                    raise ValueError(f"load_onnx: functions of {name} call themselves; there must be no cycles")
                known[key] = cost(bodies[key].node, depth + 1)
            total += known.get(key, 1)
            total += sum(cost(attribute.g.node, depth) for attribute in node.attribute if attribute.HasField("g"))
        return total

    if len(bodies) > _MOST_FUNCTIONS or cost(model.graph.node, 0) > _MOST_NODES:
        raise ValueError(f"load_onnx: functions of {name} stand for more than {_MOST_NODES} nodes, which is too many")


def _looks_like(content: bytes) -> str:
    """What is often downloaded in place of a model."""
    if content.startswith(b"version https://git-lfs"):
        return " but a pointer of Git LFS"
    return " but a web page" if content[:256].lstrip()[:1] == b"<" else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _mentioned(graph: Any) -> Iterator[str]:
    """Names of values, in graphs within this one too."""
    for each in (*graph.input, *graph.output, *graph.initializer):
        yield each.name
    for node in graph.node:
        yield from node.input
        yield from node.output
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _mentioned(attribute.g)


class _Reader:
    """One model on its way to a graph."""

    def __init__(self, onnx: Any, model: Any, name: str, file: Path | None, folder: Path | None) -> None:
        self._onnx, self._model, self._name, self._file, self._folder = onnx, model, name, file, folder
        self._problems: list[tuple[str, str]] = []
        self._taken = {*_mentioned(model.graph)}  # names of values, those of graphs within included
        self._constants: dict[str, np.ndarray] = {}

    def graph(self) -> Graph:
        """The graph, or what is wrong with it."""
        graph = self._model.graph
        # Exporters call all graphs alike: a file's own name says more.
        result = self._read(graph, self._file.stem if self._file else graph.name or self._name, self._opset())
        if self._problems:
            raise UnsupportedOperator(self._name, self._problems)
        result.check()
        result.sort()
        return result

    def _read(self, graph: Any, name: str, opset: int) -> Graph:
        for tensor in graph.initializer:
            if tensor.name in self._constants:
                raise ValueError(f"{tensor.name!r:.80} is made twice, as an initializer; every value must be made once")
            self._constants[tensor.name] = self._array(tensor, f"initializer {tensor.name!r:.80}")
        if graph.sparse_initializer:
            self._problems.append(("sparse initializers", graph.sparse_initializer[0].values.name))
        inputs = [self._spec(value) for value in graph.input if value.name not in self._constants]
        outputs = [self._spec(value) for value in graph.output]
        nodes: list[Node] = []
        for number, proto in enumerate(graph.node):
            nodes += self._nodes(proto, number, opset)
        return Graph(name, inputs, outputs, nodes, self._constants)

    def _within(self, graph: Any, name: str, opset: int) -> tuple[Graph, int]:
        """A graph within this one: what it reads from around it becomes inputs, behind as many as it has anyway."""
        reader = copy(self)
        reader._constants = {}
        result = reader._read(graph, name, opset)
        own = [spec.name for spec in result.inputs]
        made = {*own, *result.producers(), *result.constants, ""}
        read = [name for node in result.nodes for name in node.inputs] + [spec.name for spec in result.outputs]
        result.inputs += [Spec(name, None, None) for name in dict.fromkeys(read) if name not in made]
        if not self._problems:
            result.check()
            result.sort()
        return result, len(own)

    def _opset(self) -> int:
        newest = int(self._onnx.defs.onnx_opset_version())
        versions = [entry.version for entry in self._model.opset_import if entry.domain in _OURS]
        opset = int(versions[0]) if versions else 1
        if not OLDEST <= opset <= newest:
            raise ValueError(
                f"its operator set is version {opset}; {OLDEST} to {newest} are read (the newest is that of the onnx "
                f"package installed); "
                + (
                    "convert it with onnx.version_converter"
                    if opset < OLDEST
                    else "upgrade onnx, or convert it with its version_converter"
                )
            )
        return opset

    def _spec(self, value: Any) -> Spec:
        kind = value.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            self._problems.append((f"values of type {str(kind).removesuffix('_type')}", value.name))
            return Spec(value.name, None, None)
        tensor = value.type.tensor_type
        dtype = self._dtype(tensor.elem_type, value.name) if tensor.elem_type else None
        if not tensor.HasField("shape"):
            return Spec(value.name, dtype, None)
        sizes: list[int | str | None] = []
        for size in tensor.shape.dim:
            given = size.WhichOneof("value")
            sizes.append(None if given is None else getattr(size, given))
        # -1 and 0 stand for "any" in files of some exporters.
        return Spec(value.name, dtype, tuple(None if isinstance(size, int) and size < 1 else size for size in sizes))

    def _dtype(self, number: int, where: str) -> np.dtype | None:
        types = self._onnx.TensorProto
        if number == types.STRING:
            return np.dtype(object)
        try:
            if number in (types.COMPLEX64, types.COMPLEX128):
                raise ValueError(number)
            return np.dtype(self._onnx.helper.tensor_dtype_to_np_dtype(number))
        except (KeyError, TypeError, ValueError):
            self._problems.append((f"element type number {number}", where))
            return None

    def _array(self, tensor: Any, what: str) -> np.ndarray:
        """A tensor as a read-only array, its size checked first."""
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape) or len(shape) > _MOST_AXES:
            raise ValueError(f"{what} has shape {shape}; sizes must not be negative, and {_MOST_AXES} axes at most")
        types = self._onnx.TensorProto
        if tensor.data_type != types.STRING:
            self._dtype(tensor.data_type, what)
        if tensor.data_location == types.EXTERNAL:
            tensor = self._external(tensor, what)
        elif tensor.data_type not in (types.STRING, types.UNDEFINED):
            # Each element takes at least half a byte of raw data, or an entry of one of the lists.
            lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
            if prod(shape) > 2 * max(len(tensor.raw_data), *map(len, lists)):
                raise ValueError(f"{what} has shape {shape}, for which the file does not hold enough bytes")
        try:
            array = self._onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # the package raises whatever it meets
            raise ValueError(f"{what} cannot be read: {_first_line(error)}") from None
        if array.dtype.kind == "O":
            array = np.array([each.decode() if isinstance(each, bytes) else each for each in array.reshape(-1)], object)
        array = np.ascontiguousarray(array).reshape(shape)
        if array.base is not None or not array.flags.owndata:
            array = array.copy()
        array.flags.writeable = False
        return array

    def _external(self, tensor: Any, what: str) -> Any:
        """The tensor with the bytes of the file that it names."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if self._folder is None:
            raise ValueError(
                f"{what} lies in another file, {location!r:.80}; other files are read only below a folder that is "
                f"named; give external_data_dir=FOLDER if you trust the model"
            )
        root = self._folder.resolve()
        try:
            path = (root / location).resolve()
            inside = bool(location) and path.is_relative_to(root) and path.is_file()
        except (OSError, ValueError):  # names that no system takes
            inside = False
        if not inside:
            raise ValueError(f"{what} names {location!r:.80}, which is no file below {root}; nothing else is read")
        size = path.stat().st_size
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", size - offset))
        except ValueError:
            raise ValueError(f"{what} has an offset or length that is no number") from None
        if min(offset, length) < 0 or offset + length > size or prod(tensor.dims) > 4 * length:
            raise ValueError(
                f"{what} lies at {length} bytes from byte {offset} of {location!r:.80}, which has {size}; its shape is "
                f"{tuple(tensor.dims)}; the file is not the one that was written with the model"
            )
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read(length)
        inner = self._onnx.TensorProto()
        inner.data_type, inner.raw_data = tensor.data_type, raw
        inner.dims.extend(tensor.dims)
        return inner

    def _nodes(self, proto: Any, number: int, opset: int) -> list[Node]:
        """A node in its newest form, with what it needs before it; what is wrong with it goes to the problems."""
        name = proto.name or (proto.output[0] if proto.output else "") or f"{proto.op_type}_{number}"
        if proto.domain not in _OURS:
            self._problems.append((f"operator {proto.domain}.{proto.op_type}", name))
            return []
        self._problems += [(f"{proto.op_type} with {what}", name) for what in self._strange(proto, opset)]
        node = Node(proto.op_type, name, list(proto.input), list(proto.output), self._attributes(proto, name, opset))
        if node.op == "Constant":
            return self._constant(node)
        kind = {"Cast": "to", "EyeLike": "dtype"}.get(node.op)
        if kind is not None and (node.op == "Cast" or kind in node.attributes):
            number = node.get(kind)
            node.attributes[kind] = self._dtype(number if isinstance(number, int) else 0, name)
        known = node.op not in OURS
        if node.op == "Loop":
            node.inputs += [""] * (2 - len(node.inputs))
        made = modernise(node, opset, self._keep)
        operator = OPERATORS.get(node.op) if known else None
        if operator is None:
            self._problems.append((f"operator {node.op}", name))
            return []
        reason = operator.check(node) if operator.check is not None else None
        if reason is None and node.get("auto_pad", "NOTSET") not in _AUTO_PAD:
            reason = f"auto_pad={node.get('auto_pad')!r}"
        if reason is not None:
            self._problems.append((f"{node.op} with {reason}", name))
        if node.op in GRAPHS and reason is None:
            close(node)
        while node.inputs and not node.inputs[-1] and node.op not in GRAPHS:
            node.inputs.pop()
        return made

    def _strange(self, proto: Any, opset: int) -> list[str]:
        """Attributes that the standard does not know: to leave out what they may mean would give something else."""
        try:
            known = self._onnx.defs.get_schema(proto.op_type, opset, "").attributes
        except Exception:  # no such operator, or version: the package raises whatever it meets, and others say so
            return []
        kinds, found = self._onnx.AttributeProto.AttributeType, []
        for attribute in proto.attribute:
            if attribute.name not in known:
                close = get_close_matches(attribute.name, known, 1, 0.5)
                found.append(
                    f"attribute {attribute.name!r}, of which it has none{f' (it has {close[0]!r})' if close else ''}"
                )
            elif attribute.type not in (kinds.UNDEFINED, int(known[attribute.name].type)):
                wanted = kinds.Name(int(known[attribute.name].type))
                found.append(
                    f"attribute {attribute.name!r} of type {kinds.Name(attribute.type)}, which must be {wanted}"
                )
        return found

    def _attributes(self, proto: Any, name: str, opset: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for attribute in proto.attribute:
            kind = self._onnx.AttributeProto.AttributeType.Name(attribute.type)
            if kind in ("FLOAT", "INT"):
                found[attribute.name] = self._onnx.helper.get_attribute_value(attribute)
            elif kind == "STRING":
                found[attribute.name] = attribute.s.decode("utf-8", "replace")
            elif kind in ("FLOATS", "INTS"):
                found[attribute.name] = list(self._onnx.helper.get_attribute_value(attribute))
            elif kind == "STRINGS":
                found[attribute.name] = [each.decode("utf-8", "replace") for each in attribute.strings]
            elif kind == "TENSOR":
                found[attribute.name] = self._array(attribute.t, f"attribute {attribute.name!r} of node {name!r:.80}")
            elif kind == "GRAPH" and attribute.name in GRAPHS.get(proto.op_type, ()):
                found[attribute.name], own = self._within(attribute.g, f"{name}.{attribute.name}", opset)
                found["own"] = max(own, found.get("own", 0))
            else:
                self._problems.append((f"attribute {attribute.name} of type {kind}", name))
        return found

    def _constant(self, node: Node) -> list[Node]:
        """Constants are no nodes here."""
        values = [value for key, value in node.attributes.items() if key.startswith("value")]
        if len(values) != 1 or not node.outputs:
            self._problems.append(("Constant without a dense value", node.name))
            return []
        dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        key = next(key for key in node.attributes if key.startswith("value"))
        array = values[0] if key == "value" else np.array(values[0], dtype.get(key, object))
        if node.outputs[0] in self._constants:
            raise ValueError(f"{node.outputs[0]!r:.80} is made twice; every value must be made by one node")
        self._constants[node.outputs[0]] = array
        return []

    def _keep(self, hint: str, array: np.ndarray) -> str:
        name, number = hint, 0
        while name in self._taken:
            number += 1
            name = f"{hint}.{number}"
        self._taken.add(name)
        self._constants[name] = array
        return name
