"""Layers: the same results as the functions, from weights of their own, whatever happens around them."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import cases
import numpy as np
import pytest

from dwcpu import background, dispatch, explanations, layers, ops, packing, runtime
from dwcpu.sequential import Sequential

F32 = np.float32
BACKEND = "reference"


@pytest.fixture(params=["reference", "numba", "cython"], autouse=True)
def every_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test on each backend: the reference alone would forgive strides and overlaps that kernels do not."""
    if request.param == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setitem(globals(), "BACKEND", request.param)


def weights(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes))
    return [cases.normal(rng, shape, F32) for shape in shapes]


#: Name -> layer, function, weights and biases, options; for an input with 6 channels.
KINDS = {
    "depthwise": (
        layers.DepthwiseConv2d,
        ops.depthwise_conv2d,
        weights((3, 3, 6, 2), (12,)),
        {"stride": 2, "padding": "same", "activation": "relu6"},
    ),
    "pointwise": (
        layers.PointwiseConv2d,
        ops.pointwise_conv2d,
        weights((6, 9), (9,)),
        {"activation": ("clip", -1, 1)},
    ),
    "separable": (
        layers.SeparableConv2d,
        ops.separable_conv2d,
        weights((3, 3, 6), (6, 9), (6,), (9,)),
        {"padding": ((0, 1), (2, 0)), "dilation": 2, "dw_activation": "relu", "pw_activation": "hardswish"},
    ),
    "inverted": (
        layers.InvertedResidual,
        ops.inverted_residual,
        weights((6, 12), (3, 3, 12), (12, 6), (12,), (12,), (6,)),
        {"stride": 1, "dw_activation": "silu"},
    ),
    "inverted without expansion": (
        layers.InvertedResidual,
        ops.inverted_residual,
        [None, *weights((3, 3, 6), (6, 4))],
        {"stride": (2, 1)},
    ),
    "conv": (
        layers.Conv2d,
        ops.conv2d,
        weights((3, 2, 3, 8), (8,)),
        {"groups": 2, "padding": 1, "activation": ("leaky_relu", 0.1)},
    ),
}

each_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: str, **more):
    make, run, arrays, options = KINDS[kind]
    options = {**options, "backend": BACKEND, **more}
    return make(*arrays, **options), lambda x, **at_call: run(x, *arrays, **options, **at_call)


@pytest.fixture
def x(rng) -> np.ndarray:
    return cases.normal(rng, (2, 9, 8, 6), F32)


@each_kind
def test_gives_what_its_function_gives(kind, x) -> None:
    layer, function = build(kind)
    wanted = function(x)
    for _ in range(3):  # first the front door, then the short way
        assert np.array_equal(layer(x), wanted)
    residual = np.full(wanted.shape, 0.25, F32)
    assert np.array_equal(layer(x, residual=residual), function(x, residual=residual))
    for _ in range(2):
        assert np.array_equal(layer(x[0]), wanted[0])
        assert np.array_equal(layer(x[:1]), wanted[:1])
    assert np.array_equal(layer(np.asfortranarray(x)), wanted)
    assert np.array_equal(layer(x.astype(">f4")), wanted)
    assert layer(x[:0]).shape == (0, *wanted.shape[1:])
    assert layer.out_shape(x.shape) == wanted.shape
    assert layer.out_shape(x.shape[1:]) == wanted.shape[1:]


@each_kind
def test_out(kind, x) -> None:
    layer, function = build(kind)
    wanted = function(x)
    for _ in range(3):
        out = np.full(wanted.shape, np.nan, F32)
        assert layer(x, out=out) is out
        assert np.array_equal(out, wanted)
    strided = np.full((*wanted.shape[:3], 2 * wanted.shape[3]), np.nan, F32)[..., ::2]
    assert layer(x, out=strided) is strided
    assert np.array_equal(strided, wanted)


