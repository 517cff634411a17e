"""Activations: what users may write, and the values that the specification gives them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dwcpu import abi
from dwcpu.epilogue import Activation, parse_activation
from dwcpu.reference import activate

SPECS = [
    None,
    "relu",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "silu",
    "gelu",
    ("clip", -1.0, 2.5),
    ("leaky_relu", 0.1),
]

#: The textbook formula of each, for one Python float.
FORMULAS = {
    None: lambda v: v,
    "relu": lambda v: max(v, 0.0),
    "relu6": lambda v: min(max(v, 0.0), 6.0),
    "hardswish": lambda v: v * min(max(v + 3, 0.0), 6.0) / 6,
    "hardsigmoid": lambda v: min(max(v + 3, 0.0), 6.0) / 6,
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "silu": lambda v: v / (1 + math.exp(-v)),
    "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
    ("clip", -1.0, 2.5): lambda v: min(max(v, -1.0), 2.5),
    ("leaky_relu", 0.1): lambda v: v if v >= 0 else 0.1 * v,
}


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_values_follow_the_formula(spec) -> None:
    values = np.concatenate([np.linspace(-12, 12, 241), [0.0, -3.0, 3.0, 6.0, 1e-8, -1e-8]])
    wanted = [FORMULAS[spec](float(value)) for value in values]
    np.testing.assert_allclose(activate(values, parse_activation(spec, "test")), wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_nan_passes(spec) -> None:
    assert np.isnan(activate(np.array([np.nan, 1.0]), parse_activation(spec, "test"))).tolist() == [True, False]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_far_out_there_is_no_warning_and_the_limit_is_right(spec) -> None:
    low, high = activate(np.array([-1e4, 1e4]), parse_activation(spec, "test"))
    limits = {None: -1e4, ("clip", -1.0, 2.5): -1.0, ("leaky_relu", 0.1): -1e3}
    assert low == pytest.approx(limits.get(spec, 0.0), abs=1e-300)
    limits = {"relu6": 6.0, "hardsigmoid": 1.0, "sigmoid": 1.0, ("clip", -1.0, 2.5): 2.5}
    assert high == pytest.approx(limits.get(spec, 1e4))


def test_clamps_leave_negative_zero_alone() -> None:
    for spec in ("relu", "relu6", ("clip", 0, 1)):
        assert np.signbit(activate(np.array([-0.0]), parse_activation(spec, "test"))[0])


def test_infinity_is_clamped_like_any_number() -> None:
    values = np.array([-np.inf, np.inf])
    assert activate(values, parse_activation("relu", "test")).tolist() == [0.0, np.inf]
    assert activate(values, parse_activation("relu6", "test")).tolist() == [0.0, 6.0]


def test_gelu_keeps_its_digits_far_below_zero() -> None:
    (value,) = activate(np.array([-10.0]), parse_activation("gelu", "test"))
    assert value == pytest.approx(-7.61985302416e-23, rel=1e-10)


def test_parsed_form() -> None:
    assert parse_activation(None, "test") == Activation(None, -math.inf, math.inf, 0, 0.0)
    assert parse_activation("relu", "test") == Activation("relu", 0.0, math.inf, 0, 0.0)
    assert parse_activation(["clip", 0, np.float32(1)], "test") == Activation("clip", 0.0, 1.0)
    leaky = parse_activation(("leaky_relu", 0.2), "test")
    assert leaky == Activation("leaky_relu", code=abi.ACTIVATION_CODES["leaky_relu"], alpha=0.2)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_spec_goes_back_and_forth(spec) -> None:
    parsed = parse_activation(spec, "test")
    assert parsed.spec == spec
    assert parse_activation(parsed.spec, "test") == parsed
    assert parse_activation(parsed, "test") is parsed
    assert hash(parsed) == hash(parse_activation(spec, "test"))


def test_every_coded_activation_can_be_written() -> None:
    codes = {parse_activation(spec, "test").code for spec in SPECS}
    assert codes == {0, *abi.ACTIVATION_CODES.values()}


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("reluu", ValueError, "op: activation is 'reluu'; it must be None, 'relu', "),
        ("clip", ValueError, "op: activation is 'clip' without parameters; .* write \\('clip', lo, hi\\)"),
        ("leaky_relu", ValueError, "write \\('leaky_relu', slope\\)"),
        (("clip", 1), ValueError, "op: activation is \\('clip', 1\\)"),
        (("clip", 2, 1), ValueError, "must not exceed the upper; swap them"),
        (("clip", math.nan, 1), ValueError, "activation\\[1\\] is NaN"),
        (("clip", "0", 1), TypeError, "activation\\[1\\] is of type str"),
        (("clip", True, 2), TypeError, "activation\\[1\\] is of type bool"),
        (("leaky_relu", math.inf), ValueError, "the slope must be finite"),
        (("leaky_relu",), ValueError, "op: activation is \\('leaky_relu',\\)"),
        (("relu",), ValueError, "op: activation is \\('relu',\\)"),
        ((), ValueError, "op: activation is \\(\\)"),
        (np.maximum, TypeError, "op: activation is of type ufunc"),
        (3, TypeError, "op: activation is of type int"),
    ],
)
def test_mistakes(spec, error, text) -> None:
    with pytest.raises(error, match=text):
        parse_activation(spec, "op")
