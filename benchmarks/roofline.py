"""The limit of this machine, measured: FMA peak, copy bandwidth, and the time that a problem cannot go below.

A problem of F floating-point operations that moves B bytes takes at least ``max(F / peak, B / bandwidth)``. Peak is
what independent chains of vector FMAs reach; bandwidth is what `numpy.copyto` reaches on a working set of B bytes, so
that a problem which fits a cache is held against that cache. Both are measured when first asked for, in the process
that measures the kernels. A shared machine may be faster a moment later: shares slightly above 100 % mean just that.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dwcpu import runtime

__all__ = ["bandwidth", "bandwidths", "bound", "bound_of", "peak", "report"]

#: Working sets, source and target together: from half of a common L1 cache to far beyond a large L3 slice.
SIZES = tuple(2**power for power in range(14, 28))


class Cost(Protocol):
    """What `bound` needs to know: the geometries of the package do."""

    @property
    def flops(self) -> int:
        """Floating-point operations."""

    def bytes(self, itemsize: int) -> int:
        """Bytes that have to move at least."""


@cache
def peak(dtype: str = "float32", threads: int = 1) -> float:
    """FMA peak in GFLOP/s on `threads` threads."""
    return float(runtime.fma_peak(np.dtype(dtype), threads))


def _copy(size: int) -> float:
    """Bytes per second, read plus written, of copies whose source and target together take `size` bytes.

    One call copies the block many times, each time 64 bytes further on, which keeps the call's own cost out of it: the
    rows of the two-dimensional views overlap and NumPy goes through them one `memcpy` after another.
    """
    step, row = 8, size // 2 // 8  # in float64 elements
    repeats = max(1, min(row // step // 8, 2**22 // (row * 8)))
    source = np.ones(row + step * repeats)
    target = np.zeros_like(source)
    views = [as_strided(a, (repeats, row), (step * a.itemsize, a.itemsize)) for a in (source, target)]
    times: list[float] = []
    deadline = time.perf_counter() + 0.02
    while len(times) < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        np.copyto(views[1], views[0])
        times.append(time.perf_counter() - start)
    return 2 * 8 * row * repeats / min(times)


@cache
def bandwidths() -> dict[int, float]:
    """Copy bandwidth in GB/s on one thread by working set in bytes; never less than that of a larger set."""
    measured = {size: _copy(size) / 1e9 for size in SIZES}
    best = 0.0
    for size in reversed(SIZES):  # a disturbed measurement must not make a small problem look slower than a large one
        best = max(best, measured[size])
        measured[size] = best
    return measured


def bandwidth(size: int, threads: int = 1) -> float:
    """Copy bandwidth in GB/s for a working set of `size` bytes, shared evenly by `threads` threads.

    Several threads count as so many times one: true of their own caches, too kind to the machine beyond (the bound
    stays a bound).
    """
    share = max(size // threads, 1)
    table = bandwidths()
    fitting = [measured for measured in SIZES if measured <= share]
    return table[max(fitting, default=SIZES[0])] * threads


def bound(geometry: Cost, dtype: str = "float32", threads: int = 1) -> float:
    """Microseconds that a convolution of this geometry cannot go below on this machine."""
    return bound_of(geometry.flops, geometry.bytes(np.dtype(dtype).itemsize), dtype, threads)


def bound_of(flops: int, size: int, dtype: str = "float32", threads: int = 1) -> float:
    """Microseconds that `flops` operations on `size` bytes cannot go below."""
    return max(flops / peak(dtype, threads), size / bandwidth(size, threads)) * 1e-3


def report(dtype: str = "float32", threads: int = 1) -> str:
    """The measured limits, for the head of a table."""
    levels = ", ".join(f"{bandwidth(size):.0f} at {name}" for name, size in _LEVELS.items())
    plural = "s" if threads > 1 else ""
    return f"peak {peak(dtype, threads):.1f} GFLOP/s ({dtype}, {threads} thread{plural}); copy GB/s: {levels}"


_LEVELS = {"16 KiB": 2**14, "256 KiB": 2**18, "2 MiB": 2**21, "128 MiB": 2**27}

if __name__ == "__main__":
    print(report())
    for size, gigabytes in bandwidths().items():
        print(f"{size // 1024:8d} KiB {gigabytes:8.1f} GB/s")
