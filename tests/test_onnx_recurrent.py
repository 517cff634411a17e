"""LSTM, GRU and RNN against onnxruntime, in every direction and with everything that may be given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import runtime

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_passes import node, random, simplified, write  # noqa: E402

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
STEPS, BATCH, INPUTS, SIZE = 7, 3, 5, 4


def network(op: str, given: str = "", **attributes: Any) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A node and its constants; `given` names what may be left out: bias, lengths, h, c, P."""
    sides = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[op] * SIZE
    constants = {"w": random(sides, gates, INPUTS), "r": random(sides, gates, SIZE)}
    more = {
        "b": random(sides, 2 * gates), "l": np.array([7, 2, 5], np.int32), "h": random(sides, BATCH, SIZE),
        "c": random(sides, BATCH, SIZE, seed=2), "P": random(sides, 3 * SIZE),
    }  # fmt: skip
    constants |= {name: array for name, array in more.items() if name in given}
    names = ["x", "w", "r", *(name if name in given else "" for name in more)]
    results = ["y", "last", "cells"][: 3 if op == "LSTM" else 2]
    return [node(op, names[: 8 if op == "LSTM" else 6], results, hidden_size=SIZE, **attributes)], constants


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", ["", "b", "bh", "blhcP"])
def test_states_go_from_step_to_step(op, direction, given) -> None:
    if op != "LSTM":
        given = given.replace("c", "").replace("P", "")
    for options in ({}, {"clip": 0.5}, {"linear_before_reset": 1} if op == "GRU" else {}):
        nodes, constants = network(op, given, direction=direction, **options)
        simplified(nodes, constants, nodes[0].output, feeds={"x": random(STEPS, BATCH, INPUTS)})


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [16, 37])
@pytest.mark.parametrize("op", GATES)
def test_states_are_given_known_or_none(op, size, batch) -> None:
    gates, results = GATES[op] * size, ["y", "last", "cells"][: 3 if op == "LSTM" else 2]
    for direction, sides in (("reverse", 1), ("bidirectional", 2)):
        weights = {
            "w": random(sides, gates, INPUTS), "r": random(sides, gates, size) / 5, "b": random(sides, 2 * gates),
        }  # fmt: skip
        states = {name: random(sides, batch, size, seed=at) for at, name in enumerate("hc"[: len(results) - 1])}
        nodes = [node(op, ["x", *weights, "l", *states], results, hidden_size=size, direction=direction)]
        for known in ("", "h", "hc"):
            constants = {name: array for name, array in states.items() if name in known}
            constants |= weights | {"l": np.full(batch, STEPS, np.int32)}
            feeds = {name: array for name, array in states.items() if name not in known}
            simplified(nodes, constants, results, feeds={"x": random(STEPS, batch, INPUTS), **feeds})
        feeds = {"x": random(STEPS, batch, INPUTS), **states}
        model = dwcpu.load_onnx(write(nodes, feeds, weights | {"l": constants["l"]}, results, 18))
        [row] = model.explain({name: array.shape for name, array in feeds.items()}).rows
        assert (row.kernel == "numpy") == (runtime.cython_kernels() is None)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_batches_come_first_if_they_are_said_to(op, direction) -> None:
    x, given = random(STEPS, BATCH, INPUTS), "bhc" if op == "LSTM" else "bh"
    nodes, constants = network(op, given, direction=direction)
    wanted = dwcpu.load_onnx(write(nodes, {"x": x}, constants, nodes[0].output, 18))(x)
    for name in ("h", "c"):
        if name in constants:
            constants[name] = constants[name].swapaxes(0, 1).copy()
    nodes[0].attribute.append(onnx.helper.make_attribute("layout", 1))
    found = dwcpu.load_onnx(write(nodes, {"x": x}, constants, nodes[0].output, 18))(x.swapaxes(0, 1).copy())
    np.testing.assert_array_equal(found[0], np.moveaxis(wanted[0], 2, 0))
    for each, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(each, other.swapaxes(0, 1))


@pytest.mark.parametrize("op", GATES)
def test_gates_have_other_functions(op) -> None:
    count = {"GRU": 2, "LSTM": 3, "RNN": 1}[op]
    for names in (["Softsign", "Relu", "Softplus"], ["Sigmoid", "Sigmoid", "Tanh"]):
        nodes, constants = network(op, "b", direction="bidirectional", activations=2 * names[:count])
        constants = {name: array * np.float32(0.1) for name, array in constants.items()}  # some have no bounds
        simplified(nodes, constants, nodes[0].output, feeds={"x": random(STEPS, BATCH, INPUTS)})
    apart = ["Tanh"] * count + ["Sigmoid"] * count
    for bad in (["Affine"] * count, ["Tanh"] * (count - 1 or 3), ["Tanh"] * (2 * count + 1), apart):
        nodes, constants = network(op, activations=bad)
        with pytest.raises(dwcpu.UnsupportedOperator, match=f"{op} with activations="):
            dwcpu.load_onnx(write(nodes, {"x": random(STEPS, BATCH, INPUTS)}, constants, ["y"], 18))


