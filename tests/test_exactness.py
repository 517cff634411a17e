"""Exact and the same bits over many thousands of random geometries, on every kernel, instruction set and thread count.

Each test takes some geometries of one seed to a process for each machine that this one can stand in for (`exactness`),
and compares what they print. Compiled kernels run on every instruction set that is there and can run here. Numba's run
on this CPU, and at night also as they are compiled for a CPU of each narrower set, and on vectors of 64 bytes where
LLVM has to split them.

`DWCPU_TEST_SEED` asks for other geometries than the usual ones; a failure says how to repeat it alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from exactness import Report, geometries, geometry_for, is_affordable, trial
from nightly import CPUS, reduced

from dwcpu import cython_kernels, dispatch

SEED = int(os.environ.get("DWCPU_TEST_SEED", "5"))
CHUNKS, CHUNK = reduced((21, 1000), (1, 35))
#: Geometries that a whole run must have.
PROMISED = 20_000

COMPILED = cython_kernels.compiled()


class Machine(NamedTuple):
    """What is set in the environment of a process, and the backend whose kernels run there ("": both)."""

    settings: dict[str, str]
    backend: str


def machines() -> dict[str, Machine]:
    """Machines that this one can stand in for, first itself."""
    found = {"own": Machine({}, "")}
    for isa in COMPILED[:-1]:
        found[isa] = Machine({"DWCPU_ISA": isa}, "cython")
        cpu = CPUS.get(isa)
        if cpu and reduced(True, False):
            settings = {"DWCPU_ISA": isa, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
            found[isa] = Machine(settings, "")
    if reduced(True, False) and "x86-64-v4" not in COMPILED:
        found["64 bytes"] = Machine({"DWCPU_VECTOR_BYTES": "64"}, "numba")
    return found


def report(machine: Machine, first: int) -> Report:
    """What a process of the machine finds in the geometries from `first` on."""
    program = [sys.executable, str(Path(__file__).with_name("exactness.py"))]
    asked = ["--seed", str(SEED), "--first", str(first), "--count", str(CHUNK), "--backend", machine.backend]
    done = subprocess.run(
        [*program, *asked], env={**os.environ, **machine.settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{machine.settings} {' '.join([*program, *asked])}: {done.returncode}\n{done.stderr}"
    return Report(**json.loads(done.stdout))


@pytest.mark.parametrize("chunk", range(CHUNKS), ids=lambda chunk: f"seed-{SEED}-from-{chunk * CHUNK}")
def test_exact_and_the_same_bits_on_every_machine(chunk: int) -> None:
    first = chunk * CHUNK
    reports = {name: report(machine, first) for name, machine in machines().items()}
    failures = [text for each in reports.values() for text in each.failures]
    assert not failures, "\n".join(failures)
    for name, each in reports.items():
        for dtype, digests in each.digests.items():
            assert len(digests) == CHUNK
            if name == "own":
                assert all(digests), "a geometry that no kernel took"
            if each.fused and reports["own"].fused:
                for number, (mine, own) in enumerate(zip(digests, reports["own"].digests[dtype], strict=True), first):
                    assert mine in ("", own), (
                        f"{trial(SEED, number)} in {dtype}: other bits on {each.machine} than on "
                        f"{reports['own'].machine}; again: python tests/exactness.py --seed {SEED} --first {number}, "
                        f"with and without {machines()[name].settings}"
                    )


@pytest.mark.nightly
def test_as_many_geometries_as_promised_and_every_kernel_among_them() -> None:
    trials = [trial(SEED, number) for number in range(CHUNKS * CHUNK)]
    assert len({each.case for each in trials}) >= PROMISED
    all_forms = [geometries(each.case) for each in trials]
    for kernel in dispatch.kernels():
        found = (geometry_for(kernel, forms) for forms in all_forms)
        taken = sum(geometry is not None and is_affordable(kernel, geometry) for geometry in found)
        assert taken >= 10, f"{kernel.name}: {taken} of {len(trials)} geometries"
