"""The process around the kernels: threads, drivers, fork, caches of the CPU, scratch memory, `show_config`.

Numba and the compiled modules are imported when they are first needed, never by `import dwcpu`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .cpus import usable_cpus
from .interrupts import imported

__all__ = [
    "Memory",
    "address_finder",
    "cache_sizes",
    "compiled_calls",
    "cython_kernels",
    "default_threads",
    "driver",
    "fma_peak",
    "get_num_threads",
    "images_kernel",
    "l1_ways",
    "large_core",
    "level_of",
    "multiply_adds",
    "num_threads",
    "scratch",
    "set_num_threads",
    "show_config",
    "steps_driver",
]

# --- threads ----------------------------------------------------------------------------------------------------------


def _initial_threads() -> int:
    text = os.environ.get("DWCPU_NUM_THREADS")
    if not text:
        return usable_cpus()
    if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        warnings.warn(
            f"dwcpu: DWCPU_NUM_THREADS is {text!r}; it must be a whole number from 1 to {MAX_THREADS}; it is ignored",
            RuntimeWarning,
            stacklevel=2,
        )
        return usable_cpus()
    return int(text)


class _Threads(threading.local):
    """Thread counts set by `num_threads` in this thread; the innermost counts."""

    inner: int | None = None


_default_threads: int | None = None
_local_threads = _Threads()


#: More threads than this are a mistake, and creating them can kill the process.
MAX_THREADS = 1024


def _checked_count(n: object, operation: str) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"{operation}: n is of type {type(n).__name__}; it must be an integer; pass a whole number")
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(
            f"{operation}: n is {n}; it must be 1 to {MAX_THREADS}; pass 1 to run on the calling thread alone"
        )
    return int(n)


def get_num_threads() -> int:
    """Number of threads that a call without `num_threads` uses.

    The innermost `num_threads` of this thread, else `set_num_threads`, else ``DWCPU_NUM_THREADS``, else the number of
    CPUs that the process may use.

    Examples
    --------
    >>> import dwcpu
    >>> with dwcpu.num_threads(3):
    ...     dwcpu.get_num_threads()
    3
    """
    inner = _local_threads.inner
    return default_threads() if inner is None else inner


def default_threads() -> int:
    """As `get_num_threads`, outside any `num_threads`."""
    global _default_threads
    if _default_threads is None:
        _default_threads = _initial_threads()
    return _default_threads


def set_num_threads(n: int) -> None:
    """Set the number of threads of calls that do not say it themselves, in the whole process.

    Parameters
    ----------
    n : int
        1 to 1024.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer or out of this range.

    Examples
    --------
    >>> import dwcpu
    >>> before = dwcpu.get_num_threads()
    >>> dwcpu.set_num_threads(1)
    >>> dwcpu.get_num_threads()
    1
    >>> dwcpu.set_num_threads(before)
    """
    global _default_threads
    _default_threads = _checked_count(n, "set_num_threads")


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Number of threads within a ``with`` block, for calls of the current thread.

    Parameters
    ----------
    n : int
        1 to 1024.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer or out of this range.

    Examples
    --------
    >>> import dwcpu
    >>> with dwcpu.num_threads(1):
    ...     dwcpu.get_num_threads()
    1
    """
    count = _checked_count(n, "num_threads")
    before = _local_threads.inner
    _local_threads.inner = count
    try:
        yield
    finally:
        _local_threads.inner = before


# --- fork -------------------------------------------------------------------------------------------------------------

# Numba's threads do not survive fork: they are gone, and locks may be held. A child of a process that ran something on
# them therefore stays serial. The compiled driver begins anew in a child.
_ran_parallel = False
_serial_only = False


def _after_fork_in_child() -> None:
    global _serial_only, _numba_lock
    _serial_only = _serial_only or _ran_parallel
    _numba_lock = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# --- drivers ----------------------------------------------------------------------------------------------------------

#: ``driver(kernel, plan, x, residual, out, scratch, scratch_stride, rows, granule, row_parts, blocks, block_parts,
#: tasks, threads, waking)``, all integers: see `dwcpu.numba_kernels.driver`.
Driver = Callable[..., None]


@cache
def cython_kernels() -> ModuleType | None:
    """The compiled family, or None where it was not built."""
    module = import_module("dwcpu.cython_kernels")
    return module if module.available() else None


