# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The parallel driver, which runs any kernel of either family by its address, and what this CPU can execute.

Compiled for the baseline instruction set: it must import on every machine.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport prange
from libc.stdint cimport int64_t

cdef extern from *:
    """
    typedef void (*dwcpu_kernel)(const void *, const void *, const void *, void *, void *,
                                 int64_t, int64_t, int64_t, int64_t);

    /* Bits: 1 x86-64-v2, 2 x86-64-v3, 4 x86-64-v4, 8 NEON, 16 what the compiler takes for granted. The builtins ask
       the CPU and, for the wide registers, the operating system. */
    static int dwcpu_cpu_levels(void) {
    #if defined(__x86_64__)
        int levels = 0;
        __builtin_cpu_init();
        if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("ssse3"))
            levels |= 1;
        if (levels && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2"))
            levels |= 2;
        if ((levels & 2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl"))
            levels |= 4;
        return levels;
    #elif defined(__aarch64__)
        return 8;
    #else
        return 16;
    #endif
    }
    #ifdef _OPENMP
    #define DWCPU_OPENMP 1
    #else
    #define DWCPU_OPENMP 0
    #endif
    """
    ctypedef void (*dwcpu_kernel)(
        const void *, const void *, const void *, void *, void *, int64_t, int64_t, int64_t, int64_t) noexcept nogil
    int dwcpu_cpu_levels() noexcept nogil
    enum:
        DWCPU_OPENMP

ctypedef int64_t i64


cdef struct Work:
    dwcpu_kernel kernel
    const void *plan
    const void *x
    const void *residual
    void *out
    char *scratch
    i64 scratch_stride
    i64 rows
    i64 granule
    i64 granules
    i64 row_parts
    i64 blocks
    i64 block_parts


cdef void do_task(const Work *work, i64 task) noexcept nogil:
    """Task row_part * block_parts + block_part: rows cut at multiples of the granule, blocks anywhere, both evenly."""
    cdef i64 p = task // work.block_parts, q = task % work.block_parts
    cdef i64 row_begin = work.granules * p // work.row_parts * work.granule
    cdef i64 row_end = work.granules * (p + 1) // work.row_parts * work.granule
    cdef i64 block_begin = work.blocks * q // work.block_parts, block_end = work.blocks * (q + 1) // work.block_parts
    if row_end > work.rows:
        row_end = work.rows
    if row_begin < row_end and block_begin < block_end:
        work.kernel(
            work.plan, work.x, work.residual, work.out, work.scratch + task * work.scratch_stride,
            row_begin, row_end, block_begin, block_end)


def run(
    i64 kernel, i64 plan, i64 x, i64 residual, i64 out, i64 scratch, i64 scratch_stride, i64 rows, i64 row_granule,
    i64 row_parts, i64 blocks, i64 block_parts, i64 threads, /
):
    """Run a kernel over rows x blocks, cut into row_parts * block_parts tasks, without the GIL.

    All arguments are integers: addresses (0 for none), the bytes of scratch per task, counts of at least 1. Tasks are
    independent; `threads` of them run at a time where there is OpenMP, else one after the other.
    """
    cdef Work work
    cdef i64 tasks = row_parts * block_parts, task
    cdef int team = <int> threads
    work.kernel = <dwcpu_kernel> <void *> kernel
    work.plan = <const void *> plan
    work.x = <const void *> x
    work.residual = <const void *> residual
    work.out = <void *> out
    work.scratch = <char *> scratch
    work.scratch_stride = scratch_stride
    work.rows = rows
    work.granule = row_granule
    work.granules = (rows + row_granule - 1) // row_granule
    work.row_parts = row_parts
    work.blocks = blocks
    work.block_parts = block_parts
    with nogil:
        if tasks > 1 and team > 1:
            for task in prange(tasks, schedule="static", num_threads=team):
                do_task(&work, task)
        else:
            for task in range(tasks):
                do_task(&work, task)


def address(array, /):
    """Address of the first element of a C-contiguous array: a tenth of the time that NumPy's own ways take."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef i64 where = <i64> view.buf
    PyBuffer_Release(&view)
    return where


def has_openmp():
    """Whether `run` was compiled with OpenMP."""
    return bool(DWCPU_OPENMP)


def cpu_levels():
    """Names of the instruction sets, as our modules are named, that this CPU and its operating system can execute."""
    cdef int levels = dwcpu_cpu_levels()
    names = "x86_64_v2", "x86_64_v3", "x86_64_v4", "neon", "baseline"
    return [name for bit, name in enumerate(names) if levels >> bit & 1]
