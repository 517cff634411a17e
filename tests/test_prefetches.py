"""What tiles of matrix products ask for ahead, as a compiled module tells that writes down each address."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import BUILD, compiles, copied_tree

from dwcpu import cython_kernels as kernels

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython", minversion="3.1")

#: In place of asking for a line.
TOLD = '{ __builtin_prefetch(p, 0, 2); dprintf(2, "asked %p\\n", (const void *)p); }'

#: Runs one product of `pixels` pixels and prints where what it was told to ask for lies.
PROGRAM = """
import sys
import numpy as np
import dwcpu
from dwcpu import dispatch

pixels, depth, columns, size = map(int, sys.argv[1:])
(kernel,) = (each.name for each in dispatch.kernels(np.float32, "cython") if each.op == "pointwise")
layer = dwcpu.PointwiseConv2d(np.ones((depth, columns), np.float32), backend=kernel)
x = np.ones((1, pixels, 1, depth), np.float32)
(node,) = layer.nodes(x.shape, 1)
prepared, later = node.operation, np.ones(size // 4, np.float32)
(own,) = prepared.passes(1)
# The higher tiles are, the fewer ask; and of all of it the second panel, which asks for two shares, would miss some.
size = min(size, own.room // 2 // 1024 * 1024)
prepared.plan["later"], prepared.plan["later_size"] = later.ctypes.data, size
prepared.run(x, None, np.empty((1, pixels, 1, columns), np.float32), 1)
print(later.ctypes.data, size)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    isa = (kernels.isa() or "").replace("-", "_")
    if sys.platform != "linux" or not isa or not compiles():
        pytest.skip("there is no compiler, or there are no compiled kernels")
    tree = copied_tree(tmp_path_factory.mktemp("told") / "tree")
    package = tree / "dwcpu" / "cython_kernels"
    for path in Path(kernels.__file__).parent.glob("*.so"):
        shutil.copy(path, package)
    header = package / "tile.h"
    told = "V_INLINE void v_prefetch(const real *p) { __builtin_prefetch(p, 0, 2); }"
    text = header.read_text()
    assert told in text
    header.write_text("#include <stdio.h>\n" + text.replace(told, told[: told.index("{")] + TOLD))
    command = [sys.executable, "-c", BUILD, "-O1", f"_{isa}_f32"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    return tree


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("pixels", "depth", "columns"),
    [(784, 64, 128), (784, 64, 32), (784, 64, 64), (1001, 96, 48), (1001, 96, 96), (400, 192, 64)],
)
def test_all_that_is_to_be_asked_for_is(tree: Path, pixels: int, depth: int, columns: int) -> None:
    """By two panels, three and more, each its share: of the last panel tiles have no next one to ask for."""
    size = 64 * 200
    command = [sys.executable, "-c", PROGRAM, *map(str, (pixels, depth, columns, size))]
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    begin, size = map(int, done.stdout.split())
    if size == 0:
        pytest.skip("a single panel, whose tiles ask for their inputs")
    assert size >= 64 * 30
    asked = {int(line.split()[1], 16) - begin for line in done.stderr.splitlines() if line.startswith("asked")}
    assert {place // 64 for place in asked if 0 <= place < size} >= set(range(size // 64))