@each_kind
def test_channels_first(kind, x) -> None:
    layer, _ = build(kind, layout="NCHW")
    wanted = build(kind)[1](x).transpose(0, 3, 1, 2)
    turned = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    for _ in range(2):
        assert np.array_equal(layer(turned), wanted)
    assert layer.out_shape(turned.shape) == wanted.shape


#: Layers of one step that keep the shape: what they write early they still have to read.
IN_PLACE = {
    "depthwise": (layers.DepthwiseConv2d, weights((3, 3, 16)), {"padding": "same"}),
    "pointwise": (layers.PointwiseConv2d, weights((16, 16)), {}),
    "conv": (layers.Conv2d, weights((3, 3, 16, 16)), {"padding": "same"}),
    "separable": (layers.SeparableConv2d, weights((3, 3, 16), (16, 16)), {"padding": "same"}),
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("shift", [0, 16, 5, -16, 5 * 16])
def test_overlaps_are_seen_on_the_short_way_too(kind, shift, rng) -> None:
    make, arrays, options = IN_PLACE[kind]
    layer = make(*arrays, **options, backend=BACKEND)
    shape = (2, 12, 10, 16)
    size = 2 * 12 * 10 * 16
    original = cases.normal(rng, (size + 200,), F32)

    def views() -> tuple[np.ndarray, np.ndarray]:
        memory = original.copy()
        return memory[100 : 100 + size].reshape(shape), memory[100 + shift : 100 + shift + size].reshape(shape)

    other = cases.normal(rng, shape, F32)
    wanted, with_residual = layer(views()[0]), layer(other, residual=views()[0])
    x, out = views()
    assert layer(x, out=out) is out
    assert np.array_equal(out, wanted)
    residual, out = views()
    assert layer(other, residual=residual, out=out) is out
    assert np.array_equal(out, with_residual)


class Tagged(np.ndarray):
    """A subclass of the harmless kind."""


@each_kind
def test_any_residual_on_the_short_way(kind, x, rng) -> None:
    layer, function = build(kind)
    shape = layer(x).shape
    residual = cases.normal(rng, shape, F32)
    wanted = function(x, residual=residual)
    spread = np.repeat(residual, 2, axis=2)[:, :, ::2]
    for form in (residual, np.asfortranarray(residual), spread, residual.astype(">f4"), residual.view(Tagged)):
        assert np.array_equal(layer(x, residual=form), wanted)


def test_mistakes_are_seen_on_the_short_way_too(x) -> None:
    layer, _ = build("pointwise")
    out = layer(x)
    read_only = out.copy()
    read_only.flags.writeable = False
    for wrong in (
        {"out": out[:1]},
        {"out": read_only},
        {"residual": out[..., :1]},
        {"num_threads": 0},
    ):
        with pytest.raises(ValueError, match="PointwiseConv2d: "):
            layer(x, **wrong)
    for wrong in ({"out": out.astype(np.float64)}, {"residual": out.astype(int)}, {"num_threads": 1.5}, {"out": "out"}):
        with pytest.raises(TypeError, match="PointwiseConv2d: "):
            layer(x, **wrong)
    with pytest.raises(TypeError, match="PointwiseConv2d: x has dtype float64"):
        layer(x.astype(np.float64))


def test_takes_the_name_of_any_kernel_for_what_it_computes(x) -> None:
    (w,) = weights((6, 9))
    for name in dispatch.list_kernels():
        if name.startswith("pointwise_f32_"):
            assert layers.PointwiseConv2d(w, backend=name)(x).shape == (2, 9, 8, 9)


def test_takes_the_most_threads_that_there_may_be(x) -> None:
    layer, function = build("pointwise")
    assert np.array_equal(layer(x, num_threads=runtime.MAX_THREADS), function(x))


@each_kind
def test_later_changes_of_the_weights_change_nothing(kind, x) -> None:
    make, _, arrays, options = KINDS[kind]
    arrays = [None if array is None else array.copy() for array in arrays]
    layer = make(*arrays, **options, backend=BACKEND)
    wanted = layer(x)
    for array in arrays:
        if array is not None:
            array[...] = np.nan
    assert np.array_equal(layer(x), wanted)
    assert np.array_equal(layer(x[:1]), wanted[:1])


@each_kind
def test_pickles_and_copies(kind, x) -> None:
    layer, _ = build(kind)
    wanted = layer(x)
    for again in (pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)):
        assert not again._compiled
        assert repr(again) == repr(layer)
        assert again.dtype == layer.dtype
        for _ in range(2):
            assert np.array_equal(again(x), wanted)


