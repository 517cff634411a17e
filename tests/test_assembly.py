"""Machine code of the hot kernels: multiply-adds on the widest vectors of the target, sums that stay in registers.

Of each kernel the innermost loops with multiply-adds are looked at: the instructions from the target of a backward jump
to the jump. Compiled modules are disassembled; what Numba compiles is asked for its assembly, for two CPUs by name, so
that the result does not depend on this machine's.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from dwcpu import cython_kernels

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="reads the assembly of x86-64"
)

#: Rows of a GEMM's tallest tiles by the size of a vector, and by the vectors of a panel: TILE_ROWS in tile.h.
TILE_ROWS = {32: {1: 9, 2: 6, 3: 4}, 64: {1: 14, 2: 14, 3: 9, 4: 6}}
#: Vectors of a depthwise tile's outputs.
OUTPUTS = 8
WINDOWS = {"3x3s1": 9, "3x3s2": 9, "5x5s1": 25}
#: Those of the compiled family: whole tiles, and two vectors at a time.
COMPILED_WINDOWS = {f"inner_{size}x{size}s{stride}": size * size for size in (3, 5, 7) for stride in (1, 2)}
COMPILED_WINDOWS |= {"wide_3x3s2": 9}
#: Tiles of seven columns, whose two rows of outputs find their weights in registers: instructions for a multiply-add.
SEVENS = {"3x3s1": 2.2, "5x5s1": 1.8, "5x5s2": 1.95, "7x7s1": 1.55}
#: Rows of seven outputs, two at once if they find their weights so.
PAIRS = ("3x3s1", "3x3s2", "5x5s1", "5x5s2", "7x7s1")

#: Inputs that a turn of the GEMM takes, and that the first layer's GEMM unrolls.
TURN, UNROLLED_RUN = 4, 9
#: Instructions for each multiply-add of a GEMM: a core that is shared with a busy neighbour issues three a cycle, and
#: then nothing else counts.
MOST_INSTRUCTIONS, MOST_NUMBA_INSTRUCTIONS = 1.9, {32: 2.0, 64: 2.4}
#: The same of a window's tiles, all that surrounds their sums included. Without addresses that loads compute themselves
#: they took a tenth more.
MOST_WINDOW_INSTRUCTIONS = {
    32: {"inner_3x3s1": 2.6, "inner_3x3s2": 2.4, "wide_3x3s2": 3.4, "inner_5x5s1": 2.2, "inner_5x5s2": 1.95,
         "inner_7x7s1": 2.15, "inner_7x7s2": 2.05},
    64: {"inner_3x3s1": 2.45, "inner_3x3s2": 2.55, "inner_5x5s1": 1.8, "inner_5x5s2": 2.15, "inner_7x7s1": 1.8,
         "inner_7x7s2": 2.45},
}  # fmt: skip

#: Multiply-adds of a compiled GEMM for each move to or from the stack that may be among them. GCC 12 and 13 need none,
#: 14 to 16 keep a value or two there, in places where loads and stores have time; a sum that were kept there would be
#: read and written with every input.
ADDS_A_MOVE = 10
#: Moves to and from the stack that are known, a tile: LLVM keeps four vectors of the 3x3s2 window there on AVX2, eight
#: moves for 72 multiply-adds, and of the 5x5s1 window on AVX-512, eight for 200.
NUMBA_MOVES = {("3x3s2", 32): 8, ("5x5s1", 64): 8}

FMA = re.compile(r"vfn?m(?:add|sub)\d+p[sd]\s")
LABEL = re.compile(r"^(?:[0-9a-f]+ <)?([\w.$]+)(?:>)?:\s*$")
DISASSEMBLED = re.compile(r"^\s+([0-9a-f]+):\s+(\S.*)$")
JUMP = re.compile(r"^j[a-z]+\s+(\.?\w+)")
STACK = re.compile(r"%[xyz]mm\d+.*\(%rsp|\(%rsp.*%[xyz]mm\d+")
STORE = re.compile(r"vmovup[sd]\s+%[yz]mm\d+,(?!.*\(%rsp)")
SAVED = re.compile(r"movq?\s+%r\w+,\s*-?(?:0x)?[0-9a-f]*\(%rsp\)")
FRAME = re.compile(r"%[xyz]mm\d+.*\(%rbp|\(%rbp.*%[xyz]mm\d+")


class Loop(NamedTuple):
    """An innermost loop with multiply-adds."""

    multiply_adds: int
    registers: frozenset[str]  # xmm, ymm, zmm: of the multiply-adds
    stack: tuple[str, ...]  # instructions that move a vector register to or from the stack
    instructions: int
    saved: tuple[str, ...]  # those that store a number on the stack, which costs a turn of a GEMM half a cycle or more


def functions(listing: str) -> dict[str, list[tuple[str | None, str]]]:
    """Names -> (label, instruction), of a disassembly or of a compiler's assembly in the syntax of AT&T."""
    found: dict[str, list[tuple[str | None, str]]] = {}
    body: list[tuple[str | None, str]] = []
    for line in listing.splitlines():
        if disassembled := DISASSEMBLED.match(line):
            body.append((disassembled[1], disassembled[2]))
        elif label := LABEL.match(line):
            if label[1].startswith(".L"):
                body.append((label[1], ""))
            else:
                body = found.setdefault(label[1], [])
        elif line.startswith("\t") and not line.startswith("\t."):
            body.append((None, line.strip()))
    return found