@cache
def compiled_calls() -> ModuleType | None:
    """The compiled short way of calls (`dwcpu.calls`), or None where it was not built."""
    return import_module("dwcpu.cython_kernels").calls


_numba_lock = threading.Lock()


@cache
def _numba_parallel() -> Driver:
    """Numba's parallel driver, made safe for several calling threads on the layer that is not."""
    numba_driver = imported("dwcpu.numba_kernels.driver")
    run = numba_driver.parallel()
    if numba_driver.threading_layer() != "workqueue":
        return run

    def one_at_a_time(*arguments: int) -> None:
        # `workqueue` aborts the process when two threads enter it at once.
        with _numba_lock:
            run(*arguments)

    return one_at_a_time


@cache
def _numba_serial() -> Driver:
    return imported("dwcpu.numba_kernels.driver").serial()


def _forked_driver(*arguments: int) -> None:
    """All tasks on the calling thread, however many threads the call was cut for."""
    _numba_serial()(*arguments)


def driver(threads: int) -> Driver:
    """The driver for a call on `threads` threads."""
    global _ran_parallel
    compiled = cython_kernels()
    if compiled is not None:  # it also runs Numba's kernels, with less overhead and on threads of its own
        return compiled.run
    if threads == 1:
        return _numba_serial()
    if _serial_only:
        return _forked_driver
    _ran_parallel = True
    return _numba_parallel()


def driver_addresses() -> tuple[int, int]:
    """Addresses of the compiled drivers, of one kernel and of a row, for compiled callers; 0 where there are none."""
    compiled = cython_kernels()
    return (0, 0) if compiled is None else compiled.run_addresses


def steps_driver() -> Callable[..., None] | None:
    """What runs a row of steps in one call, or None where they must be run one by one with `driver`.

    ``run_steps(steps, count, threads, where)``: the address of an array of `dwcpu.abi.STEP_FIELDS`, two numbers, and a
    tuple of addresses, from the arena's on.
    """
    compiled = cython_kernels()
    return None if compiled is None else compiled.run_steps


def images_kernel() -> int:
    """Address of the kernel that takes images through a row of steps, one by one; 0 where there is none.

    Its plan is `dwcpu.abi.IMAGES_FIELDS`.
    """
    compiled = cython_kernels()
    return 0 if compiled is None else compiled.images


@cache
def address_finder() -> Callable[[np.ndarray], int]:
    """The fastest function there is from a C-contiguous array to the address of its first element."""
    compiled = cython_kernels()
    return _interface_address if compiled is None else compiled.address


def _interface_address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


# --- memory -----------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Bytes of the L1 data, L2 and L3 caches that one core sees."""

    l1: int
    l2: int
    l3: int


@cache
def cache_sizes() -> Memory:
    """Sizes of the data caches, from the operating system; where it tells nothing, small common ones."""
    found = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
    root = "/sys/devices/system/cpu/cpu0/cache"
    with contextlib.suppress(OSError, ValueError):
        for index in os.listdir(root):
            if not index.startswith("index"):
                continue
            level, kind, size = (_line(f"{root}/{index}/{name}") for name in ("level", "type", "size"))
            if kind in ("Data", "Unified"):
                found[int(level)] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1], 0)
    return Memory(found[1], found[2], found[3])


@cache
def l1_ways() -> int:
    """How many lines a set of the L1 data cache holds, from the operating system; where it tells nothing, eight."""
    root = "/sys/devices/system/cpu/cpu0/cache"
    with contextlib.suppress(OSError, ValueError):
        for index in sorted(os.listdir(root)):
            if index.startswith("index"):
                level, kind, ways = (_line(f"{root}/{index}/{n}") for n in ("level", "type", "ways_of_associativity"))
                if (level, kind) == ("1", "Data"):
                    return int(ways) or 8
    return 8


def large_core() -> bool:
    """Whether L1 has twelve ways or more: Intel's cores since Ice Lake, AMD's since Zen 5.

    Such take two loads of a whole line a cycle, from an L2 of a megabyte or more that gives one. What says that it
    holds for them was measured on Golden Cove (Emerald Rapids) and Redwood Cove (Granite Rapids); what does not, on
    Zen 3 and Zen 4.
    """
    return l1_ways() >= 12


def _line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


