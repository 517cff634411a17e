"""The one way from a user's call to a kernel: validate, normalise, geometry, choose, prepare, run.

`ops` and `layers` only describe what is to be done, as a `Program`, which holds checked weights and options and knows
nothing of an input yet. `Program.compile` turns it into a `Compiled` for one input shape and thread count: kernel
chosen, weights packed. `Program.__call__` does all of it for one call. Layers keep the `Compiled` of the last few
shapes.

Nothing is computed and nothing is written before every argument has been checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import arrays, background, dispatch, explanations, reference, runtime, shapes
from .epilogue import Activation, parse_activation
from .fused_geometry import Geometry, InvertedResidualGeometry, SeparableGeometry
from .geometry import ConvGeometry
from .padding import normalise_int, normalise_pair, parse_padding, parse_padding_1d
from .pipeline import Node
from .prepared import Prepared

__all__ = ["Compiled", "Part", "Program", "Step", "thread_count"]

#: ``run(x, residual, out, threads)`` on arrays that kernels can take.
Run = Callable[[np.ndarray, np.ndarray | None, np.ndarray, int], object]

#: Columns with which a row is long enough for any kernel that is asked for by its name.
_LONG_ROW = 1024
_LAYOUTS = ("NHWC", "NCHW")
_BACKENDS = ("auto", "numba", "cython", "reference")


class Part(NamedTuple):
    """One set of weights with its epilogue, and the names by which error texts call them."""

    weights: np.ndarray
    bias: np.ndarray | None
    activation: Activation
    name: str
    bias_name: str

    @classmethod
    def of(
        cls,
        operation: str,
        weights: ArrayLike,
        bias: ArrayLike | None,
        activation: object,
        *,
        name: str = "w",
        bias_name: str = "bias",
        activation_name: str = "activation",
        own: bool = False,
    ) -> Part:
        """Check what needs no geometry: `Step.geometry` does the rest. What is not `own` is in any form still.

        Parameters
        ----------
        operation, name, bias_name, activation_name : str
            Names used in error texts.
        weights, bias, activation
            As users give them.
        own : bool
            Whether to copy in any case, so that later changes of the user's arrays change nothing here.

        Raises
        ------
        TypeError, ValueError
        """
        checked = arrays.floating(weights, name, operation)
        parsed = parse_activation(activation, operation, activation_name)
        checked_bias = None
        if bias is not None:
            checked_bias = arrays.floating(bias, bias_name, operation)
            checked_bias = _owned(checked_bias) if own else checked_bias
        return cls(_owned(checked) if own else checked, checked_bias, parsed, name, bias_name)


def _owned(array: np.ndarray) -> np.ndarray:
    copied = np.array(array, dtype=arrays.native_dtype(array), order="C", copy=True)
    copied.flags.writeable = False
    return copied


def fixed(option: object) -> object:
    """A checked option as its user wrote it, but of tuples and Python's integers, which nobody can change later."""
    if isinstance(option, (list, tuple)):
        return tuple(fixed(item) for item in option)
    return operator.index(option) if hasattr(option, "__index__") else option


