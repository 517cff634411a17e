"""Which kernel runs what, and why: what `explain` of layers, functions and networks shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import runtime
from .dispatch import canonical, choose, chosen
from .fused import threads_used
from .fused_geometry import Geometry
from .geometry import ConvGeometry

__all__ = ["Choice", "explain"]


@dataclass(frozen=True)
class Choice:
    """Which kernel runs a geometry, and why.

    Attributes
    ----------
    kernel : str
        Name.
    reason : str
    threads : int
        Threads that take part.
    flops, bytes : int
        Work without taps on padding, and least memory traffic: what is needed of input and weights, and the output,
        once each.
    bound_us : float
        The roofline: the larger of FLOPs / peak, which nothing can beat on these threads, and bytes / copy bandwidth,
        both measured on this machine. Memory that is mostly read can be up to half faster than copies.
    limit : str
        Which of the two it is: "arithmetic", or the smallest cache that holds all bytes, of all threads together:
        "L1", "L2", "L3", else "memory". Where more threads have room for them in a nearer cache, the bound drops by
        more than their number.
    """

    kernel: str
    reason: str
    threads: int
    flops: int
    bytes: int
    bound_us: float
    limit: str

    def __str__(self) -> str:
        rows = {
            "kernel": self.kernel,
            "reason": self.reason,
            "threads": str(self.threads),
            "work": f"{self.flops / 1e6:.3f} MFLOP, {self.bytes / 1024:.1f} KiB",
            "bound": f"{self.bound_us:.1f} us, by {self.limit}",
        }
        return "\n".join(f"{name:<8} {value}" for name, value in rows.items())


def explain(geometry: Geometry, dtype: Any, threads: int, backend: str = "auto") -> Choice:
    """What `choose` would choose, with the cost of the geometry; `backend` may also be "reference"."""
    kind = np.dtype(dtype)
    if backend == "reference":
        name, reason, used = "reference", "asked for by name: plain NumPy, float64 accumulation", 1
    else:
        kernel, reason = chosen(geometry, kind, threads, backend)
        name, inner = kernel.name, None
        if kernel.label == "repeated":
            geometry = canonical(geometry)
            assert isinstance(geometry, ConvGeometry)
            inner = choose(geometry.repeated, kind, 1, kernel.backend_of(geometry))
            reason += f"; the window is that of {inner.name}"
        used = threads_used(kernel, geometry, threads, inner)
        if not isinstance(geometry, ConvGeometry):
            window = next(part for part in geometry.parts if part.op == "depthwise")
            reason += f"; the depthwise step is that of {choose(window, kind, 1, kernel.backend_of(window)).name}"
    moved = geometry.bytes(kind.itemsize)
    level = ("L1", "L2", "L3", "memory")[runtime.level_of(moved, used) - 1]
    computed = geometry.flops / runtime.peak_of(kind, used) / 1e3
    copied = moved / runtime.bandwidth_of(moved, used) / 1e3
    limit = "arithmetic" if computed >= copied else level
    return Choice(name, reason, used, geometry.flops, moved, max(computed, copied), limit)
