"""Work that no signal may break off halfway: a compiler, or the import of one.

Python runs handlers of signals on the main thread, between any two of its instructions, and Ctrl-C raises
KeyboardInterrupt there. Numba registers what it knows about functions and types step by step, when it is imported and
when it compiles; broken off in between, it would lack some of it for the rest of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["uninterrupted"]

T = TypeVar("T")


def uninterrupted(work: Callable[[], T]) -> T:
    """The result of ``work()``, which the main thread leaves to another and waits for it.

    An interrupt ends the waiting, while the work goes on; whoever needs its result next waits for the rest. Python ends
    only when it is done.

    Examples
    --------
    >>> uninterrupted(lambda: 6 * 7)
    42
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
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
        return work()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
