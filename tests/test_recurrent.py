"""Recurrences on compiled kernels: their equations, the same bits in any company, nothing else written."""

from __future__ import annotations

import numpy as np
import pytest
from running import DTYPES, run

from dwcpu import pixels, runtime
from dwcpu.recurrent import Recurrence

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")

GATES = {"gru": 3, "gru_before": 3, "lstm": 4, "rnn": 1}
STEPS = 6


@pytest.fixture(autouse=True)
def everything_is_worth_threads(monkeypatch) -> None:
    monkeypatch.setattr(pixels, "_WORTH_BYTES", 0)


def weights(kind: str, sides: int, size: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([sides, size])
    shape = sides, size, GATES[kind] * size
    r, bias = rng.standard_normal(shape) / np.sqrt(size), rng.standard_normal((sides, shape[2]))
    return r.astype(dtype), bias.astype(dtype)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expected(kind: str, given: np.ndarray, r: np.ndarray, bias: np.ndarray, backwards: int, begin) -> np.ndarray:
    """What the kernel writes, in float64, from the equations of ONNX's standard."""
    steps, sequences, sides, _ = given.shape
    size = r.shape[1]
    h = np.zeros((sides, sequences, size)) if begin is None else begin[0].astype(np.float64)
    c = np.zeros((sides, sequences, size)) if begin is None or kind != "lstm" else begin[1].astype(np.float64)
    states = np.zeros((steps, sides, sequences, size))
    for side in range(sides):
        w, b = r[side].astype(np.float64), bias[side].astype(np.float64)
        for at in reversed(range(steps)) if side >= backwards else range(steps):
            x, before = given[at, :, side].astype(np.float64), h[side]
            of_state = np.split(before @ w + b, GATES[kind], axis=1)
            of_input = np.split(x, GATES[kind], axis=1)
            first = of_input[0] + of_state[0]
            if kind == "rnn":
                h[side] = np.tanh(first)
            elif kind == "lstm":
                i, o, f = (sigmoid(of_input[gate] + of_state[gate]) for gate in range(3))
                c[side] = f * c[side] + i * np.tanh(of_input[3] + of_state[3])
                h[side] = o * np.tanh(c[side])
            else:
                z, reset = sigmoid(first), sigmoid(of_input[1] + of_state[1])
                if kind == "gru":
                    new = np.tanh(of_input[2] + reset * of_state[2])
                else:
                    new = np.tanh(of_input[2] + (reset * before) @ w[:, 2 * size :] + b[2 * size :])
                h[side] = (1 - z) * new + z * before
            states[at, side] = h[side]
    return np.concatenate([states, h[None], *([c[None]] if kind == "lstm" else [])])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 3, 8, 16, 17, 32, 37, 48, 64, 100])
@pytest.mark.parametrize("kind", GATES)
def test_states_follow_the_equations(kind, size, dtype) -> None:
    for sides, backwards, sequences in ((1, 1, 1), (1, 0, 2), (2, 1, 1), (2, 1, 5), (1, 1, 150)):
        r, bias = weights(kind, sides, size, dtype)
        rng = np.random.default_rng([size, sequences])
        given = rng.standard_normal((STEPS, sequences, sides, GATES[kind] * size)).astype(dtype)
        begin = rng.standard_normal((2 if kind == "lstm" else 1, sides, sequences, size)).astype(dtype)
        for each in (None, begin) if sequences < 5 else (begin,):
            kernel = Recurrence(kind, r, bias, backwards).kernel(STEPS, sequences, 3)
            assert kernel is not None
            out = np.empty(kernel.out_shape, dtype)
            run(kernel, given, out, each)
            wanted = expected(kind, given, r, bias, backwards, each)
            np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("kind", GATES)
def test_a_sequence_has_the_same_bits_in_any_company(kind) -> None:
    r, bias = weights(kind, 2, 40, DTYPES[0])
    layer = Recurrence(kind, r, bias, 1)
    given = np.random.default_rng(1).standard_normal((STEPS, 90, 2, GATES[kind] * 40)).astype(np.float32)
    found = []
    for first, last, threads in ((0, 90, 1), (0, 90, 2), (0, 90, 7), (17, 18, 1), (17, 30, 3)):
        kernel = layer.kernel(STEPS, last - first, threads)
        assert kernel is not None
        out = np.empty(kernel.out_shape, np.float32)
        run(kernel, given[:, first:last].copy(), out)
        found.append(out[:, :, 17 - first].tobytes())
    assert len(set(found)) == 1


@pytest.mark.parametrize("kind", GATES)
def test_what_is_no_number_stays_in_its_sequence(kind) -> None:
    r, bias = weights(kind, 1, 20, DTYPES[0])
    given = np.random.default_rng(1).standard_normal((STEPS, 3, 1, GATES[kind] * 20)).astype(np.float32)
    given[2, 1, 0, 7] = np.nan
    given[3, 2] = 1e30  # gates that are quite open
    kernel = Recurrence(kind, r, bias, 1).kernel(STEPS, 3, 1)
    assert kernel is not None
    out = np.empty(kernel.out_shape, np.float32)
    run(kernel, given, out)
    missing = np.isnan(out[:STEPS, 0])
    assert not missing[:, [0, 2]].any()
    assert not missing[:2].any()
    assert missing[2, 1].any()
    assert missing[3:, 1].all()
