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

from onnx_passes import C, X, activations, expected, ints, node, number, operators, random, simplified, write  # noqa: E402


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


TANH = "t = Tanh {}; g = Add t, 1; h = Mul x, g; y = Mul h, 1/2"


@pytest.mark.parametrize(
    "text",
    [
        "q = Mul x, x; c = Mul x, q; d = Mul c, cube; s = Add x, d; k = Mul s, line; " + TANH.format("k"),
        "c = Pow x, 3; d = Mul cube, c; s = Add d, x; k = Mul line, s; " + TANH.format("k"),
        "q = Mul x, x; d = Mul q, cube; s = Add 1, d; m = Mul line, x; k = Mul m, s; " + TANH.format("k"),
    ],
)
def test_gelu_by_tanh_is_one_node_however_it_is_written(text) -> None:
    numbers = {**NUMBERS, "cube": number(0.044715), "line": number(math.sqrt(2 / math.pi))}
    [made] = simplified(spelled(text), numbers)
    assert (made.op, made.get("approximate")) == ("Gelu", "tanh")
    for name in ("cube", "line", "1/2"):
        other = {**numbers, name: numbers[name] * np.float32(1.01)}
        assert "Tanh" in operators(simplified(spelled(text), other)) + [
            part.op for each in simplified(spelled(text), other) for part in each.get("before", ()) if part is not None
        ]


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


@pytest.mark.parametrize("op", ["ReduceL2", "ReduceMean", "ReduceSumSquare", "ReduceSum"])
def test_few_digits_are_enough_for_roots_of_large_squares(op) -> None:
    x = np.linspace(-600, 500, 24).reshape(2, 3, 4).astype(np.float16) / np.float16(
        16 if op == "ReduceSumSquare" else 1
    )
    simplified([node(op, ["x", "axes"], ["y"])], {"axes": ints(0, 2)}, feeds={"x": x}, rounding=2e-3)
