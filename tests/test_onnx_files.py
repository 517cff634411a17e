"""Files of models are data from somebody else: whatever is in them, there is a model or a ValueError, and soon."""

from __future__ import annotations

import contextlib
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu.graph import store

onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")

from onnx_networks import NETWORKS, Builder  # noqa: E402

#: Seconds that each fuzz may take: an upper bound for CI, not a promise about speed.
SECONDS = 8.0


def small() -> bytes:
    b = Builder()
    x = b.conv(b.conv("x", 3, 8, 3, act="relu6"), 8, 8, 3, groups=8, act="hardswish")
    return b.model("small", [b.classifier(b.conv(x, 8, 12), 12, softmax=True)])


def attempt(load: Any, content: Any, x: np.ndarray) -> bool:
    """Load and call; whether both worked. Nothing but ValueError and TypeError may come out."""
    try:
        with np.errstate(all="ignore"):
            model = load(content)
            model(x, num_threads=1)
    except (ValueError, TypeError):
        return False
    return True


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The contents with a few bytes changed, a part left out, repeated or overwritten."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at, count = int(rng.integers(len(data))), int(rng.integers(1, 40))
        kind = rng.integers(5)
        if kind == 0:
            data[at] = int(rng.integers(256))
        elif kind == 1:
            del data[at : at + count]
        elif kind == 2:
            data[at:at] = data[at : at + count]
        elif kind == 3:
            data[at : at + count] = rng.integers(0, 256, count, np.uint8).tobytes()
        else:
            data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


@pytest.mark.parametrize("name", ["small", "mobilenet_v3", "shufflenet_v2", "unet"])
def test_damaged_models_are_refused_or_run(name) -> None:
    content = small() if name == "small" else NETWORKS[name][0]()
    # Most of a file is weights: what is interesting lies around them.
    rng, x, end = np.random.default_rng(len(name)), np.ones((1, 3, 32, 32), np.float32), time.monotonic() + SECONDS / 4
    worked = tried = 0
    for _ in range(400):
        worked += attempt(dwcpu.load_onnx, mutated(content, rng), x)
        tried += 1
        if time.monotonic() > end:
            break
    assert tried > 10
    assert worked < tried


def test_damaged_saved_models_are_refused_or_run(tmp_path) -> None:
    dwcpu.load_onnx(small()).save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    rng, x, end = np.random.default_rng(0), np.ones((1, 3, 8, 8), np.float32), time.monotonic() + SECONDS / 4
    for _ in range(400):
        (tmp_path / "model").write_bytes(mutated(content, rng))
        attempt(dwcpu.load_model, tmp_path / "model", x)
        if time.monotonic() > end:
            break


def test_saved_models_with_other_words_in_them_are_refused_or_run(tmp_path) -> None:
    """The checksums of the archive are right; what it says is not."""
    dwcpu.load_onnx(small()).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(np.load(tmp_path / "model")["graph"].tobytes())
    rng, x, end = np.random.default_rng(1), np.ones((1, 3, 8, 8), np.float32), time.monotonic() + SECONDS / 4
    strange = [
        None,
        -1,
        2**70,
        1e400,
        "",
        "x",
        [],
        {},
        [[]],
        True,
        {"array": "a0"},
        {"dtype": "object"},
        {"strings": [1]},
    ]

    def change(value: Any, depth: int) -> Any:
        if depth == 0 or not isinstance(value, (list, dict)) or not value:
            return strange[int(rng.integers(len(strange)))]
        key = list(value)[int(rng.integers(len(value)))] if isinstance(value, dict) else int(rng.integers(len(value)))
        copied = value.copy()
        if rng.random() < 0.2:
            del copied[key]
        else:
            copied[key] = change(value[key], depth - 1)
        return copied

    for _ in range(400):
        text = json.dumps(change(head, int(rng.integers(1, 6)))).encode()
        with zipfile.ZipFile(tmp_path / "changed", "w") as archive:
            for name, data in members.items():
                if name != "graph.npy":
                    archive.writestr(name, data)
            with archive.open("graph.npy", "w") as member:
                np.lib.format.write_array(member, np.frombuffer(text, np.uint8))
        attempt(dwcpu.load_model, tmp_path / "changed", x)
        if time.monotonic() > end:
            break


