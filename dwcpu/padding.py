"""Padding, strides and other sizes as users write them, turned into plain integers.

Nothing here knows about operations: `geometry` builds on it. Error texts read
``operation: what was got; the rule; the fix``. A wrong type is a `TypeError`, a wrong value a `ValueError`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from .shapes import nearest

__all__ = [
    "Padding",
    "normalise_int",
    "normalise_padding",
    "normalise_padding_1d",
    "normalise_pair",
    "parse_padding",
    "parse_padding_1d",
]

#: What a user may write as `padding` of a 2-D operation.
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]

#: Kernels keep sizes in int64 and add and multiply a few of them; below this none of that wraps.
_LARGEST_PARAMETER = 2**31 - 1


def normalise_int(value: object, what: str, operation: str, minimum: int = 1) -> int:
    """`value` as a Python int of at least `minimum`.

    Parameters
    ----------
    value : object
        A Python or NumPy integer; bool is refused, since ``stride=True`` is a mistake.
    what, operation : str
        Names used in error texts.
    minimum : int
        The smallest value allowed.

    Raises
    ------
    TypeError
        If `value` is no integer.
    ValueError
        If it is smaller than `minimum` or 2**31 or larger.

    Examples
    --------
    >>> normalise_int(2, "stride", "conv2d")
    2
    """
    if type(value) is not int:
        # np.bool_ has no __index__ in NumPy 2, but Python's bool has one.
        if isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{operation}: {what} is {value!r}, a bool; it must be an integer; write {int(value)}")
        try:
            value = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            several = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
            advice = "give one number, or a tuple where several are taken" if several else "give one"
            raise TypeError(
                f"{operation}: {what} is {_shown(value)} of type {type(value).__name__}; it must be an integer; "
                f"{advice}"
            ) from None
    if value < minimum:
        raise ValueError(f"{operation}: {what} is {value}; it must be at least {minimum}; give {minimum} or more")
    if value > _LARGEST_PARAMETER:
        raise ValueError(f"{operation}: {what} is {value}; it must be below 2**31; give a smaller value")
    return value


def normalise_pair(value: object, what: str, operation: str, minimum: int = 1) -> tuple[int, int]:
    """An integer or a pair of integers as a pair ``(vertical, horizontal)``.

    Parameters
    ----------
    value : int or sequence of two int
    what, operation : str
        Names used in error texts.
    minimum : int
        The smallest value allowed.

    Raises
    ------
    TypeError
        If `value` holds something other than integers.
    ValueError
        If it has not one or two entries, or one is out of range.

    Examples
    --------
    >>> normalise_pair(2, "stride", "conv2d")
    (2, 2)
    >>> normalise_pair((1, 2), "stride", "conv2d")
    (1, 2)
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                f"{operation}: {what} is {_shown(value)}, with {len(value)} entries; "
                f"it must be an integer or a pair (vertical, horizontal); give two entries"
            )
        return (
            normalise_int(value[0], f"{what}[0]", operation, minimum),
            normalise_int(value[1], f"{what}[1]", operation, minimum),
        )
    size = normalise_int(value, what, operation, minimum)
    return size, size


