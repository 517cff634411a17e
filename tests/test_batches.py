"""Batches whose images go through several layers one by one: what layers give, where it is done and where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cases
import numpy as np
import pytest

import dwcpu
from dwcpu import background, batches, models, runtime
from dwcpu.pipeline import GIVEN, Node
from dwcpu.sequential import _Row

pytestmark = pytest.mark.skipif(
    runtime.cython_kernels() is None, reason="images go one by one where the driver is compiled"
)

F32 = np.float32


@pytest.fixture(autouse=True)
def large_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large core, with an L2 that no batch of these tests fits."""
    monkeypatch.setattr(runtime, "large_core", lambda: True)
    set_l2(monkeypatch, 1 << 14)


def set_l2(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let L2 have that many bytes."""
    caches = runtime.cache_sizes()._replace(l2=size)
    monkeypatch.setattr(runtime, "cache_sizes", lambda: caches)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes went image by image, of every plan that was made."""
    counts: list[int] = []
    fitting = batches._fitting

    def noted(nodes: Sequence[Node], batch: int, itemsize: int, threads: int) -> int:
        counts.append(fitting(nodes, batch, itemsize, threads))
        return counts[-1]

    monkeypatch.setattr(batches, "_fitting", noted)
    return counts


def normal(*shape: int, dtype: type = F32) -> np.ndarray:
    return cases.normal(np.random.default_rng(sum(shape)), shape, dtype)


def layers(dtype: type = F32, layout: str = "NHWC", backend: str = "auto") -> list:
    """For an input of 5 channels and 40x36 pixels or so: a skip connection in the middle, tiny images at the end."""
    common = {"layout": layout, "backend": backend}
    return [
        dwcpu.Conv2d(normal(3, 3, 5, 16, dtype=dtype), normal(16, dtype=dtype), stride=2, padding=1, **common),
        dwcpu.Residual(
            dwcpu.PointwiseConv2d(normal(16, 24, dtype=dtype), activation="silu", **common),
            dwcpu.SeparableConv2d(normal(3, 3, 24, dtype=dtype), normal(24, 16, dtype=dtype), padding=1, **common),
        ),
        dwcpu.InvertedResidual(
            normal(16, 48, dtype=dtype), normal(3, 3, 48, dtype=dtype), normal(48, 8, dtype=dtype), stride=2,
            padding=1, **common,
        ),
        dwcpu.DepthwiseConv2d(normal(3, 3, 8, dtype=dtype), stride=2, padding=1, **common),
        dwcpu.PointwiseConv2d(normal(8, 11, dtype=dtype), activation="hardswish", **common),
    ]  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "numba"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("batch", "threads"), [(2, 1), (4, 2), (3, 3)])
def test_images_one_by_one_give_what_layers_give(
    batch: int, threads: int, layout: str, backend: str, joined: list[int]
) -> None:
    for dtype in F32, np.float64:
        each = layers(dtype, layout, backend)
        net, x = dwcpu.Sequential(*each), normal(batch, 40, 36, 5, dtype=dtype)
        if layout == "NCHW":
            x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        right = x
        for layer in each:
            right = layer(right, num_threads=threads)
        added = normal(*right.shape, dtype=dtype)
        right_with = each[-1](dwcpu.Sequential(*each[:-1])(x, num_threads=threads), residual=added)
        for _ in range(3):
            out = np.full_like(right, np.nan)
            np.testing.assert_array_equal(net(x, num_threads=threads), right)
            assert net(x, num_threads=threads, residual=added, out=out) is out
            np.testing.assert_array_equal(out, right_with)
        assert 4 in joined  # 5x5 pixels are left: operations behind them see the whole batch


@pytest.mark.parametrize("threads", [1, 2])
def test_a_whole_row_may_go_image_by_image(threads: int, joined: list[int]) -> None:
    net, x = dwcpu.Sequential(*layers()[:2]), normal(2, 40, 36, 5)
    right = net(x, num_threads=threads)
    added, out = normal(*right.shape), np.empty_like(right)
    np.testing.assert_array_equal(net(x, num_threads=threads), right)
    with pytest.raises(TypeError, match="it can add one thing"):
        net(x, residual=added)
    net = dwcpu.Sequential(*layers()[:1], dwcpu.PointwiseConv2d(normal(16, 16)))
    right = net[1:](net[:1](x), residual=added)
    for _ in range(3):
        net(x, residual=added, out=out, num_threads=threads)
        np.testing.assert_array_equal(out, right)
    assert joined[-1] == 2


