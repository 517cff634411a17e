"""Sequential: what its layers give one after the other, by the short way too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import cases
import numpy as np
import pytest

import dwcpu
from dwcpu import background, runtime, sequential
from dwcpu.pipeline import chain
from dwcpu.sequential import Residual, Sequential, _Row

F32 = np.float32
BACKENDS = ["reference", "numba", "cython"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    return str(request.param)


def normal(*shape: int, dtype: type = F32) -> np.ndarray:
    return cases.normal(np.random.default_rng(sum(shape)), shape, dtype)


def network(backend: str = "auto", layout: str = "NHWC", dtype: type = F32) -> list:
    """Layers of every kind, for an input with 5 channels."""
    common = {"backend": backend, "layout": layout}
    return [
        dwcpu.Conv2d(normal(3, 3, 5, 16, dtype=dtype), normal(16, dtype=dtype), stride=2, padding=1, **common),
        dwcpu.SeparableConv2d(
            normal(3, 3, 16, dtype=dtype), normal(16, 24, dtype=dtype), padding="same", dw_activation="gelu", **common
        ),
        dwcpu.DepthwiseConv2d(normal(5, 5, 24, dtype=dtype), padding=2, activation="relu", **common),
        dwcpu.InvertedResidual(
            normal(24, 48, dtype=dtype), normal(3, 3, 48, dtype=dtype), normal(48, 8, dtype=dtype), stride=2, **common
        ),
        dwcpu.PointwiseConv2d(normal(8, 11, dtype=dtype), activation="hardswish", **common),
    ]


def image(*pixels: int, layout: str = "NHWC", dtype: type = F32) -> np.ndarray:
    """With 5 channels."""
    x = normal(*pixels, 5, dtype=dtype)
    return np.ascontiguousarray(np.moveaxis(x, -1, -3)) if layout == "NCHW" else x


def rows(net: Sequential) -> list[_Row]:
    return [piece for piece in net._pieces if isinstance(piece, _Row)]


@pytest.fixture
def no_layer_is_called(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on."""

    def forbid() -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise AssertionError("not the short way")

        monkeypatch.setattr(_Row, "_long_way", fail)

    return forbid


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_short_way_gives_what_layers_give(backend: str, layout: str, threads: int) -> None:
    for dtype in F32, np.float64:
        layers = network(backend, layout, dtype)
        x = image(2, 19, 17, layout=layout, dtype=dtype)
        *first, last = layers
        middle = x
        for layer in first:
            middle = layer(middle, num_threads=threads)
        plain = last(middle, num_threads=threads)
        residual = normal(*plain.shape, dtype=dtype)
        added = last(middle, residual=residual, num_threads=threads)
        net = Sequential(*layers)
        before = x.copy()
        for _ in range(2):  # layer by layer, then at once
            result = net(x, num_threads=threads)
            assert result.tobytes() == plain.tobytes()
            assert result.shape == plain.shape == net.out_shape(x.shape)
            assert net(x, residual=residual, num_threads=threads).tobytes() == added.tobytes()
            out = np.full_like(plain, np.nan)
            assert net(x, out=out, residual=residual, num_threads=threads) is out
            assert out.tobytes() == added.tobytes()
        assert x.tobytes() == before.tobytes()
        assert list(rows(net)[0]._calls) == [(x.shape, threads)]


def test_what_was_seen_goes_the_short_way(backend: str, no_layer_is_called: Callable[[], None]) -> None:
    net = Sequential(*network(backend))
    inputs = [image(1, 19, 17), image(16, 15), image(1, 16, 15), image(3, 9, 31)]
    wanted = [net(x) for x in inputs]
    assert len(rows(net)[0].known) == len(inputs)
    no_layer_is_called()
    for x, right in zip(inputs, wanted, strict=True):
        result = net(x)
        assert result.shape == right.shape
        assert result.tobytes() == right.tobytes()


