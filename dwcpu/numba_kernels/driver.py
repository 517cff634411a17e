"""The drivers: cut a kernel's grid of rows x blocks into tasks and run them; one compilation for all kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
from numba import njit, prange, types

from dwcpu.numba_kernels.memory import begin_floats, call, end_floats
from dwcpu.numba_kernels.target import compile_function

__all__ = ["parallel", "serial", "threading_layer"]

_SIGNATURE = types.void(*[types.int64] * 13)


@njit(error_model="numpy")
def _task(t, kernel, plan, x, residual, out, scratch, scratch_stride, rows, granule, row_parts, blocks, block_parts):
    """Task t of row_parts * block_parts: rows are cut at multiples of `granule`, blocks anywhere."""
    p, q = t // block_parts, t % block_parts
    granules = (rows + granule - 1) // granule
    r0, r1 = min(rows, granules * p // row_parts * granule), min(rows, granules * (p + 1) // row_parts * granule)
    b0, b1 = blocks * q // block_parts, blocks * (q + 1) // block_parts
    if r0 < r1 and b0 < b1:
        floats = begin_floats()
        call(kernel, (plan, x, residual, out, scratch + t * scratch_stride, r0, r1, b0, b1))
        end_floats(floats)


def _serial(kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts, threads):
    for t in range(row_parts * block_parts):
        _task(t, kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts)


def _parallel(kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts, threads):
    for t in prange(row_parts * block_parts):
        _task(t, kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts)


@cache
def serial() -> Callable[..., None]:
    """Driver that runs all tasks on the calling thread, without the GIL; 13 integers, as `parallel`."""
    return compile_function("driver_serial", _serial, _SIGNATURE)


@cache
def parallel() -> Callable[..., None]:
    """Driver that runs tasks on `threads` of Numba's threads, at most as many as Numba has.

    (kernel, plan, x, residual, out, scratch, scratch_stride, rows, granule, row_parts, blocks, block_parts, threads):
    addresses and counts, all int64. Numba's own number of threads is left as it was.
    """
    run = compile_function("driver_parallel", _parallel, _SIGNATURE, parallel=True)

    def masked(*arguments: int) -> None:
        # Here, not in the compiled code: Numba cannot cache code that sets the number of threads.
        before, wanted = numba.get_num_threads(), min(arguments[-1], numba.config.NUMBA_NUM_THREADS)
        if wanted == before:
            run(*arguments)
            return
        numba.set_num_threads(wanted)
        try:
            run(*arguments)
        finally:
            numba.set_num_threads(before)

    return masked


def threading_layer() -> str:
    """Name of the threading layer that Numba has loaded, or loads now."""
    from numba.np.ufunc.parallel import _launch_threads

    _launch_threads()
    return numba.threading_layer()