@each_kind
def test_many_threads_at_once(kind, x) -> None:
    layer, _ = build(kind)
    images = [x, x[:1], x[:, :7], x[:, :, :5], x[0], x[:, ::2]] * 8
    wanted = [build(kind)[1](image) for image in images[:6]] * 8
    with ThreadPoolExecutor(8) as pool:
        for result, correct in zip(pool.map(layer, images), wanted, strict=True):
            assert np.array_equal(result, correct)


def test_remembers_a_bounded_number_of_shapes(x) -> None:
    layer, _ = build("pointwise")
    image = np.ones((1, 40, 1, 6), F32)
    for rows in range(1, 41):
        layer(image[:, :rows])
    assert len(layer._compiled) == layers._REMEMBERED
    assert len(layer.known) == 2 * layers._REMEMBERED  # with and without the batch axis
    kept = layer._compiled
    assert layer(image).shape == (1, 40, 1, 9)
    assert layer._compiled is kept


@each_kind
def test_says_what_it_is(kind) -> None:
    text = repr(build(kind)[0])
    make, _, _, options = KINDS[kind]
    assert text.startswith(make.__name__ + "(")
    assert "float32" in text
    assert f"backend={BACKEND!r}" in text
    for name, value in options.items():
        assert f"{name}={value!r}" in text or value == 1


def test_defaults_are_not_shown() -> None:
    layer = layers.Conv2d(np.zeros((3, 3, 3, 8)), np.zeros(8))
    assert repr(layer) == "Conv2d(w (3, 3, 3, 8), bias, float64)"


def test_explain_asks_the_dispatcher(monkeypatch) -> None:
    seen = []

    def explain(geometry, dtype, threads, backend):
        seen.append((geometry.op, geometry.x_shape, np.dtype(dtype), threads, backend))
        return geometry.op

    monkeypatch.setattr(explanations, "explain", explain)
    layer = layers.DepthwiseConv2d(np.ones((3, 3, 6), F32), layout="NCHW")
    assert layer.explain((6, 9, 8), num_threads=2) == "depthwise"
    assert seen == [("depthwise", (1, 9, 8, 6), np.dtype(F32), 2, "auto")]
    second = layers.PointwiseConv2d(np.ones((4, 3), F32), backend="numba")
    net = Sequential(layers.Conv2d(np.ones((3, 3, 6, 4), F32)), second)
    assert net.explain((1, 9, 8, 6)) == ["conv", "pointwise"]
    assert seen[-1] == ("pointwise", (1, 7, 6, 4), np.dtype(F32), runtime.get_num_threads(), "numba")
    with pytest.raises(ValueError, match="DepthwiseConv2d: w has 6 channels but x has 5"):
        layer.explain((5, 9, 8))


# ---------------------------------------------------------------------------------------------------------------------
# fold_batchnorm
# ---------------------------------------------------------------------------------------------------------------------


def normalised(y: np.ndarray, gamma, beta, mean, var, eps) -> np.ndarray:
    return (y - mean) / np.sqrt(var + eps) * gamma + beta


