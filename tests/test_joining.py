"""Concat without copies: which values are computed where they will lie, and that everybody finds them there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import layers, runtime
from dwcpu.graph import joining, moves
from dwcpu.graph.planner import Planner, Symbol
from dwcpu.pipeline import Arenas

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_graphs import agree  # noqa: E402
from onnx_networks import Builder  # noqa: E402

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")


@pytest.fixture(autouse=True)
def nothing_is_there_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has written reads as NaN, not as what an earlier run has left there."""
    take = Arenas.take

    def taken(self: Arenas, size: int) -> tuple[np.ndarray, int]:
        arena = take(self, size)
        arena[0][:] = 255
        return arena

    monkeypatch.setattr(Arenas, "take", taken)


def joined(b: Builder, *parts: str) -> str:
    return str(b.add("Concat", *parts, axis=1))


def depthwise(b: Builder, x: str, channels: int, size: int = 3, stride: int = 1) -> str:
    return b.conv(x, channels, channels, size, groups=channels, stride=stride)


def pooled(b: Builder, x: str, op: str = "MaxPool") -> str:
    return str(b.add(op, x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4))


def branches(b: Builder) -> list[str]:
    """Of every kind that can be written with gaps, from one that is read with gaps, too."""
    x = b.conv("x", 3, 16, act="relu")
    expanded = depthwise(b, b.conv(x, 16, 48, act="relu6"), 48)
    y = [x, depthwise(b, x, 16), b.conv(x, 16, 8), b.conv(depthwise(b, x, 16, 5), 16, 20), b.conv(expanded, 48, 16)]
    return [joined(b, *y, pooled(b, x), pooled(b, x, "AveragePool"), b.conv("x", 3, 5, 3, act="hardswish"))]


def pictures(b: Builder) -> list[str]:
    """Convolutions that read planes of colours."""
    return [joined(b, b.conv("x", 3, 20, 3, stride=2, act="silu"), b.conv("x", 3, 7, 5, stride=2, act="relu"))]


def fire(b: Builder) -> list[str]:
    x = b.conv("x", 3, 8, act="relu")
    return [b.conv(joined(b, b.conv(x, 8, 24, act="relu"), b.conv(x, 8, 40, 3, act="silu")), 64, 9)]


def dense(b: Builder) -> list[str]:
    """Every layer sees all before it: what has been joined moves again and again."""
    x = b.conv("x", 3, 20)  # more than a vector has lanes: kernels that take a row as one vector have no gaps
    for at in range(4):
        y = b.conv(b.act(b.norm(x, 20 + 8 * at), "relu"), 20 + 8 * at, 20, act="relu")
        x = joined(b, x, b.conv(y, 20, 8, 3))
    return [b.conv(x, 52, 7)]


def dense_apart(b: Builder) -> list[str]:
    """The same with a Concat of all parts each time, of which convolutions read the beginning without gaps."""
    parts = [b.conv("x", 3, 16)]
    for at in range(3):
        x = joined(b, *parts) if at else parts[0]
        parts.append(b.conv(x, 16 + 8 * at, 8, 3, act="relu"))
    return [b.conv(joined(b, *parts), 40, 7)]


def halves(b: Builder) -> list[str]:
    """Halves of one result are neighbours again; convolutions of windows want the second one without gaps."""
    one, two = b.add("Split", b.conv("x", 3, 32, act="silu"), b.ints(16, 16), outputs=2, axis=1)
    three = b.add("Add", two, b.conv(two, 16, 16, 3, act="silu"))
    return [b.conv(joined(b, one, two, three), 48, 8), b.conv(joined(b, depthwise(b, one, 16), two), 32, 8)]


def skipped(b: Builder) -> list[str]:
    """What was pooled before it is joined: the pool reads it with gaps."""
    x = b.conv("x", 3, 16, 3, act="relu")
    y = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = b.add("Resize", b.conv(y, 16, 16), "", "", b.ints(1, 16, 10, 32), mode="nearest")
    return [b.conv(joined(b, b.conv(y, 16, 16, act="relu"), x), 32, 8, 3)]


def sums(b: Builder) -> list[str]:
    """Sums, products by constants and means read with gaps."""
    x, y = b.conv("x", 3, 16), b.conv("x", 3, 16, 3)
    z = b.add("Add", b.add("Mul", x, b.random(16, 1, 1)), b.add("Sub", x, y))
    return [joined(b, x, y), b.conv(z, 16, 4), b.add("GlobalAveragePool", x)]


