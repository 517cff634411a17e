"""The pass that recognises normalisations which an exporter has written out."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_passes import ints, node, number, operators, random, simplified


def written_out(
    axis: int, *, square: str = "Pow", read: bool = False, scale: tuple[int, ...] = (8,)
) -> tuple[list[Any], dict[str, Any]]:
    nodes = [
        node("ReduceMean", ["x", "axis"], ["m"]), node("Sub", ["x", "m"], ["c"]),
        node("Pow", ["c", "two"], ["q"]) if square == "Pow" else node("Mul", ["c", "c"], ["q"]),
        node("ReduceMean", ["q", "axis"], ["v"]), node("Add", ["v", "e"], ["w"]), node("Sqrt", ["w"], ["r"]),
        node("Div", ["c", "r"], ["n"]), node("Mul", ["n", "s"], ["t"]), node("Add", ["t", "b"], ["y"]),
    ]  # fmt: skip
    nodes += [node("Neg", ["n"], ["z"])] if read else []
    constants = {
        "axis": ints(axis),
        "two": number(2),
        "e": number(1e-5),
        "s": random(*scale),
        "b": random(*scale, seed=2),
    }
    return nodes, constants


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_layer_normalisations_that_are_written_out_become_one_node(square) -> None:
    for shape in ((2, 5, 8), (3, 8), (2, 4, 3, 8)):
        nodes, constants = written_out(-1, square=square)
        assert operators(simplified(nodes, constants, feeds={"x": random(*shape)})) == ["LayerNormalization"]


def of_channels(
    axes: int = 4, *, axis: int = 1, scale: tuple[int, ...] = (8, 1, 1), bias: tuple[int, ...] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """The same over the channels of what a convolution gives."""
    nodes, constants = written_out(axis, scale=scale)
    nodes = [node("Conv", ["u", "k"], ["x"]), *nodes]
    constants |= {"k": random(8, 4, *(1,) * (axes - 2)), "b": random(*(bias or scale), seed=2)}
    return nodes, constants


@pytest.mark.parametrize(
    ("shape", "scale", "bias"),
    [
        ((2, 4, 5, 3), (8, 1, 1), None), ((1, 4, 5, 3), (1, 8, 1, 1), (8, 1, 1)), ((2, 4, 9), (8, 1), (1, 8, 1)),
        ((2, 4, 3, 5, 2), (1, 8, 1, 1, 1), None),
    ],
)  # fmt: skip
def test_normalisations_of_channels_become_one_node(shape, scale, bias) -> None:
    nodes, constants = of_channels(len(shape), scale=scale, bias=bias)
    made = operators(simplified(nodes, constants, feeds={"u": random(*shape)}))
    assert made == ["Conv", "Transpose", "LayerNormalization", "Transpose"]


def test_what_is_only_near_a_normalisation_of_channels_is_left_as_it_is() -> None:
    feeds = {"u": random(2, 4, 8, 8)}
    for options in ({"axis": 2}, {"scale": (8, 1)}, {"scale": (8, 1, 8)}, {"bias": (8, 8, 1)}, {"scale": (1, 1, 1)}):
        nodes, constants = of_channels(**options)
        assert "LayerNormalization" not in operators(simplified(nodes, constants, feeds=feeds)), options
    nodes, constants = of_channels()  # of whose channels nothing is known
    feeds = {"x": random(2, 8, 3, 3)}
    assert "LayerNormalization" not in operators(simplified(nodes[1:], constants, feeds=feeds))


def test_what_is_only_near_a_layer_normalisation_is_left_as_it_is() -> None:
    x = {"x": random(2, 8, 8)}
    for nodes, constants in (written_out(1), written_out(-1, scale=(8, 1)), written_out(0)):
        assert "LayerNormalization" not in operators(simplified(nodes, constants, feeds=x))
    nodes, constants = written_out(-1)
    nodes[2] = node("Mul", ["c", "x"], ["q"])  # whose mean is the variance too
    assert "LayerNormalization" not in operators(simplified(nodes, constants, feeds=x))
    nodes, constants = written_out(-1)
    nodes[1] = node("Sub", ["m", "x"], ["c"])
    assert "LayerNormalization" not in operators(simplified(nodes, constants, feeds=x))
    nodes, constants = written_out(-1, read=True)
    simplified(nodes, constants, ["y", "z"], feeds=x)


def in_groups(read: str = "", after: str = "n", shape: str = "same") -> tuple[list[Any], dict[str, Any]]:
    """GroupNorm as it is exported, maybe with a value that something else reads, too."""
    nodes = [
        node("Shape", ["x"], ["size"]), node("Reshape", ["x", "apart"], ["a"]),
        node("InstanceNormalization", ["a", "one", "zero"], ["n"], epsilon=1e-4),
        node("Reshape", [after, "size" if shape == "same" else "flat"], ["r"]), node("Mul", ["r", "s"], ["m"]),
        node("Add", ["b", "m"], ["y"]),
    ]  # fmt: skip
    nodes += [node("Neg", [read], ["z"])] if read else []
    constants = {
        "apart": ints(0, 2, -1), "flat": ints(0, -1), "one": random(2), "zero": random(2, seed=1),
        "s": random(8, 1, 1) if shape == "same" else number(2), "b": random(8, 1, 1) if shape == "same" else number(3),
    }  # fmt: skip
    return nodes, constants


def test_groups_whose_normalisation_is_written_out_become_one_node() -> None:
    for shape in ((2, 8, 3, 5), (1, 8, 40, 9)):
        nodes, constants = in_groups()
        assert operators(simplified(nodes, constants, feeds={"x": random(*shape)})) == ["Shape", "GroupNorm"]
    nodes, constants = in_groups(shape="flat")  # as many numbers, but not where they were
    simplified(nodes, constants, feeds={"x": random(2, 8, 3, 5)})
    for read, left in (("a", 7), ("n", 7), ("r", 5), ("m", 4)):
        nodes, constants = in_groups(read)
        made = simplified(nodes, constants, ["y", "z"], feeds={"x": random(2, 8, 3, 5)})
        assert len(made) == left, read
    nodes, constants = in_groups(after="x")  # nothing comes of the normalisation
    assert "GroupNorm" not in operators(simplified(nodes, constants, feeds={"x": random(2, 8, 3, 5)}))


def test_a_scale_wider_than_the_axis_that_is_normalised_widens_it() -> None:
    nodes, constants = written_out(-1)
    simplified(nodes, constants, feeds={"x": random(2, 5, 1)})
