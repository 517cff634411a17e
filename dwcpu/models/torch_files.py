"""PyTorch state dicts, read without PyTorch and without `pickle`.

A PyTorch file describes its tensors with a pickle: a little program for a stack machine that can normally import and
call anything. This file runs that program itself, on a machine that knows only what a state dict needs: constants,
tuples, lists, dicts, a memo, and four names that stand for inert records (`_GLOBALS`). Any other instruction or name is
refused by name before anything happens; there is no call to refuse later, because the machine has no callables.

Two containers hold the pickle and the numbers:

* zip, since PyTorch 1.6: ``<folder>/data.pkl`` and one stored member ``<folder>/data/<key>`` per storage;
* before that, one stream: three small pickles (magic number, protocol version, facts of the machine), the pickle of the
  state dict, a pickle of the storage keys, then each storage as an 8-byte count and its numbers.

A tensor is a window (offset, sizes, strides) on a storage; each window is checked against the storage that is really
there. Arrays are read-only views, so a file of many windows on one storage costs no more memory than the storage.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .weights import element_count, frozen, read_member, widen_bfloat16

__all__ = ["is_legacy", "read_legacy", "read_zip"]

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_MAGIC_PICKLE = b"\x8a\x0a" + _MAGIC_NUMBER.to_bytes(10, "little") + b"."

#: Storage type -> dtype of its numbers in a little-endian file. bfloat16 is widened afterwards.
_STORAGES: dict[str, str] = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "<u2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
_GLOBALS = {_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_STORAGES}

#: Names under which training scripts put the state dict among other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class _Global:
    """An importable name that the pickle mentioned. It is never imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A run of numbers that lies elsewhere in the file."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A window on a storage, as the file describes it; not checked yet."""

    storage: _Storage
    offset: Any
    sizes: Any
    strides: Any


class _Mark:
    """Where on the stack an open tuple, list or dict begins."""


_MARK = _Mark()


