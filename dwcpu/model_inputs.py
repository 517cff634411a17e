"""Inputs of models for the command line: from files of arrays, pictures, or random numbers.

A file's content says what it is; its name says nothing. Nothing is unpickled.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .graph import Model, Spec

__all__ = ["SIDE", "asked_shapes", "fill_all", "opened_picture", "random_inputs", "read_inputs"]

#: What a file of arrays begins with.
_MAGIC = {b"\x93NUMPY": "npy", b"PK": "npz"}

#: Height, width and length of random inputs and of tables where neither the model nor the user says any.
SIDE = 224
#: Elements of an input that `--shape` asks for, at most: 32 GiB of float32.
_MOST_ELEMENTS = 2**33

#: Mean and standard deviation of red, green and blue in ImageNet, which most networks for pictures were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _File(NamedTuple):
    """What ``--input`` names: as the user wrote it, the input that it is for, its path, and npy, npz or picture."""

    text: str
    name: str | None
    path: Path
    kind: str


def read_inputs(options: argparse.Namespace, model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every input of the model by name, from the files; and what to tell about them."""
    specs = {spec.name: spec for spec in model.inputs}
    files = [_file(text, specs) for text in options.input]
    if options.shape:
        raise ValueError("--shape is given with --input; it is for random numbers; drop one of them")
    for option, given in (("--size", options.size is not None), ("--raw", options.raw)):
        if given and all(file.kind != "picture" for file in files):
            raise ValueError(f"{option} is given with arrays only; they are taken as they are; drop it")
    inputs: dict[str, np.ndarray] = {}
    notes = []
    # Files that say for which input they are come first; the others take in turn what is left.
    for file in sorted(files, key=lambda file: (file.name is None, file.kind != "npz")):
        if file.kind == "picture":
            spec = _next(file, specs, inputs)
            array, note = _read_picture(file, spec, options)
            arrays = {spec.name: array}
            notes.append(note)
        else:
            arrays = _by_name(file, _read_arrays(file), specs, inputs)
        for name, array in arrays.items():
            inputs[name] = _checked(file, name, array, specs, inputs)
    missing = [spec for spec in model.inputs if spec.name not in inputs]
    if missing:
        raise ValueError(
            f"--input: nothing is given for {'; '.join(map(str, missing))}; every input needs an array; "
            f"add {missing[0].name}=FILE"
        )
    return inputs, notes


def _file(text: str, specs: Mapping[str, Spec]) -> _File:
    """What an argument of ``--input`` names."""
    name, path = None, Path(text)
    owners = [each for each in specs if text.startswith(f"{each}=")]
    if owners:
        name = max(owners, key=len)
        path = Path(text[len(name) + 1 :])
    elif "=" in text and not path.exists():
        unknown = text.partition("=")[0]
        raise ValueError(f"--input {text}: {unknown!r} is no input of the model; inputs are {_list(specs)}; name one")
    with path.open("rb") as file:
        start = file.read(8)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "picture")
    if kind == "picture" and path.suffix.lower() in (".npy", ".npz"):
        raise ValueError(
            f"--input {text}: it begins with {start!r}; {path.suffix} files do not; write it with np.save or np.savez"
        )
    return _File(text, name, path, kind)


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _next(file: _File, specs: Mapping[str, Spec], inputs: Mapping[str, object]) -> Spec:
    """The input that a file with one array is for."""
    if file.name is not None:
        return specs[file.name]
    for name, spec in specs.items():
        if name not in inputs:
            return spec
    raise ValueError(
        f"--input {file.text}: no input is left for it; the model's inputs are {_list(specs)}, and all are given; "
        f"drop a file"
    )


