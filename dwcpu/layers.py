"""The operations of `dwcpu.ops` as layers: weights checked, copied and packed once, then called many times.

Every layer takes weights and options as its function does, and is then called as
``layer(x, *, out=None, residual=None, num_threads=None)``. Kernels and packed weights are kept for the last few input
shapes. Layers can be pickled, copied, and called from many threads at once; changing the arrays that they were made
from does not change them.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import arrays, background, calls, runtime
from .batchnorm import fold_batchnorm
from .epilogue import ActivationSpec
from .frontdoor import Compiled, Part, Program, Step, fixed
from .ops import Pair, inverted_residual_step, separable_parts
from .padding import Padding
from .pipeline import Node

__all__ = [
    "Conv2d",
    "DepthwiseConv2d",
    "InvertedResidual",
    "Layer",
    "PointwiseConv2d",
    "SeparableConv2d",
    "fold_batchnorm",
]

#: Input shapes (with thread counts) that a layer remembers.
_REMEMBERED = 16


def _parameters(kind: type) -> frozenset[str]:
    """What the layer that `kind` is, or is derived from, is made with."""
    own = next(each for each in kind.__mro__ if each.__module__ == __name__)
    return frozenset(signature(own).parameters)


class Layer(calls.Caller):
    """What all layers have in common; see the subclasses.

    Called as ``layer(x, *, out=None, residual=None, num_threads=None)`` with images of the layout that the layer was
    made with, with or without a batch axis. `out` is where to write; it is returned. `residual`, of the result's shape,
    is added before the (last) activation. Raises TypeError and ValueError as the functions of `dwcpu.ops` do.

    Attributes
    ----------
    dtype : dtype
        Of the weights, and therefore of inputs and outputs.
    """

    def __init__(self, program: Program, options: dict[str, Any]) -> None:
        program.check()
        self._program = program
        #: Options that differ from their defaults, for `repr`.
        self._options = options
        self.dtype = program.dtype
        self._forget()

    def _forget(self) -> None:
        # These maps are replaced, never changed in place, so that reading them needs no lock. Two threads that add an
        # entry at once may lose one of the two; it is then made again, or not remembered by `Caller`.
        self._compiled: dict[tuple[tuple[int, ...], int], Compiled] = {}
        #: Those of them that calls of the layer have met.
        self._called: dict[tuple[tuple[int, ...], int], Compiled] = {}
        #: By the shape of `x` as the user sees it: what `Caller` knows.
        self._short: dict[tuple[tuple[int, ...], int], Any] = {}
        self._remember((), runtime.get_num_threads)
        #: Packed weights, whatever the shape.
        self._packed: dict[Any, Any] = {}

    def _long_way(self, x: Any, residual: Any, out: Any, num_threads: Any) -> np.ndarray:
        return self._program(x, residual, out, num_threads, self._compile)

    def _compile(self, x_shape: tuple[int, ...], threads: int) -> Compiled:
        """The `Compiled` for ``(N, H, W, C)``, remembered, with what calls need to go the short way."""
        key, compiled = (x_shape, threads), self._planned(x_shape, threads)
        if self._called.get(key) is not compiled:
            program = self._program
            called = {**{each: entry for each, entry in self._called.items() if each in self._compiled}, key: compiled}
            short: dict[tuple[tuple[int, ...], int], Any] = {}
            for (shape, count), entry in reversed(called.items()):
                if entry.job is not None:  # comes here with every call, so that the better kernel is taken in time
                    continue
                # an image without a batch axis is the same bytes
                for axes in (4, 3) if shape[0] == 1 else (4,):
                    seen = arrays.user_shape(shape, program.layout, program.spatial, axes)
                    short[seen, count] = self._short.get((seen, count)) or calls.call_of(program, entry, seen, count)
            self._remember(tuple(short.values()), runtime.get_num_threads)
            # Last: an interrupt before that leaves all of this to the next call.
            self._short, self._called = short, called
        return compiled

    def _planned(self, x_shape: tuple[int, ...], threads: int) -> Compiled:
        """The `Compiled` for ``(N, H, W, C)``, remembered."""
        key = (x_shape, threads)
        compiled = self._compiled.get(key)
        if compiled is None or background.over(compiled.job):
            compiled = self._program.compile(self._program.step.geometry(x_shape), threads, self._packed)
            self._compiled = dict([*list(self._compiled.items())[1 - _REMEMBERED :], (key, compiled)])
        return compiled

    def nodes(self, x_shape: tuple[int, ...], threads: int) -> list[Node]:
        """The layer as operations of a pipeline, for a channel-last input ``(N, H, W, C)``; none for an empty batch.

        What calls of the layer itself would need is not made.
        """
        return self._planned(x_shape, threads).nodes

    def threads(self, num_threads: int | None) -> int:
        """The number of threads of a call: `num_threads`, checked, or the current default."""
        return self._program.threads(num_threads)

    def explain(self, shape: tuple[int, ...], num_threads: int | None = None) -> Any:
        """Which kernel would run for an input of `shape`, why, and what it costs.

        Parameters
        ----------
        shape : tuple of int
            Of the input, in the layer's layout, with or without a batch axis.
        num_threads : int, optional

        Returns
        -------
        Choice
        """
        return self._program.explain(shape, num_threads)

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`.

        Parameters
        ----------
        shape : tuple of int
            Of the input, in the layer's layout, with or without a batch axis.

        Raises
        ------
        ValueError
            If the layer cannot take that shape.
        """
        return self._program.out_shape(shape)

    def __setattr__(self, name: str, value: Any) -> None:
        # Kernels and packed weights follow from what the layer was made with: an assignment would change nothing.
        if not name.startswith("_") and name in _parameters(type(self)):
            raise AttributeError(
                f"{type(self).__name__}: {name} is assigned to; a layer keeps what it was made with; make a new layer"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        for name in ("_called", "_compiled", "_packed", "_short", "known", "_default_threads"):
            kept.pop(name, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        weights = [
            f"{part.name} {part.weights.shape}" + (f", {part.bias_name}" if part.bias is not None else "")
            for part in self._program.step.parts
        ]
        options = [f"{name}={value!r}" for name, value in self._options.items()]
        return f"{type(self).__name__}({', '.join([*weights, self.dtype.name, *options])})"


def _changed(**options: tuple[object, object]) -> dict[str, object]:
    """The options whose value is not the default: ``name=(value, default)``, all of them checked before."""
    kept = {name: (fixed(value), default) for name, (value, default) in options.items()}
    return {name: value for name, (value, default) in kept.items() if value != default}


class DepthwiseConv2d(Layer):
    """`dwcpu.depthwise_conv2d` with fixed weights.

    Parameters
    ----------
    w, bias, stride, padding, dilation, activation, layout, backend
        As in `dwcpu.depthwise_conv2d`.

    Raises
    ------
    TypeError, ValueError
        If weights or options are wrong.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> layer = dwcpu.DepthwiseConv2d(np.ones((3, 3, 8), np.float32), padding="same", activation="relu")
    >>> layer(np.ones((1, 16, 16, 8), np.float32)).shape
    (1, 16, 16, 8)
    >>> layer
    DepthwiseConv2d(w (3, 3, 8), float32, padding='same', activation='relu')
    """

    def __init__(
        self,
        w: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        activation: ActivationSpec = None,
        layout: str = "NHWC",
        backend: str = "auto",
    ) -> None:
        operation = "DepthwiseConv2d"
        part = Part.of(operation, w, bias, activation, own=True)
        step = Step(operation, "depthwise", (part,), {"stride": stride, "padding": padding, "dilation": dilation})
        super().__init__(
            Program(operation, step, layout=layout, backend=backend),
            _changed(
                stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1), activation=(activation, None),
                layout=(layout, "NHWC"), backend=(backend, "auto"),
            ),
        )  # fmt: skip


class PointwiseConv2d(Layer):
    """`dwcpu.pointwise_conv2d` with fixed weights.

    Parameters
    ----------
    w, bias, activation, layout, backend
        As in `dwcpu.pointwise_conv2d`.

    Raises
    ------
    TypeError, ValueError
        If weights or options are wrong.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> layer = dwcpu.PointwiseConv2d(np.ones((8, 24), np.float32))
    >>> layer(np.ones((16, 16, 8), np.float32)).shape
    (16, 16, 24)
    """

    def __init__(
        self,
        w: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        activation: ActivationSpec = None,
        layout: str = "NHWC",
        backend: str = "auto",
    ) -> None:
        operation = "PointwiseConv2d"
        step = Step(operation, "pointwise", (Part.of(operation, w, bias, activation, own=True),))
        super().__init__(
            Program(operation, step, layout=layout, backend=backend),
            _changed(activation=(activation, None), layout=(layout, "NHWC"), backend=(backend, "auto")),
        )


class SeparableConv2d(Layer):
    """`dwcpu.separable_conv2d` with fixed weights.

    Parameters
    ----------
    dw, pw, dw_bias, pw_bias, stride, padding, dilation, dw_activation, pw_activation, layout, backend
        As in `dwcpu.separable_conv2d`.

    Raises
    ------
    TypeError, ValueError
        If weights or options are wrong.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> dw, pw = np.ones((3, 3, 8), np.float32), np.ones((8, 16), np.float32)
    >>> layer = dwcpu.SeparableConv2d(dw, pw, stride=2, padding="same")
    >>> layer(np.ones((16, 16, 8), np.float32)).shape
    (8, 8, 16)
    """

    def __init__(
        self,
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
        layout: str = "NHWC",
        backend: str = "auto",
    ) -> None:
        operation = "SeparableConv2d"
        parts = separable_parts(operation, dw, pw, dw_bias, pw_bias, dw_activation, pw_activation, own=True)
        step = Step(operation, "separable", parts, {"stride": stride, "padding": padding, "dilation": dilation})
        super().__init__(
            Program(operation, step, layout=layout, backend=backend),
            _changed(
                stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1),
                dw_activation=(dw_activation, None), pw_activation=(pw_activation, None),
                layout=(layout, "NHWC"), backend=(backend, "auto"),
            ),
        )  # fmt: skip


