"""``python -m dwcpu run`` and ``inspect``: models from files, given arrays, pictures or random numbers.

`prepare_run` and `prepare_inspect` read everything that a user gives, and raise if something is wrong with it. Each
returns the rest of the work, which prints, as a function: a user's error prints nothing but its own line.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .graph import Model, Spec

__all__ = ["add_inspect_arguments", "add_run_arguments", "opened_picture", "prepare_inspect", "prepare_run"]

#: What a file of arrays begins with: its content says what it is, its name says nothing.
_MAGIC = {b"\x93NUMPY": "npy", b"PK": "npz"}

#: Height and width of random inputs and of tables where neither the model nor the user says any; the largest there are.
_SIDE, _LARGEST_SIDE = 224, 16384

#: Mean and standard deviation of red, green and blue in ImageNet, which most networks for pictures were trained with.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Largest difference from another engine, as a part of the largest value, that counts as none.
_TOLERANCE = 1e-3

_TOP = 5

#: Runs something again and again: the median time in seconds, and a line of text about it.
Timer = Callable[[Callable[[], object], int | None], tuple[float, str]]


class _File(NamedTuple):
    """What ``--input`` names: as the user wrote it, the input that it is for, its path, and npy, npz or picture."""

    text: str
    name: str | None
    path: Path
    kind: str


def add_run_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the options of ``run``; `positive` reads a whole number from 1 on."""
    _add_model_arguments(parser, positive)
    add = parser.add_argument
    add(
        "--input", nargs="+", action="extend", metavar="FILE",
        help=".npy, .npz with arrays by name, or a picture; name=FILE for one input by name; random by default",
    )  # fmt: skip
    add("--raw", action="store_true", help="bring pictures to 0..1 only: leave out ImageNet's mean and deviation")
    add("--output", type=Path, metavar="FILE.npz", help="write the outputs, by name, to this file")
    add("--profile", action="store_true", help="print a table of the nodes: kernel, time, speed")
    add("--compare", choices=["onnxruntime"], help="run the .onnx file there too: differences, and both times")


def add_inspect_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the options of ``inspect``; `positive` reads a whole number from 1 on."""
    _add_model_arguments(parser, positive)


def _add_model_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="an .onnx file, or one that Model.save wrote")
    add("--external-data", type=Path, metavar="DIR", help="folder of weights that the model keeps in other files")
    add("--size", type=_size, metavar="HxW", help=f"height and width; by default the model's, or {_SIDE}x{_SIDE}")
    add("--threads", type=positive, metavar="N", help="threads; by default all that we may use")


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text)
    sizes = tuple(map(int, found.groups())) if found else (0, 0)
    if not all(1 <= size <= _LARGEST_SIDE for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{text!r:.40} is no size; height and width are whole numbers from 1 to {_LARGEST_SIDE}; write 224x224"
        )
    return sizes[0], sizes[1]


# --- run --------------------------------------------------------------------------------------------------------------


def prepare_run(
    options: argparse.Namespace, warm: Callable[[Model, Any, int | None], None], timer: Timer
) -> Callable[[], int]:
    """The work that the options of ``run`` ask for, as a function that does it and returns the exit status.

    Parameters
    ----------
    options : Namespace
    warm : callable
        Makes a model ready for inputs of the shapes, a mapping of their names, and a number of threads.
    timer : callable

    Raises
    ------
    ValueError, OSError, ImportError, MemoryError
        If an option asks for what there is not, or the model cannot take the inputs.
    """
    if options.output is not None:
        _check_output(options)
    if options.compare is not None:
        _check_compare(options)
    model, threads = _load(options), options.threads
    inputs, notes = _read_inputs(options, model) if options.input else _random_inputs(options, model)
    shapes = {name: array.shape for name, array in inputs.items()}
    with suppress(ValueError):  # of what the model cannot take, the call tells more: it knows the values
        warm(model, shapes, threads)
    call = partial(model, inputs, num_threads=threads)
    outputs = _named(model, call())
    if options.profile:
        try:
            model.explain(shapes, threads)
        except ValueError as error:
            raise ValueError(f"--profile: {error}; leave the option out") from error
    if options.output is not None:
        _write(options.output, outputs)
    seconds, line = timer(call, threads)  # before another engine has threads that wait busily
    compare = _prepare_compare(options, outputs, inputs) if options.compare is not None else None

    def work() -> int:
        for note in notes:
            print(note)
        for name, array in outputs.items():
            _print_output(name, array)
        print(line)
        if options.output is not None:
            print(f"outputs: {options.output}")
        if options.profile:
            print(f"\n{model.profile(inputs, num_threads=threads)}")
        return compare(seconds, timer) if compare is not None else 0

    return work


def _named(model: Model, results: Any) -> dict[str, np.ndarray]:
    """Outputs by name."""
    results = results if isinstance(results, tuple) else (results,)
    return {spec.name: result for spec, result in zip(model.outputs, results, strict=True)}


def _is_saved(path: Path) -> bool:
    """Whether a model is a file of ours, and not of ONNX: by its content."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _load(options: argparse.Namespace) -> Model:
    from .graph import load_model, load_onnx

    folder = options.external_data
    if _is_saved(options.model):
        if folder is not None:
            raise ValueError(
                f"--external-data {folder}: {options.model} was written by Model.save; such files hold all weights; "
                f"drop the option"
            )
        return load_model(options.model)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--external-data {folder}: this is no folder; name the one in which the weights lie")
    try:
        return load_onnx(options.model, external_data_dir=folder)
    except ValueError as error:  # which tells the way out for Python
        raise ValueError(str(error).replace("external_data_dir=FOLDER", "--external-data DIR")) from error


