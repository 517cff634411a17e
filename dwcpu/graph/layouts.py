"""In which order images lie in memory: what callers give, what the file says, and what pipelines are given.

`last` says that the caller has arrays with four axes with their channels last, whatever the file says.
"""

from __future__ import annotations

import numpy as np

from .planner import is_channel_last

__all__ = ["base", "is_turned", "logical", "turned", "without_contents"]


def logical(array: np.ndarray, last: bool) -> np.ndarray:
    """An input with the axes of ONNX."""
    return array.transpose(0, 3, 1, 2) if last and array.ndim == 4 else array


def turned(array: np.ndarray, last: bool) -> np.ndarray:
    """An output with the axes that the caller wants."""
    return array.transpose(0, 2, 3, 1) if last and array.ndim == 4 else array


def is_turned(array: np.ndarray, last: bool) -> bool:
    """Whether an input lies in memory with its channels last, and so need not be turned."""
    if array.ndim != 4:
        return False
    seen = logical(array, last)
    return not seen.flags.c_contiguous and is_channel_last(seen)


def without_contents(array: np.ndarray, last: bool) -> np.ndarray:
    """An array with the axes of ONNX that says how an input lies in memory, once it is given to a pipeline."""
    seen = logical(array, last)
    if (last and array.ndim == 4) or is_turned(array, last):
        return np.moveaxis(np.empty(np.moveaxis(seen, 1, -1).shape, array.dtype), -1, 1)
    return np.empty(array.shape, array.dtype)


def base(array: np.ndarray, last: bool) -> np.ndarray:
    """The memory of an input as a C-contiguous array, copied if it is not one as `without_contents` says."""
    if array.flags.c_contiguous:
        return array
    if not last and is_turned(array, last):
        return np.moveaxis(array, 1, -1)
    return np.ascontiguousarray(array)