def loops(body: list[tuple[str | None, str]]) -> list[Loop]:
    """The innermost loops with multiply-adds of a function."""
    places = {label: place for place, (label, _) in enumerate(body) if label}
    code = [instruction for _, instruction in body]
    framed = any(re.search(r"mov\w*\s+%rsp,\s*%rbp", instruction) for instruction in code)
    spans = set()
    for end, instruction in enumerate(code):
        jump = JUMP.match(instruction)
        if jump and places.get(jump[1], end + 1) <= end and any(map(FMA.match, code[places[jump[1]] : end])):
            spans.add((places[jump[1]], end))
    inner: list[tuple[int, int]] = []
    taken: set[int] = set()  # by shorter loops: one around them need not begin before they do, if it enters elsewhere
    for first, end in sorted(spans, key=lambda span: span[1] - span[0]):
        sums = {place for place in range(first, end) if FMA.match(code[place])}
        if not sums & taken:
            inner.append((first, end))
            taken |= sums
    result = []
    for first, end in sorted(inner):
        part = code[first : end + 1]
        products = [instruction for instruction in part if FMA.match(instruction)]
        stack = [text for text in part if STACK.search(text) or (framed and FRAME.search(text))]
        registers = frozenset(name for text in products for name in re.findall(r"%([xyz]mm)\d", text))
        saved = tuple(text for text in part if SAVED.match(text))
        result.append(Loop(len(products), registers, tuple(stack), sum(bool(text) for text in part), saved))
    return result


def check(
    found: list[Loop], multiply_adds: int, vector_bytes: int, moves: int = 0, most_instructions: float = 99.0
) -> None:
    """Fail unless a loop has so many multiply-adds, all on whole vectors, and at most `moves` to and from the stack.

    And unless it has at most so many instructions for each multiply-add.
    """
    hot = [loop for loop in found if loop.multiply_adds == multiply_adds]
    assert hot, f"no loop of {multiply_adds} multiply-adds; there are {[loop.multiply_adds for loop in found]}"
    for loop in hot:
        assert loop.registers == {"zmm" if vector_bytes == 64 else "ymm"}
        assert loop.instructions <= most_instructions * multiply_adds, f"{loop.instructions} for {multiply_adds}"
        assert len(loop.stack) <= moves, f"{multiply_adds} multiply-adds and {len(loop.stack)} stack: {loop.stack}"


GOOD = """
sum:
\tmovq\t24(%rsp), %rax
.LBB0_1:
\tvmovups\t(%rax), %ymm2
\tvfmadd231ps\t(%rdx), %ymm2, %ymm0
\tvfmadd231ps\t32(%rdx), %ymm2, %ymm1
\tincq\t%rcx
\tjne\t.LBB0_1
\tretq
"""
#: The same from a disassembler.
GOOD_BYTES = """
0000000000001000 <sum>:
    1000:\tmov    0x18(%rsp),%rax
    1005:\tvmovups (%rax),%ymm2
    1009:\tvfmadd231ps (%rdx),%ymm2,%ymm0
    100e:\tvfmadd231ps 0x20(%rdx),%ymm2,%ymm1
    1014:\tinc    %rcx
    1017:\tjne    1005 <sum+0x5>
    1019:\tret
"""


