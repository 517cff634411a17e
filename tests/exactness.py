"""Random geometries from a seed on every kernel that supports them: exact on whole numbers, the same bits on others.

Geometry number i of seed s depends on these two numbers alone, so that it can be had again without those before it:

    python tests/exactness.py --seed 1 --first 1234

computes one, in this process's environment: `DWCPU_ISA`, `NUMBA_CPU_NAME` and `DWCPU_VECTOR_BYTES` choose the machine
that is simulated. What it prints is JSON: see `Report`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import nightly
import numpy as np
from cases import DTYPES, FUSED, Case, RandomDraw, draw_case, expected, make_data
from nightly import is_nightly, reduced

from dwcpu import cython_kernels, dispatch, grid
from dwcpu.dispatch import Kernel
from dwcpu.epilogue import Activation, parse_activation
from dwcpu.fused_geometry import Geometry
from dwcpu.prepared import Prepared

__all__ = ["Report", "Trial", "geometries", "geometry_for", "is_affordable", "run", "trial"]

MOST_THREADS = 8
#: At night, of so many geometries one is computed on every number of threads.
ALL_THREADS_EVERY = 8
#: More failures say no more.
MOST_FAILURES = 10
#: What is beside the channels of wider arrays: no result is as large.
_BESIDE = 1e30

#: Numba compiles every window that it unrolls, and every multiplier of it. Those that are, as kernels see them; by day
#: those that other tests have compiled already.
_MENU = [(size, size, stride, stride) for size in (3, 5, 7) for stride in (1, 2)]
_ROWS = [(1, size, 1, stride) for size in range(1, 10) for stride in (1, 2)]
_OTHERS = [(1, 1, 2, 2), (2, 2, 1, 1), (2, 2, 2, 2), (4, 4, 1, 1), (2, 4, 1, 1), (3, 5, 1, 2), (5, 2, 3, 1)]
UNROLLED = reduced({*_MENU, *_ROWS, *_OTHERS}, {(1, 1, 1, 1), (3, 3, 1, 1)})
UNROLLED_MULTIPLES = reduced({(3, 3, 1, 1), (3, 3, 2, 2), (1, 3, 1, 1)}, set())
MULTIPLES = reduced(range(1, 9), (1, 2, 3, 4, 8))


@dataclass(frozen=True)
class Trial:
    """A geometry, with what is computed of it. Activations are those that are exact on whole numbers."""

    case: Case
    activation: Any
    with_bias: bool
    with_residual: bool
    threads: tuple[int, ...]

    def __str__(self) -> str:
        extras = [name for name, given in (("bias", self.with_bias), ("residual", self.with_residual)) if given]
        return f"{self.case} with {', '.join([*extras, f'activation {self.activation}'])}"


def trial(seed: int, number: int) -> Trial:
    """Geometry `number` of a seed."""
    draw = RandomDraw(np.random.default_rng([seed, number]))
    op = draw.one_of([*["depthwise"] * 4, "pointwise", *["conv"] * 2, *["separable"] * 2, "inverted_residual"])
    largest, channels = draw.one_of([12, 12, 12, 20]), draw.one_of([40, 40, 40, 140])
    case = draw_case(draw, op, largest, channels)
    if case.x_shape[0] == 0:  # never reaches a kernel
        case = dataclasses.replace(case, x_shape=(1, *case.x_shape[1:]))
    activation = draw.one_of([None, "relu", "relu6", ("clip", -20, 30)])
    with_bias, with_residual = draw.one_of([True, True, False]), draw.one_of([True, False])
    threads: tuple[int, ...] = (1, draw.integer(2, MOST_THREADS))
    if is_nightly() and number % ALL_THREADS_EVERY == 0:
        threads = tuple(range(1, MOST_THREADS + 1))
    return Trial(case, activation, with_bias, with_residual, threads)


def geometries(case: Case) -> tuple[Geometry, ...]:
    """The case as kernels may compute it: a grouped convolution may be depthwise in truth."""
    return tuple(dict.fromkeys((case.geometry, dispatch.canonical(case.geometry))))


def geometry_for(kernel: Kernel, forms: tuple[Geometry, ...]) -> Geometry | None:
    """The form that the kernel computes, if there is one."""
    return next((geometry for geometry in forms if geometry.op == kernel.op and kernel.supports(geometry)), None)


def is_affordable(kernel: Kernel, geometry: Geometry) -> bool:
    """Whether Numba need not compile what few other geometries have."""
    window = dispatch.canonical(geometry.parts[-2] if kernel.op in FUSED else geometry)
    if kernel.backend == "cython" or window.op != "depthwise":
        return True
    if kernel.op == "depthwise" and not kernel.most_taps:
        return window.multiplier in MULTIPLES
    return window.effective_window in (UNROLLED if window.multiplier == 1 else UNROLLED_MULTIPLES)


@dataclass
class Report:
    """What a process found.

    Attributes
    ----------
    machine : str
        Instruction set of the compiled kernels, and vectors of Numba's.
    fused : bool
        Whether all of its kernels have a fused multiply-add: the bits are then those of every such machine.
    failures : list of str
    digests : dict
        dtype -> a digest for each geometry, of its result on random data; "" where no kernel ran.
    ran : dict
        Kernel -> number of geometries.
    """

    machine: str = ""
    fused: bool = True
    failures: list[str] = field(default_factory=list)
    digests: dict[str, list[str]] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)


def prepare(kernel: Kernel, geometry: Geometry, trial: Trial, kind: str) -> Prepared:
    """The kernel with the trial's weights, bias and activation."""
    data, last = make_data(trial.case, kernel.dtype.type, kind), parse_activation(trial.activation, "exactness")
    biases = data.biases if trial.with_bias else (None,) * len(data.biases)
    activations = (Activation(),) * (len(biases) - 1) + (last,)
    if kernel.op in FUSED:
        return kernel.prepare(geometry, tuple(zip(data.weights, biases, activations, strict=True)))
    return kernel.prepare(geometry, data.weights[0], biases[0], last)


