"""Where dwcpu keeps files for later processes: a folder of this user's alone."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_directory"]


def cache_directory() -> Path:
    """The cache folder, made if needed: ``dwcpu`` below `NUMBA_CACHE_DIR`, else `XDG_CACHE_HOME`, else `~/.cache`.

    What lies there decides which code runs, so the folder must belong to this user and be writable by nobody else.

    Raises
    ------
    OSError, RuntimeError
        If there is no such place: it cannot be made, is not safe, or there is no home.
    """
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "dwcpu"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{folder} is not this user's alone")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")
    return folder