@pytest.mark.parametrize("listing", [GOOD, GOOD_BYTES], ids=["assembly", "disassembly"])
def test_the_checker_sees_what_it_looks_for(listing: str) -> None:
    check(loops(functions(listing)["sum"]), 2, 32)
    spills = [
        listing.replace("(%rdx)", "-0x38(%rsp)", 1),  # a sum's factor, read from the stack
        listing.replace("(%rax),", "0x40(%rsp,%rcx,8),", 1),
        re.sub(r"inc(q?)\s+%rcx", r"vmovaps %ymm7, 64(%rsp)", listing),
        re.sub(r"inc(q?)\s+%rcx", r"vmovaps -64(%rbp),%ymm7", listing.replace("0x18(%rsp),%rax", "%rsp,%rbp")).replace(
            "movq\t24(%rsp), %rax", "movq\t%rsp, %rbp"
        ),
    ]
    for spilled in spills:
        assert spilled != listing
        with pytest.raises(AssertionError, match="1 stack"):
            check(loops(functions(spilled)["sum"]), 2, 32)
        check(loops(functions(spilled)["sum"]), 2, 32, moves=1)
    with pytest.raises(AssertionError, match="ymm"):
        check(loops(functions(listing)["sum"]), 2, 64)
    with pytest.raises(AssertionError, match="ymm"):
        check(loops(functions(listing.replace("%ymm", "%xmm"))["sum"]), 2, 32)
    with pytest.raises(AssertionError, match="no loop of 3"):
        check(loops(functions(listing)["sum"]), 3, 32)
    check(loops(functions(listing)["sum"]), 2, 32, 0, 2.5)
    with pytest.raises(AssertionError, match="5 for 2"):
        check(loops(functions(listing)["sum"]), 2, 32, 0, 2.0)


# Compiled modules


@cache
def disassembly(isa: str, real: str) -> dict[str, list[tuple[str | None, str]]]:
    """The hot functions of one compiled module, by their names in the source."""
    spec = importlib.util.find_spec(f"dwcpu.cython_kernels._{isa}_{real}")
    if spec is None or spec.origin is None:
        pytest.skip(f"the kernels for {isa} are not compiled")
    if shutil.which("objdump") is None:
        pytest.skip("there is no objdump")
    if "clang" in cython_kernels._build_info().get("compiler", ""):
        pytest.skip("clang unrolls otherwise")
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", spec.origin], capture_output=True, text=True, check=True
    ).stdout
    known = "gemm|few_pixels|inner|left|right|both|wide|side|narrow|flat|close|by_two|row_of"
    prefix = re.compile(rf".*_{isa}_{real}_(?=({known})_)")
    found = {prefix.sub("", name): body for name, body in functions(listing).items() if prefix.match(name)}
    if not found:
        pytest.skip("the compiled module has no symbols")
    return found


@cache
def gcc_version(isa: str, real: str) -> int:
    """Major version of the GCC that made a module, or 0."""
    spec = importlib.util.find_spec(f"dwcpu.cython_kernels._{isa}_{real}")
    assert spec is not None
    found = re.search(rb"GCC: \([^)]*\) (\d+)\.", Path(str(spec.origin)).read_bytes())
    return int(found[1]) if found else 0


TARGETS = [(isa, size, real) for isa, size in (("x86_64_v3", 32), ("x86_64_v4", 64)) for real in ("f32", "f64")]


