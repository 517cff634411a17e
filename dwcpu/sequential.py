"""Layers one after the other. Neighbours run as one pipeline: one call, and one piece of memory for what lies between.

A row of neighbouring layers runs layer by layer the first time that it sees a shape, with every check and every error
text that layers have, and plans its pipeline then. Calls of that shape with arrays that kernels can take as they are go
the short way from then on (see `calls`); channel-first images are turned at both ends of a row alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from textwrap import indent
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import arrays, background, calls, runtime
from .batches import image_by_image
from .frontdoor import thread_count
from .layers import Layer
from .padding import normalise_int
from .pipeline import GIVEN, Arenas, Node, chain
from .report import LayerRow, Report

__all__ = ["Residual", "Sequential"]

#: Input shapes (with thread counts) that a row remembers.
_REMEMBERED = 16
#: For all of them: those that do not run hold no memory.
_arenas = Arenas()


class _Choices(list[Any]):
    """What `explain` says of layer after layer, as one table."""

    def __init__(self, title: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.title = f"{title}, input {'x'.join(map(str, shape))}"
        #: Each with its name, and its input and output.
        self.places: list[tuple[Any, str, tuple[int, ...], tuple[int, ...]]] = []

    def __str__(self) -> str:
        if [id(choice) for choice in self] != [id(place[0]) for place in self.places]:  # somebody has changed it
            return "\n\n".join(map(str, self))
        return str(Report(self.title, tuple(self.rows())))

    __repr__ = __str__

    def rows(self) -> list[LayerRow]:
        """Those of the table."""
        return [
            LayerRow(name, choice.kernel, _batch(x), _batch(out), choice.flops, choice.bytes, choice.bound_us)
            for choice, name, x, out in self.places
        ]


class _Row(calls.Caller):
    """Neighbouring layers of a `Sequential`, each with its position there.

    Attributes
    ----------
    own : list of (Layer, int or None)
        All layers, and how many before each the one is whose input it adds; empty if some are called another way.
    """

    def __init__(self, title: str, numbered: list[tuple[int, Layer | Sequential]]) -> None:
        self._title, self._numbered = title, numbered
        self.own = [each for _, layer in numbered for each in _layers(layer)]
        self.forget()

    def forget(self) -> None:
        """Forget all plans: the next call of each shape chooses kernels anew."""
        # Replaced, never changed in place: see `Layer`.
        self._calls: dict[tuple[tuple[int, ...], int], Any] = {}
        self._remember((), runtime.get_num_threads)

    def _long_way(self, x: Any, residual: Any, out: Any, num_threads: Any) -> np.ndarray:
        # Of anything else the first layer says what is wrong with it.
        shape = x.shape if self.own and type(x) is np.ndarray and x.dtype == self.own[0][0].dtype else None
        if shape is not None and (residual is not None or out is not None):
            self._check(shape, residual, out)
        last = self._numbered[-1][0]
        for position, layer in self._numbered:
            options = {"num_threads": num_threads}
            if position == last:
                options |= {"out": out, "residual": residual}
            try:
                # What somebody derived from a layer may know none of these.
                x = layer(x, **{name: value for name, value in options.items() if value is not None})
            except (TypeError, ValueError) as error:
                raise _placed(self._title, error, position) from None
        if shape is not None:
            self._plan(shape, self.own[0][0].threads(num_threads))
        result: np.ndarray = x
        return result

    def _check(self, shape: tuple[int, ...], residual: Any, out: Any) -> None:
        """Check what belongs to the last layer before the first one runs."""
        last = self._numbered[-1][0]
        for position, layer in self._numbered:
            try:
                if position != last:
                    shape = layer.out_shape(shape)
                elif isinstance(layer, Layer):
                    layer._program.fitting(residual, out, layer.out_shape(shape))
                elif layer._only is not None:  # it never is, where all layers are ours
                    layer._only._check(shape, residual, out)
            except (TypeError, ValueError) as error:
                raise _placed(self._title, error, position) from None

    def _plan(self, shape: tuple[int, ...], threads: int) -> None:
        """Remember the short way for inputs of `shape`, which the layers take; not before all kernels are compiled."""
        if self._calls.get((shape, threads)) in self.known:  # not so if another thread remembered something just then
            return
        program = self.own[0][0]._program
        first = program._nhwc_shape(shape)
        nodes = self._nodes(first, threads)
        if not nodes or any(node.job is not None for node in nodes):
            return
        nodes, jobs = image_by_image(nodes, partial(self._ones, first), first, program.dtype, threads)
        if jobs:
            return
        pipeline = chain(nodes, first, program.dtype, threads, _arenas)

        def run(x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
            pipeline.run(x, residual, out)

        launch = pipeline.launch() if pipeline.arena_bytes <= runtime.MOST_SCRATCH else None
        call = calls.call_between(program, first, nodes[-1].out_shape, shape, threads, run, launch)
        kept = dict([*list(self._calls.items())[1 - _REMEMBERED :], ((shape, threads), call)])
        self._remember(tuple(reversed(kept.values())), runtime.get_num_threads)
        self._calls = kept  # last: an interrupt before that leaves all of this to the next call

    def _nodes(self, x_shape: tuple[int, ...], threads: int, count: int | None = None) -> list[Node]:
        """What a pipeline runs for inputs (N, H, W, C): a node for each layer, or the first `count`; none if N is 0."""
        nodes: list[Node] = []
        for number, (layer, back) in enumerate(self.own[:count]):
            residual = number - back if back is not None else GIVEN if number == len(self.own) - 1 else None
            nodes += [node._replace(residual=residual) for node in layer.nodes(x_shape, threads)]
            x_shape = layer._program.step.geometry(x_shape).out_shape
        return nodes

    def _ones(self, x_shape: tuple[int, ...], count: int) -> list[Node]:
        """The first `count` nodes for a single image on one thread."""
        return self._nodes((1, *x_shape[1:]), 1, count)

    def timed(self, x: np.ndarray, threads: int, runs: int) -> list[float]:
        """Median seconds of each layer on `x`, which the layers take, after one run that warms it up."""
        program = self.own[0][0]._program
        image = arrays.native(arrays.as_nhwc(x, "x", program.layout, "profile", program.spatial))
        with background.waiting():
            nodes = self._nodes(image.shape, threads)
        pipeline = chain(nodes, image.shape, program.dtype, threads, _arenas)
        out = arrays.empty(nodes[-1].out_shape, program.dtype, image)
        pipeline.run(image, None, out)
        return [
            float(np.median(each))
            for each in zip(*(pipeline.timed(image, None, out) for _ in range(runs)), strict=True)
        ]


class Sequential:
    """Layers one after the other; those that are neighbours run as one.

    Parameters
    ----------
    *layers : callable
        Layers, `Residual` and other `Sequential` blocks, or functions of one array that give one. The last must be a
        layer if `out` or `residual` is used.

    Raises
    ------
    TypeError
        If something cannot be called, or two neighbours have weights of different types.
    ValueError
        If two neighbours have different layouts, or one has not the channels that the other gives.

    Notes
    -----
    The first call of a shape goes layer by layer. From the second on neighbours are one call, with the same bits:
    nothing is allocated between them, and images with their channels first are transposed at both ends of a row alone,
    where `x` and `out` are C-contiguous arrays that do not share memory; others go the first way. A function ends a
    row; `explain`, `profile`, `out_shape` and `dwcpu.autotune` want layers throughout.

    Errors from a dwcpu layer begin with its position, 0 for the first. A Sequential can be called from many threads at
    once, copied, and pickled if its functions can.

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

    _title = "Sequential"

    def __init__(self, *layers: Any) -> None:
        for position, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(
                    f"{self._title}: layer {position} is of type {type(layer).__name__}; every layer must be callable; "
                    f"give the layers one by one, as in {self._title}(*layers)"
                )
            if isinstance(layer, type) and issubclass(layer, (Layer, Sequential)):
                raise TypeError(
                    f"{self._title}: layer {position} is the class {layer.__name__}; every layer must be one that was "
                    f"made; make it, as in {layer.__name__}(...)"
                )
        self._layers = layers
        self._arrange()

    def _arrange(self) -> None:
        """Find what runs together."""
        rows: list[list[tuple[int, Any]]] = []
        before: list[tuple[Layer, int | None]] = []
        for position, layer in enumerate(self._layers):
            if _empty(layer):
                continue
            own = _layers(layer)
            if own and before:
                try:
                    _check_neighbours(before[-1][0], own[0][0], rows[-1][-1][0])
                except (TypeError, ValueError) as error:
                    raise _placed(self._title, error, position) from None
                rows[-1].append((position, layer))
            else:
                rows.append([(position, layer)])
            before = own
        #: Rows of neighbours, and functions.
        self._pieces = [
            _Row(self._title, row) if isinstance(row[0][1], (Layer, Sequential)) else row[0][1] for row in rows
        ]
        #: What mostly is all of it.
        self._only = self._pieces[0] if len(self._pieces) == 1 and isinstance(self._pieces[0], _Row) else None

    @property
    def _adds(self) -> bool:
        """Whether its last layer adds an input of its own, and no residual."""
        return isinstance(_last(self), Residual)

    @property
    def layers(self) -> tuple[Any, ...]:
        """What it was made of."""
        return self._layers

    @layers.setter
    def layers(self, layers: object) -> None:
        raise AttributeError(
            f"{self._title}: layers is assigned to; it keeps what it was made of; make a new one, as in "
            f"{self._title}(*layers)"
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
        """Apply the layers.

        Parameters
        ----------
        x : ndarray
            What the first one takes.
        out : ndarray, optional
            Where the last one writes; it is returned.
        residual : ndarray, optional
            What the last one adds to its sums, before its activation.
        num_threads : int, optional
            For each layer, also those that functions call; by default the setting of `dwcpu.set_num_threads`.
        """
        if residual is not None and self._adds:
            raise TypeError(
                f"{self._title}: residual is given but the last layer adds the input of a Residual; it can add one "
                f"thing; leave residual out"
            )
        return self._apply(x, out, residual, num_threads)

    def _apply(self, x: Any, out: Any, residual: Any, num_threads: Any) -> Any:
        if self._only is not None:
            return self._only(x, out=out, residual=residual, num_threads=num_threads)
        last = self._pieces[-1] if self._pieces else None
        if (out is not None or residual is not None) and not isinstance(last, _Row):
            what = f"the last layer is of type {type(last).__name__}" if self._pieces else "there are no layers"
            raise TypeError(
                f"{self._title}: out or residual is given but {what}; only a dwcpu layer can take them; leave them out"
            )
        count = thread_count(num_threads, self._title)
        for piece in self._pieces:
            if not isinstance(piece, _Row):
                try:
                    with runtime.num_threads(count):  # for layers that it calls
                        x = piece(x)
                except Exception as error:
                    if hasattr(error, "add_note"):  # of Python 3.11
                        error.add_note(f"{self._title}: in its function {self._layers.index(piece)}, {piece!r}")
                    raise
            elif piece is last:
                x = piece(x, out=out, residual=residual, num_threads=num_threads)
            else:
                x = piece(x, num_threads=num_threads)
        return x

    def profile(self, x: ArrayLike, *, num_threads: int | None = None, runs: int = 15) -> Report:
        """Time every layer, which must be dwcpu layers, while all of them run on `x`.

        Layer after layer, with the whole batch. On large cores a call takes the images of a batch, if their number is a
        multiple of the threads', through most layers one by one: it may be quicker than the sum of all layers here.

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
        if isinstance(x, tuple) and all(isinstance(size, int) for size in x):
            raise TypeError(
                f"{self._title}: profile is given {x}; it runs the layers on an array; give one, such as "
                f"np.zeros({x}, np.float32)"
            )
        runs = normalise_int(runs, "runs", "profile")
        self(x, num_threads=num_threads)  # every check
        row, image = _Row(self._title, [(0, self)]), np.asarray(x)
        if not row.own or not image.size:
            raise ValueError(
                f"{self._title}: its layers, {len(self)}, have nothing to do on x of shape {image.shape}; profile "
                f"needs layers that are called as they are and an image; give these"
            )
        threads = row.own[0][0].threads(num_threads)
        times = row.timed(image, threads, runs)
        peak = runtime.fma_peak(image.dtype, threads)
        choices = self.explain(image.shape, num_threads)
        assert isinstance(choices, _Choices)
        rows = [each.timed(seconds, peak) for each, seconds in zip(choices.rows(), times, strict=True)]
        title = f"{choices.title}, {threads} thread{'s' * (threads != 1)}, median of {runs} runs"
        return Report(title, tuple(rows), peak)

    def explain(self, shape: tuple[int, ...], num_threads: int | None = None) -> list[Any]:
        """The choices of all layers, which must be dwcpu layers, for an input of `shape`; printed as a table.

        As if they were called one after the other, with the whole batch.
        """
        layers = self._own_layers("explain")
        self.out_shape(shape)  # every check
        choices = _Choices(self._title, shape)
        for position, layer in enumerate(layers):
            try:
                chosen = layer.explain(shape, num_threads)
            except (TypeError, ValueError) as error:  # of threads
                raise _placed(self._title, error, position) from None
            out = layer.out_shape(shape)
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
                raise _placed(self._title, error, position) from None
        return shape

    def _own_layers(self, method: str) -> tuple[Any, ...]:
        """The layers, if all of them know shapes."""
        for position, layer in enumerate(self._layers):
            if not isinstance(layer, (Layer, Sequential)):
                part = f"net[:{position}]" if position else "net[1:]"
                call = f"dwcpu.autotune({part}, ...)" if method == "autotune" else f"{part}.{method}(...)"
                raise TypeError(
                    f"{self._title}: layer {position} is of type {type(layer).__name__}; {method} needs dwcpu layers "
                    f"throughout; ask a part without it, as in {call}"
                )
        return self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._layers)

    def __getitem__(self, index: int | slice) -> Any:
        return Sequential(*self._layers[index]) if isinstance(index, slice) else self._layers[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n" + "".join(indent(f"{layer!r},\n", "    ") for layer in self._layers) + ")"

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        del kept["_pieces"], kept["_only"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrange()


class Residual(Sequential):
    """Layers whose input is added to the sums of the last one, before its activation: a skip connection.

    Parameters
    ----------
    *layers : callable
        As of a `Sequential`. The last is a layer, and gives what has the shape of the input.

    Raises
    ------
    TypeError, ValueError
        As of a `Sequential`; if the last is no layer, or gives another number of channels than the first one takes.

    Examples
    --------
    >>> import numpy as np, dwcpu
    >>> expand, window, project = (np.ones(shape, np.float32) for shape in ((8, 48), (3, 3, 48), (48, 8)))
    >>> block = dwcpu.InvertedResidual(expand, window, project)
    >>> net = dwcpu.Sequential(dwcpu.Residual(block), dwcpu.PointwiseConv2d(np.ones((8, 16), np.float32)))
    >>> net(np.ones((5, 5, 8), np.float32)).shape
    (5, 5, 16)
    """

    _title = "Residual"

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        last = _last(Sequential(*layers))
        if not isinstance(last, Layer):
            kind = "there are no layers" if last is None else f"the last layer is of type {type(last).__name__}"
            fix = "take its layers out" if isinstance(last, Residual) else "end with one, such as a PointwiseConv2d"
            raise TypeError(f"Residual: {kind}; the last must be a dwcpu layer that adds nothing else; {fix}")
        own = _layers(self)
        if own:
            taken = own[0][0]._program.step.smallest_input()[3]
            step = own[-1][0]._program.step
            given = step.geometry(step.smallest_input()).out_shape[3]
            if taken != given:
                raise ValueError(
                    f"Residual: its layers take {taken} channels and give {given}; what is added must have as many as "
                    f"what it is added to; use a Sequential, or layers that give {taken}"
                )

    def _apply(self, x: Any, out: Any, residual: Any, num_threads: Any) -> Any:
        try:
            return super()._apply(x, out, x, num_threads)
        except ValueError as error:
            try:
                shape = np.shape(x)
            except ValueError:
                raise error from None
            if _layers(self):
                self.out_shape(shape)  # which says it better where sizes differ
            raise

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`, which is the same; all layers must be dwcpu layers."""
        out = super().out_shape(shape)
        if out != tuple(shape):
            raise ValueError(
                f"Residual: its layers turn {tuple(shape)} into {out}; what is added must have the shape of what it is "
                f"added to; use stride 1 and padding='same' throughout, or a Sequential"
            ) from None
        return out


def _empty(thing: Any) -> bool:
    """Whether something is a `Sequential` without anything in it, which changes nothing."""
    return _plain(thing) and not thing._pieces


def _plain(thing: Any) -> bool:
    """Whether something is a `Sequential` that is called as those of this file are."""
    return isinstance(thing, Sequential) and type(thing).__call__ is Sequential.__call__


def _last(thing: Any) -> Any:
    """What takes `out` and `residual` in the end: a layer, a `Residual`, a function, or None."""
    while _plain(thing) and not isinstance(thing, Residual):
        thing = next((layer for layer in reversed(thing.layers) if not _empty(layer)), None)
    return thing


def _layers(thing: Any) -> list[tuple[Layer, int | None]]:
    """The layers of something that is made of nothing else; or none, also where a subclass is called another way.

    Each with how many before it the one is whose input it adds, if it does.
    """
    if isinstance(thing, Layer):
        return [(thing, None)] if type(thing).__call__ is Layer.__call__ else []
    rows = [_layers(each) for each in thing.layers if not _empty(each)] if _plain(thing) else []
    own = [each for row in rows for each in row] if all(rows) else []
    if own and isinstance(thing, Residual):
        own[-1] = own[-1][0], len(own) - 1
    return own


def _check_neighbours(before: Layer, layer: Layer, position: int) -> None:
    """Check that a layer can take what the one before it, at that position, gives, whatever the image."""
    giver, taker = before._program, layer._program
    part, what = taker.step.parts[0], f"layer {position}, {giver.operation},"
    if giver.dtype != taker.dtype:
        raise TypeError(
            f"{taker.operation}: {part.name} has dtype {taker.dtype} but {what} gives {giver.dtype}; neighbours must "
            f"share one dtype; convert the weights of one of them with np.asarray({part.name}, np.{giver.dtype.name})"
        )
    if giver.layout != taker.layout:
        raise ValueError(
            f"{taker.operation}: layout is {taker.layout!r} but {what} gives {giver.layout!r}; neighbours must share "
            f"one layout; make both with layout={giver.layout!r}"
        )
    given, taken = giver.step.geometry(giver.step.smallest_input()).out_shape[3], taker.step.smallest_input()[3]
    if given != taken:
        raise ValueError(
            f"{taker.operation}: {part.name} takes {taken} channels but {what} gives {given}; neighbours must fit; "
            f"give it weights for {given} channels, or put a layer between"
        )


def _batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image, or of several, with the batch axis."""
    return shape if len(shape) == 4 else (1, *shape)


def _placed(title: str, error: TypeError | ValueError, position: int) -> TypeError | ValueError:
    """An error of one of our layers, which names its class, with its place in the row."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{title}: layer {position}, {error}")
