"""Files that are no models, damaged, or made to do harm: refused with a `ValueError`, before anything is allocated.

Whatever bytes are read, loading gives a model or a `ValueError` (`UnsupportedOperator` is one; `OSError` if there is no
file to read), and calling what was loaded gives a result, a `ValueError` or a `TypeError`: never another exception, a
crash, a hang, or memory that the file does not account for. Nothing outside the folder that the caller names is read.
The same holds for files of `Model.save`, and nothing in one can run code.

What could crash or hang runs in a process of its own, which this file is the program of.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nightly import reduced

import dwcpu

onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402
from onnx_models import Random, X, chain_of_functions, ints, joined, load, model, node, parts, saved, small, weights  # noqa: E402
from onnx_networks import NETWORKS  # noqa: E402

# --- astronomical sizes -----------------------------------------------------------------------------------------------

MILLION, TRILLION = 10**6, 10**12
GREAT = [2**61] * 2
#: Nodes and constants that ask for 10**12 elements or as many steps, or more than either.
SIZES: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "ConstantOfShape": (
        [node("ConstantOfShape", ["s"], ["k"]), node("Add", ["x", "k"], ["y"])], {"s": ints(MILLION, MILLION)},
    ),
    "ConstantOfShape as output": ([node("ConstantOfShape", ["s"], ["y"])], {"s": ints(TRILLION)}),
    "ConstantOfShape of negative sizes": ([node("ConstantOfShape", ["s"], ["y"])], {"s": ints(-MILLION, -MILLION)}),
    "ConstantOfShape, overflowing": ([node("ConstantOfShape", ["s"], ["y"])], {"s": ints(2**62, 2**62, 16)}),
    "Expand as output": ([node("Expand", ["x", "s"], ["y"])], {"s": ints(MILLION, MILLION, 1, 1, 1)}),
    "Expand and Add": (
        [node("Expand", ["x", "s"], ["k"]), node("Add", ["k", "k"], ["y"])], {"s": ints(TRILLION, 1, 1, 1)},
    ),
    "Expand and Conv": (
        [node("Expand", ["x", "s"], ["k"]), node("Conv", ["k", "w"], ["y"])],
        {"s": ints(TRILLION, 1, 1, 1), "w": weights(3, 3, 1, 1)},
    ),
    "Expand of a constant": ([node("Expand", ["c", "s"], ["y"])], {"s": ints(TRILLION), "c": weights(1)}),
    "Expand of a constant and Add": (
        [node("Expand", ["c", "s"], ["k"]), node("Add", ["k", "x"], ["y"])],
        {"s": ints(TRILLION, 1, 1, 1), "c": weights(1)},
    ),
    "Tile": ([node("Tile", ["x", "s"], ["y"])], {"s": ints(MILLION, MILLION, 1, 1)}),
    "Tile of a constant": ([node("Tile", ["c", "s"], ["y"])], {"s": ints(TRILLION), "c": weights(1)}),
    **{
        f"Pad, {mode}": ([node("Pad", ["x", "s"], ["y"], mode=mode)], {"s": ints(0, 0, 0, 0, 0, 0, MILLION, MILLION)})
        for mode in ("constant", "edge", "reflect", "wrap")
    },
    "Pad of a constant": ([node("Pad", ["c", "s"], ["y"])], {"s": ints(0, TRILLION), "c": weights(1)}),
    "Resize by scales": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, MILLION, MILLION])}),
    "Resize to sizes": ([node("Resize", ["x", "", "", "s"], ["y"])], {"s": ints(1, 3, MILLION, MILLION)}),
    "Resize by 10**12": ([node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, TRILLION, 1])}),
    "Resize, linear": ([node("Resize", ["x", "", "", "s"], ["y"], mode="linear")], {"s": ints(1, 3, 4, TRILLION)}),
    "Resize, cubic": ([node("Resize", ["x", "", "", "s"], ["y"], mode="cubic")], {"s": ints(1, 3, TRILLION, 4)}),
    "Resize with a window of all": (
        [node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)], {"s": np.float32([1, 1, 1e12, 1e-30])},
    ),
    "Reshape": ([node("Reshape", ["x", "s"], ["y"])], {"s": ints(MILLION, MILLION)}),
    "Reshape with an open size": ([node("Reshape", ["x", "s"], ["y"])], {"s": ints(-1, MILLION, TRILLION)}),
    "Reshape of nothing": (
        [node("Reshape", ["c", "s"], ["y"], allowzero=1)], {"s": ints(0, 2**62, 2**62), "c": weights(0)},
    ),
    "Conv": ([node("Conv", ["x", "w"], ["y"], pads=[MILLION] * 4)], {"w": weights(3, 3, 1, 1)}),
    "Conv, depthwise": ([node("Conv", ["x", "w"], ["y"], pads=[MILLION] * 4, group=3)], {"w": weights(3, 1, 3, 3)}),
    "Conv, overflowing": ([node("Conv", ["x", "w"], ["y"], pads=GREAT * 2, strides=GREAT)], {"w": weights(3, 3, 1, 1)}),
    "Conv of an input, overflowing": ([node("Conv", ["x", "x"], ["y"], pads=GREAT * 2, strides=GREAT)], {}),
    "Conv with great dilations": (
        [node("Conv", ["x", "w"], ["y"], pads=GREAT * 2, dilations=GREAT)], {"w": weights(3, 3, 2, 2)},
    ),
    "ConvTranspose, strides": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[MILLION] * 2)], {"w": weights(3, 3, 1, 1)},
    ),
    "ConvTranspose, dilations": (
        [node("ConvTranspose", ["x", "w"], ["y"], dilations=[MILLION] * 2)], {"w": weights(3, 3, 2, 2)},
    ),
    "ConvTranspose, output_shape": (
        [node("ConvTranspose", ["x", "w"], ["y"], output_shape=[MILLION] * 2)], {"w": weights(3, 3, 2, 2)},
    ),
    "ConvTranspose, output_padding": (
        [node("ConvTranspose", ["x", "w"], ["y"], output_padding=[MILLION] * 2)], {"w": weights(3, 3, 2, 2)},
    ),
    "ConvTranspose, negative pads": (
        [node("ConvTranspose", ["x", "w"], ["y"], pads=[-MILLION] * 4)], {"w": weights(3, 3, 2, 2)},
    ),
    "MaxPool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[MILLION] * 4)], {}),
    "AveragePool": ([node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[MILLION] * 4)], {}),
    "Range": ([node("Range", ["a", "b", "c"], ["y"])], {"a": np.int64(0), "b": np.int64(TRILLION), "c": np.int64(1)}),
    "Range of fractions": (
        [node("Range", ["a", "b", "c"], ["y"])], {"a": np.float32(0), "b": np.float32(1), "c": np.float32(1e-30)},
    ),
    "a product of constants": (
        [node("ConstantOfShape", ["s"], ["k"]), node("ConstantOfShape", ["t"], ["l"]),
         node("MatMul", ["k", "l"], ["m"]), node("Add", ["x", "m"], ["y"])],
        {"s": ints(MILLION, 1), "t": ints(1, MILLION)},
    ),
    "a sum of constants": (
        [node("ConstantOfShape", ["s"], ["k"]), node("ConstantOfShape", ["t"], ["l"]), node("Sub", ["k", "l"], ["m"]),
         node("Add", ["x", "m"], ["y"])],
        {"s": ints(MILLION, 1), "t": ints(1, MILLION)},
    ),
    "Gather of many": (
        [node("ConstantOfShape", ["s"], ["k"], value=numpy_helper.from_array(ints(0))),
         node("Gather", ["x", "k"], ["y"])],
        {"s": ints(TRILLION)},
    ),
    "SpaceToDepth": ([node("SpaceToDepth", ["x"], ["y"], blocksize=MILLION)], {}),
    "Unsqueeze to many axes": ([node("Unsqueeze", ["x", "a"], ["y"])], {"a": np.arange(70)}),
}  # fmt: skip
BILLION = [10**9] * 2


def pooling(op: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Windows that reach from one end of the image to the other and far beyond."""
    windows = {"kernel_shape": BILLION, "pads": BILLION * 2, "strides": BILLION}
    return [node(op, ["x"], outputs, **windows, **attributes)], {}