def results(
    kernel: Kernel, geometry: Geometry, trial: Trial, kind: str, threads: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each number of threads, and what the kernel makes of the trial on it."""
    data = make_data(trial.case, kernel.dtype.type, kind)
    prepared = prepare(kernel, geometry, trial, kind)
    for count in threads:
        out = np.full(geometry.out_shape, np.nan, kernel.dtype)
        prepared.run(data.x, data.residual if trial.with_residual else None, out, count)
        yield count, out


def with_gaps(kernel: Kernel, geometry: Geometry, trial: Trial, right: np.ndarray) -> Iterator[tuple[int, str]]:
    """Numbers of threads on which the kernel makes something else, or more, of channels of wider arrays."""
    data, threads = make_data(trial.case, kernel.dtype.type, "normal"), trial.threads[-1]
    prepared = prepare(kernel, geometry, trial, "normal")
    before, gap = 1 + geometry.x_shape[-1] % 3, 1 + geometry.out_shape[-1] % 5
    for x_gap in (gap, 0):  # some read pixels without gaps alone
        stepped = prepared.stepped(geometry.x_shape[-1] + x_gap, geometry.out_shape[-1] + before + gap)
        if stepped is None:
            continue
        x = wider(data.x, 0, x_gap)
        residual = wider(data.residual, before, gap) if trial.with_residual else None
        whole = wider(np.full_like(right, np.nan), before, gap)
        out = whole[..., before : before + right.shape[-1]]
        places = (None if each is None else each.reshape(-1)[before:] for each in (residual, whole))
        stepped.run(x, *places, threads)
        if out.tobytes() != right.tobytes():
            yield threads, f"not the same bits with gaps of {x_gap} and {before + gap} between pixels"
        out[...] = 0
        if np.count_nonzero(whole != _BESIDE) != out.size:
            yield threads, "something is written between pixels"


def wider(array: np.ndarray, before: int, after: int) -> np.ndarray:
    """Images with other channels besides, which are not to be used."""
    return np.pad(array, [(0, 0)] * 3 + [(before, after)], constant_values=_BESIDE)


def inexact(kernel: Kernel, geometry: Geometry, trial: Trial) -> Iterator[tuple[int, str]]:
    """Numbers of threads on which the kernel is not exact on whole numbers, and how far."""
    options = trial.activation, trial.with_bias, trial.with_residual
    right = expected(trial.case, kernel.dtype.type, "integers", *options)
    for count, out in results(kernel, geometry, trial, "integers", trial.threads):
        if not np.array_equal(out, right):
            yield count, f"{np.sum(out != right)} of {out.size} outputs are not exact"


def failure(seed: int, number: int, kernel: Kernel, threads: int, report: Report, text: str) -> str:
    """What is wrong where, and the command that repeats it."""
    names = ("DWCPU_ISA", "DWCPU_VECTOR_BYTES", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", nightly.VARIABLE)
    environment = "".join(f"{name}={shlex.quote(os.environ[name])} " for name in names if name in os.environ)
    again = f"{environment}python tests/exactness.py --seed {seed} --first {number} --kernel {kernel.name}"
    return f"{trial(seed, number)}\n  {kernel.name} on {threads} threads ({report.machine}): {text}\n  again: {again}"


def rows_of(backend: str, name: str) -> tuple[list[Kernel], Report]:
    """Kernels of a backend, or the one of this name, or all; and a report that has nothing yet."""
    grid._WORTH_US = grid._WORTH_US_IN_A_ROW = -1.0  # small work, as this is, would stay on one thread
    rows = [kernel for kernel in dispatch.kernels() if backend in ("", kernel.backend) and name in ("", kernel.name)]
    report, machines = Report(ran=dict.fromkeys((kernel.name for kernel in rows), 0)), []
    if any(kernel.backend != "numba" for kernel in rows):
        machines.append(str(cython_kernels.isa()))
        report.fused &= cython_kernels.fused()
    if any(kernel.backend != "cython" for kernel in rows):
        from dwcpu.numba_kernels.target import target

        machines.append(f"Numba with vectors of {target().vector_bytes} bytes")
        report.fused &= target().fma
    report.machine = ", ".join(machines)
    return rows, report


def run(seed: int, numbers: range, backend: str = "", name: str = "") -> Report:
    """Compute the geometries on all kernels of `rows_of` that support them."""
    rows, report = rows_of(backend, name)
    for number in numbers:
        tried = trial(seed, number)
        forms = geometries(tried.case)
        for dtype in DTYPES:
            first: tuple[str, bytes] | None = None
            for kernel in rows:
                geometry = geometry_for(kernel, forms) if kernel.dtype == dtype else None
                if geometry is None or not (name or is_affordable(kernel, geometry)):
                    continue
                report.ran[kernel.name] += 1
                wrong = list(inexact(kernel, geometry, tried))
                for count, out in results(kernel, geometry, tried, "normal", tried.threads):
                    first = first or (f"{kernel.name} on {count} threads", out.tobytes())
                    if report.fused and out.tobytes() != first[1]:
                        wrong.append((count, f"not the bits of {first[0]}"))
                wrong += with_gaps(kernel, geometry, tried, out)
                report.failures += [failure(seed, number, kernel, count, report, text) for count, text in wrong]
            digest = "" if first is None else f"{zlib.crc32(first[1]):08x}"
            report.digests.setdefault(np.dtype(dtype).name, []).append(digest)
        if len(report.failures) > MOST_FAILURES:
            break
    return report


def main() -> None:
    """Compute what the command line asks for."""
    parser = argparse.ArgumentParser(description="Random geometries on every kernel.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--backend", default="", choices=["", "numba", "cython", "mixed"])
    parser.add_argument("--kernel", default="")
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.count)
    report = run(given.seed, numbers, given.backend, given.kernel)
    print(json.dumps(dataclasses.asdict(report)))


if __name__ == "__main__":
    main()
