"""From a graph to a pipeline for inputs of given shapes.

Every value is followed through the graph as an array that nobody has filled: NumPy itself works out shapes, strides and
which results are views of others. Images keep the axes that ONNX gives them, but lie in memory with their channels
last, which is how kernels read and write them; so transposes between the two layouts, reshapes, slices and splits
mostly cost nothing. What depends on shapes alone is computed while planning.

`lowering` says which nodes run on kernels. All others run on NumPy, writing into the arena where they can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, background, pixels
from ..pipeline import Arenas, Builder, Pipeline, Value, given
from ..pipeline import Node as Operation
from ..report import LayerRow
from .ir import Graph, Node
from .operators import OPERATORS, Operator, check_size
from .work import flops

__all__ = ["Dynamic", "Plan", "Planner", "Symbol", "is_channel_last", "make_plan", "same_order"]


class Dynamic(Exception):
    """The shape of something depends on values that are only known when the graph runs."""


def node_error(node: Node, error: Exception) -> ValueError:
    """What is said of a node that cannot run."""
    text = (str(error).splitlines() or [type(error).__name__])[0].removeprefix(f"{node.op} {node.name!r}: ")
    return ValueError(f"node {node.name!r} ({node.op}): {text:.300}")


class Symbol:
    """A value that is known when the plan runs: an array without contents, and where its bytes will lie.

    Attributes
    ----------
    array : ndarray
        With the axes of ONNX.
    buffer : int
        As in `pipeline.Value`.
    start : int
        Address of the buffer's first byte, as far as `array` is concerned.
    """

    __slots__ = ("_memory", "array", "buffer", "start")

    def __init__(self, array: np.ndarray, buffer: int, start: int, memory: Any) -> None:
        self.array, self.buffer, self.start, self._memory = array, buffer, start, memory

    def view(self, array: np.ndarray) -> Symbol:
        """A symbol for another view of the same bytes."""
        return Symbol(array, self.buffer, self.start, self._memory)

    @property
    def has_pixels(self) -> bool:
        """Whether images or signals lie in memory with their channels last, with or without gaps between pixels."""
        return self.array.ndim in (3, 4) and self.pixels().pixel_step is not None

    def pixels(self) -> Value:
        """Images or signals as kernels see them, (N, H, W, C)."""
        value = self.value(np.moveaxis(self.array, 1, -1))
        if len(value.shape) == 4:
            return value
        strides = value.strides and (value.strides[0], *value.strides)
        return value._replace(shape=(value.shape[0], 1, *value.shape[1:]), strides=strides)

    def value(self, array: np.ndarray | None = None) -> Value:
        """What steps read or write: all of it, or another view of the same bytes."""
        array = self.array if array is None else array
        strides = None if array.flags.c_contiguous else array.strides
        return Value(self.buffer, array.shape, array.dtype, _address(array) - self.start, strides)


#: What a node reads: a symbol, an array that is known already, or nothing.
Operand = Symbol | np.ndarray | None


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def is_channel_last(array: np.ndarray) -> bool:
    """Whether images (N, C, H, W), or signals (N, C, T), lie in memory with their channels last."""
    return array.ndim in (3, 4) and np.moveaxis(array, 1, -1).flags.c_contiguous


def channel_last(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array (N, C, …) that has its channels last in memory."""
    check_size(shape, dtype)
    return np.moveaxis(np.empty((shape[0], *shape[2:], shape[1]), dtype), -1, 1)


class Entry(NamedTuple):
    """What a plan does for one node. `layers` are what runs it, each with the shape of its images, if layers do."""

    name: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    kernel: str
    flops: int
    bytes: int
    layers: tuple[tuple[Any, tuple[int, ...]], ...]
    threads: int

    @property
    def row(self) -> LayerRow:
        """The row of a report. It has the bound, for which the machine's limits are measured at first."""
        if self.layers:
            choices = [layer.explain(shape, self.threads) for layer, shape in self.layers]
            kernel = " + ".join(dict.fromkeys(choice.kernel for choice in choices))
            costs = ((choice.flops, choice.bytes, choice.bound_us) for choice in choices)
            return LayerRow(self.name, kernel, self.in_shape, self.out_shape, *map(sum, zip(*costs, strict=True)))
        busy = self.kernel not in ("shape", "view", "constant")
        cost = (self.flops, self.bytes, None) if busy else (0, 0, None)
        return LayerRow(self.name, self.kernel, self.in_shape, self.out_shape, *cost)


