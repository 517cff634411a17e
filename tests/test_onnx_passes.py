"""Passes: each recognises what its table says and nothing that is merely near it, and none changes results.

Every graph here is run as it is, with every pass left out alone, and with all of them left out; all of that has to
agree with onnxruntime. What the passes made of it is looked at in `Model.simplified`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu.graph.passes import PASSES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_passes import C, X, activations, expected, node, norm, number, operators, positive, random, simplified, write  # noqa: E402


def test_passes_are_known_by_name() -> None:
    content = write([node("Relu", ["x"], ["y"])], {"x": X}, {}, ["y"], 18)
    with pytest.raises(ValueError, match=r"there is no pass 'fusion'; passes are constants, .*; name some of these"):
        dwcpu.load_onnx(content, without=["fusion"])
    with pytest.raises(ValueError, match="there is no pass 'fusion'"):
        dwcpu.load_onnx(content, without="fusion")
    assert operators(dwcpu.load_onnx(content, without=PASSES).simplified.nodes) == ["Relu"]
    assert operators(dwcpu.load_onnx(content).graph.nodes) == ["Relu"]  # the graph itself stays as it was


# --- activations ------------------------------------------------------------------------------------------------------

ROOT = math.sqrt(2)
#: Constants by the names that patterns use.
NUMBERS = {
    "0": number(0), "1": number(1), "3": number(3), "6": number(6), "1/6": number(1 / 6), "1/2": number(0.5),
    "2": number(2), "root": number(ROOT), "1/root": number(1 / ROOT), "-1": number(-1), "0 of 1": number(0, 1),
    "3 of 1": number(3, 1), "6 of 1": number(6, 1), "3 of 4": number(3, 1, 1, 1, 1), "slope": number(0.2),
    "slope of 1": number(0.2, 1), "slope of 3": number(0.2, 1, 1, 1), "5.9": number(5.9), "2.9": number(2.9),
    "0.4": number(0.4), "1.5": number(1.5), "row": number(3, 4), "slopes": random(C, 1, 1), "inf": number(math.inf),
}  # fmt: skip


def spelled(text: str) -> list[Any]:
    """Nodes of lines ``result = Operator input, input attribute=value``, where semicolons end lines."""
    nodes = []
    for line in text.split(";"):
        result, _, call = line.strip().partition(" = ")
        operator, _, rest = call.partition(" ")
        words = rest.split(" @ ")
        inputs = [each.strip() for each in words[0].split(",")]
        attributes = dict(pair.split("=") for pair in words[1:])
        values = {key: value if value.isalpha() else float(value) for key, value in attributes.items()}
        nodes.append(node(operator, ["" if each == "_" else each for each in inputs], [result], **values))
    return nodes


CLIP = "a = Add x, 3; c = Clip a, 0, 6; "
ERF = "d = Div x, root; e = Erf d; s = Add e, 1; "
SPELLINGS: dict[str, list[Any]] = {
    "y = Relu x": ["relu"],
    "y = Clip x, 0": ["relu"],
    "y = Clip x, 0, inf": ["relu"],
    "y = Clip x, 0 of 1": ["relu"],
    "y = Max x, 0": ["relu"],
    "y = Max 0, x": ["relu"],
    "y = Clip x, 0, 6": ["relu6"],
    "y = Clip x, 0 of 1, 6 of 1": ["relu6"],
    "y = Clip x, -1, 2": [("clip", -1.0, 2.0)],
    "y = Clip x, _, 2": [("clip", -math.inf, 2.0)],
    "y = Clip x, -1": [("clip", -1.0, math.inf)],
    "y = Min x, 2": [("clip", -math.inf, 2.0)],
    "y = Min 2, x": [("clip", -math.inf, 2.0)],
    "y = Max x, -1": [("clip", -1.0, math.inf)],
    "y = LeakyRelu x @ alpha=0.2": [("leaky_relu", pytest.approx(0.2))],
    "y = LeakyRelu x": [("leaky_relu", pytest.approx(0.01))],
    "y = LeakyRelu x @ alpha=1.5": [("leaky_relu", 1.5)],
    "y = LeakyRelu x @ alpha=-0.5": [("leaky_relu", -0.5)],
    "y = PRelu x, slope": [("leaky_relu", pytest.approx(0.2))],
    "y = PRelu x, slope of 1": [("leaky_relu", pytest.approx(0.2))],
    "y = PRelu x, slope of 3": [("leaky_relu", pytest.approx(0.2))],
    "y = Sigmoid x": ["sigmoid"],
    f"y = HardSigmoid x @ alpha={1 / 6}": ["hardsigmoid"],
    "y = HardSigmoid x @ alpha=0.16666667 @ beta=0.5": ["hardsigmoid"],
    CLIP + "y = Div c, 6": ["hardsigmoid"],
    CLIP + "y = Mul c, 1/6": ["hardsigmoid"],
    CLIP + "y = Mul 1/6, c": ["hardsigmoid"],
    "a = Add 3, x; c = Clip a, 0, 6; y = Div c, 6": ["hardsigmoid"],
    "a = Add x, 3 of 1; c = Clip a, 0 of 1, 6 of 1; y = Div c, 6 of 1": ["hardsigmoid"],
    "y = HardSwish x": ["hardswish"],
    f"h = HardSigmoid x @ alpha={1 / 6}; y = Mul x, h": ["hardswish"],
    f"h = HardSigmoid x @ alpha={1 / 6}; y = Mul h, x": ["hardswish"],
    CLIP + "m = Mul x, c; y = Div m, 6": ["hardswish"],
    CLIP + "m = Mul c, x; y = Div m, 6": ["hardswish"],
    CLIP + "m = Mul x, c; y = Mul m, 1/6": ["hardswish"],
    CLIP + "m = Mul c, x; y = Mul 1/6, m": ["hardswish"],
    CLIP + "d = Div c, 6; y = Mul x, d": ["hardswish"],
    CLIP + "d = Div c, 6; y = Mul d, x": ["hardswish"],
    CLIP + "d = Mul c, 1/6; y = Mul x, d": ["hardswish"],
    CLIP + "d = Div x, 6; y = Mul d, c": ["hardswish"],
    CLIP + "d = Mul 1/6, x; y = Mul c, d": ["hardswish"],
    "s = Sigmoid x; y = Mul x, s": ["silu"],
    "s = Sigmoid x; y = Mul s, x": ["silu"],
    ERF + "m = Mul x, s; y = Mul m, 1/2": ["gelu"],
    ERF + "m = Mul s, x; y = Mul 1/2, m": ["gelu"],
    ERF + "m = Mul x, s; y = Div m, 2": ["gelu"],
    ERF + "h = Mul x, 1/2; y = Mul h, s": ["gelu"],
    ERF + "h = Mul 1/2, x; y = Mul s, h": ["gelu"],
    ERF + "h = Mul s, 1/2; y = Mul x, h": ["gelu"],
    ERF + "h = Div s, 2; y = Mul h, x": ["gelu"],
    "d = Mul x, 1/root; e = Erf d; s = Add 1, e; m = Mul x, s; y = Mul m, 1/2": ["gelu"],
    "d = Mul 1/root, x; e = Erf d; s = Add e, 1; h = Mul x, 1/2; y = Mul h, s": ["gelu"],
}  # fmt: skip
NEWER: dict[str, tuple[int, list[Any]]] = {
    "y = Gelu x": (20, ["gelu"]),
    "y = Gelu x @ approximate=none": (20, ["gelu"]),
    "y = Swish x": (24, ["silu"]),
}


@pytest.mark.parametrize(
    ("text", "opset", "wanted"),
    [(text, 18, wanted) for text, wanted in SPELLINGS.items()] + [(text, *rest) for text, rest in NEWER.items()],
)
def test_every_spelling_of_an_activation_is_one_node_and_goes_into_the_convolution_before_it(
    text, opset, wanted
) -> None:
    nodes = spelled(text)
    made = simplified(nodes, NUMBERS, opset=opset)
    assert operators(made) == ["Activation"]
    assert activations(made) == wanted
    [weighted] = simplified(
        [node("Conv", ["i", "w", "b"], ["x"]), *nodes],
        {**NUMBERS, "w": random(C, C, 1, 1), "b": random(C)},
        feeds={"i": X},
        opset=opset,
    )
    assert weighted.op == "Conv"
    assert weighted.get("activation") == wanted[0]


@pytest.mark.parametrize(
    "text", ["y = Relu x", "y = Sigmoid x", CLIP + "m = Mul x, c; y = Div m, 6", ERF + "m = Mul x, s; y = Mul m, 1/2"]
)
@pytest.mark.parametrize("before", ["Gemm", "MatMul", "MatMul and Add"])
def test_activations_go_into_matrix_products(text, before) -> None:
    op = before.split()[0]
    product = [node(op, ["i", "w", "k"][: 3 if op == "Gemm" else 2], ["p" if "Add" in before else "x"])]
    product += [node("Add", ["p", "k"], ["x"])] if "Add" in before else []
    [made] = simplified(
        [*product, *spelled(text)], {**NUMBERS, "w": random(5, 4), "k": random(4)}, feeds={"i": random(3, 5)}
    )
    assert made.op == op
    assert activations([made]) == SPELLINGS[text]


def test_min_and_max_clamp_one_after_the_other() -> None:
    made = simplified(spelled("m = Max x, 0; y = Min m, 6"), NUMBERS)
    assert activations(made) in ([("clip", -math.inf, 6.0)], ["relu", ("clip", -math.inf, 6.0)], ["relu6"])


#: Not one of them, though nearly -> what may be recognised of its parts.
NEAR: dict[str, list[Any]] = {
    "a = Add x, 3; c = Clip a, 0, 5.9; y = Div c, 6": [("clip", 0.0, pytest.approx(5.9))],
    "a = Add x, 3; c = Clip a, 0, 5.9; m = Mul x, c; y = Div m, 6": [("clip", 0.0, pytest.approx(5.9))],
    "a = Add x, 2.9; c = Clip a, 0, 6; m = Mul x, c; y = Div m, 6": ["relu6"],
    "a = Add x, row; c = Clip a, 0, 6; m = Mul x, c; y = Div m, 6": ["relu6"],
    "a = Sub x, 3; c = Clip a, 0, 6; m = Mul x, c; y = Div m, 6": ["relu6"],
    "a = Add z, 3; c = Clip a, 0, 6; m = Mul x, c; y = Div m, 6": ["relu6"],
    CLIP + "m = Mul x, c; y = Div m, 5.9": ["relu6"],
    CLIP + "m = Mul x, c; y = Mul m, 6": ["relu6"],
    CLIP + "m = Mul z, c; y = Div m, 6": ["relu6"],
    CLIP + "y = Mul x, c": ["relu6"],
    CLIP + "y = Div 6, c": ["relu6"],
    CLIP + "m = Mul c, c; y = Div m, 6": ["relu6"],
    CLIP + "m = Mul x, x; n = Mul m, c; y = Div n, 6": ["relu6"],
    "y = HardSigmoid x": [],
    "y = HardSigmoid x @ alpha=0.2": [],
    f"y = HardSigmoid x @ alpha={1 / 6} @ beta=0.4": [],
    "h = HardSigmoid x; y = Mul x, h": [],
    f"h = HardSigmoid z @ alpha={1 / 6}; y = Mul x, h": ["hardsigmoid"],
    f"h = HardSigmoid x @ alpha={1 / 6}; m = Mul x, h; y = Mul m, 1/2": ["hardswish"],
    "s = Sigmoid z; y = Mul x, s": ["sigmoid"],
    "s = Sigmoid x; y = Mul s, s": ["sigmoid"],
    "n = Neg x; s = Sigmoid n; y = Mul x, s": ["sigmoid"],
    "d = Mul x, 1.5; s = Sigmoid d; y = Mul x, s": ["sigmoid"],
    "s = Sigmoid x; y = Sub x, s": ["sigmoid"],
    "d = Div x, 1.5; e = Erf d; s = Add e, 1; m = Mul x, s; y = Mul m, 1/2": [],
    "d = Mul x, root; e = Erf d; s = Add e, 1; m = Mul x, s; y = Mul m, 1/2": [],
    "d = Div root, x; e = Erf d; s = Add e, 1; m = Mul x, s; y = Mul m, 1/2": [],
    "e = Erf x; s = Add e, 1; m = Mul x, s; y = Mul m, 1/2": [],
    "d = Div z, root; e = Erf d; s = Add e, 1; m = Mul x, s; y = Mul m, 1/2": [],
    ERF + "m = Mul x, s; y = Mul m, 0.4": [],
    ERF + "m = Mul z, s; y = Mul m, 1/2": [],
    ERF + "y = Mul x, s": [],
    "d = Div x, root; e = Erf d; s = Sub e, 1; m = Mul x, s; y = Mul m, 1/2": [],
    "y = PRelu x, slopes": [],
    "y = PRelu x, z": [],
    "y = Clip x, 2, -1": [],
    "n = Neg 6; y = Max x, row": [],
    "y = Max x, z": [],
    "y = Max x, z, 0": [],
    "y = Min x, row": [],
    "y = Max x, 3 of 4": [],
    "y = Tanh x": [],
}  # fmt: skip


@pytest.mark.parametrize("text", NEAR)
def test_what_is_only_near_an_activation_is_left_as_it_is(text) -> None:
    z = random(*X.shape, seed=5)
    feeds = {"x": X, "z": z} if "z" in text else {"x": X}
    made = simplified(spelled(text), NUMBERS, feeds=feeds)
    assert activations(made) == NEAR[text]
    content = write(
        [node("Conv", ["i", "w"], ["x"]), *spelled(text)],
        {"i": X, "z": z},
        {**NUMBERS, "w": random(C, C, 1, 1)},
        ["y"],
        18,
    )
    [wanted] = expected(content, {"i": X, "z": z}, 18)
    np.testing.assert_allclose(
        dwcpu.load_onnx(content)(X, z), wanted, rtol=0, atol=2e-5 * np.abs(wanted[np.isfinite(wanted)]).max()
    )


def test_the_other_gelu_is_not_taken_for_this_one() -> None:
    assert activations(simplified(spelled("y = Gelu x @ approximate=tanh"), opset=20)) == []


@pytest.mark.parametrize(
    "text",
    [
        "a = Add x, 3 of 4; c = Clip a, 0, 6; y = Div c, 6",
        "d = Div x, root; e = Erf d; s = Add e, 1 of 4; m = Mul x, s; y = Mul m, 1/2",
    ],
)
def test_numbers_of_more_axes_than_the_tensor_add_axes(text) -> None:
    simplified(spelled(text), {**NUMBERS, "1 of 4": number(1, 1, 1, 1, 1)}, feeds={"x": X[0, 0]})


def test_numbers_may_have_as_many_axes_as_the_tensor() -> None:
    constants = {
        key: array.reshape(1, 1, 1, 1) for key, array in NUMBERS.items() if array.size == 1 and array.ndim == 0
    }
    for key in ("0", "6"):  # bounds must be scalars
        constants[f"{key} of 1"] = number(float(key), 1)
    simplified(spelled("a = Add x, 3; c = Clip a, 0 of 1, 6 of 1; m = Mul x, c; y = Div m, 6"), constants)
    simplified(spelled(ERF + "m = Mul x, s; y = Mul m, 1/2"), constants)


@pytest.mark.parametrize(
    "text",
    [CLIP + "m = Mul x, c; y = Div m, 6", CLIP + "d = Div c, 6; y = Mul x, d", "s = Sigmoid x; y = Mul x, s",
     ERF + "m = Mul x, s; y = Mul m, 1/2", ERF + "h = Mul x, 1/2; y = Mul h, s"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["output", "read"])
def test_values_within_an_activation_may_be_outputs_or_be_read_by_others(text, way) -> None:
    nodes = spelled(text)
    for inner in [each.output[0] for each in nodes[:-1]]:
        more = [node("Neg", [inner], ["other"])] if way == "read" else []
        made = simplified([*nodes, *more], NUMBERS, ["y", "other" if way == "read" else inner])
        assert len(made) > 1
        convolution = node("Conv", ["i", "w"], ["x"])
        constants = {**NUMBERS, "w": random(C, C, 1, 1)}
        made = simplified(
            [convolution, *nodes, *more], constants, ["y", "other" if way == "read" else inner], feeds={"i": X}
        )
        assert [each.get("activation") for each in made if each.op == "Conv"] == [None]


def test_an_activation_stays_apart_where_others_need_what_comes_before_it() -> None:
    convolution, constants = node("Conv", ["x", "w"], ["c"]), {"w": random(C, C, 1, 1)}
    relu = node("Relu", ["c"], ["y"])
    assert operators(simplified([convolution, relu], constants, ["y", "c"])) == ["Conv", "Activation"]
    assert operators(simplified([convolution, relu, node("Neg", ["c"], ["n"])], constants, ["y", "n"])) == [
        "Conv",
        "Activation",
        "Neg",
    ]
    both = [convolution, relu, node("Sigmoid", ["c"], ["s"])]
    assert operators(simplified(both, constants, ["y", "s"])) == ["Conv", "Activation", "Activation"]
    twice = [convolution, relu, node("Sigmoid", ["y"], ["s"])]
    made = simplified(twice, constants, ["s"])
    assert [(each.op, each.get("activation")) for each in made] == [("Conv", "relu"), ("Activation", "sigmoid")]


@pytest.mark.parametrize("bounds", [(0, 2**63 - 1), (-(2**63), 5), (2**60 + 1, 2**62), (-1, 3)])
def test_integers_are_clipped_exactly(bounds) -> None:
    x = np.array([-(2**63), -7, -1, 0, 1, 4, 2**60, 2**60 + 5, 2**63 - 1])
    constants = {"low": np.int64(bounds[0]), "high": np.int64(bounds[1])}
    simplified([node("Clip", ["x", "low", "high"], ["y"])], constants, feeds={"x": x})


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.float64, np.float16])
def test_activations_of_other_types(dtype) -> None:
    x = np.array([[-100, -3, 0, 2, 5, 100]]).astype(dtype)
    constants = {"low": dtype(-2), "high": dtype(4)}
    simplified([node("Clip", ["x", "low", "high"], ["y"])], constants, feeds={"x": x})
    simplified([node("Relu", ["x"], ["y"])], feeds={"x": x})
    if np.dtype(dtype).itemsize > 1:
        simplified([node("Max", ["x", "low"], ["y"])], constants, feeds={"x": x})


# --- affine -----------------------------------------------------------------------------------------------------------


def weighted(op: str, groups: int = 1) -> tuple[list[Any], dict[str, np.ndarray], dict[str, np.ndarray], int, int]:
    """A node c of a kind, its constants and inputs, channels and axes of what it gives."""
    if op == "Conv":
        return (
            [node("Conv", ["x", "w"], ["c"], group=groups, pads=[1] * 4)],
            {"w": random(8, C // groups, 3, 3)},
            {"x": X},
            8,
            4,
        )
    if op == "ConvTranspose":
        w = random(C, 8 // groups, 2, 3)
        return [node("ConvTranspose", ["x", "w"], ["c"], group=groups, strides=[2, 1])], {"w": w}, {"x": X}, 8, 4
    if op == "Conv of signals":
        return [node("Conv", ["x", "w"], ["c"])], {"w": random(8, C, 3)}, {"x": X[:, :, 0]}, 8, 3
    if op == "Gemm":
        return [node("Gemm", ["x", "w", "k"], ["c"])], {"w": random(5, 8), "k": random(8)}, {"x": random(3, 5)}, 8, 2
    if op == "Gemm, transposed":
        return [node("Gemm", ["x", "w"], ["c"], transB=1)], {"w": random(8, 5)}, {"x": random(3, 5)}, 8, 2
    axes = int(op.removeprefix("MatMul of "))
    return [node("MatMul", ["x", "w"], ["c"])], {"w": random(5, 8)}, {"x": random(*(2, 3, 4)[: axes - 1], 5)}, 8, axes


PRODUCTS = ["Gemm", "Gemm, transposed", "MatMul of 2", "MatMul of 3", "MatMul of 4"]
IMAGES = [("Conv", 1), ("Conv", 2), ("Conv of signals", 1), ("ConvTranspose", 1), ("ConvTranspose", 2)]


@pytest.mark.parametrize(("op", "groups"), [*IMAGES, *((op, 1) for op in PRODUCTS)])
@pytest.mark.parametrize("after", ["Mul", "Add", "Sub", "Div"])
def test_constants_of_channels_go_into_the_weights_before_them(op, groups, after) -> None:
    nodes, constants, feeds, channels, axes = weighted(op, groups)
    tail = (1,) * (axes - 2) if (op, groups) in IMAGES else ()
    shapes = [(), (1,), (channels, *tail), (1, channels, *tail)]
    for shape in shapes:
        k = positive(*shape).reshape(shape)
        for reverse in (False, True) if after in ("Add", "Mul") else (False,):
            inputs = ["k2", "c"] if reverse else ["c", "k2"]
            made = simplified([*nodes, node(after, inputs, ["y"])], {**constants, "k2": k}, feeds=feeds)
            if op.startswith("MatMul") and len(shape) > 1:  # of a vector this would be a matrix: either is right
                assert operators(made) in ([nodes[0].op_type], [nodes[0].op_type, after])
            else:
                assert operators(made) == [nodes[0].op_type], shape


@pytest.mark.parametrize(("op", "groups"), IMAGES)
@pytest.mark.parametrize("after", ["Mul", "Add", "Sub", "Div"])
def test_constants_of_rows_and_pixels_are_no_channels(op, groups, after) -> None:
    """Where the width happens to be the number of channels too."""
    nodes, constants, feeds, channels, axes = weighted(op, groups)
    width = {"Conv": 8, "Conv of signals": 10, "ConvTranspose": 6}[op]
    x = np.resize(feeds["x"], (*feeds["x"].shape[:-1], width))
    for shape in ((channels,), (1, channels), (1,) * (axes - 1) + (channels,)):
        k = positive(*shape)
        made = simplified([*nodes, node(after, ["c", "k2"], ["y"])], {**constants, "k2": k}, feeds={"x": x})
        assert operators(made) == [nodes[0].op_type, after]


@pytest.mark.parametrize("op", PRODUCTS)
@pytest.mark.parametrize("after", ["Mul", "Add"])
def test_constants_of_rows_are_no_columns(op, after) -> None:
    nodes, constants, feeds, channels, _ = weighted(op)
    x = np.resize(feeds["x"], (*feeds["x"].shape[:-2], channels, feeds["x"].shape[-1]))
    for shape in ((channels, 1), (channels, channels)):
        made = simplified(
            [*nodes, node(after, ["c", "k2"], ["y"])], {**constants, "k2": positive(*shape)}, feeds={"x": x}
        )
        assert operators(made)[-1] == after


@pytest.mark.parametrize(("op", "groups"), IMAGES)
@pytest.mark.parametrize("bias", [False, True])
def test_normalisations_go_into_the_weights_before_them(op, groups, bias) -> None:
    nodes, constants, feeds, channels, _ = weighted(op, groups)
    if bias:
        nodes[0].input.append("bias")
        constants["bias"] = random(channels)
    constants |= {
        "s": random(channels),
        "b": random(channels, seed=2),
        "m": random(channels, seed=3),
        "v": positive(channels),
    }
    made = simplified(
        [*nodes, node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"], epsilon=1e-2)], constants, feeds=feeds
    )
    assert operators(made) == [nodes[0].op_type]


NORM = {"s": random(8), "b": random(8, seed=2), "m": random(8, seed=3), "v": positive(8)}


@pytest.mark.parametrize("op", ["Gemm", "Gemm, transposed"])
def test_normalisations_of_matrices_go_into_the_weights_before_them(op) -> None:
    nodes, constants, feeds, _, _ = weighted(op)
    assert operators(simplified([*nodes, norm()], {**constants, **NORM}, feeds=feeds)) == ["Gemm"]


@pytest.mark.parametrize("shape", [(2, 8, 5), (2, 8, 3, 5)])
def test_normalisations_of_the_second_of_several_axes_are_no_columns(shape) -> None:
    nodes, constants, _, _, _ = weighted("MatMul of 3")
    simplified([*nodes, norm()], {**constants, **NORM}, feeds={"x": random(*shape)})


def test_normalisations_that_have_no_weights_before_them_are_one_factor_and_shift() -> None:
    for shape in ((2, 8, 5, 4), (2, 8, 5), (3, 8), (1, 8, 3, 2, 2)):
        assert operators(simplified([norm("x")], NORM, feeds={"x": random(*shape)})) == ["Affine"]
    nodes, constants, feeds, _, _ = weighted("Conv")
    made = simplified([*nodes, node("Relu", ["c"], ["r"]), norm("r")], {**constants, **NORM}, feeds=feeds)
    assert [(each.op, each.get("activation")) for each in made] == [("Conv", "relu"), ("Affine", None)]
    moving = {**feeds, "v": NORM["v"]}  # statistics that are an input
    statistics = {key: array for key, array in NORM.items() if key != "v"}
    assert operators(simplified([*nodes, norm()], {**constants, **statistics}, feeds=moving)) == [
        "Conv",
        "BatchNormalization",
    ]


def test_everything_in_a_row_goes_into_the_weights() -> None:
    nodes, constants, feeds, channels, _ = weighted("Conv")
    more = {f"k{at}": positive(channels, 1, 1) for at in range(4)}
    nodes += [
        norm("c", "a"), node("Mul", ["k0", "a"], ["d"]), node("Add", ["d", "k1"], ["e"]),
        node("Sub", ["e", "k2"], ["f"]),
        node("Div", ["f", "k3"], ["g"]), node("Relu", ["g"], ["y"]),
    ]  # fmt: skip
    [made] = simplified(nodes, {**constants, **NORM, **more}, feeds=feeds)
    assert (made.op, made.get("activation")) == ("Conv", "relu")


@pytest.mark.parametrize("before", ["Mul", "Add", "BatchNormalization"])
def test_what_stands_before_the_weights_stays_there(before) -> None:
    """Padding is neither scaled nor shifted."""
    constants = {"w": random(8, 8, 3, 3), "k": positive(8, 1, 1), **NORM}
    first = norm("x", "f") if before == "BatchNormalization" else node(before, ["x", "k"], ["f"])
    made = simplified(
        [first, node("Conv", ["f", "w"], ["y"], pads=[1] * 4)], constants, feeds={"x": random(2, 8, 5, 4)}
    )
    assert len(made) == 2


def given_on(op: str, between: list[str], second: Any, weights: np.ndarray) -> list[Any]:
    """What is left of weights, Tanh, arithmetic with a constant of each channel, and weights again."""
    nodes, constants, feeds, channels, _ = weighted(op)
    names = ["a", *(f"a{at}" for at in range(len(between)))]
    nodes += [node("Tanh", ["c"], ["a"])]
    for at, each in enumerate(between):
        nodes.append(node(each, [names[at], f"k{at}"], [names[at + 1]]))
        constants[f"k{at}"] = positive(*((channels,) if op in PRODUCTS else (channels, *(1,) * (weights.ndim - 2))))
    second.input[0] = names[-1]
    constants |= {"w2": weights, "b2": random(4)}
    return simplified([*nodes, second], constants, feeds=feeds)


@pytest.mark.parametrize(
    "between", [["Mul"], ["Div"], ["Add"], ["Sub"], ["Add", "Mul"], ["Div", "Sub", "Mul"]], ids=str
)
@pytest.mark.parametrize("bias", [[], ["b2"]], ids=len)
def test_constants_of_channels_go_into_the_weights_behind_them(between, bias) -> None:
    inputs = ["", "w2", *bias]
    for groups in (1, 2):
        made = given_on("Conv", between, node("Conv", inputs, ["y"], group=groups), random(4, 8 // groups, 3, 2))
        assert operators(made) == ["Conv", "Tanh", "Conv"]
    made = given_on("Conv of signals", between, node("Conv", inputs, ["y"], strides=[2]), random(4, 8, 2))
    assert operators(made) == ["Conv", "Tanh", "Conv"]
    for op in PRODUCTS:
        first = "Gemm" if op.startswith("Gemm") else "MatMul"
        if first == "Gemm":
            made = given_on(op, between, node("Gemm", inputs, ["y"], transB=1), random(4, 8))
            assert operators(made) == [first, "Tanh", "Gemm"]
        made = given_on(op, between, node("MatMul", inputs[:2], ["y"]), random(8, 4))
        assert operators(made) == [first, "Tanh", "MatMul"]


def test_what_is_added_before_padding_stays_there() -> None:
    second = {"kernel": random(4, 8, 3, 3)}
    for attributes in ({"pads": [0, 0, 0, 1]}, {"auto_pad": "SAME_UPPER"}):
        made = given_on("Conv", ["Add"], node("Conv", ["", "w2"], ["y"], **attributes), second["kernel"])
        assert operators(made) == ["Conv", "Tanh", "Add", "Conv"]
        made = given_on("Conv", ["Add", "Mul"], node("Conv", ["", "w2"], ["y"], **attributes), second["kernel"])
        assert operators(made) == ["Conv", "Tanh", "Add", "Conv"]
        made = given_on("Conv", ["Mul"], node("Conv", ["", "w2"], ["y"], **attributes), second["kernel"])
        assert operators(made) == ["Conv", "Tanh", "Conv"]


def test_constants_that_make_more_channels_or_pixels_are_no_numbers_of_channels() -> None:
    gray, product = random(2, 1, 5, 4), node("Conv", ["a", "w"], ["y"])
    for constant in (random(C, 1, 1), random(1, 5, 1), random(1, C, 1, 1), random(2, 1, 1, 1)):
        for op in ("Mul", "Add"):
            channels = C if constant.shape[-3] == C else 1
            nodes, constants = [node(op, ["x", "k"], ["a"]), product], {"k": constant, "w": random(4, channels, 2, 2)}
            assert operators(simplified(nodes, constants, feeds={"x": gray})) == [op, "Conv"]
    nodes = [node("Mul", ["x", "k"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    made = simplified(nodes, {"k": random(8), "w": random(8, 3)}, feeds={"x": random(2, 5, 1)})
    assert operators(made) == ["Mul", "MatMul"]
    nodes = [node("Mul", ["x", "k"], ["a"]), node("Add", ["a", "k"], ["d"]), node("Conv", ["d", "w"], ["y"])]
    made = simplified(nodes, {"k": number(0.5), "w": random(4, C, 3, 2)})
    assert operators(made) == ["Conv"]  # a number makes nothing more


@pytest.mark.parametrize("after", ["Mul", "Add", "BatchNormalization"])
@pytest.mark.parametrize(("op", "groups"), [("Conv", 1), ("ConvTranspose", 2), ("Gemm", 1)])
def test_weights_keep_their_meaning_for_others_who_read_the_result(op, groups, after) -> None:
    nodes, constants, feeds, channels, axes = weighted(op, groups)
    constants |= {**NORM, "k2": positive(*((channels, 1, 1) if axes == 4 else (channels,)))}
    last = norm() if after == "BatchNormalization" else node(after, ["c", "k2"], ["y"])
    left = "Affine" if after == "BatchNormalization" else after
    assert operators(simplified([*nodes, last], constants, ["y", "c"], feeds=feeds)) == [nodes[0].op_type, left]
    made = simplified([*nodes, last, node("Neg", ["c"], ["n"])], constants, ["y", "n"], feeds=feeds)
    assert operators(made) == [nodes[0].op_type, left, "Neg"]
    twice = [*nodes, last, node("Add", ["y", "c"], ["z"])]
    assert operators(simplified(twice, constants, ["z"], feeds=feeds))[0] == nodes[0].op_type


def test_weights_that_several_nodes_share_are_changed_for_each_apart() -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]), norm("c", "d"),
        node("Conv", ["x", "w", "b"], ["e"]), node("Mul", ["e", "k"], ["f"]),
        node("Conv", ["x", "w", "b"], ["g"]),
    ]  # fmt: skip
    constants = {"w": random(8, C, 1, 1), **NORM, "k": positive(8, 1, 1)}
    made = simplified(nodes, constants, ["d", "f", "g", "w"])
    assert operators(made) == ["Conv"] * 3


def test_numbers_over_a_result_are_no_factors() -> None:
    nodes, constants, feeds, channels, _ = weighted("Conv")
    constants |= {"k2": positive(channels, 1, 1)}
    for after in ("Sub", "Div"):
        made = simplified([*nodes, node(after, ["k2", "c"], ["y"])], constants, feeds=feeds, rounding=1e-3)
        assert operators(made) == ["Conv", after]


def test_products_that_scale_themselves_keep_their_scales() -> None:
    constants = {"w": random(5, 8), "k": random(8), "k2": random(8), "n": random(3, 8)}
    feeds = {"x": random(3, 5)}
    for attributes in ({"alpha": 0.5}, {"beta": 2.0}, {"alpha": 0.5, "beta": 0.25, "transB": 0}):
        for after in ("Add", "Mul"):
            simplified(
                [node("Gemm", ["x", "w", "k"], ["c"], **attributes), node(after, ["c", "k2"], ["y"])],
                constants,
                feeds=feeds,
            )
    for after in ("Add", "Mul"):
        simplified([node("Gemm", ["x", "w", "n"], ["c"]), node(after, ["c", "k2"], ["y"])], constants, feeds=feeds)


def test_integers_are_multiplied_and_added_as_integers() -> None:
    x, constants = np.arange(6, dtype=np.int32).reshape(2, 3), {"w": np.arange(12, dtype=np.int32).reshape(3, 4)}
    for after in ("Add", "Mul", "Div"):
        constants["k"] = np.array([2, 3, 5, 7], np.int32)
        nodes = [node("MatMul", ["x", "w"], ["c"]), node(after, ["c", "k"], ["y"])]
        assert operators(simplified(nodes, constants, feeds={"x": x})) == ["MatMul", after]


def test_a_divisor_of_zero_gives_infinities() -> None:
    nodes, constants, feeds, channels, _ = weighted("Conv")
    k = positive(channels, 1, 1)
    k[2] = 0
    simplified([*nodes, node("Div", ["c", "k2"], ["y"])], {**constants, "k2": k}, feeds=feeds)


def test_statistics_that_make_no_sense_give_nan_and_warn_nobody() -> None:
    nodes, constants, feeds, channels, _ = weighted("Conv")
    v = positive(channels)
    v[3] = -1
    simplified([*nodes, norm()], {**constants, **NORM, "v": v}, feeds=feeds)


def test_statistics_may_be_of_a_wider_type() -> None:
    x, w = X.astype(np.float16), random(8, C, 1, 1).astype(np.float16)
    for nodes in ([norm("x")], [node("Conv", ["x", "w"], ["c"]), norm()]):
        feeds = {"x": x[:, :8]} if len(nodes) > 1 else {"x": np.concatenate([x, x], 1)[:, :8]}
        content = write(nodes, feeds, {"w": w, **NORM}, ["y"], 18)
        [wanted] = ReferenceEvaluator(content).run(None, feeds)
        for without in ((), ("affine",)):
            result = dwcpu.load_onnx(content, without=without)(feeds["x"])
            assert result.dtype == np.float16
            np.testing.assert_allclose(result, wanted.astype(np.float16), rtol=0, atol=0.02 * np.abs(wanted).max())
