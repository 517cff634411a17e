"""Depthwise-separable convolution as functions on arrays.

All of them compute ``activation(conv(x, w) + bias + residual)``, on channel-last images ``(N, H, W, C)`` or
``(H, W, C)`` of float32 or float64, and share these keywords:

activation : None, "relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", ("clip", lo, hi) or
    ("leaky_relu", slope). See `dwcpu.epilogue`.
residual : ndarray of the shape of the result, optional
    Added before the activation.
layout : {"NHWC", "NCHW"}
    "NCHW" takes and gives images with the channels first: `x`, `residual`, `out` and the result. Weights keep their
    layout. It costs two transposes.
out : ndarray, optional
    Where to write, of the right shape and type. It may have any strides and may overlap the inputs; C-contiguous and
    apart from them it is written directly.
backend : {"auto", "numba", "cython", "reference"} or a kernel's name
    "auto" takes the kernel that is fastest for the shape. All of them give the same bits, "reference" apart.
num_threads : int, optional
    By default what `dwcpu.set_num_threads` says.

and these errors, raised before anything is computed or written:

TypeError
    An array is not float32 or float64, or the arrays do not share one type; an option is of the wrong type.
ValueError
    Shapes do not fit each other, an option is out of range, or the output would be empty.

A function packs the weights on every call; only what follows from shapes and options is remembered. To call it many
times with the same weights, use its layer in `dwcpu.layers`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from . import arrays, calls
from .cost import compare_cost
from .epilogue import ActivationSpec
from .frontdoor import Part, Program, Step
from .padding import Padding, normalise_int, normalise_pair

__all__ = [
    "compare_cost",
    "conv2d",
    "depthwise_conv1d",
    "depthwise_conv2d",
    "dwconv2d",
    "inverted_residual",
    "pointwise_conv2d",
    "separable_conv2d",
]

Pair = int | tuple[int, int]
Padding1d = int | str | tuple[int, int]


#: What probably happened where the channels of `dwconv2d` are not where PyTorch has them.
_LAST = "; if the channels of input are last, give np.moveaxis(input, -1, -3)"


def depthwise_conv2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    activation: ActivationSpec = None,
    residual: ArrayLike | None = None,
    layout: str = "NHWC",
    out: np.ndarray | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """Depthwise convolution: each channel is filtered on its own.

    Parameters
    ----------
    x : (N, H, W, C) or (H, W, C) ndarray
    w : (KH, KW, C) or (KH, KW, C, M) ndarray
        M windows for each channel: output channel ``c * M + m`` is channel `c` seen through ``w[:, :, c, m]``.
        PyTorch's order, ``(C, 1, KH, KW)``, is another one, and only `dwconv2d` takes it: here such weights may fit by
        accident and give wrong results.
    bias : (C * M,) ndarray, optional
    stride, dilation : int or (int, int)
        Vertical and horizontal.
    padding : int, (int, int), ((top, bottom), (left, right)), "same" or "valid"
        "same" gives ``ceil(H / stride)`` rows, the odd row of padding at the end.
    activation, residual, layout, out, backend, num_threads
        What all operations share: see ``help(dwcpu.ops)``.

    Returns
    -------
    (N, OH, OW, C * M) or (OH, OW, C * M) ndarray
        `out` itself where it was given.

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> x = np.ones((1, 112, 112, 32), np.float32)
    >>> w = np.full((3, 3, 32), 1 / 9, np.float32)
    >>> dwcpu.depthwise_conv2d(x, w, stride=2, padding="same", activation="relu6").shape
    (1, 56, 56, 32)
    """
    operation = "depthwise_conv2d"
    options = operation, stride, padding, dilation, activation, layout, backend
    done = calls.again(options, x, residual, out, num_threads, w, bias)
    if done is not None:
        return done
    part = Part.of(operation, w, bias, activation)
    step = Step(operation, "depthwise", (part,), {"stride": stride, "padding": padding, "dilation": dilation})
    program = Program(operation, step, layout=layout, backend=backend)
    return calls.first(program, options, x, residual, out, num_threads, w, bias)


def depthwise_conv1d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: int = 1,
    padding: Padding1d = 0,
    dilation: int = 1,
    activation: ActivationSpec = None,
    residual: ArrayLike | None = None,
    layout: str = "NHWC",
    out: np.ndarray | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """Depthwise convolution along time.

    Parameters
    ----------
    x : (N, T, C) or (T, C) ndarray
        With ``layout="NCHW"`` (channels first) ``(N, C, T)`` or ``(C, T)``.
    w : (K, C) or (K, C, M) ndarray
    bias : (C * M,) ndarray, optional
    stride, dilation : int
    padding : int, (left, right), "same", "valid" or "causal"
        "causal" pads ``(K - 1) * dilation`` on the left: no output depends on a later input.
    activation, residual, layout, out, backend, num_threads
        What all operations share: see ``help(dwcpu.ops)``.

    Returns
    -------
    (N, OT, C * M) or (OT, C * M) ndarray
        `out` itself where it was given.

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> x = np.arange(4, dtype=np.float32).reshape(4, 1)
    >>> dwcpu.depthwise_conv1d(x, np.ones((2, 1), np.float32), padding="causal").ravel()
    array([0., 1., 3., 5.], dtype=float32)
    """
    operation = "depthwise_conv1d"
    options = operation, stride, padding, dilation, activation, layout, backend
    done = calls.again(options, x, residual, out, num_threads, w, bias)
    if done is not None:
        return done
    part = Part.of(operation, w, bias, activation)
    step = Step(operation, "depthwise1d", (part,), {"stride": stride, "padding": padding, "dilation": dilation})
    program = Program(operation, step, layout=layout, backend=backend, spatial=1)
    return calls.first(program, options, x, residual, out, num_threads, w, bias)


def pointwise_conv2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: ActivationSpec = None,
    residual: ArrayLike | None = None,
    layout: str = "NHWC",
    out: np.ndarray | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """Pointwise (1x1) convolution: every pixel's channels times one matrix.

    Parameters
    ----------
    x : (N, H, W, Cin) or (H, W, Cin) ndarray
    w : (Cin, Cout) ndarray
    bias : (Cout,) ndarray, optional
    activation, residual, layout, out, backend, num_threads
        What all operations share: see ``help(dwcpu.ops)``.

    Returns
    -------
    (N, H, W, Cout) or (H, W, Cout) ndarray
        `out` itself where it was given.

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> dwcpu.pointwise_conv2d(np.ones((7, 7, 320), np.float32), np.ones((320, 64), np.float32)).shape
    (7, 7, 64)
    """
    operation = "pointwise_conv2d"
    options = operation, activation, layout, backend
    done = calls.again(options, x, residual, out, num_threads, w, bias)
    if done is not None:
        return done
    step = Step(operation, "pointwise", (Part.of(operation, w, bias, activation),))
    program = Program(operation, step, layout=layout, backend=backend)
    return calls.first(program, options, x, residual, out, num_threads, w, bias)


def separable_conv2d(
    x: ArrayLike,
    dw: ArrayLike,
    pw: ArrayLike,
    dw_bias: ArrayLike | None = None,
    pw_bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    dw_activation: ActivationSpec = None,
    pw_activation: ActivationSpec = None,
    residual: ArrayLike | None = None,
    layout: str = "NHWC",
    out: np.ndarray | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """Depthwise convolution followed by a pointwise one, the image between them never leaving the cache.

    Parameters
    ----------
    x : (N, H, W, C) or (H, W, C) ndarray
    dw : (KH, KW, C) or (KH, KW, C, M) ndarray
        As in `depthwise_conv2d`.
    pw : (C * M, Cout) ndarray
    dw_bias, pw_bias : (C * M,) and (Cout,) ndarray, optional
    stride, padding, dilation
        Of the depthwise step, as in `depthwise_conv2d`.
    dw_activation, pw_activation
        After the depthwise and after the pointwise step; the residual is added before the second.
    residual, layout, out, backend, num_threads
        What all operations share: see ``help(dwcpu.ops)``.

    Returns
    -------
    (N, OH, OW, Cout) or (OH, OW, Cout) ndarray
        `out` itself where it was given.

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> x = np.ones((56, 56, 16), np.float32)
    >>> dw, pw = np.ones((3, 3, 16), np.float32), np.ones((16, 32), np.float32)
    >>> dwcpu.separable_conv2d(x, dw, pw, stride=2, padding=1, dw_activation="relu").shape
    (28, 28, 32)
    """
    operation = "separable_conv2d"
    options = operation, stride, padding, dilation, dw_activation, pw_activation, layout, backend
    done = calls.again(options, x, residual, out, num_threads, dw, dw_bias, pw, pw_bias)
    if done is not None:
        return done
    parts = separable_parts(operation, dw, pw, dw_bias, pw_bias, dw_activation, pw_activation)
    step = Step(operation, "separable", parts, {"stride": stride, "padding": padding, "dilation": dilation})
    program = Program(operation, step, layout=layout, backend=backend)
    return calls.first(program, options, x, residual, out, num_threads, dw, dw_bias, pw, pw_bias)


def separable_parts(
    operation: str,
    dw: ArrayLike,
    pw: ArrayLike,
    dw_bias: ArrayLike | None,
    pw_bias: ArrayLike | None,
    dw_activation: ActivationSpec,
    pw_activation: ActivationSpec,
    own: bool = False,
) -> tuple[Part, Part]:
    """Both halves of a separable convolution, checked; for `separable_conv2d` and its layer."""
    return (
        Part.of(
            operation, dw, dw_bias, dw_activation,
            name="dw", bias_name="dw_bias", activation_name="dw_activation", own=own,
        ),
        Part.of(
            operation, pw, pw_bias, pw_activation,
            name="pw", bias_name="pw_bias", activation_name="pw_activation", own=own,
        ),
    )  # fmt: skip


def inverted_residual(
    x: ArrayLike,
    expand: ArrayLike | None,
    dw: ArrayLike,
    project: ArrayLike,
    expand_bias: ArrayLike | None = None,
    dw_bias: ArrayLike | None = None,
    project_bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "same",
    expand_activation: ActivationSpec = "relu6",
    dw_activation: ActivationSpec = "relu6",
    residual: ArrayLike | None = None,
    layout: str = "NHWC",
    out: np.ndarray | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """MobileNetV2's block: widen by a pointwise step, filter by a depthwise one, narrow by a pointwise one.

    Parameters
    ----------
    x : (N, H, W, Cin) or (H, W, Cin) ndarray
    expand : (Cin, C) ndarray or None
        None leaves the first step out (expansion factor 1).
    dw : (KH, KW, C) or (KH, KW, C, M) ndarray
    project : (C * M, Cout) ndarray
    expand_bias, dw_bias, project_bias : (C,), (C * M,) and (Cout,) ndarray, optional
    stride, padding
        Of the depthwise step, as in `depthwise_conv2d`, but "same" padding if none is given.
    expand_activation, dw_activation
        After the first and after the second step, relu6 if none is given. The third has none.
    residual : ndarray of the shape of the result, optional
        Added to the result. Give `x` for the connection that names the block.
    layout, out, backend, num_threads
        What all operations share: see ``help(dwcpu.ops)``.

    Returns
    -------
    (N, OH, OW, Cout) or (OH, OW, Cout) ndarray
        `out` itself where it was given.

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> x = np.ones((14, 14, 8), np.float32)
    >>> expand, dw = np.ones((8, 48), np.float32), np.ones((3, 3, 48), np.float32)
    >>> project = np.ones((48, 8), np.float32)
    >>> dwcpu.inverted_residual(x, expand, dw, project, residual=x).shape
    (14, 14, 8)
    """
    operation = "inverted_residual"
    options = operation, stride, padding, expand_activation, dw_activation, layout, backend
    weights: tuple[ArrayLike | None, ...] = (dw, dw_bias, project, project_bias)
    if expand is not None or expand_bias is not None:
        weights = (expand, expand_bias, *weights)
    done = calls.again(options, x, residual, out, num_threads, *weights)
    if done is not None:
        return done
    step = inverted_residual_step(
        operation, expand, dw, project, expand_bias, dw_bias, project_bias,
        stride, padding, expand_activation, dw_activation,
    )  # fmt: skip
    program = Program(operation, step, layout=layout, backend=backend)
    return calls.first(program, options, x, residual, out, num_threads, *weights)


def inverted_residual_step(
    operation: str,
    expand: ArrayLike | None,
    dw: ArrayLike,
    project: ArrayLike,
    expand_bias: ArrayLike | None,
    dw_bias: ArrayLike | None,
    project_bias: ArrayLike | None,
    stride: Pair,
    padding: Padding,
    expand_activation: ActivationSpec,
    dw_activation: ActivationSpec,
    own: bool = False,
) -> Step:
    """The step, checked; without `expand` a separable convolution. For `inverted_residual` and its layer."""
    parts = [
        Part.of(
            operation, dw, dw_bias, dw_activation,
            name="dw", bias_name="dw_bias", activation_name="dw_activation", own=own,
        ),
        Part.of(operation, project, project_bias, None, name="project", bias_name="project_bias", own=own),
    ]  # fmt: skip
    options = {"stride": stride, "padding": padding, "dilation": 1}
    if expand is None:
        if expand_bias is not None:
            raise ValueError(
                f"{operation}: expand_bias is given but expand is None; a bias needs its weights; give both or neither"
            )
        return Step(operation, "separable", tuple(parts), options)
    first = Part.of(
        operation, expand, expand_bias, expand_activation,
        name="expand", bias_name="expand_bias", activation_name="expand_activation", own=own,
    )  # fmt: skip
    return Step(operation, "inverted_residual", (first, *parts), options)


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: ActivationSpec = None,
    residual: ArrayLike | None = None,
    layout: str = "NHWC",
    out: np.ndarray | None = None,
    backend: str = "auto",
    num_threads: int | None = None,
) -> np.ndarray:
    """Standard or grouped convolution, without an unrolled copy of the image.

    Parameters
    ----------
    x : (N, H, W, Cin) or (H, W, Cin) ndarray
    w : (KH, KW, Cin / groups, Cout) ndarray
        PyTorch's order, ``(Cout, Cin / groups, KH, KW)``, is another one, and only `dwconv2d` takes it: here such
        weights may fit by accident and give wrong results.
    bias : (Cout,) ndarray, optional
    stride, padding, dilation
        As in `depthwise_conv2d`.
    groups : int
        Must divide Cin and Cout. Output channels ``g * Cout / groups`` and following see input channels
        ``g * Cin / groups`` and following.
    activation, residual, layout, out, backend, num_threads
        What all operations share: see ``help(dwcpu.ops)``.

    Returns
    -------
    (N, OH, OW, Cout) or (OH, OW, Cout) ndarray
        `out` itself where it was given.

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> x, w = np.ones((224, 224, 3), np.float32), np.ones((3, 3, 3, 8), np.float32)
    >>> dwcpu.conv2d(x, w, stride=2, padding="same").shape
    (112, 112, 8)
    """
    operation = "conv2d"
    options = operation, stride, padding, dilation, groups, activation, layout, backend
    done = calls.again(options, x, residual, out, num_threads, w, bias)
    if done is not None:
        return done
    part = Part.of(operation, w, bias, activation)
    shape = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    program = Program(operation, Step(operation, "conv", (part,), shape), layout=layout, backend=backend)
    return calls.first(program, options, x, residual, out, num_threads, w, bias)


def dwconv2d(
    input: ArrayLike,  # noqa: A002 - the familiar name
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Pair | tuple[int] = 1,
    padding: Pair | tuple[int] | str = 0,
    dilation: Pair | tuple[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """Convolution with the signature and the meaning of ``torch.nn.functional.conv2d``.

    Parameters
    ----------
    input : (N, Cin, H, W) or (Cin, H, W) ndarray
    weight : (Cout, Cin / groups, KH, KW) ndarray
        With ``groups = Cin`` the convolution is depthwise.
    bias : (Cout,) ndarray, optional
    stride, dilation : int, (int,) or (int, int)
    padding : int, (int,), (int, int), "same" or "valid"
        "same" keeps the size, the odd row or column of padding at the end; it needs stride 1.
    groups : int
        Must divide Cin and Cout.

    Returns
    -------
    (N, Cout, OH, OW) or (Cout, OH, OW) ndarray

    Raises
    ------
    TypeError, ValueError
        What all operations share: see ``help(dwcpu.ops)``.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> image, weight = np.ones((1, 3, 32, 32), np.float32), np.ones((3, 1, 3, 3), np.float32)
    >>> dwcpu.dwconv2d(image, weight, stride=2, padding=1, groups=3).shape
    (1, 3, 16, 16)
    """
    operation = "dwconv2d"
    given = operation, stride, padding, dilation, groups
    done = calls.again(given, input, None, None, None, weight, bias)
    if done is not None:
        return done
    image = arrays.floating(input, "input", operation)
    filters = arrays.floating(weight, "weight", operation)
    if image.ndim not in (3, 4):
        raise ValueError(
            f"{operation}: input has shape {image.shape}; it must be (N, C, H, W) or (C, H, W); reshape input"
        )
    if filters.ndim != 4 or 0 in filters.shape:
        raise ValueError(
            f"{operation}: weight has shape {filters.shape}; it must be (Cout, Cin / groups, KH, KW), each at least 1; "
            f"reshape weight"
        )
    parts = normalise_int(groups, "groups", operation)
    channels, (out_channels, per_group, kernel_h, kernel_w) = image.shape[-3], filters.shape
    if channels % parts or out_channels % parts:
        raise ValueError(
            f"{operation}: groups is {parts} but input has {channels} channels and weight has {out_channels} output "
            f"channels; groups must divide both; choose a common divisor"
            + (_LAST if per_group * parts == image.shape[-1] else "")
        )
    if per_group * parts != channels:
        hint, last = "", image.shape[-1]
        meant, rest = divmod(channels, per_group)
        if meant > 0 and not rest and out_channels % meant == 0:
            hint = f"; {'for a depthwise convolution ' if per_group == 1 else ''}give groups={meant}"
        elif last > 0 and (per_group * parts == last or (per_group == parts == 1 and out_channels % last == 0)):
            hint = _LAST
        raise ValueError(
            f"{operation}: weight has {per_group} input channels but input has {channels} and groups is {parts}; the "
            f"second axis of weight must equal the channels of input divided by groups, {channels // parts}" + hint
        )
    options = {"stride": _expanded(stride), "padding": _expanded(padding), "dilation": _expanded(dilation)}
    if isinstance(padding, (tuple, list)):
        # torch does not take ((top, bottom), (left, right)).
        for side in padding:
            normalise_int(side, "padding", operation, 0)
    elif padding == "same" and normalise_pair(options["stride"], "stride", operation) != (1, 1):
        raise ValueError(
            f"{operation}: padding is 'same' but stride is {stride!r}; 'same' means that the size stays, which needs "
            f"stride 1; give the padding in numbers"
        )
    if parts == channels and parts > 1:
        op = "depthwise"
        filters = filters.reshape(channels, -1, kernel_h, kernel_w).transpose(2, 3, 0, 1)
    else:
        op, options["groups"] = "conv", parts
        filters = filters.transpose(2, 3, 1, 0)
    part = Part.of(operation, filters, bias, None, name="weight")
    step = Step(operation, op, (part,), options, "input")
    program = Program(operation, step, layout="NCHW")
    return calls.first(program, given, input, None, None, None, weight, bias, filters_first=True)


def _expanded(option: object) -> object:
    """Torch's ``(1,)`` for ``(1, 1)``."""
    return option[0] if isinstance(option, (tuple, list)) and len(option) == 1 else option
