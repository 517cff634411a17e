# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The parallel drivers, which run kernels of either family by their addresses, and what this CPU can execute.

`run` runs one kernel, `run_steps` a row of them, each on what those before it wrote; `threads.h` shares their tasks.

Compiled for the baseline instruction set: it must import on every machine.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    typedef void (*dwcpu_kernel)(const void *, const void *, const void *, void *, void *,
                                 int64_t, int64_t, int64_t, int64_t);

    /* By this name threadpoolctl tells our file from others that are called alike: see dwcpu/threadpools.py. */
    __attribute__((visibility("default"))) const int dwcpu_threads = 1;

    /* Registers that `levels.Words` names. XCR0 says which registers the operating system saves; without OSXSAVE, bit 27
       of the first, it says nothing and must not be read. */
    #if defined(__x86_64__)
    #include <cpuid.h>
    #define DWCPU_MACHINE "x86_64"
    static void dwcpu_cpuid(uint64_t words[4]) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        words[0] = __get_cpuid(1, &a, &b, &c, &d) ? c : 0;
        words[1] = __get_cpuid_count(7, 0, &a, &b, &c, &d) ? b : 0;
        words[2] = __get_cpuid(0x80000001, &a, &b, &c, &d) ? c : 0;
        words[3] = 0;
        if (words[0] >> 27 & 1) {
            __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
            words[3] = (uint64_t)d << 32 | a;
    #if defined(__APPLE__)
            if ((words[3] & 0x6) == 0x6)
                words[3] |= 0xe0;  /* macOS saves the registers of AVX-512 from their first use on, and says so then */
    #endif
        }
    }
    #else
    #if defined(__aarch64__)
    #define DWCPU_MACHINE "neon"
    #else
    #define DWCPU_MACHINE "baseline"
    #endif
    static void dwcpu_cpuid(uint64_t words[4]) {
        words[0] = words[1] = words[2] = words[3] = 0;
    }
    #endif
    """
    int64_t DWCPU_ABI
    ctypedef void (*dwcpu_kernel)(
        const void *, const void *, const void *, void *, void *, int64_t, int64_t, int64_t, int64_t) noexcept nogil
    const char *DWCPU_MACHINE
    void dwcpu_cpuid(uint64_t *words) noexcept nogil

cdef extern from "threads.h" nogil:
    enum:
        MOST_STEPS
        MOST_TASKS
    ctypedef void (*do_task_t)(const void *context, int64_t step, int64_t task) noexcept nogil
    bint share(do_task_t do_task, const void *context, int steps, const int *tasks, int team, bint waking) noexcept
    void set_up() noexcept

cdef extern from "floats.h" nogil:
    ctypedef struct floats_t:
        pass
    floats_t begin_floats() noexcept
    void end_floats(floats_t before) noexcept

ctypedef int64_t i64

ABI = DWCPU_ABI  # see dwcpu.abi
MACHINE = DWCPU_MACHINE.decode()  # "x86_64", or else the name of the only instruction set that there is


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
    i64 tasks


cdef enum:
    USUAL_BASES = 16

cdef struct Steps:
    const Step *first
    const i64 *bases


cdef void do_task(const void *context, i64 index, i64 task) noexcept nogil:
    """Its share of row_parts * block_parts pieces, row part by row part.

    Rows are cut at multiples of the granule, blocks anywhere, both evenly. Pieces of one row part are one call, and so
    are whole row parts.
    """
    cdef const Steps *steps = <const Steps *> context
    cdef const Step *step = &steps.first[index]
    cdef const i64 *bases = steps.bases
    cdef i64 granules = (step.rows + step.granule - 1) // step.granule
    cdef i64 pieces = step.row_parts * step.block_parts
    cdef i64 piece = pieces * task // step.tasks, end = pieces * (task + 1) // step.tasks
    cdef i64 p, q, p_end, q_end, row_begin, row_end, block_begin, block_end
    while piece < end:
        p, q = piece // step.block_parts, piece % step.block_parts
        if q > 0 or end - piece < step.block_parts:
            piece = min(end, (p + 1) * step.block_parts)
            p_end, q_end = p + 1, piece - p * step.block_parts
        else:
            p_end, q_end = end // step.block_parts, step.block_parts
            piece = p_end * step.block_parts
        row_begin = granules * p // step.row_parts * step.granule
        row_end = min(step.rows, granules * p_end // step.row_parts * step.granule)
        block_begin, block_end = step.blocks * q // step.block_parts, step.blocks * q_end // step.block_parts
        if row_begin < row_end and block_begin < block_end:
            (<dwcpu_kernel> <void *> step.kernel)(
                <const void *> step.plan,
                <const void *> (bases[step.x_base] + step.x),
                <const void *> (bases[step.residual_base] + step.residual),
                <void *> (bases[step.out_base] + step.out),
                <void *> (bases[1] + step.scratch + task * step.scratch_stride),
                row_begin, row_end, block_begin, block_end)


cdef void run_all(const Step *first, i64 count, const i64 *bases, i64 threads, bint waking) noexcept nogil:
    """All steps, on `threads` threads where some step has tasks for them."""
    cdef Steps steps
    cdef int[MOST_STEPS] tasks
    cdef i64 index, task, most = 0
    cdef int part
    cdef floats_t floats = begin_floats()
    while count > 0:
        part = <int> min(count, <i64> MOST_STEPS)
        for index in range(part):
            task = first[index].tasks
            most = max(most, task)
            tasks[index] = <int> task
        steps.first, steps.bases = first, bases
        if not (threads > 1 and 1 < most <= MOST_TASKS and share(do_task, &steps, part, tasks, <int> threads, waking)):
            for index in range(part):
                for task in range(tasks[index]):
                    do_task(&steps, index, task)
        first += part
        count -= part
    end_floats(floats)


cdef struct Images:  # dwcpu.abi.IMAGES_FIELDS
    i64 steps
    i64 count
    i64 x_size
    i64 residual_size
    i64 out_size


cdef void images(
    const void *plan, const void *x, const void *residual, void *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """A kernel whose rows are images, which go through a row of steps for one image one after the other.

    What lies between the steps is in `scratch`, for all images in the same place.
    """
    cdef const Images *all = <const Images *> plan
    cdef Steps steps
    cdef i64[5] bases
    cdef i64 image, index, task
    steps.first, steps.bases = <const Step *> <void *> all.steps, &bases[0]
    bases[0], bases[1] = 0, <i64> scratch
    for image in range(row_begin, row_end):
        bases[2] = <i64> x + image * all.x_size
        bases[3] = 0 if residual == NULL else <i64> residual + image * all.residual_size
        bases[4] = <i64> out + image * all.out_size
        for index in range(all.count):
            for task in range(steps.first[index].tasks):
                do_task(&steps, index, task)


cdef void run_one(
    i64 kernel, i64 plan, i64 x, i64 residual, i64 out, i64 scratch, const i64 *cut
) noexcept nogil:
    """As `run`; `cut` are its other arguments, from `scratch_stride` on."""
    cdef i64[5] bases = [0, 0, 0, 0, 0]
    cdef Step step
    step.kernel, step.plan = kernel, plan
    step.x_base = step.residual_base = step.out_base = 0
    step.x, step.residual, step.out, step.scratch = x, residual, out, scratch
    step.scratch_stride, step.rows, step.granule, step.row_parts = cut[0], cut[1], cut[2], cut[3]
    step.blocks, step.block_parts, step.tasks = cut[4], cut[5], cut[6]
    run_all(&step, 1, &bases[0], cut[7], cut[8])


def run(
    i64 kernel, i64 plan, i64 x, i64 residual, i64 out, i64 scratch, i64 scratch_stride, i64 rows, i64 row_granule,
    i64 row_parts, i64 blocks, i64 block_parts, i64 tasks, i64 threads, i64 waking, /
):
    """Run a kernel over rows x blocks, cut into row_parts * block_parts pieces for so many tasks, without the GIL.

    All arguments are integers: addresses (0 for none), the bytes of scratch per task, counts of at least 1. Tasks are
    independent; at most `threads` of them run at a time. Unless `waking`, only threads that are awake are asked to help,
    if that is enough of them; of calls that find too few a small part wakes more, so that the next do not.
    """
    cdef i64[9] cut = [scratch_stride, rows, row_granule, row_parts, blocks, block_parts, tasks, threads, waking]
    with nogil:
        run_one(kernel, plan, x, residual, out, scratch, &cut[0])


cdef void run_row(
    i64 steps, i64 count, i64 threads, i64 arena, i64 x, i64 residual, i64 out
) noexcept nogil:
    """As `run_steps`, of an input, a residual and an output."""
    cdef i64[5] bases = [0, arena, x, residual, out]
    run_all(<const Step *> <void *> steps, count, &bases[0], threads, True)


def run_steps(i64 steps, i64 count, i64 threads, tuple where, /):
    """Run `count` steps, of which each may read what those before it wrote, without the GIL.

    All arguments are integers. `steps` is the address of an array of `dwcpu.abi.STEP_FIELDS`; `where` are the addresses of
    the memory that these count from, the arena first.
    """
    cdef i64 number = len(where), at
    cdef i64[USUAL_BASES] usual
    cdef i64 *bases = &usual[0]
    if number >= USUAL_BASES:
        bases = <i64 *> malloc((number + 1) * sizeof(i64))
        if bases == NULL:
            raise MemoryError
    bases[0] = 0
    try:
        for at in range(number):
            bases[at + 1] = where[at]
        with nogil:
            run_all(<const Step *> <void *> steps, count, bases, threads, True)
    finally:
        if bases != &usual[0]:
            free(bases)


#: For `_calls`, which takes them as addresses.
RUN, RUN_STEPS = <i64> <void *> run_one, <i64> <void *> run_row
#: The kernel for whole images.
IMAGES = <i64> <void *> images


def address(array, /):
    """Address of the first element of a C-contiguous array: a tenth of the time that NumPy's own ways take."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef i64 where = <i64> view.buf
    PyBuffer_Release(&view)
    return where


def cpuid():
    """What `levels.Words` has; zeros on machines other than x86-64."""
    cdef uint64_t[4] words
    dwcpu_cpuid(words)
    return words[0], words[1], words[2], words[3]


set_up()
