"""What calls allocate, as far as Python knows: NumPy tells it of every array."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

CALLS = 5


def allocated(run: Callable[[], object]) -> int:
    """Most bytes that were taken at any time during `CALLS` runs which are not the first."""
    for _ in range(3):
        run()
    gc.collect()
    tracemalloc.start()
    try:
        run()
        tracemalloc.clear_traces()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(CALLS):
            run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
