"""A network as a row of dwcpu layers: building it, running it, and finding out what each layer does and takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, background, runtime
from ..batches import image_by_image
from ..layers import Conv2d, InvertedResidual, PointwiseConv2d, SeparableConv2d, fold_batchnorm
from ..padding import normalise_int
from ..pipeline import Arenas, Node, Pipeline, chain
from ..pixels import GlobalAveragePool
from ..report import LayerRow, Report
from . import pictures
from .architectures import Architecture, Convolution

__all__ = ["GlobalAveragePool", "Network", "build"]

#: Shapes, with numbers of threads, whose plans a network remembers.
_MAX_PLANS = 16
_FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Step:
    """One layer of a network; `residual_from` is the index of the step whose input is added to its sum, or None."""

    name: str
    layer: Any
    residual_from: int | None = None


class _Plan(NamedTuple):
    """A network made ready for one input shape and number of threads.

    `nodes` are those for the whole batch, each with the number of the step whose it is, and `jobs` which kernels some
    of them only stand in for.
    """

    pipeline: Pipeline
    nodes: list[tuple[int, Node]]
    jobs: list[background.Job]


class Network:
    """An image classifier made of dwcpu layers. Make one with `models.load`.

    Attributes
    ----------
    name : str
    layers : list of (str, layer)
        Every layer in order, with its name.
    backend : str
        What its layers were told to run on.

    Notes
    -----
    A network can be pickled, copied, and called from many threads at once.
    """

    def __init__(self, architecture: Architecture, steps: list[Step], backend: str, origin: str) -> None:
        self.name = architecture.name
        self.classes = architecture.classes
        self.backend = backend
        self.origin = origin
        self._mean, self._std = architecture.mean, architecture.std
        self._steps = steps
        self._forget()

    def _forget(self) -> None:
        self._plans: dict[tuple[tuple[int, ...], int], _Plan] = {}
        self._arenas = Arenas()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_plans"], state["_arenas"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def layers(self) -> list[tuple[str, Any]]:
        """Every layer in order, with its name."""
        return [(step.name, step.layer) for step in self._steps]

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self._steps)} layers, {self.classes} classes, weights: {self.origin}>"

    def __call__(self, x: np.ndarray, num_threads: int | None = None, *, out: np.ndarray | None = None) -> np.ndarray:
        """Classify a batch of preprocessed pictures.

        Parameters
        ----------
        x : ndarray
            float32 (N, H, W, 3); 224 x 224 is what the networks were trained on.
        num_threads : int, optional
            Threads for each layer; by default the setting of `dwcpu.set_num_threads`.
        out : ndarray, optional
            float32 (N, classes), where to write the logits.

        Returns
        -------
        ndarray
            float32 logits (N, classes); `out` if that is given.

        Raises
        ------
        TypeError, ValueError
            `x` or `out` is not such an array; the text says what was got.
        """
        if out is not None:
            self._check(x)  # and `out`, before anything is compiled
            given = arrays.output(out, (x.shape[0], self.classes), _FLOAT, self.name)
            if not arrays.is_native(given) or arrays.overlaps(given, x):
                np.copyto(given, self(x, num_threads))
                return out
        plan = self._ready(x, num_threads)
        logits = np.empty((x.shape[0], self.classes), np.float32) if out is None else out
        plan.pipeline.run(arrays.native(x), None, logits)
        return logits

    def preprocess(self, image: Any) -> np.ndarray:
        """Turn a picture into this network's input.

        Short side to 256 (bilinear), centre cut to 224 x 224, normalised as the network was trained.

        Parameters
        ----------
        image : ndarray or PIL image
            uint8 (H, W, 3), (H, W, 4), (H, W) or (H, W, 1) of any size, or a Pillow image.

        Returns
        -------
        ndarray
            float32 (1, 224, 224, 3).

        Raises
        ------
        ImportError
            Pillow is not installed; the text tells the command.
        TypeError, ValueError
            Not a picture; the text says what was got.
        """
        return pictures.preprocess(image, self._mean, self._std)

    def warmup(
        self,
        shape: tuple[int, ...] = (1, 224, 224, 3),
        *,
        num_threads: int | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> None:
        """Make every layer ready for the shape it will see, so that every kernel is compiled, and run once on zeros.

        Parameters
        ----------
        shape : tuple
            Shape of the network's input.
        num_threads : int, optional
            As in a call.
        progress : callable, optional
            Called as ``progress(done, total, name)`` before each layer and once at the end.
        """
        x = np.zeros(self._check_shape(shape), np.float32)
        with background.waiting():
            self._ready(x, num_threads, progress)
            self(x, num_threads)

    def explain(self, shape: tuple[int, ...] = (1, 224, 224, 3), num_threads: int | None = None) -> Report:
        """Which kernel each layer takes for an input of this shape, and how fast it could be at best.

        As if the layers were called one after the other, with the whole batch. Kernels that are missing are compiled
        first.

        Parameters
        ----------
        shape : tuple
            Shape of the network's input.
        num_threads : int, optional
            As in a call.

        Returns
        -------
        Report
            Prints as a table; `rows` holds its numbers.
        """
        at = shape = self._check_shape(shape)
        threads = self._threads(num_threads)
        rows = []
        for step in self._steps:
            out = self._out_shape(step, at, shape)
            rows.append(_describe(step, at, out, threads))
            at = out
        with background.waiting():
            plan = self._plan(shape, threads)
        whole = chain([node for _, node in plan.nodes], shape, _FLOAT, threads, self._arenas)
        memory = plan.pipeline.arena_bytes, whole.value_bytes
        return Report(f"{self.name}, input {_times(shape)}", tuple(rows), memory=memory)

    def profile(self, x: np.ndarray, *, num_threads: int | None = None, runs: int = 15) -> Report:
        """Time every layer while the whole network runs on `x`.

        Layer after layer, with the whole batch. On large cores a call takes the pictures of a batch, if their number is
        a multiple of the threads', through most layers one by one: it may be quicker than the sum of all layers here.

        Parameters
        ----------
        x : ndarray
            float32 (N, H, W, 3).
        num_threads : int, optional
            As in a call.
        runs : int
            How often the network runs, after one run that warms it up. Times are medians.

        Returns
        -------
        Report
            Prints as a table; `rows` holds its numbers.
        """
        runs = normalise_int(runs, "runs", "profile")
        with background.waiting():
            plan = self._ready(x, num_threads)
        x = arrays.native(x)
        threads = self._threads(num_threads)
        pipeline = chain([node for _, node in plan.nodes], x.shape, _FLOAT, threads, self._arenas)
        logits = self(x, num_threads)
        times: list[list[float]] = [[] for _ in self._steps]
        for _ in range(runs):
            seconds = [0.0] * len(self._steps)
            for (layer, _), each in zip(plan.nodes, pipeline.timed(x, None, logits), strict=True):
                seconds[layer] += each
            for all_runs, each in zip(times, seconds, strict=True):
                all_runs.append(each)
        peak = runtime.fma_peak(np.float32, threads)
        rows = [
            row.timed(float(np.median(all_runs)), peak)
            for row, all_runs in zip(self.explain(x.shape, num_threads).rows, times, strict=True)
        ]
        title = f"{self.name}, input {_times(x.shape)}, {threads} thread{'s' * (threads != 1)}, median of {runs} runs"
        return Report(title, tuple(rows), peak)

    def _check(self, x: np.ndarray) -> None:
        if not isinstance(x, np.ndarray):
            raise TypeError(
                f"{self.name}: x is of type {type(x).__name__}; a float32 array (N, H, W, 3) is needed; make one with "
                f"np.asarray(x, np.float32), or of a picture with network.preprocess(picture)"
            )
        if x.dtype != np.float32:
            raise TypeError(
                f"{self.name}: x has dtype {x.dtype}; float32 is needed; network.preprocess(picture) makes it of a "
                f"picture, x.astype(np.float32) of what is preprocessed"
            )
        self._check_shape(x.shape)

    def _check_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not isinstance(shape, (tuple, list)):
            raise TypeError(
                f"{self.name}: shape is of type {type(shape).__name__}; it must be a tuple of integers; give x.shape"
            )
        sizes = tuple(normalise_int(size, f"shape[{axis}]", self.name, 0) for axis, size in enumerate(shape))
        if len(sizes) != 4 or sizes[3] != 3:
            advice = "give pictures as network.preprocess makes them"
            if len(sizes) == 3 and sizes[2] == 3:
                advice = "add the batch axis with x[None]"
            elif len(sizes) == 4 and sizes[1] == 3:
                advice = "give channels last: x.transpose(0, 2, 3, 1)"
            elif len(sizes) == 4 and sizes[3] == 1:
                advice = "give three colours: np.repeat(x, 3, -1)"
            elif len(sizes) == 4 and sizes[3] == 4:
                advice = "give three colours: x[..., :3]"
            raise ValueError(f"{self.name}: x has shape {sizes}; (N, H, W, 3) is needed; {advice}")
        return sizes

    def _threads(self, num_threads: int | None) -> int:
        layer = self._steps[0].layer
        try:
            return layer.threads(num_threads)
        except (TypeError, ValueError) as error:
            # The layer does not know in whose name it checks.
            raise type(error)(str(error).replace(f"{type(layer).__name__}: ", f"{self.name}: ", 1)) from None

    def _ready(
        self,
        x: np.ndarray,
        num_threads: int | None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> _Plan:
        """Check arguments; the plan for them."""
        self._check(x)
        return self._plan(x.shape, self._threads(num_threads), progress)

    def _out_shape(self, step: Step, at: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of what the step makes of `at`, which pictures of `shape` have come to."""
        try:
            return step.layer.out_shape(at)
        except ValueError as error:
            raise ValueError(
                f"{self.name}: x has {shape[1]} x {shape[2]} pixels, of which {step.name} gets {at[1]} x {at[2]}, "
                f"which it cannot take; the network was trained on 224 x 224; give pictures of about that size"
            ) from error

    def _nodes(
        self,
        shape: tuple[int, ...],
        threads: int,
        progress: Callable[[int, int, str], None] | None = None,
        count: int | None = None,
    ) -> list[tuple[int, Node]]:
        """What a pipeline runs for an input of `shape`, or `count` of it; each with the number of its step."""
        at = shape
        nodes: list[tuple[int, Node]] = []
        first_nodes: list[int] = []  # of each layer
        for index, step in enumerate(self._steps):
            if len(nodes) == count:
                break
            if progress is not None:
                progress(index, len(self._steps), step.name)
            first_nodes.append(len(nodes))
            out_shape = self._out_shape(step, at, shape)
            own = step.layer.nodes(at, threads)
            if own and step.residual_from is not None:
                own[-1] = own[-1]._replace(residual=first_nodes[step.residual_from])
            nodes += [(index, node) for node in own]
            at = out_shape
        return nodes

    def _ones(self, shape: tuple[int, ...], count: int) -> list[Node]:
        """The first `count` nodes for a single picture on one thread."""
        return [node for _, node in self._nodes((1, *shape[1:]), 1, count=count)]

    def _plan(
        self, shape: tuple[int, ...], threads: int, progress: Callable[[int, int, str], None] | None = None
    ) -> _Plan:
        """The plan for an input of `shape`, remembered for a few of them."""
        # The map is replaced, never changed in place: reading it needs no lock, and two threads that add a plan at
        # once may lose one of the two, which is then made again.
        plan = self._plans.get((shape, threads))
        total = len(self._steps)
        if plan is None or any(map(background.over, plan.jobs)):
            nodes = self._nodes(shape, threads, progress)
            every = [node for _, node in nodes]
            joined, jobs = image_by_image(every, partial(self._ones, shape), shape, _FLOAT, threads)
            pipeline = chain(joined, shape, _FLOAT, threads, self._arenas)
            plan = _Plan(pipeline, nodes, jobs + [node.job for node in every if node.job is not None])
            self._plans = dict([*list(self._plans.items())[1 - _MAX_PLANS :], ((shape, threads), plan)])
        elif progress is not None:
            for index, step in enumerate(self._steps):
                progress(index, total, step.name)
        if progress is not None:
            progress(total, total, self._steps[-1].name)
        return plan


