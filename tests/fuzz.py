"""Coverage-guided fuzzing with atheris: ``python fuzz.py TARGET FOLDER [OPTION OF LIBFUZZER ...]``.

`TARGET` is "calls" (the front door), "weights", "onnx" or "saved"; "fault" is one that is there to be found. Inputs
begin as small sound ones, which are written to `FOLDER`, and are changed in ways that reach lines of dwcpu that none
reached before. What may come of an input is what the tests of damage allow; anything else ends the process, and the
input is kept in `FOLDER` as ``TARGET-crash-...``: ``python fuzz.py TARGET FOLDER FILE`` tries that one again.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from inspect import signature
from math import prod
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["dwcpu"]):
    import dwcpu
    import dwcpu.graph
    import dwcpu.models.torch_files
    import dwcpu.models.weights
    import dwcpu.reference
    from dwcpu import rules

import numpy as np
from numpy.lib.stride_tricks import as_strided

# --- the front door ---------------------------------------------------------------------------------------------------

#: Nothing between small numbers and those of which memory has no images: what is in between takes long, rightly.
NUMBERS = (
    0, 1, 1, 1, 1, 2, 2, 3, 4, 5, -1, 2**31 - 1, 2**31, 2**62, 2**63, 2**64, 10**60, 1.5, float("nan"), None, "1",
    True, [],
)  # fmt: skip
PAIRS = (
    (1, 1), (2, 1), (1, 3), (0, 1), (1, -1), (1, 2, 3), (1,), (1.0, 2), ((1, 2), (0, 1)), ((1, 2), (0, -1)), ((1,), 2),
)  # fmt: skip
PADDINGS = ("same", "valid", "causal", "Same", 1, 2, 3)
ACTIVATIONS = (
    "relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", ("clip", -1, 2), ("leaky_relu", 0.1), "elu",
    ("clip", 2, -1), ("clip", float("nan"), 1), ("leaky_relu",), ("relu", 1), 3, [], ("clip", "a", "b"),
)  # fmt: skip
DTYPES = ("f4", "f8", "f2", ">f4", "i4", "u1", "?", "c8", "O", "U3", "M8[s]", "f4,f4")
STRIDES = (0, 1, -4, 2**55, -(2**55), 2**62 + 1)
#: Of each operation: the axes of x and its arrays, sizes by name. Equal names have equal sizes until they are damaged.
FORMS: dict[str, tuple[str, ...]] = {
    "depthwise_conv2d": ("nhwc", "klc", "c"),
    "depthwise_conv1d": ("nhc", "kc", "c"),
    "pointwise_conv2d": ("nhwc", "cd", "d"),
    "separable_conv2d": ("nhwc", "klc", "cd", "c", "d"),
    "inverted_residual": ("nhwc", "ce", "kle", "ed", "e", "e", "d"),
    "conv2d": ("nhwc", "klcd", "d"),
    "dwconv2d": ("nchw", "dckl", "d"),
}
OPTIONS = {
    "stride": (NUMBERS, PAIRS),
    "dilation": (NUMBERS, PAIRS),
    "padding": (NUMBERS, PAIRS, PADDINGS),
    "groups": (NUMBERS,),
    "activation": (ACTIVATIONS,),
    "dw_activation": (ACTIVATIONS,),
    "pw_activation": (ACTIVATIONS,),
    "expand_activation": (ACTIVATIONS,),
    "layout": (("NCHW", "NHWC", "nhwc", 3, None),),
    "num_threads": ((1, 2, 3), NUMBERS),
}
TAKEN = {name: [each for each in OPTIONS if each in signature(getattr(dwcpu, name)).parameters] for name in FORMS}


def array_of(draw: atheris.FuzzedDataProvider, shape: tuple[int, ...]) -> Any:
    """Whole numbers of this shape, mostly float32, some of them in odd places or of odd kinds."""
    values = np.random.default_rng(prod(shape) + len(shape)).integers(-3, 4, shape).astype(np.float32)
    match draw.ConsumeIntInRange(0, 15):
        case 0:
            return values.astype(draw.PickValueInList(list(DTYPES)))
        case 1:
            return values[tuple(slice(None, None, -1) for _ in shape)]
        case 2:
            return np.asfortranarray(values)
        case 3:
            return values.tolist()
        case 4 if values.ndim:  # as wide as memory is, of one element on that axis
            axis = draw.ConsumeIntInRange(0, values.ndim - 1)
            part = values[(slice(None),) * axis + (slice(0, 1),)]
            strides = list(part.strides)
            strides[axis] = draw.PickValueInList(list(STRIDES))
            return as_strided(part, part.shape, strides)
        case 5:
            return np.broadcast_to(np.float32(1), [*shape[:-1], draw.PickValueInList([2**31, 2**40])])
        case 6:
            return np.ma.masked_less(values, 0)
        case 7:
            wide = np.zeros([2 * size + 1 for size in shape], np.float32)[(..., *(slice(1, None, 2) for _ in shape))]
            wide[...] = values
            return wide
        case 8:
            return draw.PickValueInList([None, 3, "text", {}, np.float32(1), [[1], [1, 2]], b"bytes"])
        case 9 if values.size:
            values.flat[0] = draw.PickValueInList([np.nan, np.inf, -np.inf, -0.0])
    return values


def call(content: bytes) -> None:
    """A function with arguments that the bytes say, on compiled kernels: as on the reference, or a helpful error."""
    draw = atheris.FuzzedDataProvider(content)
    name = draw.PickValueInList(list(FORMS))
    sizes = {axis: draw.ConsumeIntInRange(1, 9) for axis in "hwcde"} | {"n": draw.ConsumeIntInRange(0, 2)}
    sizes |= {axis: draw.ConsumeIntInRange(1, 3) for axis in "kl"}
    arrays = []
    for axes in FORMS[name]:
        shape = [sizes[axis] for axis in axes]
        damage = draw.ConsumeIntInRange(0, 60)
        if damage < len(shape):
            shape[damage] = draw.ConsumeIntInRange(0, 3)
        elif damage == 10:
            shape.append(draw.ConsumeIntInRange(1, 3))
        elif damage == 11:
            shape.pop()
        arrays.append(array_of(draw, tuple(shape)))
    options = {}
    for option in TAKEN[name]:
        if draw.ConsumeIntInRange(0, 3) == 0:
            options[option] = draw.PickValueInList(list(draw.PickValueInList(list(OPTIONS[option]))))
    check(name, arrays, options, draw)


def check(name: str, arrays: list[Any], options: dict[str, Any], draw: atheris.FuzzedDataProvider) -> None:
    """Compare with the reference: results, or what was raised."""
    try:
        right = reference(name, arrays, options)
    except (ValueError, TypeError, MemoryError) as error:
        right = error
    more: dict[str, Any] = {}
    try:
        if name != "dwconv2d" and isinstance(right, np.ndarray):
            if draw.ConsumeBool():
                more["residual"] = np.zeros_like(right)
            if draw.ConsumeBool():
                more["out"] = np.full_like(right, np.nan)
        result = getattr(dwcpu, name)(*arrays, **options, **more)
    except (ValueError, TypeError) as error:
        check_error(name, error, right)
        return
    except MemoryError:
        return
    assert type(result) is np.ndarray
    if right is not None:
        assert isinstance(right, np.ndarray), f"{result!r}, but the reference gives {right!r}"
        assert result.dtype == right.dtype
        np.testing.assert_allclose(result, right, rtol=1e-5, atol=1e-5)


def check_error(name: str, error: Exception, right: Any) -> None:
    """It helps, and the reference raises its like."""
    operation, _, rest = str(error).partition(": ")
    assert operation == name, f"{error!r}: it must begin with the operation"
    assert "; " in rest, f"{error!r}: it must say what was got; the rule; the fix"
    assert right is None or type(right) is type(error), f"{error!r}, but the reference gives {right!r}"


def reference(name: str, arrays: list[Any], options: dict[str, Any]) -> np.ndarray | None:
    """What plain NumPy makes of the call; None where the function has no such backend."""
    return None if name == "dwconv2d" else getattr(dwcpu, name)(*arrays, **options, backend="reference")


# --- files ------------------------------------------------------------------------------------------------------------


def sound_calls() -> list[bytes]:
    """Bytes that lead to many different calls."""
    return [np.random.default_rng(seed).bytes(96) for seed in range(64)] + [bytes([each]) * 64 for each in (0, 1, 255)]


def weights(folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """Files of weights of every kind; the first byte says which, and what the others stand for.

    Checksums would refuse most changes of a file, so archives and headers are built around what was changed.
    """
    from test_weights import NUMBERS, SOUND, entry, legacy_file, safetensors_file, state_dict, storage, tensor, zip_file

    def archive(member: bytes) -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("a.npy", member)
        return content.getvalue()

    numbers = NUMBERS.tobytes()
    made: list[Callable[[bytes], bytes]] = [
        lambda content: content,
        lambda program: zip_file(program, {"0": numbers}),
        lambda program: legacy_file(program, {"0": (6, numbers)}),
        safetensors_file,
        archive,
    ]
    program = state_dict(a=tensor(storage()), b=tensor(storage(), 1, (2, 2), (3, 1)))
    member = io.BytesIO()
    np.save(member, NUMBERS.reshape(2, 3))
    header = json.dumps({"a": entry(shape=(2,), end=8), "b": entry("F16", (8,), 8)}).encode()
    parts = [(1, program), (2, program), (3, header), (4, member.getvalue())]
    path = folder.with_name("file.bin")

    def read(content: bytes) -> None:
        path.write_bytes(made[content[0] % len(made)](content[1:]) if content else b"")
        try:
            arrays = dwcpu.models.read_weights(path)
        except ValueError as error:
            if not str(error).startswith(f"read_weights: {path}: "):
                raise AssertionError("the text of this error does not help") from error
            return
        for array in arrays.values():
            array.tobytes()  # every number can be reached

    return read, [bytes([kind]) + content for kind, content in [*((0, each) for each in SOUND.values()), *parts]]


def models(read: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    """What reading and running a model may lead to is what `test_onnx_damage` says."""
    from onnx_models import X
    from test_onnx_damage import outcome

    def run(content: bytes) -> None:
        what = outcome(content, X, read)
        assert " " not in what, what

    return run


@atheris.instrument_func
def fault(content: bytes) -> None:
    """Fails for inputs that nobody draws: each byte is found for the line that it leads to."""
    if len(content) > 2 and content[0] == 100 and content[1] == 119 and content[2] == 99:
        raise AssertionError("found")


def target(name: str, folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """What is done with each input, and inputs to begin with."""
    if name == "fault":
        return fault, [b"four"]
    if name == "calls":
        return call, sound_calls()
    if name == "weights":
        return weights(folder)
    from onnx_models import SMALL, chain_of_functions, joined, model, parts, saved
    from test_onnx_damage import ENDLESS, SIZES, read_saved

    some = [model(*each).SerializeToString() for each in (*SIZES.values(), *ENDLESS.values())]
    if name == "onnx":
        return models(dwcpu.load_onnx), [SMALL, chain_of_functions(3).SerializeToString(), *some]
    # The archive has checksums: what is changed is the text that is in it, around the same arrays.
    head, arrays = parts(saved())
    read = models(lambda content: read_saved(content if content[:2] == b"PK" else joined(content, arrays)))
    return read, [saved(), json.dumps(head).encode()]


def main(name: str, where: str, *options: str) -> None:
    """Run a target."""
    from test_onnx_damage import limited

    warnings.simplefilter("ignore")  # numbers that were damaged may well be invalid
    folder = Path(where) / name
    folder.mkdir(parents=True, exist_ok=True)
    run, sound = target(name, folder)
    for number, content in enumerate(sound):
        (folder / f"sound-{number}").write_bytes(content)
    # Compiling a Numba kernel for every window that comes along would take all the time.
    rules.as_good = lambda *_: True
    limited(4 << 30)
    inputs = [option for option in options if not option.startswith("-")] or [str(folder)]
    flags = [option for option in options if option.startswith("-")]
    # Hangs have an alarm of their own, and memory a limit.
    settings = ["-timeout=60", "-rss_limit_mb=0", f"-artifact_prefix={where}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *settings, *flags, *inputs], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
