"""Every layer shape through pytest-benchmark: our two backends and every peer that is installed.

``pytest benchmarks --benchmark-only --benchmark-group-by=param:shape`` puts the contenders of one shape side by side;
`compare.py` prints ratios and geometric means instead. ``extra_info`` of each entry has GFLOP/s, the share of the peak
measured in the same process and the share of the roofline bound.
"""

from __future__ import annotations

from typing import Any

import peers
import problem
import pytest
import roofline
from shapes import Shape

from dwcpu import runtime

CONTENDERS = ["numba", *(["cython"] if runtime.cython_kernels() is not None else []), *peers.available()]
contenders = pytest.mark.parametrize("contender", CONTENDERS)


def measure(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    made = problem.make(shape)
    if contender in peers.PEERS:
        ready = peers.prepare(contender, made.graph, threads)
    else:
        ready = problem.ours(made, threads, backend=contender)
    ready.run()  # kernels compile here
    benchmark(ready.run)
    if benchmark.stats is None:  # --benchmark-disable
        return
    microseconds = benchmark.stats.stats.min * 1e6
    gflops = made.flops / microseconds * 1e-3
    bound = roofline.bound_of(made.flops, made.bytes, str(made.x.dtype), threads)
    benchmark.extra_info |= {
        "threads": threads,
        "note": ready.note,
        "gflops": round(gflops, 2),
        "peak_gflops": round(roofline.peak(str(made.x.dtype), threads), 2),
        "share_of_peak": round(gflops / roofline.peak(str(made.x.dtype), threads), 4),
        "bound_us": round(bound, 2),
        "share_of_bound": round(bound / microseconds, 4),
    }


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("threads"))


@contenders
def test_depthwise(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure(benchmark, shape, contender, threads)


@contenders
def test_pointwise(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure(benchmark, shape, contender, threads)


@contenders
def test_separable(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure(benchmark, shape, contender, threads)


@contenders
def test_inverted_residual(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure(benchmark, shape, contender, threads)


@contenders
def test_conv(benchmark: Any, shape: Shape, contender: str, threads: int) -> None:
    measure(benchmark, shape, contender, threads)
