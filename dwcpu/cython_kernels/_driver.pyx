# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The parallel drivers, which run kernels of either family by their addresses, and what this CPU can execute.

`run` runs one kernel, `run_steps` a row of them, each on what those before it wrote, in one parallel region. A step is
over when all of its tasks are done, whoever did them: threads claim tasks, their own first, then those that nobody has
begun. So work does not wait for a thread that comes late, because it slept or another process has its core.

Compiled for the baseline instruction set: it must import on every machine.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport parallel, threadid
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

    #include <pthread.h>
    #include <string.h>

    #if defined(__x86_64__)
    #define dwcpu_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define dwcpu_pause() __asm__ volatile("yield")
    #else
    #define dwcpu_pause() ((void)0)
    #endif

    /* Looks at the count of finished tasks before a thread sleeps: tens of microseconds, the length of a short step. A
       thread that sleeps leaves its core to one that has work but no core. */
    enum { DWCPU_SPINS = 2000, DWCPU_MOST_TASKS = 4096 };

    /* What the threads of one run share. */
    typedef struct {
        int64_t done;                   /* tasks finished, of all steps together */
        int64_t sleepers;
        pthread_mutex_t mutex;
        pthread_cond_t more;            /* `done` has grown to the end of a step */
        int claimed[DWCPU_MOST_TASKS];  /* for every task number, the last step, counted from 1, that it was claimed in */
    } dwcpu_crew;

    static void dwcpu_assemble(dwcpu_crew *crew, int64_t most_tasks) {
        crew->done = crew->sleepers = 0;
        pthread_mutex_init(&crew->mutex, NULL);
        pthread_cond_init(&crew->more, NULL);
        memset(crew->claimed, 0, (size_t)most_tasks * sizeof(int));
    }

    static void dwcpu_dismiss(dwcpu_crew *crew) {
        pthread_cond_destroy(&crew->more);
        pthread_mutex_destroy(&crew->mutex);
    }

    /* Whether the caller is to do this task. */
    static int dwcpu_claim(dwcpu_crew *crew, int64_t task, int step) {
        int last = __atomic_load_n(&crew->claimed[task], __ATOMIC_RELAXED);
        return last < step && __atomic_compare_exchange_n(&crew->claimed[task], &last, step, 0, __ATOMIC_ACQ_REL,
                                                          __ATOMIC_RELAXED);
    }

    static int dwcpu_is_over(dwcpu_crew *crew, int64_t target) {
        return __atomic_load_n(&crew->done, __ATOMIC_SEQ_CST) >= target;
    }

    /* Note `count` more tasks as done; `target` are done at the end of the step. */
    static void dwcpu_finish(dwcpu_crew *crew, int64_t count, int64_t target) {
        if (__atomic_add_fetch(&crew->done, count, __ATOMIC_SEQ_CST) == target
            && __atomic_load_n(&crew->sleepers, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&crew->mutex);
            pthread_cond_broadcast(&crew->more);
            pthread_mutex_unlock(&crew->mutex);
        }
    }

    /* Wait until `target` tasks are done. */
    static void dwcpu_await(dwcpu_crew *crew, int64_t target) {
        for (int spin = 0; spin < DWCPU_SPINS; ++spin) {
            if (dwcpu_is_over(crew, target)) return;
            dwcpu_pause();
        }
        pthread_mutex_lock(&crew->mutex);
        __atomic_add_fetch(&crew->sleepers, 1, __ATOMIC_SEQ_CST);
        while (!dwcpu_is_over(crew, target)) pthread_cond_wait(&crew->more, &crew->mutex);
        __atomic_sub_fetch(&crew->sleepers, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&crew->mutex);
    }
    """
    ctypedef void (*dwcpu_kernel)(
        const void *, const void *, const void *, void *, void *, int64_t, int64_t, int64_t, int64_t) noexcept nogil
    int dwcpu_cpu_levels() noexcept nogil
    enum:
        DWCPU_OPENMP
        DWCPU_MOST_TASKS
    ctypedef struct dwcpu_crew:
        pass
    void dwcpu_assemble(dwcpu_crew *, int64_t) noexcept nogil
    void dwcpu_dismiss(dwcpu_crew *) noexcept nogil
    bint dwcpu_claim(dwcpu_crew *, int64_t, int) noexcept nogil
    bint dwcpu_is_over(dwcpu_crew *, int64_t) noexcept nogil
    void dwcpu_finish(dwcpu_crew *, int64_t, int64_t) noexcept nogil
    void dwcpu_await(dwcpu_crew *, int64_t) noexcept nogil

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


cdef void prepare(Work *work, const Step *step, const i64 *bases) noexcept nogil:
    work.kernel = <dwcpu_kernel> <void *> step.kernel
    work.plan = <const void *> step.plan
    work.x = <const void *> (bases[step.x_base] + step.x)
    work.residual = <const void *> (bases[step.residual_base] + step.residual)
    work.out = <void *> (bases[step.out_base] + step.out)
    work.scratch = <char *> (bases[1] + step.scratch)
    work.scratch_stride = step.scratch_stride
    work.rows = step.rows
    work.granule = step.granule
    work.granules = (step.rows + step.granule - 1) // step.granule
    work.row_parts = step.row_parts
    work.blocks = step.blocks
    work.block_parts = step.block_parts


cdef void walk(dwcpu_crew *crew, const Step *steps, i64 count, const i64 *bases, i64 me, i64 team) noexcept nogil:
    """What each thread of a crew does."""
    cdef Work work
    cdef i64 index, tasks, task, mine, target = 0
    for index in range(count):
        tasks = steps[index].row_parts * steps[index].block_parts
        target += tasks
        if dwcpu_is_over(crew, target):
            continue
        prepare(&work, &steps[index], bases)
        mine = 0
        task = me
        while task < tasks:
            if dwcpu_claim(crew, task, <int> index + 1):
                do_task(&work, task)
                mine += 1
            task += team
        for task in range(tasks):
            if dwcpu_claim(crew, task, <int> index + 1):
                do_task(&work, task)
                mine += 1
        if mine:
            dwcpu_finish(crew, mine, target)
        dwcpu_await(crew, target)


cdef void run_all(const Step *steps, i64 count, const i64 *bases, i64 threads) noexcept nogil:
    """All steps, on `threads` threads where there is OpenMP and a step has tasks for them."""
    cdef Work work
    cdef dwcpu_crew crew
    cdef i64 index, task, most = 0
    cdef int team = <int> threads
    if DWCPU_OPENMP and team > 1:
        for index in range(count):
            task = steps[index].row_parts * steps[index].block_parts
            most = task if task > most else most
    if 1 < most <= DWCPU_MOST_TASKS:
        dwcpu_assemble(&crew, most)
        with parallel(num_threads=team):
            walk(&crew, steps, count, bases, threadid(), team)
        dwcpu_dismiss(&crew)
        return
    for index in range(count):
        prepare(&work, &steps[index], bases)
        for task in range(steps[index].row_parts * steps[index].block_parts):
            do_task(&work, task)


def run(
    i64 kernel, i64 plan, i64 x, i64 residual, i64 out, i64 scratch, i64 scratch_stride, i64 rows, i64 row_granule,
    i64 row_parts, i64 blocks, i64 block_parts, i64 threads, /
):
    """Run a kernel over rows x blocks, cut into row_parts * block_parts tasks, without the GIL.

    All arguments are integers: addresses (0 for none), the bytes of scratch per task, counts of at least 1. Tasks are
    independent; `threads` of them run at a time where there is OpenMP, else one after the other.
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


cdef struct Pool:  # the fields of dwcpu.abi.FIELDS up to the last that is needed
    const void *weights
    const void *bias
    i64 batch
    i64 height
    i64 width
    i64 in_channels


cdef void pool_f32(
    const void *plan, const void *x, const void *residual, void *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end) noexcept nogil:
    """Mean over an image's pixels, added in memory order. Rows are images, blocks runs of 16 channels."""
    cdef const Pool *shape = <const Pool *> plan
    cdef i64 pixels = shape.height * shape.width, channels = shape.in_channels
    cdef i64 begin = block_begin * 16, end = min(channels, block_end * 16), row, pixel, channel
    cdef float share = <float> 1 / <float> pixels
    cdef const float *source
    cdef float *mean
    for row in range(row_begin, row_end):
        mean = <float *> out + row * channels
        source = <const float *> x + row * pixels * channels
        for channel in range(begin, end):
            mean[channel] = source[channel]
        for pixel in range(1, pixels):
            source += channels
            for channel in range(begin, end):
                mean[channel] += source[channel]
        for channel in range(begin, end):
            mean[channel] *= share


def pool_address():
    """Address of the kernel that averages float32 images."""
    return <i64> <void *> pool_f32


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
