"""The short way of a call whose like was seen before; `frontdoor` is the long one, and knows every rule.

A `Call` belongs to one shape and thread count. It takes arrays that kernels can take as they are and answers None to
all others, which then go through the front door. Layers are `Caller`s, which keep a few. Functions get their weights
with every call, so theirs also own memory for packed weights, which each call fills anew: a bounded pool keeps them by
shapes and options (`again`, `first`), and each is used by one thread at a time.

All of that is compiled (`cython_kernels/_calls.pyx`). Where it is not, layers have the classes of this file, and
functions go the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from . import arrays, pixels, runtime
from .geometry import ConvGeometry
from .pipeline import Pass
from .prepared import REPEATED, Prepared

if TYPE_CHECKING:
    from .frontdoor import Compiled, Program

__all__ = ["Call", "Caller", "again", "call_between", "call_of", "call_on_arrays", "first", "forget"]

#: Kinds of calls that functions remember, spare calls of one kind (for threads that make it at once), and bytes of
#: packed weights in all of them.
_MOST_KINDS, _MOST_SPARE, _MOST_BYTES = 256, 8, 32 << 20

_READY = arrays.CONTIGUOUS | arrays.ALIGNED
_READY_OUT = _READY | arrays.WRITEABLE


_compiled: Any = runtime.compiled_calls()


class Call:
    """One operation on one shape with one number of threads.

    Parameters
    ----------
    x_shape, out_shape : tuple of int
        As the user sees them.
    x_image, out_image : (N, H, W, C)
        The same as kernels see them.
    turned : bool
        Whether the user's images have the channels first. Only the compiled class takes these.
    dtype : dtype
    runner : callable
        ``runner(x, residual, out, threads)`` on arrays that kernels can take.
    threads : int
    launch : tuple of int, or None
        The same as addresses and numbers, for the compiled class: of one kernel `Prepared.launch`, of a row of them
        `Pipeline.launch`.
    drives : (int, int)
        Addresses of the compiled drivers, of one kernel in several tasks and of a row; 0 where there are none.
    scratch_of : callable
        Gives the address of so many bytes of scratch memory, and what keeps them alive.
    most_scratch : int
        Bytes that turned images may take there at most, a residual's too, with what all threads of the kernels want.
    packings : tuple
        Where the weights of a function go: see `_packings`. Only the compiled class has them.
    turns : tuple of Pass
        What turns x, a residual and the result; none where they cannot be turned here.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        x_image: tuple[int, ...],
        out_image: tuple[int, ...],
        turned: bool,
        dtype: np.dtype,
        runner: Callable[..., object],
        threads: int,
        launch: tuple[int, ...] | None,
        drives: tuple[int, int],
        scratch_of: Callable[[int], tuple[int, np.ndarray]],
        most_scratch: int,
        packings: tuple = (),
        turns: tuple[Pass, ...] = (),
    ) -> None:
        self.x_shape, self._out_shape, self._turned, self._dtype = x_shape, out_shape, turned, dtype
        self._runner, self.threads = runner, threads

    def apply(self, x: Any, residual: Any, out: Any) -> np.ndarray | None:
        """The result, or None where something is not plainly right; nothing has been done then."""
        shape = self._out_shape
        if self._turned or not self._fits(x, self.x_shape, _READY):
            return None
        if residual is not None and not self._fits(residual, shape, _READY):
            return None
        target: np.ndarray = arrays.empty(shape, self._dtype, x) if out is None else out
        if out is not None:
            if not self._fits(out, shape, _READY_OUT) or np.may_share_memory(out, x):
                return None
            if residual is not None and np.may_share_memory(out, residual):
                return None
        self._runner(x, residual, target, self.threads)
        return target

    def _fits(self, array: Any, shape: tuple[int, ...], flags: int) -> bool:
        return (
            type(array) is np.ndarray
            and array.shape == shape
            and (array.dtype is self._dtype or array.dtype == self._dtype)
            and array.flags.num & flags == flags
        )


