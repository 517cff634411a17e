"""What an input that does not fit a model looks like, and what to do about it."""

from __future__ import annotations

from operator import eq

import numpy as np

from .ir import Spec

__all__ = ["advice", "conversion"]


def advice(spec: Spec, array: np.ndarray, last: bool) -> str:
    """What a shape that does not work may come from."""
    declared = spec.shape
    if declared is None:
        return ""
    if array.ndim == len(declared) - 1:
        if array.ndim > 1 and declared[1] == 1 != array.shape[0]:
            return f"{spec.name} has an axis less than declared: add that of its one channel, {spec.name}[:, None]"
        if array.ndim > 1 and not isinstance(declared[0], int) and not isinstance(declared[1], int):
            return (
                f"{spec.name} has an axis less than declared: add it, {spec.name}[None] if it is the first one, "
                f"{spec.name}[:, None] if the second"
            )
        return f"{spec.name} has an axis less than declared: add the batch axis, {spec.name}[None]"
    if array.ndim != len(declared):
        axes = f"{array.ndim} ax{'i' if array.ndim == 1 else 'e'}s"
        return f"{spec.name} has {axes}, not {len(declared)}: give it as {spec}"
    if array.ndim == 3:
        as_given, turned = (sum(map(eq, declared[1:], sizes)) for sizes in (array.shape[1:], array.shape[:0:-1]))
        fits = all(
            size == given or not isinstance(size, int)
            for size, given in zip(declared, (array.shape[0], *array.shape[:0:-1]), strict=True)
        )
        exchanged = fits and turned > as_given
        return f"channels and time are exchanged: give {spec.name}.transpose(0, 2, 1)" if exchanged else ""
    if array.ndim != 4:
        return ""
    first, final = declared[1], declared[3]
    known = [(size, given) for size, given in zip(declared[1:], array.shape[1:], strict=True) if isinstance(size, int)]
    if last and isinstance(first, int) and first != array.shape[3] and all(size == given for size, given in known):
        return f"{spec.name} is as the file declares it: leave layout out"
    if last and isinstance(final, int) and final == array.shape[3] and array.shape[3] != first:
        return "the file has its channels last already: leave layout out"
    if last and first == array.shape[1] != array.shape[3]:
        return f"{spec.name} has its channels first: leave layout out"
    if last and isinstance(final, int) and final == array.shape[1] != array.shape[3]:
        return f"the file has its channels last: leave layout out and give {spec.name}.transpose(0, 2, 3, 1)"
    # Are the channels of the file last and those of the array first, or the other way round? As more sizes say.
    turned, back = (sum(map(eq, declared[1:], sizes)) for sizes in (_rolled(array, 1), _rolled(array, -1)))
    if not last and final == array.shape[1] != array.shape[3] and turned > back:
        return f"the file has its channels last: give {spec.name}.transpose(0, 2, 3, 1)"
    if not last and isinstance(first, int) and first == array.shape[3] and array.shape[1] != first:
        return f"if the channels of {spec.name} are last, pass layout='NHWC', or {spec.name}.transpose(0, 3, 1, 2)"
    channels = array.shape[3 if last else 1]
    if isinstance(first, int) and channels != first:
        place = f"..., :{first}" if last else f":, :{first}"
        fix = f"leave the others out, {spec.name}[{place}]" if channels > first else f"give {first}"
        return f"{spec.name} has {channels} channels, not {first}: {fix}"
    return _batch(spec, array)


def _batch(spec: Spec, array: np.ndarray) -> str:
    """Of an input of which only the number of images is another: what the file fixes may be fixed inside of it, too."""
    assert spec.shape is not None
    same = all(given == size or not isinstance(size, int) for given, size in zip(array.shape, spec.shape, strict=True))
    batch, *sizes = spec.shape
    if same or not isinstance(batch, int):
        return ""
    rest = all(given == size or not isinstance(size, int) for given, size in zip(array.shape[1:], sizes, strict=True))
    turned = sorted(array.shape[1:]) == sorted(size for size in sizes if isinstance(size, int))
    if not rest and not turned:
        return ""
    return (
        f"the file fixes {batch} as the number of images: give {spec.name}[:{batch}] and so on, or export the model "
        "with a batch of any size"
    )


def conversion(name: str, given: np.dtype, wanted: np.dtype) -> str:
    """How an array of one type becomes what a model takes, without its numbers becoming others."""
    if given.kind in "USO":
        return "give an array of numbers: files and pictures are not opened here"
    if given.kind == "c":
        return "give real numbers"
    way_out = f"convert it with np.asarray({name}, np.{wanted.name})"
    if given.kind == "f" and wanted == np.uint8:
        way_out += (
            f", which cuts off fractions; pixels from 0 to 1 become bytes by np.round(255 * {name}).astype(np.uint8)"
        )
    if given == np.uint8 and wanted.kind == "f":
        way_out += ", and if these are pixels, scale them as the network was trained"
    return way_out


def _rolled(array: np.ndarray, by: int) -> tuple[int, ...]:
    """Sizes of an image, behind those of the batch, that many places earlier."""
    sizes = array.shape[1:]
    return (*sizes[by:], *sizes[:by])
