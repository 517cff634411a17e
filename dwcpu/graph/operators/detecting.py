"""Operators of networks that find objects: how many there are depends on the image."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ... import pixels, runtime
from ...pipeline import GIVEN, chain
from ...pipeline import Node as Operation
from ..ir import Node
from .moving import one_number
from .registry import check_size, general, valued

__all__: list[str] = []

#: Boxes that are compared at a time with all behind them: as many as an integer has bits.
_BLOCK = 64
#: Along an axis of a region.
_MOST_POINTS = 1 << 22
#: Boxes at least of a group of those that are apart from all others.
_GROUP = 128


@valued("NonZero")
def non_zero(node: Node, x: np.ndarray) -> np.ndarray:
    """Numbers of the elements that are not zero, one row for each axis."""
    found = np.nonzero(x) if x.ndim else np.zeros((0, int(bool(x))), np.int64)
    return np.array(found, np.int64)


@valued("NonMaxSuppression")
def non_max_suppression(
    node: Node, boxes: np.ndarray, scores: np.ndarray, most: Any = None, overlap: Any = None, score: Any = None
) -> np.ndarray:
    """Of boxes (N, B, 4) with scores (N, classes, B), class by class: image, class and number of those that stay.

    They stay in order of their scores unless one that stays overlaps them by more than `overlap`, intersection over
    union.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or boxes.shape[::2] != (scores.shape[0], 4):
        raise ValueError(
            f"NonMaxSuppression {node.name!r}: boxes are {boxes.shape} and scores {scores.shape}; they must be "
            f"(images, boxes, 4) and (images, classes, boxes)"
        )
    if boxes.shape[1] != scores.shape[2]:
        raise ValueError(
            f"NonMaxSuppression {node.name!r}: there are {boxes.shape[1]} boxes and {scores.shape[2]} scores; the last "
            f"axis of the scores must be that of the boxes"
        )
    limit = 0 if most is None else int(one_number(node, "max_output_boxes_per_class", most))
    share = np.float32(0 if overlap is None else one_number(node, "iou_threshold", overlap))
    if not 0 <= share <= 1:
        raise ValueError(f"NonMaxSuppression {node.name!r}: iou_threshold is {share}; it must be from 0 to 1")
    least = None if score is None else one_number(node, "score_threshold", score)
    if limit < 1:
        return np.zeros((0, 3), np.int64)
    candidates = np.ones(scores.shape, bool) if least is None else scores > least
    values, places = scores[candidates], np.array(np.nonzero(candidates))
    begins = np.flatnonzero(np.append(True, np.diff(places[:2]).any(0))[: values.size])
    for begin, end in pairwise((*begins, values.size)):  # of each class in order
        places[2, begin:end] = places[2, begin:end][np.argsort(-values[begin:end], kind="stable")]
    corners = np.stack([_corners(each, bool(node.get("center_point_box", 0))) for each in boxes], 1)
    return places[:, _kept(corners[:, places[0], places[2]], begins, share, limit)].T.copy()


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """Least and largest coordinates, (4, B): of both axes the least, then of both the largest.

    Of boxes with a centre and a negative size they stay the wrong way round, and overlap nothing.
    """
    first, second = boxes[:, :2].T, boxes[:, 2:].T
    if centred:
        return np.concatenate([first - second / 2, first + second / 2])
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)])


def _kept(corners: np.ndarray, begins: np.ndarray, share: np.float32, most: int) -> np.ndarray:
    """Of boxes (4, B) the numbers of those that stay; groups of them begin at `begins`, in order of their scores.

    At most `most` of each group.
    """
    count = corners.shape[1]
    members = np.arange(count)
    whole = begins.size == 1 and count > _GROUP
    if whole:
        members, begins = _apart(corners)
    most = min(most, count)
    kernel = pixels.boxes(begins, count, float(share), most) if count and corners.dtype == np.float32 else None
    if kernel is not None:
        gone, given = np.empty(count, np.float32), np.ascontiguousarray(corners[:, members])
        threads = runtime.get_num_threads()
        chain([Operation(kernel, gone.shape)], given.shape, given.dtype, threads).run(given, None, gone)
        stay = members[gone == 0]
    else:
        groups = np.split(members, begins[1:])
        stay = np.concatenate([each[_greedy(corners[:, each], share)[:most]] for each in groups])
    return np.sort(stay)[:most] if whole else np.sort(stay)