def test_arrays_that_kernels_cannot_take_go_the_long_way() -> None:
    net = Sequential(*network())
    x = image(1, 19, 17)
    right = net(x)
    assert rows(net)[0].known
    wide = np.zeros((1, 19, 17, 9), F32)
    wide[..., 2:7] = x
    for same in (wide[..., 2:7], x.astype(">f4"), np.asfortranarray(x), x.view(np.recarray)):
        assert net(same).tobytes() == right.tobytes()
    out = np.zeros((*right.shape[:3], 2 * right.shape[3]), F32)[..., ::2]
    assert net(x, out=out) is out
    assert np.array_equal(out, right)


def test_results_may_lie_where_inputs_do() -> None:
    layers = [dwcpu.DepthwiseConv2d(normal(3, 3, 5), padding=1), dwcpu.PointwiseConv2d(normal(5, 5))]
    net, x = Sequential(*layers), image(1, 9, 9)
    right = net(x)
    for _ in range(2):
        place = x.copy()
        assert net(place, out=place) is place
        assert place.tobytes() == right.tobytes()


def test_an_empty_batch_and_no_layers() -> None:
    net = Sequential(*network())
    x = np.zeros((0, 19, 17, 5), F32)
    for _ in range(2):
        assert net(x).shape == net.out_shape(x.shape) == (0, 5, 5, 11)
    assert Sequential()(x) is x
    assert Sequential().out_shape((1, 2, 3)) == (1, 2, 3)


def test_what_holds_no_layers_changes_nothing() -> None:
    """Wherever it stands: its neighbours are each other's, and positions count it."""
    first, last, nothing = dwcpu.PointwiseConv2d(normal(5, 8)), dwcpu.PointwiseConv2d(normal(8, 3)), Sequential()
    x = image(1, 6, 7)
    wanted = last(first(x))
    inside, residual = Sequential(nothing, nothing), normal(1, 6, 7, 3)
    net = Sequential(inside, first, Sequential(nothing, last), inside)
    for _ in range(2):
        assert np.array_equal(net(x), wanted)
        assert np.array_equal(net(x, residual=residual), last(first(x), residual=residual))
        assert np.array_equal(Sequential(inside, np.abs, nothing)(x), np.abs(x))
        added = Residual(nothing, Sequential(nothing, dwcpu.PointwiseConv2d(normal(5, 5))), nothing)
        assert np.array_equal(added(x), dwcpu.PointwiseConv2d(normal(5, 5))(x, residual=x))
    assert [len(row.own) for row in rows(net)] == [2]
    assert [row.name for row in net.profile(x, runs=1).rows] == ["1 PointwiseConv2d", "2.1 PointwiseConv2d"]
    with pytest.raises(ValueError, match="Sequential: layer 2, PointwiseConv2d: w takes 5 channels but layer 0, Poin"):
        Sequential(first, nothing, first)
    with pytest.raises(TypeError, match="Sequential: layer 0 is of type ufunc; profile"):
        Sequential(np.abs).profile(x)


def test_it_is_a_row_of_layers(backend: str) -> None:
    layers, x = network(backend), image(1, 19, 17)
    net = Sequential(*layers)
    assert (len(net), list(net), net[1], net.layers) == (5, layers, layers[1], tuple(layers))
    assert repr(net) == "Sequential(\n" + "".join(f"    {layer!r},\n" for layer in layers) + ")"
    right = net(x)
    for again in (pickle.loads(pickle.dumps(net)), copy.copy(net), copy.deepcopy(net)):
        for _ in range(2):
            assert again(x).tobytes() == right.tobytes()


