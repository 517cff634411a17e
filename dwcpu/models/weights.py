"""Weight files as NumPy arrays: safetensors, npz, and PyTorch state dicts without PyTorch.

A weight file is data from somebody else, so every reader here treats it as hostile: nothing in a file can run code,
name an object to build, make us allocate more than the file holds (a multiple of it for compressed npz), or point
outside it. Whatever is wrong is a `ValueError` that says what was refused. The kind of file is told by its
content, never by its name.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_weights"]

#: The largest safetensors header that its own specification allows.
_MAX_HEADER = 100_000_000

#: Compressed npz members may hold at most this many times the bytes of the file (plus 1 MiB for all-zero arrays).
_MAX_EXPANSION = 100

_SAFETENSORS_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # widened to float32 by `widen_bfloat16`
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every array of a weight file.

    Parameters
    ----------
    path : str or path
        A ``.safetensors`` file, an ``.npz`` file, or a PyTorch state dict in either of its formats (the zip of
        PyTorch 1.6 and later, and the one before it). PyTorch is not needed and no code of the file is run.

    Returns
    -------
    dict of str to ndarray
        The arrays by name, in the file's order, in native byte order, read-only. bfloat16 comes as float32. Arrays of
        PyTorch files may be strided views, as they were when they were saved.

    Raises
    ------
    ValueError
        The file is none of these, damaged, or asks for something other than arrays; the text names what.
    OSError
        The file cannot be read; `FileNotFoundError` if there is none.

    Examples
    --------
    >>> import tempfile, os
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "weights.npz")
    ...     np.savez(file, gamma=np.ones(3, np.float32))
    ...     read_weights(file)["gamma"]
    array([1., 1., 1.], dtype=float32)
    """
    from . import torch_files

    content = read_file(path, "read_weights", "weights")
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with open_archive(content) as archive:
                if any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist()):
                    return torch_files.read_zip(archive)
                return _read_npz(archive, len(content))
        if torch_files.is_legacy(content):
            return torch_files.read_legacy(content)
        if content[8:9] == b"{":
            return _read_safetensors(content)
        raise ValueError(
            f"the file starts with {content[:8]!r}; a safetensors, npz or PyTorch state-dict file is needed"
            + ("; this one is empty" if not content else "")
        )
    except ValueError as error:
        raise ValueError(f"read_weights: {os.fspath(path)}: {error}") from None


def read_file(path: str | os.PathLike[str], operation: str, what: str) -> bytes:
    """The contents of a file that a user names; the two names are for error texts.

    Raises
    ------
    TypeError
        It is no path.
    OSError
        Of the class and with the errno that opening it raises; the text names the file and says what to do.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"{operation}: the path is of type {type(path).__name__}; {what} are read from a file; give its name"
        )
    try:
        return Path(path).read_bytes()
    except OSError as error:
        told = type(error)(
            f"{operation}: {os.fspath(path)}: {error.strerror or error}; {what} are read from a file; check its name "
            f"and that you may read it"
        )
        told.errno = error.errno
        raise told from None


def read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz file, given its contents.

    Raises
    ------
    ValueError
        It is damaged or holds something other than arrays of numbers.
    """
    with open_archive(content) as archive:
        return _read_npz(archive, len(content))