class InvertedResidual(Layer):
    """`dwcpu.inverted_residual` with fixed weights.

    Parameters
    ----------
    expand, dw, project, expand_bias, dw_bias, project_bias, stride, padding, expand_activation, dw_activation
        As in `dwcpu.inverted_residual`; `expand` may be None.
    layout, backend
        As in `dwcpu.inverted_residual`.

    Raises
    ------
    TypeError, ValueError
        If weights or options are wrong.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> expand, dw = np.ones((8, 48), np.float32), np.ones((3, 3, 48), np.float32)
    >>> layer = dwcpu.InvertedResidual(expand, dw, np.ones((48, 8), np.float32))
    >>> x = np.ones((14, 14, 8), np.float32)
    >>> layer(x, residual=x).shape
    (14, 14, 8)
    """

    def __init__(
        self,
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
        layout: str = "NHWC",
        backend: str = "auto",
    ) -> None:
        operation = "InvertedResidual"
        step = inverted_residual_step(
            operation, expand, dw, project, expand_bias, dw_bias, project_bias,
            stride, padding, expand_activation, dw_activation, own=True,
        )  # fmt: skip
        super().__init__(
            Program(operation, step, layout=layout, backend=backend),
            _changed(
                stride=(stride, 1), padding=(padding, "same"), expand_activation=(expand_activation, "relu6"),
                dw_activation=(dw_activation, "relu6"), layout=(layout, "NHWC"), backend=(backend, "auto"),
            ),
        )  # fmt: skip


class Conv2d(Layer):
    """`dwcpu.conv2d` with fixed weights.

    Parameters
    ----------
    w, bias, stride, padding, dilation, groups, activation, layout, backend
        As in `dwcpu.conv2d`.

    Raises
    ------
    TypeError, ValueError
        If weights or options are wrong.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> layer = dwcpu.Conv2d(np.ones((3, 3, 3, 32), np.float32), stride=2, padding="same")
    >>> layer.out_shape((1, 224, 224, 3))
    (1, 112, 112, 32)
    """

    def __init__(
        self,
        w: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        activation: ActivationSpec = None,
        layout: str = "NHWC",
        backend: str = "auto",
    ) -> None:
        operation = "Conv2d"
        part = Part.of(operation, w, bias, activation, own=True)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        super().__init__(
            Program(operation, Step(operation, "conv", (part,), options), layout=layout, backend=backend),
            _changed(
                stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1), groups=(groups, 1),
                activation=(activation, None), layout=(layout, "NHWC"), backend=(backend, "auto"),
            ),
        )  # fmt: skip
