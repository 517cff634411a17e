"""The short way of calls seen before: the same bits and errors as the front door's, and little kept for it."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from nightly import reduced

import dwcpu
from dwcpu import calls, dispatch, frontdoor, layers, ops, runtime

F32 = np.float32

compiled_only = pytest.mark.skipif(runtime.compiled_calls() is None, reason="the compiled calls were not built")


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    """Each test from a pool that knows nothing."""
    forget()
    yield
    forget()


def forget() -> None:
    if calls._pool is not None:
        calls._pool.free.clear()


def kept() -> list[Any]:
    return [call for spare in calls._pool.free.values() for call in spare]


@pytest.fixture
def closed_door(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, the front door is shut."""

    def shut(*arguments: object) -> None:
        raise AssertionError("this went through the front door")

    return lambda: monkeypatch.setattr(frontdoor.Program, "__call__", shut)


def shapes_of(operation: str, channels: int) -> list[tuple[int, ...]]:
    """Of the weights and biases, in the order of the function's parameters."""
    c = channels
    return {
        "depthwise_conv2d": [(3, 3, c), (c,)],
        "depthwise_conv2d, multiplier": [(2, 3, c, 3), (3 * c,)],
        "depthwise_conv2d, many multiples": [(3, 2, c, 12), (12 * c,)],
        "depthwise_conv1d": [(4, c, 2), (2 * c,)],
        "pointwise_conv2d": [(c, 2 * c + 1), (2 * c + 1,)],
        "separable_conv2d": [(3, 3, c, 2), (2 * c, 19), (2 * c,), (19,)],
        "inverted_residual": [(c, 37), (3, 3, 37), (37, c), (37,), (37,), (c,)],
        "conv2d": [(3, 3, c, 70), (70,)],
        "conv2d, groups": [(3, 3, 1, 3 * c), (3 * c,)],
        "conv2d, 1x1": [(1, 1, c, 21), (21,)],
        "dwconv2d": [(33, c, 3, 2), (33,)],
        "dwconv2d, depthwise": [(2 * c, 1, 3, 3), (2 * c,)],
        "dwconv2d, many multiples": [(9 * c, 1, 2, 2), (9 * c,)],
    }[operation]


OPERATIONS = [
    "depthwise_conv2d", "depthwise_conv2d, multiplier", "depthwise_conv2d, many multiples", "depthwise_conv1d",
    "pointwise_conv2d", "separable_conv2d", "inverted_residual", "conv2d", "conv2d, groups", "conv2d, 1x1",
    "dwconv2d", "dwconv2d, depthwise", "dwconv2d, many multiples",
]  # fmt: skip


def options_of(operation: str, channels: int) -> dict[str, Any]:
    if operation in ("pointwise_conv2d", "conv2d, 1x1", "inverted_residual"):
        return {}
    options: dict[str, Any] = {"padding": 2}
    if "groups" in operation or operation.startswith("dwconv2d, "):
        options["groups"] = channels
    return options


def x_of(rng: np.random.Generator, operation: str, channels: int, layout: str, dtype: type) -> np.ndarray:
    image = (2, 9, channels) if operation == "depthwise_conv1d" else (2, 5, 6, channels)
    if layout == "NCHW" or operation.startswith("dwconv2d"):
        image = (2, channels, *image[1:-1])
    return cases.normal(rng, image, dtype)


