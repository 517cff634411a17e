"""A network as a row of dwcpu layers: building it, running it, and finding out what each layer does and takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

import numpy as np

from ..layers import Conv2d, InvertedResidual, PointwiseConv2d, SeparableConv2d, fold_batchnorm
from . import pictures
from .architectures import Architecture, Convolution
from .report import LayerRow, Report

__all__ = ["GlobalAveragePool", "Network", "build"]

#: Shapes whose plans a network remembers; more of them than this start afresh.
_MAX_PLANS = 16


class GlobalAveragePool:
    """Mean over height and width: (N, H, W, C) -> (N, 1, 1, C).

    Pixels are added in memory order, image by image, so the bits depend neither on the batch nor on threads.

    Examples
    --------
    >>> import numpy as np
    >>> GlobalAveragePool()(np.ones((2, 7, 7, 5), np.float32)).shape
    (2, 1, 1, 5)
    """

    def __call__(
        self,
        x: np.ndarray,
        *,
        out: np.ndarray | None = None,
        residual: np.ndarray | None = None,
        num_threads: int | None = None,
    ) -> np.ndarray:
        """Pool `x`; the keywords are those of every layer, `residual` and `num_threads` without effect."""
        batch, height, width, channels = x.shape
        if out is None:
            out = np.empty((batch, 1, 1, channels), x.dtype)
        for image, mean in zip(x, out, strict=True):
            np.add.reduce(image.reshape(height * width, channels), axis=0, out=mean[0, 0])
        out *= x.dtype.type(1) / x.dtype.type(height * width)
        return out

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an input of `shape`."""
        return shape[0], 1, 1, shape[3]


@dataclass(frozen=True)
class Step:
    """One layer of a network and where its data comes from and goes to.

    `residual_from` is the index of the step whose input is added to this step's sum, or None. `slot` is the buffer of
    the workspace that the result goes to, or None for a fresh array.
    """

    name: str
    layer: Any
    residual_from: int | None = None
    slot: int | None = None


