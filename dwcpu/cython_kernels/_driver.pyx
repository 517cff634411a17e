# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The parallel drivers, which run kernels of either family by their addresses, and what this CPU can execute.

`run` runs one kernel, `run_steps` a row of them, each on what those before it wrote; `threads.h` shares their tasks.

Compiled for the baseline instruction set: it must import on every machine.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

cdef extern from *:
    """
    typedef void (*dwcpu_kernel)(const void *, const void *, const void *, void *, void *,
                                 int64_t, int64_t, int64_t, int64_t);

    /* By this name threadpoolctl tells our file from others that are called alike: see dwcpu/threadpools.py. */
    __attribute__((visibility("default"))) const int dwcpu_threads = 1;

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
    """
    int64_t DWCPU_ABI
    ctypedef void (*dwcpu_kernel)(
        const void *, const void *, const void *, void *, void *, int64_t, int64_t, int64_t, int64_t) noexcept nogil
    int dwcpu_cpu_levels() noexcept nogil

cdef extern from "threads.h" nogil:
    enum:
        MOST_STEPS
        MOST_TASKS
    ctypedef void (*do_task_t)(const void *context, int64_t step, int64_t task) noexcept nogil
    bint share(do_task_t do_task, const void *context, int steps, const int *tasks, int team) noexcept
    void set_up() noexcept

cdef extern from "floats.h" nogil:
    ctypedef struct floats_t:
        pass
    floats_t begin_floats() noexcept
    void end_floats(floats_t before) noexcept

ctypedef int64_t i64

ABI = DWCPU_ABI  # see dwcpu.abi


cdef struct Step:  # dwcpu.abi.STEP_FIELDS
    i64 kernel
    i64 plan
    i64 x_base
    i64 x
    i64 residual_base
    i64 residual
    i64 out_base
    i64 out
    i64 scratch
    i64 scratch_stride
    i64 rows
    i64 granule
    i64 row_parts
    i64 blocks
    i64 block_parts


cdef struct Steps:
    const Step *first
    const i64 *bases


cdef void do_task(const void *context, i64 index, i64 task) noexcept nogil:
    """Task row_part * block_parts + block_part: rows cut at multiples of the granule, blocks anywhere, both evenly."""
    cdef const Steps *steps = <const Steps *> context
    cdef const Step *step = &steps.first[index]
    cdef const i64 *bases = steps.bases
    cdef i64 granules = (step.rows + step.granule - 1) // step.granule
    cdef i64 p = task // step.block_parts, q = task % step.block_parts
    cdef i64 row_begin = granules * p // step.row_parts * step.granule
    cdef i64 row_end = granules * (p + 1) // step.row_parts * step.granule
    cdef i64 block_begin = step.blocks * q // step.block_parts, block_end = step.blocks * (q + 1) // step.block_parts
    if row_end > step.rows:
        row_end = step.rows
    if row_begin < row_end and block_begin < block_end:
        (<dwcpu_kernel> <void *> step.kernel)(
            <const void *> step.plan,
            <const void *> (bases[step.x_base] + step.x),
            <const void *> (bases[step.residual_base] + step.residual),
            <void *> (bases[step.out_base] + step.out),
            <void *> (bases[1] + step.scratch + task * step.scratch_stride),
            row_begin, row_end, block_begin, block_end)


cdef void run_all(const Step *first, i64 count, const i64 *bases, i64 threads) noexcept nogil:
    """All steps, on `threads` threads where some step has tasks for them."""
    cdef Steps steps
    cdef int[MOST_STEPS] tasks
    cdef i64 index, task, most = 0
    cdef int part
    cdef floats_t floats = begin_floats()
    while count > 0:
        part = <int> min(count, <i64> MOST_STEPS)
        for index in range(part):
            task = first[index].row_parts * first[index].block_parts
            most = max(most, task)
            tasks[index] = <int> task
        steps.first, steps.bases = first, bases
        if not (threads > 1 and 1 < most <= MOST_TASKS and share(do_task, &steps, part, tasks, <int> threads)):
            for index in range(part):
                for task in range(tasks[index]):
                    do_task(&steps, index, task)
        first += part
        count -= part
    end_floats(floats)


def run(
    i64 kernel, i64 plan, i64 x, i64 residual, i64 out, i64 scratch, i64 scratch_stride, i64 rows, i64 row_granule,
    i64 row_parts, i64 blocks, i64 block_parts, i64 threads, /
):
    """Run a kernel over rows x blocks, cut into row_parts * block_parts tasks, without the GIL.

    All arguments are integers: addresses (0 for none), the bytes of scratch per task, counts of at least 1. Tasks are
    independent; at most `threads` of them run at a time.
    """
    cdef i64[5] bases = [0, 0, 0, 0, 0]
    cdef Step step
    step.kernel, step.plan = kernel, plan
    step.x_base = step.residual_base = step.out_base = 0
    step.x, step.residual, step.out, step.scratch = x, residual, out, scratch
    step.scratch_stride, step.rows, step.granule, step.row_parts = scratch_stride, rows, row_granule, row_parts
    step.blocks, step.block_parts = blocks, block_parts
    with nogil:
        run_all(&step, 1, &bases[0], threads)


def run_steps(i64 steps, i64 count, i64 threads, i64 arena, i64 x, i64 residual, i64 out, /):
    """Run `count` steps, of which each may read what those before it wrote, without the GIL.

    All arguments are integers. `steps` is the address of an array of `dwcpu.abi.STEP_FIELDS`; the last four are the
    addresses of the memory that these count from.
    """
    cdef i64[5] bases = [0, arena, x, residual, out]
    with nogil:
        run_all(<const Step *> <void *> steps, count, &bases[0], threads)


def address(array, /):
    """Address of the first element of a C-contiguous array: a tenth of the time that NumPy's own ways take."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef i64 where = <i64> view.buf
    PyBuffer_Release(&view)
    return where


def cpu_levels():
    """Names of the instruction sets, as our modules are named, that this CPU and its operating system can execute."""
    cdef int levels = dwcpu_cpu_levels()
    names = "x86_64_v2", "x86_64_v3", "x86_64_v4", "neon", "baseline"
    return [name for bit, name in enumerate(names) if levels >> bit & 1]


set_up()