@dataclass(frozen=True)
class Plan:
    """A graph made ready for inputs of given shapes and a number of threads.

    Attributes
    ----------
    pipeline : Pipeline
        It is given the first input, None, the first output, then the other inputs and outputs.
    outputs : list of ndarray
        Arrays without contents, of the shapes, dtypes and memory orders of the outputs; or with contents, where an
        output is known already: `known` says so.
    known, turned : list of bool
        `turned`: of what has its channels last in memory, and not with the axes of ONNX.
    entries : list of Entry
        What is done for each node.
    jobs : list of background.Job
        For kernels that others stand in for.
    threads : int
        What it was made for.
    """

    pipeline: Pipeline
    outputs: list[np.ndarray]
    known: list[bool]
    turned: list[bool]
    entries: list[Entry]
    jobs: list[background.Job]
    threads: int


class Planner:
    """One plan that is being made.

    Parameters
    ----------
    graph : Graph
    layers : dict
        Layers made for this graph, by what they are for; shared among its plans.
    threads : int
    lowerings : mapping of str to callable
        What plans nodes of an operator on kernels: `lowering.LOWERINGS`.
    channels_last : bool
        Whether images are given with their channels last.
    lying : bool
        Whether results that have their channels last in memory are given as they lie.

    Attributes
    ----------
    names : dict
        What is in each buffer.
    """

    def __init__(
        self,
        graph: Graph,
        layers: dict[Any, Any],
        threads: int,
        lowerings: Mapping[str, Callable[..., Any]],
        channels_last: bool,
        lying: bool = False,
    ) -> None:
        self.graph, self.threads, self._lowerings = graph, threads, lowerings
        self._channels_last, self._lying = channels_last, lying
        self._layers = layers
        self._own_layers: dict[Any, Any] = {}
        self.builder = Builder()
        self.operands: dict[str, Operand] = {"": None, **graph.constants}
        self.entries: list[Entry] = []
        self.jobs: list[background.Job] = []
        self._images: dict[Any, Symbol] = {}
        self.names: dict[int, list[str]] = {}
        self._number, self._node = 0, Node("", "outputs", [], [])
        self._row: dict[str, Any] = {}

    # --- what lowering uses -------------------------------------------------------------------------------------------

    def layer(self, key: Any, weights: Sequence[str], make: Callable[[], Any]) -> Any:
        """The layer for a key, made if there is none yet.

        Plans share it if its weights, which are named, are the graph's constants, and not computed from shapes.
        """
        fixed = all(name in self.graph.constants for name in weights if name)
        layers = self._layers if fixed else self._own_layers
        layer = layers.get(key)
        if layer is None:
            layer = layers.setdefault(key, make())
        return layer

    def symbol(self, array: np.ndarray) -> Symbol:
        """A symbol with bytes of its own for a fresh array without contents."""
        if array.dtype.hasobject:
            raise Dynamic  # strings are objects, which cannot lie in the arena
        return Symbol(array, self.builder.buffer(array.nbytes), _address(array), array)

    def wants_planes(self, name: str) -> bool:
        """Whether a tensor is an output of the graph, given with its channels first, and nobody else reads it."""
        given_out = (
            not self._channels_last and not self._lying and any(spec.name == name for spec in self.graph.outputs)
        )
        return given_out and not any(name in node.inputs for node in self.graph.nodes)

    def call(self, function: Callable[..., object], reads: Sequence[Value], writes: Sequence[Value]) -> None:
        """Add a call to the plan, for the node at hand, which an exception will name."""
        node = self._node

        def named(*given_arrays: np.ndarray) -> None:
            try:
                function(*given_arrays)
            except MemoryError:
                raise
            except Exception as error:  # values may make NumPy raise anything
                raise node_error(node, error) from error

        self.builder.call(self._number, named, reads, writes)

    def image(self, symbol: Symbol, takes: Callable[[Value], object] | None = None) -> Value:
        """Images or signals as kernels read them, ``(N, H, W, C)``: copied if they do not lie like that.

        Nor are they copied if `takes` says that they can be read as they lie: with gaps between pixels, or as planes.
        """
        value = symbol.pixels()
        if value.strides is None or (takes is not None and takes(value)):
            return value
        return self._copied(symbol, channel_last(symbol.array.shape, symbol.array.dtype)).pixels()

    def matrix(self, symbol: Symbol) -> Value:
        """A tensor as one C-contiguous block: copied if it is not."""
        if not symbol.array.flags.c_contiguous:
            symbol = self._copied(symbol, np.empty(symbol.array.shape, symbol.array.dtype))
        return symbol.value()

    def like(self, symbol: Symbol, array: np.ndarray) -> Value:
        """A tensor as it lies in memory, copied to where `array` would have it if it does not lie so."""
        return self.ordered(symbol, array).value()

    def ordered(self, symbol: Symbol, array: np.ndarray) -> Symbol:
        """A tensor that lies in memory as `array` does: a copy if it does not."""
        return symbol if same_order(symbol.array, array) else self._copied(symbol, np.empty_like(array))

    def _copied(self, symbol: Symbol, array: np.ndarray) -> Symbol:
        """A copy in another order of memory; the same one for everybody who wants it."""
        source = symbol.value()
        key = source, array.strides
        copy = self._images.get(key)
        if copy is None:
            copy = self._images[key] = self.symbol(array)
            self.move(symbol, symbol.array, copy, array)
        return copy

    def move(self, source: Symbol, seen: np.ndarray, target: Symbol, place: np.ndarray) -> None:
        """Copy `seen`, a view of `source`, to `place`, a view of `target` of the same shape."""
        if not seen.size:
            return
        between = pixels.order_between(seen.shape, seen.dtype, seen.strides, place.strides)
        if between is not None:
            aside = np.empty([seen.shape[axis] for axis in between], seen.dtype).transpose(np.argsort(between))
            helper = self.symbol(aside)
            self.move(source, seen, helper, aside)
            self.move(helper, aside, target, place)
            return
        kernel = pixels.copy(seen.shape, seen.dtype, seen.strides, place.strides)
        if kernel is None:
            self.call(copy_array, [source.value(seen)], [target.value(place)])
        else:
            self.operate(kernel, source.value(seen), None, target.value(place))

    def operate(self, kernel: Any, x: Value, residual: Value | None, out: Value) -> None:
        """Add a kernel of `dwcpu.pixels` to the plan, for the node at hand."""
        operation = Operation(kernel, kernel.out_shape)
        self.builder.operate(self._number, operation, x, residual, out, self.threads)

    def run_layer(
        self,
        layer: Any,
        x: Symbol | Value,
        residual: Symbol | None,
        into: np.ndarray | Symbol,
        named: bool = True,
    ) -> Symbol:
        """Run a layer on images, or a value of their shape.

        `into` is a fresh array for the result, with ONNX's axes, or where in another it goes. Images are copied if the
        layer's kernel cannot read them as they lie. A layer that is not `named` is a part of what the node's row in a
        report tells otherwise.
        """
        shape = (x.pixels() if isinstance(x, Symbol) else x).shape
        out = into if isinstance(into, Symbol) else self.symbol(into)
        target = Value(out.buffer, layer.out_shape(shape), out.array.dtype, _address(out.array) - out.start)
        added = None if residual is None else self.image(residual)
        [node] = layer.nodes(shape, self.threads)  # asked once: another time it might be another kernel

        def placed(value: Value) -> Any:
            return None if callable(node.operation) else node.operation.placed(value, added, target)

        image = self.image(x, placed) if isinstance(x, Symbol) else x
        if image.strides is not None:
            node = node._replace(operation=placed(image))
        self.builder.operate(self._number, node, image, added, target, self.threads)
        if node.job is not None:
            self.jobs.append(node.job)
        if named:
            self._row.setdefault("layers", []).append((layer, shape))
        return out

    def run_kernel(self, name: str, kernel: Any, x: Value, residual: Value | None, array: np.ndarray) -> Symbol:
        """Run a kernel of `dwcpu.pixels`; `array` is a fresh one for the result, with the axes of ONNX."""
        out = self.symbol(array)
        alike = kernel.out_shape == array.shape
        self.operate(kernel, x, residual, out.value() if alike else Value(out.buffer, kernel.out_shape, array.dtype))
        self.describe(name)
        self._row["flops"] = kernel.flops
        return out

    def describe(self, *kernels: str) -> None:
        """Say what computes the node at hand."""
        self._row["kernel"] = ", ".join(dict.fromkeys(filter(None, kernels)))

    @property
    def described(self) -> str:
        """What has been said of the node at hand."""
        return str(self._row.get("kernel", ""))

    # --- nodes --------------------------------------------------------------------------------------------------------

    def add(self, number: int, node: Node) -> None:
        """Plan one node.

        Raises
        ------
        Dynamic, ValueError
        """
        self._number, self._node, self._row = number, node, {}
        operands = [self.operands[name] for name in node.inputs]
        try:
            with np.errstate(all="ignore"):
                results = self.lowered(node, operands)
        except (Dynamic, MemoryError):
            raise
        except Exception as error:  # what a file says may make NumPy raise anything
            shapes = [
                each.array.shape if isinstance(each, Symbol) else np.shape(each)
                for each in operands
                if each is not None
            ]
            problem = (str(error).splitlines() or [""])[0].removeprefix(f"{node.op} {node.name!r}: ")
            raise ValueError(
                f"node {node.name!r} ({node.op}) cannot run on tensors of shapes {shapes}: {problem:.200}"
            ) from error
        if len(results) < len(node.outputs):
            raise ValueError(f"node {node.name!r} ({node.op}) names {len(node.outputs)} results and has {len(results)}")
        for name, result in zip(node.outputs, results, strict=False):
            if name:
                self.operands[name] = result
            if name and isinstance(result, Symbol):
                self.names.setdefault(result.buffer, []).append(name)
        self.entries.append(self._described(node, operands, results))

    def lowered(self, node: Node, operands: list[Operand]) -> list[Operand]:
        """Run a node, or a part of one, on kernels if it can, else on NumPy."""
        before = len(self.builder.steps), len(self.builder.sizes), len(self.jobs), dict(self._images), self._row
        # Kernels take it that there is something to read.
        empty = any(isinstance(each, Symbol) and not each.array.size for each in operands)
        lower = None if empty else self._lowerings.get(node.op)
        if lower is not None:
            self._row = {**self._row, "layers": list(self._row.get("layers", ()))}
            results = lower(self, node, operands)
            if results is not None:
                return results
            steps, buffers, jobs, self._images, self._row = before
            del self.builder.steps[steps:], self.builder.sizes[buffers:], self.builder.since[buffers:], self.jobs[jobs:]
        return self.apart(node, operands)

    def apart(self, node: Node, operands: list[Operand]) -> list[Operand]:
        """Run a node on NumPy, and then, one by one, what passes have put into it: bias, residual, activation."""
        before = node.get("before")
        if before is not None:
            operands = [
                each if part is None else self.apart(part, [each])[0]
                for part, each in zip(before, operands, strict=True)
            ]
            node = node.copy()
            del node.attributes["before"]
        count = {"Conv": 3, "MatMul": 2}.get(node.op, len(operands))
        spec, more = node.get("activation"), [each for each in operands[count:] if each is not None]
        if node.op == "Activation" or (spec is None and not more):
            return self._by_numpy(OPERATORS[node.op], node, operands[:count])
        bare = node.copy()
        bare.attributes.pop("activation", None)
        return self.finish(node, self._by_numpy(OPERATORS[node.op], bare, operands[:count]), more)

    def finish(self, node: Node, results: list[Operand], more: Sequence[Operand]) -> list[Operand]:
        """Add `more` to a result, and apply the activation of `node`."""
        spec = node.get("activation")
        after: list[tuple[Node, list[Operand]]] = [(Node("Add", node.name, [], []), [each]) for each in more]
        if spec is not None:
            after.append((Node("Activation", node.name, [], [], {"activation": spec}), []))
        for part, others in after:
            before = self.described
            results = self.lowered(part, [*results, *others])
            self.describe(before, self.described)
        return results

    def _by_numpy(self, operator: Operator, node: Node, operands: list[Operand]) -> list[Operand]:
        symbols = [operand for operand in operands if isinstance(operand, Symbol)]
        if node.op in ("Shape", "Size") and symbols:
            # The only operators that ask nothing about values.
            return list(operator(node, [symbols[0].array]))
        if not symbols:
            self.describe("constant")
            return list(operator(node, self._arrays(operands)))
        if operator.way == "valued":
            raise Dynamic
        for index in operator.shaping:
            if index < len(operands) and isinstance(operands[index], Symbol):
                raise Dynamic
        if operator.way == "view":
            return self._views(operator, node, operands)
        self.describe("numpy")
        if operator.way == "into":
            targets = [self.symbol(array) for array in operator.targets(node, self._arrays(operands))]
            self._call_operator(lambda read, write: operator.function(node, read, write), operands, targets)
            return list(targets)
        tried = [np.zeros_like(each.array) if isinstance(each, Symbol) else each for each in operands]
        targets = [self.symbol(np.empty_like(result)) for result in operator(node, tried)]

        def compute(read: list[Any], write: list[np.ndarray]) -> None:
            for target, result in zip(write, operator(node, read), strict=True):
                np.copyto(target, result)

        self._call_operator(compute, operands, targets)
        return list(targets)

    @staticmethod
    def _arrays(operands: list[Operand]) -> list[np.ndarray | None]:
        return [operand.array if isinstance(operand, Symbol) else operand for operand in operands]

    def _call_operator(
        self, function: Callable[[list[Any], list[np.ndarray]], None], operands: list[Operand], targets: list[Symbol]
    ) -> None:
        """Add a call of ``function(arrays, outs)``; arrays that are known are in it from the beginning."""
        places = [at for at, operand in enumerate(operands) if isinstance(operand, Symbol)]
        fixed: list[Any] = [None if isinstance(operand, Symbol) else operand for operand in operands]
        count = len(places)

        def run(*given_arrays: np.ndarray) -> None:
            read = fixed.copy()
            for at, array in zip(places, given_arrays, strict=False):
                read[at] = array
            function(read, list(given_arrays[count:]))

        reads = [operand.value() for operand in operands if isinstance(operand, Symbol)]
        self.call(run, reads, [target.value() for target in targets])

    def _views(self, operator: Operator, node: Node, operands: list[Operand]) -> list[Operand]:
        source = operands[0]
        if not isinstance(source, Symbol):  # a constant, looked at by shapes of others
            self.describe("constant")
            return list(operator(node, self._arrays(operands)))
        self.describe("view")
        results: list[Operand] = []
        start, size = source.start, max(self._size(source), 1)
        for result in operator(node, self._arrays(operands)):
            if start <= _address(result) < start + size and result.size:
                results.append(source.view(result))
            elif result.size == source.array.size and result.dtype == source.array.dtype:
                self.describe("copy")
                results.append(self._reshaped(source, result.shape))
            else:
                results.append(result)  # the mask of a Dropout: known
        return results

    @staticmethod
    def _size(symbol: Symbol) -> int:
        return int(symbol._memory.nbytes)

    def _reshaped(self, source: Symbol, shape: tuple[int, ...]) -> Symbol:
        """A copy with another shape; its channels are last if those of the source are and that takes one copy."""
        array = source.array
        made = np.empty(shape, array.dtype)
        if len(shape) > 2 and array.ndim > 2 and array.strides[1] < array.strides[-1]:
            turned = channel_last(shape, array.dtype)
            seen = turned.reshape(array.shape)
            if np.may_share_memory(seen, turned):
                made = turned
        target = self.symbol(made)
        self.move(source, array, target, made.reshape(array.shape))
        return target

    def _described(self, node: Node, operands: list[Operand], results: Sequence[Operand]) -> Entry:
        shapes = [each.shape for each in self._arrays([*operands[:1], *list(results)[:1]]) if each is not None]
        computed = [each.array for each in results if isinstance(each, Symbol)]
        in_shape, out_shape = (shapes[0], shapes[-1]) if shapes else ((), ())
        layers = tuple(self._row.get("layers", ()))
        kernel = self._row.get("kernel") or "shape"
        touched = sum(each.array.nbytes for each in (*operands, *results) if isinstance(each, Symbol))
        work = self._row.get("flops") or flops(node, self._arrays(operands), computed)
        return Entry(node.name, in_shape, out_shape, kernel, work, touched, layers, self.threads)

    # --- inputs and outputs -------------------------------------------------------------------------------------------

    def take(self, name: str, number: int, array: np.ndarray) -> None:
        """An input of the graph: `array` has no contents, but shape, dtype and order of memory."""
        buffer = given(0) if number == 0 else given(2 + number)
        self.operands[name] = Symbol(array, buffer, _address(array), array)

    def give(self, number: int, inputs: int, name: str) -> tuple[np.ndarray, bool]:
        """An output of the graph: an array of its shape, dtype and order of memory; whether its contents are known."""
        operand = self.operands[name]
        if not isinstance(operand, Symbol):
            assert operand is not None
            return operand, True
        source = operand.array
        check_size(source.shape, source.dtype)
        wanted = np.empty(source.shape, source.dtype)
        if source.ndim == 4 and (self._channels_last or (self._lying and is_channel_last(source))):
            wanted = channel_last(source.shape, source.dtype)
        buffer = given(2) if number == 0 else given(2 + max(inputs - 1, 0) + number)
        target = Symbol(wanted, buffer, _address(wanted), wanted)
        value = operand.value()
        whole = value.offset == 0 and self._size(operand) == wanted.nbytes and same_order(source, wanted)
        if whole and value.buffer >= 0:
            self.builder.replace(value.buffer, buffer)
            for key, each in self.operands.items():
                if isinstance(each, Symbol) and each.buffer == value.buffer:
                    self.operands[key] = Symbol(each.array, buffer, each.start, each._memory)
        else:
            self.move(operand, source, target, wanted)
        return wanted, False