def test_networks_take_batches_image_by_image(joined: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    set_l2(monkeypatch, 100 << 10)
    net, x = models.mobilenet_v2(seed=0), normal(4, 64, 64, 3)
    right = np.concatenate([net(image[None], 1) for image in x])
    for threads in 1, 2, 3:
        np.testing.assert_array_equal(net(x, threads), right)
    assert joined == [0, 7, 7, 0]  # one image; four for one thread, for two, and for three
    table = net.profile(x, num_threads=1, runs=1)
    assert len(table.rows) == len(net.layers)
    assert all(row.microseconds is not None and row.microseconds > 0 for row in table.rows)


def test_their_arena_holds_an_image_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    set_l2(monkeypatch, 300 << 10)
    net = models.mobilenet_v1(seed=0)
    one, many, two = (net.explain((batch, 112, 112, 3), threads).memory for batch, threads in ((1, 1), (8, 1), (8, 2)))
    assert one is not None and many is not None and two is not None
    assert one[0] <= many[0] < 3 * one[0]
    assert many[0] < two[0] <= 2 * many[0]
    assert many[1] > 6 * one[1]  # in place of all that lies between of all images


class Waiting:
    """A job for a kernel that another stands in for."""

    def __init__(self) -> None:
        self.over = False


@pytest.mark.parametrize("make", [models.mobilenet_v2, None], ids=["network", "Sequential"])
def test_a_kernel_of_single_images_that_is_being_compiled_is_waited_for(
    make: Callable[..., Any] | None, joined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of calls until then go together, and those of later ones one by one."""
    set_l2(monkeypatch, (100 if make else 16) << 10)
    net, x = (make(seed=0), normal(4, 64, 64, 3)) if make else (dwcpu.Sequential(*layers()), normal(2, 40, 36, 5))
    owner: Any = type(net) if make else _Row
    job, ones = Waiting(), owner._ones
    monkeypatch.setattr(background, "over", lambda each: each is not None and each.over)

    def standing_in(self: Any, shape: tuple[int, ...], count: int) -> list[Node]:
        return [node if job.over else node._replace(job=job) for node in ones(self, shape, count)]

    monkeypatch.setattr(owner, "_ones", standing_in)
    right = net(x)
    made = len(joined)
    np.testing.assert_array_equal(net(x), right)
    job.over = True
    np.testing.assert_array_equal(net(x), right)
    assert len(joined) > made
    made = len(joined)
    np.testing.assert_array_equal(net(x), right)
    assert len(joined) == made


def nodes(*pixels: int, residuals: dict[int, int] | None = None) -> list[Node]:
    """Operations with 16 channels on images of so many pixels a side, for a batch of four."""
    kernels = batches._Images([], (4, 1, 1, 1), (4, 1, 1, 1), np.dtype(F32))  # any that is not called
    return [Node(kernels, (4, size, size, 16), (residuals or {}).get(at)) for at, size in enumerate(pixels)]


@pytest.mark.parametrize(
    ("pixels", "residuals", "count"),
    [
        ((30, 20, 20), {}, 3),
        ((30, 20, 7, 6, 8), {}, 3),  # 36 pixels are too few
        ((30, 20, 20, 6), {2: 1}, 3),
        ((30, 20, 20, 20), {3: 1}, 4),
        ((30, 20, 20, 6), {3: 2}, 2),  # what is added comes from between
        ((30, 20, 20, 6), {3: 0}, 0),
        ((40, 6), {}, 0),  # one operation alone gains nothing
        ((7, 7), {}, 0),  # L2 holds them
        ((7, 40), {}, 0),  # and what lies between; their result is written anyway
        ((7, 7, 40, 6), {3: 2}, 0),
        ((20, 40), {}, 2),
        ((40, 20), {}, 0),  # too much between, even of one
        ((30, 20), {1: GIVEN}, 2),
    ],
)
def test_which_operations_go_image_by_image(pixels: tuple[int, ...], residuals: dict[int, int], count: int) -> None:
    assert batches._fitting(nodes(*pixels, residuals=residuals), 4, 4, 1) == count


def test_where_images_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row = nodes(30, 20, 20)
    for batch, threads, count in (1, 1, 0), (4, 2, 3), (4, 4, 3), (4, 3, 0), (4, 8, 0):
        assert batches._fitting(row, batch, 4, threads) == count
    functions = [row[0], row[1], Node(lambda *_: None, row[2].out_shape)]
    assert batches._fitting(functions, 4, 4, 1) == 2
    monkeypatch.setattr(runtime, "large_core", lambda: False)
    assert batches._fitting(row, 4, 4, 1) == 0