def test_a_gate_that_forgets_what_another_lets_in() -> None:
    nodes, constants = network("LSTM", "b", input_forget=1)
    simplified(nodes, constants, nodes[0].output, feeds={"x": random(STEPS, BATCH, INPUTS)})


def test_types_that_have_few_digits_are_computed_with_more() -> None:
    nodes, constants = network("LSTM", "bhc")
    x = random(60, BATCH, INPUTS)
    [wanted, *_] = dwcpu.load_onnx(write(nodes, {"x": x}, constants, nodes[0].output, 18))(x)
    constants = {name: array.astype(np.float16) for name, array in constants.items()}
    [found, *_] = dwcpu.load_onnx(write(nodes, {"x": x.astype(np.float16)}, constants, nodes[0].output, 18))(
        x.astype(np.float16)
    )
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_their_work_is_counted() -> None:
    nodes, constants = network("LSTM", "b", direction="bidirectional")
    model = dwcpu.load_onnx(write(nodes, {"x": random(STEPS, BATCH, INPUTS)}, constants, ["y"], 18))
    [row] = model.explain((STEPS, BATCH, INPUTS)).rows
    assert (row.kernel, row.flops) == ("lstm", 2 * STEPS * BATCH * 2 * 4 * SIZE * (INPUTS + SIZE))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (7, 0)])
def test_there_may_be_no_steps_and_no_sequences(op, steps, batch) -> None:
    nodes, constants = network(op, "b", direction="bidirectional")
    model = dwcpu.load_onnx(write(nodes, {"x": random(1, 1, INPUTS)}, constants, nodes[0].output, 18))
    states, last, *_ = model(np.zeros((steps, batch, INPUTS), np.float32))
    assert (states.shape, last.shape) == ((steps, 2, batch, SIZE), (2, batch, SIZE))
    np.testing.assert_array_equal(last, 0)


def test_names_of_results_may_be_those_of_others_together() -> None:
    nodes = [
        node("RNN", ["x", "w", "r"], ["a+b"], hidden_size=SIZE),
        node("RNN", ["x", "w2", "r"], ["a", "b"], hidden_size=SIZE),
    ]
    constants = {"w": random(1, SIZE, INPUTS), "w2": random(1, SIZE, INPUTS, seed=9), "r": random(1, SIZE, SIZE)}
    simplified(nodes, constants, ["a+b", "a"], feeds={"x": random(STEPS, BATCH, INPUTS)})


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_states_of_another_type_are_converted(dtype) -> None:
    nodes, constants = network("LSTM", "bhc")
    state = 2 * constants.pop("h")
    x, outputs = random(STEPS, BATCH, INPUTS), list(nodes[0].output)
    given = state.astype(dtype)
    found = dwcpu.load_onnx(write(nodes, {"x": x, "h": given}, constants, outputs, 18))(x=x, h=given)
    wanted = dwcpu.load_onnx(write(nodes, {"x": x, "h": state}, constants, outputs, 18))(
        x=x, h=given.astype(np.float32)
    )
    for each, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("op", GATES)
def test_there_may_be_no_units(op) -> None:
    constants = {"w": random(1, 0, INPUTS), "r": random(1, 0, 0)}
    nodes = [node(op, ["x", "w", "r"], ["y", "last"], hidden_size=0)]
    model = dwcpu.load_onnx(write(nodes, {"x": random(STEPS, BATCH, INPUTS)}, constants, ["y", "last"], 18))
    states, last = model(random(STEPS, BATCH, INPUTS))
    assert (states.shape, last.shape) == ((STEPS, 1, BATCH, 0), (1, BATCH, 0))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"w": random(1, 16, 6)}, r"W \(1, 16, 6\) and R .*; they must be \(T, N, I\), \(1, 4 \* H, I\)"),
        ({"r": random(1, 12, 4)}, r"R \(1, 12, 4\); they must be"),
        ({"b": random(1, 16)}, r"bias is of shape \(1, 16\); it must be \(1, 32\)"),
        ({"l": np.array([3, 8, 1], np.int32)}, "sequence_lens are 1 to 8; they must be 0 to the 7 steps"),
        ({"l": np.array([3], np.int32)}, r"sequence_lens is of shape \(1,\); it must be \(3,\)"),
    ],
)
def test_weights_must_fit(wrong, words) -> None:
    nodes, constants = network("LSTM", "bl")
    model = dwcpu.load_onnx(write(nodes, {"x": random(STEPS, BATCH, INPUTS)}, {**constants, **wrong}, ["y"], 18))
    with pytest.raises(ValueError, match=words):
        model(random(STEPS, BATCH, INPUTS))