#: Bytes of scratch memory that are kept between calls: of a kernel, for each thread that takes part; of a row of
#: kernels, all that lies between them; of a call that turns images, these (a residual's too) and what its kernels want
#: together. Kernels want about half of an L2 cache, windows that span many rows a few times as much; only images of
#: enormous width need more, and their calls take so long that fresh memory costs nothing.
MOST_SCRATCH = 4 << 20


#: Address and memory of none at all.
_NO_SCRATCH = (0, np.empty(0, np.uint8))


class _Scratch(threading.local):
    """Scratch memory of this thread and its address, kept between calls until the thread ends."""

    memory: tuple[int, np.ndarray] = _NO_SCRATCH


_scratch = _Scratch()


def scratch(size: int) -> tuple[int, np.ndarray]:
    """Address of `size` bytes of this thread's scratch memory, on a cache line, and the array that they belong to.

    The next call may give the same memory again. The array is for the caller to hold: a handler of signals that
    needs more replaces the thread's memory.
    """
    if size == 0:
        return _NO_SCRATCH
    memory = _scratch.memory
    if memory[1].size < size + 64:
        array = np.empty(size + 64, np.uint8)
        # One assignment: an interrupt between two would leave the address of memory that is gone.
        memory = _scratch.memory = -(-array.ctypes.data // 64) * 64, array
    return memory


# --- what the machine can do ------------------------------------------------------------------------------------------


#: Bytes at most that measuring the memory bandwidth takes.
_LARGEST_PROBE = 128 << 20


@cache
def peak_of(dtype: np.dtype, threads: int) -> float:
    """`fma_peak`, measured once in this process."""
    return fma_peak(dtype, threads)


def level_of(size: int, threads: int) -> int:
    """The smallest cache level that holds `size` bytes, shared by `threads` threads; 4 for memory."""
    caches = cache_sizes()
    held = (threads * caches.l1, threads * caches.l2, caches.l3)  # the last is one for all
    return next((level for level, each in enumerate(held, 1) if size <= each), 4)


def bandwidth_of(size: int, threads: int) -> float:
    """`copy_bandwidth` of the level that holds `size` bytes."""
    return copy_bandwidth(level_of(size, threads), threads)


@cache
def copy_bandwidth(level: int, threads: int) -> float:
    """Measure, once in this process, how fast data goes from arrays to others of the same cache level.

    Parameters
    ----------
    level : int
        1 to 3 for a cache, 4 for memory.
    threads : int

    Returns
    -------
    float
        GB/s, read plus written, of all threads together, each with arrays of its own; never less than that of a lower
        level or of fewer threads, which a measurement among other work might give. L1 and L2 are each core's own: there
        several threads count as so many times one.
    """
    lower = copy_bandwidth(level + 1, threads) if level < 4 else 0.0
    if threads > 1 and level < 3:
        return max(lower, threads * copy_bandwidth(level, 1))
    # Half of the cache, source and target together, but of L3 no more than is likely to be this thread's while others
    # work: of 300 MiB that dozens of cores share, half is memory. Of memory twice the last cache, within reason.
    caches = cache_sizes()
    sizes = (
        caches.l1 // 2,
        caches.l2 // 2,
        min(caches.l3 // 2, 4 * threads * caches.l2),
        min(2 * caches.l3, _LARGEST_PROBE),
    )
    size = sizes[level - 1]
    fewer = copy_bandwidth(level, 1) if threads > 1 else 0.0
    return max(lower, fewer, _copied(size // threads, threads))


def _copied(size: int, threads: int) -> float:
    """GB/s of `threads` threads that each copy from an array to another of `size` bytes together, again and again."""
    from time import perf_counter

    from numpy.lib.stride_tricks import as_strided

    # One call copies many times, each time 64 bytes further on, which keeps the cost of the call out of it: rows of the
    # two-dimensional views overlap.
    row = max(size // 2 // 4, 64)
    repeats = max(1, min(row // 16 // 8, (1 << 21) // row))

    def views() -> list[np.ndarray]:
        made = [np.ones(row + 16 * repeats, np.float32) for _ in range(2)]
        return [as_strided(array, (repeats, row), (64, 4)) for array in made]

    arrays = [views() for _ in range(threads)]
    rounds, waiting = 8, threading.Barrier(threads)
    spans = np.zeros((2, rounds, threads, 2))

    def work(number: int) -> None:
        source, target = arrays[number]
        # memcpy is slow in short runs on some CPUs, and writes past the caches on others, which loops do not
        for way in (0, 1):
            for turn in range(rounds):
                waiting.wait()
                begin = perf_counter()
                if way == 0:
                    np.copyto(target, source)
                else:
                    np.negative(source, out=target)
                spans[way, turn, number] = begin, perf_counter()

    others = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()
    seconds = (spans[..., 1].max(axis=2) - spans[..., 0].min(axis=2)).min()
    return float(2 * 4 * row * repeats * threads / seconds / 1e9)


# --- what there is ----------------------------------------------------------------------------------------------------


def fma_peak(dtype: Any = np.float32, threads: int = 1, vector_bytes: int | None = None) -> float:
    """Multiply-add rate of this machine, measured now: the best of some rounds.

    Parameters
    ----------
    dtype : dtype, default float32
    threads : int, default 1
    vector_bytes : int, optional
        Of the vectors to use, for the rate of a narrower instruction set; by default the widest that there are.

    Returns
    -------
    float
        GFLOP/s of `threads` threads together, on registers alone: the best of one thread, times `threads`, since a
        measurement on several would mostly tell what else the machine is doing.
    """
    from time import perf_counter

    run, flops = multiply_adds(dtype, 1, vector_bytes)
    best = float("inf")
    for _ in range(30):
        start = perf_counter()
        run()
        best = min(best, perf_counter() - start)
    return threads * flops / best / 1e9


def multiply_adds(
    dtype: Any = np.float32, threads: int = 1, vector_bytes: int | None = None
) -> tuple[Callable[[], None], int]:
    """What does nothing but multiply and add on so many threads, some 0.15 ms a call, and how many FLOPs a call is.

    Parameters are those of `fma_peak`.
    """
    from dwcpu.abi import plan_dtype

    peak, target = (imported(f"dwcpu.numba_kernels.{name}") for name in ("peak", "target"))
    kind = np.dtype(dtype)
    lanes = (vector_bytes or target.target().vector_bytes) // kind.itemsize
    plan: Any = np.zeros(1, plan_dtype())
    steps = 80_000  # the first ones of a call cost 4 us more in some processes than in others
    plan["height"], plan["low"], plan["high"] = steps, -np.inf, np.inf
    x, out = np.full(lanes, 0.5, kind), np.empty(threads * peak.ACCUMULATORS * lanes, kind)
    addresses = peak.address(kind, lanes), plan.ctypes.data, x.ctypes.data, 0, out.ctypes.data, 0
    cut = (0, threads, 1, threads, 1, 1, threads, threads, int(threads > 1))  # as `grid.Grid.arguments`: a row each
    start, owner = driver(threads), (plan, x, out)

    def run(owner: object = owner) -> None:  # keeps alive what addresses point to
        start(*addresses, *cut)

    return run, 2 * steps * out.size


def show_config() -> None:
    """Print versions, CPU, instruction sets, threads and caches: what a bug report needs.

    Examples
    --------
    >>> import dwcpu
    >>> dwcpu.show_config()  # doctest: +ELLIPSIS
    dwcpu ...
    """
    for name, value in configuration().items():
        print(f"{name:<16} {value}")


def configuration() -> dict[str, str]:
    """What `show_config` prints, as name and text."""
    import platform
    from importlib import metadata

    import dwcpu

    lines = {"dwcpu": dwcpu.__version__, "python": platform.python_version(), "numpy": np.__version__}
    lines["machine"] = f"{platform.system()} {platform.machine()}, {usable_cpus()} usable CPUs"
    l1, *others = (f"L{i} {size >> 10} KiB" for i, size in enumerate(cache_sizes(), 1))
    lines["caches"] = ", ".join([f"{l1} in {l1_ways()} ways", *others])
    lines["threads"] = f"{get_num_threads()}" + (" (serial: forked after parallel use)" if _serial_only else "")
    lines["cython kernels"] = import_module("dwcpu.cython_kernels").status()
    try:
        numba = imported("dwcpu.numba_kernels.target")
        made = numba.target()
        lines["numba"] = metadata.version("numba")
        lines["numba kernels"] = (
            f"{made.vector_bytes * 8}-bit vectors, {made.registers} registers, "
            f"{'fused' if made.fma else 'no fused'} multiply-add; {numba.compiled_count()} compiled in this process"
        )
        lines["numba cache"] = str(numba.cache_directory() or "none: see the warning")
    except ImportError as error:
        lines["numba"] = f"not usable: {error}"
    return lines
