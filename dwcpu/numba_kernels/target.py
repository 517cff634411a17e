"""What Numba compiles for: vector width and registers of the target; compiled kernels and their cache.

Kernels are `numba.cfunc`s called by address (signature in `dwcpu.abi`): no boxing, no dispatch on argument types, one
compilation per kernel. Numba's own cache keys cannot see what our kernels are generated from, so `compile_kernel` uses
keys of its own: the kernel's name, a hash of every source file of this folder, and Numba's description of the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
from llvmlite import binding as llvm
from numba import njit
from numba.core import caching, registry
from numba.core.ccallback import CFunc
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from .. import folders, interrupts
from ..interrupts import uninterrupted

__all__ = [
    "ANY",
    "CACHED",
    "NotReadyError",
    "Target",
    "cache_directory",
    "compile_function",
    "compile_kernel",
    "compiled_count",
    "inlined",
    "limited",
    "part",
    "target",
]


class Target(NamedTuple):
    """Vector bytes, vector registers and whether there is a fused multiply-add."""

    vector_bytes: int
    registers: int
    fma: bool

    def lanes(self, itemsize: int) -> int:
        """Number of reals of `itemsize` bytes in a vector."""
        return self.vector_bytes // itemsize


@cache
def target() -> Target:
    """The target that Numba compiles for, found by compiling for it (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES count).

    `DWCPU_VECTOR_BYTES` (16, 32 or 64) asks for vectors of that size whatever the CPU has, which LLVM splits or
    narrows: so the code for wide vectors can be tested on any machine.
    """
    return uninterrupted(_target)


def _probed() -> str:
    """Assembly of a fused multiply-add of 16 numbers."""
    triple, cpu, features = registry.cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=2)
    # Without pointers, whose spelling differs between versions of LLVM.
    module = llvm.parse_assembly("""
        declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
        define <16 x float> @probe(<16 x float> %a, <16 x float> %b) {
          %r = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %b, <16 x float> %a)
          ret <16 x float> %r
        }""")
    module.triple = triple
    return machine.emit_assembly(module)


def _target() -> Target:
    with interrupts.lock:  # what LLVM made is freed within it, too
        assembly = _probed()
    fma = re.search(r"\b(vfn?m(add|la)|fml[as])", assembly) is not None
    by_size = {64: Target(64, 32, fma), 32: Target(32, 16, fma), 16: Target(16, 16 if "mm" in assembly else 32, fma)}
    forced = os.environ.get("DWCPU_VECTOR_BYTES")
    if forced is not None:
        if forced not in ("16", "32", "64"):
            raise ValueError(
                f"DWCPU_VECTOR_BYTES: got {forced!r}; it must be 16, 32 or 64; unset it to use the CPU's own"
            )
        return by_size[int(forced)]
    return by_size[64 if "zmm" in assembly else 32 if "ymm" in assembly else 16]


@cache
def source_hash() -> str:
    """Hash of all that generated code depends on: an edit of any kernel file must not meet old machine code."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in [*sorted(here.glob("*.py")), here.parent / "abi.py"]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def cache_directory() -> Path | None:
    """Folder of compiled kernels, which pickle loads; None where no safe place can be written: see `folders`."""
    try:
        return folders.cache_directory()
    except (OSError, RuntimeError) as error:
        _warn_once(f"dwcpu: compiled kernels are not cached ({error}); set NUMBA_CACHE_DIR to a private folder")
        return None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


class _Locator(caching._CacheLocator):
    """Tells Numba's cache where a kernel's files go, what they depend on and what they are called."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._py_file = name  # Numba's warnings name it

    def get_cache_path(self) -> str:
        return str(self.folder)

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return "dwcpu"  # functions are named apart already


class _Files:
    """Where Numba's cache of one function keeps its data, in place of Numba's files.

    Those name their contents in an index: of two processes that write at once, each with a CPU of its own, one may find
    the other's machine code under its key; and damaged machine code ends the process. Here a file is named after its
    key and begins with a digest of the rest. The first that is saved after a change of the sources removes what was
    before.
    """

    def __init__(self, folder: str, base: str, stamp: str) -> None:
        self._folder, self._base, self._stamp = Path(folder), base, stamp[:16]

    def _path(self, key: tuple) -> Path:
        digest = hashlib.sha256(repr((numba.__version__, key)).encode()).hexdigest()
        return self._folder / f"{self._base}.{self._stamp}.{digest[:32]}.nbc"

    def load(self, key: tuple) -> Any:
        """What was saved under this key, or None."""
        try:
            sealed = folders.private_bytes(self._path(key))
        except FileNotFoundError:
            return None
        size = hashlib.sha256().digest_size
        if hashlib.sha256(sealed[size:]).digest() != sealed[:size]:
            raise ValueError(f"{self._path(key)} is damaged")
        return pickle.loads(sealed[size:])

    def save(self, key: tuple, data: Any) -> None:
        """Keep it under this key, at once: a reader finds all of it or nothing."""
        content, path = dumps(data), self._path(key)
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=self._folder)
        made = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            made.replace(path)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
        self._remove(lambda each: not each.startswith(f"{self._base}.{self._stamp}."))

    def flush(self) -> None:
        """Forget everything about this function."""
        self._remove(lambda _: True)

    def _remove(self, which: Callable[[str], bool]) -> None:
        # indices, too: earlier versions left some
        with contextlib.suppress(OSError):
            for file in self._folder.iterdir():
                if file.name.startswith(f"{self._base}.") and file.suffix in (".nbc", ".nbi") and which(file.name):
                    file.unlink(missing_ok=True)


class _KernelCache(caching.FunctionCache):
    """Numba's function cache under our keys."""

    def __init__(self, function: Callable, folder: Path, name: str) -> None:
        class Implementation(caching.CompileResultCacheImpl):
            _locator_classes = (type("Locator", (), {"from_function": lambda *_: _Locator(folder, name)}),)

        self._impl_class = Implementation
        self._kernel_name = name
        super().__init__(function)
        self._cache_file = _Files(str(folder), self._impl.filename_base, source_hash())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As Numba's, but a damaged file is a file that is not there, and what only compiling needs is not loaded.

        Numba's own would first `refresh` the target's registries, and for that import half of Numba and SciPy, which
        takes a second.
        """
        try:
            rtsys.initialize(target_context)  # symbols that machine code may refer to
            return self._load_overload(sig, target_context)
        except Exception as error:  # what unpickling rubbish raises can be anything
            _warn_once(f"dwcpu: a cached kernel cannot be read and is compiled anew ({type(error).__name__}: {error})")
            with contextlib.suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """As Numba's; a full disk or a damaged index costs the cache, not the kernel."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_once(f"dwcpu: a compiled kernel cannot be cached ({type(error).__name__}: {error})")

    def _index_key(self, signature: Any, codegen: Any) -> tuple:
        return (signature, codegen.magic_tuple(), target(), self._kernel_name, source_hash())


