"""Choices of kernels that `dwcpu.autotune` measured, in this process and in a file for later ones.

None of them counts until `activate` or, at the first look, ``DWCPU_AUTOTUNE=1`` in the environment asks for them. The
file is JSON; its name and its head say for which CPU, instruction set and version of dwcpu it holds. One that is
damaged, or says anything else, is a file that is not there. Nothing in it is trusted: `dispatch` looks every name up in
its table and asks whether that kernel supports the geometry.

What only the file needs is imported when there is something to do with it: `import dwcpu` stays quick.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from . import runtime
from .folders import cache_directory
from .fused_geometry import Geometry

__all__ = ["activate", "file", "find", "keep", "reset"]

#: Of the file; the next one if its entries ever mean something else.
_FORMAT = 1

#: Key -> kernel's name. None: nobody has asked yet. Replaced, never changed in place: reading needs no lock.
_known: dict[str, str] | None = None
_lock = threading.RLock()  # a handler of signals may call, too
if hasattr(os, "register_at_fork"):
    # another thread of the parent may have been writing
    os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.RLock()))


def find(geometry: Geometry, dtype: np.dtype, threads: int) -> str | None:
    """Name of the kernel that was measured to be the fastest for a canonical geometry, if choices count and one is."""
    known = _known
    if known is None:
        known = _first_look()
    return known.get(_key(geometry, dtype.name, threads)) if known else None


def activate() -> None:
    """From now on choices count, those of the file first."""
    global _known
    with _lock:
        _known = {**(_known or {}), **_read()}


def keep(geometry: Geometry, dtype: np.dtype, threads: int, kernel: str) -> None:
    """Keep a choice, in this process and, if there is a place for it, in the file; choices count from now on."""
    global _known
    with _lock:
        # Other processes may have added to the file. Two that write at once lose an entry at worst, never the file.
        _known = {**(_known or {}), **_read(), _key(geometry, dtype.name, threads): kernel}
        _write(_known)


def reset() -> None:
    """Forget what this process knows, as if it had just begun; the file stays."""
    global _known
    with _lock:
        _known = None


def file() -> Path | None:
    """Where the choices for this machine are kept; None where no safe place can be written."""
    import hashlib
    import json

    name = hashlib.sha256(json.dumps(_head(), sort_keys=True).encode()).hexdigest()[:16]
    try:
        return cache_directory() / f"autotune-{name}.json"
    except (OSError, RuntimeError) as error:
        _warn_once(f"dwcpu: measured choices are not kept in a file ({error}); set XDG_CACHE_HOME to a private folder")
        return None


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@lru_cache(maxsize=4096)
def _key(geometry: Geometry, dtype: str, threads: int) -> str:
    return f"{dtype}, {threads} threads, {geometry!r}"


def _first_look() -> dict[str, str]:
    """What `find` knows if nobody asked for choices before: the file, if the environment asks for it."""
    global _known
    asked = os.environ.get("DWCPU_AUTOTUNE", "")
    if asked not in ("", "0", "1"):
        _warn_once(f"dwcpu: DWCPU_AUTOTUNE is {asked!r}; it must be 0 or 1; it is ignored")
    with _lock:
        if _known is None:
            _known = _read() if asked == "1" else {}
        return _known


@cache
def _head() -> dict[str, object]:
    """What choices hold for."""
    from . import __version__

    compiled = runtime.cython_kernels()
    isa = [(compiled.isa() if compiled is not None else None) or "none"]
    # These change what Numba compiles for, which could be asked only by loading it.
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "DWCPU_VECTOR_BYTES"):
        if os.environ.get(name):
            isa.append(f"{name}={os.environ[name]}")
    return {"format": _FORMAT, "dwcpu": __version__, "cpu": _cpu(), "isa": " ".join(isa)}


def _cpu() -> str:
    """Model of the CPU, as far as the system tells."""
    import platform

    with contextlib.suppress(OSError, ValueError):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            pairs = [line.split(":", 1) for line in lines.read().split("\n\n")[0].splitlines() if ":" in line]
        facts = {name.strip(): value.strip() for name, value in pairs}
        names = ("model name", "CPU implementer", "CPU variant", "CPU part", "CPU revision")
        if found := [facts[name] for name in names if name in facts]:
            return " ".join([platform.machine(), *found])
    return f"{platform.machine()} {platform.processor()}"


def _read() -> dict[str, str]:
    import json

    path = file()
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or {name: content.get(name) for name in _head()} != _head():
        return {}
    choices = content.get("choices")
    if not isinstance(choices, dict):
        return {}
    return {key: kernel for key, kernel in choices.items() if isinstance(kernel, str)}


def _write(choices: dict[str, str]) -> None:
    import json
    import tempfile

    path = file()
    if path is None:
        return
    written: Path | None = None
    try:
        # A file of our own, moved into place at once: a reader sees the old one or the new one.
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        written = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({**_head(), "choices": choices}, stream, indent=1)
        written.replace(path)
        written = None
    except OSError as error:
        _warn_once(f"dwcpu: measured choices cannot be kept in {path} ({error}); they count in this process alone")
    finally:
        if written is not None:
            with contextlib.suppress(OSError):
                written.unlink()