def test_truncated_models_are_refused_or_run() -> None:
    content, x = small(), np.ones((1, 3, 8, 8), np.float32)
    for length in range(0, len(content), 97):
        attempt(dwcpu.load_onnx, content[:length], x)


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is a text\n" * 5, b"\x00" * 100, b"PK\x03\x04", bytes(range(256))]
)
def test_other_files_are_refused(content, tmp_path) -> None:
    (tmp_path / "file").write_bytes(content)
    for load in (dwcpu.load_onnx, dwcpu.load_model):
        with pytest.raises(ValueError, match="file"):
            load(tmp_path / "file")


def test_files_that_cannot_be_read_are_errors_of_the_system(tmp_path) -> None:
    for load in (dwcpu.load_onnx, dwcpu.load_model):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "nothing")
        with pytest.raises(OSError):
            load(tmp_path)


def test_what_is_no_file_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="SerializeToString"):
        dwcpu.load_onnx(onnx.ModelProto())


# --- graphs that do not hold together ---------------------------------------------------------------------------------


def graph(nodes: list[Any], inputs: Any = ("x",), outputs: Any = ("y",), tensors: Any = (), opset: int = 18) -> bytes:
    values = [[helper.make_tensor_value_info(name, 1, None) for name in names] for names in (inputs, outputs)]
    made = helper.make_graph(nodes, "g", *values, list(tensors))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_node", **attributes)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (graph([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]), "cycle"),
        (graph([node("Add", "x y", "y")]), "cycle"),
        (graph([node("Relu", "x", "y"), node("Relu", "x", "y")]), "made twice"),
        (graph([node("Relu", "x", "x"), node("Relu", "x", "y")]), "made twice"),
        (graph([node("Add", "x nothing", "y")]), "'nothing', which nothing makes"),
        (graph([node("Relu", "x", "z")]), "'y' is made by no node"),
        (graph([node("Relu", "x", "y")], inputs=("x", "x")), "made twice"),
        (graph([node("Relu", "x", "y")], outputs=()), "no outputs"),
        (graph([node("Relu", "x", "y")], opset=5), "version 5"),
        (graph([node("Relu", "x", "y")], opset=500), "version 500"),
    ],
)
def test_graphs_that_do_not_hold_together_are_refused(content, match) -> None:
    with pytest.raises(ValueError, match=match):
        dwcpu.load_onnx(content)


def tensor(dims: list[int], raw: bytes = b"", **fields: Any) -> Any:
    made = onnx.TensorProto(name="w", data_type=1, raw_data=raw)
    made.dims.extend(dims)
    for name, value in fields.items():
        getattr(made, name).extend(value)
    return made


@pytest.mark.parametrize(
    "bad",
    [
        tensor([-1, 4], b"\0" * 16),
        tensor([2**62, 2**62], b"\0" * 16),
        tensor([10**12], b"\0" * 16),
        tensor([5], b"\0" * 16),
        tensor([4], float_data=[1.0]),
        tensor([1] * 40, b"\0" * 4),
    ],
)
def test_tensors_that_are_not_what_they_claim_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="'w'"):
        dwcpu.load_onnx(graph([node("Add", "x w", "y")], tensors=[bad]))


def test_everything_that_is_missing_is_named_at_once() -> None:
    nodes = [
        node("LSTM", "x x x", "a"),
        node("Resize", "x", "b", mode="sideways"),
        node("Conv", "x x", "c", auto_pad="SAME"),
        node("Activation", "x", "d"),
        helper.make_node("Gelu", ["x"], ["e"], name="other", domain="com.example"),
    ]
    with pytest.raises(dwcpu.UnsupportedOperator) as caught:
        dwcpu.load_onnx(graph([*nodes, node("Sum", "a b c d e", "y")]))
    text = str(caught.value)
    for part in (
        "LSTM",
        "LSTM_node",
        "mode='sideways'",
        "Resize_node",
        "auto_pad='SAME'",
        "Activation",
        "com.example.Gelu",
    ):
        assert part in text
    assert len(caught.value.problems) == 5


