"""Where dwcpu keeps files for later processes: a folder of this user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["cache_directory", "private_bytes"]


def cache_directory() -> Path:
    """The cache folder, made if needed: ``dwcpu`` below `NUMBA_CACHE_DIR`, else `XDG_CACHE_HOME`, else `~/.cache`.

    What lies there decides which code runs. So the folder must belong to this user and be writable by nobody else, and
    no folder on the way to it may let everybody put another in its place. The owners of those folders, and groups that
    may write to them, are trusted.

    Raises
    ------
    OSError, RuntimeError
        If there is no such place: it cannot be made, is not safe, or there is no home.
    """
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    base = os.environ.get("NUMBA_CACHE_DIR") or (xdg if Path(xdg).is_absolute() else "")
    folder = ((Path(base) if base else Path.home() / ".cache") / "dwcpu").absolute()
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid"):
        if not _is_private(folder.stat()):
            raise PermissionError(f"{folder} is not this user's alone")
        for above in (*folder.parents, *folder.resolve().parents):  # a link on the way can be replaced, too
            mode = above.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise PermissionError(f"anybody may replace {folder}: {above} is writable by all")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")
    return folder


def private_bytes(path: Path) -> bytes:
    """The contents of a file that belongs to this user and that nobody else may write to.

    Raises
    ------
    OSError
        If it is no such file.
    """
    with path.open("rb") as file:
        if hasattr(os, "getuid") and not _is_private(os.fstat(file.fileno())):
            raise PermissionError(f"{path} is not this user's alone")
        return file.read()


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