def _same(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's "same" along one axis: ``ceil(size / stride)`` outputs, the odd element of padding at the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def normalise_padding(
    padding: object,
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    operation: str,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding of a 2-D operation as ``((top, bottom), (left, right))``.

    Parameters
    ----------
    padding : int, pair, pair of pairs, "same" or "valid"
        ``p`` pads all four sides; ``(ph, pw)`` pads top and bottom by `ph`, left and right by `pw`;
        ``((top, bottom), (left, right))`` is taken as it is. "same" gives ``ceil(size / stride)`` outputs, with the
        extra element at the end where the total is odd (TensorFlow's rule). "valid" is none.
    size, window, stride, dilation : (int, int)
        Vertical and horizontal.
    operation : str
        Name used in error texts.

    Raises
    ------
    TypeError, ValueError
        If `padding` is none of the above, or negative.

    Examples
    --------
    >>> normalise_padding("same", (5, 5), (3, 2), (1, 1), (1, 1), "conv2d")
    ((1, 1), (0, 1))
    >>> normalise_padding((1, 2), (5, 5), (3, 3), (1, 1), (1, 1), "conv2d")
    ((1, 1), (2, 2))
    """
    sides = parse_padding(padding, operation)
    if isinstance(sides, str):
        return (
            _same(size[0], window[0], stride[0], dilation[0]),
            _same(size[1], window[1], stride[1], dilation[1]),
        )
    return sides


#: Borders that are no zeros, as others call them and as `np.pad` does.
_BORDERS = {
    "reflect": "reflect",
    "mirror": "reflect",
    "symmetric": "symmetric",
    "symm": "symmetric",
    "replicate": "edge",
    "edge": "edge",
    "nearest": "edge",
    "circular": "wrap",
    "wrap": "wrap",
}


def _fix(padding: str, names: tuple[str, ...]) -> str:
    """What to do about a name that is none of these."""
    if padding.lower() in _BORDERS:
        return f"pad rows and columns with np.pad, mode={_BORDERS[padding.lower()]!r}, before the call, and use 'valid'"
    if padding.lower() in ("zeros", "zero", "constant", "fill"):
        return "say how many zeros, or 'same'"
    return nearest(padding, names)


def parse_padding(padding: object, operation: str) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """As `normalise_padding`, before the sizes are known: "same" stays "same".

    Examples
    --------
    >>> parse_padding([1, 2], "conv2d")
    ((1, 1), (2, 2))
    """
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding == "same":
            return "same"
        fix = _fix(padding, ("same", "valid"))
        if padding == "causal":
            fix = "write ((pad, 0), (0, 0)) where rows are the causal axis, ((0, 0), (pad, 0)) where columns are"
        raise ValueError(
            f"{operation}: padding is {padding!r}; it must be an integer, (vertical, horizontal), "
            f"((top, bottom), (left, right)), 'same' or 'valid'; {fix}"
        )
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        first, second = padding
        nested = isinstance(first, (tuple, list)), isinstance(second, (tuple, list))
        if all(nested):
            if len(first) == 2 and len(second) == 2:
                return (
                    normalise_pair(first, "padding[0]", operation, 0),
                    normalise_pair(second, "padding[1]", operation, 0),
                )
        elif not any(nested):
            vertical, horizontal = normalise_pair(padding, "padding", operation, 0)
            return (vertical, vertical), (horizontal, horizontal)
    elif not isinstance(padding, (tuple, list)):
        side = normalise_int(padding, "padding", operation, 0)
        return (side, side), (side, side)
    raise ValueError(
        f"{operation}: padding is {_shown(padding)}; it must be an integer, (vertical, horizontal), "
        f"((top, bottom), (left, right)), 'same' or 'valid'; use one of these"
    )


def normalise_padding_1d(
    padding: object, length: int, window: int, stride: int, dilation: int, operation: str
) -> tuple[int, int]:
    """Padding of a 1-D operation as ``(left, right)``.

    Parameters
    ----------
    padding : int, (left, right), "same", "valid" or "causal"
        "causal" pads ``(window - 1) * dilation`` on the left and nothing on the right, so that an output at time t
        depends on no input after t (at stride 1).
    length, window, stride, dilation : int
    operation : str
        Name used in error texts.

    Raises
    ------
    TypeError, ValueError
        If `padding` is none of the above, or negative.

    Examples
    --------
    >>> normalise_padding_1d("causal", 100, 4, 1, 2, "depthwise_conv1d")
    (6, 0)
    """
    sides = parse_padding_1d(padding, operation)
    if sides == "same":
        return _same(length, window, stride, dilation)
    if isinstance(sides, str):
        return (window - 1) * dilation, 0
    return sides


def parse_padding_1d(padding: object, operation: str) -> str | tuple[int, int]:
    """As `normalise_padding_1d`, before the sizes are known: "same" and "causal" stay what they are.

    Examples
    --------
    >>> parse_padding_1d(2, "depthwise_conv1d")
    (2, 2)
    """
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0
        if padding in ("same", "causal"):
            return padding
    elif isinstance(padding, (tuple, list)):
        if len(padding) == 2:
            return (
                normalise_int(padding[0], "padding[0]", operation, 0),
                normalise_int(padding[1], "padding[1]", operation, 0),
            )
    else:
        side = normalise_int(padding, "padding", operation, 0)
        return side, side
    fix = _fix(padding, ("same", "valid", "causal")) if isinstance(padding, str) else "use one of these"
    raise ValueError(
        f"{operation}: padding is {_shown(padding)}; it must be an integer, (left, right), 'same', 'valid' or "
        f"'causal'; {fix}"
    )


def _shown(value: object) -> str:
    """`repr`, cut short, for error texts."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
