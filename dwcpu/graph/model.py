"""`Model`: a network from a file, called with NumPy arrays."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import background, runtime
from ..frontdoor import thread_count
from ..padding import normalise_int
from ..report import Report
from . import layouts, reader, store
from .advice import advice, conversion
from .ir import Graph, Spec
from .parts import Divided
from .passes import optimise
from .planner import Plan
from .plans import Plans, Progress, run, timed
from .short import ShortCalls

__all__ = ["Model", "load_model", "load_onnx"]

_LAYOUTS = ("NCHW", "NHWC")
#: What calls of layers and of `load_onnx` take, and calls of models do not.
_OTHER_WAYS = {"threads": "threads of a call are num_threads", "out": "leave it out: results are new arrays"}


class Model:
    """A network from an ONNX file. Make one with `dwcpu.load_onnx` or `dwcpu.load_model`.

    Called as ``model(x)``, ``model(x, y)``, ``model(name=x)`` or ``model({"name": x})``; gives an array, or a tuple of
    arrays if the network has several outputs. For every combination of input shapes a plan is made once and remembered.

    Attributes
    ----------
    name : str
    inputs, outputs : tuple of Spec
        Name, dtype and declared shape of each.
    graph : Graph
        The network as it was read, every operator in its newest version; for looking at, not for changing.
    simplified : Graph
        What passes have made of it, and plans are made of.

    Notes
    -----
    A model can be pickled, copied, and called from many threads at once.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> from onnx import TensorProto, helper
    >>> a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "abc")
    >>> graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "sum", [a, b], [c])
    >>> model = dwcpu.load_onnx(helper.make_model(graph).SerializeToString())
    >>> model
    <Model 'sum': (a: float32 (N); b: float32 (N)) -> (c: float32 (N)), 1 nodes>
    >>> model(np.ones(2, np.float32), b=np.arange(2, dtype=np.float32))
    array([1., 2.], dtype=float32)
    """

    def __init__(self, graph: Graph, threads: int | None = None, without: Collection[str] = ()) -> None:
        self.graph, self._without = graph, (without,) if isinstance(without, str) else tuple(without)
        self._threads = None if threads is None else thread_count(threads, "load_onnx", "threads")
        self.simplified = optimise(graph, self._without)
        self.name = graph.name
        self.inputs: tuple[Spec, ...] = tuple(graph.inputs)
        self.outputs: tuple[Spec, ...] = tuple(graph.outputs)
        self._plans = Plans(graph, self.simplified, self._without)
        self._divided = Divided(graph, self._without)
        self._short = {layout: ShortCalls(self, layout, self._threads) for layout in _LAYOUTS}

    def __reduce__(self) -> tuple:
        return _revived, (store.dump(self.graph), self._threads, self._without)

    def __repr__(self) -> str:
        inputs, outputs = ("; ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"<Model {self.name!r}: ({inputs}) -> ({outputs}), {len(self.simplified.nodes)} nodes>"

    def __call__(
        self,
        *args: ArrayLike | Mapping[str, ArrayLike],
        layout: str = "NCHW",
        num_threads: int | None = None,
        **named: ArrayLike,
    ) -> Any:
        """Run the network.

        Parameters
        ----------
        *args : array_like
            The inputs in order; or one mapping of names to arrays.
        layout : {"NCHW", "NHWC"}
            "NHWC" says that inputs and outputs with four axes have their channels last, whatever the file says; others
            are as the file says.
        num_threads : int, optional
            By default `threads` of `load_onnx`, or else what `dwcpu.get_num_threads` says.
        **named : array_like
            Inputs by name.

        Returns
        -------
        ndarray or tuple of ndarray
            New arrays, C-contiguous.

        Raises
        ------
        TypeError, ValueError
            An input is missing, unknown, of another dtype, or of a shape that the network cannot take.
        """
        if len(args) == 1 and not named and layout in _LAYOUTS:
            x: Any = args[0]
            return self._short[layout](x, num_threads=num_threads)
        return self._run(args, named, layout, num_threads)

    def _run(self, args: Sequence[Any], named: Mapping[str, Any], layout: str, num_threads: int | None) -> Any:
        """Any call."""
        given = self._given(args, named)
        last = self._channels_last(layout)
        threads = self._count(num_threads)
        plan = self._plan(given, last, threads)
        if plan is None:
            return self._finished(self._dynamic(given, last, threads), last)
        try:
            results = run(plan, given, last)
        except ValueError as error:
            raise self._told(error, given, last) from error
        finished = self._finished(results, last)
        if len(given) == 1 and given[0].flags.c_contiguous and not isinstance(finished, tuple):
            plans = self._plans
            self._short[layout].keep(plan, threads, plans.key(given, last, threads), plans.known, given[0], finished)
        return finished

    # --- inputs and outputs -------------------------------------------------------------------------------------------

    def _count(self, num_threads: object) -> int:
        return thread_count(self._threads if num_threads is None else num_threads, self.name)

    def _channels_last(self, layout: str) -> bool:
        if layout not in _LAYOUTS:
            raise ValueError(f"{self.name}: layout is {layout!r}; it must be 'NCHW' or 'NHWC'; use one of these")
        if layout == "NHWC" and not self._has_images:
            specs = "; ".join(map(str, (*self.inputs, *self.outputs)))
            raise ValueError(
                f"{self.name}: layout is 'NHWC'; it is for arrays with four axes, and the file declares: {specs}; "
                f"leave layout out, and give arrays as the file declares them"
            )
        return layout == "NHWC"

    @cached_property
    def _has_images(self) -> bool:
        """Whether there may be inputs with four axes, or outputs that are declared so."""
        may_be = any(spec.shape is None for spec in self.inputs)
        return may_be or any(len(spec.shape or ()) == 4 for spec in (*self.inputs, *self.outputs))

    def _given(self, args: Sequence[Any], named: Mapping[str, Any]) -> list[np.ndarray]:
        """The inputs in order, as arrays."""
        if len(args) == 1 and isinstance(args[0], Mapping):
            twice = sorted(args[0].keys() & named.keys())
            if twice:
                raise TypeError(
                    f"{self.name}: {twice[0]!r} is given twice; give each input once, by position or by name"
                )
            named = {**args[0], **named}
            args = ()
        names = [spec.name for spec in self.inputs]
        if len(args) > len(names):
            raise TypeError(
                f"{self.name}: {len(args)} inputs are given; it has {len(names)}: {', '.join(names)}; drop some"
            )
        found = dict(zip(names, args, strict=False))
        for name, value in named.items():
            if name not in names or name in found:
                what = "is given twice" if name in found else f"is no input; inputs are {', '.join(map(repr, names))}"
                fix = _OTHER_WAYS.get(name, "give each input once, by position or by name")
                raise TypeError(f"{self.name}: {name!r} {what}; {fix}")
            found[name] = value
        missing = [str(spec) for spec in self.inputs if spec.name not in found]
        if missing:
            raise TypeError(f"{self.name}: inputs are missing: {'; '.join(missing)}; give all of them")
        return [self._array(spec, found[spec.name]) for spec in self.inputs]

    def _array(self, spec: Spec, value: Any) -> np.ndarray:
        if type(value) is not np.ndarray:
            if isinstance(value, tuple) and value and all(isinstance(size, int) for size in value):
                raise TypeError(
                    f"{self.name}: {spec.name} is {value}; it must be an array, {spec}; if this is a shape, give "
                    f"np.zeros({value}, np.{np.dtype(spec.dtype or np.float32).name})"
                )
            if isinstance(value, np.ma.MaskedArray):
                raise TypeError(f"{self.name}: {spec.name} is a masked array; fill it with {spec.name}.filled(value)")
            given = value
            try:
                value = np.asarray(value)
            except Exception as error:  # whatever an object's __array__ raises, and lists of unequal arrays
                raise TypeError(
                    f"{self.name}: {spec.name} of type {type(given).__name__} is no array ({error}); it must be one, "
                    f"{spec}; stack arrays of one shape with np.stack"
                ) from error
            if value.ndim == 0 and spec.shape != () and value.dtype.kind not in "USO":
                raise TypeError(f"{self.name}: {spec.name} is {given}; it must be an array, {spec}; give one")
        if spec.dtype is not None and value.dtype.type != spec.dtype.type:
            raise TypeError(
                f"{self.name}: {spec.name} has dtype {value.dtype}; the network takes {spec.dtype}; "
                f"{conversion(spec.name, value.dtype, spec.dtype)}"
            )
        return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))

    def _finished(self, results: Sequence[np.ndarray], last: bool) -> Any:
        """The outputs as the caller wants them."""
        turned = [layouts.turned(array, last) for array in results]
        turned = [array if array.flags.c_contiguous else array.copy() for array in turned]
        return turned[0] if len(turned) == 1 else tuple(turned)

    def _dynamic(self, given: list[np.ndarray], last: bool, threads: int) -> list[np.ndarray]:
        """What has shapes that depend on values, and all of what has nothing to be planned for."""
        inputs = [layouts.logical(array, last) for array in given]
        with self._telling(given, last):
            return self._divided.of(inputs)(inputs, threads)

    @contextlib.contextmanager
    def _telling(self, given: Sequence[np.ndarray], last: bool) -> Iterator[None]:
        """Say of an error in a node what `_told` says."""
        try:
            yield
        except ValueError as error:
            raise self._told(error, given, last) from error

    def _told(self, error: ValueError, given: Sequence[np.ndarray], last: bool) -> ValueError:
        """What is said of an error in a node: with which inputs, what the file declares, and what that looks like."""
        pairs = list(zip(self.inputs, given, strict=True))
        shapes = ", ".join(f"{spec.name} {array.shape}" for spec, array in pairs)
        hints = "; ".join(hint for spec, array in pairs if (hint := advice(spec, array, last)))
        declared = "; ".join(map(str, self.inputs))
        # Where it is plain what is wrong with the only input, which node found it does not help.
        text = hints if hints and len(pairs) == 1 else "; ".join(filter(None, (hints, str(error))))
        return ValueError(f"{self.name}: given: {shapes}; the file declares: {declared}; {text}")

    # --- plans --------------------------------------------------------------------------------------------------------

    def _plan(self, given: list[np.ndarray], last: bool, threads: int, progress: Progress | None = None) -> Plan | None:
        """The plan for inputs like these; None if shapes depend on values, or if there are no elements."""
        with self._telling(given, last):
            return self._plans.find(given, last, threads, progress)

    def warmup(
        self, x_shape: Any, *, layout: str = "NCHW", num_threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Plan for inputs of a shape and compile what that needs, now rather than with the first call.

        Parameters
        ----------
        x_shape : tuple of int, or mapping of str to tuple
            Shape of the input; of several by name.
        layout, num_threads
            As in a call.
        progress : callable, optional
            Called as ``progress(done, total, name)`` before each node and once at the end.
        """
        given, last, threads = self._zeros(x_shape), self._channels_last(layout), self._count(num_threads)
        with background.waiting():
            plan = self._plan(given, last, threads, progress)
            if progress is not None:
                total = len(self.simplified.nodes)
                progress(total, total, "")
            if plan is not None:
                self(*given, layout=layout, num_threads=num_threads)
            else:  # of zeros there may be no results, and operators that want some
                inputs = [layouts.logical(array, last) for array in given]
                with self._telling(given, last):
                    self._divided.of(inputs).ready(inputs, threads)

    def _zeros(self, x_shape: Any) -> list[np.ndarray]:
        if not isinstance(x_shape, Mapping):
            if len(self.inputs) != 1:
                names = ", ".join(spec.name for spec in self.inputs)
                raise TypeError(
                    f"{self.name}: it has {len(self.inputs)} inputs ({names}); give {{name: shape}} for all"
                )
            x_shape = {self.inputs[0].name: x_shape}
        given = []
        for spec in self.inputs:
            if spec.name not in x_shape:
                raise TypeError(
                    f"{self.name}: the shape of {spec.name!r} is missing; give {{name: shape}} for all inputs"
                )
            shape = x_shape[spec.name]
            if not isinstance(shape, (tuple, list)):
                raise TypeError(f"{self.name}: shape is of type {type(shape).__name__}; give a tuple of integers")
            sizes = [normalise_int(size, f"shape[{axis}]", self.name, 0) for axis, size in enumerate(shape)]
            given.append(np.zeros(sizes, spec.dtype or np.float32))
        return given

    def explain(self, x_shape: Any, num_threads: int | None = None, *, layout: str = "NCHW") -> Report:
        """What runs each node for an input of this shape, how it was fused, and how fast it could be at best.

        A row is a node, or several in one (`a+b`); activations, normalisations and sums that went into a kernel have
        none. Beside kernels of `list_kernels` there are small ones, such as "copy"; lines below the table say what
        those in it mean.

        Parameters
        ----------
        x_shape : tuple of int, or mapping of str to tuple
            Shape of the input; of several by name.
        num_threads, layout
            As in a call.

        Returns
        -------
        Report
            Prints as a table; `rows` holds its numbers.
        """
        threads, last = self._count(num_threads), self._channels_last(layout)
        given = self._zeros(x_shape)
        plan = self._planned(given, last, threads)
        title = f"{self.name}, input {', '.join('x'.join(map(str, array.shape)) or 'a number' for array in given)}"
        if plan is None:
            inputs = [layouts.logical(array, last) for array in given]
            with self._telling(given, last):
                return self._divided.of(inputs).explain(title, inputs, threads)
        memory = plan.pipeline.arena_bytes, plan.pipeline.value_bytes
        return Report(title, tuple(entry.row for entry in plan.entries), memory=memory)

    def _planned(self, given: list[np.ndarray], last: bool, threads: int) -> Plan | None:
        """The plan for inputs like these, with all that it needs; None if only a part of the graph can be planned."""
        with background.waiting():
            plan = self._plan(given, last, threads)
        if plan is None and not all(array.size for array in given):
            raise ValueError(
                f"{self.name}: an input has no elements; there is nothing to plan for it; give sizes of at least 1"
            )
        return plan

    def out_shape(self, x_shape: Any, *, layout: str = "NCHW") -> Any:
        """Shape of the result for an input of this shape; a tuple of shapes for several results.

        Parameters
        ----------
        x_shape : tuple of int, or mapping of str to tuple
            Shape of the input; of several by name.
        layout
            As in a call.
        """
        given, last = self._zeros(x_shape), self._channels_last(layout)
        if all(array.size for array in given):
            plan = self._planned(given, last, 1)
            if plan is None:
                raise ValueError(
                    f"{self.name}: the shape of its results depends on the values of its inputs; no plan knows it; "
                    f"call the model instead"
                )
            outputs: Any = [layouts.turned(array, last) for array in plan.outputs]
        else:  # of nothing there is no plan
            outputs = self(*given, layout=layout)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        shapes = tuple(array.shape for array in outputs)
        return shapes[0] if len(shapes) == 1 else shapes

    def profile(
        self, *args: Any, layout: str = "NCHW", num_threads: int | None = None, runs: int = 15, **named: ArrayLike
    ) -> Report:
        """Time every node while the whole network runs.

        Parameters
        ----------
        *args, layout, num_threads, **named
            As in a call.
        runs : int
            How often the network runs, after one run that warms it up. Times are medians.

        Returns
        -------
        Report
            Prints as a table; `rows` holds its numbers.
        """
        runs = normalise_int(runs, "runs", "profile")
        given, last, threads = self._given(args, named), self._channels_last(layout), self._count(num_threads)
        plan = self._planned(given, last, threads)
        shapes = ", ".join("x".join(map(str, array.shape)) or "a number" for array in given)
        title = f"{self.name}, input {shapes}, {threads} thread{'s' * (threads != 1)}, median of {runs} runs"
        if plan is None:
            inputs = [layouts.logical(array, last) for array in given]
            with self._telling(given, last):
                return self._divided.of(inputs).profile(title, inputs, threads, runs)
        peak = runtime.fma_peak(np.float32, threads)
        return Report(title, tuple(timed(plan, given, last, runs, peak)), peak)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network into a file that `dwcpu.load_model` reads, without the onnx package.

        Parameters
        ----------
        path : path
            An existing file is replaced, at once and as a whole, and keeps its permissions; of a link, the file that it
            leads to.

        Raises
        ------
        TypeError, ValueError
            It is not a path, or the name says that it is an ONNX file.
        OSError
            The file cannot be written, or what is there is not a file.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(
                f"save: path is of type {type(path).__name__}; it must be a str or a path; pass 'network.dwcpu'"
            )
        target = Path(os.path.realpath(path))
        if target.suffix.lower() == ".onnx":
            raise ValueError(
                f"save: the name {target.name} is that of an ONNX file; saved models are of another kind; "
                f"call it {target.stem}.dwcpu"
            )
        if not target.parent.is_dir():
            raise FileNotFoundError(f"save: there is no directory {target.parent}; the file needs one; make it first")
        if target.exists() and not target.is_file():
            raise OSError(f"save: {target} is not a file; it would be replaced; name one, or what is not there yet")
        aside = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            aside.write_bytes(store.dump(self.graph))
            if target.exists():
                shutil.copymode(target, aside)
            aside.replace(target)
        except OSError as error:
            told = type(error)(
                f"save: {target} cannot be written ({error.strerror}); its directory must take a new file; "
                "name another place"
            )
            told.errno = error.errno
            raise told from error
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def _revived(content: bytes, threads: int | None, without: tuple[str, ...]) -> Model:
    return Model(store.parse(content), threads, without)