class _Workspace:
    """Three buffers that a running network takes turns to write to; one call owns it at a time.

    Three are enough: the input of a layer, its output, and the block's input that waits to be added. Reusing them keeps
    the data in cache and spares the page faults that fresh memory costs.
    """

    def __init__(self) -> None:
        self._buffers = [np.empty(0, np.float32)] * 3

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """A C-contiguous array on a buffer, at a multiple of 64 bytes so that no vector straddles two cache lines."""
        count = prod(shape)
        if self._buffers[slot].size < count:
            raw = np.empty(count + 16, np.float32)
            self._buffers[slot] = raw[-raw.ctypes.data % 64 // 4 :][:count]
        return self._buffers[slot][:count].reshape(shape)


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
        self._steps = _assign_slots(steps)
        self._last_use = {index: index for index in range(len(steps))}
        self._last_use.update(
            {step.residual_from: at for at, step in enumerate(steps) if step.residual_from is not None}
        )
        self._forget()

    def _forget(self) -> None:
        self._plans: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self._workspaces: list[_Workspace] = []
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for scratch in ("_plans", "_workspaces", "_lock"):
            del state[scratch]
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

    def __call__(self, x: np.ndarray, num_threads: int | None = None) -> np.ndarray:
        """Classify a batch of preprocessed pictures.

        Parameters
        ----------
        x : ndarray
            float32 (N, H, W, 3); 224 x 224 is what the networks were trained on.
        num_threads : int, optional
            Threads for each layer; by default the setting of `dwcpu.set_num_threads`.

        Returns
        -------
        ndarray
            float32 logits (N, classes).

        Raises
        ------
        TypeError, ValueError
            `x` is not such an array; the text says what was got.
        """
        self._check(x)
        logits = x
        for _, result, _ in self._run(x, num_threads):
            logits = result
        return logits.reshape(x.shape[0], self.classes)

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
        """Run each layer once on zeros of the shape it will see, so that every kernel is compiled.

        Parameters
        ----------
        shape : tuple
            Shape of the network's input.
        num_threads : int, optional
            As in a call.
        progress : callable, optional
            Called as ``progress(done, total, name)`` before each layer and once at the end.
        """
        x = np.zeros(shape, np.float32)
        self._check(x)
        total = len(self._steps)
        if progress is not None:
            progress(0, total, self._steps[0].name)
        for index, _, _ in self._run(x, num_threads):
            if progress is not None:
                progress(index + 1, total, self._steps[min(index + 1, total - 1)].name)

    def explain(self, shape: tuple[int, ...] = (1, 224, 224, 3), num_threads: int | None = None) -> Report:
        """Which kernel each layer takes for an input of this shape, and how fast it could be at best.

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
        at = tuple(int(size) for size in shape)
        rows = []
        for step, out in zip(self._steps, self._out_shapes(at), strict=True):
            rows.append(_describe(step, at, out, num_threads))
            at = out
        return Report(f"{self.name}, input {_times(shape)}", tuple(rows))

    def profile(self, x: np.ndarray, *, num_threads: int | None = None, runs: int = 15) -> Report:
        """Time every layer while the whole network runs on `x`.

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
        if runs < 1:
            raise ValueError(f"profile: runs is {runs}; at least 1 is needed")
        from .. import runtime

        self._check(x)
        self(x, num_threads)
        times: list[list[float]] = [[] for _ in self._steps]
        for _ in range(runs):
            for index, _, seconds in self._run(x, num_threads):
                times[index].append(seconds)
        threads = num_threads if num_threads is not None else runtime.get_num_threads()
        peak = runtime.fma_peak(np.float32, threads)
        rows = [
            row.timed(median(seconds), peak)
            for row, seconds in zip(self.explain(x.shape, num_threads).rows, times, strict=True)
        ]
        title = f"{self.name}, input {_times(x.shape)}, {threads} thread{'s' * (threads != 1)}, median of {runs} runs"
        return Report(title, tuple(rows), peak)

    def _check(self, x: np.ndarray) -> None:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{self.name}: x is a {type(x).__name__}; a float32 array (N, H, W, 3) is needed")
        if x.dtype != np.float32:
            raise TypeError(
                f"{self.name}: x has dtype {x.dtype}; float32 is needed; network.preprocess(image) makes it"
            )
        if x.ndim != 4 or x.shape[3] != 3:
            raise ValueError(
                f"{self.name}: x has shape {x.shape}; (N, H, W, 3) is needed; add the batch axis with x[None]"
            )

    def _run(self, x: np.ndarray, num_threads: int | None) -> Iterator[tuple[int, np.ndarray, float]]:
        """Run layer by layer; yields the index, the result and the seconds of each."""
        plan = self._out_shapes(x.shape)
        with self._lock:
            workspace = self._workspaces.pop() if self._workspaces else _Workspace()
        values = {0: x}  # step -> its input, as long as somebody needs it
        for index, step in enumerate(self._steps):
            out = None if step.slot is None else workspace.array(step.slot, plan[index])
            residual = None if step.residual_from is None else values[step.residual_from]
            begin = time.perf_counter()
            result = step.layer(values[index], out=out, residual=residual, num_threads=num_threads)
            seconds = time.perf_counter() - begin
            values[index + 1] = result
            del residual
            for gone in [source for source in values if source <= index and self._last_use[source] <= index]:
                del values[gone]
            yield index, result, seconds
        with self._lock:
            self._workspaces.append(workspace)

    def _out_shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Shape of every layer's result, remembered for a few input shapes."""
        plan = self._plans.get(shape)
        if plan is None:
            plan, at = [], shape
            for step in self._steps:
                at = step.layer.out_shape(at)
                plan.append(at)
            if len(self._plans) >= _MAX_PLANS:
                self._plans = {}
            self._plans[shape] = plan
        return plan


def _assign_slots(steps: list[Step]) -> list[Step]:
    """Give every step but the last the first buffer that holds neither its input nor a residual still to be added."""
    slots: list[int | None] = [None]  # slots[i]: where the input of step i lies; the user's own array is nowhere
    result = []
    for index, step in enumerate(steps):
        waiting = {later.residual_from for later in steps[index:] if later.residual_from is not None}
        busy = {slots[index]} | {slots[source] for source in waiting if source <= index}
        free = next(slot for slot in range(3) if slot not in busy)
        slot = None if index == len(steps) - 1 else free
        slots.append(slot)
        result.append(Step(step.name, step.layer, step.residual_from, slot))
    return result


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
        return LayerRow(step.name, "numpy", shape, out, values, 4 * (values + prod(out)))
    choice = step.layer.explain(shape, num_threads)
    return LayerRow(step.name, choice.kernel, shape, out, choice.flops, choice.bytes, choice.bound_us)
