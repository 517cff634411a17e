"""Layers one after the other. Neighbours run as one pipeline: one call, and one piece of memory for what lies between.

A row of neighbouring layers runs layer by layer the first time that it sees a shape, with every check and every error
text that layers have, and plans its pipeline then. Calls of that shape with arrays that kernels can take as they are go
the short way from then on (see `calls`); channel-first images are turned at both ends of a row alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import arrays, background, calls, runtime
from .layers import Layer
from .padding import normalise_int
from .pipeline import GIVEN, Arenas, Node, chain
from .report import LayerRow, Report

__all__ = ["Sequential"]

#: Input shapes (with thread counts) that a row remembers.
_REMEMBERED = 16
#: For all of them: those that do not run hold no memory.
_arenas = Arenas()


class _Choices(list[Any]):
    """What `explain` says of layer after layer, as one table."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        #: Each with its name, and its input and output.
        self.places: list[tuple[Any, str, tuple[int, ...], tuple[int, ...]]] = []

    def __str__(self) -> str:
        if [id(choice) for choice in self] != [id(place[0]) for place in self.places]:  # somebody has changed it
            return "\n\n".join(map(str, self))
        return str(Report(f"Sequential, input {'x'.join(map(str, self.shape))}", tuple(self.rows())))

    def rows(self) -> list[LayerRow]:
        """Those of the table."""
        return [
            LayerRow(name, choice.kernel, _batch(x), _batch(out), choice.flops, choice.bytes, choice.bound_us)
            for choice, name, x, out in self.places
        ]


