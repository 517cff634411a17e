"""An interrupt at any place in the functions of this package where Python can raise one: the call works the next time.

A timer's interrupts (`test_resources`) come where the time is spent; a place that is passed within a microsecond meets
one in years. Here a child of this process is traced, instruction by instruction, and broken off at the one whose number
it is given: at night at every place that a call passes for the first time, by day at those of `runtime`, which hands
out memory, and at some others.
"""

from __future__ import annotations

import dis
import gc
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from nightly import is_nightly

import dwcpu
from dwcpu import calls, runtime

PACKAGE = str(Path(dwcpu.__file__).parent)
TRIED = 6
SEED = int(os.environ.get("DWCPU_TEST_SEED", "5"))
SECONDS = 60

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.skipif(runtime.cython_kernels() is None, reason="Numba's compiler would be traced, too"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of forks beside threads
]

rng = np.random.default_rng(0)
DW, PW = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((3, 3, 8), (8, 8)))
X = rng.integers(-3, 4, (1, 9, 11, 8)).astype(np.float32)
LARGE = rng.integers(-3, 4, (1, 40, 60, 8)).astype(np.float32)
LARGE_RIGHT = dwcpu.separable_conv2d(LARGE, DW, PW, padding=1, backend="reference")


@cache
def instructions(code: CodeType) -> dict[int, str]:
    """Names of a function's instructions, by where they begin."""
    return {each.offset: each.opname for each in dis.get_instructions(code)}


#: Instructions before and after which Python may look for signals: after those that run code of others, too.
BEFORE, AFTER = ("RESUME", "JUMP_BACKWARD"), ("CALL", "LOAD_ATTR", "LOAD_METHOD", "BINARY", "COMPARE", "CONTAINS")


class Tracer:
    """Counts the places where an interrupt can come."""

    def __init__(self, break_at: int) -> None:
        self.count, self.break_at, self.where = 0, break_at, ""
        #: By function and instruction: the number of its first time.
        self.first: dict[tuple[CodeType, int], int] = {}

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:
        """For each function that is called."""
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        names, before = instructions(frame.f_code), ""

        def step(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "opcode":
                name = names.get(frame.f_lasti, "")
                if before.startswith(AFTER) or name.startswith(BEFORE):
                    self.count += 1
                    self.first.setdefault((frame.f_code, frame.f_lasti), self.count)
                    if self.count == self.break_at:
                        self.where = "".join(traceback.format_stack(frame)[-4:])
                        raise KeyboardInterrupt
                before = name
            return step

        return step

    def run(self, work: Callable[[], object]) -> bool:
        """Whether the work was broken off."""
        sys.settrace(self.enter)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False


def in_a_child(work: Callable[[int], str], number: int) -> str:
    """What the work says, given the number, in a child of this process; that of one that dies is how it did."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "did not end"
        try:
            signal.alarm(SECONDS)
            gc.freeze()  # what other tests have left is not looked through in every child
            said = work(number)
        except BaseException:
            said = traceback.format_exc()
        finally:
            with os.fdopen(write, "wb") as pipe:
                pipe.write(said.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if status == 0 else f"exit status {status} {said}"


def check(made: Any, x: np.ndarray, expected: np.ndarray) -> None:
    """That the call gives what it should, for the first time and when it is remembered, also on larger images."""
    for _ in range(3):
        assert np.array_equal(made(x), expected)
    assert not isinstance(made, calls.Caller) or made.known
    for threads in (1, 2):
        assert np.array_equal(dwcpu.separable_conv2d(LARGE, DW, PW, padding=1, num_threads=threads), LARGE_RIGHT)
    assert calls._pool.free
    address, memory = runtime._scratch.memory
    assert memory.size == 0 or memory.ctypes.data <= address < memory.ctypes.data + 64
    gc.collect()


def model() -> Callable[..., np.ndarray]:
    import onnx.parser

    made = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
    net (float[N,8,H,W] x) => (float[N,8,H,W] y) {
        a = Conv<group=8, pads=[1,1,1,1]>(x, dw)
        b = HardSwish(a)
        y = Conv(b, pw)
    }""")
    for name, w in (("dw", DW.transpose(2, 0, 1)[:, None]), ("pw", PW.T[:, :, None, None])):
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(w), name))
    loaded = dwcpu.load_onnx(made.SerializeToString())
    return lambda x: loaded(x, layout="NHWC")  # on as many threads as the context says


#: What makes each kind of call anew, so that nothing of it has been planned.
MAKERS: dict[str, Callable[[], Callable[[np.ndarray], np.ndarray]]] = {
    "function": lambda: lambda x: dwcpu.depthwise_conv2d(x, DW, padding=1),
    "functions": lambda: lambda x: dwcpu.separable_conv2d(x, DW, PW, padding=1, pw_activation="relu"),
    "layer": lambda: dwcpu.SeparableConv2d(DW, PW, padding=1),
    "channels first": lambda: dwcpu.PointwiseConv2d(PW.repeat(11, 0)[:11], layout="NCHW"),
    "layers": lambda: dwcpu.Sequential(dwcpu.DepthwiseConv2d(DW), dwcpu.PointwiseConv2d(PW)),
    "model": model,
}


#: By day: the others are made of these.
BY_DAY = ("function", "layer", "channels first", "model")


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "kind", [kind if kind in BY_DAY else pytest.param(kind, marks=pytest.mark.nightly) for kind in MAKERS]
)
def test_a_call_that_is_broken_off_works_the_next_time(kind: str, threads: int) -> None:
    if kind == "model":
        pytest.importorskip("onnx")
    x = np.ascontiguousarray(X.transpose(0, 2, 3, 1)) if kind == "channels first" else X
    with dwcpu.num_threads(threads):
        expected = MAKERS[kind]()(x)
        check(MAKERS[kind](), x, expected)
        calls.forget()
        runtime._scratch.memory = runtime._NO_SCRATCH
        made = MAKERS[kind]()

        def places(_: int) -> str:
            tracer = Tracer(0)
            tracer.run(lambda: made(x))
            found = [(number, Path(code.co_filename).name) for (code, _), number in tracer.first.items()]
            return json.dumps(found)

        def broken_off(at: int) -> str:
            tracer = Tracer(at)
            if not tracer.run(lambda: made(x)):
                return f"the interrupt at {at} did not come through"
            try:
                check(made, x, expected)
            except BaseException:
                return f"broken off at {at}, which is\n{tracer.where}\n{traceback.format_exc()}"
            return ""

        found = json.loads(in_a_child(places, 0))
        assert len(found) > 20
        tried = [number for number, _ in found]
        if not is_nightly():
            of_memory = [number for number, name in found if name == "runtime.py"]
            tried = sorted({*of_memory, *random.Random(SEED).sample(tried, TRIED)})
        for number in tried:
            said = in_a_child(broken_off, number)
            assert not said, f"{said}\n(DWCPU_TEST_SEED={SEED})"