def load_onnx(
    source: str | os.PathLike[str] | bytes,
    *,
    threads: int | None = None,
    external_data_dir: str | os.PathLike[str] | None = None,
    without: Collection[str] = (),
) -> Model:
    """Load a network from an ONNX file. Needs the extra ``dwcpu[onnx]``.

    Parameters
    ----------
    source : path or bytes
        The file, or its contents.
    threads : int, optional
        Threads for calls that do not say otherwise; by default what `dwcpu.get_num_threads` says.
    external_data_dir : path, optional
        Folder in which weights lie that the model keeps in files of their own. Nothing outside it is read, and without
        it no other file at all.
    without : collection of str
        Passes to leave out when the graph is simplified, for finding out what one of them does: "constants",
        "pads", "activations", "norms", "groups", "responses", "affine", "residuals", "epilogues", "gates", "chains".

    Returns
    -------
    Model

    Raises
    ------
    UnsupportedOperator
        The network needs operators, attribute values or types that are not there; the text lists all of them.
    ValueError
        The file is damaged or no ONNX model.
    OSError
        The file cannot be read.
    ImportError
        The onnx package is not installed.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> from onnx import TensorProto, helper
    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    >>> graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["x"], ["y"])], "tiny", [x], [y])
    >>> model = dwcpu.load_onnx(helper.make_model(graph).SerializeToString())
    >>> model(np.ones((2, 3, 8, 8), np.float32)).shape
    (2, 3, 1, 1)
    """
    return Model(reader.read(source, external_data_dir), threads, without)


def load_model(path: str | os.PathLike[str], *, threads: int | None = None) -> Model:
    """Load a network that `Model.save` wrote.

    Parameters
    ----------
    path : path
    threads : int, optional
        As for `load_onnx`.

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        The file is damaged or something else. Nothing in it can run code.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import dwcpu
    >>> dwcpu.load_model("net.dwcpu")  # doctest: +SKIP
    <Model 'net': (x: float32 (N, 3, 224, 224)) -> (y: float32 (N, 1000)), 22 nodes>
    """
    return Model(store.read(path), threads)