class Caller:
    """What layers do when they are called: `Call.apply`, where one of those that are known fits; else `_long_way`.

    Attributes
    ----------
    known : tuple of Call
        Replaced as a whole, never changed, so that reading it needs no lock.
    """

    known: tuple[Any, ...] = ()

    def _remember(self, known: tuple[Any, ...], default_threads: Callable[[], int]) -> None:
        """Know these from now on; `default_threads` gives the number of threads where a call does not."""
        self._default_threads, self.known = default_threads, known

    def _long_way(self, x: Any, residual: Any, out: Any, num_threads: Any) -> np.ndarray:
        """Through the front door."""
        raise NotImplementedError  # by each subclass

    def __call__(
        self,
        x: ArrayLike,
        *,
        out: np.ndarray | None = None,
        residual: ArrayLike | None = None,
        num_threads: int | None = None,
    ) -> np.ndarray:
        """See `dwcpu.layers.Layer`."""
        if self.known and type(x) is np.ndarray:
            threads = self._default_threads() if num_threads is None else num_threads
            for call in self.known if type(threads) is int else ():
                if call.threads == threads and call.x_shape == x.shape:
                    result: np.ndarray | None = call.apply(x, residual, out)
                    if result is not None:
                        return result
                    break
        return self._long_way(x, residual, out, num_threads)


def call_of(program: Program, compiled: Compiled, x_shape: tuple[int, ...], threads: int, packings: tuple = ()) -> Any:
    """The `Call` of a compiled program for `x` of that shape, as the user sees it."""
    operation, geometry = compiled.operation, compiled.geometry
    launch = operation.launch(threads) if isinstance(operation, Prepared) else None
    return call_between(program, geometry.x_shape, geometry.out_shape, x_shape, threads, compiled.run, launch, packings)


def call_between(
    program: Program,
    x_image: tuple[int, ...],
    out_image: tuple[int, ...],
    x_shape: tuple[int, ...],
    threads: int,
    runner: Callable[..., object],
    launch: tuple[int, ...] | None,
    packings: tuple = (),
) -> Any:
    """The `Call` from images of one shape to those of another, of the program's type and layout; see `Call`."""
    turns: list[Pass | None] = []
    if program.layout == "NCHW":
        directions = (x_image, True), (out_image, True), (out_image, False)
        turns = [_turn(image, last, program.dtype, threads) for image, last in directions]
    found = tuple(turn for turn in turns if turn is not None)
    out_shape = arrays.user_shape(out_image, program.layout, program.spatial, len(x_shape))
    shapes = x_shape, out_shape, x_image, out_image
    found = found if len(found) == len(turns) else ()
    return _call(shapes, program.layout == "NCHW", program.dtype, runner, threads, launch, packings, found)


def call_on_arrays(
    x_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    dtype: np.dtype,
    threads: int,
    runner: Callable[..., object],
    launch: tuple[int, ...] | None,
) -> Any:
    """The `Call` of a runner that takes and gives arrays as the user does."""
    return _call((x_shape, out_shape) * 2, False, dtype, runner, threads, launch)


def _call(
    shapes: tuple[tuple[int, ...], ...],
    turned: bool,
    dtype: np.dtype,
    runner: Callable[..., object],
    threads: int,
    launch: tuple[int, ...] | None,
    packings: tuple = (),
    turns: tuple = (),
) -> Any:
    kind: Any = Call if _compiled is None else _compiled.Call
    scratch = runtime.scratch, runtime.MOST_SCRATCH
    return kind(*shapes, turned, dtype, runner, threads, launch, runtime.driver_addresses(), *scratch, packings, turns)


def _turn(image: tuple[int, ...], last: bool, dtype: np.dtype, threads: int) -> Pass | None:
    """What makes an image (N, H, W, C) from one whose channels are first, or, not `last`, the other way round."""
    batch, height, width, channels = image
    shape = batch, channels, height, width
    first = np.empty(shape, dtype).strides
    turned = tuple(np.empty(image, dtype).strides[axis] for axis in (0, 3, 1, 2))
    kernel = pixels.copy(shape, dtype, *((first, turned) if last else (turned, first)))
    return None if kernel is None or not batch else kernel.passes(threads)[0]


if not TYPE_CHECKING and _compiled is not None:
    Caller = _compiled.Caller


# --- functions --------------------------------------------------------------------------------------------------------

_pool: Any = None


def _never(*arguments: object) -> None:
    """There is nothing to do again yet."""


#: ``again(options, x, residual, out, num_threads, *weights)``: the result, or None for the long way. `options` is
#: everything else that says what is to be done, the operation first; the weights are arrays and their biases in turn.
again: Callable[..., np.ndarray | None] = _never