#: Few elements that take many steps each, if they are taken one by one: a result is as good as a ValueError.
LONG = {f"{op} with a great window": pooling(op) for op in ("MaxPool", "AveragePool")}
ENDLESS: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "AveragePool, padding counted": pooling("AveragePool", count_include_pad=1),
    "LpPool": pooling("LpPool"),
    "MaxPool with places": pooling("MaxPool", ("y", "i")),
    "LRN": ([node("LRN", ["x"], ["y"], size=10**10)], {}),
    "Split": ([node("Split", ["x"], ["y"], num_outputs=10**9)], {}),
}


def limited(memory: int) -> None:
    """Let this process have no more memory than that, where systems know such limits."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


class Hang(BaseException):
    """Nothing that `except Exception` catches."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise `Hang` if something takes that long; it must be far more than anything ever takes."""

    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def place_of(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:100]} ({Path(frame.filename).name}:{frame.lineno})"


def outcome_of_size(nodes: list[Any], constants: dict[str, np.ndarray]) -> list[Any]:
    """What came of a model, its text, and the most bytes of memory that it took."""
    content = model(nodes, constants).SerializeToString()
    tracemalloc.start()
    try:
        with alarm(3):
            dwcpu.load_onnx(content)(X)
        result = ["result", ""]
    except ValueError as error:
        result = ["ValueError", str(error)]
    except BaseException as error:
        result = ["other", place_of(error)]
    result.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return result


