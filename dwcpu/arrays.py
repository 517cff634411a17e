"""From the arrays that users hold to the arrays that kernels take, and back.

Kernels want C-contiguous, aligned, native float32 or float64 images ``(N, H, W, C)``. Users bring channel-first
images, single images without a batch axis, slices, Fortran order, the other byte order, read-only memory. The
functions here check (`floating`, `output`), give a 4-D view without copying (`as_nhwc`), and copy only where the view
is not yet what kernels want (`native`, `copy`).
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "LINE",
    "as_nhwc",
    "copy",
    "empty",
    "floating",
    "is_native",
    "native",
    "native_dtype",
    "nhwc_shape",
    "output",
    "overlaps",
    "same_dtype",
    "user_shape",
]

#: `ndarray.flags.num`, bit by bit: C-contiguous, aligned, writeable. One look at an integer is the cheapest of checks.
CONTIGUOUS = 0x0001
ALIGNED = 0x0100
WRITEABLE = 0x0400

#: Transposes go through a buffer of 128 channels x 256 pixels, at most 256 KiB, that fits L2. Its rows are padded so
#: that they do not all fall into the same cache sets, as the rows of an image of 64 x 64 or 224 x 224 pixels do: those
#: transpose 2 to 5 times as fast this way. NumPy alone is as good below 2**15 elements and below 16 channels.
_TILE_CHANNELS = 128
_TILE_PIXELS = 256
_TILE_PADDING = 16
_TILED_ELEMENTS = 2**15
_TILED_CHANNELS = 16

#: Bytes of a cache line, and of the smallest array that `empty` aligns to it.
LINE = 64
_WORTH_ALIGNING = 4096

#: Outputs begin so many bytes behind inputs, modulo `_APART_TURN`. A load waits for a store before it whose address has
#: the same lower twelve bits. Depthwise windows on pixels of 1024 bytes load 32 to 96 bytes ahead of what they have
#: just stored, modulo 1024; outputs that lie so far behind inputs, as those on a cache line do behind NumPy's large
#: arrays, take up to 1.27 times as long.
_APART, _APART_TURN = 768, 1024


def floating(array: ArrayLike, what: str, operation: str) -> np.ndarray:
    """`array` as a plain ndarray of float32 or float64, in whatever byte order and memory order it has.

    Parameters
    ----------
    array : array_like
        Subclasses of ndarray and nested lists are taken through `numpy.asarray`.
    what, operation : str
        Names used in error texts.

    Raises
    ------
    TypeError
        If it is a masked array, no array at all, a single number, or of another type.
    """
    fix = f"{what}.astype(np.float32)"
    if type(array) is not np.ndarray:
        fix = f"np.asarray({what}, np.float32)"
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{operation}: {what} is a masked array; masked elements have no meaning here; "
                f"fill them with {what}.filled(value)"
            )
        given = type(array).__name__
        if what.endswith("bias") and _is_option(array):
            raise TypeError(
                f"{operation}: {what} is {array!r}; it must be an array of float32 or float64; give one, and options "
                f"by their names, as in stride=2"
            )
        try:
            array = np.asarray(array)
        except Exception as error:  # whatever an object's __array__ raises
            raise TypeError(
                f"{operation}: {what} of type {given} is no array ({error}); it must be a NumPy array of float32 or "
                f"float64; convert it"
            ) from error
        if array.ndim == 0 and array.dtype.kind in "biuf" and not what.endswith("bias"):  # of which more is told later
            raise TypeError(
                f"{operation}: {what} is {array}; it must be an array of float32 or float64; give the array itself"
            )
        if array.dtype.kind in "OSU":
            raise TypeError(
                f"{operation}: {what} is of type {given}; it must be a NumPy array of float32 or float64; give one"
            )
    if array.dtype.char not in "fd":
        advice = f"convert it with {fix}" if array.dtype.kind in "biufO" else "give real numbers"
        raise TypeError(f"{operation}: {what} has dtype {array.dtype}; it must be float32 or float64; {advice}")
    return array


def _is_option(thing: object) -> bool:
    """Whether this was most likely meant for what follows the bias: in PyTorch options may come in a row."""
    return isinstance(thing, (int, str)) or (
        isinstance(thing, tuple) and len(thing) > 0 and all(isinstance(each, (int, str)) for each in thing)
    )


def same_dtype(array: np.ndarray, what: str, dtype: np.dtype, operation: str, against: str) -> None:
    """Check that `array` has the native type `dtype`, in either byte order.

    Parameters
    ----------
    array : ndarray
    what, against, operation : str
        Names of the array, of the array whose type is the rule, and of the operation, used in error texts.
    dtype : dtype

    Raises
    ------
    TypeError
        If it has another type.
    """
    if array.dtype.char != dtype.char:
        # Which, unlike the method `astype`, takes lists and numbers too.
        advice = f"convert it with np.asarray({what}, np.{dtype.name})"
        if array.dtype == np.float32 and dtype == np.float64:  # most likely nobody meant the wider type
            advice = (
                f"convert {against} with np.asarray({against}, np.float32), or {what} with "
                f"np.asarray({what}, np.float64)"
            )
        raise TypeError(
            f"{operation}: {what} has dtype {array.dtype} but {against} has {dtype}; all arrays must share one dtype; "
            f"{advice}"
        )


def as_nhwc(array: np.ndarray, what: str, layout: str, operation: str, spatial: int = 2) -> np.ndarray:
    """A view of an image, or of a batch of them, as ``(N, H, W, C)``; nothing is copied.

    Parameters
    ----------
    array : (N, H, W, C), (H, W, C), (N, T, C) or (T, C); or with the channels first
    what, operation : str
        Names used in error texts.
    layout : {"NHWC", "NCHW"}
    spatial : {2, 1}
        2 for images, 1 for signals, which become images of height 1.

    Raises
    ------
    ValueError
        If the number of axes fits neither form.
    """
    dimensions = array.ndim
    if dimensions == spatial + 1:
        array = array[None]
    elif dimensions != spatial + 2:
        raise _wrong_axes(array.shape, what, layout, operation, spatial)
    if spatial == 1:
        array = array[:, None] if layout == "NHWC" else array[:, :, None]
    return array if layout == "NHWC" else array.transpose(0, 2, 3, 1)


_FORMS = {
    ("NHWC", 2): ("(H, W, C)", "(N, H, W, C)"),
    ("NCHW", 2): ("(C, H, W)", "(N, C, H, W)"),
    ("NHWC", 1): ("(T, C)", "(N, T, C)"),
    ("NCHW", 1): ("(C, T)", "(N, C, T)"),
}


def _wrong_axes(shape: tuple[int, ...], what: str, layout: str, operation: str, spatial: int) -> ValueError:
    single, batch = _FORMS[layout, spatial]
    fix = f"reshape {what}"
    if len(shape) == spatial:
        channel, row = ("..., None", "None") if layout == "NHWC" else ("None", ":, None")
        fix = f"give {what}[{channel}] if it has a single channel"
        fix += f", {what}[{row}] if it has a single row" if spatial == 2 else ""
    return ValueError(f"{operation}: {what} has shape {shape}; it must be {batch} or {single}; {fix}")


def nhwc_shape(
    shape: tuple[int, ...], what: str, layout: str, operation: str, spatial: int = 2
) -> tuple[int, int, int, int]:
    """The shape ``(N, H, W, C)`` that `as_nhwc` gives an array of `shape`.

    Raises
    ------
    ValueError
        If the number of axes fits neither form.

    Examples
    --------
    >>> nhwc_shape((3, 5, 6), "x", "NCHW", "conv2d")
    (1, 5, 6, 3)
    """
    if len(shape) == spatial + 1:
        shape = (1, *shape)
    elif len(shape) != spatial + 2:
        raise _wrong_axes(shape, what, layout, operation, spatial)
    batch, *image = shape
    channels = image.pop(-1 if layout == "NHWC" else 0)
    height, width = image if spatial == 2 else (1, image[0])
    return batch, height, width, channels


def user_shape(nhwc: tuple[int, ...], layout: str, spatial: int, dimensions: int) -> tuple[int, ...]:
    """The shape that a user sees for ``(N, H, W, C)``: the inverse of `as_nhwc`, on shapes.

    Examples
    --------
    >>> user_shape((1, 5, 6, 3), "NCHW", 2, dimensions=3)
    (3, 5, 6)
    """
    batch, height, width, channels = nhwc
    pixels = (height, width) if spatial == 2 else (width,)
    image = (*pixels, channels) if layout == "NHWC" else (channels, *pixels)
    return (batch, *image) if dimensions == spatial + 2 else image


def native_dtype(array: np.ndarray) -> np.dtype:
    """float32 or float64 in native byte order: the object that NumPy gives to new arrays.

    Being that object lets `is` compare types in nearly all cases; `newbyteorder` and pickle make new ones.
    """
    return np.dtype(array.dtype.type)


def is_native(array: np.ndarray) -> bool:
    """Whether kernels can take `array` as it is."""
    wanted = CONTIGUOUS | ALIGNED
    return array.flags.num & wanted == wanted and array.dtype.isnative


def empty(shape: tuple[int, ...] | int, dtype: np.dtype, x: np.ndarray | None = None) -> np.ndarray:
    """Uninitialised array that starts on a cache line, where stores do not hold up loads from `x`, if that is given.

    NumPy aligns to 16 bytes, so that half of all vectors would straddle two lines, which costs kernels 10 to 60 % where
    they are bound by loads and stores. Small arrays are left to NumPy: finding the address would cost more.
    """
    count = prod(shape) if isinstance(shape, tuple) else shape
    size = count * dtype.itemsize
    return np.empty(shape, dtype) if size < _WORTH_ALIGNING else aligned(shape, dtype, x)


def aligned(shape: tuple[int, ...] | int, dtype: np.dtype, x: np.ndarray | None = None) -> np.ndarray:
    """As `empty`, however small: for what is made once and read often."""
    size = (prod(shape) if isinstance(shape, tuple) else shape) * dtype.itemsize
    turn, place = (LINE, 0) if x is None else (_APART_TURN, x.ctypes.data // LINE * LINE + _APART)
    raw = np.empty(size + turn, np.uint8)
    start = (place - raw.ctypes.data) % turn
    return np.ndarray(shape, dtype, raw, start)


def native(array: np.ndarray) -> np.ndarray:
    """`array` itself where kernels can take it, else a C-contiguous native copy."""
    if is_native(array):
        return array
    fresh = empty(array.shape, native_dtype(array))
    copy(fresh, array)
    return fresh


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """Copy `source` into `target`, of the same shape, in tiles where one of them is a channel-first image.

    Parameters
    ----------
    target, source : ndarray
        They do not overlap.
    """
    if target.ndim == 4 and target.size >= _TILED_ELEMENTS and target.shape[3] >= _TILED_CHANNELS:
        # One side (N, H, W, C) in memory, the other (N, C, H, W): per image, transpose (pixels, channels).
        batch, height, width, channels = target.shape
        if target.flags.c_contiguous and _is_channel_first(source):
            pixels_first = target.reshape(batch, height * width, channels)
            channels_first = source.transpose(0, 3, 1, 2).reshape(batch, channels, height * width)
            for index in range(batch):
                _transpose(pixels_first[index], channels_first[index])
            return
        if source.flags.c_contiguous and _is_channel_first(target):
            pixels_first = source.reshape(batch, height * width, channels)
            channels_first = target.transpose(0, 3, 1, 2).reshape(batch, channels, height * width)
            for index in range(batch):
                _transpose(channels_first[index], pixels_first[index])
            return
    np.copyto(target, source)


def _is_channel_first(array: np.ndarray) -> bool:
    return array.transpose(0, 3, 1, 2).flags.c_contiguous


def _transpose(target: np.ndarray, source: np.ndarray) -> None:
    """``target[...] = source.T`` for two C-contiguous matrices, through a buffer that is kind to the cache."""
    rows, columns = source.shape
    buffer = np.empty((min(rows, _TILE_CHANNELS), min(columns, _TILE_PIXELS) + _TILE_PADDING), target.dtype)
    for row in range(0, rows, _TILE_CHANNELS):
        for column in range(0, columns, _TILE_PIXELS):
            tile = source[row : row + _TILE_CHANNELS, column : column + _TILE_PIXELS]
            staged = buffer[: tile.shape[0], : tile.shape[1]]
            np.copyto(staged, tile)
            target[column : column + _TILE_PIXELS, row : row + _TILE_CHANNELS] = staged.T


def output(out: object, shape: tuple[int, ...], dtype: np.dtype, operation: str) -> np.ndarray:
    """Check a user's `out` and return it as a plain ndarray over the same memory.

    Parameters
    ----------
    out : ndarray
        Any strides and byte order.
    shape, dtype
        What it must have.
    operation : str
        Name used in error texts.

    Raises
    ------
    TypeError
        If it is no ndarray, a masked one, or of another type.
    ValueError
        If it has another shape or is read-only.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(
            f"{operation}: out is of type {type(out).__name__}; it must be a NumPy array that can be written to; "
            f"make one with np.empty({shape}, np.{dtype.name})"
        )
    if out.shape != shape:
        raise ValueError(
            f"{operation}: out has shape {out.shape}; the result has shape {shape}; "
            f"make it with np.empty({shape}, np.{dtype.name})"
        )
    if out.dtype.char != dtype.char:
        raise TypeError(
            f"{operation}: out has dtype {out.dtype} but x has {dtype}; all arrays must share one dtype; "
            f"make it with np.empty({shape}, np.{dtype.name})"
        )
    if not out.flags.writeable:
        raise ValueError(
            f"{operation}: out is read-only; it must be writeable; make one with np.empty({shape}, np.{dtype.name})"
        )
    if not out.flags.c_contiguous and _overlaps_itself(out):
        raise ValueError(
            f"{operation}: out has strides {out.strides}, with which elements share memory; each must have its own; "
            f"make it with np.empty({shape}, np.{dtype.name})"
        )
    return np.asarray(out)


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements share memory."""
    axes = [(abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True) if size != 1]
    reach, nested = array.itemsize, True
    for stride, size in sorted(axes):
        nested = nested and stride >= reach
        reach += stride * (size - 1)
    if nested or array.size == 0:
        return False
    # Some axis steps into those with shorter strides, which may still miss their elements: look at every address.
    starts = np.zeros(1, np.int64)
    for stride, size in axes:
        starts = np.add.outer(starts, stride * np.arange(size)).ravel()
    return bool(np.diff(np.sort(starts)).min() < array.itemsize)


def overlaps(out: np.ndarray, *inputs: np.ndarray | None) -> bool:
    """Whether `out` may share memory with one of `inputs`. It may say yes too often (interleaved slices), never no."""
    return any(array is not None and np.may_share_memory(out, array) for array in inputs)