def test_it_takes_any_callable_and_nests(backend: str) -> None:
    first, second, third, fourth, fifth = network(backend)
    x = image(1, 19, 17)
    net = Sequential(np.abs, Sequential(first, second), third, lambda image: image + 1, Sequential(fourth, fifth))
    flat = Sequential(Sequential(first, Sequential(second)), third, Sequential(Sequential(fourth, fifth)))
    for _ in range(2):
        middle = third(second(first(np.abs(x))))
        assert net(x).tobytes() == fifth(fourth(middle + 1)).tobytes()
        assert flat(x).tobytes() == fifth(fourth(third(second(first(x))))).tobytes()
        assert np.array_equal(Sequential(first, np.abs)(x), np.abs(first(x)))
    assert [len(row.own) for row in rows(net)] == [3, 2]
    assert list(net[1:3]) == [net[1], third]
    assert isinstance(net[1:3], Sequential)
    assert [len(row.own) for row in rows(flat)] == [5]
    inside = Sequential(first, Sequential(second, np.abs, third), fourth)  # which runs its layers itself
    out = np.empty_like(fourth(third(np.abs(second(first(x))))))
    for _ in range(2):
        assert inside(x, out=out) is out
        assert out.tobytes() == fourth(third(np.abs(second(first(x))))).tobytes()


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("threads", [1, 2])
def test_residual_adds_its_input_to_the_sums_of_the_last_layer(backend: str, layout: str, threads: int) -> None:
    common = {"backend": backend, "layout": layout}
    first = dwcpu.Conv2d(normal(3, 3, 5, 8), stride=2, padding=1, **common)
    block = dwcpu.InvertedResidual(normal(8, 48), normal(3, 3, 48), normal(48, 8), **common)
    window = dwcpu.DepthwiseConv2d(normal(3, 3, 8), padding=1, activation="relu", **common)
    product = dwcpu.PointwiseConv2d(normal(8, 8), activation="relu6", **common)
    last = dwcpu.PointwiseConv2d(normal(8, 3), **common)
    x = image(2, 13, 11, layout=layout)

    def by_hand(x: np.ndarray) -> tuple[np.ndarray, ...]:
        start = first(x, num_threads=threads)
        once = block(start, residual=start, num_threads=threads)
        inner = window(once, residual=once, num_threads=threads)
        twice = product(inner, residual=once, num_threads=threads)
        return start, once, twice, last(twice, num_threads=threads)

    start, once, twice, wanted = by_hand(x)
    deep = Residual(Residual(window), product)
    net = Sequential(first, Residual(block), deep, last)
    ending = Sequential(first, Sequential(Residual(block)))
    for _ in range(3):
        assert net(x, num_threads=threads).tobytes() == wanted.tobytes()
        assert ending(x, num_threads=threads).tobytes() == once.tobytes()
        assert Residual(block)(start, num_threads=threads).tobytes() == once.tobytes()
        assert deep(once, num_threads=threads).tobytes() == twice.tobytes()
        place = once.copy()
        assert deep(place, out=place, num_threads=threads) is place
        assert place.tobytes() == twice.tobytes()
        assert pickle.loads(pickle.dumps(net))(x, num_threads=threads).tobytes() == wanted.tobytes()
    assert [back for _, back in rows(net)[0].own] == [None, 0, 0, 1, None]
    assert [len(row.known) for each in (net, ending, deep) for row in rows(each)] == [1, 1, 1]
    assert [row.name for row in net.profile(x, runs=1).rows] == [
        "0 Conv2d", "1.0 InvertedResidual", "2.0.0 DepthwiseConv2d", "2.1 PointwiseConv2d", "3 PointwiseConv2d",
    ]  # fmt: skip
    assert repr(deep).startswith("Residual(\n    Residual(\n        DepthwiseConv2d(")
    assert net.out_shape(x.shape) == wanted.shape


def test_residual_takes_functions_before_its_last_layer() -> None:
    layer = dwcpu.PointwiseConv2d(normal(5, 5))
    net = Residual(np.abs, layer)
    x = image(1, 6, 7)
    for _ in range(2):
        assert np.array_equal(net(x), layer(np.abs(x), residual=x))