def _check_output(options: argparse.Namespace) -> None:
    """Refuse what cannot be written before anything is computed."""
    path: Path = options.output
    if path.suffix.lower() != ".npz":
        raise ValueError(f"--output {path}: the name must end in .npz; outputs are written as one such file")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: there is no directory {path.parent}; make it, or name another one")
    if path.is_dir():
        raise ValueError(f"--output {path}: this is a directory; name a file")
    inputs = [Path(each) for text in options.input or () for each in (text, text.partition("=")[2])]
    read = [options.model, *inputs]
    if path.exists() and any(other.exists() and path.samefile(other) for other in read):
        raise ValueError(f"--output {path}: this file is read; outputs must not replace it; name another one")


def _write(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    """An .npz file as `np.savez` writes it, which takes no array called "file"."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in outputs.items():
            if array.dtype.kind not in "biuf":
                array = array.astype(str) if array.dtype.hasobject else _numbers(array)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _numbers(array: np.ndarray) -> np.ndarray:
    """Numbers that NumPy can work with: bfloat16 and its like become float32."""
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _print_output(name: str, array: np.ndarray) -> None:
    """Print one line about an output, and its largest entries where these look like classes."""
    head = f"{name}: {array.dtype.name} {array.shape}"
    if array.dtype.hasobject or not array.size:
        print(head)
        return
    values = _numbers(array).astype(np.float64)
    finite = values[np.isfinite(values)]
    if finite.size:
        head += f", min {finite.min():.6g}, mean {finite.mean():.6g}, max {finite.max():.6g}"
    if finite.size < values.size:
        head += f", {values.size - finite.size} of {values.size} not finite"
    print(head)
    if array.ndim == 2 and array.shape[0] == 1 and array.shape[1] > 1 and array.dtype.kind not in "biu":
        best = np.argsort(-values[0], kind="stable")[:_TOP]
        width = len(str(best.max()))
        for index in best:
            print(f"  {index:>{width}}  {values[0, index]:.6g}")


# --- inputs -----------------------------------------------------------------------------------------------------------


def _read_inputs(options: argparse.Namespace, model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every input of the model by name, from the files; and what to tell about them."""
    specs = {spec.name: spec for spec in model.inputs}
    files = [_file(text, specs) for text in options.input]
    for option, given in (("--size", options.size is not None), ("--raw", options.raw)):
        if given and all(file.kind != "picture" for file in files):
            raise ValueError(f"{option} is given with arrays only; it is for pictures; drop it")
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
        raise ValueError(
            f"--input {file.text}: its dtype is {array.dtype}; the model's input {name!r} takes {dtype}; {advice}"
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
    if not (spec.shape is None or (len(spec.shape) == 4 and (last or _may_be(spec.shape[1], 3)))):
        raise ValueError(
            f"--input {file.text}: a picture has four axes and three channels; the model declares {spec}; give an "
            f"array: {spec.name}=FILE.npy"
        )
    height, width = options.size or _declared_size(spec) or (None, None)
    with opened_picture(file.path) as image:
        label = f"{file.path.name} ({image.width} x {image.height})"
        picture = pictures._to_rgb(image)
        if height is None:
            done = "at its own size"
        else:
            picture = picture.resize((width, height), pictures.import_pillow().Resampling.BILINEAR)
            done = f"resized to {width} x {height}"
        pixels: np.ndarray = np.asarray(picture, np.float32) / np.float32(255)
    if not options.raw:
        pixels = (pixels - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)
    array = np.ascontiguousarray(pixels[None] if last else pixels.transpose(2, 0, 1)[None])
    scaled = "scaled to 0..1" if options.raw else "scaled to 0..1, less ImageNet's mean, divided by its deviation"
    return array, (
        f"{label}: RGB, {done}, {scaled}, as float32 {array.shape} for {spec.name!r}; the model may have been trained "
        f"with other preprocessing"
    )


# --- shapes -----------------------------------------------------------------------------------------------------------


def _is_channel_last(shape: Sequence[object] | None) -> bool:
    """Whether a model declares its input as (N, H, W, 3)."""
    return shape is not None and len(shape) == 4 and shape[3] == 3 and shape[1] != 3


def _may_be(declared: object, size: int) -> bool:
    return declared == size or not isinstance(declared, int)


def _spatial(shape: Sequence[object]) -> tuple[int, ...]:
    """Axes of pixels: two of images, one of signals (N, C, T)."""
    if len(shape) == 4:
        return (1, 2) if _is_channel_last(shape) else (2, 3)
    return (2,) if len(shape) == 3 else ()


def _declared_size(spec: Spec) -> tuple[int, int] | None:
    """Height and width, if the model says both."""
    if spec.shape is None or len(spec.shape) != 4:
        return None
    height, width = (spec.shape[axis] for axis in _spatial(spec.shape))
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _fill(spec: Spec, size: tuple[int, int] | None) -> tuple[int, ...]:
    """The shape that a model declares for an input, with numbers for what it leaves open."""
    if spec.shape is None:
        raise ValueError(f"the model declares {spec}; its sizes must be known; give the array: run --input FILE")
    axes = _spatial(spec.shape)
    sizes = [side if isinstance(side, int) else _SIDE if at in axes else 1 for at, side in enumerate(spec.shape)]
    if size is not None and len(axes) == 2:
        for axis, side in zip(axes, size, strict=True):
            sizes[axis] = side
    return tuple(sizes)


def _fill_all(options: argparse.Namespace, model: Model) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """A shape for every input, and what to tell about sizes that the model leaves open."""
    shapes = {spec.name: _fill(spec, options.size) for spec in model.inputs}
    if options.size is not None and all(len(shape) != 4 for shape in shapes.values()):
        raise ValueError(
            f"--size {'x'.join(map(str, options.size))}: no input of the model has height and width; inputs are "
            f"{'; '.join(map(str, model.inputs)) or 'none'}; drop it"
        )
    notes = [
        f"{spec} leaves sizes open; {shapes[spec.name]} is taken: --size or {_SIDE} for pixels, 1 for others"
        for spec in model.inputs
        if not all(isinstance(side, int) for side in spec.shape or ())
    ]
    return shapes, notes


def _random_inputs(options: argparse.Namespace, model: Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Random numbers for every input, the same ones each time."""
    if options.raw:
        raise ValueError("--raw is given without --input; it is for pictures; drop it")
    shapes, notes = _fill_all(options, model)
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


# --- another engine ---------------------------------------------------------------------------------------------------


def _check_compare(options: argparse.Namespace) -> None:
    """Refuse what cannot be compared before anything is computed."""
    if _is_saved(options.model):
        raise ValueError(
            f"--compare {options.compare}: {options.model} was written by Model.save; only .onnx files run there; "
            f"name the .onnx file"
        )
    try:
        import onnxruntime  # noqa: F401  (only asked whether it is there, before the work)
    except ImportError as error:
        raise ImportError(
            f"--compare onnxruntime: it is not installed ({error}); both engines must be there; pip install onnxruntime"
        ) from error


def _prepare_compare(
    options: argparse.Namespace, ours: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> Callable[[float, Timer], int]:
    """What onnxruntime computes and how long that takes, as a function that is given our time and prints both."""
    import onnxruntime

    from .runtime import get_num_threads

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or get_num_threads()
    settings.log_severity_level = 4  # what goes wrong is raised besides
    source: str | bytes = str(options.model)
    if options.external_data is not None:  # onnxruntime looks in the folder of the file, or where this says
        source = options.model.read_bytes()
        key = "session.model_external_initializers_file_folder_path"
        settings.add_session_config_entry(key, str(options.external_data))
    names = list(ours)
    try:
        session = onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        theirs = session.run(names, dict(inputs))
    except Exception as error:  # its own classes, without a common one
        raise ValueError(
            f"--compare onnxruntime: it cannot run this: {(str(error).splitlines() or [''])[0]:.300}; "
            f"what is compared must run in both; leave the option out"
        ) from error

    def compare(seconds: float, timer: Timer) -> int:
        print()
        status = 0
        for name, their in zip(names, theirs, strict=True):
            difference = _difference(ours[name], np.asarray(their))
            verdict = ""
            if difference > _TOLERANCE:
                verdict, status = f": more than {_TOLERANCE:g}", 1
            print(f"{name}: largest difference from onnxruntime {difference:.2g} of the largest value{verdict}")
        other, line = timer(partial(session.run, names, dict(inputs)), options.threads)
        print(f"onnxruntime {line}")
        ratio = other / max(seconds, 1e-9)
        print(f"dwcpu {seconds * 1e3:.2f} ms, onnxruntime {other * 1e3:.2f} ms: {ratio:.2f} times as long")
        return status

    return compare


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, as a part of the largest value; infinity where shapes or what is not finite differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.dtype.hasobject or theirs.dtype.hasobject:
        return 0.0 if bool(np.all(ours == theirs)) else float("inf")
    a, b = (_numbers(array).astype(np.float64) for array in (ours, theirs))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if bool(np.all(same)):
        return 0.0
    if not np.all(np.isfinite(a[~same]) & np.isfinite(b[~same])):
        return float("inf")
    largest = np.abs(b[np.isfinite(b)]).max()
    return float(np.abs(a[~same] - b[~same]).max() / (largest or 1.0))


# --- inspect ----------------------------------------------------------------------------------------------------------


def prepare_inspect(options: argparse.Namespace) -> Callable[[], int]:
    """The work that the options of ``inspect`` ask for, as a function that does it and returns the exit status.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option asks for what there is not.
    """
    model = _load(options)
    reason = next((f"the model declares {spec}" for spec in model.inputs if spec.shape is None), None)
    shapes, notes = _fill_all(options, model) if reason is None else ({}, [])

    def work() -> int:
        _print_facts(model)
        try:
            if reason is not None:
                raise ValueError(f"{reason}; a table needs all sizes")
            report = model.explain(shapes, options.threads)
        except ValueError as error:
            print(f"no table of the nodes: {' '.join(str(error).split())}")
            return 0
        for note in notes:
            print(note)
        print(f"multiply-adds: {report.total.flops / 2e6:,.2f} million\n\n{report}")
        return 0

    return work


def _print_facts(model: Model) -> None:
    """Print what is in the file, whatever its inputs are."""
    graph = model.graph
    parameters = sum(array.size for array in graph.constants.values() if array.dtype.kind in "fV")  # V: bfloat16
    operators = Counter(node.op for node in graph.nodes).most_common()
    rows = [
        ("model", model.name),
        *(("input", str(spec)) for spec in model.inputs),
        *(("output", str(spec)) for spec in model.outputs),
        ("parameters", f"{parameters:,}"),
        ("nodes", f"{len(graph.nodes)}, after simplification {len(model.simplified.nodes)}"),
        ("operators", ", ".join(f"{op} {count}" for op, count in operators) or "none"),
    ]
    for label, text in rows:
        print(f"{label:<11} {text}")
