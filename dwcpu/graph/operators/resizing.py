"""Resize and Upsample: every axis on its own, each output a weighted sum of a few pixels.

All modes and coordinate rules of the standard come down to a table, for each axis, of which pixels an output sees and
with which weights.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..ir import Node
from .moving import integers, whole_axes
from .registry import into, like

Arrays = list[Any]

_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)


class _Axis(NamedTuple):
    """Of one axis: sizes, scale and the part of it that is looked at (`tf_crop_and_resize`)."""

    size: int
    outputs: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _check(node: Node) -> str | None:
    if node.get("mode", "nearest") not in ("nearest", "linear", "cubic"):
        return f"mode={node.get('mode')!r}"
    rule = node.get("coordinate_transformation_mode", "half_pixel")
    return None if rule in _COORDINATES else f"coordinate_transformation_mode={rule!r}"


def _axes_of(node: Node, x: np.ndarray, roi: Any, scales: Any, sizes: Any) -> list[_Axis]:
    """All axes of `x`."""
    which = whole_axes(node, [int(axis) for axis in node.get("axes") or range(x.ndim)], x.ndim)
    found = [_Axis(size, size, 1.0) for size in x.shape]
    if sizes is not None and sizes.size:
        wanted = integers(sizes)
        ratios = [new / max(x.shape[axis], 1) for new, axis in zip(wanted, which, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(which)
            wanted = [int(np.floor(x.shape[axis] * ratio + 0.5)) for axis in which]
    else:
        ratios = [float(scale) for scale in np.asarray(scales).reshape(-1)]
        wanted = [int(x.shape[axis] * ratio) for axis, ratio in zip(which, ratios, strict=True)]
    crop = node.get("coordinate_transformation_mode") == "tf_crop_and_resize" and roi is not None and roi.size
    for at, axis in enumerate(which):
        if x.shape[axis] and (wanted[at] < 1 or not ratios[at] > 0):
            raise ValueError(f"{node.op} {node.name!r}: axis {axis} of {x.shape} would have {wanted[at]} entries")
        part = (float(roi[at]), float(roi[at + len(which)])) if crop else (0.0, 1.0)
        found[axis] = _Axis(x.shape[axis], wanted[at], ratios[at], *part)
    return found


def _coordinates(rule: str, axis: _Axis) -> np.ndarray:
    """Where each output lies in the input."""
    size, outputs, scale, start, end = axis
    at = np.arange(outputs, dtype=np.float64)
    if rule == "align_corners":
        # By the scale that was asked for, which need not be that of the rounded sizes.
        return at * (size - 1) / (scale * size - 1) if outputs > 1 else np.zeros(1)
    if rule == "asymmetric":
        return at / scale
    if rule == "tf_crop_and_resize":
        if outputs == 1:
            return np.full(1, 0.5 * (start + end) * (size - 1))
        return start * (size - 1) + at * (end - start) * (size - 1) / (outputs - 1)
    if rule == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    if rule == "pytorch_half_pixel" and outputs == 1:
        return np.zeros(1)
    half = (at + 0.5) / scale - 0.5
    if rule == "half_pixel_symmetric":
        half += size / 2 * (1 - outputs / (scale * size))
    return half


def _nearest(rule: str, at: np.ndarray) -> np.ndarray:
    if rule == "floor":
        return np.floor(at)
    if rule == "ceil":
        return np.ceil(at)
    return np.floor(at + 0.5) if rule == "round_prefer_ceil" else np.ceil(at - 0.5)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@lru_cache(maxsize=256)
def _table(
    axis: _Axis, mode: str, rule: str, nearest: str, a: float, exclude: bool, antialias: bool, outside: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (outputs, taps), their weights, and which outputs lie outside the image, if that matters."""
    at = _coordinates(rule, axis)
    beyond = (at < 0) | (at > axis.size - 1) if outside else np.zeros(axis.outputs, np.bool_)
    if mode == "nearest":
        pixels = np.clip(_nearest(nearest, at), 0, axis.size - 1).astype(np.intp)[:, None]
        return pixels, np.ones_like(pixels, np.float64), beyond
    reach = 1.0 if mode == "linear" else 2.0
    shrink = min(axis.scale, 1.0) if antialias else 1.0
    first = np.floor(at - reach / shrink).astype(np.intp) + 1
    taps = int(np.ceil(2 * reach / shrink)) + (1 if shrink < 1 else 0)
    pixels = first[:, None] + np.arange(taps)
    distance = (at[:, None] - pixels) * shrink
    weights = np.maximum(1 - np.abs(distance), 0) if mode == "linear" else _cubic(distance, a)
    if exclude:
        weights = np.where((pixels >= 0) & (pixels < axis.size), weights, 0)
    if exclude or antialias:
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(pixels, 0, axis.size - 1), weights, beyond