def test_functions_are_written_out_and_those_without_end_refused() -> None:
    def function(name: str, nodes: list[Any]) -> Any:
        return helper.make_function(
            "own", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        )

    def call(level: int, x: str, y: str) -> Any:
        return helper.make_node(f"F{level}", [x], [y], domain="own")

    def made(functions: list[Any], first: str) -> bytes:
        values = [[helper.make_tensor_value_info(name, 1, None)] for name in "xy"]
        begin = helper.make_node(first, ["x"], ["y"], domain="own")
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        graph = helper.make_graph([begin], "g", *values)
        return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8).SerializeToString()

    twice = function("Twice", [node("Add", "x x", "y")])
    np.testing.assert_array_equal(dwcpu.load_onnx(made([twice], "Twice"))(np.ones(2, np.float32)), [2, 2])
    chain = [function(f"F{level}", [call(level + 1, "x", "a"), call(level + 1, "a", "y")]) for level in range(40)]
    with pytest.raises(ValueError, match="too many"):
        dwcpu.load_onnx(made([*chain, function("F40", [node("Relu", "x", "y")])], "F0"))


# --- weights in files of their own ------------------------------------------------------------------------------------


def external(location: str, **entries: Any) -> bytes:
    made = tensor([4])
    made.ClearField("raw_data")
    made.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return graph([node("Add", "x w", "y")], tensors=[made])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    np.arange(8, dtype=np.float32).tofile(tmp_path / "weights" / "w.bin")
    np.arange(8, dtype=np.float32).tofile(tmp_path / "secret.bin")
    return tmp_path


@pytest.mark.parametrize("entries", [{"offset": 16, "length": 16}, {"offset": 16}])
def test_weights_in_other_files_are_read_from_a_folder_that_is_named(entries, folder) -> None:
    model = dwcpu.load_onnx(external("w.bin", **entries), external_data_dir=folder / "weights")
    np.testing.assert_array_equal(model(np.zeros(4, np.float32)), [4, 5, 6, 7])


def test_weights_in_other_files_are_refused_without_one(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder / "weights")
    with pytest.raises(ValueError, match="external_data_dir=FOLDER"):
        dwcpu.load_onnx(external("w.bin"))


@pytest.mark.parametrize("location", ["../secret.bin", "link.bin", "", ".", "nothing.bin", "{absolute}"])
def test_nothing_outside_the_folder_is_read(location, folder) -> None:
    with contextlib.suppress(OSError):
        (folder / "weights" / "link.bin").symlink_to("../secret.bin")
    location = location.format(absolute=folder / "secret.bin")
    with pytest.raises(ValueError, match="no file below"):
        dwcpu.load_onnx(external(location, length=16), external_data_dir=folder / "weights")


@pytest.mark.parametrize(
    "entries", [{"offset": 24, "length": 16}, {"offset": -4}, {"length": 8}, {"offset": "x"}, {"length": 2**60}]
)
def test_places_beyond_the_file_are_refused(entries, folder) -> None:
    with pytest.raises(ValueError, match="'w'"):
        dwcpu.load_onnx(external("w.bin", **entries), external_data_dir=folder / "weights")


# --- saved models -----------------------------------------------------------------------------------------------------


def test_saved_models_hold_no_code(tmp_path) -> None:
    np.savez(tmp_path / "model.npz", graph=np.array([{"format": 1}], object))
    with pytest.raises(ValueError, match="load_model"):
        dwcpu.load_model(tmp_path / "model.npz")


def test_operators_of_passes_are_refused_in_saved_models() -> None:
    simplified = dwcpu.load_onnx(graph([node("Relu", "x", "y")])).simplified
    assert [each.op for each in simplified.nodes] == ["Activation"]
    with pytest.raises(ValueError, match="does not know"):
        store.parse(store.dump(simplified))
