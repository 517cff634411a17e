"""Compiled kernels on disk: kept privately, shared by processes, and never taken for what they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
from nightly import reduced

import dwcpu
from dwcpu import abi

target = import_module("dwcpu.numba_kernels.target")  # whose name is that of a function too

PACKAGE = Path(dwcpu.__file__).parent

#: Compiles one kernel, or loads it, and says which; the result is checked.
ONE_KERNEL = """
import sys
import numpy as np, dwcpu

x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
w = np.arange(8, dtype=np.float32).reshape(4, 2)
result = dwcpu.pointwise_conv2d(x, w, backend="numba", num_threads=1)
assert np.array_equal(result, dwcpu.pointwise_conv2d(x, w, backend="reference"))
# what only compiling needs
print("compiled" if "numba.np.arraymath" in sys.modules else "loaded")
"""


def started(code: str, folder: Path | None = None, **environment: str) -> subprocess.Popen:
    """A program in a process of its own, in a folder whose modules it finds first."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen) -> str:
    """What it prints."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def run(code: str, folder: Path | None = None, **environment: str) -> str:
    """Output of a program in a process of its own."""
    return output(started(code, folder, **environment))


#: Which copy of the package a program found.
WHERE = "import dwcpu; print(dwcpu.__file__)"


def test_compiled_kernels_are_cached_privately(tmp_path) -> None:
    code = """
    import sys
    import numpy as np, dwcpu
    x, w = np.ones((1, 9, 9, 8), np.float32), np.ones((3, 3, 8), np.float32)
    dwcpu.depthwise_conv2d(x, w, backend="numba")
    target = sys.modules["dwcpu.numba_kernels.target"]
    print(sum(kernel.cache_hits for kernel in target._compiled.values()), target.compiled_count())
    """
    folder = tmp_path / "cache"
    cold = run(code, NUMBA_CACHE_DIR=str(folder)).split()
    warm = run(code, NUMBA_CACHE_DIR=str(folder)).split()
    assert cold[0] == "0" and warm[0] == warm[1] == cold[1]
    assert (folder / "dwcpu").stat().st_mode & 0o077 == 0


def test_kernels_from_the_cache_do_not_wait_for_what_only_compiling_needs(tmp_path) -> None:
    """Drivers too, whose machine code refers to Numba's runtime and to its threads."""
    code = """
    import sys
    import numpy as np
    from dwcpu.numba_kernels import driver, pointwise
    calls = [0] * 12
    driver.serial()(*calls, 1, 1, 1), driver.parallel()(*calls, 1, 2, 1)
    pointwise.address(np.dtype("f4")), pointwise.micro_kernel(np.dtype("f4"), 2, 1)
    print("numba.np.arraymath" in sys.modules)
    """
    assert [run(code, NUMBA_CACHE_DIR=str(tmp_path)).strip() for _ in range(2)] == ["True", "False"]


def test_kernels_from_different_processes_are_not_taken_for_each_other(tmp_path) -> None:
    """Each is the first that its process compiles: the same function of the same factory, with other constants."""
    code = """
    import numpy as np, dwcpu
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (1, 12, 12, 8)).astype(np.float32)
    for size in {}:
        w = rng.integers(-4, 5, (size, size, 8)).astype(np.float32)
        arguments = dict(padding=1, num_threads=1)
        right = dwcpu.depthwise_conv2d(x, w, backend="reference", **arguments)
        print(size, np.array_equal(dwcpu.depthwise_conv2d(x, w, backend="numba", **arguments), right))
    """
    sizes = reduced((3, 5, 4), (3, 2))
    for size in sizes:
        run(code.format((size,)), NUMBA_CACHE_DIR=str(tmp_path))
    printed = run(code.format(sizes), NUMBA_CACHE_DIR=str(tmp_path)).splitlines()
    assert printed == [f"{size} True" for size in sizes]


def test_a_damaged_cache_is_compiled_anew(tmp_path) -> None:
    code = """
    import numpy as np, dwcpu, warnings
    warnings.simplefilter("ignore")
    x, w = np.ones((1, 2, 2, 3), np.float32), np.ones((3, 2), np.float32)
    print(dwcpu.pointwise_conv2d(x, w, backend="numba")[0, 0, 0])
    """
    right = run(code, NUMBA_CACHE_DIR=str(tmp_path))

    def cut(content: bytes) -> bytes:
        return content[:50]

    def flip(content: bytes) -> bytes:  # within the tables of the object file, which LLVM believes
        return content[:600] + bytes([content[600] ^ 255]) + content[601:]

    files = sorted((tmp_path / "dwcpu").glob("*.nbc"))
    assert len(files) > 1
    for turn in reduced((0, 1), (0,)):
        for number, file in enumerate(files):
            file.write_bytes((cut, flip)[(number + turn) % 2](file.read_bytes()))
        assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == right
        assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == right