def _read_arrays(file: _File) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the one of an .npy file has an empty name. Nothing is unpickled."""
    try:
        with file.path.open("rb") as stream:  # which np.load would leave open where it fails
            loaded = np.load(stream, allow_pickle=False)
            arrays = {"": loaded} if file.kind == "npy" else {name: loaded[name] for name in loaded.files}
        strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if strange:
            raise ValueError(f"{strange[0]!r:.80} in it is no array")
        return arrays
    except Exception as error:  # damaged files make NumPy and zipfile raise all sorts of errors
        raise ValueError(
            f"--input {file.text}: it cannot be read: {(str(error).splitlines() or [''])[0]:.160}; files hold arrays "
            f"of numbers, never pickled objects; write it with np.save or np.savez"
        ) from error


def _by_name(
    file: _File, arrays: dict[str, np.ndarray], specs: Mapping[str, Spec], inputs: Mapping[str, object]
) -> dict[str, np.ndarray]:
    """The arrays of one file by the inputs that they are for."""
    if file.kind == "npy" or (len(arrays) == 1 and (file.name is not None or len(specs) == 1)):
        [array] = arrays.values()
        return {_next(file, specs, inputs).name: array}
    if file.name is None:
        return arrays
    if file.name not in arrays:
        raise ValueError(
            f"--input {file.text}: the file has the arrays {_list(arrays)}; one of them must be called {file.name!r}, "
            f"or there must be one only; name another file"
        )
    return {file.name: arrays[file.name]}


def _checked(
    file: _File, name: str, array: np.ndarray, specs: Mapping[str, Spec], inputs: Mapping[str, object]
) -> np.ndarray:
    """An array in native byte order, if the model has such an input and none for it yet, and of its dtype."""
    if name not in specs:
        raise ValueError(
            f"--input {file.text}: {name!r} in it is no input of the model; inputs are {_list(specs)}; rename it"
        )
    if name in inputs:
        raise ValueError(f"--input {file.text}: {name!r} is given twice; each input takes one array; drop a file")
    dtype = specs[name].dtype
    if dtype is not None and array.dtype.type != dtype.type:
        if dtype.hasobject:
            advice = "files of strings are not read; call the model from Python"
        elif file.kind == "picture":
            advice = f"give an array in place of a picture: {name}=FILE.npy"
        else:
            advice = f"write the file again with array.astype(np.{dtype.name})"
            if array.dtype == np.uint8 and dtype.kind == "f":
                advice += ", and if these are pixels, scaled as the model expects it (a picture's file is, by itself)"
        source = "a picture gives" if file.kind == "picture" else "its dtype is"
        raise ValueError(
            f"--input {file.text}: {source} {array.dtype}; the model's input {name!r} takes {dtype}; {advice}"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


@contextmanager
def opened_picture(path: Path) -> Iterator[Any]:
    """A picture as Pillow opens it, for the body of a ``with`` statement that reads it.

    Raises
    ------
    ImportError
        Pillow is not installed.
    ValueError
        The picture cannot be read, or the body fails.
    """
    from .models import pictures

    pillow = pictures.import_pillow()
    try:
        with pillow.open(path) as image:
            yield image
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or 'not an image that Pillow can read'}") from error
    except Exception as error:  # Pillow's decoders raise all sorts of errors on damaged files
        raise ValueError(f"{path}: not a readable image ({error})") from error


def _read_picture(file: _File, spec: Spec, options: argparse.Namespace) -> tuple[np.ndarray, str]:
    """A picture as the model's input, and a line that says what was done to it."""
    from .models import pictures

    last = _is_channel_last(spec.shape)
    if not (spec.shape is None or (len(spec.shape) == 4 and _may_be(spec.shape[3 if last else 1], 3))):
        raise ValueError(
            f"--input {file.text}: a picture has four axes and three channels; the model declares {spec}; give an "
            f"array: {spec.name}=FILE.npy"
        )
    if options.size is not None and len(options.size) != 2:
        raise ValueError(
            f"--size {options.size[0]}: {file.text} is a picture; it has height and width; write "
            f"{options.size[0]}x{options.size[0]}"
        )
    height, width = options.size or _declared_size(spec) or (None, None)
    with opened_picture(file.path) as image:
        label = f"{file.path.name}, {image.height}x{image.width} (height x width)"
        picture = pictures.to_rgb(image)
        if height is None:
            done = "at its own size"
        else:
            picture = picture.resize((width, height), pictures.import_pillow().Resampling.BILINEAR)
            done = f"resized to {height}x{width}"
        pixels: np.ndarray = np.asarray(picture, np.uint8)
    if spec.dtype == np.uint8:
        scaled = "as it is"
    else:
        pixels = np.asarray(pixels, np.float32) / np.float32(255)
        scaled = "scaled to 0..1"
        if not options.raw:
            pixels = (pixels - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)
            scaled += ", less ImageNet's mean, divided by its deviation"
    array = np.ascontiguousarray(pixels[None] if last else pixels.transpose(2, 0, 1)[None])
    return array, (
        f"{label}: RGB, {done}, {scaled}, as {array.dtype} {array.shape} for {spec.name!r}; the model may have been "
        f"trained with other preprocessing"
    )


# --- shapes -----------------------------------------------------------------------------------------------------------


#: Channels that pictures and recordings have: declared sizes like these are no height, width or length.
_FEW = (1, 2, 3, 4)


def _is_channel_last(shape: Sequence[object] | None) -> bool:
    """Whether a model declares its input as (N, H, W, C), or as (N, T, C), as far as the sizes tell."""
    if shape is None or len(shape) not in (3, 4):
        return False
    first, final = shape[1], shape[-1]
    if not isinstance(first, int) or not isinstance(final, int):
        # what is open is no channel, unless height and width are both declared
        return isinstance(final, int) and (final in _FEW or not isinstance(shape[-2], int))
    return final in _FEW and first not in _FEW