def program(*arguments: str) -> Any:
    """Run this file, as `main` says: what it printed last, as JSON."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-X", "faulthandler", __file__, *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} {done.stderr[-3000:]}"
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Any]]:
    return program("sizes")


@pytest.mark.parametrize("what", SIZES)
def test_astronomical_sizes_are_refused_before_anything_is_allocated(outcomes, what) -> None:
    kind, text, peak = outcomes[what]
    assert kind == "ValueError", text
    assert any(each.op_type in text for each in SIZES[what][0])
    assert peak < 2**26


@pytest.mark.parametrize("what", LONG)
def test_astronomical_windows_take_neither_memory_nor_time(outcomes, what) -> None:
    kind, text, peak = outcomes[what]
    assert kind in ("ValueError", "result"), text
    assert peak < 2**26


def test_other_astronomical_numbers_of_steps_take_neither_memory_nor_time() -> None:
    found = program("endless")
    assert not {what: text for what, (kind, text, peak) in found.items() if kind == "other" or peak >= 2**26}


@pytest.mark.parametrize("where", [[], ["within"]], ids=len)
def test_functions_that_become_astronomically_many_nodes_are_refused(where) -> None:
    assert program("functions", *where) == "ValueError"


# --- damage -----------------------------------------------------------------------------------------------------------


def outcome(content: bytes, x: np.ndarray, read: Callable[[bytes], Any]) -> str:
    """In a word what came of it; a text with spaces if it should not have."""
    try:
        with alarm(30):
            try:
                made = read(content)
            except ValueError:
                return "refused"
            if type(made) is not dwcpu.graph.Model:
                return f"{type(made)} was loaded"
            try:
                made({spec.name: x for spec in made.inputs})
            except ValueError:
                return "failed"
            except TypeError as error:  # of inputs alone: whatever else goes wrong is a ValueError
                return "mistyped" if str(error).startswith(f"{made.name}: ") else place_of(error)
            return "ran"
    except MemoryError:  # of this process, which has little: up to 16 GiB for a tensor are allowed
        return "large"
    except BaseException as error:
        return place_of(error)


def without_weights(content: bytes) -> np.ndarray:
    """Positions of the bytes of a model, but for most of those of large weights: flipping these tells little."""
    proto = onnx.load_from_string(content)
    kept = np.ones(len(content), bool)
    for each in proto.graph.initializer:
        if len(each.raw_data) > 64:
            at = content.index(each.raw_data)
            kept[at + 8 : at + len(each.raw_data) - 8] = False
    return np.flatnonzero(kept)


def flipped(content: bytes, positions: np.ndarray, count: int, seed: int) -> Iterator[bytes]:
    rng = Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 4))):
            damaged[rng.choice(positions)] = rng.choice((rng.randrange(256), rng.randrange(256), 0, 1, 127, 128, 255))
        yield bytes(damaged)


NUMBERS = (-(2**63), -3, -1, 0, 1, 2, 7, 100, 2**31, 2**62)
VALUES = (1, -1, 1.5, "text", [1, 2], [1.5], [-1, 0, 3], float("nan"))


def mutated(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Models with a few things changed that are still messages of the right form."""
    rng = Random(seed)
    whole = onnx.load_from_string(content)
    operators = sorted({each.op_type for each in whole.graph.node})
    for _ in range(count):
        proto = onnx.ModelProto()
        proto.CopyFrom(whole)
        graph = proto.graph
        names = [value.name for value in (*graph.input, *graph.initializer)] + [
            out for n in graph.node for out in n.output
        ]
        for _ in range(rng.choice((1, 1, 2, 3))):
            each, kind = (
                rng.choice(graph.node),
                rng.choice(("set", "set", "type", "input", "drop", "more", "swap", "op", "constant", "dims")),
            )
            if kind in ("set", "type") and each.attribute:
                attribute = rng.choice(each.attribute)
                if kind == "set" and attribute.ints:
                    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
                elif kind == "set" and attribute.type == onnx.AttributeProto.INT:
                    attribute.i = rng.choice(NUMBERS)
                else:
                    attribute.CopyFrom(helper.make_attribute(attribute.name, rng.choice(VALUES)))
            elif kind == "input" and each.input:
                each.input[rng.randrange(len(each.input))] = rng.choice((*names, "", ""))
            elif kind == "drop":
                (each.input if rng.random() < 0.5 and each.input else each.attribute or each.output).pop()
            elif kind == "more":
                (each.input if rng.random() < 0.7 else each.output).append(rng.choice((*names, "new")))
            elif kind == "swap" and len(each.input) > 1:
                each.input[0], each.input[1] = each.input[1], each.input[0]
            elif kind == "op":
                each.op_type = rng.choice(operators)
            elif kind in ("constant", "dims") and graph.initializer:
                constant = rng.choice(graph.initializer)
                array = numpy_helper.to_array(constant).copy()
                if array.dtype.kind == "i" and array.size:
                    array.reshape(-1)[rng.randrange(array.size)] = rng.choice(NUMBERS)
                elif array.ndim:
                    axis = rng.randrange(array.ndim)
                    array = (
                        np.take(array, np.arange(rng.choice((0, 1, 2, array.shape[axis] + 1))), axis, mode="wrap")
                        if array.shape[axis]
                        else array
                    )
                constant.CopyFrom(numpy_helper.from_array(array, constant.name))
        yield proto.SerializeToString()