def build(architecture: Architecture, weights: Mapping[str, np.ndarray], *, backend: str, origin: str) -> Network:
    """Make the layers of an architecture, with every BatchNorm folded into the convolution before it.

    Parameters
    ----------
    architecture : Architecture
    weights : mapping of str to ndarray
        Every array of `architecture.weight_shapes()` and no other.
    backend : str
        What the layers run on: "auto", "numba", "cython" or "reference".
    origin : str
        Where the weights come from, for people.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        An array is missing, has another shape, or is none of this network's.
    """
    weights = _checked(architecture, weights)
    steps: list[Step] = []
    for block in architecture.blocks:
        first = len(steps)
        convolutions = list(block.convolutions)
        while convolutions:
            # The longest row of convolutions that one layer computes, fused where that pays.
            kinds = [conv.kind for conv in convolutions[:3]]
            many = 2 if kinds[:2] == ["depthwise", "pointwise"] else 1
            if kinds == ["pointwise", "depthwise", "pointwise"] and convolutions[2].activation is None:
                many = 3
            several, convolutions = convolutions[:many], convolutions[many:]
            layer = _layer(several, [_folded(conv, weights, architecture.eps) for conv in several], backend)
            name = "+".join([several[0].name, *(conv.name.rpartition(".")[2] for conv in several[1:])])
            steps.append(Step(name, layer, first if block.residual and not convolutions else None))
    steps.append(Step("pool", GlobalAveragePool()))
    dense = np.ascontiguousarray(weights[architecture.classifier + ".weight"].T, np.float32)
    bias = np.ascontiguousarray(weights[architecture.classifier + ".bias"], np.float32)
    steps.append(Step("classifier", PointwiseConv2d(dense, bias, backend=backend)))
    return Network(architecture, steps, backend, origin)