class _Row(calls.Caller):
    """Neighbouring layers of a `Sequential`, the first of which is its layer number `first`."""

    def __init__(self, layers: list[Layer | Sequential], first: int) -> None:
        self.layers, self.first = layers, first
        self.own = [each for layer in layers for each in _layers(layer)]
        self.forget()

    def forget(self) -> None:
        """Forget all plans: the next call of each shape chooses kernels anew."""
        # Replaced, never changed in place: see `Layer`.
        self._calls: dict[tuple[tuple[int, ...], int], Any] = {}
        self._remember((), runtime.get_num_threads)

    def _long_way(self, x: Any, residual: Any, out: Any, num_threads: Any) -> np.ndarray:
        shape, last = x.shape if type(x) is np.ndarray else None, len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            try:
                if number < last:
                    x = layer(x, num_threads=num_threads)
                else:
                    x = layer(x, out=out, residual=residual, num_threads=num_threads)
            except (TypeError, ValueError) as error:
                raise _placed(error, self.first + number) from None
        if shape is not None and self.own:
            self._plan(shape, self.own[0].threads(num_threads))
        result: np.ndarray = x
        return result

    def _plan(self, shape: tuple[int, ...], threads: int) -> None:
        """Remember the short way for inputs of `shape`, which the layers take; not before all kernels are compiled."""
        if self._calls.get((shape, threads)) in self.known:  # not so if another thread remembered something just then
            return
        program = self.own[0]._program
        first = program._nhwc_shape(shape)
        nodes = self._nodes(first, threads)
        if not nodes or any(node.job is not None for node in nodes):
            return
        pipeline = chain(nodes, first, program.dtype, threads, _arenas)

        def run(x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
            pipeline.run(x, residual, out)

        launch = pipeline.launch() if pipeline.arena_bytes <= runtime.MOST_SCRATCH else None
        call = calls.call_between(program, first, nodes[-1].out_shape, shape, threads, run, launch)
        kept = dict([*list(self._calls.items())[1 - _REMEMBERED :], ((shape, threads), call)])
        self._remember(tuple(reversed(kept.values())), runtime.get_num_threads)
        self._calls = kept  # last: an interrupt before that leaves all of this to the next call

    def _nodes(self, x_shape: tuple[int, ...], threads: int) -> list[Node]:
        """What a pipeline runs for inputs (N, H, W, C): a node a layer; none for an empty batch."""
        nodes: list[Node] = []
        for layer in self.own:
            nodes += layer.nodes(x_shape, threads)
            x_shape = layer._program.step.geometry(x_shape).out_shape
        if nodes:
            nodes[-1] = nodes[-1]._replace(residual=GIVEN)
        return nodes

    def timed(self, x: np.ndarray, threads: int, runs: int) -> list[float]:
        """Median seconds of each layer on `x`, which the layers take, after one run that warms it up."""
        program = self.own[0]._program
        image = arrays.native(arrays.as_nhwc(x, "x", program.layout, "profile", program.spatial))
        with background.waiting():
            nodes = self._nodes(image.shape, threads)
        pipeline = chain(nodes, image.shape, program.dtype, threads, _arenas)
        out = arrays.empty(nodes[-1].out_shape, program.dtype, image)
        pipeline.run(image, None, out)
        return [median(each) for each in zip(*(pipeline.timed(image, None, out) for _ in range(runs)), strict=True)]


class Sequential:
    """Layers one after the other; those that are neighbours run as one.

    Parameters
    ----------
    *layers : callable
        Layers, or functions of one array that give one. The last must be a layer if `out` or `residual` is used.

    Raises
    ------
    TypeError
        If something cannot be called, or two neighbours have weights of different types.
    ValueError
        If two neighbours have different layouts, or one has not the channels that the other gives.

    Notes
    -----
    Errors of a dwcpu layer, when all are joined, called or asked about a shape, begin with its place, counted from 0.

    The first call of a shape goes layer by layer. From the second on nothing is turned or allocated between neighbours,
    if `x` and `out` are C-contiguous arrays that do not share memory. It can be pickled, copied, and called from many
    threads at once.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> net = dwcpu.Sequential(
    ...     dwcpu.DepthwiseConv2d(np.ones((3, 3, 8), np.float32), padding="same"),
    ...     dwcpu.PointwiseConv2d(np.ones((8, 16), np.float32)),
    ... )
    >>> net(np.ones((5, 5, 8), np.float32)).shape
    (5, 5, 16)
    """

    def __init__(self, *layers: Any) -> None:
        for position, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(
                    f"Sequential: layer {position} is of type {type(layer).__name__}; every layer must be callable; "
                    f"give the layers one by one, as in Sequential(first, second)"
                )
        self._layers = layers
        self._arrange()

    def _arrange(self) -> None:
        """Find what runs together."""
        rows: list[list[Any]] = []
        starts: list[int] = []
        before: list[Layer] = []
        for position, layer in enumerate(self._layers):
            own = _layers(layer)
            if own and before:
                try:
                    _check_neighbours(before[-1], own[0])
                except (TypeError, ValueError) as error:
                    raise _placed(error, position) from None
                rows[-1].append(layer)
            else:
                rows.append([layer])
                starts.append(position)
            before = own
        #: Rows of neighbours, and functions.
        self._pieces = [
            _Row(row, first) if isinstance(row[0], (Layer, Sequential)) else row[0]
            for row, first in zip(rows, starts, strict=True)
        ]
        #: What mostly is all of it.
        self._only = self._pieces[0] if len(self._pieces) == 1 and isinstance(self._pieces[0], _Row) else None

    @property
    def layers(self) -> tuple[Any, ...]:
        """What it was made of."""
        return self._layers

    @layers.setter
    def layers(self, layers: object) -> None:
        raise AttributeError(
            "Sequential: layers is assigned to; a Sequential keeps what it was made of; make a new one, as in "
            "Sequential(*layers)"
        )

    def _forget(self) -> None:
        for piece in self._pieces:
            if isinstance(piece, _Row):
                piece.forget()

    def __call__(
        self,
        x: ArrayLike,
        *,
        out: np.ndarray | None = None,
        residual: ArrayLike | None = None,
        num_threads: int | None = None,
    ) -> Any:
        """Apply the layers; `out` and `residual` belong to the last."""
        if self._only is not None:
            return self._only(x, out=out, residual=residual, num_threads=num_threads)
        last = self._pieces[-1] if self._pieces else None
        if (out is not None or residual is not None) and not isinstance(last, _Row):
            kind = type(self._layers[-1] if self._layers else None).__name__
            raise TypeError(
                f"Sequential: out or residual is given but the last layer is of type {kind}; "
                f"only a dwcpu layer can take them; leave them out"
            )
        for piece in self._pieces:
            if not isinstance(piece, _Row):
                x = piece(x)
            elif piece is last:
                x = piece(x, out=out, residual=residual, num_threads=num_threads)
            else:
                x = piece(x, num_threads=num_threads)
        return x

    def profile(self, x: ArrayLike, *, num_threads: int | None = None, runs: int = 15) -> Report:
        """Time every layer, which must be dwcpu layers, while all of them run on `x`.

        Parameters
        ----------
        x : ndarray
            An input, as in a call.
        num_threads : int, optional
            As in a call.
        runs : int
            How often they run, after one run that warms them up. Times are medians.

        Returns
        -------
        Report
            Prints as a table; `rows` holds its numbers.
        """
        self._own_layers("profile")
        runs = normalise_int(runs, "runs", "profile")
        self(x, num_threads=num_threads)  # every check
        only, image = self._only, np.asarray(x)
        if only is None or not only.own or not image.size:
            raise ValueError(
                f"Sequential: there is nothing to time in {len(self)} layers on x of shape {image.shape}; profile "
                f"needs layers that are called as they are and an image; give these"
            )
        threads = only.own[0].threads(num_threads)
        times = only.timed(image, threads, runs)
        peak = runtime.fma_peak(image.dtype, threads)
        choices = self.explain(image.shape, num_threads)
        assert isinstance(choices, _Choices)
        rows = [row.timed(seconds, peak) for row, seconds in zip(choices.rows(), times, strict=True)]
        title = f"Sequential, input {'x'.join(map(str, image.shape))}, {threads} thread{'s' * (threads != 1)}"
        return Report(f"{title}, median of {runs} runs", tuple(rows), peak)

    def explain(self, shape: tuple[int, ...], num_threads: int | None = None) -> list[Any]:
        """The choices of all layers, which must be dwcpu layers, for an input of `shape`; printed as a table."""
        choices = _Choices(shape)
        for position, layer in enumerate(self._own_layers("explain")):
            try:
                chosen = layer.explain(shape, num_threads)
                out = layer.out_shape(shape)
            except (TypeError, ValueError) as error:
                raise _placed(error, position) from None
            if isinstance(chosen, _Choices):
                choices.extend(chosen)
                choices.places += [(each, f"{position}.{name}", *places) for each, name, *places in chosen.places]
            else:
                choices.append(chosen)
                choices.places.append((chosen, f"{position} {type(layer).__name__}", shape, out))
            shape = out
        return choices

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`; all layers must be dwcpu layers."""
        for position, layer in enumerate(self._own_layers("out_shape")):
            try:
                shape = layer.out_shape(shape)
            except (TypeError, ValueError) as error:
                raise _placed(error, position) from None
        return shape

    def _own_layers(self, method: str) -> tuple[Any, ...]:
        """The layers, if all of them know shapes."""
        for position, layer in enumerate(self._layers):
            if not isinstance(layer, (Layer, Sequential)):
                raise TypeError(
                    f"Sequential: layer {position} is of type {type(layer).__name__}; {method} needs dwcpu layers "
                    f"throughout; ask the layers one by one"
                )
        return self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._layers)

    def __getitem__(self, index: int) -> Any:
        return self._layers[index]

    def __repr__(self) -> str:
        return "Sequential(\n" + "".join(f"    {layer!r},\n" for layer in self._layers) + ")"

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        del kept["_pieces"], kept["_only"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrange()


def _layers(thing: Any) -> list[Layer]:
    """The layers of something that is made of nothing else; or none, also where a subclass is called another way."""
    if isinstance(thing, Layer):
        return [thing] if type(thing).__call__ is Layer.__call__ else []
    plain = isinstance(thing, Sequential) and type(thing).__call__ is Sequential.__call__
    found = [_layers(each) for each in thing.layers] if plain else []
    return [layer for each in found for layer in each] if all(found) else []


def _check_neighbours(before: Layer, layer: Layer) -> None:
    """Check that a layer can take what the one before it gives: whatever the image, it could not otherwise."""
    giver, taker = before._program, layer._program
    step = taker.step
    arrays.same_dtype(np.empty(0, giver.dtype), step.image, taker.dtype, taker.operation, step.parts[0].name)
    if giver.layout != taker.layout:
        raise ValueError(
            f"{taker.operation}: layout is {taker.layout!r} but the layer before gives {giver.layout!r}; neighbours "
            f"must share one layout; make both with the same"
        )
    given = giver.step.geometry(giver.step.smallest_input()).out_shape[3]
    batch, height, width, channels = step.smallest_input()
    if given != channels:
        # It says so itself, of an image none of whose sizes it could take for the one that it misses.
        step.geometry((batch, height + channels, width + channels, given))


def _batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image, or of several, with the batch axis."""
    return shape if len(shape) == 4 else (1, *shape)


def _placed(error: TypeError | ValueError, position: int) -> TypeError | ValueError:
    """An error of one of our layers, which names its class, with its place in the row."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"Sequential: layer {position}, {error}")