def _run_pickle(stream: io.BytesIO) -> Any:
    """Run one pickle program from the stream's position; returns its result, made of inert records."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for name, argument in _instructions(stream):
            if name == "STOP":
                if len(stack) != 1:
                    raise ValueError(f"the pickle ends with {len(stack)} values; it must leave one")
                return stack[0]
            step = _STEPS.get(name)
            if step is None:
                raise ValueError(f"the pickle uses the instruction {name}; a state dict has no need of it")
            step(stack, memo, argument)
    except ValueError:
        raise
    except (IndexError, KeyError, AttributeError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"the pickle is damaged ({type(error).__name__}: {error!s:.80})") from None
    raise ValueError("the pickle is truncated")


def _instructions(stream: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """The instructions of a program with their arguments; `pickletools` decodes them and runs nothing."""
    program = pickletools.genops(stream)
    while True:
        try:
            opcode, argument, _ = next(program)
        except StopIteration:
            return
        except (ValueError, OverflowError, struct.error) as error:
            raise ValueError(f"the pickle is damaged or truncated: {error!s:.80}") from None
        yield opcode.name, argument


# One function per kind of instruction: it changes the stack or the memo and nothing else.


def _since_mark(stack: list[Any]) -> list[Any]:
    for position in range(len(stack) - 1, -1, -1):
        if stack[position] is _MARK:
            items = stack[position + 1 :]
            del stack[position:]
            return items
    raise ValueError("the pickle is damaged: a group ends that never began")


def _push_argument(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    stack.append(argument)


def _push_constant(value: Any) -> Any:
    return lambda stack, memo, argument: stack.append(value)


def _push_new(kind: type) -> Any:
    return lambda stack, memo, argument: stack.append(kind())


def _tuple_of(count: int) -> Any:
    def step(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
        if len(stack) < count:
            raise ValueError("the pickle is damaged: a tuple takes more than the stack holds")
        items = tuple(stack[-count:])
        del stack[-count:]
        stack.append(items)

    return step


def _tuple_since_mark(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    stack.append(tuple(_since_mark(stack)))


def _set_items(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    _store(_since_mark(stack), stack)


def _set_item(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    value, key = stack.pop(), stack.pop()
    _store([key, value], stack)


def _store(items: list[Any], stack: list[Any]) -> None:
    target = stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError(f"the pickle sets items of {_describe(target)}; only dicts have any")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only plain keys: hashing a nest of shared tuples could take exponential time.
        if not isinstance(key, (str, int)):
            raise ValueError(f"the pickle uses {_describe(key)} as a key; only strings and numbers are keys here")
        target[key] = value


def _append_items(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    _extend(_since_mark(stack), stack)


def _append_item(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    _extend([stack.pop()], stack)


def _extend(items: list[Any], stack: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError(f"the pickle appends to {_describe(stack[-1])}; only lists can grow")
    stack[-1].extend(items)


def _put(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    memo[argument] = stack[-1]


def _memoize(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    memo[len(memo)] = stack[-1]


def _get(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    stack.append(memo[argument])


def _push_global(stack: list[Any], memo: dict[int, Any], argument: str) -> None:
    if argument not in _GLOBALS:
        shown = ".".join(argument.split(" "))
        raise ValueError(
            f"the pickle asks for {shown!r:.120}; only tensors and OrderedDict are allowed; "
            "save the weights alone: torch.save(model.state_dict(), file)"
        )
    stack.append(_Global(argument))


def _push_stack_global(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    name, module = stack.pop(), stack.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise ValueError("the pickle asks for a name that is not text")
    _push_global(stack, memo, f"{module} {name}")


def _reduce(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    """What pickle would call a function for. Here it only files the arguments in a record."""
    arguments, function = stack.pop(), stack.pop()
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise ValueError(f"the pickle calls {_describe(function)}; only tensors and OrderedDict can be made")
    if function.name == _ORDERED_DICT and arguments == ():
        stack.append(OrderedDict())
    elif function.name == _REBUILD_TENSOR and len(arguments) >= 4 and isinstance(arguments[0], _Storage):
        stack.append(_Tensor(*arguments[:4]))
    elif function.name == _REBUILD_PARAMETER and arguments and isinstance(arguments[0], _Tensor):
        stack.append(arguments[0])
    else:
        raise ValueError(f"the pickle calls {function.name.replace(' ', '.')} with arguments that do not fit it")


def _build(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    """State dicts carry a `_metadata` attribute (versions of layers), which nobody needs: it is dropped."""
    stack.pop()
    if not isinstance(stack[-1], OrderedDict):
        raise ValueError(f"the pickle sets attributes of {_describe(stack[-1])}; only an OrderedDict may have any")


def _persistent_id(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    """("storage", type, key, device, count), and in old files a sixth item: the view, which nobody wrote after 0.3."""
    record = stack.pop()
    if not (
        isinstance(record, tuple) and len(record) in {5, 6} and isinstance(record[0], str) and record[0] == "storage"
    ):
        raise ValueError(f"the pickle refers to {_describe(record)} outside itself; only storages lie there")
    kind, key, count = record[1], record[2], record[4]
    if not (isinstance(kind, _Global) and kind.name in _STORAGES):
        raise ValueError(f"a storage has the type {_describe(kind)}; known are {', '.join(_STORAGES)}")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError(f"a storage has the key {_describe(key)} and the count {_describe(count)}")
    if len(record) == 6 and record[5] is not None:
        raise ValueError(f"storage {key!r:.40} is a view of another; save the file again with PyTorch 0.4 or later")
    stack.append(_Storage(kind.name, key, count))


def _describe(value: Any) -> str:
    """A short name for an error text. Containers are never printed: shared ones could print for ever."""
    if isinstance(value, _Global):
        return value.name.replace(" ", ".")[:80]
    if isinstance(value, (str, int, float, bool, type(None))):
        return f"{value!r:.80}"
    return f"a {type(value).__name__.lstrip('_').lower()}"


def _nothing(stack: list[Any], memo: dict[int, Any], argument: Any) -> None:
    pass


_STEPS = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _push_constant(_MARK),
    "NONE": _push_constant(None),
    "NEWTRUE": _push_constant(True),
    "NEWFALSE": _push_constant(False),
    "EMPTY_TUPLE": _push_constant(()),
    "EMPTY_LIST": _push_new(list),
    "EMPTY_DICT": _push_new(dict),
    "TUPLE": _tuple_since_mark,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append_item,
    "APPENDS": _append_items,
    "MEMOIZE": _memoize,
    "GLOBAL": _push_global,
    "STACK_GLOBAL": _push_stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _persistent_id,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING"),
        _push_argument,
    ),
}


# --- containers ------------------------------------------------------------------------------------------------------


def is_legacy(content: bytes) -> bool:
    """Whether a file begins with the magic number of PyTorch's older format, whatever the pickle protocol."""
    return content[:1] == b"\x80" and content[2:].startswith(_MAGIC_PICKLE)