def twice(b: Builder) -> list[str]:
    """One value in two places, and in two results."""
    x = b.conv("x", 3, 16)
    return [joined(b, x, x, depthwise(b, x, 16)), joined(b, x, b.conv(x, 16, 16))]


def given(b: Builder) -> list[str]:
    """The network's input, a constant and an output cannot move."""
    y = b.conv("x", 3, 24)
    return [joined(b, "x", y), y, joined(b, y, b.constant(np.ones((1, 2, 10, 32))))]


def whole(b: Builder) -> list[str]:
    """The first output is written where the caller wants it."""
    x = b.conv("x", 3, 16)
    return [joined(b, depthwise(b, x, 16), b.conv(x, 16, 16))]


def half_twice(b: Builder) -> list[str]:
    """What has been copied from a buffer reads it where it was."""
    one, two = b.add("Split", b.conv("x", 3, 32, act="relu"), b.ints(16, 16), outputs=2, axis=1)
    return [joined(b, one, one, two), joined(b, b.conv(one, 16, 16), b.conv(two, 16, 16))]


def channels_first(b: Builder) -> list[str]:
    """What has been joined of the input lies as the input does: its rows are as long as its pixels would be."""
    return [joined(b, b.conv("x", 3, 16), joined(b, "x", "x", "x", "x"))]


def one_channel(b: Builder) -> list[str]:
    """Beside others: where its second channel would be, its array does not say."""
    x, y, z = b.conv("x", 3, 1), b.conv("x", 3, 4), b.conv("x", 3, 8, act="relu")
    return [joined(b, joined(b, z, x, y), joined(b, x, y, z))]


def within(b: Builder) -> list[str]:
    """An operand of a Concat again beside it, before it and after it."""
    x, y = b.conv("x", 3, 8), b.conv("x", 3, 8)
    return [joined(b, y, joined(b, x, y)), joined(b, joined(b, y, x), y)]


def reshaped(b: Builder) -> list[str]:
    """Channels and pixels as one axis: no gaps in there."""
    x = b.conv("x", 3, 16)
    y = b.add("Reshape", b.add("Transpose", x, perm=[0, 2, 3, 1]), b.ints(1, -1))
    return [joined(b, x, b.conv(x, 16, 16)), b.add("Mul", y, b.constant(2.0))]


#: What is built, and what is said of its Concats.
GRAPHS: dict[str, tuple[Callable[[Builder], list[str]], list[str]]] = {
    "branches": (branches, ["view"]),
    "pictures": (pictures, ["view"]),
    "fire": (fire, ["view"]),
    "dense": (dense, ["view"] * 4),
    "dense, apart": (dense_apart, ["copy"] * 3),
    "halves": (halves, ["copy", "copy"]),
    "skipped": (skipped, ["view"]),
    "sums": (sums, ["view"]),
    "twice": (twice, ["copy", "copy"]),
    "given": (given, ["copy", "numpy"]),
    "whole": (whole, ["view"]),
    "half twice": (half_twice, ["copy", "view"]),
    "channels first": (channels_first, ["copy", "copy"]),
    "one channel": (one_channel, ["view", "copy", "copy"]),
    "within": (within, ["view", "copy", "copy", "copy"]),
    "reshaped": (reshaped, ["copy"]),
}


def copied(planner: Planner, names: Sequence[str], out: Symbol) -> bool:
    """In place of `joining.join`."""
    start = 0
    for name in names:
        each = planner.operands[name]
        assert isinstance(each, Symbol)
        channels = each.array.shape[1]
        planner.move(each, each.array, out, out.array[:, start : start + channels])
        start += channels
    return False


