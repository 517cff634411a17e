"""Operators that find elements by number and put them somewhere, and what tables and masks are made with."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Node
from .moving import axis_of, one_number
from .registry import check_size, general, into, like

__all__: list[str] = []

Arrays = list[Any]

_REDUCTIONS: dict[str, Any] = {"add": np.add, "max": np.maximum, "min": np.minimum, "mul": np.multiply}


def _in_range(node: Node, indices: np.ndarray, size: int) -> np.ndarray:
    """Indices of an axis, negative ones counted from its end."""
    if indices.size and 0 <= indices.min() <= indices.max() < size:
        return indices
    found = np.where(indices < 0, indices + size, indices)
    if found.size and not 0 <= found.min() <= found.max() < size:
        worst = indices.reshape(-1)[np.argmax((found < 0) | (found >= size))]
        raise ValueError(
            f"{node.op} {node.name!r}: an index is {worst}; of an axis of {size} they must be {-size} to {size - 1}"
        )
    return found


def _tuples(node: Node, x: np.ndarray, indices: np.ndarray, first: int) -> list[np.ndarray]:
    """The last axis of `indices` as numbers of entries of the axes of x from `first` on."""
    count = indices.shape[-1]
    if first + count > x.ndim:
        raise ValueError(f"{node.op} {node.name!r}: {count} indices from axis {first} on for {x.ndim} axes")
    return [_in_range(node, indices[..., at], x.shape[first + at]) for at in range(count)]


def _put(node: Node, out: np.ndarray, places: tuple[Any, ...], updates: np.ndarray) -> None:
    """Write elements, or add them and the like to those that are there."""
    if out.shape and not updates.size:
        return
    reduction = node.get("reduction", "none")
    if reduction == "none":
        out[places] = updates
    else:
        _REDUCTIONS[reduction].at(out, places, updates)


def _check_reduction(node: Node) -> str | None:
    reduction = node.get("reduction", "none")
    return None if reduction in ("none", *_REDUCTIONS) else f"reduction={reduction}"


@general("GatherND")
def gather_nd(node: Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Entries by tuples of numbers, behind `batch_dims` axes that both tensors have."""
    shared = int(node.get("batch_dims", 0))
    if not 0 <= shared < min(x.ndim, indices.ndim) or x.shape[:shared] != indices.shape[:shared]:
        raise ValueError(f"GatherND {node.name!r}: batch_dims={shared} of shapes {x.shape} and {indices.shape}")
    found = _tuples(node, x, indices, shared)
    shape = *indices.shape[:-1], *x.shape[shared + len(found) :]
    check_size(shape, x.dtype)
    batch = np.ogrid[tuple(slice(size) for size in x.shape[:shared])] if shared else []
    axes = indices.ndim - 1
    places = [each.reshape(*each.shape, *(1,) * (axes - shared)) for each in batch]
    return x[(*places, *found)].reshape(shape)


