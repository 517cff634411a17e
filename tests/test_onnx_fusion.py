"""Passes that fuse: residuals, chains, constants, normalisations; see test_onnx_passes for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu.graph.passes import PASSES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_passes import C, X, ints, node, norm, number, operators, positive, random, simplified, write  # noqa: E402

# --- residuals --------------------------------------------------------------------------------------------------------

W = {f"w{at}": random(C, C, 1, 1, seed=at) for at in range(4)}


def conv(source: str, result: str, weights: str = "w0") -> Any:
    return node("Conv", [source, weights], [result])


def residuals(nodes: Sequence[Any]) -> list[tuple[str, str]]:
    """What convolutions give, and what they add."""
    return [(each.outputs[0], each.input(3)) for each in nodes if each.op == "Conv"]


RESIDUALS: dict[str, tuple[list[Any], list[str], list[tuple[str, str]]]] = {
    "an input": ([conv("x", "c"), node("Add", ["c", "x"], ["y"])], ["y"], [("y", "x")]),
    "an input, first": ([conv("x", "c"), node("Add", ["x", "c"], ["y"])], ["y"], [("y", "x")]),
    "something made later": (
        [conv("x", "c"), node("Neg", ["x"], ["n"]), node("Add", ["c", "n"], ["y"])], ["y"], [("y", "n")],
    ),
    "another convolution": (
        [conv("x", "c"), conv("x", "d", "w1"), node("Add", ["c", "d"], ["y"])], ["y"], [("c", ""), ("y", "c")],
    ),
    "another convolution, the other way round": (
        [conv("x", "c"), conv("x", "d", "w1"), node("Add", ["d", "c"], ["y"])], ["y"], [("c", ""), ("y", "c")],
    ),
    "the convolution before it": (
        [conv("x", "c"), conv("c", "d", "w1"), node("Add", ["c", "d"], ["y"])], ["y"], [("c", ""), ("y", "c")],
    ),
    "two in a row": (
        [conv("x", "c"), node("Add", ["c", "x"], ["s"]), conv("s", "d", "w1"), node("Add", ["s", "d"], ["y"])],
        ["y"], [("s", "x"), ("y", "s")],
    ),
    "two sums": (
        [conv("x", "c"), node("Neg", ["x"], ["n"]), node("Add", ["c", "x"], ["s"]), node("Add", ["s", "n"], ["y"])],
        ["y"], [("s", "x")],
    ),
    "itself": ([conv("x", "c"), node("Add", ["c", "c"], ["y"])], ["y"], [("c", "")]),
    "what is an output": ([conv("x", "c"), node("Add", ["c", "x"], ["y"])], ["y", "c"], [("c", "")]),
    "what is read elsewhere": (
        [conv("x", "c"), node("Add", ["c", "x"], ["s"]), node("Mul", ["s", "c"], ["y"])], ["y"], [("c", "")],
    ),
    "a sum that is an output": (
        [conv("x", "c"), node("Add", ["c", "x"], ["s"]), node("Neg", ["s"], ["y"])], ["s", "y"], [("s", "x")],
    ),
    "a difference": ([conv("x", "c"), node("Sub", ["c", "x"], ["y"])], ["y"], [("c", "")]),
    "three summands": ([conv("x", "c"), node("Sum", ["c", "x", "x"], ["y"])], ["y"], [("c", "")]),
    "after an activation": (
        [conv("x", "c"), node("Relu", ["c"], ["r"]), node("Add", ["r", "x"], ["y"])], ["y"], [("r", "")],
    ),
    "one of two convolutions that others read": (
        [conv("x", "c"), conv("x", "d", "w1"), node("Add", ["c", "d"], ["s"]), node("Mul", ["s", "d"], ["y"])],
        ["y"], [("d", ""), ("s", "d")],
    ),
    "across a branch": (
        [conv("x", "c"), node("Relu", ["x"], ["r"]), conv("r", "d", "w1"), conv("d", "e", "w2"),
         node("Add", ["e", "c"], ["y"])],
        ["y"], [("c", ""), ("d", ""), ("y", "c")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RESIDUALS)
def test_sums_go_into_the_last_convolution_that_nobody_else_reads(what) -> None:
    nodes, outputs, wanted = RESIDUALS[what]
    made = simplified(nodes, W, outputs)
    if what == "another convolution" or what == "another convolution, the other way round":
        assert sorted(pair for pair in residuals(made)) == sorted(wanted)
    else:
        assert residuals(made) == wanted
    ready = {"x", *W}  # nodes stand in an order in which they can run
    for each in made:
        assert {name for name in each.inputs if name} <= ready
        ready |= set(each.outputs)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid"])
@pytest.mark.parametrize("first", [None, "Relu"])
def test_sums_and_activations_keep_their_order(activation, first) -> None:
    nodes = [conv("x", "c")] + ([node(first, ["c"], ["f"])] if first else [])
    nodes += [node("Add", [nodes[-1].output[0], "x"], ["s"]), node(activation, ["s"], ["y"])]
    made = simplified(nodes, W)
    if first is None:
        [only] = made
        assert (only.op, only.input(3), only.get("activation")) == ("Conv", "x", activation.lower())
    else:
        assert [(each.op, each.get("activation")) for each in made] == [("Conv", "relu"), ("Add", activation.lower())]


def test_a_normalisation_after_a_sum_stays_there() -> None:
    statistics = {"s": random(C), "b": random(C), "m": random(C), "v": positive(C)}
    made = simplified([conv("x", "c"), node("Add", ["c", "x"], ["a"]), norm("a")], {**W, **statistics})
    assert operators(made) == ["Conv", "Affine"]
    made = simplified([conv("x", "c"), norm("c", "a"), node("Add", ["a", "x"], ["y"])], {**W, **statistics})
    assert operators(made) == ["Conv"]


def test_sums_of_products_are_no_residuals() -> None:
    feeds = {"x": random(4, 8), "r": random(4, 8)}
    constants = {"w": random(8, 8)}
    for op in ("MatMul", "Gemm"):
        made = simplified([node(op, ["x", "w"], ["c"]), node("Add", ["c", "r"], ["y"])], constants, feeds=feeds)
        assert operators(made) == [op, "Add"]


# --- chains -----------------------------------------------------------------------------------------------------------

PARTS = {
    "p": random(12, C, 1, 1), "d": random(12, 1, 3, 3), "q": random(C, 12, 1, 1), "pb": random(12),
    "db": random(12, seed=2),
    "qb": random(C), "d6": random(C, 1, 3, 3), "m": random(24, 1, 3, 3), "q24": random(C, 24, 1, 1),
    "g": random(C, C, 1, 1), "half": random(C, 6, 1, 1), "three": random(C, 12, 3, 3),
}  # fmt: skip


def depthwise(source: str, result: str, weights: str = "d", groups: int = 12, **options: Any) -> Any:
    options = options if "auto_pad" in options else {"pads": [1] * 4, **options}
    return node("Conv", [source, weights], [result], group=groups, **options)


def pointwise(source: str, result: str, weights: str = "q", **options: Any) -> Any:
    return node("Conv", [source, weights], [result], **options)


WIDE = random(2, 12, 6, 5)
CHAINS: dict[str, tuple[list[Any], list[str], list[str]]] = {
    "depthwise, pointwise": ([depthwise("x", "a"), pointwise("a", "y")], ["y"], ["Separable"]),
    "with a stride and a dilation": (
        [depthwise("x", "a", strides=[2, 1], dilations=[1, 2]), pointwise("a", "y")], ["y"], ["Separable"],
    ),
    "with uneven padding": ([depthwise("x", "a", pads=[0, 1, 2, 0]), pointwise("a", "y")], ["y"], ["Separable"]),
    "padded by a rule": (
        [depthwise("x", "a", auto_pad="SAME_UPPER", strides=[2, 2]), pointwise("a", "y")], ["y"], ["Separable"],
    ),
    "with activations": (
        [depthwise("x", "a"), node("Relu", ["a"], ["b"]), pointwise("b", "c"), node("HardSwish", ["c"], ["y"])],
        ["y"], ["Separable"],
    ),
    "with a residual": (
        [depthwise("x", "a"), pointwise("a", "b", "p12"), node("Add", ["b", "x"], ["y"])], ["y"], ["Separable"],
    ),
    "with a residual and an activation": (
        [depthwise("x", "a"), pointwise("a", "b", "p12"), node("Add", ["x", "b"], ["c"]), node("Relu", ["c"], ["y"])],
        ["y"], ["Separable"],
    ),
    "more channels than there were": ([depthwise("x", "a", "m"), pointwise("a", "y", "q24")], ["y"], ["Separable"]),
    "depthwise read twice": (
        [depthwise("x", "a"), pointwise("a", "b"), node("Neg", ["a"], ["z"])], ["b", "z"], ["Conv", "Conv", "Neg"],
    ),
    "depthwise is an output": ([depthwise("x", "a"), pointwise("a", "y")], ["y", "a"], ["Conv", "Conv"]),
    "its activation is an output": (
        [depthwise("x", "a"), node("Relu", ["a"], ["b"]), pointwise("b", "y")], ["y", "b"], ["Conv", "Conv"],
    ),
    "depthwise is added": (
        [depthwise("x", "a"), pointwise("a", "b", "p12"), node("Add", ["b", "a"], ["y"])], ["y"], ["Conv", "Conv"],
    ),
    "pointwise with a stride": ([depthwise("x", "a"), pointwise("a", "y", strides=[2, 2])], ["y"], ["Conv", "Conv"]),
    "pointwise with padding": ([depthwise("x", "a"), pointwise("a", "y", pads=[1] * 4)], ["y"], ["Conv", "Conv"]),
    "pointwise in groups": ([depthwise("x", "a"), pointwise("a", "y", "half", group=2)], ["y"], ["Conv", "Conv"]),
    "of nine taps": ([depthwise("x", "a"), pointwise("a", "y", "three")], ["y"], ["Conv", "Conv"]),
    "something between": (
        [depthwise("x", "a"), node("Tanh", ["a"], ["b"]), pointwise("b", "y")], ["y"], ["Conv", "Tanh", "Conv"],
    ),
    "two in a row": (
        [depthwise("x", "a"), pointwise("a", "b"), node("Relu", ["b"], ["c"]), depthwise("c", "e", "d6", 6),
         pointwise("e", "y", "g")],
        ["y"], ["Separable", "Separable"],
    ),
    "pointwise, depthwise, pointwise": (
        [pointwise("x", "a", "p12"), depthwise("a", "b"), pointwise("b", "y")], ["y"], ["InvertedResidual"],
    ),
    "all three with activations": (
        [pointwise("x", "a", "p12"), node("Relu", ["a"], ["a2"]), depthwise("a2", "b", strides=[2, 2]),
         node("Clip", ["b", "0", "6"], ["b2"]), pointwise("b2", "y")],
        ["y"], ["InvertedResidual"],
    ),
    "all three with a residual": (
        [pointwise("x", "a", "p12"), node("HardSwish", ["a"], ["a2"]), depthwise("a2", "b"), pointwise("b", "c", "p12"),
         node("Add", ["c", "x"], ["y"])],
        ["y"], ["InvertedResidual"],
    ),
    "all three, dilated": (
        [pointwise("x", "a", "p12"), depthwise("a", "b", dilations=[2, 2], pads=[2] * 4), pointwise("b", "y")],
        ["y"], ["InvertedResidual"],
    ),
    "all three and an activation": (
        [pointwise("x", "a", "p12"), depthwise("a", "b"), pointwise("b", "c"), node("Relu", ["c"], ["y"])],
        ["y"], ["Conv", "Separable"],
    ),
    "the first read twice": (
        [pointwise("x", "a", "p12"), depthwise("a", "b"), pointwise("b", "y"), node("Neg", ["a"], ["z"])],
        ["y", "z"], ["Conv", "Separable", "Neg"],
    ),
    "the first is an output": (
        [pointwise("x", "a", "p12"), depthwise("a", "b"), pointwise("b", "y")], ["y", "a"], ["Conv", "Separable"],
    ),
    "the first is added": (
        [pointwise("x", "a", "p12"), depthwise("a", "b"), pointwise("b", "c", "p12"), node("Add", ["c", "a"], ["y"])],
        ["y"], ["Conv", "Separable"],
    ),
    "the first adds": (
        [pointwise("x", "e", "p12"), node("Add", ["e", "x"], ["a"]), depthwise("a", "b"), pointwise("b", "y")],
        ["y"], ["Conv", "Separable"],
    ),
    "a residual that is broadcast": (
        [pointwise("x", "a", "p12"), depthwise("a", "b"), pointwise("b", "c", "p12"),
         node("GlobalMaxPool", ["x"], ["z"]), node("Add", ["c", "z"], ["y"])],
        ["y"], ["GlobalMaxPool", "InvertedResidual"],
    ),
    "a residual that is broadcast, and an activation": (
        [depthwise("x", "b"), pointwise("b", "c", "p12"), node("GlobalMaxPool", ["x"], ["z"]),
         node("Add", ["c", "z"], ["e"]), node("Relu", ["e"], ["y"])],
        ["y"], ["GlobalMaxPool", "Separable"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHAINS)
def test_convolutions_in_a_row_become_one_only_where_values_between_them_are_read_once(what) -> None:
    nodes, outputs, wanted = CHAINS[what]
    constants = {**PARTS, "p12": random(12, 12, 1, 1), "0": number(0), "6": number(6)}
    assert operators(simplified(nodes, constants, outputs, feeds={"x": WIDE}, rounding=5e-5)) == wanted


def test_biases_and_activations_of_chains_stay_with_their_convolutions() -> None:
    nodes = [
        node("Conv", ["x", "p", "pb"], ["a"]), node("Relu", ["a"], ["a2"]),
        node("Conv", ["a2", "d", "db"], ["b"], group=12, pads=[1] * 4), node("HardSwish", ["b"], ["b2"]),
        node("Conv", ["b2", "q", "qb"], ["c"]), node("Add", ["c", "x"], ["y"]),
    ]  # fmt: skip
    [made] = simplified(nodes, PARTS, rounding=5e-5)
    assert made.op == "InvertedResidual"
    assert [part.get("activation") for part in made.get("parts")] == ["relu", "hardswish", None]
    assert made.inputs[1:] == ["p", "pb", "d", "db", "q", "qb", "x"]


def test_chains_of_signals_and_of_float64() -> None:
    w = {"d": random(12, 1, 3), "q": random(C, 12, 1)}
    nodes = [
        node("Conv", ["x", "d"], ["a"], group=12, pads=[1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "q"], ["y"]),
    ]
    assert operators(simplified(nodes, w, feeds={"x": WIDE[:, :, 0]})) == ["Separable"]
    nodes = [depthwise("x", "a"), node("Relu", ["a"], ["b"]), pointwise("b", "y")]
    feeds, constants = {"x": WIDE.astype(np.float64)}, {key: array.astype(np.float64) for key, array in PARTS.items()}
    content = write(nodes, feeds, constants, ["y"], 18)
    [wanted] = ReferenceEvaluator(content).run(None, feeds)
    for without in ((), ("chains",), tuple(PASSES)):
        np.testing.assert_allclose(
            dwcpu.load_onnx(content, without=without)(feeds), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max()
        )


def test_chains_of_volumes_stay_as_they_are() -> None:
    w = {"d": random(C, 1, 3, 3, 3), "q": random(4, C, 1, 1, 1)}
    nodes = [node("Conv", ["x", "d"], ["a"], group=C, pads=[1] * 6), node("Conv", ["a", "q"], ["y"])]
    assert operators(simplified(nodes, w, feeds={"x": random(1, C, 4, 5, 3)})) == ["Conv", "Conv"]


def test_weights_that_are_no_constants_are_in_no_chain() -> None:
    feeds = {"x": WIDE, "q": PARTS["q"]}
    constants = {"d": PARTS["d"]}
    made = simplified([depthwise("x", "a"), pointwise("a", "b"), node("Relu", ["b"], ["y"])], constants, feeds=feeds)
    assert operators(made) == ["Conv", "Conv", "Activation"]


# --- gates ------------------------------------------------------------------------------------------------------------

#: Nodes, what is left of them, and the functions of the last.
GATES: dict[str, tuple[list[Any], list[str], list[str], list[str | None] | None]] = {
    "both": (
        [node("Tanh", ["x"], ["a"]), node("Sigmoid", ["x"], ["b"]), node("Mul", ["a", "b"], ["y"])], ["y"], ["Mul"],
        ["Tanh", "Activation"],
    ),
    "one, and an activation after it": (
        [node("Neg", ["x"], ["a"]), node("Elu", ["x"], ["b"]), node("Sub", ["a", "b"], ["c"]),
         node("Relu", ["c"], ["y"])],
        ["y"], ["Neg", "Sub"], [None, "Elu"],
    ),
    "what others read": (
        [node("Tanh", ["x"], ["a"]), node("Mul", ["a", "x"], ["b"]), node("Add", ["a", "b"], ["y"])], ["y"],
        ["Tanh", "Mul", "Add"], None,
    ),
    "an output": ([node("Tanh", ["x"], ["a"]), node("Mul", ["a", "x"], ["y"])], ["y", "a"], ["Tanh", "Mul"], None),
    "twice the same": ([node("Tanh", ["x"], ["a"]), node("Mul", ["a", "a"], ["y"])], ["y"], ["Tanh", "Mul"], None),
    "times a constant": ([node("Tanh", ["x"], ["a"]), node("Mul", ["a", "k"], ["y"])], ["y"], ["Tanh", "Mul"], None),
    "broadcast": (
        [node("GlobalMaxPool", ["x"], ["a"]), node("Mish", ["a"], ["b"]), node("Erf", ["x"], ["c"]),
         node("Max", ["b", "c"], ["y"])],
        ["y"], ["GlobalMaxPool", "Max"], ["Mish", "Erf"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GATES)
def test_functions_of_two_tensors_go_into_what_combines_them(what: str) -> None:
    nodes, outputs, wanted, before = GATES[what]
    made = simplified(nodes, {"k": random(C, 1, 1)}, outputs)
    assert operators(made) == wanted
    found = made[-1].get("before")
    assert (found and [each and each.op for each in found]) == before


# --- pads -------------------------------------------------------------------------------------------------------------


def pad(result: str, *amounts: int, source: str = "x", value: str = "", axes: str = "", mode: str = "constant") -> Any:
    """Of the axes of pixels, top, left, bottom, right, or of `axes`."""
    sides = (0, 0, *amounts[:2], 0, 0, *amounts[2:]) if len(amounts) == 4 and not axes else amounts
    return [
        node("Constant", [], [f"{result}_sides"], value_ints=list(sides)),
        node("Pad", [source, f"{result}_sides", value, axes], [result], mode=mode),
    ]


WINDOW = {"w": random(4, C, 3, 2), "one": random(4, C, 1, 1), "0": number(0), "7": number(7), "across": ints(-1, 1, 0)}
WINDOW |= {"d": random(C, 1, 3, 3), "wide": random(4, C, 3)}


def window(source: str = "a", weights: str = "w", result: str = "y", **attributes: Any) -> Any:
    return node("Conv", [source, weights], [result], **attributes)


#: Nodes, what is left of them, and the padding of the last.
PADS: dict[str, tuple[list[Any], list[str], list[int] | None]] = {
    "before a convolution": ([*pad("a", 0, 1, 2, 3), window()], ["Conv"], [0, 1, 2, 3]),
    "a zero that is written down": ([*pad("a", 1, 1, 1, 1, value="0"), window()], ["Conv"], [1] * 4),
    "and padding of its own": (
        [*pad("a", 0, 0, 1, 1), window(pads=[1, 2, 0, 0], strides=[2, 2])], ["Conv"], [1, 2, 1, 1],
    ),
    "two": ([*pad("a", 0, 1, 0, 1), *pad("b", 1, 0, 1, 0, source="a"), window("b")], ["Conv"], [1] * 4),
    "some axes": ([*pad("a", 2, 0, 0, 1, 0, 0, axes="across"), window()], ["Conv"], [0, 2, 0, 1]),
    "valid windows": ([*pad("a", 1, 0, 1, 1), window(auto_pad="VALID")], ["Conv"], [1, 0, 1, 1]),
    "a depthwise window": (
        [*pad("a", 0, 0, 1, 1), window(weights="d", group=C, strides=[2, 2])], ["Conv"], [0, 0, 1, 1],
    ),
    "read twice": (
        [*pad("a", 0, 0, 1, 1), window(result="b"), node("GlobalAveragePool", ["b"], ["c"]),
         node("GlobalMaxPool", ["a"], ["e"]), window("e", "one", "f"), node("Add", ["c", "f"], ["y"])],
        ["Pad", "Conv", "GlobalAveragePool", "GlobalMaxPool", "Conv"], None,
    ),
    "a mean of all": (
        [*pad("a", 1, 0, 1, 1), node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2])], ["AveragePool"], [1, 0, 1, 1],
    ),
    "a mean with padding that counts": (
        [*pad("a", 1, 0, 1, 1),
         node("AveragePool", ["a"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)],
        ["AveragePool"], [2, 1, 2, 2],
    ),
    "a mean with padding that does not count": (
        [*pad("a", 1, 0, 1, 1), node("AveragePool", ["a"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)],
        ["Pad", "AveragePool"], None,
    ),
    "a mean rounded up": (
        [*pad("a", 1, 0, 1, 1), node("AveragePool", ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)],
        ["Pad", "AveragePool"], None,
    ),
    "another number": ([*pad("a", 1, 1, 1, 1, value="7"), window()], ["Pad", "Conv"], None),
    "edges": ([*pad("a", 1, 1, 1, 1, mode="edge"), window()], ["Pad", "Conv"], None),
    "less than nothing": ([*pad("a", -1, 0, 1, 1), window()], ["Pad", "Conv"], None),
    "batch and channels": ([*pad("a", 1, 0, 0, 0, 0, 0, 1, 1), window()], ["Pad", "Conv"], None),
    "a window of one": ([*pad("a", 1, 1, 1, 1), window(weights="one")], ["Pad", "Conv"], None),
    "windows that are made to fit": ([*pad("a", 1, 1, 1, 1), window(auto_pad="SAME_UPPER")], ["Pad", "Conv"], None),
    "a maximum": (
        [*pad("a", 1, 1, 1, 1), node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2])], ["Pad", "MaxPool"], None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PADS)
def test_zeros_around_an_image_become_padding(what: str) -> None:
    nodes, wanted, padding = PADS[what]
    made = simplified(nodes, WINDOW)
    assert operators(made) == wanted
    assert padding is None or made[-1].get("pads") == padding


def test_zeros_before_a_signal_and_within_a_chain() -> None:
    before = [*pad("a", 0, 0, 2, 0, 0, 0), window(weights="wide", dilations=[1])]
    assert operators(simplified(before, WINDOW, feeds={"x": random(2, C, 9)})) == ["Conv"]
    nodes = [pointwise("x", "a", "p12"), *pad("b", 0, 0, 1, 1, source="a")]
    nodes += [node("Conv", ["b", "d"], ["c"], group=12, strides=[2, 2]), pointwise("c", "y")]
    [made] = simplified(nodes, {**PARTS, "p12": random(12, 12, 1, 1)}, feeds={"x": WIDE}, rounding=5e-5)
    assert made.op == "InvertedResidual"


# --- constants and normalisations -------------------------------------------------------------------------------------


def test_what_does_not_depend_on_inputs_is_computed_once() -> None:
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[1, 0, 2, 3]), node("Mul", ["t", "two"], ["u"]),
        node("Shape", ["w"], ["s"]),
        node("Cast", ["s"], ["f"], to=1), node("ReduceSum", ["f"], ["k"], keepdims=0), node("Conv", ["x", "u"], ["c"]),
        node("Identity", ["c"], ["i"]), node("Dropout", ["i"], ["d"]), node("Add", ["d", "k"], ["y"]),
    ]  # fmt: skip
    made = simplified(nodes, {"w": random(C, 8, 1, 1), "two": number(2)})
    assert operators(made) == ["Conv"]


def test_results_that_a_constant_node_does_not_have_are_refused() -> None:
    content = write([node("LeakyRelu", ["k"], ["y", "z"])], {}, {"k": random(3)}, ["y", "z"], 18)
    with pytest.raises(ValueError, match="2 results"):
        dwcpu.load_onnx(content)()


def test_copies_that_are_outputs_stay() -> None:
    made = simplified(
        [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["y"]), node("Neg", ["y"], ["z"])], {}, ["y", "z", "a"]
    )
    assert "Identity" in operators(made)
    assert operators(simplified([node("Identity", ["x"], ["y"])])) == ["Identity"]
    assert operators(simplified([node("Neg", ["k"], ["y"])], {"k": random(3)}, feeds={})) == []


@pytest.mark.parametrize("shape", [False, True])
def test_activations_go_through_views_into_what_comes_before(shape) -> None:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Reshape", ["c", "rows"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]), node("Relu", ["t"], ["y"]),
    ]  # fmt: skip
    constants, outputs = {"k": random(4, C, 1, 1), "rows": ints(0, 4, -1)}, ["y"]
    if shape:  # who asks for it does not read the numbers
        nodes += [node("Shape", [name], [f"{name}s"]) for name in ("c", "t")]
        outputs += ["cs", "ts"]
    made = simplified(nodes, constants, outputs)
    assert operators(made)[:3] == ["Conv", "Reshape", "Transpose"]
    assert [each.get("activation") for each in made[:3]] == ["relu", None, None]
    for read in ("c", "r", "t"):
        made = simplified([*nodes, node("Neg", [read], ["z"])], constants, [*outputs, "z"])
        assert [each.get("activation") for each in made if each.op == "Conv"] == [None]
        made = simplified(nodes, constants, [*outputs, read])
        assert [each.get("activation") for each in made if each.op == "Conv"] == [None]


def responses(
    *, last: bool = False, shift: bool = True, read: str = "", of: str = "x"
) -> tuple[list[Any], dict[str, Any]]:
    """x + (w x n + b), n being the length of each channel over their mean, as exporters write it."""
    axes = {"axes": ints(1, 2), "channels": ints(-1)} if last else {"axes": ints(2, 3), "channels": ints(1)}
    nodes = [
        node("ReduceL2", [of, "axes"], ["g"]), node("ReduceMean", ["g", "channels"], ["m"]),
        node("Add", ["m", "e"], ["d"]), node("Div", ["g", "d"], ["n"]), node("Mul", ["x", "n"], ["p"]),
        node("Mul", ["w", "p"], ["q"]), node("Add", ["b", "q"], ["s"]) if shift else node("Mul", ["two", "q"], ["s"]),
        node("Add", ["x", "s"], ["y"]),
    ]  # fmt: skip
    nodes += [node("Neg", [read], ["z"])] if read else []
    shape = (C,) if last else (1, C, 1, 1)
    return nodes, {**axes, "e": number(1e-6), "two": number(2), "w": random(*shape), "b": random(*shape, seed=2)}


@pytest.mark.parametrize("last", [False, True])
def test_responses_of_channels_scale_an_image_once(last) -> None:
    feeds = {"x": X.transpose(0, 2, 3, 1).copy() if last else X}
    small = ["ReduceL2", "ReduceMean", "Add", "Div", "Mul"]
    nodes, constants = responses(last=last)
    made = simplified(nodes, constants, feeds=feeds)
    assert operators(made) == [*small, "Add", "Mul", "Add"]
    assert made[-1].inputs[1] == "b"
    nodes, constants = responses(last=last, shift=False)
    assert operators(simplified(nodes, constants, feeds=feeds)) == [*small, "Mul", "Add", "Mul"]
    weights = {"k": random(C, 4) if last else random(4, C, 1, 1)}
    after = node("MatMul", ["y", "k"], ["v"]) if last else node("Conv", ["y", "k"], ["v"])
    nodes, constants = responses(last=last)
    assert operators(simplified([*nodes, after], constants | weights, ["v"], feeds=feeds))[-2:] == [
        "Add",
        after.op_type,
    ]


def test_what_is_only_near_a_response_is_left_as_it_is() -> None:
    for read in ("p", "q", "s"):
        nodes, constants = responses(read=read)
        assert len(simplified(nodes, constants, ["y", "z"])) == 9
    nodes, constants = responses(read="n")  # which is there anyway
    assert operators(simplified(nodes, constants, ["y", "z"]))[-4:] == ["Add", "Mul", "Add", "Neg"]
    nodes, constants = responses(of="u")  # of another image: it may be larger than x
    feeds = {"x": X[:, :, :1], "u": X}
    assert len(simplified(nodes, constants, feeds=feeds)) == 8
    nodes, constants = responses()
    constants["w"] = random(C, 5, 1)  # widens nothing here, but is no number for each channel
    simplified(nodes, constants)
    nodes[0] = node("ReduceL2", ["x", "axes"], ["g"], keepdims=0)
    constants["axes"], constants["channels"] = ints(0), ints(0)
    assert len(simplified(nodes, constants)) == 8
