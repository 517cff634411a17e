"""threadpoolctl, where it is installed, lists dwcpu among the libraries that have threads, and limits them.

``threadpool_limits(1)`` then does what ``set_num_threads(1)`` does, and undoes it at its end; a number that a call
names, and `num_threads` around it, still count. What is listed is the file of the compiled driver; without one there is
nothing to list.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from threadpoolctl import LibController, register

from .runtime import MAX_THREADS, default_threads, set_num_threads

__all__ = ["DwcpuController"]


class DwcpuController(LibController):
    """What threadpoolctl asks and tells us; it knows the driver by the name of its file and a symbol in it."""

    user_api = "dwcpu"
    internal_api = "dwcpu"
    filename_prefixes = ("_driver.",)
    check_symbols = ("dwcpu_threads",)

    def get_num_threads(self) -> int:
        """The number for calls that name none."""
        return default_threads()

    def set_num_threads(self, num_threads: Any) -> None:
        """Change it, to the nearest number that there may be: an error would leave other libraries half limited."""
        set_num_threads(min(max(int(num_threads), 1), MAX_THREADS))

    def get_version(self) -> str:
        """Of the package."""
        return str(sys.modules["dwcpu"].__version__)


def _load_driver() -> None:
    """A limit counts for libraries that are there when it begins: the driver must not wait for the first call."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name("cython_kernels") / f"_driver{suffix}"
        if file.exists():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(file))
            return


_load_driver()
register(DwcpuController)