@compiled_only
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("channels", reduced([1, 5, 16, 41], [16, 41]))
@pytest.mark.parametrize(
    ("operation", "layout", "backend"),
    [
        (operation, layout, backend)
        for operation in OPERATIONS
        for layout, backend in (
            [("NCHW", "auto")]
            if operation.startswith("dwconv2d")
            else [(layout, backend) for layout in ("NHWC", "NCHW") for backend in ("numba", "cython")]
        )
    ],
)
def test_functions_give_the_same_bits_again(rng, closed_door, backend, operation, layout, channels, dtype) -> None:
    if operation.startswith("dwconv2d"):
        more: dict[str, Any] = {}
    elif backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    else:
        more = {"layout": layout, "backend": backend, "num_threads": 1}
    run = getattr(ops, operation.partition(",")[0])
    options = {**options_of(operation, channels), **more}
    shapes = shapes_of(operation, channels)

    def data() -> list[np.ndarray]:
        return [x_of(rng, operation, channels, layout, dtype), *(cases.normal(rng, s, dtype) for s in shapes)]

    first, second = data(), data()
    weights = (len(shapes)) // 2
    forms: list[Callable[[list[np.ndarray]], list]] = [
        lambda given: given,
        lambda given: [*given[: 1 + weights], *([None] * weights)],
        lambda given: [given[0][1], *given[1:]],
    ]
    wanted = [run(*form(second), **options) for form in forms]
    forget()
    for form in forms:
        run(*form(first), **options)
    assert len(kept()) == len(forms)
    closed_door()
    for form, right in zip(forms, wanted, strict=True):
        result = run(*form(second), **options)
        assert result.dtype == dtype
        assert result.flags.c_contiguous
        assert np.array_equal(result, right)
        if not operation.startswith("dwconv2d"):
            out, residual = np.full_like(right, np.nan), np.zeros_like(right)
            assert run(*form(second), residual=residual, out=out, **options) is out
            assert np.array_equal(out, right)


@compiled_only
@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 3, 1), (3, 3, 3, 8), (3, 3, 2, 4), (1, 5, 40)], ids=str)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_weights_that_kernels_want_spread_or_repeated(rng, closed_door, shape, layout) -> None:
    x_shape = (9, 70, shape[2]) if layout == "NHWC" else (shape[2], 9, 70)
    outputs = shape[2] * (shape[3] if len(shape) > 3 else 1)

    def data() -> list[np.ndarray]:
        return [cases.normal(rng, s, F32) for s in (x_shape, shape, (outputs,))]

    first, second = data(), data()
    right = ops.depthwise_conv2d(*second, padding=1, layout=layout)
    forget()
    ops.depthwise_conv2d(*first, padding=1, layout=layout)
    assert len(kept()) == 1
    closed_door()
    assert np.array_equal(ops.depthwise_conv2d(*second, padding=1, layout=layout), right)


@compiled_only
def test_equal_options_that_mean_something_else(rng) -> None:
    x, w = cases.normal(rng, (6, 6, 4), F32), cases.normal(rng, (3, 3, 4), F32)
    for _ in range(2):
        ops.depthwise_conv2d(x, w, stride=1, padding=1, num_threads=1)
        for wrong in (
            {"stride": True}, {"stride": 1.0}, {"padding": True}, {"padding": (1.0, 1)}, {"dilation": 1.0},
            {"num_threads": True}, {"num_threads": 1.0},
        ):  # fmt: skip
            with pytest.raises(TypeError, match="depthwise_conv2d: "):
                ops.depthwise_conv2d(x, w, **{"stride": 1, "padding": 1, "num_threads": 1, **wrong})
        assert ops.depthwise_conv2d(x, w, activation=("clip", 0, 1)).min() == 0
        with pytest.raises(TypeError, match="real number"):
            ops.depthwise_conv2d(x, w, activation=("clip", False, 1))
    for low in (0.0, -0.0, 0, 0.0, -0.0):
        clipped = ops.depthwise_conv2d(x, w, activation=("clip", low, 1.0))
        assert np.array_equal(np.signbit(clipped), (clipped == 0) & np.signbit(low))