def _apart(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of boxes (4, B) in groups that cannot overlap each other, and where groups begin.

    A line without any box on it separates them. Networks move the boxes of each class apart from the others, to
    suppress those of all at once.
    """
    count = corners.shape[1]
    along = np.argsort(corners[0], kind="stable")
    reach = np.maximum.accumulate(corners[2, along])
    begins = np.flatnonzero(np.append(True, corners[0, along[1:]] >= reach[:-1]))
    group = np.empty(count, np.int64)
    group[along] = np.repeat(begins // _GROUP, np.diff(np.append(begins, count)))
    members = np.argsort(group, kind="stable")
    return members, np.flatnonzero(np.append(True, np.diff(group[members])))


def _greedy(corners: np.ndarray, share: np.float32) -> np.ndarray:
    """Of boxes (4, B) in order of their scores the numbers of those that stay, block by block."""
    left, kept = np.arange(corners.shape[1]), [np.zeros(0, np.int64)]
    while left.size:
        over = _overlap(corners[:, left[:_BLOCK]], corners[:, left], share)
        among = np.zeros((len(over), _BLOCK), bool)
        among[:, : len(over)] = over[:, : len(over)]
        gone, chosen = 0, []
        for at, row in enumerate(np.packbits(among, bitorder="little").view("<u8").tolist()):
            if not gone >> at & 1:
                gone |= row
                chosen.append(at)
        kept.append(left[chosen])
        left = left[_BLOCK:][~over[chosen, _BLOCK:].any(0)] if left.size > _BLOCK else left[:0]
    return np.concatenate(kept)


def _overlap(one: np.ndarray, two: np.ndarray, share: np.float32) -> np.ndarray:
    """Whether boxes (4, A) overlap boxes (4, B) by more than `share`, as (A, B)."""
    apart = one[:, :, None]
    inner, other = np.minimum(apart[2], two[2]), np.maximum(apart[0], two[0])
    inner -= other
    np.maximum(inner, 0, out=inner)
    height = np.minimum(apart[3], two[3])
    height -= np.maximum(apart[1], two[1], out=other)
    inner *= np.maximum(height, 0, out=height)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (apart, two)]
    union = np.add(areas[0], areas[1], out=other)
    union -= inner
    inner /= union
    return inner > share


_HALF, _WHOLE = "half_pixel", "output_half_pixel"


def _check_align(node: Node) -> str | None:
    if node.get("coordinate_transformation_mode", _HALF) not in (_HALF, _WHOLE):
        return f"coordinate_transformation_mode={node.get('coordinate_transformation_mode')}"
    return f"mode={node.get('mode')}" if node.get("mode", "avg") != "avg" else None


@general("RoiAlign", check=_check_align)
def roi_align(node: Node, x: np.ndarray, regions: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Cells of regions (R, 4) of images: means of points within each, between which pixels are interpolated."""
    if x.ndim != 4 or regions.ndim != 2 or regions.shape[1] != 4 or images.shape != regions.shape[:1]:
        raise ValueError(
            f"RoiAlign {node.name!r}: images are {x.shape}, regions {regions.shape} and batch_indices {images.shape}; "
            f"they must be (N, C, H, W), (regions, 4) and (regions,)"
        )
    if images.size and not 0 <= images.min() <= images.max() < x.shape[0]:
        raise ValueError(
            f"RoiAlign {node.name!r}: batch_indices are {images.min()} to {images.max()}; of {x.shape[0]} images they "
            f"must be 0 to {x.shape[0] - 1}"
        )
    cells = int(node.get("output_height", 1)), int(node.get("output_width", 1))
    shape, wide = (regions.shape[0], *cells, x.shape[1]), np.result_type(x.dtype, np.float32)
    check_size(shape, wide)
    half = node.get("coordinate_transformation_mode", _HALF) == _HALF
    corners = np.ascontiguousarray(regions, wide) * wide.type(node.get("spatial_scale", 1.0)) - wide.type(
        0.5 if half else 0
    )
    if not np.isfinite(corners).all():
        raise ValueError(f"RoiAlign {node.name!r}: regions have NaN or infinities; all of them must be numbers")
    channels_last = np.ascontiguousarray(np.moveaxis(x, 1, -1), wide)
    out = np.zeros(shape, wide)
    if out.size and x.size:
        _cut(node, channels_last, corners, images, half, out)
    return np.moveaxis(out, -1, 1).astype(x.dtype, copy=False)


def _cut(node: Node, x: np.ndarray, corners: np.ndarray, images: np.ndarray, half: bool, out: np.ndarray) -> None:
    """Cells (regions, cells, cells, C) of images (N, H, W, C)."""
    samples, cells, sizes = int(node.get("sampling_ratio", 0)), out.shape[1:3], x.shape[1:3]
    least, most = -np.inf if half else 1.0, []
    for axis in (1, 0):
        lengths = np.maximum(corners[:, axis + 2] - corners[:, axis], least)
        points = samples if samples > 0 else int(max(np.ceil(lengths.max() / cells[1 - axis]), 0))
        if cells[1 - axis] * points > _MOST_POINTS:
            raise ValueError(
                f"RoiAlign {node.name!r}: a region of {lengths.max():.0f} pixels has {cells[1 - axis] * points} points "
                f"along an axis; {_MOST_POINTS} is the limit; regions must be about as large as the image, which has "
                f"{sizes[1 - axis]} pixels"
            )
        # places go on in one direction, and then each pixel is met once
        most.append(min(2 * points, sizes[1 - axis]) if lengths.min() >= 0 else 2 * points)
    kernel = pixels.regions(x.shape, images, cells, samples, least, (most[0], most[1]), x.dtype)
    if kernel is not None:
        chain([Operation(kernel, out.shape, GIVEN)], x.shape, x.dtype, runtime.get_num_threads()).run(x, corners, out)
        return
    # The points of an axis are the same wherever they are along the other one: a region is two products.
    for at, (left, top, right, bottom) in enumerate(corners):
        first, rows = _cells(node, top, bottom, cells[0], x.shape[1], half)
        begin, columns = _cells(node, left, right, cells[1], x.shape[2], half)
        part = x[images[at], first : first + rows.shape[1], begin : begin + columns.shape[1]]
        if part.size:
            between = rows @ part.reshape(rows.shape[1], -1)
            np.matmul(columns, between.reshape(cells[0], columns.shape[1], -1), out=out[at])


def _cells(node: Node, begin: Any, end: Any, count: int, size: int, half: bool) -> tuple[int, np.ndarray]:
    """The weights (count, pixels) of the pixels of an axis in each cell between two places, and the first of these."""
    number, samples = type(begin), int(node.get("sampling_ratio", 0))
    length = end - begin if half else max(end - begin, number(1))
    each = length / number(count)
    points = samples if samples > 0 else max(int(np.ceil(each)), 0)
    step = (np.arange(points, dtype=number) + number(0.5)) * each / number(max(points, 1))
    places = (begin + np.arange(count, dtype=number)[:, None] * each + step).reshape(-1)
    inside = np.flatnonzero((places >= -1) & (places <= size))  # others count as zero
    if not inside.size:
        return 0, np.zeros((count, 0), number)
    places = np.clip(places[inside], 0, size - 1)
    low = places.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    first = low.min()
    weights = np.zeros((count, high.max() + 1 - first), number)
    np.add.at(weights, (inside // points, low - first), 1 - (places - low))
    np.add.at(weights, (inside // points, high - first), places - low)
    return int(first), weights / number(points)