def test_what_belongs_to_the_last_layer_is_checked_before_the_first_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = dwcpu.PointwiseConv2d(normal(5, 8)), dwcpu.PointwiseConv2d(normal(8, 3))
    net = Sequential(first, last)
    ran = []
    monkeypatch.setattr(type(first._program), "compile", lambda *arguments: ran.append(1))
    deep = Sequential(first, Sequential(Sequential(last)))
    inner = "Sequential: layer 0, Sequential: layer 0, "
    for options in ({"out": np.zeros((1, 2, 2, 3), F32)}, {"residual": np.zeros((1, 3, 3, 4), F32)}, {"out": [1]}):
        for each, where in (net, ""), (deep, inner):
            match = rf"^Sequential: layer 1, {where}PointwiseConv2d: (out|residual) "
            with pytest.raises((TypeError, ValueError), match=match):
                each(image(1, 3, 3), **options)
    assert ran == []


@pytest.mark.parametrize("wrong", ["masked", "list", "other type", "ragged"])
def test_what_is_wrong_with_the_input_is_said_of_the_input(wrong: str) -> None:
    x = image(1, 3, 3)
    given = {
        "masked": np.ma.masked_less(x, 0),
        "list": [[["a"]]],
        "other type": x.astype(np.float64),
        "ragged": [[1.0], [2.0, 3.0]],
    }[wrong]
    layer = dwcpu.PointwiseConv2d(normal(5, 5))
    for net in Sequential(layer), Residual(layer), Sequential(Residual(layer)):
        for options in {}, {"out": np.empty_like(x)}:
            with pytest.raises((TypeError, ValueError), match=r"layer 0, PointwiseConv2d: x "):
                net(given, **options)


def test_errors_in_functions_say_where() -> None:
    net = Sequential(dwcpu.PointwiseConv2d(normal(5, 8)), lambda image: image @ np.ones((3, 3), F32))
    with pytest.raises(ValueError, match="matmul") as caught:
        net(image(1, 3, 3))
    assert not hasattr(caught.value, "add_note") or "Sequential: in its function 1" in caught.value.__notes__[0]


def test_layers_that_are_called_another_way() -> None:
    """What a user derives from a layer is called as he says."""

    class Doubled(dwcpu.PointwiseConv2d):
        def __call__(self, x: np.ndarray, **options: object) -> np.ndarray:
            return 2 * super().__call__(x, **options)

    class Twice(Sequential):
        def __call__(self, x: np.ndarray, **options: object) -> np.ndarray:
            return super().__call__(super().__call__(x), **options)

    plain = dwcpu.PointwiseConv2d(normal(5, 5))
    x = image(1, 6, 7)

    class Bare(dwcpu.PointwiseConv2d):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            return 3 * super().__call__(x)

    bare = Sequential(plain, Bare(normal(5, 5)), np.abs, Bare(normal(5, 5)))
    assert np.array_equal(bare(x), 3 * plain(np.abs(3 * plain(plain(x)))))
    doubled, twice = Sequential(plain, Doubled(normal(5, 5)), plain), Sequential(plain, Twice(plain))
    for _ in range(3):
        assert np.array_equal(doubled(x), plain(2 * plain(plain(x))))
        assert np.array_equal(twice(x), plain(plain(plain(x))))


def test_errors_of_calls_name_the_layer_before_and_after() -> None:
    net = Sequential(dwcpu.PointwiseConv2d(normal(5, 8)), dwcpu.DepthwiseConv2d(normal(7, 7, 8)))
    for _ in range(2):
        assert net(image(1, 9, 9)).shape == (1, 3, 3, 8)
        with pytest.raises(ValueError, match="Sequential: layer 1, DepthwiseConv2d: the window spans"):
            net(image(1, 5, 9))
        with pytest.raises(
            ValueError, match="Sequential: layer 0, PointwiseConv2d: w has 5 input channels but x has 4"
        ):
            net(image(1, 9, 9)[..., :4])
        with pytest.raises(ValueError, match="Sequential: layer 1, DepthwiseConv2d: residual has shape"):
            net(image(1, 9, 9), residual=np.zeros((1, 3, 3, 4), F32))
        with pytest.raises(ValueError, match="Sequential: layer 1, DepthwiseConv2d: out has shape"):
            net(image(1, 9, 9), out=np.zeros((1, 3, 3, 4), F32))
        with pytest.raises(ValueError, match="Sequential: layer 0, PointwiseConv2d: num_threads is 0"):
            net(image(1, 9, 9), num_threads=0)