@compiled_only
def test_mistakes_are_seen_again(rng) -> None:
    x, w, bias = (cases.normal(rng, shape, F32) for shape in ((1, 6, 6, 4), (3, 3, 4), (4,)))
    out = ops.depthwise_conv2d(x, w, bias)
    read_only = out.copy()
    read_only.flags.writeable = False
    for more, error in (
        ({"out": read_only}, ValueError),
        ({"out": out[:, :2]}, ValueError),
        ({"out": out.astype(np.float64)}, TypeError),
        ({"out": np.ma.masked_array(out)}, TypeError),
        ({"out": [1.0]}, TypeError),
        ({"residual": out[0]}, ValueError),
        ({"residual": out.astype(np.float64)}, TypeError),
        ({"residual": np.ma.masked_array(out)}, TypeError),
        ({"bias": bias[:2]}, ValueError),
        ({"bias": bias.astype(np.float64)}, TypeError),
        ({"bias": np.ma.masked_array(bias)}, TypeError),
        ({"w": np.ma.masked_array(w)}, TypeError),
        ({"x": np.ma.masked_array(x)}, TypeError),
        ({"x": x.astype(np.float16)}, TypeError),
        ({"num_threads": 0}, ValueError),
        ({"num_threads": 10**30}, ValueError),
        ({"layout": "nhwc"}, ValueError),
        ({"backend": []}, TypeError),
    ):
        before = out.copy()
        with pytest.raises(error, match=r"^depthwise_conv2d: "):
            ops.depthwise_conv2d(**{"x": x, "w": w, "bias": bias, **more})
        assert np.array_equal(out, before)


class Tagged(np.ndarray):
    """A subclass of the harmless kind."""


def spread(array: np.ndarray) -> np.ndarray:
    return np.repeat(array, 2, axis=1)[:, ::2]


@compiled_only
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_other_forms_and_overlaps_go_through_the_front_door(rng, layout) -> None:
    memory = cases.normal(rng, (400,), F32)
    x, w = memory[:144].reshape(1, 6, 6, 4), cases.normal(rng, (3, 3, 6 if layout == "NCHW" else 4), F32)
    wanted = ops.depthwise_conv2d(x.copy(), w, padding=1, layout=layout)
    with_residual = ops.depthwise_conv2d(x.copy(), w, padding=1, layout=layout, residual=x.copy())
    for form in (np.asfortranarray, lambda a: a.astype(">f4"), lambda a: a.view(Tagged), spread):
        assert np.array_equal(ops.depthwise_conv2d(form(x), w, padding=1, layout=layout), wanted)
        assert np.array_equal(ops.depthwise_conv2d(x, form(w), padding=1, layout=layout), wanted)
        assert np.array_equal(ops.depthwise_conv2d(x, w, padding=1, layout=layout, residual=form(x)), with_residual)
    for shift in (0, 1, 143, 144, 200):
        mine = memory.copy()
        source, out = mine[:144].reshape(x.shape), mine[shift : shift + 144].reshape(x.shape)
        ops.depthwise_conv2d(source, w, padding=1, layout=layout, out=out)
        assert np.array_equal(out, wanted)
        mine = memory.copy()
        residual, out = mine[:144].reshape(x.shape), mine[shift : shift + 144].reshape(x.shape)
        ops.depthwise_conv2d(x, w, padding=1, layout=layout, residual=residual, out=out)
        assert np.array_equal(out, with_residual)


@compiled_only
def test_out_may_be_the_weights_again(rng, closed_door) -> None:
    x, w = cases.normal(rng, (4, 1, 4), F32), cases.normal(rng, (4, 4), F32)
    wanted = ops.pointwise_conv2d(x, w)
    closed_door()
    assert np.array_equal(ops.pointwise_conv2d(x, w, out=w.reshape(4, 1, 4)).ravel(), wanted.ravel())


@compiled_only
def test_the_number_of_threads_is_the_current_one(rng, closed_door) -> None:
    x, w = cases.normal(rng, (1, 40, 40, 64), F32), cases.normal(rng, (64, 64), F32)
    wanted = [ops.pointwise_conv2d(x, w, num_threads=count) for count in (1, 2)]
    assert len(kept()) == 2
    closed_door()
    for count in (1, 2):
        with runtime.num_threads(count):
            assert np.array_equal(ops.pointwise_conv2d(x, w), wanted[0])
    with runtime.num_threads(3), pytest.raises(AssertionError, match="front door"):
        ops.pointwise_conv2d(x, w)


