"""`autotune`: measure every kernel on what a layer or network runs, and choose by that from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from . import calls, choices, dispatch
from .batches import images_apart
from .frontdoor import Program
from .fused_geometry import Geometry
from .geometry import ConvGeometry
from .layers import Layer
from .prepared import Prepared
from .sequential import Sequential

__all__ = ["TunedRow", "Tuning", "autotune"]

#: Share of the time that a kernel must save to be taken in place of another: less may be chance.
_CLEARLY = 0.03
#: Rounds, and seconds that one turn of a contender takes, or one call if that is longer.
_ROUNDS, _TURN = 25, 5e-4
#: After so many rounds those drop out that take so many times as long as the best.
_FIRST_ROUNDS, _HOPELESS = 3, 1.3


@dataclass(frozen=True)
class TunedRow:
    """What was measured for one geometry.

    Attributes
    ----------
    geometry : ConvGeometry, SeparableGeometry or InvertedResidualGeometry
    dtype : dtype
    before, now : str
        Kernel that ran it before, and that runs it from now on.
    before_us, now_us : float
        Microseconds of both, the best of all rounds; residual left out.
    measured : int
        Number of kernels that were measured.
    """

    geometry: Geometry
    dtype: np.dtype
    before: str
    now: str
    before_us: float
    now_us: float
    measured: int


@dataclass(frozen=True)
class Tuning:
    """What `autotune` found. Prints as a table.

    Attributes
    ----------
    rows : tuple of TunedRow
        One for each geometry.
    threads : int
    file : Path or None
        Where the choices are kept; None where no safe place can be written.
    """

    rows: tuple[TunedRow, ...]
    threads: int
    file: Path | None

    def __str__(self) -> str:
        lines = [["geometry", "kernel before", "us", "kernel now", "us"]]
        for row in self.rows:
            now = "the same" if row.now == row.before else row.now
            lines.append([_shown(row.geometry), row.before, f"{row.before_us:.1f}", now, f"{row.now_us:.1f}"])
        before, after = (sum(getattr(row, name) for row in self.rows) for name in ("before_us", "now_us"))
        lines.append(["all", "", f"{before:.1f}", "", f"{after:.1f}"])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        numbers = (2, 4)
        text = [f"autotune, {self.threads} thread{'s' * (self.threads != 1)}; choices in {self.file or 'no file'}"]
        for line in lines:
            cells = [
                cell.rjust(width) if column in numbers else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            text.append("  ".join(cells).rstrip())
        return "\n".join(text)


def autotune(
    layer_or_model: Any,
    x_shape: tuple[int, ...],
    *,
    num_threads: int | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> Tuning:
    """Measure every kernel that computes what a layer or network runs, and use the fastest from now on.

    Each geometry is measured on its own, with warm caches, the kernels taking turns. Another kernel than the present
    one is taken only if it saves more than 3 % of the time, twice in a row.

    Choices hold for the geometry (batch included), dtype and number of threads, in this process and, through a file in
    the user's cache folder, in later ones that call `autotune` or have ``DWCPU_AUTOTUNE=1`` in their environment. The
    file belongs to the CPU, its instruction set and this version of dwcpu. Kernels that have not been compiled yet are
    compiled, which can take a second or so each.

    Parameters
    ----------
    layer_or_model : layer, Sequential or network
        What to measure. Layers that were made with another `backend` than "auto" keep what they were told to use and
        are left out.
    x_shape : tuple of int
        Shape of its input.
    num_threads : int, optional
        As in a call.
    progress : callable, optional
        Called as ``progress(done, total, geometry)`` before each geometry, given as text, and once at the end.

    Returns
    -------
    Tuning
        Prints as a table: geometry, kernel before and now, and microseconds of both.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or does not take such an input.

    Notes
    -----
    `layer_or_model`, functions, and all layers and networks that are made later use the new choices at once. Other
    layers and networks, such as a `Sequential` of the layer, keep the kernels that they remember for input shapes that
    they have seen. Results are the same bits in any case.

    A Sequential or network may take the images of a batch through its layers one by one, each on one thread: where it
    may, kernels for one image on one thread are measured too.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> layer = dwcpu.DepthwiseConv2d(np.ones((2, 2, 8), np.float32))
    >>> print(dwcpu.autotune(layer, (5, 6, 8), num_threads=1))
    autotune, 1 thread; choices in ...
    geometry ...
    >>> layer.explain((5, 6, 8), num_threads=1).reason
    'measured by autotune'
    """
    layers = _layers(layer_or_model, x_shape)
    threads = layers[0][0].threads(num_threads) if layers else 1
    choices.activate()
    work: dict[tuple[Geometry, np.dtype, int], Program] = {}
    for layer, shape in layers:
        program = layer._program
        batch, *image = program._nhwc_shape(shape)
        if program.backend != "auto" or not batch:
            continue
        wanted = [(batch, threads)]
        if not isinstance(layer_or_model, Layer) and images_apart(batch, threads):
            wanted.append((1, 1))
        for images, count in wanted:
            geometry = dispatch.canonical(program.step.geometry((images, *image)))
            work.setdefault((geometry, layer.dtype, count), program)
    rows = []
    try:
        for done, ((geometry, dtype, count), program) in enumerate(work.items()):
            if progress is not None:
                progress(done, len(work), _shown(geometry))
            row = _measure(program, geometry, dtype, count)
            choices.keep(geometry, dtype, count, row.now)
            rows.append(row)
    finally:
        # also when a user stops it half-way: what was measured by then counts
        calls.forget()
        for each in _remembering(layer_or_model):
            each._forget()
    if progress is not None:
        progress(len(work), len(work), "")
    return Tuning(tuple(rows), threads, choices.file())


def _remembering(thing: Any) -> Iterator[Any]:
    """Everything in a layer or network that remembers kernels."""
    if isinstance(thing, Sequential):
        for layer in thing.layers:
            yield from _remembering(layer)
        yield thing
        return
    for _, layer in () if isinstance(thing, Layer) else thing.layers:
        if isinstance(layer, Layer):
            yield layer
    yield thing  # a network after its layers, whose kernels are in its plans


def _layers(thing: Any, shape: tuple[int, ...]) -> list[tuple[Layer, tuple[int, ...]]]:
    """The layers with kernels, each with the shape of its input."""
    if isinstance(thing, Layer):
        thing.out_shape(shape)  # checks it
        return [(thing, shape)]
    rows: Sequence[Any]
    if isinstance(thing, Sequential):
        rows = thing._own_layers("autotune")
    else:
        from .models.network import Network

        if not isinstance(thing, Network):
            raise TypeError(
                f"autotune: layer_or_model is of type {type(thing).__name__}; it must be a layer, a Sequential or a "
                f"network of dwcpu.models; make a layer of what is to be measured"
            )
        if not isinstance(shape, (tuple, list)):
            raise TypeError(
                f"autotune: x_shape is of type {type(shape).__name__}; it must be a tuple of integers; give x.shape"
            )
        if len(shape) != 4:
            raise ValueError(f"autotune: x_shape is {shape}; {thing.name} needs (N, H, W, 3); add the batch axis")
        rows = [layer for _, layer in thing.layers]
    found: list[tuple[Layer, tuple[int, ...]]] = []
    for layer in rows:
        if isinstance(layer, (Layer, Sequential)):
            found += _layers(layer, shape)
        shape = layer.out_shape(shape)
    return found


# --- measurement ------------------------------------------------------------------------------------------------------


def _measure(program: Program, geometry: Geometry, dtype: np.dtype, threads: int) -> TunedRow:
    """Race all kernels that support a geometry, with a program's weights and activations."""
    before = dispatch.choose(geometry, dtype, threads)
    others = [kernel for kernel in dispatch.kernels(dtype) if kernel.supports(geometry) and kernel is not before]
    contenders = [before, *others]
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal(geometry.x_shape, np.float32).astype(dtype)
    out = np.empty(geometry.out_shape, dtype)
    packed: dict[Any, Any] = {}
    runs: list[Callable[[], object]] = []
    for kernel in contenders:
        operation = program.step.operation_with(kernel, geometry, packed)
        assert isinstance(operation, Prepared)
        runs.append(lambda operation=operation: operation.run(x, None, out, threads))  # type: ignore[misc]
    seconds = race(runs)
    best = winner(seconds)
    if best:
        # The fastest of several is also the luckiest: it must win against the present one alone, too.
        seconds[0], seconds[best] = race([runs[0], runs[best]])
        best *= winner([seconds[0], seconds[best]])
    return TunedRow(
        geometry, dtype, before.name, contenders[best].name, seconds[0] * 1e6, seconds[best] * 1e6, len(contenders)
    )