@pytest.mark.parametrize(
    ("run", "shape", "outputs"),
    [
        (ops.depthwise_conv2d, (3, 3, 6), 6),
        (ops.depthwise_conv2d, (3, 3, 6, 2), 12),
        (ops.depthwise_conv2d, (2, 6, 6, 6), 36),
        (ops.pointwise_conv2d, (6, 9), 9),
        (ops.conv2d, (3, 3, 6, 4), 4),
        (ops.conv2d, (3, 3, 6, 6), 6),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_fold_batchnorm(rng, run, shape, outputs, with_bias) -> None:
    x, w = cases.normal(rng, (1, 8, 8, 6), np.float64), cases.normal(rng, shape, np.float64)
    bias = cases.normal(rng, (outputs,), np.float64) if with_bias else None
    gamma, beta, mean = (cases.normal(rng, (outputs,), np.float64) for _ in range(3))
    var = rng.random(outputs) + 0.1
    folded, folded_bias = layers.fold_batchnorm(w, bias, gamma, beta, mean, var, 1e-3)
    assert folded.shape == w.shape
    # Weights are folded before there are kernels, and Numba's would be compiled for this alone.
    wanted = normalised(run(x, w, bias, backend="reference"), gamma, beta, mean, var, 1e-3)
    np.testing.assert_allclose(run(x, folded, folded_bias, backend="reference"), wanted, rtol=1e-9, atol=1e-9)


def test_fold_batchnorm_of_signals_and_of_one_channel(rng) -> None:
    for x_shape, shape, outputs in (((1, 20, 5), (4, 5), 5), ((1, 20, 5), (4, 5, 3), 15), ((1, 20, 1), (4, 1, 3), 3)):
        x, w = cases.normal(rng, x_shape, np.float64), cases.normal(rng, shape, np.float64)
        gamma, beta, mean, var = (rng.random(outputs) + 0.1 for _ in range(4))
        if len(shape) == 3:  # three axes would be (KH, KW, C)
            (folded,), bias = layers.fold_batchnorm(w[None], None, gamma, beta, mean, var, 0.0)
        else:
            folded, bias = layers.fold_batchnorm(w, None, gamma, beta, mean, var, 0.0)
        wanted = normalised(ops.depthwise_conv1d(x, w, backend="reference"), gamma, beta, mean, var, 0.0)
        found = ops.depthwise_conv1d(x, folded, bias, backend="reference")
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_fold_batchnorm_keeps_the_type_and_rounds_once() -> None:
    w, var = np.full((3, 3, 2), 0.1, F32), np.full(2, 3, F32)
    folded, bias = layers.fold_batchnorm(w.astype(">f4"), None, None, None, np.ones(2), var, eps=1e-5)
    assert folded.dtype == bias.dtype == F32
    assert folded.dtype.isnative
    assert np.array_equal(folded, (w.astype(np.float64) / np.sqrt(3 + 1e-5)).astype(F32))
    assert np.array_equal(bias, (-1 / np.sqrt(np.full(2, 3 + 1e-5))).astype(F32))


def test_the_classic_block(rng) -> None:
    """Depthwise 3x3 stride 2, BatchNorm, ReLU, pointwise 3 -> 9, BatchNorm, ReLU, in the familiar layout and signature.

    Once step by step, once with the normalisations folded into one separable layer.
    """
    image = cases.normal(rng, (1, 3, 32, 32), F32)
    dw, pw = cases.normal(rng, (3, 1, 3, 3), F32), cases.normal(rng, (9, 3, 1, 1), F32)
    norms = [[(rng.random(size) + 0.5).astype(F32) for _ in range(4)] for size in (3, 9)]

    def batchnorm_relu(y: np.ndarray, norm: list[np.ndarray]) -> np.ndarray:
        return np.maximum(normalised(y, *(v.reshape(-1, 1, 1) for v in norm), 1e-5), 0).astype(F32)

    between = batchnorm_relu(ops.dwconv2d(image, dw, stride=2, padding=1, groups=3), norms[0])
    wanted = batchnorm_relu(ops.dwconv2d(between, pw), norms[1])
    assert wanted.shape == (1, 9, 16, 16)

    first = layers.fold_batchnorm(dw[:, 0].transpose(1, 2, 0), None, *norms[0], 1e-5)
    second = layers.fold_batchnorm(pw[:, :, 0, 0].T, None, *norms[1], 1e-5)
    block = layers.SeparableConv2d(
        first[0], second[0], first[1], second[1],
        stride=2, padding=1, dw_activation="relu", pw_activation="relu", layout="NCHW",
    )  # fmt: skip
    np.testing.assert_allclose(block(image), wanted, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# What a layer keeps
# ---------------------------------------------------------------------------------------------------------------------


def test_changing_the_options_does_not_change_a_layer(x) -> None:
    dw, conv, expand = weights((3, 3, 6), (3, 3, 3, 4), (6, 6))
    stride, padding, dilation, clip = [1, 1], [[1, 1], [1, 1]], [1, 1], ["clip", 0, 1]
    groups = np.array(2)
    made = [
        layers.DepthwiseConv2d(
            dw, stride=stride, padding=padding, dilation=dilation, activation=clip, backend=BACKEND
        ),
        layers.SeparableConv2d(
            dw, expand, stride=stride, padding=padding, dilation=dilation, dw_activation=clip, backend=BACKEND
        ),
        layers.InvertedResidual(
            expand, dw, expand, stride=stride, padding=padding, dw_activation=clip, backend=BACKEND
        ),
        layers.Conv2d(conv, stride=stride, padding=padding, dilation=dilation, groups=groups, backend=BACKEND),
    ]  # fmt: skip
    before = [(layer.out_shape(x.shape), repr(layer), layer(x)) for layer in made]
    stride[0], padding[0][0], padding[1], dilation[1], clip[2], groups[...] = 2, 5, [0, 0], 3, -1, 1
    for layer, (shape, text, wanted) in zip(made, before, strict=True):
        assert layer.out_shape(x.shape) == shape
        assert repr(layer) == text
        assert layer(x[:1]).shape == (1, *shape[1:])  # a shape not seen before
        assert np.array_equal(layer(x), wanted)


def test_weights_are_packed_once_for_all_shapes_and_thread_counts(monkeypatch) -> None:
    packed = []

    def counted(pack):
        def run(*arguments):
            packed.append(pack.__name__)
            return pack(*arguments)

        return run

    for name in ("depthwise_panels", "gemm_panels"):
        monkeypatch.setattr(packing, name, counted(getattr(packing, name)))
    dw, pw = weights((3, 3, 6), (6, 9))
    layer = layers.SeparableConv2d(dw, pw, padding=1, backend=BACKEND)
    for height in (1, 2, 5, 8):
        for threads in (1, 2):
            layer(np.ones((1, height, 3, 6), F32), num_threads=threads)
    assert packed == ([] if BACKEND == "reference" else ["depthwise_panels", "gemm_panels"])
    for again in (pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)):
        assert again._packed == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_layer_was_made_with_cannot_be_assigned(kind, x) -> None:
    """An assignment that changed nothing would be believed."""
    make, _, arrays, options = KINDS[kind]
    layer = make(*arrays, **options, backend=BACKEND)
    for changed in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for name in signature(make).parameters:
            with pytest.raises(AttributeError, match=rf"^{make.__name__}: {name} is assigned to; .*; make a new layer"):
                setattr(changed, name, 2)
        changed.note = "one's own names are free"
        assert np.array_equal(changed(x), layer(x))


def test_a_class_derived_from_a_layer_may_have_names_of_its_own() -> None:
    class Named(layers.PointwiseConv2d):
        def __init__(self, name: str, weights: np.ndarray) -> None:
            super().__init__(weights, backend=BACKEND)
            self.name = name

    layer = Named("head", np.ones((6, 3), F32))
    assert layer.name == "head"
    with pytest.raises(AttributeError, match="activation is assigned to"):
        layer.activation = "relu"


def test_a_first_call_that_is_interrupted_is_remembered_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not: the layer stayed on the long way, ten times as slow for small images."""
    from dwcpu import calls

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    layer, x = layers.DepthwiseConv2d(np.ones((3, 3, 8), np.float32)), np.ones((1, 5, 5, 8), np.float32)
    with monkeypatch.context() as patched:
        patched.setattr(calls, "call_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            layer(x, num_threads=1)
    background.wait()
    assert (layer(x, num_threads=1) == 9).all()
    assert layer.known