def test_large_layers_and_windows_fit_their_neighbours() -> None:
    """Channels alone are looked at: no image is large enough for all windows, or small enough for all layers."""
    Sequential(dwcpu.PointwiseConv2d(np.zeros((1, 2048), F32)), dwcpu.PointwiseConv2d(np.zeros((2048, 2304), F32)))
    far = dwcpu.DepthwiseConv2d(normal(1, 3, 5), dilation=(1, 600_000))
    assert Sequential(dwcpu.PointwiseConv2d(normal(5, 5)), far).out_shape((1, 1_300_000, 5)) == (1, 100_000, 5)


def test_the_number_of_threads_is_that_of_all_layers() -> None:
    seen = []

    def function(image: np.ndarray) -> np.ndarray:
        seen.append(dwcpu.get_num_threads())
        return image

    net = Sequential(dwcpu.PointwiseConv2d(normal(5, 8)), function, dwcpu.PointwiseConv2d(normal(8, 3)), np.abs)
    before = dwcpu.get_num_threads()
    net(image(1, 6, 7), num_threads=3)
    assert [[threads for _, threads in row._calls] for row in rows(net)] == [[3], [3]]
    net(image(1, 6, 7))
    assert seen == [3, before]
    assert dwcpu.get_num_threads() == before


def test_a_shape_that_another_thread_overwrote_is_planned_again() -> None:
    net = Sequential(dwcpu.PointwiseConv2d(normal(5, 8)), dwcpu.PointwiseConv2d(normal(8, 3)))
    [row] = rows(net)
    net(image(1, 3, 3))
    row._remember((), runtime.get_num_threads)
    net(image(1, 3, 3))
    assert len(row.known) == 1


def test_few_shapes_are_remembered() -> None:
    net = Sequential(dwcpu.PointwiseConv2d(normal(5, 8)), dwcpu.PointwiseConv2d(normal(8, 3)))
    for height in range(1, 40):
        assert net(image(1, height, 3)).shape == (1, height, 3, 3)
    assert len(rows(net)[0].known) == 16
    assert [shape[1] for shape, _ in rows(net)[0]._calls] == list(range(24, 40))


def test_many_threads_at_once(backend: str) -> None:
    net = Sequential(*network(backend))
    inputs = [image(1, 19, 17) * scale for scale in (1, 2, 3, 4)]
    wanted = [net(x).tobytes() for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda number: net(inputs[number % 4]).tobytes() == wanted[number % 4], range(64))
        assert all(results)


def test_a_kernel_that_only_stands_in_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the better one is there the layers are asked each time."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    job = background.Job("a key", lambda: None)
    monkeypatch.setattr(background, "ready", lambda key, make, stand_in: (stand_in(), job))
    odd = dwcpu.DepthwiseConv2d(normal(4, 4, 16), padding=1)
    if odd.explain((1, 9, 9, 16)).kernel.endswith("cython"):
        pytest.skip("no kernel of Numba is chosen on this machine")
    net = Sequential(odd, dwcpu.PointwiseConv2d(normal(16, 3)))
    right = net(normal(1, 9, 9, 16))
    assert rows(net)[0].known == ()
    monkeypatch.undo()
    with background.waiting():
        net._forget()
        odd._forget()
        assert net(normal(1, 9, 9, 16)).tobytes() == right.tobytes()
    assert len(rows(net)[0].known) == 1


def test_forgetting_chooses_kernels_anew() -> None:
    net = Sequential(dwcpu.PointwiseConv2d(normal(5, 8)), np.abs, dwcpu.PointwiseConv2d(normal(8, 3)))
    net(image(1, 3, 3))
    assert all(row.known for row in rows(net))
    net._forget()
    assert not any(row.known for row in rows(net))


