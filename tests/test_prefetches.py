"""What tiles of matrix products and windows ask for ahead, as a compiled module tells that writes down each address."""

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

pixels, depth, columns, size, asks = map(int, sys.argv[1:])
(kernel,) = (each.name for each in dispatch.kernels(np.float32, "cython") if each.op == "pointwise")
layer = dwcpu.PointwiseConv2d(np.ones((depth, columns), np.float32), backend=kernel)
x = np.ones((1, pixels, 1, depth), np.float32)
(node,) = layer.nodes(x.shape, 1)
prepared, later = node.operation, np.ones(size // 4, np.float32)
prepared.plan["asks_out"] = asks
(own,) = prepared.passes(1)
later_size, soon_size = (min(size, most) for most in own.room)  # the higher tiles are, the fewer ask
soon = np.ones(size // 4, np.float32)
prepared.plan["later"], prepared.plan["later_size"] = later.ctypes.data, later_size
prepared.plan["soon"], prepared.plan["soon_size"] = soon.ctypes.data, soon_size
prepared.run(x, None, np.empty((1, pixels, 1, columns), np.float32), 1)
print(later.ctypes.data, later_size, soon.ctypes.data, soon_size)
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
    header = package / "vectors.h"
    told = "V_INLINE void v_prefetch(const real *p) { __builtin_prefetch(p, 0, 2); }"
    told_out = "V_INLINE void v_prefetch_out(real *p) { __builtin_prefetch(p, 1, 3); }"
    text = header.read_text()
    for each in (told, told_out):
        assert each in text
        text = text.replace(each, each[: each.index("{")] + TOLD)
    header.write_text("#include <stdio.h>\n" + text)
    command = [sys.executable, "-c", BUILD, "-O1", f"_{isa}_f32"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    return tree


def asked_by(tree: Path, program: str, *arguments: int) -> tuple[list[int], set[int]]:
    """What a program says, and the addresses that its kernel asked for."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    asked = {int(line.split()[1], 16) for line in done.stderr.splitlines() if line.startswith("asked")}
    return list(map(int, done.stdout.split())), asked


def lines(begin: int, end: int, asked: set[int]) -> set[int]:
    """Which lines of a range were asked for, from the first one on."""
    return {(place - begin) // 64 for place in asked if begin <= place < end}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("pixels", "depth", "columns"),
    [
        (784, 64, 128),
        (784, 64, 32),
        (784, 64, 64),
        (1001, 96, 48),
        (1001, 96, 96),
        (400, 192, 64),
        (49, 160, 960),
        (784, 64, 120),
    ],
)
def test_all_that_is_to_be_asked_for_is(tree: Path, pixels: int, depth: int, columns: int) -> None:
    """By two panels, three and more, each its share: of the last panel tiles have no next one to ask for."""
    (*places,), asked = asked_by(tree, PROGRAM, pixels, depth, columns, 64 * 200, 0)
    if places[3] == 0:
        pytest.skip("a single panel, whose tiles ask for their inputs")
    assert places[3] >= 64 * 30
    assert places[1] > 0 or columns < 96 or pixels < 100, "tiles between the first panel and the last have time"
    for begin, size in (places[:2], places[2:]):
        assert lines(begin, begin + size, asked) >= set(range(size // 64))


@pytest.mark.nightly
@pytest.mark.parametrize("pixels", [56, 100, 112])
def test_tiles_of_fewer_rows_ask_for_all_that_they_have_room_for(tree: Path, pixels: int) -> None:
    """Those that ask for lines of outputs, too."""
    (*places,), asked = asked_by(tree, PROGRAM, pixels, 64, 128, 64 * 10_000, 1)
    begin, size = places[2:]
    assert size >= 64 * 16 * (pixels // 14)
    assert lines(begin, begin + size, asked) >= set(range(size // 64))


#: Runs one product, and prints where its outputs lie.
OUTPUTS = """
import sys
import numpy as np
import dwcpu
from dwcpu import arrays
from dwcpu.abi import ASKING_ROWS

pixels, depth, columns, asks = map(int, sys.argv[1:])
layer = dwcpu.PointwiseConv2d(np.ones((depth, columns), np.float32), backend="cython")
x, out = (arrays.aligned((1, pixels, 1, size), np.dtype(np.float32)) for size in (depth, columns))
x[...] = 1
(node,) = layer.nodes(x.shape, 1)
node.operation.plan["asks_out"] = asks
node.operation.run(x, None, out, 1)
print(out.ctypes.data, out.nbytes, 2 * min(node.operation.kernel.tile_rows, ASKING_ROWS) * out[0, 0].nbytes)
"""


@pytest.mark.nightly
@pytest.mark.parametrize(("pixels", "depth", "columns"), [(784, 64, 128), (1001, 24, 160), (300, 7, 64)])
def test_tiles_ask_for_lines_that_are_written_to(tree: Path, pixels: int, depth: int, columns: int) -> None:
    """Those of the tile after the next: all but those of the first two, and rows where higher tiles come first."""
    (begin, size, first), asked = asked_by(tree, OUTPUTS, pixels, depth, columns, 1)
    wanted = set(range(-(-first // 64), size // 64))
    assert len(wanted - lines(begin, begin + size, asked)) < len(wanted) // 100
    assert not lines(begin, begin + first, asked)
    _, asked = asked_by(tree, OUTPUTS, pixels, depth, columns, 0)
    assert not lines(begin, begin + size, asked)


#: Runs a fused kernel in blocks, and prints where the inputs begin that the first one does not read, and their bytes.
SEPARABLE = """
import sys
import numpy as np
import dwcpu
from dwcpu import dispatch, runtime

columns = int(sys.argv[1])
runtime.cache_sizes = lambda: runtime.Memory(32768, 300_000, 1 << 20)
(kernel,) = (k.name for k in dispatch.kernels(np.float32, "cython") if (k.op, k.label) == ("separable", "fused"))
layer = dwcpu.SeparableConv2d(np.ones((3, 3, 64), np.float32), np.ones((64, columns), np.float32), backend=kernel)
x = np.ones((1, 62, 40, 64), np.float32)
(node,) = layer.nodes(x.shape, 1)
prepared = node.operation
assert prepared.plan["asks_ahead"][0] == 1
prepared.run(x, None, np.empty((1, 60, 38, columns), np.float32), 1)
read = (int(prepared.plan["block_rows"][0]) + 2) * x[0, 0].nbytes
print(x.ctypes.data + read, x.nbytes - read)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("columns", [64, 96, 160])
def test_blocks_ask_for_inputs_of_the_next(tree: Path, columns: int) -> None:
    """Of two panels too, of which the second is the last. There is not time for all."""
    (begin, size), asked = asked_by(tree, SEPARABLE, columns)
    assert len(lines(begin, begin + size, asked)) > 100


#: Runs one window and prints where its weights lie.
WINDOW = """
import sys
import numpy as np
import dwcpu

size, channels, pixels = map(int, sys.argv[1:])
layer = dwcpu.DepthwiseConv2d(np.ones((size, size, channels), np.float32), padding="same", backend="cython")
x = np.ones((1, pixels, pixels, channels), np.float32)
(node,) = layer.nodes(x.shape, 1)
node.operation.run(x, None, np.empty_like(x), 1)
print(*node.operation.weights)
"""


@pytest.mark.nightly
@pytest.mark.parametrize(("size", "channels", "pixels"), [(3, 960, 7), (5, 1152, 7), (5, 240, 14), (3, 500, 20)])
def test_windows_ask_for_their_weights(tree: Path, size: int, channels: int, pixels: int) -> None:
    """But for those of the first blocks, which nobody can ask for in time."""
    (begin, length), asked = asked_by(tree, WINDOW, size, channels, pixels)
    found = lines(begin, begin + length, asked)
    assert found == set(range(min(found), (length + 63) // 64))
    assert min(found) <= 2 * 72 + size * size


#: Runs a window whose outputs begin so many bytes behind a line, and prints where they lie.
STRADDLING = """
import sys
import numpy as np
import dwcpu
from dwcpu import arrays

height, width, size, stride, behind, crowded = map(int, sys.argv[1:])
x = arrays.aligned((1, height, width, 64), np.dtype(np.float32))
x[...] = 1
layer = dwcpu.DepthwiseConv2d(np.ones((size, size, 64), np.float32), stride=stride, padding="same", backend="cython")
(node,) = layer.nodes(x.shape, 1)
out = np.ndarray(node.out_shape, x.dtype, arrays.aligned(x.nbytes + 64, np.dtype(np.uint8)), behind)
node.operation.plan["crowded_rows"] = crowded
node.operation.run(x, None, out, 1)
print(out.ctypes.data, out.nbytes)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("width", [6, 7, 14, 30])
def test_windows_ask_for_second_lines_of_their_outputs(tree: Path, width: int) -> None:
    """Where these begin between lines: all but the very first, at borders and of a last odd row, too. Nor else any."""
    for size, stride in (3, 1), (3, 2), (5, 1), (7, 1), (7, 2):
        for behind, crowded in (16, 0), (0, 0), (16, 7):
            (begin, bytes_), asked = asked_by(tree, STRADDLING, 7, width, size, stride, behind, crowded)
            wanted = set(range(1, bytes_ // 64 + 1)) if (behind, crowded) == (16, 0) else set()
            own = {address // 64 - begin // 64 for address in asked if begin <= address < begin + bytes_ + 64}
            assert own >= wanted and bool(own) == bool(wanted), (size, stride, behind, crowded)
