"""Kernels between convolutions, run alone: on several numbers of threads, arrays against forbidden pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from guarded import Room

from dwcpu import pixels
from dwcpu.pipeline import Node, chain

__all__ = ["DTYPES", "ROOM", "guard_parameters", "run"]

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]
ROOM = Room()


def guard_parameters(kernel: pixels.PixelKernel, end: str) -> None:
    """Move the tables and numbers that the plan of a kernel points to against forbidden pages, each by itself."""
    kept = kernel._kept if isinstance(kernel._kept, tuple) else (kernel._kept,)
    arrays = [array for array in kept if isinstance(array, np.ndarray)]
    begins = {array.ctypes.data: array for array in arrays}
    addresses = {field: int(kernel._plan[field][0]) for field in ("weights", "bias")}
    stops = sorted([*addresses.values(), *(begin + array.nbytes for begin, array in begins.items())])
    for field, address in addresses.items():
        holder = [array for begin, array in begins.items() if begin <= address < begin + array.nbytes]
        if holder:
            begin = address - holder[0].ctypes.data
            size = next(stop for stop in stops if stop > address) - address
            content = np.frombuffer(holder[0].tobytes(), np.uint8)[begin : begin + size]
            kernel._plan[field] = ROOM.copy(field, content, end).ctypes.data


def run(kernel: pixels.PixelKernel | None, x: np.ndarray, out: np.ndarray, residual: Any = None) -> None:
    """Run a kernel on 1, 2 and 3 threads, arrays against forbidden pages, and see to it that the bits agree.

    So they must where the result lies over what the kernel reads, if that may be.
    """
    assert kernel is not None
    plan, found = kernel._plan.copy(), []
    for threads, end in ((1, "begin"), (1, "end"), (2, "end"), (3, "begin")):
        kernel._plan[...] = plan
        guard_parameters(kernel, end)
        given = ROOM.copy("x", x, end)
        added = None if residual is None else ROOM.copy("residual", residual, end)
        place = ROOM.copy("out", out, end)
        nodes = [Node(kernel, out.shape, None if residual is None else -1)]
        chain(nodes, x.shape, x.dtype, threads).run(given, added, place)
        assert ROOM.touched() == []
        assert given.tobytes() == x.tobytes()
        found.append(place.copy())
        for at, each in enumerate((given, added)):
            if each is not None and kernel._over[at] and each.nbytes == place.nbytes:
                before = given.copy(), None if added is None else added.copy()
                chain(nodes, x.shape, x.dtype, threads).run(given, added, each.reshape(out.shape))
                assert ROOM.touched() == []
                found.append(each.reshape(out.shape).copy())
                for array, content in zip((given, added), before, strict=True):
                    if array is not None:
                        array[...] = content
    assert len({each.tobytes() for each in found}) == 1
    out[...] = found[0]