@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_gemm(isa: str, size: int, real: str) -> None:
    found = disassembly(isa, real)
    more = 0.1 if real == "f64" else 0.0  # inputs take twice as many cache lines: one more is asked for
    sums = {vectors: rows * vectors for vectors, rows in TILE_ROWS[size].items() if vectors > 1}
    sizes = {f"gemm_{kind}_{vectors}": TURN * sums[vectors] for kind in ("one", "whole") for vectors in sums}
    sizes |= {f"gemm_colour_{vectors}": UNROLLED_RUN * sums[vectors] for vectors in sums}
    for name, multiply_adds in sizes.items():
        if (isa, real, name) == ("x86_64_v4", "f64", "gemm_whole_2") and gcc_version(isa, real) >= 16:
            continue  # it keeps some sums on the stack, 270 instructions for 112 multiply-adds
        hot = loops(found[name])
        check(hot, multiply_adds, size, multiply_adds // ADDS_A_MOVE, MOST_INSTRUCTIONS + more)
        assert not [loop.saved for loop in hot if loop.multiply_adds == multiply_adds and loop.saved]


@pytest.mark.parametrize("real", ["f32", "f64"])
def test_compiled_short_tiles(real: str) -> None:
    """Tiles of seven rows, which some CPUs take: their multiply-adds splat the inputs of five."""
    for vectors, most in ((2, 2.1), (3, 1.75)):  # without 0.35 and 0.24 more
        body = disassembly("x86_64_v4", real)[f"gemm_short_whole_{vectors}"]
        hot = [loop for loop in loops(body) if loop.multiply_adds == TURN * 7 * vectors]
        assert hot
        for loop in hot:
            assert loop.registers == {"zmm"} and not loop.stack
            assert loop.instructions <= most * loop.multiply_adds


@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_groups_of_few_channels(isa: str, size: int, real: str) -> None:
    """Tiles of one vector, whose inputs are vectors in memory, and with AVX-512 of half of one, of splat inputs."""
    found = disassembly(isa, real)
    names = {"gemm_joined": size} | ({"gemm_half_runs_1": 32} if size == 64 else {})
    for name, register in names.items():
        check(loops(found[name]), TURN * TILE_ROWS[size][1], register, 0, 1.6)


@pytest.mark.parametrize("real", ["f32", "f64"])
def test_half_vectors(real: str) -> None:
    """Of 24 outputs, a vector and a half with AVX-512, half of the multiply-adds are of half a vector.

    All splat their input while they load it: an instruction that splats takes a slot of theirs.
    """
    body = disassembly("x86_64_v4", real)["gemm_half_2"]
    hot = [loop for loop in loops(body) if loop.multiply_adds == TURN * 28]
    assert hot
    for loop in hot:
        assert loop.registers == {"zmm", "ymm"} and not loop.stack
        assert loop.instructions <= MOST_INSTRUCTIONS * loop.multiply_adds
    whole, half = {"f32": (16, 8), "f64": (8, 4)}[real]
    products = [instruction for _, instruction in body if FMA.match(instruction)]
    assert len([text for text in products if f"{{1to{whole}}}" in text]) == len(products) / 2
    assert len([text for text in products if f"{{1to{half}}}" in text]) == len(products) / 2


@pytest.mark.parametrize("window", COMPILED_WINDOWS)
@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_depthwise(isa: str, size: int, real: str, window: str) -> None:
    if window.startswith("wide") and size == 64:
        pytest.skip("a vector is a cache line: none has a neighbour in it")
    found = loops(disassembly(isa, real)[window])
    check(found, OUTPUTS * COMPILED_WINDOWS[window], size, 0, MOST_WINDOW_INSTRUCTIONS[size][window])


@pytest.mark.parametrize("window", SEVENS)
@pytest.mark.parametrize("real", ["f32", "f64"])
def test_compiled_sevens(real: str, window: str) -> None:
    """At borders, if they have tiles of their own, nothing is computed for columns that are outside."""
    size, edge = int(window[0]), int(window[0]) // 2
    sides = {"inner": 0} if window.endswith("s2") else {"inner": 0, "left": 1, "right": 1, "both": 2}
    for side, cut in sides.items():
        multiply_adds = 2 * size * (7 * size - cut * edge * (edge + 1) // 2)
        found = loops(disassembly("x86_64_v4", real)[f"{side}_seven_{window}"])
        check(found, multiply_adds, 64, 4 if cut and size == 7 else 0, SEVENS[window])  # four moves are known


@pytest.mark.parametrize("strip", ["close_10", "by_two_10"])
@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_strips(isa: str, size: int, real: str, strip: str) -> None:
    """Three taps of ten outputs share inputs; those at the borders of an image are for fewer outputs, or one by one."""
    found = loops(disassembly(isa, real)[strip])
    check(found, 3 * 10, size, 0, 2.0)
    for outputs in range(4, 10) if strip == "by_two_10" else (10,):
        check(found, outputs, size)


@pytest.mark.parametrize("real", ["f32", "f64"])
def test_compiled_tiles_of_large_windows(real: str) -> None:
    """Two taps of 4 x 4 outputs share inputs and weights; on AVX2 strips do all."""
    check(loops(disassembly("x86_64_v4", real)["row_of_tiles"]), 32, 64, 0, 1.7)


@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_few_channels(isa: str, size: int, real: str) -> None:
    """Tiles of four vectors, and of all rows that registers hold, share inputs."""
    found, rows = disassembly(isa, real), 4 if size == 64 else 2
    check(loops(found[f"flat_rows_{rows}"]), 4 * rows, size, 0, 2.5)
    for window, most in ((3, 3.7), (5, 2.8), (7, 2.5)):  # of the first, what follows the sum is half
        check(loops(found[f"flat_window_{window}"]), 4 * rows * window * window, size, 0, most)
        check(
            loops(found[f"flat_cut_window_{window}"]), rows * window * window, size, 0 if size == 64 else 2 * window, 9
        )


@pytest.mark.parametrize("isa", ["x86_64_v3", "x86_64_v4"])
def test_turned_inputs_take_few_shuffles(isa: str) -> None:
    """Of float32: each vector two, three where it has four blocks of 128 bits, and none to put halves together."""
    body = [instruction for _, instruction in disassembly(isa, "f32")["few_pixels_1"]]
    products = sum(bool(FMA.match(each)) for each in body)
    shuffles = [each for each in body if re.match(r"v(unpck|shuf|perm)", each)]
    moved = [each for each in body if re.match(r"v(insertf|broadcastf)\w+\s+(\$0x1,)?-?(0x)?[0-9a-f]*\(", each)]
    assert products <= len(moved) <= 1.1 * products
    assert len(shuffles) <= (2.2 if isa == "x86_64_v3" else 3.3) * products


@pytest.mark.parametrize("window", [name.replace("inner", "side") for name in COMPILED_WINDOWS if "inner" in name])
@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_sides(isa: str, size: int, real: str, window: str) -> None:
    """Columns that are tested make GCC keep a few inputs on the stack: no sum, which were one a multiply-add.

    What is done where a column is outside may lie behind the loop.
    """
    multiply_adds = OUTPUTS * COMPILED_WINDOWS[window.replace("side", "inner")]
    found = loops(disassembly(isa, real)[window])
    most = max(loop.multiply_adds for loop in found)
    assert 0.95 * multiply_adds < most <= multiply_adds
    check(found, most, size, multiply_adds // ADDS_A_MOVE, 4.4)


@pytest.mark.parametrize("window", [f"narrow_7_{size}x{size}s{stride}" for size in (3, 5, 7) for stride in (1, 2)])
@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_compiled_narrow_rows(isa: str, size: int, real: str, window: str) -> None:
    """A row of seven outputs, or two: no sum is kept on the stack. What is done at borders may lie behind the loop."""
    at_once = size == 64 and window.removeprefix("narrow_7_") in PAIRS
    if window == "narrow_7_3x3s2" and not at_once:
        pytest.skip("tiles are as fast")
    body = disassembly(isa, real)[window]
    row = 7 * int(window[9]) ** 2
    assert sum(bool(FMA.match(instruction)) for _, instruction in body) == (3 if at_once else 1) * row
    found = loops(body)
    for multiply_adds in (2 * row, row) if at_once else (row,):
        most = max(loop.multiply_adds for loop in found if loop.multiply_adds <= multiply_adds)
        assert 0.55 * multiply_adds < most
        check(found, most, size, multiply_adds // ADDS_A_MOVE, 5.0)


@pytest.mark.parametrize("real", ["f32", "f64"])
def test_weights_of_wide_tiles_are_read_once(real: str) -> None:
    """72 multiply-adds, 50 inputs, 36 weights: GCC would read weights with each multiply-add, 72 of them."""
    body = [instruction for _, instruction in disassembly("x86_64_v3", real)["wide_3x3s2"]]
    adds = [place for place, instruction in enumerate(body) if FMA.match(instruction)]
    loads = [each for each in body[adds[0] : adds[-1] + 1] if re.match(r"v\w+\s.*\(%.*\).*,%ymm\d+$", each)]
    assert 80 < len(loads) <= 104


@pytest.mark.parametrize("name", ["gemm_whole_2", "gemm_whole_3", "gemm_one_2", *COMPILED_WINDOWS])
@pytest.mark.parametrize(("isa", "size", "real"), TARGETS)
def test_stores_take_turns(isa: str, size: int, real: str, name: str) -> None:
    """An activation stands before every store of a tile's results: one store behind the other is slow on Zen 3."""
    if name.startswith("wide") and size == 64:
        pytest.skip("a vector is a cache line: none has a neighbour in it")
    pairs, since, computed = 0, False, False  # since: a store, with no jump after it
    for _, instruction in disassembly(isa, real)[name]:
        if STORE.match(instruction):
            assert computed or not since, f"a second store at once: {instruction}"
            pairs += since
            since, computed = True, False
        elif instruction.startswith(("vmin", "vmul")):
            computed = True
        elif instruction.startswith(("j", "ret", "notrack")):
            since = False
    assert pairs > 0


# Numba

#: Compiles without running: prints the assembly of each kernel after its name.
PROGRAM = """
import importlib, numpy as np
from dwcpu.numba_kernels import depthwise, pointwise
target = importlib.import_module("dwcpu.numba_kernels.target")
dtype, lanes, turn = np.dtype(np.float32), target.target().lanes(4), pointwise.inputs_a_turn()
for whole in (False, True):
    for vectors in (2, 3):
        pointwise.micro_kernel(dtype, pointwise.tallest(vectors), vectors, whole)
for vectors in (1, 2, 3):
    for height in range(2, pointwise.tallest(vectors)):
        for whole in (False, True)[turn == 1 :]:
            pointwise.micro_kernel(dtype, height, vectors, whole)
for size, stride in ((3, 1), (3, 2), (5, 1)):
    window = depthwise.Window(size, size, stride, stride)
    plain = depthwise._build_plain(dtype, window, depthwise.tile_shape(window), lanes, 1, 1)
    target.compile_kernel(f"{size}x{size}s{stride}", lambda: plain)
for name, kernel in target._compiled.items():
    print(f"kernel {name}\\n{kernel._library.get_asm_str()}")
"""


@pytest.fixture(scope="module", params=[("haswell", 32), ("znver4", 64)], ids=["avx2", "avx512"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """Size of a vector, and assembly of the kernels by name, for a CPU that need not be this one."""
    pytest.importorskip("numba")
    cpu, size = request.param
    folder: Path = tmp_path_factory.mktemp(cpu)
    names = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(folder)}
    environment = {key: value for key, value in os.environ.items() if key != "DWCPU_VECTOR_BYTES"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **names}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^kernel (\S+)\n", done.stdout, flags=re.MULTILINE)[1:]
    return size, dict(zip(parts[::2], parts[1::2], strict=True))


def numba_loops(listing: str) -> list[Loop]:
    """All loops of one kernel's module, whichever function they are in."""
    return [loop for body in functions(listing).values() for loop in loops(body)]


def test_numba_gemm(compiled: tuple[int, dict[str, str]]) -> None:
    size, kernels = compiled
    turn = TURN if size == 32 else 1  # LLVM unrolls nothing where registers are many
    # a tile of three vectors has few rows to share the loads of its weights
    for vectors, more in ((2, 0.0), (3, 0.3 if turn == 1 else 0.0)):
        rows = TILE_ROWS[size][vectors]
        name = f"gemm_f32_{rows}x{vectors}v"
        for listing in (kernels[name], kernels[f"{name}_whole"]):
            check(numba_loops(listing), turn * rows * vectors, size, 0, MOST_NUMBA_INSTRUCTIONS[size] + more)


def test_numba_gemm_of_any_height(compiled: tuple[int, dict[str, str]]) -> None:
    """Sums that are kept on the stack take 1.3 to 4 times as long, depending on where that is."""
    names = [name for name in compiled[1] if name.startswith("gemm")]
    assert len(names) > 10
    for name in names:
        found = [loop for loop in numba_loops(compiled[1][name]) if loop.multiply_adds]
        assert found
        assert not any(loop.stack for loop in found), name


@pytest.mark.parametrize("window", WINDOWS)
def test_numba_depthwise(compiled: tuple[int, dict[str, str]], window: str) -> None:
    size, kernels = compiled
    check(numba_loops(kernels[window]), OUTPUTS * WINDOWS[window], size, NUMBA_MOVES.get((window, size), 0))