def winner(seconds: Sequence[float]) -> int:
    """Number of the fastest, if it is clearly faster than number 0; else 0."""
    best = min(range(len(seconds)), key=seconds.__getitem__)
    return best if seconds[best] < (1 - _CLEARLY) * seconds[0] else 0


def race(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Least seconds that a call of each took. They take turns, so that a disturbance hits all of them alike.

    Those that are far from the best leave after a few rounds; number 0 stays.
    """
    repeats = []
    for run in runs:
        run()  # compiles what is missing
        once = min(_turn(run, 1) for _ in range(2))
        repeats.append(max(1, round(_TURN / max(once, 1e-7))))
    seconds = [float("inf")] * len(runs)
    racing = list(range(len(runs)))
    for turn in range(_ROUNDS):
        if turn == _FIRST_ROUNDS:
            racing = [each for each in racing if each == 0 or seconds[each] <= _HOPELESS * min(seconds)]
        if len(racing) == 1 and turn > _FIRST_ROUNDS:
            break
        for at in range(len(racing)):
            number = racing[(at + turn) % len(racing)]
            runs[number]()  # brings its own data back into the caches
            seconds[number] = min(seconds[number], _turn(runs[number], repeats[number]))
    return seconds


def _turn(run: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        run()
    return (perf_counter() - start) / repeats


def _shown(geometry: Geometry) -> str:
    """A geometry as a person would write it."""
    inner = geometry if isinstance(geometry, ConvGeometry) else geometry.parts[-2]
    words = [geometry.op, f"{inner.kernel_h}x{inner.kernel_w}"]
    if (inner.dilation_h, inner.dilation_w) != (1, 1):
        words.append(f"dilation {inner.dilation_h}x{inner.dilation_w}")
    if geometry.op == "conv" and inner.groups > 1:
        words.append(f"groups {inner.groups}")
    return " ".join([*words, *("x".join(map(str, shape)) for shape in (geometry.x_shape, geometry.out_shape))])
