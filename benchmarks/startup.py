"""What a call costs before any arithmetic, and what a new process waits for: imports, first calls, compilation."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import peers
import problem
import shapes
from results import Figure
from timing import race

import dwcpu
from dwcpu import arrays

__all__ = ["cold", "overhead"]


def overhead(names: Sequence[str], progress: Callable[[str], None]) -> Iterator[Figure]:
    """Microseconds of whole calls on 4x4x64 with a 3x3 window, whose arithmetic takes a fraction of one; one thread."""
    progress("overhead")
    shape = next(shape for shape in shapes.DEPTHWISE if shape.id == "4x4x64_3x3")
    made = problem.make(shape)
    x, w, bias, layer = made.x, made.weights[0][..., 0], made.biases[0], problem.layer(made)
    out = arrays.empty(made.out_shape, x.dtype)
    window: dict[str, Any] = {"padding": 1, "activation": "relu", "num_threads": 1}
    runs: dict[str, tuple[Callable[[], object], float | None]] = {
        "layer(x, out=out, num_threads=1)": (lambda: layer(x, out=out, num_threads=1), 3.0),
        "layer(x, num_threads=1)": (lambda: layer(x, num_threads=1), None),
        "depthwise_conv2d(x, w, bias, …, out=out)": (
            lambda: dwcpu.depthwise_conv2d(x, w, bias, out=out, **window), 7.0,
        ),
        "depthwise_conv2d(x, w, bias, …)": (lambda: dwcpu.depthwise_conv2d(x, w, bias, **window), 7.0),
    }  # fmt: skip
    with dwcpu.num_threads(1):
        runs["layer(x, out=out)"] = (lambda: layer(x, out=out), 3.0)
        for name in names:
            runs[name] = (peers.prepare(name, made.graph).run, None)
        times = race([run for run, _ in runs.values()])
    for (name, (_, target)), each in zip(runs.items(), times, strict=True):
        yield Figure("Overhead, 4x4x64 3x3", name, each.best, "us", target)


_FIRST_CALL = """
import time, numpy as np, dwcpu
layer = dwcpu.DepthwiseConv2d(np.ones((3, 3, 64), np.float32), padding=1, backend="cython")
x = np.ones((1, 56, 56, 64), np.float32)
begin = time.perf_counter()
layer(x, num_threads=1)
print(time.perf_counter() - begin)
"""

_FIRST_STAND_IN = """
import time, numpy as np, dwcpu
layer = dwcpu.DepthwiseConv2d(np.ones((4, 4, 64), np.float32))
x = np.ones((1, 56, 56, 64), np.float32)
begin = time.perf_counter()
layer(x, num_threads=1)
print(time.perf_counter() - begin)
"""

_FIRST_INFERENCE = """
import time, numpy as np
from dwcpu import models
from dwcpu.models import architectures
weights = architectures.random_weights(architectures.{name}(), 0)
x = np.ones((1, 224, 224, 3), np.float32)
begin = time.perf_counter()
network = models.load("{name}", weights=weights, backend="{backend}")
network(x)
print(time.perf_counter() - begin)
"""

_IMPORT = "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"


def cold(names: Sequence[str], progress: Callable[[str], None]) -> Iterator[Figure]:
    """Seconds and milliseconds that new processes report; `names` do not take part."""
    section = "Cold start"
    progress("imports")
    seconds = {name: min(_run(_IMPORT.format(name)) for _ in range(7)) for name in ("numpy", "numpy, dwcpu")}
    added = seconds["numpy, dwcpu"] - seconds["numpy"]
    yield Figure(section, "import dwcpu, beyond import numpy", added * 1e3, "ms", 50)
    if dwcpu.runtime.cython_kernels() is not None:
        progress("first call")
        yield Figure(section, "first call on a Cython kernel", min(_run(_FIRST_CALL) for _ in range(5)) * 1e3, "ms", 5)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        what = "mobilenet_v2, from arrays to logits, Numba kernels"
        if dwcpu.runtime.cython_kernels() is not None:
            progress("first call while its kernel is compiled")
            _run(_IMPORT.format("numba"))  # its byte code, which nobody has needed yet
            wait = _run(_FIRST_STAND_IN, folder)
            yield Figure(section, "first call whose Numba kernel is not compiled yet", wait * 1e3, "ms", None)
        progress("compiling everything that MobileNetV2 needs")
        code = _FIRST_INFERENCE.format(name="mobilenet_v2", backend="numba")
        yield Figure(section, f"{what}: nothing compiled", _run(code, folder), "s", 20)
        progress("first inference from the cache")
        yield Figure(section, f"{what}: all from the cache", min(_run(code, folder) for _ in range(3)), "s", 1)
        code = _FIRST_INFERENCE.format(name="mobilenet_v2", backend="auto")
        _run(code, folder)
        what = what.replace("Numba kernels", "chosen kernels")
        yield Figure(section, f"{what}: all from the cache", min(_run(code, folder) for _ in range(3)), "s", 1)


def _run(code: str, cache: str | None = None) -> float:
    """The number that a new process prints, which has this copy of the package and, if named, a cache of its own.

    Modules are compiled once, as those of an installed package are, even where the environment forbids it.
    """
    root = str(Path(dwcpu.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / f"dwcpu-bytecode-{os.getpid()}")
    environment.pop("DWCPU_BACKGROUND_COMPILE", None)  # as users have it
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)
