"""What happens to a value between its sum and memory: names and parameters of the activations.

``out = activation(conv(x, w) + bias + residual)``. An activation is either a clamp to ``[low, high]``, which every
kernel applies while the value is still in a register, or one of the numbered functions of `abi.ACTIVATION_CODES`.

==================  =========================================  ==============================  =======  =======
activation          value                                      how kernels see it              float32  float64
==================  =========================================  ==============================  =======  =======
None                v                                          clamp to (-inf, inf)            0        0
"relu"              v < 0 ? 0 : v                              clamp to (0, inf)               0        0
"relu6"             clamp(v, 0, 6)                             clamp to (0, 6)                 0        0
("clip", lo, hi)    clamp(v, lo, hi)                           clamp to (lo, hi)               0        0
"hardsigmoid"       clamp(v + 3, 0, 6) / 6                     code 2                          2        2
"hardswish"         v * (clamp(v + 3, 0, 6) / 6)               code 1                          3        3
("leaky_relu", s)   v < 0 ? s * v : v                          code 3, `alpha` = s             2        2
"sigmoid"           1 / (1 + exp(-v))                          code 4                          3        3
"silu"              v / (1 + exp(-v))                          code 5                          3        3
"gelu"              v * (1 + erf(v / sqrt(2))) / 2             code 6                          8        8
==================  =========================================  ==============================  =======  =======

The last two columns say how far results may be from the exact ones, in units in the last place of the exact one rounded
to that type (below the smallest normal number: in multiples of the smallest number there is), for every `v`. The bounds
of a clip hold for bounds that the type has. "silu" may be off by ``abs(v)`` times the smallest number there is besides,
"gelu" by ``abs(v)`` times the smallest normal number: below about that, the factor of v is taken for zero.

A clamp is ``v < low ? low : (v > high ? high : v)``: NaN passes, and -0.0 stays -0.0. Of minus infinity "hardswish" and
"silu" make NaN, its product with zero, and "gelu" -0.0, its limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, isnan
from numbers import Real

from . import abi
from .shapes import nearest

__all__ = ["Activation", "ActivationSpec", "parse_activation", "real_number"]

#: What a user may write as `activation`.
ActivationSpec = None | str | tuple[str, float] | tuple[str, float, float]

_CLAMPS = {"relu": (0.0, inf), "relu6": (0.0, 6.0)}
_NAMED = tuple(_CLAMPS) + tuple(name for name in abi.ACTIVATION_CODES if name != "leaky_relu")
_CHOICES = "None, " + ", ".join(repr(name) for name in _NAMED) + ", ('clip', lo, hi) or ('leaky_relu', slope)"


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation, parsed.

    Attributes
    ----------
    name : str or None
        None for none at all.
    low, high : float
        Clamp; infinite where there is none.
    code : int
        Number in `abi.ACTIVATION_CODES`, or 0 where the clamp says everything.
    alpha : float
        Slope of "leaky_relu" below zero; 0 for the others.

    Examples
    --------
    >>> parse_activation("relu6", "conv2d")
    Activation(name='relu6', low=0.0, high=6.0, code=0, alpha=0.0)
    """

    name: str | None = None
    low: float = -inf
    high: float = inf
    code: int = 0
    alpha: float = 0.0

    @property
    def spec(self) -> ActivationSpec:
        """The activation as users write it; `parse_activation` takes it back."""
        if self.name == "clip":
            return "clip", self.low, self.high
        if self.name == "leaky_relu":
            return "leaky_relu", self.alpha
        return self.name


_NONE = Activation()
_PARSED: dict[str, Activation] = {
    **{name: Activation(name, low, high) for name, (low, high) in _CLAMPS.items()},
    **{name: Activation(name, code=code) for name, code in abi.ACTIVATION_CODES.items() if name != "leaky_relu"},
}


def parse_activation(activation: object, operation: str, what: str = "activation") -> Activation:
    """What the user wrote, as an `Activation`.

    Parameters
    ----------
    activation : None, str, ("clip", lo, hi), ("leaky_relu", slope) or Activation
        See the table in ``help(dwcpu.epilogue)``.
    operation, what : str
        Names used in error texts.

    Raises
    ------
    TypeError
        If it is none of these types, or a parameter is no real number.
    ValueError
        If the name is unknown, a parameter is missing or NaN, ``lo > hi``, or the slope is not finite.

    Examples
    --------
    >>> parse_activation(("clip", -1, 1), "conv2d").spec
    ('clip', -1.0, 1.0)
    >>> parse_activation("reluu", "conv2d")
    Traceback (most recent call last):
    ValueError: conv2d: activation is 'reluu'; it must be None, 'relu', 'relu6', ...
    """
    if activation is None:
        return _NONE
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        parsed = _PARSED.get(activation)
        if parsed is not None:
            return parsed
        if activation in ("clip", "leaky_relu"):
            form = "('clip', lo, hi)" if activation == "clip" else "('leaky_relu', slope)"
            raise ValueError(f"{operation}: {what} is {activation!r} without parameters; it has some; write {form}")
        raise ValueError(f"{operation}: {what} is {activation!r}; it must be {_CHOICES}; {nearest(activation, _NAMED)}")
    if not isinstance(activation, (tuple, list)):
        raise TypeError(
            f"{operation}: {what} is of type {type(activation).__name__}; it must be {_CHOICES}; use one of these"
        )
    name, *parameters = activation if activation else (None,)
    if name == "clip" and len(parameters) == 2:
        low, high = (real_number(value, f"{what}[{at}]", operation) for at, value in enumerate(parameters, 1))
        if low > high:
            raise ValueError(
                f"{operation}: {what} is ('clip', {low}, {high}); the lower bound must not exceed the upper; swap them"
            )
        return Activation("clip", low, high)
    if name == "leaky_relu" and len(parameters) == 1:
        slope = real_number(parameters[0], f"{what}[1]", operation)
        if not isfinite(slope):
            raise ValueError(f"{operation}: {what} has slope {slope}; the slope must be finite; give a finite one")
        return Activation("leaky_relu", code=abi.ACTIVATION_CODES["leaky_relu"], alpha=slope)
    raise ValueError(f"{operation}: {what} is {activation!r}; it must be {_CHOICES}; use one of these")


def real_number(value: object, what: str, operation: str) -> float:
    """`value` as a float that is not NaN.

    Parameters
    ----------
    value : object
        Any real number but a bool.
    what, operation : str
        Names used in error texts.

    Raises
    ------
    TypeError
        If it is no real number.
    ValueError
        If it is NaN or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{operation}: {what} is of type {type(value).__name__}; it must be a real number; convert it with float()"
        )
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{operation}: {what} is beyond float64; it must fit; give a smaller one") from None
    if isnan(number):
        raise ValueError(f"{operation}: {what} is NaN; it must be a number; give one")
    return number
