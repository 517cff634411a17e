"""Numba kernels for vectors that this CPU does not have, or for one without a fused multiply-add.

Each width is forced in a process of its own; LLVM then splits or narrows the vectors, and tiles, tails and packing are
those of the other machine. The results must be the bits of this machine's own width.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from nightly import reduced

#: Prints a digest of each operation's result on random data, and whether all are right on integers.
PROGRAM = """
import hashlib, json, numpy as np
import dwcpu
from dwcpu.numba_kernels.target import Target
import dwcpu.numba_kernels, sys

rng = np.random.default_rng(0)
digests, exact = {}, True

# Each dtype compiles kernels of its own; in double precision a few say enough.
DOUBLES = "3x3 20", *sys.argv[1:]

def check(name, operation, *shapes, **options):
    global exact
    for dtype in (np.float32, np.float64) if name in DOUBLES else (np.float32,):
        arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
        result = operation(*arrays, backend="numba", **options)
        digests[f"{name} {dtype.__name__}"] = hashlib.sha256(result.tobytes()).hexdigest()
        arrays = [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]
        mine, right = (operation(*arrays, backend=which, **options) for which in ("numba", "reference"))
        exact &= np.array_equal(mine, right)

for channels in (3, 20, 35):
    image = (1, 9, 11, channels)
    check(f"3x3 {channels}", dwcpu.depthwise_conv2d, image, (3, 3, channels), (channels,), padding=1)
    check(f"pointwise {channels}", dwcpu.pointwise_conv2d, image, (channels, 37), (37,))
check("any", dwcpu.depthwise_conv2d, (1, 12, 13, 21), (9, 8, 21), (21,), padding=4, stride=2)
check("multiplier", dwcpu.depthwise_conv2d, (1, 9, 9, 10), (3, 3, 10, 2), (20,), padding=1)
check("conv", dwcpu.conv2d, (2, 9, 10, 3), (3, 3, 3, 19), (19,), stride=2, padding=1, activation="relu6")
target = sys.modules["dwcpu.numba_kernels.target"].target()
print(json.dumps([target.vector_bytes, target.fma, bool(exact), digests]))
"""


def run(**environment: str) -> tuple[int, bool, bool, dict[str, str]]:
    """What `PROGRAM` printed with these settings."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *reduced(["pointwise 20", "any"], [])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def own() -> tuple[int, dict[str, str]]:
    """Size of this machine's own vectors, and digests with them."""
    used, _, exact, digests = run()
    assert exact
    return used, digests


@pytest.mark.parametrize("size", [pytest.param(16, marks=pytest.mark.nightly), 32, 64])
def test_every_vector_width_gives_the_same_bits(own: tuple[int, dict[str, str]], size: int) -> None:
    if size == own[0]:
        return  # which was seen to be exact
    used, fma, exact, digests = run(DWCPU_VECTOR_BYTES=str(size))
    assert used == size
    assert exact
    if fma:
        assert digests == own[1]


@pytest.mark.nightly  # by day `test_isa` sees to it, where there are compiled kernels
def test_without_fused_multiply_add_integers_are_still_exact() -> None:
    _, fma, exact, _ = run(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert exact
    assert not fma or sys.platform != "linux" or os.uname().machine != "x86_64"


def test_an_unknown_width_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dwcpu; print(dwcpu.list_kernels())"],
        env={**os.environ, "DWCPU_VECTOR_BYTES": "24"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "DWCPU_VECTOR_BYTES: got '24'; it must be 16, 32 or 64" in done.stderr