def first(
    program: Program,
    options: tuple,
    x: Any,
    residual: Any,
    out: Any,
    num_threads: Any,
    *weights: Any,
    filters_first: bool = False,
) -> np.ndarray:
    """Run the program, the long way, and remember what `again` needs to do the same for other values.

    Parameters
    ----------
    program : Program
        Made of the other arguments.
    options, x, residual, out, num_threads, *weights
        As for `again`.
    filters_first : bool
        Whether the weights are ``(Cout, Cin / groups, KH, KW)``.
    """
    kind = _kind(options, x, num_threads, weights)
    result = program(x, residual, out, num_threads)
    if kind is not None and program.made is not None and program.made[0].job is None:
        compiled, packed = program.made
        packings = _packings(compiled, packed, filters_first)
        if packings:
            _keep(kind, call_of(program, compiled, x.shape, program.threads(num_threads), packings))
    return result


def _kind(options: tuple, x: Any, num_threads: Any, weights: tuple) -> Any:
    """The key of the pool that lacks a call of this kind; None if it has one, or can have none."""
    global _pool, again
    if _compiled is None:
        return None
    if _pool is None:
        pool = _compiled.Pool(runtime.get_num_threads)
        again, _pool = pool.again, pool  # the pool last: an interrupt before that leaves all of this to the next call
    key = _pool.key(options, x, num_threads, weights)
    return None if key is None or _pool.free.get(key) else key


def _keep(kind: Any, call: Any) -> None:
    """Put a call into the pool, and throw out the oldest kinds when there is too much in it."""
    if call.size > _MOST_BYTES // 4:
        return
    # No locks: each step is one that Python does at once, and threads that meet here can only keep too little.
    free: dict[Any, list] = _pool.free
    spare = free.setdefault(kind, [])
    if len(spare) < _MOST_SPARE:
        spare.append(call)
    kept = sum(each.size for calls in list(free.values()) for each in list(calls))
    for oldest in list(free):
        if kept <= _MOST_BYTES and len(free) <= _MOST_KINDS:
            break
        kept -= sum(each.size for each in free.pop(oldest, ()))


def forget() -> None:
    """Forget all calls of functions: the next ones choose kernels anew."""
    if _pool is not None:
        _pool.free.clear()


def _packings(compiled: Compiled, packed: dict[Any, Any], filters_first: bool) -> tuple:
    """Where the weights of each part go: whether panels, sizes, steps within the user's array, packed arrays.

    None of it depends on values; `packing` says what the sizes mean. Empty for what has no packed weights.
    """
    found: list[tuple] = []
    parts = compiled.geometry.parts
    stores = [packed] if len(parts) == 1 else list(packed.values())
    if [len(store) for store in stores] != [1] * len(parts):
        return ()
    for part, store in zip(parts, stores, strict=True):
        if REPEATED in store:
            part, store = part.repeated, store[REPEATED]
            if len(store) != 1:
                return ()
        ((op, layout, panels), (weights, bias)) = next(iter(store.items()))
        found.append((op != "depthwise", *_sizes(part, op, layout, panels, filters_first), weights, bias))
    return tuple(found)


def _sizes(
    geometry: ConvGeometry, op: str, layout: str, panels: tuple[int, int, int], filters_first: bool
) -> tuple[tuple, tuple]:
    """Sizes of a packing, and how far each tap, input and output is from the next: see `Packing` in `_calls.pyx`.

    The sizes are taps, inputs, outputs, all outputs, lanes, vectors and, where channels repeat, the period.
    """
    taps, inputs, out_channels = geometry.taps, geometry.in_channels, geometry.out_channels
    outputs, lanes, vectors = panels
    if op != "depthwise":
        inputs //= geometry.groups
        steps = (1, taps, inputs * taps) if filters_first else (inputs * out_channels, out_channels, 1)
    else:
        outputs = out_channels // inputs
        if layout:  # every output channel has an input channel of its own
            inputs, outputs = out_channels, 1
        steps = (1, outputs * taps, taps) if filters_first else (out_channels, outputs, 1)
    period = inputs
    if layout == "flat":
        inputs = lcm(inputs, lanes)
    return (taps, inputs, outputs, out_channels, lanes, vectors, period), steps