def _layer(convolutions: list[Convolution], arrays: list[tuple[np.ndarray, np.ndarray]], backend: str) -> Any:
    """The layer that computes one convolution, a separable one or an inverted residual."""
    weights, biases = zip(*arrays, strict=True)
    windowed = next((conv for conv in convolutions if conv.kind == "depthwise"), convolutions[0])
    options: dict[str, Any] = {"stride": windowed.stride, "padding": windowed.padding, "backend": backend}
    activations = [conv.activation for conv in convolutions]
    if len(convolutions) == 3:
        return InvertedResidual(
            *weights, *biases, expand_activation=activations[0], dw_activation=activations[1], **options
        )
    if len(convolutions) == 2:
        return SeparableConv2d(*weights, *biases, dw_activation=activations[0], pw_activation=activations[1], **options)
    if convolutions[0].kind == "pointwise":
        return PointwiseConv2d(*weights, *biases, activation=activations[0], backend=backend)
    return Conv2d(*weights, *biases, activation=activations[0], **options)


def _checked(architecture: Architecture, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Exactly the arrays that the architecture names, with the right shapes."""
    found = {key: np.asarray(array) for key, array in weights.items()}
    needed = architecture.weight_shapes()
    missing = [key for key in needed if key not in found]
    surplus = [key for key in found if key not in needed]
    if missing or surplus:
        parts = [f"has no {key!r}" for key in missing[:1]] + [f"has {key!r:.80}, unknown there" for key in surplus[:1]]
        raise ValueError(
            f"{architecture.name}: the weight file {' and '.join(parts)}; is it a file of another network? "
            f"({len(missing)} of {len(needed)} arrays are missing, {len(surplus)} are too many)"
        )
    for key, shape in needed.items():
        if found[key].shape != shape:
            raise ValueError(f"{architecture.name}: {key} has shape {found[key].shape}; this network needs {shape}")
        if found[key].dtype.kind != "f":
            raise ValueError(f"{architecture.name}: {key} has dtype {found[key].dtype}; floating point is needed")
    return found


def _folded(conv: Convolution, weights: Mapping[str, np.ndarray], eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights in dwcpu's axis order and bias of a convolution that does its BatchNorm too; computed in float64."""
    w = weights[conv.weight + ".weight"].astype(np.float64)
    if conv.kind == "depthwise":
        w = w[:, 0].transpose(1, 2, 0)  # (C, 1, KH, KW) -> (KH, KW, C)
    elif conv.kind == "pointwise":
        w = w[:, :, 0, 0].T  # (out, in, 1, 1) -> (in, out)
    else:
        w = w.transpose(2, 3, 1, 0)  # (out, in, KH, KW) -> (KH, KW, in, out)
    gamma, beta, mean, var = (
        weights[f"{conv.norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    w, bias = fold_batchnorm(w, None, gamma, beta, mean, var, eps)
    return np.ascontiguousarray(w, np.float32), np.ascontiguousarray(bias, np.float32)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _describe(step: Step, shape: tuple[int, ...], out: tuple[int, ...], num_threads: int | None) -> LayerRow:
    """The row of a layer before it is timed."""
    if isinstance(step.layer, GlobalAveragePool):
        values = prod(shape)
        kernel = "numpy" if runtime.cython_kernels() is None else "pool"
        return LayerRow(step.name, kernel, shape, out, values, 4 * (values + prod(out)))
    choice = step.layer.explain(shape, num_threads)
    return LayerRow(step.name, choice.kernel, shape, out, choice.flops, choice.bytes, choice.bound_us)
