"""The limit of this machine, measured in the run that it is held against: FMA peak and copy bandwidth.

A problem of F floating-point operations that moves B bytes takes at least ``max(F / peak, B / bandwidth)``. Peak is
what independent chains of vector FMAs reach; bandwidth is that of copies, read plus written, in the smallest cache
level that holds B bytes. `dwcpu.runtime` measures both, for `explain` too. A shared machine may be faster a moment
later: shares slightly above 100 % mean just that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from dwcpu import runtime

__all__ = ["LEVELS", "Limits", "bound_of", "limits", "peak"]

LEVELS = ("L1", "L2", "L3", "memory")


@dataclass(frozen=True)
class Limits:
    """What this machine can do on `threads` threads: GFLOP/s by dtype and bits of a vector, GB/s by level."""

    threads: int
    gflops: dict[str, dict[int, float]]
    gigabytes: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As objects that JSON has."""
        return asdict(self)


@cache
def peak(dtype: str = "float32", threads: int = 1, vector_bits: int | None = None) -> float:
    """FMA peak in GFLOP/s on `threads` threads; `vector_bits` asks for narrower vectors than the CPU has."""
    if vector_bits is None:
        return runtime.peak_of(np.dtype(dtype), threads)
    return runtime.fma_peak(np.dtype(dtype), threads, vector_bits // 8)


def bound_of(flops: int, size: int, dtype: str = "float32", threads: int = 1) -> float:
    """Microseconds that `flops` operations on `size` bytes cannot go below."""
    return max(flops / peak(dtype, threads), size / runtime.bandwidth_of(size, threads)) * 1e-3


def widths() -> list[int]:
    """Bits of the vectors that can run here, the widest first: 512 is AVX-512, 256 AVX2, 128 SSE or NEON."""
    from dwcpu.numba_kernels.target import target

    widest: int = target().vector_bytes * 8
    return [bits for bits in (512, 256, 128) if bits <= widest]


def limits(threads: int = 1, dtypes: Iterable[str] = ("float32", "float64")) -> Limits:
    """Measure everything on `threads` threads."""
    gflops = {
        dtype: {bits: peak(dtype, threads, None if i == 0 else bits) for i, bits in enumerate(widths())}
        for dtype in dtypes
    }
    gigabytes = {name: runtime.copy_bandwidth(level, threads) for level, name in enumerate(LEVELS, 1)}
    return Limits(threads, gflops, gigabytes)


if __name__ == "__main__":
    print(limits())
