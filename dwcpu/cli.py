"""The command line: networks on photos, models from files, races of engines, and what is installed.

    python -m dwcpu classify [IMAGE ...] [--model NAME] [--weights FILE] [--top K] [--threads N] [--profile]
                             [--plot FILE.png]
    python -m dwcpu run MODEL [--input FILE ...] [--size HxW|T] [--shape NAME=AxB...] [--raw] [--output FILE.npz]
                              [--threads N] [--profile] [--compare onnxruntime] [--external-data DIR]
    python -m dwcpu inspect MODEL [--size HxW|T] [--shape NAME=AxB...] [--threads N] [--external-data DIR]
    python -m dwcpu bench [--suite NAME ...] [--peers NAME ...] [--threads N ...] [--json FILE] [--plot FILE.png] ...
    python -m dwcpu info
    python -m dwcpu --version

What a user got wrong is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NoReturn

from . import bench_command, model_commands, model_inputs
from .runtime import MAX_THREADS

if TYPE_CHECKING:
    import numpy as np

    from .graph import Model
    from .models import Network, Report

__all__ = ["main"]

#: Runs behind the printed time, fewer where the network is so slow that they would take longer than this.
_RUNS, _MAX_SECONDS = 15, 5.0

_PLOT_FORMATS = (".png", ".svg", ".pdf")


class UsageError(Exception):
    """Something that the user has to put right; its text is the line to show."""


@dataclass(frozen=True)
class _Photo:
    """A photo as the user knows it, as the network sees it, and the part that both share."""

    label: str
    x: np.ndarray
    picture: Any


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage, so that every error is one line."""
        raise UsageError(f"{message} (see: {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 if results differ that are compared, or 2 after a user's error.
    """
    for stream in (sys.stdout, sys.stderr):  # file names and labels must not fail on a terminal that cannot show them
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(argv)
        options.arguments = sys.argv[1:] if argv is None else argv
        status = options.run(options)
        sys.stdout.flush()
        return status
    except UsageError as error:
        first, *rest = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [""]
        print(f"dwcpu: {first} {'; '.join(rest)}".rstrip(), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = _Parser(
        prog="python -m dwcpu", description="Depthwise-separable convolution for NumPy: networks on the CPU."
    )
    parser.add_argument("--version", action="version", version=f"dwcpu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    classify = commands.add_parser("classify", help="say what is on a photo, and how long that took")
    classify.add_argument("images", nargs="*", metavar="IMAGE", help="image files; by default a photo of scikit-image")
    classify.add_argument(
        "--model", default="efficientnet_lite0", metavar="NAME", help="mobilenet_v1, mobilenet_v2 or efficientnet_lite0"
    )
    classify.add_argument("--weights", metavar="FILE", help="a .safetensors, .npz or PyTorch state-dict file")
    classify.add_argument("--top", type=_positive, default=5, metavar="K", help="how many classes to print (5)")
    classify.add_argument("--threads", type=_threads, metavar="N", help="threads; by default all that we may use")
    classify.add_argument("--profile", action="store_true", help="print a table of the layers: kernel, time, speed")
    classify.add_argument("--plot", metavar="FILE.png", help="draw the photo beside the time of each layer")
    classify.set_defaults(run=_classify)

    run = commands.add_parser("run", help="run an ONNX model on arrays, on a picture or on random numbers, and time it")
    model_commands.add_run_arguments(run, _threads)
    run.set_defaults(run=_run)

    inspect = commands.add_parser("inspect", help="say what is in an ONNX model, and what would run each of its nodes")
    model_commands.add_inspect_arguments(inspect, _threads)
    inspect.set_defaults(run=_inspect)

    bench = commands.add_parser("bench", help="race this package against other engines on this machine")
    bench_command.add_arguments(bench, _positive, _threads)
    bench.set_defaults(run=_bench)

    info = commands.add_parser("info", help="show versions, instruction sets, threads and caches")
    info.set_defaults(run=_info)
    return parser


def _positive(text: str, most: int = 100_000) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from 1 to {most}")
    return number


def _threads(text: str) -> int:
    return _positive(text, MAX_THREADS)


@contextmanager
def _told(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that name what the user got wrong into a `UsageError`. Only for steps that read what users give."""
    try:
        yield
    except kinds as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(text) from error


def _info(options: argparse.Namespace) -> int:
    from . import show_config

    show_config()
    return 0


def _bench(options: argparse.Namespace) -> int:
    with _told(ValueError, OSError, ImportError):
        work = bench_command.prepare(options)
    return work()


def _run(options: argparse.Namespace) -> int:
    with _told(ValueError, OSError, ImportError, MemoryError):
        work = model_commands.prepare_run(options, _compile, _time)
    return work()


def _inspect(options: argparse.Namespace) -> int:
    with _told(ValueError, OSError, ImportError):
        work = model_commands.prepare_inspect(options)
    return work()


def _classify(options: argparse.Namespace) -> int:
    from . import models

    if options.model not in models.names():
        raise UsageError(f"--model {options.model}: there is no such network; {models.others(options.model)}")
    if options.plot is not None:
        _check_plot(Path(options.plot), len(options.images))
    paths = [Path(image) for image in options.images] or [_default_photo()]
    with _told(OSError, ValueError):
        network = models.load(options.model, options.weights)
    photos = [_read_photo(path, network) for path in paths]

    _compile(network, photos[0].x.shape, options.threads)
    for photo in photos:
        logits = network(photo.x, options.threads)
        best = _print_classes(photo.label, logits[0], options.top, network)
        _, line = _time(partial(network, photo.x, options.threads), options.threads)
        print(f"  {line}")
    if options.profile or options.plot is not None:
        report = network.profile(photos[0].x, num_threads=options.threads)
        if options.profile:
            print(f"\n{report}")
        if options.plot is not None:
            with _told(OSError):
                _plot(Path(options.plot), photos[0], best, report)
            print(f"\nplot: {options.plot}")
    return 0


def _default_photo() -> Path:
    """A photo that scikit-image carries, found without importing scikit-image."""
    from .models import installed_file

    path = installed_file("skimage", "data/coffee.png")
    if path is None:
        raise UsageError(
            "no IMAGE is given and scikit-image, which has some, is not installed: pip install 'dwcpu[demo]'"
        )
    return path


def _read_photo(path: Path, network: Network) -> _Photo:
    from .models import pictures

    with _told(ImportError, ValueError), model_inputs.opened_picture(path) as image:
        label = f"{path.name} ({image.width} x {image.height})"
        return _Photo(label, network.preprocess(image), pictures.crop(image))


def _compile(network: Network | Model, shape: Any, threads: int | None) -> None:
    """Run every layer once, with a progress bar where somebody watches."""
    try:
        from tqdm import tqdm
    except ImportError:
        network.warmup(shape, num_threads=threads)
        return
    with tqdm(desc="compiling kernels", unit="layer", leave=False, disable=None, file=sys.stderr) as bar:

        def progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_postfix_str(name, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        network.warmup(shape, num_threads=threads, progress=progress)


def _print_classes(label: str, logits: np.ndarray, top: int, network: Network) -> list[tuple[str, float]]:
    """Print the most probable classes, and return them."""
    import numpy as np

    from .models import imagenet_labels

    powers = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = powers / powers.sum()
    labels = imagenet_labels() if network.classes == 1000 else [f"class {index}" for index in range(network.classes)]
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = [(labels[index], float(probabilities[index])) for index in order]
    width = max(len(name) for name, _ in best)
    print(f"{label}, {network.name}")
    for name, probability in best:
        print(f"  {name:<{width}}  {probability:7.2%}")
    return best


def _time(run: Callable[[], object], threads: int | None) -> tuple[float, str]:
    """The median time, in seconds, of something that has run before; and a line of text about it."""
    from . import get_num_threads

    times: list[float] = []
    while len(times) < _RUNS and (len(times) < 3 or sum(times) < _MAX_SECONDS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    count = threads if threads is not None else get_num_threads()
    how = f"median of {len(times)} warmed-up runs, {count} thread{'s' * (count != 1)}"
    return median(times), f"time: {median(times) * 1e3:.2f} ms ({how})"


def _check_plot(path: Path, images: int) -> None:
    """Refuse what cannot be drawn before anything is computed."""
    if path.suffix.lower() not in _PLOT_FORMATS:
        raise UsageError(f"--plot {path}: the name must end in {', '.join(_PLOT_FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise UsageError(f"--plot {path}: this is a directory")
    if images > 1:
        raise UsageError(f"--plot draws one photo; {images} are given")
    try:
        import matplotlib  # noqa: F401  (only asked whether it is there, before the work)
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install 'dwcpu[demo]'") from error


def _plot(path: Path, photo: _Photo, best: list[tuple[str, float]], report: Report) -> None:
    """Draw the photo with its classes beside a bar for each layer: its length the time, its label the share of peak."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report.rows
    figure = Figure(figsize=(13, max(5.0, 0.21 * len(rows) + 1.5)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    left.imshow(photo.picture)
    left.set_axis_off()
    left.set_title(photo.label)
    classes = "\n".join(f"{name}  {probability:.2%}" for name, probability in best)
    left.text(0.5, -0.03, classes, transform=left.transAxes, ha="center", va="top")

    times = [row.microseconds or 0.0 for row in rows]
    bars = right.barh([row.name for row in rows], times, color="tab:blue")
    right.bar_label(bars, [f"{row.share:.0%}" if row.share is not None else "" for row in rows], padding=3, fontsize=7)
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=7)
    right.margins(x=0.08, y=0.01)
    right.set_xlabel("microseconds; beside each bar its share of the measured peak")
    right.set_title(f"{report.title}\n{sum(times) / 1e3:.2f} ms", fontsize=10)
    figure.savefig(path, dpi=120)
