"""Regions of images on their kernel: what NumPy cuts out, nothing else read or written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from running import DTYPES, run

from dwcpu import pixels, runtime
from dwcpu.graph.ir import Node
from dwcpu.graph.operators import detecting

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")


@pytest.fixture(autouse=True)
def everything_is_worth_threads(monkeypatch) -> None:
    monkeypatch.setattr(pixels, "_WORTH_BYTES", 0)


def both(monkeypatch, node: Node, x: np.ndarray, regions: np.ndarray, images: np.ndarray) -> list[np.ndarray]:
    """What the kernel gives, run against forbidden pages, and what NumPy does: (regions, C, cells, cells)."""
    made, found = pixels.regions, []

    def kept(*arguments: Any) -> None:
        found.append(made(*arguments))

    monkeypatch.setattr(pixels, "regions", kept)
    with np.errstate(all="ignore"):
        wanted = detecting.roi_align(node, x, regions, images)
    [kernel] = found
    assert kernel is not None
    corners = regions * x.dtype.type(node.get("spatial_scale")) - x.dtype.type(0.5)
    if node.get("coordinate_transformation_mode") == "output_half_pixel":
        corners += x.dtype.type(0.5)
    out = np.empty(kernel.out_shape, x.dtype)
    run(kernel, np.ascontiguousarray(np.moveaxis(x, 1, -1)), out, corners)
    monkeypatch.undo()
    monkeypatch.setattr(pixels, "_WORTH_BYTES", 0)
    return [np.moveaxis(out, -1, 1), wanted]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 67, 130])
@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
def test_regions_lie_anywhere(mode, channels, dtype, monkeypatch) -> None:
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((3, channels, 9, 14)).astype(dtype)
    corner = rng.random((40, 2)) * [30, 20] - 5
    regions = np.concatenate([corner, corner + rng.random((40, 2)) * rng.choice([0.1, 3, 16], (40, 1))], 1)
    regions[:6] = [
        [200, 200, 260, 220], [4, 4, 4, 4], [-2, -2, -2, -2], [0, 0, 28, 18], [20, 12, 3, 2], [25.9, 16, 27.9, 18.1]
    ]  # fmt: skip
    images = rng.integers(0, 3, 40)
    for samples, cells in ((0, (3, 4)), (1, (7, 7)), (2, (7, 7)), (5, (1, 2)), (9, (14, 3))):
        attributes = {
            "coordinate_transformation_mode": mode, "output_height": cells[0], "output_width": cells[1],
            "sampling_ratio": samples, "spatial_scale": 0.5,
        }  # fmt: skip
        node = Node("RoiAlign", "cut", [], [], attributes)
        found, wanted = both(monkeypatch, node, x, regions.astype(dtype), images)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 if dtype == np.float32 else 1e-13)


def test_regions_in_any_order_of_memory() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 14)).astype(np.float32)
    regions, images = np.random.default_rng(1).random((6, 4)).astype(np.float32) * 9, np.zeros(6, np.int64)
    node = Node("RoiAlign", "cut", [], [], {"output_height": 2, "output_width": 3, "sampling_ratio": 2})
    wanted = detecting.roi_align(node, x, regions, images)
    for lying in (np.asfortranarray(regions), np.repeat(regions, 2, 0)[::2], np.repeat(regions, 2, 1)[:, ::2]):
        np.testing.assert_array_equal(detecting.roi_align(node, x, lying, images), wanted)


def test_points_that_no_number_names_count_as_zero(monkeypatch) -> None:
    x = np.ones((1, 3, 6, 6), np.float32)
    far = np.finfo(np.float32).max
    regions = np.array([[-far, -far, far, far], [far, far, -far, -far], [0, 0, far, far]], np.float32)
    attributes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 1.0}
    found, wanted = both(monkeypatch, Node("RoiAlign", "cut", [], [], attributes), x, regions, np.zeros(3, np.int64))
    np.testing.assert_array_equal(found, wanted)