@compiled_only
@pytest.mark.parametrize("dtype", [F32, np.float64])
def test_panels_of_every_width_are_packed_in_each_call(rng, dtype) -> None:
    """Whatever a CPU's panels are: the last one may have fewer vectors than others, or one more."""
    for outputs in (*range(1, 20), *range(23, 250, 8), 256, 320):
        x, w = cases.normal(rng, (1, 3, 5, 12), dtype), cases.normal(rng, (3, 1, 12, outputs), dtype)
        for images, weights, call in ((x, w, ops.conv2d), (x, w[0, 0], ops.pointwise_conv2d)):
            first = call(images, weights)
            np.testing.assert_array_equal(call(images, weights), first, str(outputs))
            np.testing.assert_allclose(call(images, 2 * weights), 2 * first, rtol=1e-6)


@compiled_only
def test_many_threads_with_weights_of_their_own(rng) -> None:
    x = cases.normal(rng, (1, 9, 9, 40), F32)
    weights = [[cases.normal(rng, shape, F32) for shape in ((3, 3, 40), (40, 24), (40,), (24,))] for _ in range(8)]
    wanted = [ops.separable_conv2d(x, *given, padding=1) for given in weights]

    def work(number: int) -> bool:
        results = (ops.separable_conv2d(x, *weights[number], padding=1) for _ in range(200))
        return all(np.array_equal(result, wanted[number]) for result in results)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert 1 <= len(kept()) <= calls._MOST_SPARE


@compiled_only
def test_the_pool_is_bounded_and_holds_no_arrays_of_users(monkeypatch, rng) -> None:
    monkeypatch.setattr(calls, "_MOST_KINDS", 5)
    for height in range(1, 20):
        ops.pointwise_conv2d(np.ones((height, 3, 4), F32), np.ones((4, 4), F32))
    assert len(calls._pool.free) == len(kept()) == 5
    monkeypatch.setattr(calls, "_MOST_BYTES", 4 * 70_000)
    for height in range(1, 20):
        ops.pointwise_conv2d(np.ones((height, 3, 128), F32), np.ones((128, 128), F32))
    assert len(kept()) == 4
    assert sum(call.size for call in kept()) <= calls._MOST_BYTES
    ops.pointwise_conv2d(np.ones((1, 3, 256), F32), np.ones((256, 256), F32))  # too large for it
    assert len(kept()) == 4

    x, w, bias = np.ones((1, 3, 3, 4), F32), np.ones((3, 3, 4), F32), np.ones(4, F32)
    watched = [weakref.ref(array) for array in (x, w, bias, ops.depthwise_conv2d(x, w, bias))]
    ops.depthwise_conv2d(x, w, bias)
    del x, w, bias
    gc.collect()
    assert [ref() for ref in watched] == [None] * 4


@compiled_only
def test_what_goes_through_the_front_door_for_its_form_is_kept_once(rng) -> None:
    x, w = cases.normal(rng, (4, 4, 6), F32), cases.normal(rng, (6, 6), F32)
    for _ in range(5):
        ops.pointwise_conv2d(x, w, out=np.empty((6, 4, 4), F32).transpose(1, 2, 0))
    assert len(kept()) == 1


