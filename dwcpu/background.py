"""Kernels that are compiled in the background while others, which compute the same bits, stand in for them.

`Program.compile` comes here with the kernel that `dispatch` chose, if that is one of Numba's, or runs one, and nobody
asked for it by name. One that this process or the cache on disk has is taken at once. Any other becomes a `Job` of one
daemon thread, and a kernel that was compiled ahead of time runs until the job is over. Whoever remembers a kernel that
stands in keeps its job with it, and asks for the kernel anew when `over` says so.

Errors only leave the stand-in where it is. At exit the kernel that is being compiled is finished, since LLVM must not
be interrupted, and all others are dropped; a fork waits for it, too, and the child compiles nothing in the background.
``DWCPU_BACKGROUND_COMPILE=0`` switches all of it off, and so does `waiting` for a block of code.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from functools import cache
from typing import TypeVar

__all__ = ["Job", "allowed", "over", "ready", "wait", "waiting"]

T = TypeVar("T")


class Job:
    """One kernel on one geometry that is being made ready.

    Attributes
    ----------
    done : bool
        Whether there is nothing more to wait for; set last.
    failed : bool
        Whether the stand-in has to stay.
    """

    __slots__ = ("done", "failed", "key", "work")

    def __init__(self, key: Hashable, work: Callable[[], object]) -> None:
        self.key, self.work = key, work
        self.done = self.failed = False


class _Stopped(Exception):
    """The process is about to end."""


class _Here(threading.local):
    """What holds for this thread."""

    waiting = 0


_here = _Here()
#: A handler of signals may come here again while its thread is here.
_lock = threading.RLock()
#: By kernel and geometry; those that were successful are taken out.
_jobs: dict[Hashable, Job] = {}
_queue: deque[Job] = deque()
_worker: threading.Thread | None = None
_stopping = False
_forked = False


def _after_fork_in_child() -> None:
    global _lock, _jobs, _queue, _worker, _forked
    pending, _forked = list(_jobs.values()), True
    _lock, _jobs, _queue, _worker = threading.RLock(), {}, deque(), None
    for job in pending:  # the thread is gone: who waits for it asks again
        job.done = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@cache
def _warn_once(value: str) -> None:
    warnings.warn(
        f"dwcpu: DWCPU_BACKGROUND_COMPILE is {value!r}; it must be 0 or 1; it is ignored", RuntimeWarning, stacklevel=4
    )


def allowed() -> bool:
    """Whether this thread may be given a stand-in, because somebody compiles meanwhile."""
    value = os.environ.get("DWCPU_BACKGROUND_COMPILE", "")
    if value not in ("", "0", "1"):
        _warn_once(value)
    return value != "0" and not (_here.waiting or _stopping or _forked)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within the block this thread waits for every kernel that it needs, as it does where all of this is off."""
    _here.waiting += 1
    try:
        yield
    finally:
        _here.waiting -= 1


def over(job: Job | None) -> bool:
    """Whether what stands in for a job's kernel should be replaced now."""
    return job is not None and (job.done or not allowed())


def ready(key: Hashable, make: Callable[[], T], stand_in: Callable[[], T]) -> tuple[T, Job | None]:
    """Something made with a kernel of Numba's, or what stands in for it and the job to wait for.

    Parameters
    ----------
    key : hashable
        Says which kernel and geometry that is.
    make : callable
        Makes it, machine code included.
    stand_in : callable
        Makes the same of what is there.

    Returns
    -------
    made : object
    job : Job or None
        None: this is final.
    """
    if not allowed():
        return make(), None
    job = _jobs.get(key)
    if job is None:
        made = _made(make)
        if made is not None:
            return made, None
        job = _start(key, make)
    _see_to_a_worker()
    return stand_in(), None if job.failed else job


def _made(make: Callable[[], T]) -> T | None:
    """What `make` makes if nothing must be compiled for it."""
    from .numba_kernels.target import CACHED, NotReadyError, limited

    with limited(CACHED):
        try:
            return make()
        except NotReadyError:
            return None


def _start(key: Hashable, work: Callable[[], object]) -> Job:
    """The job for a key, new or already there."""
    with _lock:
        job = _jobs.get(key)
        if job is None:
            job = Job(key, work)
            _queue.append(job)  # first: an interrupt in between must not leave a job that nobody does
            _jobs[key] = job
    return job


def _see_to_a_worker() -> None:
    """Start one if there are jobs and nobody does them, be it that an interrupt prevented it last time."""
    global _worker
    worker = None
    try:
        with _lock:
            if _worker is not None or not _queue:
                return
            worker = _worker = threading.Thread(target=_work, name="dwcpu-compile", daemon=True)
        atexit.unregister(_stop)
        atexit.register(_stop)  # the last to be registered is the first to run, before Numba's own
        worker.start()  # without the lock, since it waits for the thread
    except RuntimeError:  # there can be no more threads
        with _lock:
            _worker = None
            for job in _queue:
                job.failed = job.done = True
            _queue.clear()
    finally:
        with _lock:
            if worker is not None and _worker is worker and worker.ident is None:
                _worker = None


def _work() -> None:
    """Do all jobs that there are; the next one starts another thread."""
    global _worker
    while True:
        with _lock:
            if not _queue:
                _worker = None
                return
            job = _queue.popleft()
        _do(job)


def _do(job: Job) -> None:
    from .numba_kernels.target import ANY, limited

    try:
        with limited(ANY, before=_check):
            job.work()
    except Exception:  # whatever it is: the stand-in does the same, and nobody asked for this
        job.failed = True
    if not job.failed:
        _jobs.pop(job.key, None)
    job.work = _nothing  # lets go of weights
    job.done = True


def _nothing() -> None:
    """What a job that is done has left to do."""


def _check(name: str) -> None:
    if _stopping:
        raise _Stopped(name)


def _stop() -> None:
    """Finish the kernel that is being compiled, and no other."""
    global _stopping
    _stopping = True
    worker = _worker
    if worker is not None and worker.is_alive():
        worker.join()


def wait() -> None:
    """Until no job is left; not for handlers of signals, which may have come while the thread is started."""
    while (worker := _worker) is not None:
        if worker.is_alive():
            worker.join()
        else:
            time.sleep(1e-3)  # it is about to start, or to say that it has ended