def same_order(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape lie alike in memory."""
    return all(one == two for one, two, size in zip(a.strides, b.strides, a.shape, strict=True) if size > 1)


def copy_array(source: np.ndarray, target: np.ndarray) -> None:
    """Copy, in tiles where images change between channels first and channels last."""
    if source.ndim == 4:
        arrays.copy(target.transpose(0, 2, 3, 1), source.transpose(0, 2, 3, 1))
    else:
        np.copyto(target, source)


def make_plan(
    graph: Graph,
    layers: dict[Any, Any],
    lowerings: Mapping[str, Callable[..., Any]],
    inputs: Sequence[np.ndarray],
    threads: int,
    channels_last: bool,
    arenas: Arenas,
    progress: Callable[[int, int, str], None] | None = None,
    lying: bool = False,
) -> Plan:
    """Plan a graph for inputs of these shapes, dtypes and orders of memory; their contents are not looked at.

    Raises
    ------
    Dynamic
        The shape of something depends on contents.
    ValueError
        Shapes or types do not fit; the text names the node.
    """
    planner = Planner(graph, layers, threads, lowerings, channels_last, lying)
    for number, (spec, array) in enumerate(zip(graph.inputs, inputs, strict=True)):
        planner.take(spec.name, number, np.empty_like(array))
    for number, node in enumerate(graph.nodes):
        if progress is not None:
            progress(number, len(graph.nodes), node.name)
        planner.add(number, node)
    outputs = [planner.give(at, len(inputs), spec.name) for at, spec in enumerate(graph.outputs)]
    pipeline = Pipeline(planner.builder, max(len(graph.nodes), 1), arenas)
    arrays, known = [array for array, _ in outputs], [each for _, each in outputs]
    turned = [array.ndim == 4 and is_channel_last(array) and not array.flags.c_contiguous for array in arrays]
    return Plan(pipeline, arrays, known, turned, planner.entries, planner.jobs, threads)