#: Option -> what reads it.
_READERS: dict[str, Callable[[object, str], object]] = {
    "stride": lambda value, operation: normalise_pair(value, "stride", operation),
    "dilation": lambda value, operation: normalise_pair(value, "dilation", operation),
    "groups": lambda value, operation: normalise_int(value, "groups", operation),
    "padding": parse_padding,
}
_READERS_1D: dict[str, Callable[[object, str], object]] = {
    "stride": lambda value, operation: normalise_int(value, "stride", operation),
    "dilation": lambda value, operation: normalise_int(value, "dilation", operation),
    "padding": parse_padding_1d,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One operation with its weights and options; everything but the image.

    Attributes
    ----------
    operation : str
        Name used in error texts.
    op : {"depthwise", "depthwise1d", "pointwise", "conv", "separable", "inverted_residual"}
    parts : tuple of Part
        One, or for "separable" two and for "inverted_residual" three.
    options : dict
        `stride`, `padding`, `dilation`, `groups` as far as `op` has them: as the user gives them, kept as integers and
        tuples of them; `padding` may stay "same" or "causal".
    image : str
        What error texts call the input.

    Raises
    ------
    TypeError, ValueError
        If an option is none that there is.
    """

    operation: str
    op: str
    parts: tuple[Part, ...]
    options: dict[str, Any] = field(default_factory=dict)
    image: str = "x"

    def __post_init__(self) -> None:
        # The user's lists are the user's: changing them later must not change a layer.
        readers = _READERS_1D if self.op == "depthwise1d" else _READERS
        read = {name: readers[name](value, self.operation) for name, value in self.options.items()}
        object.__setattr__(self, "options", read)

    def geometry(self, x_shape: tuple[int, ...]) -> Geometry:
        """The geometry for an image ``(N, H, W, C)``, and every check of shapes.

        Raises
        ------
        TypeError, ValueError
            If shapes or options do not fit.
        """
        shape, operation = self.parts[0].weights.shape, self.operation
        geometry: Geometry
        if self.op == "separable":
            first, second = self.parts
            geometry = SeparableGeometry.of(
                x_shape, shape, second.weights.shape,
                operation=operation, names=(self.image, first.name, second.name), **self.options,
            )  # fmt: skip
        elif self.op == "inverted_residual":
            shapes = [part.weights.shape for part in self.parts]
            geometry = InvertedResidualGeometry.of(x_shape, *shapes, operation=operation, **self.options)
        else:
            names = (self.image, self.parts[0].name)
            if self.op == "depthwise":
                geometry = ConvGeometry.depthwise(x_shape, shape, operation=operation, names=names, **self.options)
            elif self.op == "depthwise1d":
                signal = (x_shape[0], *x_shape[2:])
                geometry = ConvGeometry.depthwise1d(signal, shape, operation=operation, names=names, **self.options)
            elif self.op == "pointwise":
                geometry = ConvGeometry.pointwise(x_shape, shape, operation=operation, names=names)
            else:
                geometry = ConvGeometry.conv(x_shape, shape, operation=operation, names=names, **self.options)
        for part, half in zip(self.parts, geometry.parts, strict=True):
            if part.bias is None:
                continue
            if part.bias.shape != (half.out_channels,):
                raise ValueError(
                    f"{operation}: {part.bias_name} has shape {part.bias.shape}; it must have one entry for each of "
                    f"the {half.out_channels} output channels of {part.name}; give shape ({half.out_channels},)"
                )
            arrays.same_dtype(part.bias, part.bias_name, arrays.native_dtype(part.weights), operation, part.name)
        return geometry

    def smallest_input(self) -> tuple[int, int, int, int]:
        """An input shape that these weights accept, if they are valid at all, to check them without an image."""
        shape = self.parts[0].weights.shape
        if self.op == "inverted_residual":
            channels = max(shape[0], 1) if shape else 1
            shape = self.parts[1].weights.shape
            window = (shape[0], shape[1]) if len(shape) > 2 else (1, 1)
            dilation = self.options["dilation"]
        elif self.op == "depthwise1d":
            window, channels = (1, shape[0] if shape else 1), shape[1] if len(shape) > 1 else 1
            dilation = 1, self.options["dilation"]
        elif self.op == "pointwise":
            return 1, 1, 1, max(shape[0], 1) if shape else 1
        else:
            window, channels = (shape[0], shape[1]) if len(shape) > 2 else (1, 1), shape[2] if len(shape) > 2 else 1
            dilation = self.options["dilation"]
            if self.op == "conv":
                channels *= self.options["groups"]
        height, width = ((max(taps, 1) - 1) * apart + 1 for taps, apart in zip(window, dilation, strict=True))
        return 1, height, width, max(channels, 1)

    def operation_with(
        self, kernel: dispatch.Kernel | None, geometry: Geometry, packed: dict[Any, Any] | None = None
    ) -> Prepared | Run:
        """What runs this step: a kernel of the dispatcher, prepared, or the reference where `kernel` is None.

        `packed` keeps this step's packed weights for other geometries.
        """
        # Brought into kernels' form only now that shapes are checked: they may be views that are larger than memory.
        parts = [
            (
                arrays.native(part.weights).reshape(half.w_shape),
                None if part.bias is None else arrays.native(part.bias),
                part.activation,
            )
            for part, half in zip(self.parts, geometry.parts, strict=True)
        ]
        if kernel is None:
            return _reference_run(geometry, parts)
        if len(parts) > 1:
            return kernel.prepare(geometry, tuple(parts), packed=packed)
        return kernel.prepare(geometry, *parts[0], packed=packed)


def _reference_run(geometry: Geometry, parts: list[reference.Part]) -> Run:
    def run(x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
        # Kernels look at addresses only; the reference looks at shapes, and may be given images without a batch axis.
        x = x.reshape(geometry.x_shape)
        added = None if residual is None else residual.reshape(geometry.out_shape)
        if isinstance(geometry, InvertedResidualGeometry):
            result = reference.inverted_residual(x, parts[0], parts[1], parts[2], added, geometry)
        elif isinstance(geometry, SeparableGeometry):
            result = reference.separable(x, parts[0], parts[1], added, geometry)
        else:
            w, bias, activation = parts[0]
            result = getattr(reference, geometry.op)(x, w, bias, added, geometry, activation)
        np.copyto(out, result.reshape(out.shape))

    return run


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program for one input shape and thread count.

    Attributes
    ----------
    geometry : Geometry
    operation : Prepared or callable
        The kernel, or ``run(x, residual, out, threads)`` on arrays that kernels can take; a batch of one may lack its
        axis.
    job : background.Job, optional
        What makes the kernel that was chosen ready, if `operation` only stands in for it.
    """

    geometry: Geometry
    operation: Prepared | Run
    job: background.Job | None = None

    @property
    def run(self) -> Run:
        """The operation as a function."""
        return self.operation.run if isinstance(self.operation, Prepared) else self.operation

    @property
    def nodes(self) -> list[Node]:
        """The same as operations of a pipeline; none for an empty batch."""
        return [Node(self.operation, self.geometry.out_shape, job=self.job)] if self.geometry.batch else []


def thread_count(num_threads: object, operation: str, name: str = "num_threads") -> int:
    """The thread count of a call: `num_threads`, checked, or the current default if it is None."""
    if num_threads is None:
        return runtime.get_num_threads()
    count = normalise_int(num_threads, name, operation)
    if count > runtime.MAX_THREADS:
        raise ValueError(
            f"{operation}: {name} is {count}; it must be at most {runtime.MAX_THREADS}; "
            f"more threads than CPUs only cost time"
        )
    return count


class Program:
    """A step with checked weights, ready for any input.

    Parameters
    ----------
    operation : str
        Name used in error texts.
    step : Step
    layout : {"NHWC", "NCHW"}
    backend : str
        "auto", "numba", "cython", "reference" or a kernel's name.
    spatial : {2, 1}
        2 for images, 1 for signals.

    Raises
    ------
    TypeError, ValueError
        If the weights differ in type or an option is not one of its choices.
    """

    __slots__ = ("backend", "dtype", "layout", "made", "operation", "spatial", "step")

    def __init__(
        self, operation: str, step: Step, *, layout: str = "NHWC", backend: str = "auto", spatial: int = 2
    ) -> None:
        if not isinstance(layout, str) or layout not in _LAYOUTS:
            fix = shapes.nearest(layout, _LAYOUTS) if isinstance(layout, str) else "use one of these"
            raise ValueError(f"{operation}: layout is {layout!r}; it must be 'NHWC' or 'NCHW'; {fix}")
        self.operation = operation
        self.step = step
        self.layout = layout
        self.backend = _checked_backend(backend, operation)
        self.spatial = spatial
        #: What the last call compiled for itself alone, with its packed weights.
        self.made: tuple[Compiled, dict[Any, Any]] | None = None
        first = step.parts[0]
        self.dtype = arrays.native_dtype(first.weights)
        for part in step.parts:
            arrays.same_dtype(part.weights, part.name, self.dtype, operation, first.name)

    def check(self) -> None:
        """Check the shapes of the weights, the options and the backend before there is an image."""
        batch, height, width, channels = self.step.smallest_input()
        geometry = self.step.geometry((batch, height, width, channels))
        if self.backend in ("auto", "numba"):  # these two compute everything: no need to load numba yet
            return
        try:
            self._choose(geometry, 1, self.backend)
        except ValueError:  # it may be a kernel of longer rows
            self._choose(self.step.geometry((batch, height, width + _LONG_ROW, channels)), 1, self.backend)

    def threads(self, num_threads: object) -> int:
        """The thread count of a call: `num_threads`, checked, or the current default."""
        return thread_count(num_threads, self.operation)

    def compile(self, geometry: Geometry, threads: int, packed: dict[Any, Any]) -> Compiled:
        """Choose a kernel and pack weights, which are found and kept in `packed`.

        Raises
        ------
        ValueError
            If the backend that was asked for does not compute this.
        """
        kernel = self._choose(geometry, threads, self.backend)
        if not geometry.batch:
            return Compiled(geometry, _nothing)

        family = runtime.cython_kernels()
        if self.backend == "auto" and kernel and kernel.backend != "cython" and family is not None and family.fused():
            # Cython has a general kernel for everything: it stands in where the better one must be compiled first. But
            # not without fused multiply-adds, which Numba's kernel may have: results would change when it takes over.
            other = self._choose(geometry, threads, "cython")

            def made(kernel: dispatch.Kernel | None) -> Prepared | Run:
                operation = self.step.operation_with(kernel, geometry, packed)
                assert isinstance(operation, Prepared)
                operation.passes(threads)  # all machine code for this number of threads
                return operation

            key = (kernel.name, geometry, threads, *(part.activation.code for part in self.step.parts))
            return Compiled(geometry, *background.ready(key, lambda: made(kernel), lambda: made(other)))
        return Compiled(geometry, self.step.operation_with(kernel, geometry, packed))

    def _choose(self, geometry: Geometry, threads: int, backend: str) -> dispatch.Kernel | None:
        if backend == "reference":
            return None
        try:
            return dispatch.choose(geometry, self.dtype, threads, backend)
        except ValueError as error:
            # The dispatcher does not know for whom it chooses.
            raise ValueError(str(error).replace("choose: ", f"{self.operation}: ", 1)) from None

    def explain(self, shape: tuple[int, ...], num_threads: object = None) -> explanations.Choice:
        """What would run for an input of `shape` as the user sees it."""
        threads = self.threads(num_threads)
        return explanations.explain(self.step.geometry(self._nhwc_shape(shape)), self.dtype, threads, self.backend)

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`, both as the user sees them."""
        nhwc = self.step.geometry(self._nhwc_shape(shape)).out_shape
        return arrays.user_shape(nhwc, self.layout, self.spatial, len(shape))

    def _nhwc_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        operation = self.operation
        if not isinstance(shape, (tuple, list)):
            raise TypeError(
                f"{operation}: shape is of type {type(shape).__name__}; it must be a tuple of integers; "
                f"give the shape of an input, x.shape"
            )
        sizes = tuple(normalise_int(size, f"shape[{at}]", operation, 0) for at, size in enumerate(shape))
        return arrays.nhwc_shape(sizes, self.step.image, self.layout, operation, self.spatial)

    def __call__(
        self,
        x: ArrayLike,
        residual: ArrayLike | None,
        out: np.ndarray | None,
        num_threads: object,
        compiled: Callable[[tuple[int, ...], int], Compiled] | None = None,
    ) -> np.ndarray:
        """Run on an image.

        Parameters
        ----------
        x, residual, out, num_threads
            As users give them.
        compiled : callable, optional
            Gives the `Compiled` for a shape ``(N, H, W, C)`` and a thread count; by default it is made anew.

        Returns
        -------
        ndarray
            `out` itself where it was given.

        Raises
        ------
        TypeError, ValueError
        """
        operation, layout, spatial = self.operation, self.layout, self.spatial
        what = self.step.image
        threads = self.threads(num_threads)
        image = arrays.floating(x, what, operation)
        arrays.same_dtype(image, what, self.dtype, operation, self.step.parts[0].name)
        dimensions = image.ndim
        image = arrays.as_nhwc(image, what, layout, operation, spatial)
        ready = None if compiled is None else compiled(image.shape, threads)
        geometry = self.step.geometry(image.shape) if ready is None else ready.geometry
        out_shape = geometry.out_shape
        shape = arrays.user_shape(out_shape, layout, spatial, dimensions)
        added, given = self.fitting(residual, out, shape)
        if added is not None:
            added = arrays.as_nhwc(added, "residual", layout, operation, spatial)
        if given is not None:
            result = given
        read = arrays.native(image)
        if out is None:
            result = out = arrays.empty(shape, self.dtype, read)
        target = destination = arrays.as_nhwc(result, "out", layout, operation, spatial)
        if ready is None:
            packed: dict[Any, Any] = {}
            ready = self.compile(geometry, threads, packed)
            self.made = ready, packed
        if not arrays.is_native(target) or arrays.overlaps(target, image, added, *self._weights()):
            # Kernels write some elements twice and read inputs in between: an output that is also an input, or that
            # they could not write directly, is computed aside.
            target = arrays.empty(out_shape, self.dtype, read)
        ready.run(read, None if added is None else arrays.native(added), target, threads)
        if target is not destination:
            arrays.copy(destination, target)
        return out

    def fitting(
        self, residual: ArrayLike | None, out: object, shape: tuple[int, ...]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """A residual and an output for a result of `shape`, as users give and see them, checked."""
        added = None
        if residual is not None:
            added = arrays.floating(residual, "residual", self.operation)
            arrays.same_dtype(added, "residual", self.dtype, self.operation, self.step.image)
            if added.shape != shape:
                raise ValueError(
                    f"{self.operation}: residual has shape {added.shape}; it must have the shape of the result, "
                    f"{shape}; reshape or crop it"
                )
        return added, None if out is None else arrays.output(out, shape, self.dtype, self.operation)

    def _weights(self) -> list[np.ndarray | None]:
        return [array for part in self.step.parts for array in (part.weights, part.bias)]


def _nothing(x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
    """The work of an empty batch."""


def _checked_backend(backend: object, operation: str) -> str:
    if not isinstance(backend, str):
        raise TypeError(
            f"{operation}: backend is of type {type(backend).__name__}; it must be a string; use 'auto', 'numba', "
            f"'cython', 'reference' or a kernel's name"
        )
    if backend in _BACKENDS:
        return backend
    names = dispatch.list_kernels()
    if backend not in names:
        raise ValueError(
            f"{operation}: backend is {backend!r}; it must be 'auto', 'numba', 'cython', 'reference' or one of the "
            f"{len(names)} kernel names that list_kernels() gives; {shapes.nearest(backend, (*_BACKENDS, *names))}"
        )
    return backend
