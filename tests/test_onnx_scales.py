"""The pass that moves products with one number to where they cost less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_passes import ints, node, number, operators, random, simplified

X = random(2, 5, 12)
CONSTANTS: dict[str, Any] = {
    "wq": random(12, 12), "bq": random(12), "wk": random(12, 12), "heads": ints(2, 5, 3, 4), "s": number(0.5),
    "two": number(2.0), "mask": random(5, 5),
}  # fmt: skip


def attention(
    scale: str = "Mul", factor: str = "s", *, after: str = "Softmax", masked: bool = False, turned: bool = False
) -> list[Any]:
    """Scores of three heads, from queries and keys of their own."""
    pair = [factor, "p"] if turned else ["p", factor]
    nodes = [
        node("MatMul", ["x", "wq"], ["q0"]), node("Add", ["bq", "q0"], ["q1"]),
        node("Reshape", ["q1", "heads"], ["q2"]), node("Transpose", ["q2"], ["q"], perm=[0, 2, 1, 3]),
        node("MatMul", ["x", "wk"], ["k0"]),
        node("Reshape", ["k0", "heads"], ["k1"]), node("Transpose", ["k1"], ["k"], perm=[0, 2, 3, 1]),
        node("MatMul", ["q", "k"], ["p"]), node(scale, pair, ["r"]),
    ]  # fmt: skip
    nodes += [node("Add", ["r", "mask"], ["m"])] if masked else []
    return [*nodes, node(after, ["m" if masked else "r"], ["y"])]


def left(nodes: list[Any], outputs: tuple[str, ...] = ("y",), **more: Any) -> list[str]:
    return operators(simplified(nodes, CONSTANTS | more, outputs, feeds={"x": X}))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("scale", "factor", "turned"), [("Mul", "s", False), ("Mul", "s", True), ("Div", "two", False)]
)
def test_scores_are_scaled_by_the_weights_of_their_queries(scale, factor, turned, masked) -> None:
    found = left(attention(scale, factor, turned=turned, masked=masked))
    assert "Mul" not in found
    assert "Div" not in found
    assert found.count("MatMul") == 3


def test_queries_without_weights_are_scaled_themselves() -> None:
    nodes = [
        node("Split", ["x", "parts"], ["q", "k"], axis=2), node("Transpose", ["k"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["q", "t"], ["p"]), node("Mul", ["p", "s"], ["r"]), node("Softmax", ["r"], ["y"]),
    ]  # fmt: skip
    assert left(nodes, parts=ints(6, 6)) == ["Split", "Transpose", "Mul", "MatMul", "Softmax"]


def test_scales_go_through_views_into_weights() -> None:
    nodes = [*attention()[:4], node("Mul", ["q", "s"], ["r"]), node("Sin", ["r"], ["y"])]
    assert left(nodes) == ["MatMul", "Reshape", "Transpose", "Sin"]


@pytest.mark.parametrize(
    "nodes",
    [
        attention(factor="two"),  # larger numbers
        attention(after="Relu"),  # who knows which is smaller
        [*attention(), node("Neg", ["p"], ["z"])],
        [*attention(), node("Neg", ["r"], ["z"])],
        attention("Div", "s"),
        attention(factor="wide"),
    ],
)
def test_others_stay(nodes) -> None:
    outputs = ("y", "z") if nodes[-1].output[0] == "z" else ("y",)
    found = left(nodes, outputs, wide=number(0.5, 1, 1, 1, 1))
    assert ("Mul" in found) + ("Div" in found) == 1
    assert found.index("Mul" if "Mul" in found else "Div") > [at for at, op in enumerate(found) if op == "MatMul"][-1]


def test_float16_stays() -> None:
    nodes = [*attention()[:4], node("Mul", ["q", "s"], ["r"]), node("Sin", ["r"], ["y"])]
    constants = {key: each.astype(np.float16) if each.dtype == np.float32 else each for key, each in CONSTANTS.items()}
    made = simplified(nodes, constants, ["y"], feeds={"x": X.astype(np.float16)}, rounding=2e-2)
    assert operators(made)[-2:] == ["Mul", "Sin"]