def test_no_damaged_byte_of_a_cache_is_believed(tmp_path) -> None:
    from dwcpu.numba_kernels.target import _Files

    files = _Files(str(tmp_path), "kernel", "stamp")
    files.save(("key",), {"code": b"12345"})
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            files.load(("key",))
    file.write_bytes(content)
    assert files.load(("key",)) == {"code": b"12345"}


@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_a_cache_file_that_others_may_write_to_is_not_read(tmp_path: Path, mode: int) -> None:
    from dwcpu.numba_kernels.target import _Files

    files = _Files(str(tmp_path), "kernel", "stamp")
    files.save(("key",), "code")
    (path,) = tmp_path.iterdir()
    path.chmod(mode)
    with pytest.raises(PermissionError, match="not this user's alone"):
        files.load(("key",))


def test_cache_files_of_other_sources_go_and_those_of_other_cpus_stay(tmp_path) -> None:
    from dwcpu.numba_kernels.target import _Files

    old, new, other = (_Files(str(tmp_path), *of) for of in (("kernel", "old"), ("kernel", "new"), ("kernel_2", "old")))
    old.save(("cpu",), 1)
    other.save(("cpu",), 2)
    new.save(("cpu",), 3)
    new.save(("another cpu",), 4)
    assert old.load(("cpu",)) is None
    assert (other.load(("cpu",)), new.load(("cpu",)), new.load(("another cpu",))) == (2, 3, 4)
    new.flush()
    assert new.load(("cpu",)) is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    shared = tmp_path / "dwcpu"
    shared.mkdir()
    shared.chmod(0o777)
    code = """
    import numpy as np, dwcpu, warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dwcpu.pointwise_conv2d(np.ones((1, 2, 2, 3), np.float32), np.ones((3, 2), np.float32), backend="numba")
    print(sum("not cached" in str(warning.message) for warning in caught))
    """
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["1"]
    assert not list(shared.iterdir())


def test_without_a_home(tmp_path) -> None:
    code = """
    import numpy as np, dwcpu, warnings
    warnings.simplefilter("ignore")
    x = np.ones((1, 2, 2, 3), np.float32)
    print(dwcpu.pointwise_conv2d(x, np.ones((3, 2), np.float32), backend="numba")[0, 0, 0, 0])
    """
    nowhere = tmp_path / "file"
    nowhere.write_text("not a folder")
    assert run(code, HOME=str(nowhere), NUMBA_CACHE_DIR="", XDG_CACHE_HOME="").split() == ["3.0"]


def test_two_processes_fill_a_cold_cache_at_once(tmp_path: Path) -> None:
    processes = [started(ONE_KERNEL, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert {output(process).strip() for process in processes} <= {"compiled", "loaded"}
    assert run(ONE_KERNEL, NUMBA_CACHE_DIR=str(tmp_path)).strip() == "loaded"


SOURCES = [*sorted(Path(target.__file__).parent.glob("*.py")), Path(abi.__file__)]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_every_source_of_kernels_counts(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of any of them, and be it one letter of a comment, is another key of the cache."""
    shutil.copytree(PACKAGE / "numba_kernels", tmp_path / "numba_kernels")
    shutil.copy(PACKAGE / "abi.py", tmp_path)
    monkeypatch.setattr(target, "__file__", str(tmp_path / "numba_kernels" / "target.py"))
    plain = target.source_hash.__wrapped__()
    with (tmp_path / file.relative_to(PACKAGE)).open("a") as copy:
        copy.write("#")
    assert target.source_hash.__wrapped__() != plain


def test_kernels_of_edited_sources_are_compiled_anew(tmp_path: Path) -> None:
    """In an installation of their own, from end to end."""
    shutil.copytree(PACKAGE, tmp_path / "dwcpu", ignore=shutil.ignore_patterns("__pycache__"))
    settings = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir(mode=0o700)
    assert run(WHERE, tmp_path, **settings).strip() == str(tmp_path / "dwcpu/__init__.py")
    assert [run(ONE_KERNEL, tmp_path, **settings).strip() for _ in range(2)] == ["compiled", "loaded"]
    with (tmp_path / "dwcpu/numba_kernels/tile.py").open("a") as file:
        file.write("# edited\n")
    assert [run(ONE_KERNEL, tmp_path, **settings).strip() for _ in range(2)] == ["compiled", "loaded"]


def test_a_package_that_nobody_may_write_to(tmp_path: Path) -> None:
    """Nothing is written beside the package, not even by those who may, as the superuser does."""
    shutil.copytree(PACKAGE, tmp_path / "dwcpu", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(path for path in tmp_path.rglob("*"))
    for path in [tmp_path / "dwcpu", *(tmp_path / "dwcpu").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    settings = {"NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        assert run(WHERE, tmp_path, **settings).strip() == str(tmp_path / "dwcpu/__init__.py")
        assert [run(ONE_KERNEL, tmp_path, **settings).strip() for _ in range(2)] == ["compiled", "loaded"]
        assert sorted(path for path in tmp_path.rglob("*")) == before
    finally:
        for path in [tmp_path / "dwcpu", *(tmp_path / "dwcpu").rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(cache, ignore_errors=True)