def results(content: bytes, x: np.ndarray, threads: int, **options: str) -> list[np.ndarray]:
    made = dwcpu.load_onnx(content, threads=threads)(x, **options)
    return list(made) if isinstance(made, tuple) else [made]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_bits_as_with_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, expected = GRAPHS[name]
    b = Builder(3)
    batch = 1 if name in ("given", "skipped", "reshaped") else 2
    content = b.model(name, build(b), x_shape=(batch, 3, 10, 32))
    x = np.random.default_rng(0).standard_normal((batch, 3, 10, 32)).astype(np.float32)
    model = agree(content, {"x": x})
    rows = {row.name: row.kernel for row in model.explain(x.shape).rows}
    assert [kernel for row, kernel in rows.items() if row.startswith("Concat")] == expected
    found = [results(content, x, threads) for threads in (1, 2, 3)]
    turned = results(content, np.ascontiguousarray(x.transpose(0, 2, 3, 1)), 1, layout="NHWC")
    monkeypatch.setattr(moves, "join", copied)
    right = results(content, x, 1)
    for each in found:
        assert [one.tobytes() for one in each] == [one.tobytes() for one in right]
    for one, other in zip(turned, right, strict=True):
        np.testing.assert_array_equal(one if one.ndim != 4 else one.transpose(0, 3, 1, 2), other)


def test_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder(4)
    x = b.conv("x", 4, 16, axes=1, act="relu")
    y = b.conv(x, 16, 16, 3, groups=16, axes=1)
    content = b.model("signal", [b.conv(joined(b, y, b.conv(x, 16, 8, axes=1), x), 40, 5, axes=1)], x_shape=(2, 4, 30))
    given = np.random.default_rng(1).standard_normal((2, 4, 30)).astype(np.float32)
    model = agree(content, {"x": given})
    assert [row.kernel for row in model.explain(given.shape).rows if row.name.startswith("Concat")] == ["view"]
    [found] = results(content, given, 2)
    monkeypatch.setattr(moves, "join", copied)
    assert found.tobytes() == results(content, given, 1)[0].tobytes()


def test_pixels_a_page_apart_are_copied_for_kernels_that_read_them() -> None:
    """They share sets of the cache: depthwise windows would take up to three times as long."""
    kinds = []
    for outputs in (960, 961):
        b = Builder(5)
        x = b.conv("x", 3, 64)
        content = b.model("page", [joined(b, x, b.conv(depthwise(b, x, 64), 64, outputs))], x_shape=(1, 3, 6, 6))
        rows = dwcpu.load_onnx(content).explain((1, 3, 6, 6)).rows
        kinds += [row.kernel for row in rows if row.name.startswith("Concat")]
    assert kinds == ["copy", "view"]


@pytest.mark.parametrize("residual", [False, True])
def test_kernels_that_become_others_while_a_plan_is_made(residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do when the compiler is done, and one for an activation before that without: a layer is asked once."""
    b = Builder(6)
    y = depthwise(b, str(b.add("Slice", "x", b.ints(0), b.ints(3), b.ints(1))), 3)
    if residual:  # of another shape: it is added afterwards
        y = b.add("Add", y, b.add("GlobalAveragePool", b.conv("x", 8, 3)))
    content = b.model("changing", [b.act(y, "silu")], x_shape=(1, 8, 10, 12))
    x = np.random.default_rng(2).standard_normal((1, 10, 12, 8)).astype(np.float32)
    right = results(content, x, 1, layout="NHWC")
    asked: list[layers.Layer] = []
    nodes = layers.Layer.nodes

    def changing(self: layers.Layer, *args: Any) -> Any:
        found = nodes(self, *args)
        if isinstance(self, layers.DepthwiseConv2d):
            operation: Any = copy(found[0].operation)
            if self in asked or "activation" not in repr(self):
                operation.placed = lambda *_: None
            asked.append(self)
            return [found[0]._replace(operation=operation)]
        return found

    monkeypatch.setattr(layers.Layer, "nodes", changing)
    for one, other in zip(results(content, x, 1, layout="NHWC"), right, strict=True):
        assert one.tobytes() == other.tobytes()
    assert asked


def test_long_rows_of_concats_are_joined_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning would take the square of their number otherwise."""
    monkeypatch.setattr(joining, "_MOST_STEPS", 20)
    b = Builder(7)
    y = b.conv("x", 3, 4)
    for channels in range(4, 64):
        y = joined(b, y, b.conv(y, channels, 1))
    content = b.model("long", [y], x_shape=(1, 3, 2, 3))
    x = np.random.default_rng(3).standard_normal((1, 3, 2, 3)).astype(np.float32)
    rows = dwcpu.load_onnx(content).explain(x.shape).rows
    kinds = [row.kernel for row in rows if row.name.startswith("Concat")]
    assert 15 <= kinds.count("view") < len(kinds)
    [found] = results(content, x, 2)
    monkeypatch.setattr(moves, "join", copied)
    assert found.tobytes() == results(content, x, 1)[0].tobytes()
