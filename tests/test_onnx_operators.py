"""Operators compute what onnxruntime does, with all their options, in every operator set, and in graphs at random."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightly import reduced

import dwcpu

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_graphs import (  # noqa: E402
    Random,
    agree,
    assert_close,
    assert_same_bits,
    by_onnxruntime,
    ints,
    network_input,
    node,
    number,
    random,
    several,
    write,
)
from onnx_networks import NETWORKS, Builder  # noqa: E402


@pytest.fixture(scope="module")
def models() -> dict[str, dwcpu.graph.Model]:
    return {name: dwcpu.load_onnx(make()) for name, (make, _) in NETWORKS.items()}


# --- operators with their options -------------------------------------------------------------------------------------


def options(rng: Random, axes: int, name: str, choices: Sequence[int], share: float = 0.6) -> dict[str, list[int]]:
    """An attribute with a value for every axis, or none at all."""
    return {name: [rng.choice(choices) for _ in range(axes)]} if rng.random() < share else {}


@pytest.mark.parametrize("seed", range(reduced(80, 12)))
def test_convolutions_with_random_options(seed) -> None:
    rng = Random(seed)
    axes = (1, 2, 2, 3)[seed % 4]
    groups, inner, each = rng.choice(
        ((1, 3, 5), (1, 8, 4), (2, 3, 2), (3, 1, 1), (8, 1, 1), (4, 1, 3), (16, 1, 2), (4, 2, 1))
    )
    kernel = [rng.choice((1, 2, 3, 5)) for _ in range(axes)]
    x = random(rng.choice((1, 2)), groups * inner, *[rng.randint(9, 14) for _ in range(axes)], seed=seed)
    attributes: dict[str, Any] = {"group": groups, **options(rng, axes, "strides", (1, 2, 3))}
    auto = rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", None, None, None))
    if auto is not None:
        attributes["auto_pad"] = auto
    if auto not in ("SAME_UPPER", "SAME_LOWER"):  # onnxruntime refuses both at once
        attributes |= options(rng, axes, "dilations", (1, 2), 0.4)
    if auto is None:
        attributes |= options(rng, 2 * axes, "pads", (0, 1, 2, 3))
    if rng.random() < 0.5:
        attributes["kernel_shape"] = kernel
    constants = {"w": random(groups * each, inner, *kernel, seed=seed)}
    if rng.random() < 0.5:
        constants["b"] = random(groups * each)
    agree(write([node("Conv", ["x", *constants], ["y"], **attributes)], {"x": x}, constants), {"x": x})


@pytest.mark.parametrize("seed", range(30))
def test_transposed_convolutions_with_random_options(seed) -> None:
    rng = Random(seed)
    axes, groups, inner, each = (
        (1, 2, 2)[seed % 3],
        rng.choice((1, 1, 2, 3)),
        rng.choice((1, 2, 3)),
        rng.choice((1, 2, 3)),
    )
    strides = [rng.choice((1, 2, 3)) for _ in range(axes)]
    dilations = [rng.choice((1, 1, 2)) for _ in range(axes)]
    kernel = [rng.choice([size for size in (1, 2, 3, 4) if size >= step]) for step in strides]
    sizes = [rng.randint(3, 7) for _ in range(axes)]
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    kind = rng.choice(("plain", "pads", "output_padding", "SAME_UPPER", "SAME_LOWER", "VALID", "output_shape"))
    if kind in ("pads", "output_padding"):
        attributes |= options(rng, 2 * axes, "pads", (0, 1))
    if kind == "output_padding":
        attributes["output_padding"] = [rng.randrange(step) for step in strides]
    elif kind == "output_shape":
        full = [
            step * (size - 1) + (taps - 1) * apart + 1
            for step, size, taps, apart in zip(strides, sizes, kernel, dilations, strict=True)
        ]
        attributes["output_shape"] = [size - rng.choice((0, 1, 2)) for size in full]
    elif kind not in ("plain", "pads"):
        attributes["auto_pad"] = kind
    x = random(rng.choice((1, 2)), groups * inner, *sizes, seed=seed)
    constants = {"w": random(groups * inner, each, *kernel, seed=seed)}
    if rng.random() < 0.5:
        constants["b"] = random(groups * each)
    agree(write([node("ConvTranspose", ["x", *constants], ["y"], **attributes)], {"x": x}, constants), {"x": x})


@pytest.mark.parametrize("seed", range(28))
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_with_random_options(op, seed) -> None:
    rng = Random(seed)
    axes = (1, 2, 2, 3)[seed % 4]
    kernel = [rng.choice((2, 3, 4)) for _ in range(axes)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [rng.choice((1, 2, 3)) for _ in kernel]}
    attributes["ceil_mode"] = rng.randrange(2)
    auto = rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID", None, None, None))
    if auto is not None:  # onnxruntime refuses windows that lie apart with SAME_UPPER and SAME_LOWER
        attributes |= {
            "auto_pad": auto,
            "strides": [min(pair) for pair in zip(attributes["strides"], kernel, strict=True)],
        }
    else:
        attributes["pads"] = [rng.randrange(size) for size in kernel * 2]
        attributes |= options(rng, axes, "dilations", (1, 2), 0.4)
    outputs = ["y"]
    if op == "AveragePool":
        attributes["count_include_pad"] = rng.randrange(2)
    elif rng.random() < 0.3:
        outputs, attributes["storage_order"] = ["y", "at"], rng.randrange(2)
    x = random(rng.choice((1, 2)), rng.choice((1, 3, 16)), *[rng.randint(8, 13) for _ in range(axes)], seed=seed)
    agree(write([node(op, ["x"], outputs, **attributes)], {"x": x}, outputs=outputs, opset=22), {"x": x})


@pytest.mark.parametrize("seed", range(36))
def test_resizing_with_random_options(seed) -> None:
    rng = Random(seed)
    axes, mode = (2, 2, 1, 3)[seed % 4], ("nearest", "linear", "cubic")[seed % 3]
    axes = 2 if mode == "cubic" else axes
    rule = rng.choice(("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": rule}
    if mode == "nearest":
        attributes["nearest_mode"] = rng.choice(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    elif rng.random() < 0.3:
        attributes["antialias"] = 1
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": rng.choice((-0.75, -0.5)), "exclude_outside": rng.randrange(2)}
    x = random(2, 3, *[rng.choice((4, 6, 8)) for _ in range(axes)], seed=seed)
    # Scales that give whole sizes and coordinates without ties that rounding decides.
    scales = [rng.choice((0.5, 1, 1.5, 2, 3)) for _ in range(axes)]
    if rng.random() < 0.5 and not (mode == "nearest" and rule == "align_corners"):
        constants = {"s": np.array([1, 1, *scales], np.float32)}
        inputs = ["x", "", "s"]
    else:
        constants = {"z": ints(2, 3, *[int(size * scale) for size, scale in zip(x.shape[2:], scales, strict=True)])}
        inputs = ["x", "", "", "z"]
    agree(write([node("Resize", inputs, ["y"], **attributes)], {"x": x}, constants), {"x": x}, 1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing_crops_and_extrapolates(mode) -> None:
    x = random(2, 3, 7, 6)
    attributes = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 5.0}
    for roi in ([0.15, 0.2, 0.85, 0.9], [-0.3, 0.2, 0.85, 1.3]):
        constants = {"roi": np.array([0, 0, *roi[:2], 1, 1, *roi[2:]], np.float32), "z": ints(2, 3, 11, 9)}
        agree(write([node("Resize", ["x", "roi", "", "z"], ["y"], **attributes)], {"x": x}, constants), {"x": x}, 1e-4)


def gemm_case(seed: int) -> tuple[list[Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = Random(seed)
    rows, inner, columns = rng.randint(1, 6), rng.randint(1, 6), rng.randint(1, 6)
    attributes: dict[str, Any] = {"transA": rng.randrange(2), "transB": rng.randrange(2)}
    attributes |= {name: rng.choice((0.5, 2.0, 0.0)) for name in ("alpha", "beta") if rng.random() < 0.4}
    feeds = {"x": random(*((inner, rows) if attributes["transA"] else (rows, inner)), seed=seed)}
    constants = {"w": random(*((columns, inner) if attributes["transB"] else (inner, columns)), seed=seed)}
    inputs = ["x", "w"]
    if rng.random() < 0.8:
        inputs.append("c")
        shape = rng.choice(((columns,), (1,), (rows, 1), (rows, columns), (1, columns), (1, 1), ()))
        (constants if rng.random() < 0.7 else feeds)["c"] = random(*shape, seed=seed).reshape(shape)
    if rng.random() < 0.2:
        feeds["w"] = constants.pop("w")
    return [node("Gemm", inputs, ["g"], **attributes)], feeds, constants


@pytest.mark.parametrize("seed", range(45))
def test_gemm_with_random_options(seed) -> None:
    nodes, feeds, constants = gemm_case(seed)
    after = (None, "Relu", "Sigmoid")[seed % 3]
    if after is not None:
        nodes.append(node(after, ["g"], ["y"]))
    agree(write(nodes, feeds, constants, ["g" if after is None else "y"]), feeds)


@pytest.mark.parametrize("shape", [(4,), (1,), (), (1, 4), (1, 1), (4, 4), (4, 1)], ids=str)
@pytest.mark.parametrize("after", [None, "Relu"])
def test_gemm_of_a_square_adds_rows_and_columns_as_they_are(shape, after) -> None:
    feeds, constants = {"x": random(4, 6)}, {"w": random(6, 4), "c": random(*shape).reshape(shape)}
    nodes = [node("Gemm", ["x", "w", "c"], ["g"], beta=0.5)] + ([node(after, ["g"], ["y"])] if after else [])
    agree(write(nodes, feeds, constants, ["y" if after else "g"]), feeds)


SHAPES = [((4, 5), (5, 3)), ((2, 4, 5), (5, 3)), ((2, 4, 5), (2, 5, 3)), ((5,), (5, 3)), ((4, 5), (5,)), ((5,), (5,)),
          ((2, 1, 4, 5), (3, 5, 6)), ((1, 3, 4, 5), (5, 1)), ((3, 1, 5), (5, 4))]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("constant", ["neither", "right", "left"])
def test_matrix_products_of_any_axes(left, right, constant) -> None:
    arrays = {"a": random(*left), "b": random(*right)}
    constants = {"neither": {}, "right": {"b": arrays["b"]}, "left": {"a": arrays["a"]}}[constant]
    feeds = {name: array for name, array in arrays.items() if name not in constants}
    agree(write([node("MatMul", ["a", "b"], ["y"])], feeds, constants), feeds)
    nodes = [node("MatMul", ["a", "b"], ["m"]), node("Add", ["m", "c"], ["s"]), node("Relu", ["s"], ["y"])]
    columns = right[-1] if len(right) > 1 else 1
    agree(write(nodes, feeds, {**constants, "c": random(columns)}), feeds)


def test_a_row_of_two_axes_gives_a_product_with_a_vector_a_second_axis() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "c"], ["y"])]
    feeds = {"x": random(5)}
    agree(write(nodes, feeds, {"w": random(5, 3), "c": random(1, 3)}), feeds)


@pytest.mark.parametrize("axes", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_along_every_axis(op, axes) -> None:
    x = random(*(2, 3, 4, 5, 3)[:axes])
    for axis in range(-axes, axes):
        agree(write([node(op, ["x"], ["y"], axis=axis)], {"x": x}), {"x": x})
        agree(write([node(op, ["x"], ["y"], axis=axis)], {"x": x}, opset=11), {"x": x})
    agree(write([node(op, ["x"], ["y"])], {"x": x}), {"x": x})
    if axes > 1:  # the default axis was 1 then
        agree(write([node(op, ["x"], ["y"])], {"x": x}, opset=11), {"x": x})
    if axes in (3, 4):  # channels of images, which lie last in memory after a convolution
        nodes = [node("Conv", ["x", "w"], ["c"]), node(op, ["c"], ["y"], axis=1)]
        agree(write(nodes, {"x": x}, {"w": random(6, 3, *(1,) * (axes - 2))}), {"x": x})


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_networks_of_other_floating_types(dtype) -> None:
    x = random(2, 4, 6, 6, dtype=dtype)
    constants = {"w": random(6, 4, 1, 1), "d": random(6, 1, 3, 3), "b": random(6), "m": random(6, 5), "k": random(5)}
    constants = {name: array.astype(dtype) for name, array in constants.items()}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Conv", ["c", "d"], ["p"], group=6, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["p"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "m"], ["q"]),
        node("Add", ["q", "k"], ["s"]),
        node("Softmax", ["s"], ["y"]),
    ]
    content = write(nodes, {"x": x}, constants)
    result = dwcpu.load_onnx(content)(x)
    [wanted] = ReferenceEvaluator(content).run(None, {"x": x})
    assert result.dtype == dtype
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-12 if dtype == np.float64 else 3e-3)
    if dtype == np.float64:
        turned = dwcpu.load_onnx(content)(x.transpose(0, 2, 3, 1), layout="NHWC")
        assert_same_bits(turned, result)


@pytest.mark.parametrize("kind", ["float16", "three axes", "float64", "one axis"])
@pytest.mark.parametrize("after", ["activation", "residual", "both"])
def test_what_passes_put_into_a_convolution_is_computed_for_every_type_and_number_of_axes(kind, after) -> None:
    dtype = np.dtype(kind) if "float" in kind else np.dtype(np.float32)
    axes = {"three axes": 3, "one axis": 1}.get(kind, 2)
    x = random(1, 3, *(5,) * axes, dtype=dtype)
    nodes = [node("Conv", ["x", "w"], ["c"])]
    if after != "activation":
        nodes.append(node("Add", ["c", "x"], ["a"]))
    if after != "residual":
        nodes.append(node("Relu", ["a" if after == "both" else "c"], ["r"]))
    content = write(nodes, {"x": x}, {"w": random(3, 3, *(1,) * axes, dtype=dtype)}, [nodes[-1].output[0]])
    [wanted] = ReferenceEvaluator(content).run(None, {"x": x})
    assert_close(dwcpu.load_onnx(content)(x), [wanted], 2e-3 if kind == "float16" else 2e-5)


# --- residuals, weights that are no constants -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(2, 4, 5, 6), (1, 4, 1, 1), (4, 1, 1), (6,), (1,), (2, 1, 5, 6), (2, 4, 5, 1), (3, 1, 1, 1, 1)]
)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("after", [None, "Relu", "Sigmoid"])
def test_what_is_added_to_a_convolution_may_be_broadcast(shape, order, after) -> None:
    feeds = {"x": random(2, 3, 5, 6), "r": random(*shape)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", [["c", "r"], ["r", "c"]][order], ["y"])]
    nodes += [node(after, ["y"], ["z"])] if after else []
    agree(write(nodes, feeds, {"w": random(4, 3, 1, 1)}, [nodes[-1].output[0]]), feeds)


def test_a_convolution_may_be_smaller_than_what_is_added() -> None:
    feeds = {"x": random(1, 3, 1, 1), "r": random(2, 4, 5, 6)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "r"], ["a"]), node("Relu", ["a"], ["y"])]
    agree(write(nodes, feeds, {"w": random(4, 3, 1, 1)}), feeds)


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Concat"])
def test_a_convolution_may_meet_itself(op) -> None:
    x = random(2, 3, 5, 6)
    nodes = [node("Conv", ["x", "w"], ["c"]), node(op, ["c", "c"], ["s"], **({"axis": 1} if op == "Concat" else {}))]
    nodes += [node("Relu", ["s"], ["y"])]
    agree(write(nodes, {"x": x}, {"w": random(4, 3, 1, 1)}), {"x": x})


@pytest.mark.parametrize("first", ["Relu", "Sigmoid", None])
@pytest.mark.parametrize("last", ["Relu", "HardSwish", None])
@pytest.mark.parametrize("groups", [1, 8])
def test_activations_stand_before_and_after_residuals(first, last, groups) -> None:
    x = random(2, 8, 5, 6)
    nodes = [node("Conv", ["x", "w"], ["c"], group=groups, pads=[1, 1, 1, 1])]
    nodes += [node(first, ["c"], ["f"])] if first else []
    nodes.append(node("Add", [nodes[-1].output[0], "x"], ["s"]))
    nodes += [node(last, ["s"], ["l"])] if last else []
    agree(write(nodes, {"x": x}, {"w": random(8, 8 // groups, 3, 3)}, [nodes[-1].output[0]]), {"x": x})


def test_weights_and_biases_may_be_inputs() -> None:
    feeds = {"x": random(2, 4, 7, 7), "w": random(6, 2, 3, 3), "b": random(6)}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], group=2, strides=[2, 1], pads=[1, 0, 1, 2]),
        node("Relu", ["c"], ["r"]),
        node("Mul", ["r", "k"], ["y"]),
    ]
    model = agree(write(nodes, feeds, {"k": random(6, 1, 1)}), feeds)
    feeds["w"] = feeds["w"] * 2  # and may change from call to call
    assert_close(model(feeds), by_onnxruntime(write(nodes, feeds, {"k": random(6, 1, 1)}), feeds))
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    feeds = {"x": random(2, 4, 5, 5), "w": random(4, 3, 2, 3)}
    agree(write(nodes, feeds), feeds)
    feeds = {"x": random(2, 4, 5, 5), "b": random(6)}
    nodes = [node("Conv", ["x", "w", "b"], ["c"]), node("Relu", ["c"], ["y"])]
    agree(write(nodes, feeds, {"w": random(6, 4, 1, 1)}), feeds)


def test_weights_may_be_computed() -> None:
    x = random(2, 4, 7, 7)
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
        node("Conv", ["x", "t"], ["c"], pads=[1, 1, 1, 1]),
        node("ReduceMean", ["c", "axes"], ["m"]),
        node("Conv", ["x", "v"], ["d"]),
        node("Mul", ["d", "m"], ["y"]),
        node("Mul", ["u", "two"], ["v"]),
    ]
    constants = {"w": random(3, 3, 4, 5), "axes": ints(1, 2, 3), "u": random(5, 4, 1, 1), "two": number(2)}
    agree(write(nodes, {"x": x}, constants), {"x": x})


@pytest.mark.parametrize("name", ["mobilenet_v3", "unet"])
def test_constants_may_be_listed_among_the_inputs(name, models) -> None:
    proto = onnx.load_from_string(NETWORKS[name][0]())
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = dwcpu.load_onnx(proto.SerializeToString())
    assert [spec.name for spec in model.inputs] == ["x"]
    assert_same_bits(model(network_input(name)), models[name](network_input(name)))


# --- older operator sets ----------------------------------------------------------------------------------------------

X4 = random(2, 4, 5, 6)
STATISTICS = {"s": random(4), "b": random(4, seed=1), "m": random(4, seed=2), "v": np.abs(random(4, seed=3))}
OLDER: dict[str, tuple[list[Any], dict[str, np.ndarray], tuple[int, ...]]] = {
    "Clip by attributes": ([node("Clip", ["x"], ["y"], min=-0.5, max=0.75)], {}, (7, 9, 10)),
    "Clip by one attribute": ([node("Clip", ["x"], ["y"], max=0.5)], {}, (7, 9, 10)),
    "Clip without any": ([node("Clip", ["x"], ["y"])], {}, (7, 9, 10, 11, 12, 13)),
    "Clip by inputs": ([node("Clip", ["x", "", "k"], ["y"])], {"k": number(0.5)}, (11, 12, 13)),
    "Pad by attributes": ([node("Pad", ["x"], ["y"], pads=[0, 1, 2, 0, 0, 0, 1, 3], value=2.5)], {}, (7, 9, 10)),
    "Pad that cuts off more than there is": (
        [node("Pad", ["x", "p", "k"], ["y"])], {"p": ints(0, 0, -9, 3, 0, 0, 5, -1), "k": number(3)}, (11, 13),
    ),
    "Pad that does so at the other end": (
        [node("Pad", ["x", "p", "k"], ["y"])], {"p": ints(0, 0, 4, 0, 0, 0, -8, 0), "k": number(3)}, (11, 13),
    ),
    "Pad with a mode": ([node("Pad", ["x"], ["y"], pads=[0, 0, 2, 1, 0, 0, 1, 3], mode="reflect")], {}, (7, 10)),
    "Pad by inputs": (
        [node("Pad", ["x", "p", "k"], ["y"])], {"p": ints(0, 0, -1, 1, 0, 2, 0, 0), "k": number(3)}, (11, 13),
    ),
    "Slice by attributes": ([node("Slice", ["x"], ["y"], starts=[1, -3], ends=[3, 100], axes=[2, 3])], {}, (7, 9)),
    "Slice without axes": ([node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, -1])], {}, (7, 9)),
    "Slice by inputs": (
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        {"s": ints(-1, 4), "e": ints(-100, 0), "a": ints(3, 2), "t": ints(-2, -1)}, (10, 11, 13),
    ),
    "Squeeze": ([node("GlobalMaxPool", ["x"], ["g"]), node("Squeeze", ["g"], ["y"], axes=[3, 2])], {}, (7, 9, 11)),
    "Squeeze of all": ([node("GlobalMaxPool", ["x"], ["g"]), node("Squeeze", ["g"], ["y"])], {}, (7, 11, 13)),
    "Squeeze by input": (
        [node("GlobalMaxPool", ["x"], ["g"]), node("Squeeze", ["g", "a"], ["y"])], {"a": ints(-1)}, (13,),
    ),
    "Unsqueeze": ([node("Unsqueeze", ["x"], ["y"], axes=[0, 3])], {}, (7, 9, 11)),
    "Unsqueeze by input": ([node("Unsqueeze", ["x", "a"], ["y"])], {"a": ints(5, 0)}, (13,)),
    "ReduceSum": ([node("ReduceSum", ["x"], ["y"], axes=[1, 3], keepdims=0)], {}, (7, 9, 11)),
    "ReduceSum of all": ([node("ReduceSum", ["x"], ["y"], keepdims=0)], {}, (7, 11, 13)),
    "ReduceSum by input": ([node("ReduceSum", ["x", "a"], ["y"])], {"a": ints(-1)}, (13, 17)),
    "ReduceSum of none": (
        [node("ReduceSum", ["x", "a"], ["y"], noop_with_empty_axes=1)], {"a": np.empty(0, np.int64)}, (13, 17),
    ),
    "ReduceMean": ([node("ReduceMean", ["x"], ["y"], axes=[2, 3])], {}, (7, 9, 11, 13)),
    "ReduceMax": ([node("ReduceMax", ["x"], ["y"], axes=[-1], keepdims=0)], {}, (11, 13)),
    "ReduceL2": ([node("ReduceL2", ["x"], ["y"], axes=[1])], {}, (7, 11, 13)),
    "Split": (
        [node("Split", ["x"], ["d", "e"], axis=3, split=[2, 4]), node("Concat", ["e", "d"], ["y"], axis=3)],
        {}, (7, 11),
    ),
    "Split in halves": ([node("Split", ["x"], ["a", "b"], axis=1), node("Sub", ["b", "a"], ["y"])], {}, (7, 11, 13)),
    "Split by input": (
        [node("Split", ["x", "s"], ["d", "e"], axis=-1), node("Concat", ["e", "d"], ["y"], axis=3)],
        {"s": ints(5, 1)}, (13,),
    ),
    "Softmax": ([node("Softmax", ["x"], ["y"])], {}, (7, 9, 11, 13)),
    "Softmax from an axis": ([node("Softmax", ["x"], ["y"], axis=2)], {}, (7, 9, 11, 13)),
    "LogSoftmax": ([node("LogSoftmax", ["x"], ["y"], axis=3)], {}, (7, 9, 11, 13)),
    "Upsample by attribute": ([node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0])], {}, (7, 8)),
    "Upsample": ([node("Upsample", ["x", "s"], ["y"], mode="linear")], {"s": np.float32([1, 1, 2, 2])}, (9,)),
    "Upsample by a fraction": ([node("Upsample", ["x", "s"], ["y"])], {"s": np.float32([1, 1, 1.5, 2.5])}, (9,)),
    "Resize": ([node("Resize", ["x", "s"], ["y"], mode="linear")], {"s": np.float32([1, 1, 2, 0.5])}, (10,)),
    "Resize to the nearest": ([node("Resize", ["x", "s"], ["y"])], {"s": np.float32([1, 1, 3, 0.5])}, (10,)),
    "Resize with regions": (
        [node("Resize", ["x", "r", "s"], ["y"], mode="cubic")],
        {"r": np.empty(0, np.float32), "s": np.float32([1, 1, 2, 2])}, (11, 13),
    ),
    "Resize to sizes": (
        [node("Resize", ["x", "r", "s", "z"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")],
        {"r": np.empty(0, np.float32), "s": np.empty(0, np.float32), "z": ints(2, 4, 9, 11)}, (11, 13),
    ),
    "Dropout": ([node("Dropout", ["x"], ["d"], ratio=0.4), node("Neg", ["d"], ["y"])], {}, (7, 10, 11)),
    "Dropout by inputs": (
        [node("Dropout", ["x", "r"], ["d"]), node("Neg", ["d"], ["y"])], {"r": number(0.4)}, (12, 13),
    ),
    "Dropout not in training": (
        [node("Dropout", ["x", "r", "t"], ["d", "mask"]), node("Where", ["mask", "d", "r"], ["y"])],
        {"r": number(0.4), "t": np.array(False)}, (12, 13),
    ),
    "BatchNormalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-2, momentum=0.8)],
        STATISTICS, (7, 9, 11, 13, 15),
    ),
    "BatchNormalization of every channel": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], spatial=1)],
        STATISTICS, (7, 8),
    ),
    "PRelu": ([node("PRelu", ["x", "s"], ["y"])], {"s": random(4, 1, 1)}, (7, 9, 13)),
    "Flatten": ([node("Flatten", ["x"], ["y"], axis=3)], {}, (7, 9, 11, 13)),
    "Gemm": (
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", "c"], ["y"], transB=1, alpha=0.5)],
        {"w": random(3, 120), "c": random(3)}, (7, 9, 11, 13),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "opset"), [(what, opset) for what, (_, _, opsets) in OLDER.items() for opset in opsets]
)
def test_operators_mean_what_their_version_says(what, opset) -> None:
    nodes, constants, _ = OLDER[what]
    agree(write(nodes, {"x": X4}, constants, opset=opset), {"x": X4}, 1e-4 if "Resize" in what else 2e-5)
    if "Upsample" not in what:  # behind a convolution, images lie in memory with their channels last
        first = copy.deepcopy(nodes[0])
        first.input[0] = "conv"
        before = node("Conv", ["x", "pointwise"], ["conv"])
        feeds, more = {"x": X4}, {"pointwise": random(4, 4, 1, 1)}
        agree(write([before, first, *nodes[1:]], feeds, {**constants, **more}, opset=opset), feeds, 1e-4)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
def test_broadcasting_by_attributes_aligns_axes(op) -> None:
    """Operator set 6, which onnxruntime does not run."""
    x = np.abs(X4) + 1
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}[op]
    for axis, shape in ((0, (2,)), (1, (4,)), (1, (4, 5)), (2, (5, 6)), (3, (6,))):
        k = np.abs(random(*shape)) + 0.5
        content = write([node(op, ["x", "k"], ["y"], broadcast=1, axis=axis)], {"x": x}, {"k": k}, opset=6)
        wanted = function(x, k.reshape(*shape, *(1,) * (4 - axis - len(shape))))
        np.testing.assert_allclose(dwcpu.load_onnx(content)(x), wanted, rtol=1e-6)
    k = np.abs(random(5, 6)) + 0.5
    content = write([node(op, ["x", "k"], ["y"], broadcast=1)], {"x": x}, {"k": k}, opset=6)
    np.testing.assert_allclose(dwcpu.load_onnx(content)(x), function(x, k), rtol=1e-6)


# --- random graphs ----------------------------------------------------------------------------------------------------


KINDS = (
    "conv", "dw", "act", "silu", "gelu", "hardswish", "add", "mul", "channels", "perm", "merge", "concat", "split",
    "mean", "softmax", "pool", "matmul", "pad", "norm", "resize",
)  # fmt: skip


def random_graph(rng: Random) -> tuple[bytes, dict[str, np.ndarray]]:
    """Some nodes in a row or side by side, whatever fits onto the shapes that are there."""
    b = Builder(rng.randrange(2**32))
    x = random(rng.choice((1, 2)), 8, rng.randint(4, 7), rng.randint(4, 7), seed=rng.randrange(99))
    values: list[tuple[str, tuple[int, ...]]] = [("x", x.shape)]
    for _ in range(rng.choice((3, 6, 10))):
        name, shape = rng.choice(values[-4:])
        axes, size = len(shape), int(np.prod(shape))
        kind = rng.choice(KINDS)
        if axes != 4 and kind in ("conv", "dw", "pool", "norm", "channels", "resize"):
            continue
        if kind == "conv":
            out = rng.choice((4, 8, 12))
            values.append((b.conv(name, shape[1], out, norm=rng.random() < 0.5), (shape[0], out, *shape[2:])))
        elif kind == "dw":
            values.append(
                (b.conv(name, shape[1], shape[1], 3, groups=shape[1], act=rng.choice((None, "relu6"))), shape)
            )
        elif kind == "act":
            values.append((b.act(name, rng.choice(("relu", "sigmoid", "tanh", "hardswish"))), shape))
        elif kind in ("silu", "gelu", "hardswish"):
            values.append((b.act(name, {"hardswish": "hardswish_decomposed"}.get(kind, kind)), shape))
        elif kind in ("add", "mul"):
            other, its = rng.choice(values)
            try:
                both = np.broadcast_shapes(shape, its)
            except ValueError:
                continue
            if np.prod(both) < 20000:
                pair = [name, other]
                rng.shuffle(pair)
                values.append((b.add(kind.capitalize(), *pair), both))
        elif kind == "channels":
            op = rng.choice(("Add", "Mul", "Sub", "Div"))
            values.append((b.add(op, name, b.constant(b.rng.uniform(0.5, 1.5, (shape[1], 1, 1)))), shape))
        elif kind == "perm":
            order = list(range(axes))
            rng.shuffle(order)
            order = rng.choice(([0, 2, 3, 1], [0, 3, 1, 2], order)) if axes == 4 else order
            values.append((b.add("Transpose", name, perm=order), tuple(shape[at] for at in order)))
        elif kind == "merge" and axes > 1:
            at = rng.randrange(axes - 1)
            sizes = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
            values.append((b.add("Reshape", name, b.ints(*sizes)), sizes))
        elif kind == "concat":
            axis = rng.randrange(axes)
            rest = (*shape[:axis], *shape[axis + 1 :])
            others = [v for v in values if len(v[1]) == axes and (*v[1][:axis], *v[1][axis + 1 :]) == rest]
            chosen = [rng.choice(others), (name, shape)]
            total = sum(each[1][axis] for each in chosen)
            values.append(
                (b.add("Concat", *(each[0] for each in chosen), axis=axis), (*shape[:axis], total, *shape[axis + 1 :]))
            )
        elif kind == "split":
            axis = rng.randrange(axes)
            if shape[axis] < 2:
                continue
            cut = rng.randrange(1, shape[axis])
            parts = b.add("Split", name, b.ints(cut, shape[axis] - cut), outputs=2, axis=axis)
            for part, length in zip(parts, (cut, shape[axis] - cut), strict=True):
                values.append((part, (*shape[:axis], length, *shape[axis + 1 :])))
        elif kind == "mean":
            gone = sorted(rng.sample(range(axes), rng.randint(1, axes))) if rng.random() < 0.5 or axes < 4 else [2, 3]
            sizes = tuple(1 if at in gone else length for at, length in enumerate(shape))
            values.append((b.add("ReduceMean", name, b.ints(*gone), keepdims=1), sizes))
        elif kind == "softmax":
            values.append((b.add("Softmax", name, axis=rng.randrange(-axes, axes)), shape))
        elif kind == "pool" and min(shape[2:]) > 1:
            op = rng.choice(("MaxPool", "AveragePool"))
            sizes = (*shape[:2], *((length - 2) // 2 + 1 for length in shape[2:]))
            values.append((b.add(op, name, kernel_shape=[2, 2], strides=[2, 2]), sizes))
        elif kind == "matmul":
            y = b.add("MatMul", name, b.random(shape[-1], 5, scale=0.5))
            values.append((b.add("Add", y, b.random(5)) if rng.random() < 0.5 else y, (*shape[:-1], 5)))
        elif kind == "pad":
            amounts = [rng.choice((0, 0, 1)) for _ in range(2 * axes)]
            sizes = tuple(map(sum, zip(shape, amounts[:axes], amounts[axes:], strict=True)))
            values.append((b.add("Pad", name, b.ints(*amounts)), sizes))
        elif kind == "norm":
            values.append((b.norm(name, shape[1]), shape))
        elif kind == "resize" and size < 3000:
            sizes = (*shape[:2], 2 * shape[2], 2 * shape[3])
            mode = rng.choice(("nearest", "linear"))
            values.append((b.add("Resize", name, "", b.constant([1, 1, 2, 2]), mode=mode), sizes))
    made = [name for name, _ in values[1:]] or [b.act("x", "relu")]
    outputs = list(dict.fromkeys([made[-1], *rng.sample(made, min(len(made), rng.choice((0, 1, 2))))]))
    return b.model("random", outputs, x_shape=None), {"x": x}


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_graphs_of_random_nodes(seed) -> None:
    content, feeds = random_graph(Random(seed))
    model = agree(content, feeds, 1e-4)
    turned = model(np.ascontiguousarray(feeds["x"].transpose(0, 2, 3, 1)), layout="NHWC", num_threads=2)
    for result, wanted in zip(several(turned), several(model(feeds)), strict=True):
        result = result.transpose(0, 3, 1, 2) if result.ndim == 4 else result
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max(initial=1)))
