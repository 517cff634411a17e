"""Which nodes run on kernels rather than on NumPy, and that they give what onnxruntime gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import dwcpu
from dwcpu import runtime
from dwcpu.pipeline import Pass

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_graphs import agree  # noqa: E402
from onnx_networks import Builder  # noqa: E402
from onnx_passes import expected, node, random, write  # noqa: E402

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")


def halves(b: Builder, x: str) -> list[str]:
    """Views with gaps: no kernel of ours reads them as they lie."""
    found: list[str] = b.add("Split", b.conv(x, 3, 24, norm=False), b.ints(12, 12), outputs=2, axis=1)
    return found


def transposed(b: Builder, x: str, groups: int, act: str | None) -> str:
    w, bias = b.random(12, 12 // groups, 3, 2), b.random(12)
    y = b.add("ConvTranspose", b.conv(x, 3, 12, norm=False), w, bias, strides=[2, 3], pads=[1, 0, 1, 1], group=groups)
    return b.act(y, act)


def upsampled(b: Builder, x: str, size: int, out: int, **options: object) -> str:
    """A transposed convolution that runs as one of another kind."""
    y = b.conv(x, 3, 12, norm=False)
    return b.act(b.add("ConvTranspose", y, b.random(12, out, size, size), b.random(out), **options), "relu6")


def attention(b: Builder, x: str) -> str:
    """Two heads over the pixels."""
    y = b.add("Transpose", b.add("Reshape", b.conv(x, 3, 24), b.ints(1, 3, 2, 4, 110)), perm=[1, 0, 2, 4, 3])
    q, k, v = (b.add("Gather", y, b.constant(at, np.int64), axis=0) for at in range(3))
    q = b.add("Mul", q, b.constant(0.5))
    weights = b.add("Softmax", b.add("MatMul", q, b.add("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = b.add("Reshape", b.add("Transpose", b.add("MatMul", weights, v), perm=[0, 2, 1, 3]), b.ints(1, 110, 8))
    return str(b.add("LayerNormalization", y, b.random(8), b.random(8), axis=-1))


def padded(b: Builder, x: str, mode: str, *pads: int) -> str:
    return str(b.add("Pad", b.conv(x, 3, 9), b.ints(*pads), mode=mode))


def groups(
    b: Builder, x: str, count: int, *, to: tuple[int, ...] = (1, 12, 10, 11), scale: bool = True, bias: bool = True,
    act: str | None = None, turned: bool = False,
) -> str:  # fmt: skip
    """Groups of 12 channels normalised, as PyTorch exports it."""
    y = b.add("Reshape", b.conv(x, 3, 12, 3), b.ints(0, count, -1))
    y = b.add("InstanceNormalization", y, b.random(count), b.random(count), epsilon=1e-3)
    y = b.add("Reshape", y, b.ints(*to))
    y = b.add("Mul", *[y, b.random(12, 1, 1)][:: -1 if turned else 1]) if scale else y
    y = b.add("Add", *[y, b.random(1, 12, 1, 1)][:: -1 if turned else 1]) if bias else y
    return b.act(y, act)


def instances(b: Builder, x: str, *sizes: int) -> str:
    y = b.add("Reshape", b.conv(x, 3, 12), b.ints(*sizes, -1))
    return str(b.add("InstanceNormalization", y, b.random(sizes[1]), b.random(sizes[1])))


#: What is built on x, and the kernels that must be among those that run.
GRAPHS: dict[str, tuple[Callable[[Builder], str], list[str]]] = {
    "a sum of views": (lambda b: b.add("Add", *halves(b, "x")), ["add"]),
    "a sum of a view and a whole": (lambda b: b.add("Add", b.conv("x", 3, 12, 3), halves(b, "x")[1]), []),
    "a sum of an image and one that lies otherwise": (lambda b: b.add("Add", b.conv("x", 3, 3, 3), "x"), []),
    "a product of tensors": (
        lambda b: b.add("Mul", b.conv("x", 3, 9, norm=False), b.conv("x", 3, 9, act="sigmoid")), ["multiply"],
    ),
    "a gate": (
        lambda b: b.add("Mul", b.add("Tanh", (parts := halves(b, "x"))[0]), b.act(parts[1], "sigmoid")),
        ["tanh, sigmoid, multiply"],
    ),
    "a gate of one, and an activation": (
        lambda b: b.act(b.add("Add", halves(b, "x")[0], b.act(halves(b, "x")[1], "sigmoid")), "relu6"),
        ["sigmoid, add"],
    ),
    "a gate of every image": (
        lambda b: b.add("Mul", b.conv("x", 3, 12), b.act(b.add("GlobalAveragePool", halves(b, "x")[0]), "sigmoid")),
        ["mean", "map, multiply"],
    ),
    "a gate of other functions": (
        lambda b: b.add("Sub", b.add("Tanh", halves(b, "x")[0]), b.add("Gelu", halves(b, "x")[1], approximate="none")),
        ["tanh, gelu, subtract"],
    ),
    "a clamp is none": (
        lambda b: b.add("Mul", b.act(halves(b, "x")[0], "relu"), halves(b, "x")[1]), ["map, multiply"],
    ),
    "a mean of one pixel": (
        lambda b: b.conv(b.add("GlobalAveragePool", b.conv(b.add("GlobalAveragePool", "x"), 3, 9)), 9, 5), ["view"],
    ),
    "a product of views": (lambda b: b.add("Mul", *halves(b, "x")), ["multiply"]),
    "slopes of channels": (lambda b: b.add("PRelu", b.conv("x", 3, 9), b.random(9, 1, 1)), ["prelu"]),
    "slopes of pixels": (lambda b: b.add("PRelu", b.conv("x", 3, 2), b.random(10, 11)), ["prelu"]),
    "a transposed convolution": (lambda b: transposed(b, "x", 1, None), ["transposed"]),
    "one with an activation": (lambda b: transposed(b, "x", 1, "relu6"), ["transposed"]),
    "one with another": (lambda b: transposed(b, "x", 1, "hardswish"), ["transposed"]),
    "a transposed depthwise convolution": (lambda b: transposed(b, "x", 12, "silu"), ["transposed"]),
    "a transposed one in groups": (lambda b: transposed(b, "x", 3, "relu"), ["numpy, map"]),
    "phase by phase, in groups": (
        lambda b: b.add("ConvTranspose", b.conv("x", 3, 12), b.random(12, 2, 4, 2), strides=[2, 2], group=3), ["conv"],
    ),
    "products of what is spread": (
        lambda b: b.add(
            "Mul", b.add("Expand", b.conv("x", 3, 9, 3, stride=2), b.ints(4, 9, 5, 6)),
            b.add("Expand", b.conv("x", 3, 9, 3, stride=2), b.ints(4, 9, 5, 6)),
        ), ["multiply"],
    ),
    "phase by phase": (lambda b: upsampled(b, "x", 4, 9, strides=[2, 2], pads=[1, 1, 1, 1]), ["conv"]),
    "phase by phase, cut unevenly": (
        lambda b: upsampled(b, "x", 6, 2, strides=[3, 2], pads=[0, 1, 3, 2], output_padding=[0, 1]), ["conv"],
    ),
    "phases that are whole": (lambda b: upsampled(b, "x", 2, 16, strides=[2, 2]), ["pointwise"]),
    "at stride 1, dilated": (lambda b: upsampled(b, "x", 3, 9, dilations=[2, 1], pads=[1, 1, 2, 1]), ["conv"]),
    "so far cut that a convolution would be": (
        lambda b: upsampled(b, "x", 2, 3, strides=[2, 2], pads=[4, 0, 0, 0]), ["transposed"],
    ),
    "attention": (lambda b: attention(b, "x"), ["products", "softmax", "layer_norm", "map", "view"]),
    "a product of a vector": (
        lambda b: b.add(
            "MatMul", b.add("Reshape", b.conv("x", 3, 5), b.ints(5, 110)),
            b.add("Reshape", b.conv("x", 3, 1), b.ints(110)),
        ), ["numpy"],
    ),
    "entries of an axis": (
        lambda b: b.add("Add", b.add("Gather", b.conv("x", 3, 12), b.ints(-1, 5, 0), axis=1), "x"), ["numpy"],
    ),
    "entries at equal distances": (
        lambda b: b.add(
            "Add", b.add("Gather", b.conv("x", 3, 12), b.ints(1, 4, 7), axis=1),
            b.add("Gather", b.conv("x", 3, 12), b.ints(-2, -3, -4), axis=1),
        ), ["view", "add"],
    ),
    "the same entry twice": (lambda b: b.add("Gather", b.conv("x", 3, 4), b.ints(2, 2), axis=1), ["numpy"]),
    "normalised channels": (
        lambda b: b.add("InstanceNormalization", b.conv("x", 3, 9), b.random(9), b.random(9), epsilon=1e-3),
        ["instance_norm"],
    ),
    "and their activation": (
        lambda b: b.act(b.add("InstanceNormalization", b.conv("x", 3, 19), b.random(19), b.random(19)), "hardswish"),
        ["instance_norm"],
    ),
    "groups of channels": (lambda b: groups(b, "x", 3), ["group_norm"]),
    "groups, and an activation": (lambda b: groups(b, "x", 4, act="silu", turned=True), ["group_norm"]),
    "one group": (lambda b: groups(b, "x", 1, scale=False), ["group_norm"]),
    "groups without a bias": (lambda b: groups(b, "x", 2, bias=False, act="relu"), ["group_norm"]),
    "groups without either": (lambda b: groups(b, "x", 6, scale=False, bias=False), ["group_norm"]),
    "groups to other axes": (
        lambda b: groups(b, "x", 3, to=(1, 12, 11, 10), act="relu6"), ["copy, instance_norm, multiply, add, map"],
    ),
    "groups that are no channels": (
        lambda b: groups(b, "x", 5, scale=False, bias=False, act="hardswish"), ["copy, instance_norm, map"],
    ),
    "groups among images": (  # of which there are more afterwards
        lambda b: b.add("Reshape", instances(b, "x", 3, 4), b.ints(1, 12, 10, 11)), ["view, instance_norm, copy"],
    ),
    "groups of a value that is read again": (
        lambda b: b.add("Add", y := groups(b, "x", 3, bias=False), b.add("Sigmoid", y)), ["group_norm"],
    ),
    "mirrored edges": (lambda b: padded(b, "x", "reflect", 0, 0, 2, 9, 0, 0, 9, 10), ["copy"]),
    "edges, some further than there are pixels": (lambda b: padded(b, "x", "edge", 0, 0, 20, 1, 0, 0, 0, 3), ["copy"]),
    "a torus": (lambda b: padded(b, "x", "wrap", 0, 0, 10, 1, 0, 0, 0, 11), ["copy"]),
    "a torus wound twice": (lambda b: padded(b, "x", "wrap", 0, 0, 11, 0, 0, 0, 0, 0), ["numpy"]),
    "mirrored along three axes": (lambda b: padded(b, "x", "reflect", 0, 1, 1, 1, 0, 0, 0, 0), ["numpy"]),
    "a mirror that is cut": (lambda b: padded(b, "x", "reflect", 0, 0, 2, -1, 0, 0, 0, 0), ["numpy"]),
    "a sum of what lies otherwise": (
        lambda b: b.add(
            "Add",
            b.add("Transpose", b.add("Reshape", b.conv("x", 3, 10), b.ints(1, 10, 110)), perm=[0, 2, 1]),
            b.add("Reshape", b.add("Transpose", b.conv("x", 3, 10, 3), perm=[0, 3, 2, 1]), b.ints(1, 110, 10)),
        ), ["add"],
    ),
    "channels of a signal, scaled": (
        lambda b: b.add(
            "Mul", b.add("Reshape", b.conv("x", 3, 9, 3), b.ints(1, 9, 110)),
            b.add("Reshape", b.add("GlobalAveragePool", b.conv("x", 3, 9)), b.ints(1, 9, 1)),
        ), ["multiply"],
    ),
    "a map of pixels, scaled": (
        lambda b: b.add("Mul", b.conv("x", 3, 9, 3), b.conv("x", 3, 1, act="sigmoid")), ["multiply"],
    ),
    "positions of tokens": (
        lambda b: b.add(
            "Add", b.random(1, 110, 9),
            b.add("Transpose", b.add("Reshape", b.conv("x", 3, 9, 3), b.ints(1, 9, 110)), perm=[0, 2, 1]),
        ), ["add"],
    ),
    "what is taken from tensors, and its activation": (
        lambda b: b.act(b.add("Sub", b.conv("x", 3, 9, 3), b.conv("x", 3, 9, act="relu")), "hardswish"), ["subtract"],
    ),
    "quotients": (
        lambda b: b.add("Div", b.add("Div", b.constant(2), b.conv("x", 3, 9, act="sigmoid")), b.conv("x", 3, 9)),
        ["divide"],
    ),
    "the larger and the smaller": (
        lambda b: b.add("Max", b.add("Min", b.conv("x", 3, 9, 3), b.random(9, 1, 1)), b.conv("x", 3, 9)),
        ["maximum", "minimum"],
    ),
    "functions": (
        lambda b: b.add(
            "Elu", b.add("Mish", b.add("Gelu", b.add("Erf", b.add("Tanh", b.conv("x", 3, 9))), approximate="tanh"))
        ), ["elu", "erf", "gelu_tanh", "mish", "tanh"],
    ),
    "roots of sizes": (lambda b: b.add("Sqrt", b.add("Abs", b.conv("x", 3, 9))), ["abs", "sqrt"]),
    "squares": (lambda b: b.add("Pow", b.conv("x", 3, 9), b.constant(2.0)), ["multiply"]),
    "cubes": (lambda b: b.add("Pow", b.conv("x", 3, 9), b.constant(3.0)), ["numpy"]),
    "the type that it has anyway": (lambda b: b.add("Cast", b.conv("x", 3, 9), to=1), ["view"]),
    "a normalisation before its convolution": (
        lambda b: b.conv(b.act(b.norm(b.act(b.conv("x", 3, 9), "relu"), 9), "relu"), 9, 4), ["depthwise"],
    ),
    "shares along rows": (lambda b: b.add("Softmax", b.conv("x", 3, 9), axis=2), ["softmax"]),
    "shares along the channels of the input": (lambda b: b.add("Softmax", "x", axis=1), ["softmax"]),
    "the largest of all pixels": (lambda b: b.add("GlobalMaxPool", b.conv("x", 3, 9)), ["maximum"]),
    "maps of channels": (
        lambda b: b.add(
            "Concat", b.add("ReduceMax", b.conv("x", 3, 9), b.ints(1)),
            b.add("ReduceMean", b.conv("x", 3, 9), b.ints(-3)), axis=1,
        ), ["maximum", "mean", "copy"],
    ),
    "the smallest of some axes": (
        lambda b: b.add("ReduceMin", b.conv("x", 3, 9), b.ints(3, 2), keepdims=0), ["minimum"],
    ),
    "the mean of tokens": (
        lambda b: b.add(
            "ReduceMean",
            b.add("Transpose", b.add("Reshape", b.conv("x", 3, 9), b.ints(1, 9, 110)), perm=[0, 2, 1]), b.ints(1),
            keepdims=0,
        ), ["mean"],
    ),
    "lengths of channels": (lambda b: b.add("ReduceL2", b.conv("x", 3, 9), b.ints(2, 3)), ["length"]),
    "squares of rows": (lambda b: b.add("ReduceSumSquare", b.conv("x", 3, 9), b.ints(3), keepdims=0), ["squares"]),
    "squares of one each": (lambda b: b.add("ReduceSumSquare", "x", b.ints(0)), ["numpy"]),
    "the sum of everything": (lambda b: b.add("ReduceSum", b.conv("x", 3, 9), keepdims=0), ["sum"]),
    "sums of rows and channels": (lambda b: b.add("ReduceSum", b.conv("x", 3, 9), b.ints(1, 2)), ["numpy"]),
    "a resized image": (
        lambda b: b.add("Resize", b.conv("x", 3, 9), "", b.constant([1, 1, 2.5, 0.6]), mode="linear"), ["resize"],
    ),
    "channels that become pixels": (
        lambda b: b.conv(b.add("DepthToSpace", b.conv("x", 3, 12), blocksize=2), 3, 4), ["copy"],
    ),
    "in the other order": (
        lambda b: b.conv(b.add("DepthToSpace", b.conv("x", 3, 12), blocksize=2, mode="CRD"), 3, 4), ["copy"],
    ),
    "pixels that become channels": (
        lambda b: b.conv(b.add("SpaceToDepth", b.conv("x", 3, 5, 3, pads=[0, 0, 2, 1]), blocksize=2), 20, 4), ["copy"],
    ),
    "channels that are shuffled": (
        lambda b: b.conv(
            b.add(
                "Reshape",
                b.add("Transpose", b.add("Reshape", b.conv("x", 3, 12), b.ints(1, 3, 4, 10, 11)), perm=[0, 2, 1, 3, 4]),
                b.ints(1, 12, 10, 11),
            ), 12, 8,
        ), ["copy"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_run_it_and_agree(name, threads) -> None:
    write, kernels = GRAPHS[name]
    builder = Builder(3, folded=True)
    content = builder.model(name, [write(builder)], opset=20)
    x = np.random.default_rng(4).standard_normal((1, 3, 10, 11)).astype(np.float32)
    model = agree(content, {"x": x})
    rows = model.explain(x.shape, threads).rows
    found = [row.kernel.partition("_f32")[0] for row in rows]
    assert set(kernels) <= set(found)
    assert "numpy" in kernels or "numpy" not in found
    assert model(x, num_threads=threads).tobytes() == model(x, num_threads=1).tobytes()


@pytest.mark.parametrize("at", [0, 4, -1])
def test_one_entry_of_a_vector_is_a_view_without_axes(at) -> None:
    b, x = Builder(10), np.arange(6, dtype=np.float32) + 1
    entry = b.add("Gather", b.add("Sigmoid", "x"), b.constant(at, np.int64))
    outputs = [b.add("Gather", "x", b.constant(at, np.int64)), b.add("Relu", entry), entry]
    agree(b.model("entries", outputs, x_shape=(6,)), {"x": x})


@pytest.mark.parametrize("op", ["Add", "Div", "Max", "Mul", "Sub"])
def test_tensors_that_are_spread_along_the_axis_that_others_are_read_along(op) -> None:
    b, x = Builder(11), np.arange(6, dtype=np.float32).reshape(6, 1) + 1
    wide = b.add("Expand", "x", b.ints(6, 64))
    outputs = [
        b.add(op, wide, wide),
        b.add(op, wide, "x"),
        b.add(op, b.random(6, 1), wide),
        b.add(op, wide, b.random(64)),
    ]
    agree(b.model("spread", outputs, x_shape=(6, 1)), {"x": x})


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 2), (3, 1), (5, 3), (2, 2)])
def test_infinity_stays_where_windows_of_transposed_convolutions_reach(size, stride, groups) -> None:
    b, x = Builder(12), np.ones((1, 4, 5, 6), np.float32)
    x[0, 1, 2, 3] = np.inf
    y = b.add("ConvTranspose", "x", b.random(4, 3, size, size), strides=[stride, stride], group=groups)
    content = b.model("infinite", [y], x_shape=(1, 4, 5, 6))
    [wanted] = onnxruntime.InferenceSession(content).run(None, {"x": x})
    found = dwcpu.load_onnx(content)(x)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))


def test_activations_run_on_kernels_where_what_comes_before_does_not() -> None:
    b, x = Builder(13), np.random.default_rng(13).standard_normal((1, 3, 4, 3, 2)).astype(np.float32)
    y = b.act(b.add("ConvTranspose", "x", b.random(3, 2, 2, 2, 2)), "hardswish")
    model = agree(b.model("normal", [y], x_shape=x.shape), {"x": x})
    assert [row.kernel for row in model.explain(x.shape).rows] == ["numpy, map"]


def test_outputs_with_their_channels_first_are_kernels_too() -> None:
    """A network that ends in pixels is one row of kernels, without a step in Python."""
    b = Builder(5, folded=True)
    x = np.random.default_rng(5).standard_normal((2, 3, 8, 9)).astype(np.float32)
    model = agree(b.model("pixels", [b.conv("x", 3, 5, 3, act="relu")]), {"x": x})
    plan = model._plan([x], False, 1)
    assert plan.pipeline.launch() is not None


def test_the_row_of_a_dilated_chain_has_the_work_of_all_its_convolutions() -> None:
    b = Builder(6, folded=True)
    x = b.conv("x", 8, 32, act="relu")
    x = b.conv(b.conv(x, 32, 32, 3, groups=32, dilation=2, act="relu"), 32, 16)
    model = agree(b.model("chain", [x], x_shape=("n", 8, "h", "w")), {"x": np.ones((1, 8, 12, 12), np.float32)})
    [row] = [row for row in model.explain((1, 8, 12, 12)).rows if row.flops > 1e5]
    assert row.flops == 2 * 144 * (8 * 32 + 32 * 16) + 2 * 32 * (3 * 12 - 4) ** 2
    assert "pointwise" in row.kernel
    assert "separable" in row.kernel


@pytest.mark.parametrize("size", [1, 3, 11, 13])
@pytest.mark.parametrize("groups", [1, 12])
def test_a_bias_of_another_size_is_refused(groups, size) -> None:
    """Kernels would read what lies behind it."""
    b = Builder(7, folded=True)
    w, bias = b.random(12, 12 // groups, 2, 2), b.random(size)
    y = b.add("ConvTranspose", b.conv("x", 3, 12, norm=False), w, bias, strides=[2, 2], group=groups)
    model = dwcpu.load_onnx(b.model("bias", [y]))
    with pytest.raises(ValueError, match=r"ConvTranspose.*bias has shape"):
        model(np.zeros((1, 3, 4, 4), np.float32))


def test_taps_that_are_far_apart_take_no_memory() -> None:
    b, far = Builder(8, folded=True), 2**40
    w = b.random(3, 5, 3, 3)
    y = b.add("ConvTranspose", "x", w, dilations=[far, 1], pads=[far, 0, far, 0])
    model = dwcpu.load_onnx(b.model("far", [y]))
    x = np.random.default_rng(8).standard_normal((1, 3, 3, 3)).astype(np.float32)
    found = model(x)
    assert found.shape == (1, 5, 3, 5)
    middle = Builder(8, folded=True)
    near = middle.add("ConvTranspose", "x", middle.constant(b.constants[w][:, :, 1:2]))
    np.testing.assert_allclose(found, dwcpu.load_onnx(middle.model("near", [near]))(x), rtol=0, atol=1e-5)


def test_layers_of_chains_with_a_residual_are_shared_among_plans() -> None:
    b = Builder(9, folded=True)
    y = b.conv(b.conv("x", 3, 3, 3, groups=3, act="relu"), 3, 3)
    model = dwcpu.load_onnx(b.model("chain", [b.add("Add", y, "x")]))
    for size in (8, 9, 10):
        model(np.zeros((1, 3, size, size), np.float32))
    assert len(model._plans._specials.of([], False)[1]) == 1


def test_kernels_read_all_inputs_and_write_all_outputs() -> None:
    x, z, w = random(1, 3, 9, 8), random(1, 3, 9, 8, seed=5), random(20, 3, 3, 3)
    nodes = [node("Conv", [name, "w"], [f"c.{name}"], pads=[1, 1, 1, 1]) for name in ("x", "z")]
    nodes += [node("Add", ["c.x", "c.z"], ["s"]), node("Relu", ["z"], ["r"])]
    nodes += [node("MaxPool", [name], [f"m.{name}"], kernel_shape=[2, 2]) for name in ("c.x", "s", "z")]
    results = ["s", "c.z", "r", "m.c.x", "m.s", "m.z", "c.x"]
    nodes += [node("Mul", ["s", f"f{at}"], [f"y{at}"]) for at in range(20)]
    results += [f"y{at}" for at in range(20)]
    constants = {"w": w, **{f"f{at}": np.full(1, at, np.float32) for at in range(20)}}
    content = write(nodes, {"x": x, "z": z}, constants, results, 18)
    model = dwcpu.load_onnx(content)
    for threads in (1, 2):
        for each, wanted in zip(
            model(x, z, num_threads=threads), expected(content, {"x": x, "z": z}, 18), strict=True
        ):  # fmt: skip
            np.testing.assert_allclose(each, wanted, rtol=0, atol=2e-4)
    for plan in model._plans.known.values():
        assert {type(step.operation) for step in plan.pipeline._steps} == {Pass}