def test_explain_is_a_table() -> None:
    layers = network("cython" if runtime.cython_kernels() else "numba")
    net = Sequential(layers[0], Sequential(layers[1], layers[2]))
    choices = net.explain((19, 17, 5), num_threads=1)
    assert choices[:1] == [layers[0].explain((19, 17, 5), 1)]
    assert [choice.kernel.partition("_")[0] for choice in choices] == ["conv", "separable", "depthwise"]
    lines = str(choices).splitlines()
    assert lines[0] == "Sequential, input 19x17x5"
    assert [line.split()[:3] for line in lines[3:6]] == [
        ["0", "Conv2d", "10x9x16"],
        ["1.0", "SeparableConv2d", "10x9x24"],
        ["1.1", "DepthwiseConv2d", "10x9x24"],
    ]
    for line, choice in zip(lines[3:6], choices, strict=True):
        assert choice.kernel in line
    choices.reverse()  # a list like others
    assert str(choices) == "\n\n".join(map(str, choices))
    assert repr(net.explain((19, 17, 5), num_threads=1)).splitlines() == lines
    block = Residual(dwcpu.PointwiseConv2d(normal(5, 5)))
    assert str(block.explain((4, 4, 5))).startswith("Residual, input 4x4x5")
    with pytest.raises(ValueError, match="Sequential: layer 0, PointwiseConv2d: num_threads is 0"):
        Sequential(block[0]).explain((4, 4, 5), num_threads=0)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_profile_times_every_layer(backend: str, layout: str) -> None:
    first, *others = network(backend, layout)
    net = Sequential(first, Sequential(*others))
    x = image(2, 19, 17, layout=layout)
    start = perf_counter()
    report = net.profile(x, num_threads=1, runs=2)
    elapsed = perf_counter() - start
    names = [row.name for row in report.rows]
    assert names[:2] == ["0 Conv2d", "1.0 SeparableConv2d"]
    assert len(names) == 5
    assert all(row.microseconds > 0 for row in report.rows)
    assert sum(row.microseconds for row in report.rows) < elapsed * 1e6
    assert [row.kernel for row in report.rows] == [choice.kernel for choice in net.explain(x.shape, 1)]
    assert str(report).startswith(f"Sequential, input {'x'.join(map(str, x.shape))}, 1 thread, median of 2 runs")


def test_profile_of_a_residual_times_its_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = []
    monkeypatch.setattr(sequential, "chain", lambda nodes, *others: chains.append(nodes) or chain(nodes, *others))
    net = Residual(dwcpu.PointwiseConv2d(normal(5, 8)), dwcpu.PointwiseConv2d(normal(8, 5)))
    report = net.profile(image(1, 6, 7), num_threads=1, runs=1)
    assert [node.residual for node in chains[-1]] == [None, 0]
    assert str(report).startswith("Residual, input 1x6x7x5, 1 thread, median of 1 runs")
    assert [row.name for row in report.rows] == ["0 PointwiseConv2d", "1 PointwiseConv2d"]


def test_what_cannot_be_timed() -> None:
    layer = dwcpu.PointwiseConv2d(normal(5, 8))
    with pytest.raises(TypeError, match="Sequential: layer 1 is of type ufunc; profile needs dwcpu layers throughout"):
        Sequential(layer, np.abs).profile(image(1, 3, 3))
    with pytest.raises(ValueError, match="Sequential: its layers, 0, have nothing to do on x of shape"):
        Sequential().profile(image(1, 3, 3))
    with pytest.raises(ValueError, match="Sequential: its layers, 1, have nothing to do on x of shape"):
        Sequential(layer).profile(np.zeros((0, 3, 3, 5), F32))
    with pytest.raises(ValueError, match="Sequential: layer 0, PointwiseConv2d: w has 5 input channels but x has 4"):
        Sequential(layer).profile(image(1, 3, 3)[..., :4])
    with pytest.raises(ValueError, match="profile: runs is 0"):
        Sequential(layer).profile(image(1, 3, 3), runs=0)


def test_what_it_is_made_of_is_not_assigned_to() -> None:
    net = Sequential(np.abs)
    with pytest.raises(AttributeError, match="Sequential: layers is assigned to; it keeps what it was made of"):
        net.layers = ()