@into("ScatterND", empty=lambda node, x, *others: like(x), check=_check_reduction)
def scatter_nd(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """A tensor some of whose entries, by tuples of numbers, are others."""
    x, indices, updates = arrays
    out = outs[0]
    np.copyto(out, x)
    places = tuple(_tuples(node, x, indices, 0))
    if updates.shape != (*indices.shape[:-1], *x.shape[len(places) :]):
        raise ValueError(f"ScatterND {node.name!r}: updates {updates.shape} of {x.shape} at indices {indices.shape}")
    _put(node, out, places, updates)


@into("Scatter", "ScatterElements", empty=lambda node, x, *others: like(x), check=_check_reduction)
def scatter_elements(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """A tensor some of whose elements, by number along an axis, are others."""
    x, indices, updates = arrays
    out, axis = outs[0], axis_of(node, x)
    np.copyto(out, x)
    beyond = any(some > size for at, (some, size) in enumerate(zip(indices.shape, x.shape, strict=False)) if at != axis)
    if indices.shape != updates.shape or indices.ndim != x.ndim or beyond:
        raise ValueError(f"{node.op} {node.name!r}: indices {indices.shape}, updates {updates.shape} of {x.shape}")
    across = tuple(at for at in range(x.ndim) if at != axis)
    if indices.size and all(indices.strides[at] == 0 or indices.shape[at] == 1 for at in across):
        # whole slices, as Expand makes them
        rows = np.squeeze(indices[tuple(slice(1) if at in across else slice(None) for at in range(x.ndim))], across)
        part = out[tuple(slice(indices.shape[at]) if at in across else slice(None) for at in range(x.ndim))]
        _put(node, np.moveaxis(part, axis, 0), (_in_range(node, rows, x.shape[axis]),), np.moveaxis(updates, axis, 0))
        return
    places = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    places[axis] = _in_range(node, indices, x.shape[axis])
    _put(node, out, tuple(places), updates)


@general("CumSum", "CumProd")
def cumulative(node: Node, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Sums or products of all elements of an axis up to each, or, `exclusive`, before it; `reverse` from the end."""
    at = int(one_number(node, "axis", axis))
    if not -x.ndim <= at < x.ndim:
        raise ValueError(f"{node.op} {node.name!r}: there is no axis {at} in {x.ndim}")
    x = np.flip(x, at) if node.get("reverse", 0) else x
    function: Any = np.cumsum if node.op == "CumSum" else np.cumprod
    found = function(x, at, dtype=x.dtype)
    if node.get("exclusive", 0) and x.size:
        found = np.roll(found, 1, at)
        found[tuple(slice(1) if axis == at % x.ndim else slice(None) for axis in range(x.ndim))] = node.op == "CumProd"
    return np.flip(found, at) if node.get("reverse", 0) else found


@general("Trilu")
def triangle(node: Node, x: np.ndarray, k: Any = None) -> np.ndarray:
    """Zero below the diagonal number k of matrices, or, with `upper` 0, above it."""
    if x.ndim < 2:
        raise ValueError(f"Trilu {node.name!r}: the tensor has {x.ndim} axes; matrices have 2 or more")
    diagonal = 0 if k is None else int(one_number(node, "k", k))
    most = max(x.shape[-2:])  # beyond which nothing changes, and NumPy wants no more than 64 bits
    return (np.triu if node.get("upper", 1) else np.tril)(x, min(max(diagonal, -most), most))


def _check_eye(node: Node) -> str | None:
    return "dtype=STRING" if getattr(node.get("dtype"), "hasobject", False) else None


@general("EyeLike", check=_check_eye)
def eye_like(node: Node, x: np.ndarray) -> np.ndarray:
    """Ones on the diagonal number `k` of a matrix."""
    if x.ndim != 2:
        raise ValueError(f"EyeLike {node.name!r}: the tensor has {x.ndim} axes; a matrix has 2")
    rows, columns = x.shape
    return np.eye(rows, columns, int(node.get("k", 0)), node.get("dtype", x.dtype))


@general("OneHot", shaping=(1,))
def one_hot(node: Node, indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Along a new axis the second of two values where its number is that of an index, the first elsewhere."""
    count, axis = int(one_number(node, "depth", depth)), int(node.get("axis", -1))
    if count < 1 or values.shape != (2,) or not 0 <= axis + (indices.ndim + 1) * (axis < 0) <= indices.ndim:
        raise ValueError(
            f"OneHot {node.name!r}: depth {count}, axis {axis} of {indices.ndim + 1}, values of shape {values.shape}; "
            "depth must be 1 or more, and values two"
        )
    axis += indices.ndim + 1 if axis < 0 else 0
    check_size((count, *indices.shape), values.dtype)
    number = np.where(indices < 0, indices + count, indices)
    steps = np.arange(count).reshape(-1, *(1,) * (indices.ndim - axis))
    return np.where(np.expand_dims(number, axis) == steps, values[1], values[0])


#: Elements of a line from which on those that are wanted are found before they are sorted.
_LONG = 1024


def _first(line: np.ndarray, count: int, largest: bool) -> np.ndarray:
    """Numbers of the `count` largest or smallest elements, of equal ones the first; NaN is larger than all others.

    A few of many are sorted alone, which takes a third of the time.
    """
    size = line.size
    plain = line.dtype.kind in "iu" or (line.dtype.kind == "f" and not np.isnan(line).any())
    if plain and 0 < count < size // 4:
        last = np.partition(line, size - count if largest else count - 1)[size - count if largest else count - 1]
        beyond = line > last if largest else line < last
        numbers = np.flatnonzero(beyond)
        equal = np.flatnonzero(line == last)[: count - numbers.size]
        return np.concatenate([numbers[_sorted(line[numbers], largest)], equal])
    return _sorted(line, largest)[:count]


def _sorted(lines: np.ndarray, largest: bool) -> np.ndarray:
    """Numbers of the elements of each line in order."""
    if largest:
        return lines.shape[-1] - 1 - np.argsort(lines[..., ::-1], kind="stable")[..., ::-1]
    return np.argsort(lines, kind="stable")


@general("TopK", shaping=(1,))
def top_k(node: Node, x: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest or smallest elements along an axis, in order, of equal ones the first; and where they were."""
    axis, count = axis_of(node, x, -1), int(one_number(node, "k", k))
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(
            f"TopK {node.name!r}: k is {count}; of an axis of {x.shape[axis]} it must be 0 to {x.shape[axis]}"
        )
    lines, largest = np.moveaxis(x, axis, -1), bool(node.get("largest", 1))
    if lines.shape[-1] < _LONG:
        order = _sorted(lines, largest)[..., :count]
    else:
        order = np.empty((*lines.shape[:-1], count), np.int64)
        for place in np.ndindex(*lines.shape[:-1]):
            order[place] = _first(lines[place], count, largest)
    order = np.moveaxis(order, -1, axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


def _check_equation(node: Node) -> str | None:
    return None if node.get("equation") else "an equation that is empty"


@general("Einsum", check=_check_equation)
def einsum(node: Node, *arrays: np.ndarray) -> np.ndarray:
    """Sums of products, axes named by letters."""
    dtype = np.result_type(*arrays)
    wide = arrays if dtype.char in np.typecodes["All"] else [each.astype(np.float32) for each in arrays]  # bfloat16
    return np.asarray(np.einsum(node.get("equation"), *wide, optimize=True), dtype)
