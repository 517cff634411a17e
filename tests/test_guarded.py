"""The rig of `guarded` catches what it is there for: a kernel that reads one element beyond any of its arrays."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import FUSED, Case, make_data
from guarded import ENDS, Pages, Room, guard_weights

from dwcpu import dispatch
from dwcpu.epilogue import Activation
from dwcpu.geometry import ConvGeometry
from dwcpu.prepared import PreparedSingle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no mprotect")

GEOMETRY = ConvGeometry.depthwise((1, 5, 6, 20), (3, 3, 20), padding=1)
ARRAYS = ("x", "weights", "bias", "residual", "out")
ITEM = 4


def kernels() -> list[dispatch.Kernel]:
    """The first of each family."""
    found: dict[str, dispatch.Kernel] = {}
    for kernel in dispatch.kernels(np.float32):
        if kernel.op == "depthwise" and kernel.supports(GEOMETRY):
            found.setdefault(kernel.backend, kernel)
    return list(found.values())


def run(kernel: dispatch.Kernel, end: str, broken: str | None) -> None:
    """Run a kernel on guarded arrays; `broken` names one that is then read one element beyond its end."""
    room = Room()
    prepared = kernel.prepare(GEOMETRY, np.ones((3, 3, 20, 1), np.float32), np.ones(20, np.float32), Activation())
    guard_weights(prepared, room, end)
    arrays = {name: room.empty(name, GEOMETRY.x_shape, np.float32, end) for name in ("x", "residual", "out")}
    for array in arrays.values():
        array[...] = 1
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 4)
    right = signature(prepared._address)

    def reads_too_far(plan: int, x: int, residual: int, out: int, *rest: int) -> None:
        right(plan, x, residual, out, *rest)
        if broken is not None:
            packed = dict(zip(("weights", "bias"), (each.nbytes for each in prepared._packed), strict=True))
            size = packed.get(broken, arrays["x"].nbytes)
            begin = {"x": x, "residual": residual, "out": out}.get(broken) or int(prepared.plan[broken][0])
            ctypes.c_float.from_address(begin - ITEM if end == "begin" else begin + size).value  # noqa: B018  # for the fault

    wrapped = signature(reads_too_far)
    address = ctypes.cast(wrapped, ctypes.c_void_p).value
    assert address is not None
    prepared._address = address
    prepared.run(arrays["x"], arrays["residual"], arrays["out"], 1)
    assert room.touched() == []
    assert arrays["out"][0, 2, 2, 0] == 11


def ends_with(kernel: dispatch.Kernel, end: str, broken: str | None) -> int:
    """The signal that a child dies of, or 0."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        try:
            run(kernel, end, broken)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: kernel.name)
def test_a_read_of_one_element_too_far_ends_the_process(kernel: dispatch.Kernel, end: str) -> None:
    run(kernel, end, None)  # which compiles, where that is needed
    assert ends_with(kernel, end, None) == 0
    for broken in ARRAYS:
        assert ends_with(kernel, end, broken) in (signal.SIGSEGV, signal.SIGBUS), broken


@pytest.mark.parametrize("kernel", [k for k in dispatch.kernels(np.float32) if k.op in FUSED], ids=lambda k: k.name)
def test_weights_of_fused_kernels_are_moved_too(kernel: dispatch.Kernel) -> None:
    """Into every plan that the kernel, and those that it runs, read them from."""
    case = Case(kernel.op, (1, 6, 7, 20), 12, (3, 3))
    prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
    room = Room()
    guard_weights(prepared, room, "end")
    addresses = [plan[field] for plan in plans_of(prepared) for field in ("weights", "bias")]
    assert len(addresses) >= 2 * len(case.w_shapes)
    assert all(map(room.holds, addresses))


def plans_of(prepared: Any) -> Iterator[Any]:
    """Every plan that weights are read from, the copies that a fused kernel has of its window's included."""
    if isinstance(prepared, PreparedSingle):
        yield prepared.plan[0]
    for name in ("depthwise", "pointwise", "expand", "separable"):
        if hasattr(prepared, name):
            part = getattr(prepared, name)
            yield from () if isinstance(part, dispatch.Kernel) else plans_of(part)
    yield from getattr(prepared, "_stretches", ())
    for part in getattr(prepared, "parts", ()):
        yield from plans_of(part)


def test_writes_into_the_room_beside_an_array_are_seen() -> None:
    pages = Pages(100)
    for end, beside in (("begin", 5), ("end", -6)):
        array = pages.empty((5,), np.float32, end)
        array[...] = 3
        assert pages.is_clean()
        whole = pages.bytes.view(np.float32)
        whole[beside] = 3
        assert not pages.is_clean()


def test_writes_into_what_was_copied_are_seen() -> None:
    room = Room()
    x, w = (room.copy(name, np.ones(5, np.float32), "end") for name in ("x", "w"))
    room.empty("out", (5,), np.float32, "end")[...] = 3
    assert room.changed() == []
    w[4] = 3
    assert room.changed() == ["w"]
    x[0] = 3
    room.clear("begin")
    assert room.changed() == []
