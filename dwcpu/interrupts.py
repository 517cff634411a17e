"""Work that no signal and no fork may break off halfway: a compiler, or the import of one.

Python runs handlers of signals on the main thread, between any two of its instructions, and Ctrl-C raises
KeyboardInterrupt there. Numba registers what it knows about functions and types step by step, when it is imported and
when it compiles; broken off in between, it would lack some of it for the rest of the process. A forked child has none
of its parent's other threads: what one of them was importing would stay locked in the child for ever.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TypeVar

__all__ = ["guard_forks", "imported", "lock", "uninterrupted"]

T = TypeVar("T")

#: Held by the thread that imports Numba or compiles. A fork waits for it, since the child would find Numba's own locks
#: held for ever. One for both: with two, a fork and a thread could each wait for what the other has.
lock = threading.RLock()

#: Bytes of stack that a compiler may need. The default is far more, but programs can ask for less.
_ENOUGH_STACK = 1 << 20

_here = 0  # pieces of work, one in the other, that the main thread does itself


def uninterrupted(work: Callable[[], T]) -> T:
    """The result of ``work()``, which the main thread leaves to another and waits for it.

    An interrupt ends the waiting, while the work goes on. Python ends only when it is done.

    Examples
    --------
    >>> uninterrupted(lambda: 6 * 7)
    42
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    if _here or sys.is_finalizing() or 0 < threading.stack_size() < _ENOUGH_STACK:
        return _on_the_main_thread(work)
    results: list[T] = []
    errors: list[BaseException] = []

    def do() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=do, name="dwcpu-uninterrupted")
    try:
        thread.start()
    except RuntimeError:  # there can be no more threads
        return _on_the_main_thread(work)
    thread.join()
    try:
        if errors:
            raise errors[0]
    finally:
        errors.clear()  # which its traceback leads to, so that what the caller holds would live on
    return results[0]


def _on_the_main_thread(work: Callable[[], T]) -> T:
    """What can be done nowhere else. Work within it may hold `lock`: another thread would wait for that for ever."""
    global _here
    _here += 1
    try:
        return work()
    finally:
        _here -= 1


@cache
def guard_forks() -> None:
    """Let forks wait for `lock` from now on."""
    # Forks take logging's lock, too, which Numba's import needs; what is registered last is called first: that is ours.
    import logging  # noqa: F401

    if hasattr(os, "register_at_fork"):
        # No functions in Python: an interrupt at the beginning of one would be ignored, and the lock would stay held.
        # In the child the thread that forked is the one that holds it.
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


_imported: dict[str, ModuleType] = {}


def imported(name: str) -> ModuleType:
    """The module of that name, of those that import Numba; a fork waits until it is there.

    Examples
    --------
    >>> imported("dwcpu.numba_kernels").__name__
    'dwcpu.numba_kernels'
    """
    found = _imported.get(name)
    if found is None:
        guard_forks()

        def load() -> ModuleType:
            with lock:
                return import_module(name)

        found = _imported[name] = uninterrupted(load)
    return found
