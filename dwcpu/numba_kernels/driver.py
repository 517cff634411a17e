"""The drivers: cut a kernel's grid of rows x blocks into tasks and run them; one compilation for all kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
from numba import njit, prange, types

from dwcpu.numba_kernels.memory import begin_floats, call, end_floats
from dwcpu.numba_kernels.target import compile_function

__all__ = ["parallel", "serial", "threading_layer"]

_SIGNATURE = types.void(*[types.int64] * 15)


@njit(error_model="numpy")
def _task(
    t, kernel, plan, x, residual, out, scratch, scratch_stride, rows, granule, row_parts, blocks, block_parts, tasks
):  # fmt: skip
    """Task t: its share of row_parts * block_parts pieces, row part by row part.

    Rows are cut at multiples of `granule`, blocks anywhere. Pieces of one row part, and whole row parts, are one call.
    """
    granules = (rows + granule - 1) // granule
    piece, end = row_parts * block_parts * t // tasks, row_parts * block_parts * (t + 1) // tasks
    floats = begin_floats()
    while piece < end:
        p, q = piece // block_parts, piece % block_parts
        if q > 0 or end - piece < block_parts:
            last = min(end, (p + 1) * block_parts)
            p_end, q_end = p + 1, last - p * block_parts
        else:
            p_end, q_end = end // block_parts, block_parts
            last = p_end * block_parts
        piece = last
        r0, r1 = min(rows, granules * p // row_parts * granule), min(rows, granules * p_end // row_parts * granule)
        b0, b1 = blocks * q // block_parts, blocks * q_end // block_parts
        if r0 < r1 and b0 < b1:
            call(kernel, (plan, x, residual, out, scratch + t * scratch_stride, r0, r1, b0, b1))
    end_floats(floats)


def _serial(
    kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts, tasks, threads,
    waking,
):  # fmt: skip
    for t in range(tasks):
        _task(t, kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts, tasks)


def _parallel(
    kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts, tasks, threads,
    waking,
):  # fmt: skip
    for t in prange(tasks):
        _task(t, kernel, plan, x, residual, out, scratch, stride, rows, granule, row_parts, blocks, block_parts, tasks)


@cache
def serial() -> Callable[..., None]:
    """Driver that runs all tasks on the calling thread, without the GIL; 15 integers, as `parallel`."""
    return compile_function("driver_serial", _serial, _SIGNATURE)


@cache
def parallel() -> Callable[..., None]:
    """Driver that runs tasks on `threads` of Numba's threads, at most as many as Numba has.

    (kernel, plan, x, residual, out, scratch, scratch_stride, rows, granule, row_parts, blocks, block_parts, tasks,
    threads, waking): addresses and counts, all int64; the last means nothing here. Numba's own number of threads is
    left as it was.
    """
    run = compile_function("driver_parallel", _parallel, _SIGNATURE, parallel=True)

    def masked(*arguments: int) -> None:
        # Here, not in the compiled code: Numba cannot cache code that sets the number of threads.
        before, wanted = numba.get_num_threads(), min(arguments[-2], numba.config.NUMBA_NUM_THREADS)
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