def read_legacy(content: bytes) -> dict[str, np.ndarray]:
    """Read the format before PyTorch 1.6: pickles and raw storages, one after the other."""
    stream = io.BytesIO(content)
    _run_pickle(stream)  # the magic number, which `is_legacy` saw
    version = _run_pickle(stream)
    if version != 1001:
        raise ValueError(
            f"protocol version {_describe(version)} of the older PyTorch format; 1001 is the only one known"
        )
    system = _run_pickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("the file was not written on a little-endian machine; only little-endian files are read")
    tensors = _tensors(_run_pickle(stream))
    declared = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    keys = _run_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("the list of storage keys is damaged")
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        if key not in declared:
            raise ValueError(
                f"storage {key!r:.40} belongs to no tensor; the tensors use {', '.join(map(repr, declared)):.80}"
            )
        position = stream.tell()
        count = int.from_bytes(content[position : position + 8], "little", signed=True)
        if count != declared[key].count:
            raise ValueError(f"storage {key!r:.40} has {count} numbers; its tensors expect {declared[key].count}")
        size = count * np.dtype(_STORAGES[declared[key].kind]).itemsize
        data = memoryview(content)[position + 8 : position + 8 + size]
        storages[key] = _numbers(declared[key], data)
        stream.seek(position + 8 + size)
    return _realise(tensors, storages)


def read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Read the format of PyTorch 1.6 and later."""
    infos = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in infos if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"the zip file holds {len(pickles)} members named data.pkl; it must hold one")
    size = archive.fp.seek(0, 2) if archive.fp else 0
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
        raise ValueError("a member of the zip file is compressed; PyTorch stores members as they are")
    if sum(info.file_size for info in infos.values()) > size:
        raise ValueError("members of the zip file overlap; together they are larger than the file")
    folder = pickles[0][: -len("data.pkl")]
    if folder + "byteorder" in infos and read_member(archive, folder + "byteorder") != b"little":
        raise ValueError("the file was not written on a little-endian machine; only little-endian files are read")
    tensors = _tensors(_run_pickle(io.BytesIO(read_member(archive, pickles[0]))))
    storages: dict[str, np.ndarray] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key not in storages:
            member = f"{folder}data/{storage.key}"
            if member not in infos:
                raise ValueError(f"storage {storage.key!r:.40} is missing: the zip file has no member {member!r:.80}")
            storages[storage.key] = _numbers(storage, memoryview(read_member(archive, member)))
    return _realise(tensors, storages)


def _tensors(state: Any) -> dict[str, _Tensor]:
    """The tensors of a state dict by name; every storage key has one type and one count."""
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise ValueError(f"the file holds {_describe(state)}; a state dict (name -> tensor) with entries is needed")
    seen: dict[str, _Storage] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(
                f"entry {_describe(name)} is {_describe(tensor)}, not a tensor; "
                "save the weights alone: torch.save(model.state_dict(), file)"
            )
        if seen.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"storage {tensor.storage.key!r:.40} has two types or two counts")
    return dict(state)


def _numbers(storage: _Storage, data: memoryview) -> np.ndarray:
    """A storage as a flat array."""
    dtype = np.dtype(_STORAGES[storage.kind])
    if len(data) != storage.count * dtype.itemsize:
        raise ValueError(
            f"storage {storage.key!r:.40} has {len(data)} bytes; {storage.count} numbers need "
            f"{storage.count * dtype.itemsize}; the file is truncated or damaged"
        )
    values = np.frombuffer(data, dtype)
    return frozen(widen_bfloat16(values) if storage.kind == "torch BFloat16Storage" else values)


def _realise(tensors: dict[str, _Tensor], storages: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: _window(name, tensor, storages) for name, tensor in tensors.items()}


def _window(name: str, tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """The array that a tensor describes, once it is proven to lie inside its storage."""
    what = f"tensor {name!r:.80}"
    values = storages.get(tensor.storage.key)
    if values is None:
        raise ValueError(f"{what} lies in storage {tensor.storage.key!r:.40}, which is not in the file")
    count = element_count(tensor.sizes, what)
    strides, offset = tensor.strides, tensor.offset
    if not (
        isinstance(strides, tuple)
        and len(strides) == len(tensor.sizes)
        and all(type(stride) is int and 0 <= stride < 2**48 for stride in strides)
        and type(offset) is int
        and offset >= 0
    ):
        raise ValueError(
            f"{what} has a damaged offset or strides; integers from 0 to 2**48, one stride a size, are needed"
        )
    if count > values.size:
        raise ValueError(f"{what} has {count} numbers; its storage holds {values.size}")
    last = offset + sum((size - 1) * stride for size, stride in zip(tensor.sizes, strides, strict=True)) if count else 0
    if count and last >= values.size:
        raise ValueError(f"{what} reaches number {last} of its storage; it holds {values.size}")
    if not count:
        return frozen(np.zeros(tensor.sizes, values.dtype))
    return np.lib.stride_tricks.as_strided(
        values[offset:], tensor.sizes, tuple(stride * values.itemsize for stride in strides), writeable=False
    )
