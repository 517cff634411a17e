"""``python -m dwcpu run`` and ``inspect``: models from files, given arrays, pictures or random numbers.

`prepare_run` and `prepare_inspect` read everything that a user gives, and raise if something is wrong with it. Each
returns the rest of the work, which prints, as a function: a user's error prints nothing but its own line.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .model_inputs import SIDE, asked_shapes, fill_all, random_inputs, read_inputs

if TYPE_CHECKING:
    from .graph import Model

__all__ = ["add_inspect_arguments", "add_run_arguments", "prepare_inspect", "prepare_run"]

#: Largest height and width that may be asked for.
_LARGEST_SIDE = 16384

#: Longest signal that may be asked for.
_LARGEST_LENGTH = 2**24

#: Largest difference from another engine, as a part of the largest value, that counts as none.
_TOLERANCE = 1e-3

_TOP = 5

#: Runs something again and again: the median time in seconds, and a line of text about it.
Timer = Callable[[Callable[[], object], int | None], tuple[float, str]]


def add_run_arguments(parser: argparse.ArgumentParser, threads: Callable[[str], int]) -> None:
    """Add the options of ``run``; `threads` reads a number of threads."""
    _add_model_arguments(parser, threads, "the model's, or the picture's,")
    add = parser.add_argument
    add(
        "--input", nargs="+", action="extend", metavar="FILE",
        help=".npy, .npz with arrays by name, or a picture; name=FILE for one input by name; random by default",
    )  # fmt: skip
    add("--raw", action="store_true", help="bring pictures to 0..1 only: leave out ImageNet's mean and deviation")
    add("--output", type=Path, metavar="FILE.npz", help="write the outputs, by name, to this file")
    add("--profile", action="store_true", help="print a table of the nodes: kernel, time, speed")
    add("--compare", choices=["onnxruntime"], help="run the .onnx file there too: differences, and both times")


def add_inspect_arguments(parser: argparse.ArgumentParser, threads: Callable[[str], int]) -> None:
    """Add the options of ``inspect``; `threads` reads a number of threads."""
    _add_model_arguments(parser, threads, "the model's,")


def _add_model_arguments(parser: argparse.ArgumentParser, threads: Callable[[str], int], sizes: str) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="an .onnx file, or one that Model.save wrote")
    add("--external-data", type=Path, metavar="DIR", help="folder of weights that the model keeps in other files")
    add(
        "--size",
        type=_size,
        metavar="HxW|T",
        help=f"height and width, or the length of a signal; by default {sizes} or {SIDE} each",
    )
    add(
        "--shape",
        type=_shape,
        metavar="NAME=AxB…",
        action="append",
        default=[],
        help="all sizes of one input; several: the option again",
    )
    add("--threads", type=threads, metavar="N", help="threads; by default all that we may use")


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not re.fullmatch(r"[0-9]{1,9}([xX][0-9]{1,9})*", sizes):
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is no shape; it is the name of an input and all of its sizes; write x=1x3x16x112x112"
        )
    return name, tuple(map(int, sizes.lower().split("x")))


def _size(text: str) -> tuple[int, ...]:
    found = re.fullmatch(r"[0-9]{1,9}([xX][0-9]{1,9})?", text)
    sizes = tuple(map(int, text.lower().split("x"))) if found else (0,)
    if not all(1 <= size <= (_LARGEST_SIDE if len(sizes) == 2 else _LARGEST_LENGTH) for size in sizes):
        raise argparse.ArgumentTypeError(
            f"{text!r:.40} is no size; height and width are whole numbers from 1 to {_LARGEST_SIDE}, the length of a "
            f"signal goes up to {_LARGEST_LENGTH}; write 224x224, or 16000"
        )
    return sizes


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
    inputs, notes = read_inputs(options, model) if options.input else random_inputs(options, model)
    shapes = {name: array.shape for name, array in inputs.items()}
    with suppress(ValueError):  # of what the model cannot take, the call tells more: it knows the values
        warm(model, shapes, threads)
    call = partial(model, inputs, num_threads=threads)
    try:
        outputs = _named(model, call())
    except ValueError as error:  # which tells the way out for Python
        raise ValueError(str(error).replace("pass layout='NHWC', or ", "save ")) from error
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
    """Whether a model is a file of ours, and not of ONNX: by its content, or, where it is damaged, its ending."""
    with path.open("rb") as file:
        return file.read(2) == b"PK" or path.suffix == ".dwcpu"


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
            f"--compare onnxruntime: it cannot run this: {' '.join(str(error).split())[:300]}; what is compared must "
            f"run in both; leave the option out, or --size where the file declares another one"
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
        faster = "dwcpu" if seconds <= other else "onnxruntime"
        ratio = max(seconds, other) / max(min(seconds, other), 1e-9)
        print(f"dwcpu {seconds * 1e3:.2f} ms, onnxruntime {other * 1e3:.2f} ms: {faster} is {ratio:.2f} times as fast")
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
    given = asked_shapes(options, model)
    open_ = (spec for spec in model.inputs if spec.shape is None and spec.name not in given)
    reason = next((f"the model declares {spec}" for spec in open_), None)
    shapes, notes = fill_all(options, model) if reason is None else ({}, [])

    def work() -> int:
        _print_facts(model)
        try:
            if reason is not None:
                raise ValueError(f"{reason}; a table needs all sizes; give them with --shape")
            report = model.explain(shapes, options.threads)
        except (ValueError, MemoryError) as error:
            print(f"no table of the nodes: {' '.join(str(error).split())}")
            return 0
        for note in notes:
            print(note)
        print(f"multiply-adds: {report.total.flops / 2e6:,.2f} million, without those on padding\n\n{report}")
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