def mutated_json(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Saved models with a few values of their JSON replaced."""
    rng = Random(seed)
    head, arrays = parts(content)
    text = json.dumps(head)
    others = [
        None,
        True,
        -1,
        0,
        3,
        2**40,
        10**400,
        1.5,
        float("inf"),
        "x",
        "",
        "Relu",
        "c1",
        [],
        [1, 1],
        {},
        {"array": "a0"},
    ]
    for _ in range(count):
        damaged = json.loads(text)
        for _ in range(rng.choice((1, 1, 2))):
            holder: Any = damaged
            while True:
                keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
                key = rng.choice(keys)
                if isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.9:
                    holder = holder[key]
                else:
                    break
            if rng.random() < 0.15:
                del holder[key]
            else:
                holder[key] = rng.choice(others)
        yield joined(damaged, arrays)


def read_saved(content: bytes) -> Any:
    from dwcpu.graph import model as models
    from dwcpu.graph import store

    return models.Model(store.parse(content))  # what load_model does with the bytes of a file


def damage(kind: str, name: str, count: int, seed: int) -> dict[str, Any]:
    """How often what came of damaged models; of what should not have come, the number of the first case too."""
    write, shapes = NETWORKS.get(name, (small, (X.shape,)))
    content, x = write(), np.zeros(shapes[0], np.float32)
    read: Callable[[bytes], Any] = dwcpu.load_onnx
    if kind == "bytes":
        cases = flipped(content, without_weights(content), count, seed)
    elif kind == "structure":
        cases = mutated(content, count, seed)
    else:
        content, read = saved(), read_saved
        cases = (
            flipped(content, np.arange(len(content)), count, seed)
            if kind == "saved bytes"
            else mutated_json(content, count, seed)
        )
    found: dict[str, Any] = {}
    for number, case in enumerate(cases):
        print(kind, name, number, flush=True)  # the last line, if this process dies
        what = outcome(case, x, read)
        found.setdefault(what, [0, number])[0] += 1
    return found


def main(what: str, *arguments: str) -> None:
    """Run what may crash: ``sizes``, ``endless``, ``functions [within]`` or ``damage KIND NETWORK COUNT SEED``."""
    warnings.simplefilter("ignore")  # numbers that were damaged may well be invalid
    limited(4 << 30)
    if what == "sizes":
        result: Any = {name: outcome_of_size(*case) for name, case in {**SIZES, **LONG}.items()}
    elif what == "functions":
        signal.alarm(4)  # ends this process: what takes that long is no Python
        try:
            result = type(load(chain_of_functions(50, bool(arguments)))).__name__
        except ValueError:
            result = "ValueError"
    elif what == "endless":
        result = {name: outcome_of_size(*case) for name, case in ENDLESS.items()}
    else:
        kind, name, count, seed = arguments
        result = damage(kind, name, int(count), int(seed))
    print(json.dumps(result))


@pytest.mark.parametrize(
    ("kind", "name", "count"),
    [
        ("bytes", "small", reduced(400, 250)),
        ("bytes", "blazeface", reduced(150, 60)),
        ("structure", "small", reduced(250, 150)),
        ("structure", "shufflenet_v2", reduced(60, 30)),
        ("structure", "convnext", 100),
        ("saved bytes", "small", reduced(100, 50)),
        ("saved JSON", "small", reduced(300, 150)),
    ],
)
def test_damaged_models_are_refused_or_run(kind, name, count) -> None:
    found = program("damage", kind, name, str(count), "1")
    assert not {what: cases for what, cases in found.items() if " " in what}
    assert sum(cases[0] for cases in found.values()) == count
    assert found["refused"][0] > count / 4  # it was damage that mattered
    if kind != "saved bytes":  # these have checksums
        assert found["ran"][0] > 0


if __name__ == "__main__":
    main(*sys.argv[1:])