def _may_be(declared: object, size: int) -> bool:
    return declared == size or not isinstance(declared, int)


def _spatial(shape: Sequence[object]) -> tuple[int, ...]:
    """Axes of pixels: two of images, one of signals; the last of (N, T), whose length is left open."""
    if len(shape) in (3, 4):
        axes = tuple(range(1, len(shape)))
        return axes[:-1] if _is_channel_last(shape) else axes[1:]
    return (1,) if len(shape) == 2 and not isinstance(shape[1], int) else ()


def _declared_size(spec: Spec) -> tuple[int, int] | None:
    """Height and width, if the model says both."""
    if spec.shape is None or len(spec.shape) != 4:
        return None
    height, width = (spec.shape[axis] for axis in _spatial(spec.shape))
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _fill(spec: Spec, size: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape that a model declares for an input, with numbers for what it leaves open."""
    if spec.shape is None:
        raise ValueError(
            f"the model declares {spec}; its sizes must be known; give them, --shape {spec.name}=AxB…, or the array: "
            f"run --input FILE"
        )
    axes = _spatial(spec.shape)
    sizes = [side if isinstance(side, int) else SIDE if at in axes else 1 for at, side in enumerate(spec.shape)]
    if size is not None and len(axes) == len(size):
        for axis, side in zip(axes, size, strict=True):
            sizes[axis] = side
    return tuple(sizes)


def fill_all(options: argparse.Namespace, model: Model) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """A shape for every input, and what to tell about sizes that the model leaves open."""
    given, size = asked_shapes(options, model), options.size
    shapes = {spec.name: given[spec.name] if spec.name in given else _fill(spec, size) for spec in model.inputs}
    kinds = {len(_spatial(spec.shape or ())) for spec in model.inputs if spec.name not in given}
    if size is not None and len(size) not in kinds:
        what, way_out = "has height and width", "a signal takes one number, its length" if 1 in kinds else "drop it"
        if len(size) == 1:
            what, way_out = "is a signal", f"write {size[0]}x{size[0]} for images" if 2 in kinds else "drop it"
        raise ValueError(
            f"--size {'x'.join(map(str, size))}: no input of the model {what}"
            f"{' and is left by --shape' if given else ''}; inputs are {'; '.join(map(str, model.inputs)) or 'none'}; "
            f"{'drop one of the two' if given else way_out}"
        )
    notes = [
        f"{spec} leaves sizes open; {shapes[spec.name]} is taken"
        f"; {'--size chooses height and width, or length' if _spatial(spec.shape or ()) else '--shape chooses others'}"
        for spec in model.inputs
        if spec.name not in given and not all(isinstance(side, int) for side in spec.shape or ())
    ]
    return shapes, notes


def asked_shapes(options: argparse.Namespace, model: Model) -> dict[str, tuple[int, ...]]:
    """What ``--shape`` says, by input."""
    specs, found = {spec.name: spec for spec in model.inputs}, {}
    for name, shape in options.shape:
        text = f"--shape {name}={'x'.join(map(str, shape))}"
        if name not in specs:
            raise ValueError(f"{text}: there is no such input; inputs are {'; '.join(map(str, specs.values()))}")
        if name in found:
            raise ValueError(f"{text}: {name!r} has a shape already; give each input one")
        declared = specs[name].shape
        if declared is not None and len(declared) != len(shape):
            raise ValueError(f"{text}: the model declares {specs[name]}; give {len(declared)} sizes")
        if prod(shape) > _MOST_ELEMENTS:
            raise ValueError(f"{text}: these are {prod(shape)} elements; {_MOST_ELEMENTS} is the limit; give fewer")
        found[name] = shape
    return found


def random_inputs(options: argparse.Namespace, model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Random numbers for every input, the same ones each time."""
    if options.raw:
        raise ValueError("--raw is given without --input; it is for pictures; drop it")
    shapes, notes = fill_all(options, model)
    random = np.random.default_rng(0)
    inputs = {}
    for spec in model.inputs:
        dtype = spec.dtype or np.dtype(np.float32)
        if dtype.hasobject:
            raise ValueError(f"the model declares {spec}; random numbers are no strings; call it from Python")
        values: np.ndarray
        if dtype.kind in "biu":
            values, what = random.integers(0, 2, shapes[spec.name]), "random zeros and ones"
        else:
            values, what = random.standard_normal(shapes[spec.name], np.float32), "random standard normal numbers"
        inputs[spec.name] = values.astype(dtype)
        notes.append(f"{spec.name}: {what}, {dtype.name} {values.shape}")
    return inputs, notes
