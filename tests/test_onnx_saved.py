"""Saved models that are cut short, changed or made to do harm are refused: nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dwcpu

onnx = pytest.importorskip("onnx")

from onnx_models import X, joined, parts, saved  # noqa: E402


def not_read(content: bytes, folder: Path) -> None:
    path = folder / "net"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="load_model: "):
        dwcpu.load_model(path)


def test_every_truncation_of_a_saved_model_is_refused(tmp_path) -> None:
    content = saved()
    for length in (*range(0, len(content), 97), len(content) - 1):
        not_read(content[:length], tmp_path)
    assert dwcpu.load_model(write(tmp_path, joined(*parts(content))))(X).shape == (1, 10)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "net"
    path.write_bytes(content)
    return path


class Run:
    """Pickled, a call of a function."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def test_nothing_in_a_saved_model_is_run(tmp_path) -> None:
    trace = tmp_path / "trace"
    head, arrays = parts(saved())
    objects = np.array([Run(os.mkdir, str(trace))], object)
    for each in ({**arrays, "a0": objects}, {**arrays, "more": objects}):
        not_read(joined(head, each), tmp_path)
    content = io.BytesIO()
    np.savez(content, graph=objects, **arrays)
    not_read(content.getvalue(), tmp_path)
    not_read(pickle.dumps(Run(os.mkdir, str(trace))), tmp_path)
    with io.BytesIO() as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Run(os.mkdir, str(trace))))
        not_read(stream.getvalue(), tmp_path)
    assert not trace.exists()


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], Any]:
    def apply(head: dict[str, Any]) -> Any:
        change(head)
        return head

    return apply


def set_node(at: int, value: Any) -> Callable[[dict[str, Any]], Any]:
    return changed(lambda head: head["nodes"][0].__setitem__(at, value))


TAMPERED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda head: b"{'a'",
    "no text": lambda head: b"\xff\xfe{}",
    "nothing": lambda head: b"",
    "a list": lambda head: [head],
    "a number": lambda head: 3,
    "null": lambda head: None,
    "deep": lambda head: b"[" * 200_000,
    "deep in an attribute": lambda head: json.dumps(head).replace('"small"', "[" * 100_000 + "]" * 100_000).encode(),
    "another format": changed(lambda head: head.update(format=2)),
    "a format that is text": changed(lambda head: head.update(format="1")),
    **{
        f"no {key}": changed(lambda head, key=key: head.pop(key))
        for key in ("format", "name", "inputs", "outputs", "nodes", "constants")
    },
    **{
        f"{key} is {value!r}": changed(lambda head, key=key, value=value: head.update({key: value}))
        for key in ("inputs", "outputs", "nodes", "constants")
        for value in (None, 3, "text", [3], [[]], {"a": 3})
    },
    "a name that is a number": changed(lambda head: head.update(name=3)),
    "an unknown operator": set_node(0, "Det"),
    "an operator that is a list": set_node(0, ["Conv"]),
    "a node's name that is null": set_node(1, None),
    "inputs that are text": set_node(2, 3),
    "an input that is a number": set_node(2, ["x", 3]),
    "an input that nothing makes": set_node(2, ["x", "nowhere"]),
    "an output that is a constant": set_node(3, ["c0"]),
    "attributes that are a list": set_node(4, []),
    "attributes that are null": set_node(4, None),
    "an attribute of an unknown array": set_node(4, {"value": {"array": "a99"}}),
    "an attribute of an object without anything": set_node(4, {"value": {}}),
    "an attribute of a strange type": set_node(4, {"to": {"dtype": "i4,i4"}}),
    "a node that is short": changed(lambda head: head["nodes"].__setitem__(0, ["Relu", "n", ["x"]])),
    "a node twice": changed(lambda head: head["nodes"].append(head["nodes"][0])),
    "a cycle": changed(lambda head: head["nodes"][0].__setitem__(2, [head["nodes"][-1][3][0]])),
    "an output twice that nothing makes": changed(lambda head: head.update(outputs=[["q", None, None]] * 2)),
    "no outputs in it": changed(lambda head: head.update(outputs=[])),
    "an input twice": changed(lambda head: head.update(inputs=head["inputs"] * 2)),
    "a size that is a list": changed(lambda head: head["inputs"].__setitem__(0, ["x", "float32", [[1], 3]])),
    "sizes that are a number": changed(lambda head: head["inputs"].__setitem__(0, ["x", "float32", 3])),
    **{
        f"the type {name!r}": changed(lambda head, name=name: head["inputs"].__setitem__(0, ["x", name, None]))
        for name in ("float33", "U4", "M8", "i4,i4", "(2,)f4", "", "__class__", "finfo", "V0", ["f4"], 3, {})
    },
    **{
        f"the constant {entry!r}": changed(lambda head, entry=entry: head["constants"].update(c0=entry))
        for entry in (
            None, 3, [], {}, {"array": "a99"}, {"array": 3}, {"array": "a0", "dtype": "float64"},
            {"array": "a0", "dtype": "object"}, {"array": "a0", "dtype": "O"}, {"array": "a0", "dtype": "V0"},
            {"array": "a0", "dtype": "S4"}, {"strings": ["a"], "shape": [2]}, {"strings": [3], "shape": [1]},
            {"strings": ["a"], "shape": [-1, -1]}, {"strings": [], "shape": [10**30]},
            {"strings": ["a"]}, {"strings": None, "shape": []},
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_saved_models_that_were_tampered_with_are_refused(what, tmp_path) -> None:
    head, arrays = parts(saved())
    not_read(joined(TAMPERED[what](head), arrays), tmp_path)


def test_arrays_of_saved_models_are_checked(tmp_path) -> None:
    head, arrays = parts(saved())
    not_read(joined(head, {name: array for name, array in arrays.items() if name != "a1"}), tmp_path)
    not_read(joined(head, {**arrays, "a1": np.array("text")}), tmp_path)
    content = io.BytesIO()
    np.savez(content, **arrays)  # weights, and no graph
    not_read(content.getvalue(), tmp_path)
    for graph in (np.zeros((2, 2), np.uint8), np.zeros(3, np.float32), np.array(3, np.uint8)):
        content = io.BytesIO()
        np.savez(content, graph=graph, **arrays)
        not_read(content.getvalue(), tmp_path)
