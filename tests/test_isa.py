"""The compiled modules: every instruction set that this machine can run gives the same bits, and the driver cuts grids.

Each instruction set is forced with `DWCPU_ISA` in a process of its own, and with `NUMBA_CPU_NAME` for Numba's kernels.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nightly import COMPILE_ONCE, CPUS, is_nightly

from dwcpu import abi, cython_kernels
from dwcpu.numba_kernels import driver

COMPILED = cython_kernels.compiled()

pytestmark = pytest.mark.skipif(not COMPILED, reason=f"no compiled kernels: {cython_kernels.status()}")

#: Prints a digest of every operation's result on random data, and whether all are right on integers.
PROGRAM = """
import hashlib, json, numpy as np
import dwcpu
from dwcpu import cython_kernels

rng = np.random.default_rng(0)
digests, exact = {}, True
for dtype in (np.float32, np.float64):
    def random(*shape):
        return rng.normal(size=shape).astype(dtype)
    def integers(*shape):
        return rng.integers(-4, 5, shape).astype(dtype)
    for channels in (1, 3, 8, 20, 35):
        for size, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 1, 2), (7, 2, 1), (4, 3, 1)):
            options = dict(stride=stride, dilation=dilation, padding=size // 2, activation="silu")
            call = lambda make, **more: dwcpu.depthwise_conv2d(
                make(2, 11, 13, channels), make(size, size, channels), make(channels), **more)
            digests[f"depthwise {dtype.__name__} {channels} {size} {stride} {dilation}"] = call(
                random, backend="cython", **options)
        conv = lambda make, **more: dwcpu.conv2d(
            make(1, 9, 10, channels), make(3, 3, channels, 37), make(37), stride=2, padding=1, **more)
        digests[f"conv {dtype.__name__} {channels}"] = conv(random, backend="cython", activation="gelu")
        arrays = integers(1, 9, 10, channels), integers(channels, 37), integers(37)
        exact &= np.array_equal(dwcpu.pointwise_conv2d(*arrays, backend="cython"),
                                dwcpu.pointwise_conv2d(*arrays, backend="reference"))
digests = {name: [hashlib.sha256(a.tobytes()).hexdigest(), float(abs(a.astype(float)).sum())]
           for name, a in digests.items()}
print(json.dumps([cython_kernels.isa(), bool(exact), digests]))
"""


def test_modules_know_their_names() -> None:
    """They are made from one translation to C, in which names are replaced."""
    isa = str(cython_kernels.isa()).replace("-", "_")
    for dtype in ("f32", "f64"):
        name = f"dwcpu.cython_kernels._{isa}_{dtype}"
        module = importlib.import_module(name)
        assert (module.__name__, module.functions.__module__) == (name, name)


def run(code: str, isa: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DWCPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def results() -> dict[str, list]:
    """Instruction set -> what `PROGRAM` printed."""
    import json

    printed = {}
    for isa in COMPILED:
        done = run(PROGRAM, isa)
        assert done.returncode == 0, done.stderr
        printed[isa] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize("isa", COMPILED)
def test_the_asked_instruction_set_runs(results: dict[str, list], isa: str) -> None:
    name, exact, _ = results[isa]
    assert name == isa
    assert exact


@pytest.mark.parametrize("isa", COMPILED)
def test_all_with_a_fused_multiply_add_give_the_same_bits(results: dict[str, list], isa: str) -> None:
    widest = results[COMPILED[-1]][2]
    for what, (digest, total) in results[isa][2].items():
        if isa != "x86-64-v2":  # multiplies, rounds, then adds
            assert digest == widest[what][0], what
        assert total == pytest.approx(widest[what][1], rel=1e-4), what


def pass_the_tests_of_kernels(which: str, file: str = "test_kernels.py", **environment: str) -> None:
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", which]
    done = subprocess.run(
        [*program, *(["--nightly"] if is_nightly() else []), str(Path(__file__).with_name(file))],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("isa", COMPILED[:-1])
def test_kernels_of_narrower_sets_pass_the_tests_of_kernels(isa: str) -> None:
    """Exact on whole numbers, against guard pages, on what this machine would not choose."""
    pass_the_tests_of_kernels("exact and __cython", DWCPU_ISA=isa)


@pytest.mark.parametrize("isa", COMPILED[:-1])
def test_activations_are_as_near_on_narrower_sets(isa: str) -> None:
    """Also where no multiply-add is fused."""
    pass_the_tests_of_kernels("float32_activations and not leaky", "test_numbers.py", DWCPU_ISA=isa)
    pass_the_tests_of_kernels("close", "test_activations.py", DWCPU_ISA=isa)


@pytest.mark.parametrize("isa", [isa for isa in COMPILED[:-1] if isa in CPUS])
def test_numba_kernels_for_narrower_sets_pass_the_tests_of_kernels(isa: str) -> None:
    """As Numba compiles them for a CPU of that level; by day the depthwise ones of 3x3, each for one window."""
    pytest.importorskip("numba")
    reduced_form = {} if is_nightly() else {COMPILE_ONCE: "1"}
    which = "exact and __numba" + ("" if is_nightly() else " and depthwise_f32 and (3x3 or any_1x8v1 or flat3)")
    pass_the_tests_of_kernels(which, DWCPU_ISA=isa, NUMBA_CPU_NAME=CPUS[isa], NUMBA_CPU_FEATURES="", **reduced_form)


@pytest.mark.parametrize("isa", [*COMPILED[:-1], "none"])
def test_numba_kernels_do_not_depend_on_the_instruction_set(isa: str) -> None:
    """Although second passes of their activations are compiled ones, where those round alike."""
    code = """
import hashlib, numpy as np, dwcpu
rng = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    x, w = (rng.normal(0, 4, shape).astype(dtype) for shape in ((1, 9, 9, 20), (3, 3, 20)))
    for activation in ("silu", "gelu"):
        out = dwcpu.depthwise_conv2d(x, w, activation=activation, backend="numba")
        print(hashlib.sha256(out.tobytes()).hexdigest())
"""
    pytest.importorskip("numba")
    results = [run(code, name) for name in (isa, COMPILED[-1])]
    assert results[0].returncode == 0, results[0].stderr
    assert results[0].stdout == results[1].stdout


def test_the_widest_is_the_default() -> None:
    code = "from dwcpu import cython_kernels; print(cython_kernels.isa())"
    assert run(code, "").stdout.strip() == COMPILED[-1]


def test_none_switches_compiled_kernels_off() -> None:
    code = "from dwcpu import cython_kernels as k; print(k.available(), k.rows('float32'), k.status())"
    assert run(code, "none").stdout.startswith("False [] none: DWCPU_ISA=none rules out ")


@pytest.mark.parametrize("isa", ["sse9", "neon" if COMPILED[0].startswith("x86") else "x86-64-v3"])
def test_an_unknown_name_is_ignored_with_a_warning(isa: str) -> None:
    done = run("from dwcpu import cython_kernels; print(cython_kernels.isa())", isa)
    assert done.stdout.strip() == COMPILED[-1]
    text = rf"RuntimeWarning: dwcpu: DWCPU_ISA is '{isa}'; it must be one of none, (.*); it is ignored"
    told = re.search(text, done.stderr)
    assert told is not None, done.stderr
    assert set(COMPILED) <= set(told[1].split(", "))
    assert isa not in told[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_modules_know_the_plan_and_all_activations(dtype: str) -> None:
    module = cython_kernels._modules[dtype]
    assert module.ABI == abi.ABI
    assert sorted(cython_kernels.activations(dtype)) == sorted(abi.ACTIVATION_CODES.values())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("rows", "granule", "row_parts", "blocks", "block_parts", "tasks"),
    [
        (10, 1, 1, 1, 1, 1), (10, 4, 3, 7, 2, 6), (1, 6, 4, 3, 3, 12), (13, 2, 5, 1, 1, 5), (0, 1, 2, 4, 2, 4),
        (100, 7, 8, 9, 4, 32), (14, 2, 7, 12, 2, 2), (13, 2, 7, 5, 4, 4), (100, 7, 8, 9, 4, 5), (10, 2, 5, 3, 8, 3),
    ],
)  # fmt: skip
def test_drivers_cover_the_grid_once(
    rows: int, granule: int, row_parts: int, blocks: int, block_parts: int, tasks: int, threads: int
) -> None:
    calls: list[tuple[int, ...]] = []
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 9)
    kernel = signature(lambda *arguments: calls.append(arguments))
    address = ctypes.cast(kernel, ctypes.c_void_p).value
    cut = 64, rows, granule, row_parts, blocks, block_parts, tasks, threads
    cython_kernels.run(address, 1, 2, 3, 4, 1000, *cut, True)
    by_tasks: dict[int, set[tuple[int, ...]]] = {}
    grid = np.zeros((rows, blocks), int)
    for plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end in calls:
        assert (plan, x, residual, out) == (1, 2, 3, 4)
        assert row_begin % granule == 0 and (row_end % granule == 0 or row_end == rows)
        grid[row_begin:row_end, block_begin:block_end] += 1
        assert 1000 <= scratch < 1000 + 64 * tasks and (scratch - 1000) % 64 == 0
        by_tasks.setdefault(scratch, set()).add((row_begin, row_end, block_begin, block_end))
    assert (grid == 1).all()
    assert max(map(len, by_tasks.values()), default=0) <= 3
    if rows and tasks == 2:
        half = [sum((r1 - r0) * (b1 - b0) for r0, r1, b0, b1 in each) for each in by_tasks.values()]
        assert half == [rows * blocks / 2] * 2

    before = by_tasks
    for run in (driver.serial(), driver.parallel())[:threads]:
        calls.clear()
        run(address, 1, 2, 3, 4, 1000, *cut, True)
        by_tasks = {}
        for call in calls:
            by_tasks.setdefault(call[4], set()).add(call[5:])
        assert by_tasks == before, "Numba's drivers cut otherwise"