def whole_factors(node: Node, x: np.ndarray, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """By how much every axis grows, if every pixel is just repeated as often as that; else None."""
    axes = _axes_of(node, x, roi, scales, sizes)
    factors = []
    for axis in axes:
        factor, left = divmod(axis.outputs, axis.size)
        pixels = _table(axis, *_options(node))[0]
        if left or not factor or (pixels[:, 0] != np.arange(axis.outputs) // factor).any():
            return None
        factors.append(factor)
    return factors


def tables_of(node: Node, x: np.ndarray, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """For each axis the pixels (outputs, taps) and their weights; None where outputs beyond the image get a value."""
    tables = [_table(axis, *_options(node)) for axis in _axes_of(node, x, roi, scales, sizes)]
    return None if any(beyond.any() for _, _, beyond in tables) else [table[:2] for table in tables]


def _options(node: Node) -> tuple:
    """What `_table` needs to know of a node."""
    rule = node.get("coordinate_transformation_mode", "half_pixel")
    return (
        node.get("mode", "nearest"), rule, node.get("nearest_mode", "round_prefer_floor"),
        float(node.get("cubic_coeff_a", -0.75)), bool(node.get("exclude_outside", 0)), bool(node.get("antialias", 0)),
        rule == "tf_crop_and_resize",
    )  # fmt: skip


def _empty(node: Node, x: np.ndarray, roi: Any = None, scales: Any = None, sizes: Any = None) -> np.ndarray:
    return like(x, tuple(axis.outputs for axis in _axes_of(node, x, roi, scales, sizes)))


@into("Resize", empty=_empty, shaping=(1, 2, 3), check=_check)
def resize(node: Node, arrays: Arrays, outs: Arrays) -> None:
    """Nearest, linear or cubic; see ONNX's standard for the names of the rules."""
    x, roi, scales, sizes = (*arrays, None, None, None)[:4]
    out = outs[0]
    if not x.size:
        return
    mode = node.get("mode", "nearest")
    axes = _axes_of(node, x, roi, scales, sizes)
    changed = [number for number, axis in enumerate(axes) if axis[1:] != (axis.size, 1.0, 0.0, 1.0)]
    tables = {number: _table(axes[number], *_options(node)) for number in changed}
    # The axes that shrink most first: less to compute for the others.
    order = sorted(tables, key=lambda number: axes[number].outputs / axes[number].size)
    kept = {number: table for number, table in tables.items() if not _is_identity(table[0], table[1], axes[number])}
    order = [number for number in order if number in kept]
    value = x
    if mode != "nearest" and x.dtype.kind not in "f":
        value = x.astype(np.float64)
    for number in order:
        last = number == order[-1] and value.dtype == out.dtype
        sizes_now = (*value.shape[:number], axes[number].outputs, *value.shape[number + 1 :])
        target = out if last else like(value, sizes_now)
        _along(value, number, kept[number][0], kept[number][1], target)
        value = target
    if value is not out:
        np.copyto(out, value, casting="unsafe")
    for number, (_, _, beyond) in tables.items():
        if beyond.any():
            out[(slice(None),) * number + (beyond,)] = node.get("extrapolation_value", 0.0)


def _is_identity(pixels: np.ndarray, weights: np.ndarray, axis: _Axis) -> bool:
    return pixels.shape == (axis.size, 1) and bool((pixels[:, 0] == np.arange(axis.size)).all())


def _along(x: np.ndarray, axis: int, pixels: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """One axis of `x` by a table."""
    if pixels.shape[1] == 1:
        factor, left = divmod(out.shape[axis], x.shape[axis])
        if not left and (pixels[:, 0] == np.arange(out.shape[axis]) // factor).all():
            apart = out.reshape(*x.shape[: axis + 1], factor, *x.shape[axis + 1 :])
            np.copyto(apart, np.expand_dims(x, axis + 1))
        else:
            np.take(x, pixels[:, 0], axis, out=out, mode="clip")
        return
    across = (slice(None), *(None,) * (x.ndim - axis - 1))
    for tap in range(pixels.shape[1]):
        part = np.take(x, pixels[:, tap], axis)
        part *= weights[:, tap][across].astype(x.dtype)
        if tap:
            np.add(out, part, out=out)
        else:
            np.copyto(out, part)
