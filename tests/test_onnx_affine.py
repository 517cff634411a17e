"""Factors and shifts of channels: which go into weights, and which are none.

Every graph is run with passes left out, and looked at, as in `test_onnx_passes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dwcpu

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_passes import C, X, ints, node, norm, number, operators, positive, random, simplified, write  # noqa: E402


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
        node("Conv", ["x", "w", "b"], ["e"], strides=[1, 1]), node("Mul", ["e", "k"], ["f"]),  # no twins
        node("Conv", ["x", "w", "b"], ["g"], dilations=[1, 1]),
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


@pytest.mark.parametrize("view", ["Flatten", "Reshape"])
@pytest.mark.parametrize("last", [False, True])
def test_normalisations_of_rows_go_into_the_product_before_them(view, last) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "k": random(5, 4),
        "rows": ints(-1, 4),
        "m": random(4),
        "v": positive(4),
        "s": random(4),
        "b": random(4),
    }
    nodes = [
        node("MatMul", ["x", "k"], ["c"]), node("Shape", ["c"], ["size"]),
        node("Flatten", ["c"], ["f"], axis=2) if view == "Flatten" else node("Reshape", ["c", "rows"], ["f"]),
        node("BatchNormalization", ["f", "s", "b", "m", "v"], ["y" if last else "n"]),
        *([] if last else [node("Reshape", ["n", "size"], ["r"]), node("Neg", ["r"], ["y"])]),
    ]  # fmt: skip
    feeds = {"x": rng.standard_normal((2, 3, 5)).astype(np.float32)}
    outputs = ["y", "size"] if last else ["y"]
    assert not {"Affine", "BatchNormalization"} & set(operators(simplified(nodes, constants, outputs, feeds=feeds)))
    made = simplified([*nodes, node("Neg", ["c"], ["z"])], constants, [*outputs, "z"], feeds=feeds)
    assert "Affine" in operators(made)
    if view == "Reshape":  # rows of something else
        constants |= {"rows": ints(-1, 2)} | {name: random(2) for name in "msb"} | {"v": positive(2)}
        assert "Affine" in operators(simplified(nodes, constants, outputs, feeds=feeds))


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_a_constant_that_makes_a_matrix_of_a_vector_is_no_number_of_columns(op) -> None:
    nodes = [node(op, ["x", "k"], ["a"]), node("Gemm", ["a", "w"], ["y"])]
    made = simplified(nodes, {"k": random(1, 6), "w": random(6, 3)}, feeds={"x": random(6)})
    assert operators(made) == [op, "Gemm"]
    nodes = [node("MatMul", ["x", "v"], ["b"]), node(op, ["b", "k"], ["a"]), node("Gemm", ["a", "w"], ["y"])]
    simplified(nodes, {"v": random(5, 6), "k": random(1, 6), "w": random(6, 3)}, feeds={"x": random(5)})


@pytest.mark.parametrize("large", [True, False])
def test_weights_that_their_type_cannot_hold_stay_as_they_are(large) -> None:
    rng = np.random.default_rng(0)
    scale = 1e4 if large else 1e-4
    x = (rng.standard_normal((4, 3)) * (1e-3 if large else 1e3)).astype(np.float16)
    constants = {
        "k": np.array(scale, np.float16),
        "w": (rng.standard_normal((3, 2)) * (10 if large else 0.1)).astype(np.float16),
    }
    for nodes in (
        [node("Mul", ["x", "k"], ["a"]), node("MatMul", ["a", "w"], ["y"])],
        [node("MatMul", ["x", "w"], ["a"]), node("Mul", ["a", "k"], ["y"])],
    ):
        left = simplified(nodes, constants, feeds={"x": x}, rounding=5e-3)
        assert operators(left) == [each.op_type for each in nodes]


CLAMPS = {
    "relu": node("Relu", ["b"], ["r"]), "relu6": node("Clip", ["b", "none", "six"], ["r"]),
    "at least": node("Max", ["b", "one"], ["r"]), "at most": node("Clip", ["b", "", "one"], ["r"]),
}  # fmt: skip
NUMBERS = {"none": number(0), "six": number(6), "one": number(-1)}


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("scale", [1.7, -0.4])
def test_factors_and_shifts_behind_a_clamp_go_into_the_weights_before_it(clamp, scale) -> None:
    """As scales that are learned, one for a layer, stand behind activations."""
    for op, groups in (("Conv", 2), ("ConvTranspose", 1), ("Gemm", 1)):
        nodes, constants, feeds, *_ = weighted(op, groups)
        nodes += [node("Add", ["c", "one"], ["b"]), CLAMPS[clamp]]
        nodes += [node("Mul", ["scale", "r"], ["m"]), node("Sub", ["m", "shift"], ["y"])]
        constants = {**constants, **NUMBERS, "scale": number(scale), "shift": number(0.3, 1)}
        made = simplified(nodes, constants, feeds=feeds)
        assert operators(made) == [op]
        low, high = {"relu": (0, np.inf), "relu6": (0, 6), "at least": (-1, np.inf), "at most": (-np.inf, -1)}[clamp]
        assert made[0].get("activation") == (
            "clip",
            *(pytest.approx(each * scale - 0.3) for each in sorted((low, high), key=lambda each: each * scale)),
        )


def test_a_factor_of_each_channel_behind_a_clamp_at_zero_goes_into_the_weights() -> None:
    nodes, constants, feeds, channels, _ = weighted("Conv")
    nodes += [node("Relu", ["c"], ["r"]), node("Mul", ["r", "k"], ["y"])]
    for sign in (1, -1):
        made = simplified(nodes, {**constants, "k": sign * positive(channels, 1, 1)}, feeds=feeds)
        assert operators(made) == ["Conv"]


@pytest.mark.parametrize(
    ("between", "after", "k"),
    [
        ("Relu", "Add", random(8, 1, 1)), ("Relu", "Mul", random(8, 1, 1)), ("Relu", "Mul", number(0)),
        ("Sigmoid", "Mul", number(2)), ("LeakyRelu", "Mul", number(2)), ("Relu", "Add", number(np.inf)),
    ],
)  # fmt: skip
def test_what_no_clamp_does_stays_behind_it(between, after, k) -> None:
    nodes, constants, feeds, *_ = weighted("Conv")
    nodes += [node(between, ["c"], ["r"]), node(after, ["r", "k"], ["y"])]
    assert after in operators(simplified(nodes, {**constants, "k": k}, feeds=feeds))


def test_a_clamp_that_hides_infinities_goes_on_doing_so() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    x[0, 0, 0, 0] = -1
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("Div", ["r", "k"], ["y"])]
    simplified(nodes, {"w": np.ones((1, 1, 2, 1), np.float32), "k": number(1e-39)}, feeds={"x": x})


def test_what_others_read_is_not_scaled() -> None:
    nodes, constants, feeds, *_ = weighted("Conv")
    nodes += [node("Relu", ["c"], ["r"]), node("Mul", ["r", "k"], ["y"])]
    for also in ("c", "r"):
        more = [*nodes, node("Neg", [also], ["z"])]
        assert "Mul" in operators(simplified(more, {**constants, "k": number(2)}, ["y", "z"], feeds=feeds))
