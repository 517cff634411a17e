"""The dispatcher's regret: its choice for a shape against every other kernel that can compute it."""

from __future__ import annotations

import numpy as np
import problem
from results import Regret
from shapes import Shape
from timing import Gauge, race

from dwcpu import list_kernels

__all__ = ["SUITES", "measure"]

#: Those of `shapes`: in every one a kernel is chosen for each shape.
SUITES = ("depthwise", "pointwise", "separable", "inverted_residual", "conv")


def measure(
    shape: Shape, threads: int = 1, dtype: str = "float32", rounds: int = 10, gauge: Gauge | None = None
) -> Regret:
    """Race the chosen kernel against all others of its operation and dtype that take the shape."""
    made = problem.make(shape, dtype)
    chosen = problem.ours(made, threads)
    # suites are named after their operations
    of_its_kind = f"{shape.suite}_f{np.dtype(dtype).itemsize * 8}_"
    ready = {chosen.note: chosen}
    for name in list_kernels():
        if name.startswith(of_its_kind) and name != chosen.note:
            try:
                other = problem.ours(made, threads, name)
                other.run()
            except ValueError:  # the kernel does not compute this geometry
                continue
            ready[name] = other
    times = race([each.run for each in ready.values()], rounds, threads, gauge)
    best = {name: each.best for name, each in zip(ready, times, strict=True)}
    fastest = min(best, key=lambda name: best[name])
    return Regret(shape.suite, threads, shape.id, chosen.note, best[chosen.note], fastest, best[fastest])
