"""Memory on large pages, where the system lends them: for weights, and for what lies between the kernels of a network.

A network's weights and activations are some thousand pages of 4 KiB. A CPU knows the addresses of fewer, and in a
virtual machine to look one up takes two tables after another, again for each page that a run comes back to. Pages of
2 MiB are few enough: networks take 0.97 of the time (benchmarks/ANALYSIS.md). Linux gives them where a program asks
(`madvise`), unless it is told not to, and takes them apart where memory is short; elsewhere this is memory like any
other.
"""

from __future__ import annotations

import contextlib
import mmap
from functools import cache
from pathlib import Path

import numpy as np

from .arrays import LINE, aligned

__all__ = ["lasting", "whole"]

#: What is left of pages that `lasting` cuts up. Only `pop` and `append`, which are safe from many threads: one that
#: finds none begins a page of its own.
_rests: list[np.ndarray] = []
_NOTHING = np.empty(0, np.uint8)


def lasting(size: int) -> np.ndarray:
    """`size` bytes on a cache line for what is made once and read often, such as weights.

    Small arrays that are made one after the other lie side by side on a large page, which is free again when the last
    of them is gone: a small one that is left over holds that page, but no more. Others have pages of their own.
    """
    large = _large()
    if large == 0:
        return aligned(size, np.dtype(np.uint8))
    if size >= large // 2:
        return whole(size)
    taken = -(-size // LINE) * LINE
    try:
        rest = _rests.pop()
    except IndexError:
        rest = _NOTHING
    if rest.size >= taken:
        result, rest = rest[:size], rest[taken:]
    else:
        fresh = whole(large)
        result, rest = fresh[:size], max(rest, fresh[taken:], key=len)
    _rests.append(rest)
    return result


def whole(size: int) -> np.ndarray:
    """`size` bytes at the beginning of a page, of a large one if they fill half of it or more.

    Raises
    ------
    MemoryError
        If there is no such memory.
    """
    large = _large()
    if large and size >= large // 2:
        with contextlib.suppress(OSError, OverflowError):  # no memory: there is none below either, and NumPy says so
            length = -(-size // large) * large + large  # with room to begin at a large page
            return _begun(_advised(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)), size, large)
    return _begun(np.empty(size + mmap.PAGESIZE, np.uint8), size, mmap.PAGESIZE)


def _advised(memory: mmap.mmap) -> np.ndarray:
    """As bytes; the system knows that large pages are wanted there."""
    with contextlib.suppress(OSError):  # a kernel that was built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _begun(raw: np.ndarray, size: int, page: int) -> np.ndarray:
    start = -raw.ctypes.data % page
    return raw[start : start + size]


@cache
def _large() -> int:
    """Bytes of a large page; 0 if there are none that are worth it."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return 0
    try:
        size = int(Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0
    return size if size <= 4 << 20 else 0  # with base pages of 64 KiB it is 512 MiB
