"""The pass that has nodes computed once which compute the same."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_passes import ints, node, operators, random, simplified


def twice(**second: Any) -> list[Any]:
    """Two pools and what becomes of them; `second`: other attributes of one."""
    options = {"kernel_shape": [2, 2], "strides": [2, 2]}
    return [
        node("MaxPool", ["x"], ["a"], **options), node("Neg", ["a"], ["b"]),
        node("MaxPool", ["x"], ["c"], **options | second), node("Neg", ["c"], ["d"]),
        node("Concat", ["b", "d"], ["y"], axis=1),
    ]  # fmt: skip


def test_twins_are_computed_once() -> None:
    assert operators(simplified(twice())) == ["MaxPool", "Neg", "Concat"]
    assert operators(simplified(twice(strides=[1, 1], pads=[0, 0, 0, 0])[:4], outputs=["b", "d"])) == [
        *("MaxPool", "Neg"),
        *("MaxPool", "Neg"),
    ]


def test_twins_that_are_outputs_stay() -> None:
    assert len(simplified(twice(), outputs=["y", "d", "b"])) == 4
    assert len(simplified(twice(), outputs=["y", "c"])) == 4


def test_others_with_the_same_inputs_are_no_twins() -> None:
    nodes = [
        node("Reshape", ["x", "s1"], ["a"]), node("Reshape", ["x", "s2"], ["b"]), node("Sub", ["x", "k"], ["c"]),
        node("Sub", ["k", "x"], ["d"]), node("Flatten", ["x"], ["e"], axis=1), node("Flatten", ["x"], ["f"], axis=2),
    ]  # fmt: skip
    constants = {"s1": ints(2, -1), "s2": ints(-1, 2), "k": random(1)}
    made = simplified(nodes, constants, outputs=list("abcdef"))
    assert len(made) == 6


def test_nodes_with_several_results_are_twins() -> None:
    nodes = [
        node("Split", ["x", "halves"], ["a", "b"], axis=1), node("Split", ["x", "halves"], ["c", "d"], axis=1),
        node("Add", ["a", "d"], ["e"]), node("Add", ["b", "c"], ["f"]),
    ]  # fmt: skip
    assert operators(simplified(nodes, {"halves": ints(3, 3)}, outputs=["e", "f"])) == ["Split", "Add", "Add"]
