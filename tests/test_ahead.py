"""What plans have kernels ask for ahead: weights that a later kernel would wait for, each of them in one plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dwcpu
from dwcpu import ahead, dispatch, pipeline, runtime
from dwcpu.abi import plan_dtype
from dwcpu.grid import cut
from dwcpu.pipeline import Pass


def passed(awaited: tuple[int, int], room: int) -> Pass:
    """A pass whose plan says what it was told to ask for."""

    def asking(own: Pass, address: int, size: int) -> Pass:
        assert 0 < size <= own.room
        plan = own.plan.copy()
        plan["later"], plan["later_size"] = address, size
        return own._replace(plan=plan)

    return Pass(0, np.zeros(1, plan_dtype()), cut(1, 1, 1, 1, False), (1,), None, awaited, room, asking)


def asked(passes: list[Pass]) -> list[tuple[int, int]]:
    return [(int(each.plan["later"][0]), int(each.plan["later_size"][0])) for each in ahead.asking(passes)]


def test_the_nearest_asks_for_the_last_weights() -> None:
    passes = [passed((0, 0), 50), passed((0, 0), 0), passed((0, 0), 30), passed((1000, 100), 0)]
    assert asked(passes) == [(1020, 50), (0, 0), (1070, 30), (0, 0)]


def test_nobody_asks_for_two() -> None:
    passes = [passed((0, 0), 50), passed((0, 0), 50), passed((1000, 20), 0), passed((2000, 60), 0)]
    assert asked(passes) == [(2010, 50), (1000, 20), (0, 0), (0, 0)]


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=12))
def test_each_weight_is_asked_for_once_and_before_its_turn(sizes: list[tuple[int, int]]) -> None:
    passes = [passed((1000 * at, wanted), room) for at, (wanted, room) in enumerate(sizes)]
    found: set[int] = set()
    for at, (address, size) in enumerate(asked(passes)):
        weights = set(range(address, address + size))
        assert not weights & found
        found |= weights
        if size:
            assert address // 1000 > at
            assert address % 1000 + size <= sizes[address // 1000][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("fused", [False, True], ids=["pointwise", "separable"])
def test_products_ask_for_a_classifier_and_results_stay_the_same(
    fused: bool, backend: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    def lasting(passes: list[Pass]) -> list[Pass]:
        found.extend(ahead.asking(passes))
        return found

    def computed() -> np.ndarray:
        nodes, shape = [], x.shape
        for layer in layers:
            nodes += layer.nodes(shape, 1)
            shape = nodes[-1].out_shape
        out = np.empty(shape, dtype)
        pipeline.chain(nodes, x.shape, x.dtype, 1).run(x, None, out)
        return out

    first = dwcpu.PointwiseConv2d(weights(32, 64), backend=backend)
    if fused:
        (kernel,) = (k.name for k in dispatch.kernels(dtype, backend) if (k.op, k.label) == ("separable", "fused"))
        first = dwcpu.SeparableConv2d(weights(3, 3, 32), weights(32, 64), padding="same", backend=kernel)
    to_one_pixel = dwcpu.DepthwiseConv2d(weights(12, 12, 64), backend=backend)
    layers = [first, to_one_pixel, dwcpu.PointwiseConv2d(weights(64, 203), backend=backend)]
    x, found = weights(1, 12, 12, 32), []
    monkeypatch.setattr(pipeline, "asking", list)
    expected = computed()
    monkeypatch.setattr(pipeline, "asking", lasting)
    assert np.array_equal(computed(), expected)
    address, size = found[-1].awaited
    assert size >= 64 * 203 * x.itemsize
    host = found[0]
    plan = host.owner[1].plan if fused else host.plan
    assert int(plan["later_size"][0]) == min(size, host.room) > 0
    assert int(plan["later"][0]) + int(plan["later_size"][0]) == address + size