def is_apart(result: np.ndarray, x: np.ndarray) -> bool:
    """Whether an array that a call made lies on a cache line, where stores to it hold up no loads from `x`."""
    start, read = result.ctypes.data, x.ctypes.data
    return result.nbytes >= 4096 and start % 64 == 0 and (start - read // 64 * 64) % 1024 == 768


@pytest.mark.parametrize("offset", [0, 1, 16, 25])
def test_results_lie_apart_from_inputs(rng, offset) -> None:
    """However calls come to make them: through the front door, of a function seen before, of a layer."""
    x = np.empty(9000, F32)[offset:][: 16 * 16 * 32].reshape(1, 16, 16, 32)
    x[...] = cases.normal(rng, x.shape, F32)
    w = cases.normal(rng, (3, 3, 32), F32)
    layer = layers.DepthwiseConv2d(w, padding=1)
    for call in (lambda: ops.depthwise_conv2d(x, w, padding=1), lambda: layer(x)):
        assert all(is_apart(call(), x) for _ in range(3))


def check_layer(layout: str, close_door: Callable[[], None]) -> None:
    """A layer's second calls are short and right."""
    rng = np.random.default_rng(0)
    x, w = cases.normal(rng, (1, 20, 8, 20), F32), cases.normal(rng, (3, 3, 20), F32)
    layer = layers.DepthwiseConv2d(w, padding=1, layout=layout, activation="relu6")
    wanted = ops.depthwise_conv2d(x, w, padding=1, layout=layout, activation="relu6")
    residual = cases.normal(rng, wanted.shape, F32)
    with_residual = ops.depthwise_conv2d(x, w, padding=1, layout=layout, activation="relu6", residual=residual)
    assert np.array_equal(layer(x), wanted)
    close_door()
    for given, right, more in (
        (x, wanted, {}),
        (x, wanted, {"num_threads": runtime.get_num_threads()}),
        (x[0], wanted[0], {}),
        (x, with_residual, {"residual": residual}),
        (x[0], with_residual[0], {"residual": residual[0], "out": np.empty_like(wanted[0])}),
    ):
        result = layer(given, **more)
        assert result is more.get("out", result)
        assert np.array_equal(result, right)
        assert result.flags.c_contiguous and result.flags.writeable
        # of an image that is turned first, kernels read another array
        assert "out" in more or (is_apart(result, given) if layout == "NHWC" else result.ctypes.data % 64 == 0)


@compiled_only
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_layers_with_the_compiled_calls(closed_door, layout) -> None:
    check_layer(layout, closed_door)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_layers_without_the_compiled_calls(layout) -> None:
    """They were not built: a process of its own. What is channel-first then always goes the long way."""
    code = f"""if True:
        import pickle, sys
        sys.modules["dwcpu.cython_kernels._calls"] = None
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_calls as tests
        assert tests.calls.Caller.__module__ == "dwcpu.calls"
        def close(door=tests.frontdoor.Program):
            door.__call__ = lambda *arguments: 1 / 0
        tests.check_layer({layout!r}, close if {layout!r} == "NHWC" else lambda: None)
        layer = tests.layers.DepthwiseConv2d(tests.np.ones((3, 3, 4), "f4"), padding=1)
        assert pickle.loads(pickle.dumps(layer)).dtype == layer.dtype
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@compiled_only
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 16, 16, 32), (3, 7, 9, 17), (1, 33, 1, 130), (1, 1, 40, 3)])
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_images_of_any_size_are_turned(rng, closed_door, shape, dtype) -> None:
    x, w = cases.normal(rng, shape, dtype), np.ones((1, 1, shape[-1]), dtype)
    turned = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    layer = layers.DepthwiseConv2d(w, layout="NCHW")
    assert np.array_equal(layer(turned), turned)
    closed_door()
    assert np.array_equal(layer(turned), turned)
    assert np.array_equal(layer(turned, residual=turned), turned + turned)


@compiled_only
@pytest.mark.skipif(runtime.cython_kernels() is None, reason="there is no compiled driver")
@pytest.mark.parametrize("way", ["fused", "split"])
def test_several_tasks_and_several_kernels_need_no_python(way: str, monkeypatch: pytest.MonkeyPatch, rng) -> None:
    name = next(
        kernel.name
        for kernel in dispatch.kernels("float32")
        if kernel.op == "separable" and kernel.label == way and kernel.backend == "cython"
    )
    layer = dwcpu.SeparableConv2d(
        rng.standard_normal((3, 3, 40), F32), rng.standard_normal((40, 24), F32), padding=1, backend=name
    )
    x, residual = rng.standard_normal((2, 17, 15, 40), F32), rng.standard_normal((2, 17, 15, 24), F32)
    right = [layer(x, residual=residual, num_threads=threads) for threads in (1, 2, 3)]

    def shut(*arguments: object) -> None:
        raise AssertionError("this went through Python")

    for driver in ("driver", "steps_driver"):  # what all runs through Python ask for
        monkeypatch.setattr(runtime, driver, shut)
    monkeypatch.setattr(frontdoor.Program, "__call__", shut)
    for threads, result in zip((1, 2, 3), right, strict=True):
        again = layer(x, residual=residual, num_threads=threads)
        np.testing.assert_array_equal(again, result)
        np.testing.assert_array_equal(again, right[0])
