"""Memory between pages that nobody may touch: a read or write one element beyond an array ends the process.

An array lies at one end of its pages, the page next to it is forbidden; at the other end there is room, which is filled
with a pattern and checked. So tests look at both ends, one after the other. A process that dies names its test, under
pytest-xdist by the worker that is gone, else by faulthandler.
"""

from __future__ import annotations

import ctypes
import mmap
from math import prod
from typing import Any

import numpy as np

from dwcpu.fused import PreparedInverted, PreparedRepeated, PreparedSeparable, PreparedSplit
from dwcpu.prepared import Prepared, PreparedSingle

__all__ = ["ENDS", "Pages", "Room", "guard_weights"]

ENDS = ("begin", "end")

#: What is beside arrays, at the end that has room.
PATTERN = bytes([0xA5]) * 1024


class Pages:
    """Pages for one array at a time, forbidden ones before and after them."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.size = -(-max(size, 1) // page) * page
        self._map = mmap.mmap(-1, self.size + 2 * page)
        self._whole = np.frombuffer(self._map, np.uint8)
        start = self._whole.ctypes.data
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for where in (start, start + page + self.size):
            if protect(where, page, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = self._whole[page : page + self.size]

    def empty(self, shape: tuple[int, ...], dtype: Any, end: str) -> np.ndarray:
        """Array at the end that is named ("begin" or "end"), with `PATTERN` beside it."""
        kind = np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        first = 0 if end == "begin" else self.size - size
        last = first + size
        self._beside = self.bytes[last : last + len(PATTERN)] if end == "begin" else self.bytes[:first][-len(PATTERN) :]
        self._beside[...] = bytearray(PATTERN[: self._beside.size])
        return self.bytes[first:last].view(kind).reshape(shape)

    def is_clean(self) -> bool:
        """Whether what is beside the array is as it was."""
        return self._beside.tobytes() == PATTERN[: self._beside.size]


class Room:
    """Pages for several arrays at a time, each with a name, kept from one call to the next."""

    def __init__(self) -> None:
        self._pages: dict[str, Pages] = {}
        self._used: set[str] = set()
        self._copies: dict[str, tuple[np.ndarray, bytes]] = {}
        self.end = "end"

    def clear(self, end: str) -> None:
        """Begin anew, with arrays at this end; their pages are kept for the next ones."""
        self._used.clear()
        self._copies.clear()
        self.end = end

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any, end: str) -> np.ndarray:
        """As `Pages.empty`; the array that had this name before is gone."""
        size = prod(shape) * np.dtype(dtype).itemsize
        pages = self._pages.get(name)
        if pages is None or pages.size < size:
            pages = self._pages[name] = Pages(2 * size)
        self._used.add(name)
        self._copies.pop(name, None)
        return pages.empty(shape, dtype, end)

    def copy(self, name: str, array: np.ndarray, end: str) -> np.ndarray:
        """The array, C-contiguous, in guarded memory."""
        made = self.empty(name, array.shape, array.dtype, end)
        made[...] = array
        self._copies[name] = made, made.tobytes()
        return made

    def touched(self) -> list[str]:
        """Names of the arrays beside which something was written."""
        return [name for name in sorted(self._used) if not self._pages[name].is_clean()]

    def changed(self) -> list[str]:
        """Names of the copies that are not what they were."""
        return [name for name, (array, content) in self._copies.items() if array.tobytes() != content]

    def holds(self, address: int) -> bool:
        """Whether an address is in guarded memory."""
        spans = ((pages.bytes.ctypes.data, pages.size) for pages in self._pages.values())
        return any(start <= address < start + size for start, size in spans)


def guard_weights(prepared: Prepared, room: Room, end: str, name: str = "") -> None:
    """Move the packed weights and biases of a prepared kernel, and of those that it runs, to guarded memory."""
    if isinstance(prepared, PreparedSingle):
        for field, packed in zip(("weights", "bias"), prepared._packed, strict=True):
            prepared.plan[field] = room.copy(f"{name}{field}", packed, end).ctypes.data
    elif isinstance(prepared, PreparedSeparable):
        guard_weights(prepared.depthwise, room, end, f"{name}depthwise ")
        guard_weights(prepared.pointwise, room, end, f"{name}pointwise ")
        for field in ("weights", "bias"):
            prepared._stretches[field] = prepared.depthwise.plan[field]
    elif isinstance(prepared, PreparedInverted):
        guard_weights(prepared.expand, room, end, f"{name}expand ")
        guard_weights(prepared.separable, room, end, f"{name}separable ")
    elif isinstance(prepared, PreparedRepeated):
        guard_weights(prepared.depthwise, room, end, f"{name}depthwise ")
    elif isinstance(prepared, PreparedSplit):
        for number, part in enumerate(prepared.parts):
            guard_weights(part, room, end, f"{name}{number} ")
    else:
        raise TypeError(f"guard_weights: what is {type(prepared).__name__}?")