def open_archive(content: bytes) -> zipfile.ZipFile:
    """Open a zip file whose table of contents holds no surprises: no member twice, none encrypted."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"damaged zip file: {error}") from None
    names = archive.namelist()
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"zip member {twice!r} appears twice; every name must be unique")
    if any(info.flag_bits & 1 for info in archive.infolist()):
        raise ValueError("the zip file is encrypted; weights must be readable without a password")
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one zip member, its checksum verified."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise ValueError(f"damaged zip member {name!r}: {error}") from None


def element_count(shape: Any, what: str) -> int:
    """Product of a shape whose numbers come from a file: exact, however large."""
    if not isinstance(shape, (list, tuple)) or len(shape) > 32:
        raise ValueError(f"{what} has shape of type {type(shape).__name__}; a list of at most 32 sizes is needed")
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**48:
            raise ValueError(f"{what} has {size!r:.40} in its shape; sizes must be integers from 0 to 2**48")
    return math.prod(shape)


def widen_bfloat16(values: np.ndarray) -> np.ndarray:
    """bfloat16 numbers, given as their 16 bits, as float32: the same numbers, exactly."""
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def frozen(values: np.ndarray) -> np.ndarray:
    """The same array, in native byte order, aligned, and read-only."""
    values = np.require(values, values.dtype.newbyteorder("="), "A")
    values.flags.writeable = False
    return values


# --- safetensors -----------------------------------------------------------------------------------------------------


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice in the header; names must be unique")
    return result


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """8 bytes: length of the header; the header, JSON: name -> dtype, shape, [begin, end]; then the raw numbers."""
    length = int.from_bytes(content[:8], "little")
    if length > min(_MAX_HEADER, len(content) - 8):
        raise ValueError(
            f"the safetensors header claims {length} bytes; the file has {len(content) - 8} left and the limit "
            f"is {_MAX_HEADER}; the file is truncated or not safetensors"
        )
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the safetensors header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("the safetensors header is not a JSON object")
    header.pop("__metadata__", None)

    data = memoryview(content)[8 + length :]
    spans: list[tuple[int, int, str]] = []
    result: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        what = f"tensor {name!r:.80}"
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
            raise ValueError(f"{what} has no dtype, shape and data_offsets in the header")
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise ValueError(f"{what} has dtype {entry['dtype']!r:.40}; known are {', '.join(_SAFETENSORS_DTYPES)}")
        count = element_count(entry["shape"], what)
        offsets = entry["data_offsets"]
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
            raise ValueError(f"{what} has data_offsets {offsets!r:.60}; two integers are needed")
        begin, end = offsets
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"{what} lies at bytes {begin} to {end}; the file holds {len(data)} bytes of data")
        if end - begin != count * dtype.itemsize:
            raise ValueError(f"{what} has {end - begin} bytes; its shape and dtype need {count * dtype.itemsize}")
        spans.append((begin, end, name))
        values = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"])
        result[name] = frozen(widen_bfloat16(values) if entry["dtype"] == "BF16" else values)

    position, previous = 0, "the header"
    for begin, end, name in sorted(spans):
        if begin != position:
            kind = "overlaps" if begin < position else "leaves a hole after"
            raise ValueError(f"tensor {name!r:.80} {kind} {previous!r:.80}; tensors must lie one after the other")
        position, previous = end, name
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes follow the last tensor; the file must end there")
    return result


# --- npz -------------------------------------------------------------------------------------------------------------


def _read_npz(archive: zipfile.ZipFile, file_size: int) -> dict[str, np.ndarray]:
    """A zip of .npy members. Their headers are Python literals, never pickles: object arrays are refused."""
    total = sum(info.file_size for info in archive.infolist())
    limit = _MAX_EXPANSION * file_size + 2**20
    if total > limit:
        raise ValueError(f"the zip file expands to {total} bytes; the limit for its size is {limit}")
    result = {}
    for name in archive.namelist():
        if not name.endswith(".npy"):
            raise ValueError(f"zip member {name!r:.80} is not an array; an npz holds .npy members only")
        result[name[: -len(".npy")]] = _read_npy(read_member(archive, name), f"array {name!r:.80}")
    if not result:
        raise ValueError("the zip file is empty; an npz or a PyTorch state dict is needed")
    return result


def _read_npy(content: bytes, what: str) -> np.ndarray:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"npy version {version}")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # NumPy's parser raises whatever Python's tokenizer does, TokenError and SyntaxError too
        raise ValueError(f"{what} has a damaged header: {str(error).partition(chr(10))[0]:.120}") from None
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize == 0:
        raise ValueError(f"{what} has dtype {dtype!s:.60}; only numbers are read, never pickled objects")
    count = element_count(shape, what)
    data = content[stream.tell() :]
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{what} has {len(data)} bytes; its shape and dtype need {count * dtype.itemsize}")
    return frozen(np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C"))