interrupts.guard_forks()
_compiled: dict[str, CFunc] = {}  # machine code lives as long as its CFunc
_building: list[str] = []  # name of the kernel that is being built


#: How far a thread goes for a kernel that this process does not have: it loads it from the cache, unless that means
#: waiting for another thread; or it compiles it.
CACHED, ANY = range(2)


class NotReadyError(Exception):
    """A kernel cannot be had as quickly as `limited` wants it."""


class _Limits(threading.local):
    """What holds for this thread."""

    most: int = ANY
    before: Callable[[str], None] | None = None


_limits = _Limits()


@contextlib.contextmanager
def limited(most: int, before: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let this thread go no further than `most` for a kernel, and have it call `before` with the name of each one.

    Raises
    ------
    NotReadyError
        From `compile_kernel`, where that is not far enough.
    """
    kept = _limits.most, _limits.before
    _limits.most, _limits.before = most, before
    try:
        yield
    finally:
        _limits.most, _limits.before = kept


class _Kernel(CFunc):
    """Numba's function, which is not compiled where only what the cache has is wanted."""

    def _compile_uncached(self) -> Any:
        if _limits.most < ANY:
            raise NotReadyError(self._pyfunc.__qualname__)
        return super()._compile_uncached()


def _named(function: Callable, name: str) -> Callable:
    """The function under a name of its own among all kernels.

    Numba makes symbols of qualified names and a count of functions in the process. Kernels of one factory share the
    former, and those that come out of the cache bring the latter from other processes, where it may have been the same:
    the JIT would then call one kernel for another.
    """
    function.__qualname__ = name
    return function


def part(function: Callable) -> Callable:
    """Compile a function that belongs to the kernel being built, whose constants it may hold."""
    return njit(error_model="numpy")(_named(function, ".".join([*_building, function.__name__])))


def inlined(function: Callable) -> Callable:
    """`part` that is never a call: register tiles that are handed over would go through memory, however large it is."""
    return njit(error_model="numpy", forceinline=True)(_named(function, ".".join([*_building, function.__name__])))


def compile_kernel(name: str, build: Callable[[], tuple[Callable, Any]]) -> int:
    """Address of the kernel `name`; built, and compiled or read from the cache, at the first call.

    Parameters
    ----------
    name : str
        Identifies the kernel among all others, tile sizes included: it is the cache key.
    build : callable
        Returns the Python function and its Numba signature; called until the kernel is there.

    Raises
    ------
    NotReadyError
        If `limited` does not let this thread go as far as it would have to.
    """
    known = _compiled.get(name)
    if known is not None:
        return known.address
    most, before = _limits.most, _limits.before

    def found() -> int:
        with limited(most, before):
            return _found(name, build)

    return uninterrupted(found)


def _found(name: str, build: Callable[[], tuple[Callable, Any]]) -> int:
    """`compile_kernel` on the thread that does it."""
    lock = interrupts.lock
    if not lock.acquire(blocking=_limits.most == ANY):
        raise NotReadyError(name)
    try:
        if name not in _compiled:
            if _limits.before is not None:
                _limits.before(name)
            _compiled[name] = _compile(name, build)
        return _compiled[name].address
    finally:
        lock.release()


def _compile(name: str, build: Callable[[], tuple[Callable, Any]]) -> CFunc:
    _building.append(name)
    try:
        function, signature = build()
    finally:
        _building.pop()
    kernel = _Kernel(_named(function, name), (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    folder = cache_directory()
    if folder is not None:
        kernel._cache = _KernelCache(function, folder, name)
    kernel.compile()
    return kernel


def compile_function(name: str, function: Callable, signature: Any, **options: Any) -> Callable[..., Any]:
    """Python-callable of `function` that releases the GIL, under the same cache; `options` go to `numba.njit`."""
    return uninterrupted(lambda: _compile_function(name, function, signature, options))


def _compile_function(name: str, function: Callable, signature: Any, options: dict[str, Any]) -> Callable[..., Any]:
    with interrupts.lock:
        dispatcher = njit(error_model="numpy", nogil=True, **options)(function)
        folder = cache_directory()
        if folder is not None:
            dispatcher._cache = _KernelCache(function, folder, name)
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher


def compiled_count() -> int:
    """Number of kernels that this process holds."""
    return len(_compiled)
