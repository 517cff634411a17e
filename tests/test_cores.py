"""What is done otherwise on cores with other caches: their sizes, and how many lines of L1 share a set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cases import ODD_CASES
from test_dispatch import depthwise

from dwcpu import abi, arrays, dispatch, runtime
from dwcpu.epilogue import Activation
from dwcpu.fused_geometry import InvertedResidualGeometry, SeparableGeometry
from dwcpu.geometry import ConvGeometry


@pytest.fixture
def eight_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small core: caches of other sizes than this machine may have, eight lines in a set of L1."""
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(32 << 10, 512 << 10, 32 << 20))
    monkeypatch.setattr(runtime, "l1_ways", lambda: 8)


@pytest.fixture
def twelve_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large core, as `eight_ways`."""
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(48 << 10, 2 << 20, 32 << 20))
    monkeypatch.setattr(runtime, "l1_ways", lambda: 12)


def plan_of(geometry: ConvGeometry, lanes: int) -> tuple[int, int, int]:
    """Rows of a copy, channel vectors of a pass and columns of a tile, where vectors are that many reals."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    kernel = dispatch.choose(geometry, np.float32, 1, "cython")
    if kernel.lanes != lanes:
        pytest.skip(f"for vectors of {4 * lanes} bytes")
    plan = kernel.prepare(geometry, np.zeros(geometry.w_shape, np.float32)).plan[0]
    return int(plan["copy_rows"]), int(plan["block_channels"]), int(plan["tile_columns"])


#: Lanes -> geometries with what is done about pixels that share sets: rows and vectors of a copy, or vectors in pairs.
CROWDED: dict[int, list[tuple[ConvGeometry, object]]] = {
    8: [
        (depthwise(14, 512, 3, 2), (4, 8)),
        (depthwise(14, 512, 3), (8, 8)),
        (depthwise(28, 512, 3), (8, 4)),
        (depthwise(28, 512, 5, 2), (2, 4)),
        (depthwise(28, 256, 3, 2), "pairs"),
        (depthwise(64, 512, 3, 2), "pairs"),
        (depthwise(40, 512, 3, 2), (2, 4)),
        (depthwise(56, 512, 3, 2), "pairs"),  # rather than copies that L1 does not hold
        (depthwise(56, 128, 3, 2), "pairs"),  # all rows share sets, columns do not
        (depthwise(112, 64, 3, 2), "pairs"),
        (depthwise(112, 96, 3, 2), "nothing"),
        (depthwise(14, 480, 3, 2), "nothing"),
        (depthwise(4, 512, 3), "nothing"),  # fewer lines than a patch has
    ],
    16: [  # a vector is a line
        (depthwise(14, 512, 3, 2), (4, 4)),
        (depthwise(14, 512, 3), (8, 4)),
        (depthwise(28, 512, 3), (8, 4)),
        (depthwise(56, 512, 3), "nothing"),  # only two rows at a time
        (depthwise(56, 512, 3, 2), (2, 4)),
        (depthwise(80, 512, 3), "nothing"),  # too long for copies
        (depthwise(28, 256, 3), "nothing"),  # six lines a set
        (depthwise(28, 256, 3, 2), "nothing"),
        (depthwise(28, 256, 5), (6, 4)),
        (depthwise(28, 192, 7, 2), "nothing"),
        (depthwise(14, 480, 3, 2), "nothing"),
        (depthwise(4, 512, 3), "nothing"),
    ],
}


@pytest.mark.parametrize(
    ("lanes", "geometry", "copy"), [(lanes, *each) for lanes, cases in CROWDED.items() for each in cases]
)
@pytest.mark.usefixtures("eight_ways")
def test_pixels_that_share_sets_of_the_cache(lanes: int, geometry: ConvGeometry, copy: object) -> None:
    assert remedy(geometry, lanes) == copy


def remedy(geometry: ConvGeometry, lanes: int) -> object:
    """What is done about shared sets, as `CROWDED` has it."""
    rows, vectors, columns = plan_of(geometry, lanes)
    return (rows, vectors) if rows else "pairs" if columns == abi.HALF_COLUMNS else "nothing"


@pytest.mark.usefixtures("twelve_ways")
@pytest.mark.parametrize("lanes", [8, 16])
def test_sets_of_twelve_lines_hold_more(lanes: int) -> None:
    few, many = depthwise(14, 1024, 3), depthwise(14, 512, 5, 2)  # 24 lines of a set, 39
    assert remedy(few, lanes) == "nothing"
    assert remedy(many, lanes) == ((4, 8) if lanes == 8 else "nothing")
    assert remedy(depthwise(28, 256, 3, 2), lanes) == ("pairs" if lanes == 8 else "nothing")


STREAMED = {
    "1x3 from L3": (depthwise(80, 128, (1, 3)), True),
    "1x3 from L2": (depthwise(28, 128, (1, 3)), False),
    "1x3 of many channels": (depthwise(17, 768, (1, 3)), True),
    "1x4 from L3": (depthwise(80, 128, (1, 4)), False),
    "1x4 from L3, dilated": (depthwise(80, 128, (1, 4), dilation=2), True),
    "1x5 from L3": (depthwise(80, 128, (1, 5)), False),
    "3x1 beside each other": (depthwise(8, 1024, (3, 1), 3), True),
    "3x3 beside each other": (depthwise(28, 512, 3, 3), True),
    "4x4 beside each other": (depthwise(28, 512, 4, 4), False),
    "phases of three columns": (depthwise(17, 64, (1, 5), dilation=8), True),
    "phases of nine columns": (depthwise(17, 64, (1, 5), dilation=2), False),
    "2x2 of few channels": (depthwise(300, 32, 2), False),
    "two outputs a channel": (depthwise(80, 128, (1, 3), multiplier=2), False),
}


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    """Choices are kept, and those of another core must not be."""
    dispatch._choose.cache_clear()
    yield
    dispatch._choose.cache_clear()


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
def test_windows_that_large_cores_compute_pixel_by_pixel(name: str, core: str, request: pytest.FixtureRequest) -> None:
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    request.getfixturevalue(core)
    geometry, streams = STREAMED[name]
    assert (dispatch.choose(geometry, np.float32, 1).label == "stream") == (streams and core == "twelve_ways")


@pytest.mark.usefixtures("chosen_anew", "twelve_ways")
def test_windows_inside_fused_operations_are_not_computed_pixel_by_pixel() -> None:
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    block = SeparableGeometry.of((1, 80, 80, 128), (1, 3, 128), (128, 64), padding="same")
    for backend in "auto", "cython":
        kernel = dispatch.choose(block, np.float32, 1, backend)
        parts = tuple((np.zeros(part.w_shape, np.float32), None, Activation()) for part in block.parts)
        assert kernel.label == "fused" and kernel.prepare(block, parts).depthwise.kernel.label != "stream"


@pytest.mark.usefixtures("eight_ways")
@pytest.mark.parametrize(
    ("lanes", "some"), [(8, {(8, True), (4, True), "pairs", "nothing"}), (16, {(4, True), "nothing"})]
)
def test_cases_have_copies_of_all_kinds(lanes: int, some: set) -> None:
    kinds = set()
    for case in ODD_CASES["depthwise"]:
        geometry = case.geometry
        if (
            geometry.batch
            and geometry.multiplier == 1
            and geometry.in_channels >= lanes
            and geometry.kernel_w in (3, 5)
        ):
            rows, vectors, columns = plan_of(geometry, lanes)
            several = 0 < rows < geometry.out_height
            kinds.add((vectors, several) if rows else "pairs" if columns == abi.HALF_COLUMNS else "nothing")
    assert kinds >= some


@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels", "pixels", "streams"),
    [
        (112, 16, 96, 585, ""),  # inputs and outputs: 256 KiB
        (28, 64, 64, 512, ""),
        (112, 128, 256, 170, ""),
        (112, 129, 256, 508, ""),  # weights of more than 128 KiB are not to be read so often: inputs alone
        (112, 1024, 1024, 64, ""),
        (70, 3, 1000, 65, "all"),  # outputs go to memory, and few inputs to each
        (75, 12, 512, 125, "narrow"),  # in rows of 2 KiB
        (70, 9, 1000, 64, "narrow"),
        (60, 3, 1000, 65, "narrow"),  # of which much stays in L3
        (14, 3, 1000, 65, ""),
    ],
)
@pytest.mark.usefixtures("eight_ways")
def test_blocks_of_matrix_products(size: int, in_channels: int, out_channels: int, pixels: int, streams: str) -> None:
    geometry = ConvGeometry("pointwise", 1, size, size, in_channels, out_channels)
    for kernel in (k for k in dispatch.kernels("float32") if k.op == "pointwise"):
        prepared = kernel.prepare(geometry, np.zeros((1, 1, in_channels, out_channels), np.float32))
        lines = kernel.lanes * 4 == arrays.LINE
        asks = lines and size**2 * out_channels * 4 > 1 << 20
        stretch = int(prepared.plan["block_channels"][0])  # of inputs, where panels of all take too much of L2
        parted = lines and kernel.backend == "cython" and in_channels == 1024
        assert stretch == ((512 if kernel.tile_columns == 2 else 256) if parted else 0)
        # where it asks for lines of outputs these do not stay in L2
        tiles = ((64 << 10) // (stretch or in_channels) if asks else pixels) // kernel.tile_rows
        if streams == "all" or (streams == "narrow" and not lines):
            tiles = (14 if lines else 28) // kernel.tile_rows
        assert prepared.plan["block_rows"][0] == tiles * kernel.tile_rows
        assert prepared.plan["asks_out"][0] == asks


@pytest.mark.usefixtures("twelve_ways")
@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels", "pixels"),
    [
        (112, 16, 96, 560),  # ten pixels' outputs to a page, of 56 pages
        (56, 24, 1000, 56),
        (56, 64, 512, 112),
        (14, 40, 4096, 56),  # more than a page each
        (14, 300, 4096, 873),  # weights of more than half of L2
        (56, 24, 160, 1424),  # L2 holds the outputs
        (300, 32, 48, 3276),  # rows of less than 256 bytes
    ],
)
def test_blocks_of_outputs_in_as_many_pages_as_are_fetched_ahead(
    size: int, in_channels: int, out_channels: int, pixels: int
) -> None:
    geometry = ConvGeometry("pointwise", 1, size, size, in_channels, out_channels)
    found = [k for k in dispatch.kernels("float32") if k.op == "pointwise" and k.lanes == 16]
    if not found:
        pytest.skip("for vectors of 64 bytes")
    for kernel in found:
        plan = kernel.prepare(geometry, np.zeros((1, 1, in_channels, out_channels), np.float32)).plan
        assert plan["block_rows"][0] == pixels // kernel.tile_rows * kernel.tile_rows
        asks = size**2 * out_channels * 4 > 2 << 20 and out_channels >= 64
        assert plan["asks_out"][0] + plan["across"][0] == asks


@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels", "turns"),
    [
        (112, 16, 96, True),
        (112, 8, 96, False),  # too few inputs
        (112, 8, 97, True),  # but for short rows that begin between lines
        (112, 16, 159, True),
        (112, 16, 161, False),
        (112, 16, 192, True),
        (56, 24, 1000, True),
        (112, 200, 96, False),  # too many
        (112, 16, 48, False),  # one panel
        (56, 16, 96, False),  # in L2
    ],
)
@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
def test_panels_that_take_turns(
    size: int, in_channels: int, out_channels: int, turns: bool, core: str, request: pytest.FixtureRequest
) -> None:
    """On large cores, with vectors of a line, where outputs leave L2; then they ask for nothing, for nobody else."""
    request.getfixturevalue(core)
    geometry = ConvGeometry("pointwise", 1, size, size, in_channels, out_channels)
    for kernel in (k for k in dispatch.kernels("float32") if k.op == "pointwise"):
        prepared = kernel.prepare(geometry, np.zeros((1, 1, in_channels, out_channels), np.float32))
        lines = core == "twelve_ways" and kernel.lanes == 16 and kernel.backend == "cython"
        assert prepared.plan["across"][0] == (turns and lines)
        if turns and lines:
            assert not prepared.plan["asks_out"][0]
            assert prepared.room(size**2, 1) == (0, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_that_ask_for_lines_of_outputs_have_the_same_bits(dtype: type, rng: np.random.Generator) -> None:
    for size, in_channels, out_channels in ((9, 16, 32), (13, 7, 45), (4, 5, 3), (1, 40, 70)):
        geometry = ConvGeometry("pointwise", 2, size, size, in_channels, out_channels)
        x = rng.standard_normal(geometry.x_shape).astype(dtype)
        w = rng.standard_normal((1, 1, in_channels, out_channels)).astype(dtype)
        for kernel in (k for k in dispatch.kernels(dtype) if k.op == "pointwise"):
            prepared, found = kernel.prepare(geometry, w), []
            for asks in (0, 1):
                prepared.plan["asks_out"] = asks
                found.append(np.empty(geometry.out_shape, dtype))
                prepared.run(x, None, found[-1], 1)
            assert found[0].tobytes() == found[1].tobytes(), kernel.name


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
@pytest.mark.parametrize(
    ("size", "channels", "outputs", "filled"),
    [(56, 64, 64, True), (14, 128, 128, False), (19, 728, 728, False), (160, 96, 96, True)],
)
def test_separable_convolutions_that_fill_l2(
    size: int, channels: int, outputs: int, filled: bool, core: str, request: pytest.FixtureRequest
) -> None:
    """Small blocks that ask for what they read and write; windows inside write to what is in L2, and do not ask."""
    request.getfixturevalue(core)
    block = SeparableGeometry.of((1, size, size, channels), (3, 3, channels), (channels, outputs), padding="same")
    for kernel in (
        k for k in dispatch.kernels("float32") if (k.op, k.label, k.backend) == ("separable", "fused", "cython")
    ):
        parts = tuple((np.zeros(part.w_shape, np.float32), None, Activation()) for part in block.parts)
        prepared = kernel.prepare(block, parts)
        filled = filled and core == "twelve_ways" and prepared.pointwise.kernel.lanes == 16
        assert prepared._fills_l2 == filled
        assert (prepared._stretches["asks_out"] == 0).all()
        if filled:
            turns = outputs > 48  # of one panel there are none to take
            assert (prepared.pointwise.plan["across"][0], prepared.pointwise.plan["asks_out"][0]) == (turns, not turns)
            assert prepared.plan["asks_ahead"][0]
            assert prepared._block_rows == 2 or prepared._block_rows * size * channels * 4 <= 0.04 * (2 << 20)


@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
@pytest.mark.parametrize(
    ("size", "channels", "outputs", "dilation", "crowded"),
    [
        (14, 512, 512, 1, True),
        (28, 192, 64, 1, True),
        (14, 256, 256, 1, False),  # all is in L2
        (14, 512, 1200, 1, False),  # weights are large
        (28, 192, 64, 4, False),  # its rows lie apart
    ],
)
def test_separable_convolutions_that_crowd_l2(
    size: int, channels: int, outputs: int, dilation: int, crowded: bool, core: str, request: pytest.FixtureRequest
) -> None:
    """Several small blocks, of which the last asks for what later kernels read."""
    request.getfixturevalue(core)
    block = SeparableGeometry.of(
        (1, size, size, channels), (3, 3, channels), (channels, outputs), padding=dilation, dilation=dilation
    )
    for kernel in (
        k for k in dispatch.kernels("float32") if (k.op, k.label, k.backend) == ("separable", "fused", "cython")
    ):
        parts = tuple((np.zeros(part.w_shape, np.float32), None, Activation()) for part in block.parts)
        prepared = kernel.prepare(block, parts)
        assert not prepared._fills_l2
        crowded = crowded and core == "twelve_ways" and prepared.pointwise.kernel.lanes == 16
        assert prepared._crowds_l2 == crowded
        assert prepared._block_rows <= 6 or not crowded
        (only,) = prepared.passes(1)
        last = (size - 1) % prepared._block_rows + 1
        assert only.room == prepared.pointwise.room(last * size, 1)
        assert only.asking is not None


@pytest.mark.usefixtures("chosen_anew", "twelve_ways")
def test_small_blocks_whose_panels_take_turns_have_the_same_bits(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a separable convolution that fills L2, while they ask for the rows of the next block."""
    block = SeparableGeometry.of((2, 24, 24, 20), (3, 3, 20), (20, 100), padding="same")
    x = rng.standard_normal(block.x_shape, np.float32)
    parts = tuple((rng.standard_normal(part.w_shape, np.float32), None, Activation()) for part in block.parts)
    for kernel in (k for k in dispatch.kernels("float32") if (k.op, k.label) == ("separable", "fused")):
        found = []
        for l2 in (2 << 20, 32 << 10):
            monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(48 << 10, l2, 32 << 20))
            prepared = kernel.prepare(block, parts)
            found.append(np.empty(block.out_shape, np.float32))
            prepared.run(x, None, found[-1], 1)
        if kernel.backend == "cython" and prepared.pointwise.kernel.lanes == 16:
            assert prepared.plan["asks_ahead"][0] and prepared.pointwise.plan["across"][0]
            assert prepared._block_rows < 24
        assert found[0].tobytes() == found[1].tobytes(), kernel.name


@pytest.mark.usefixtures("chosen_anew", "twelve_ways")
def test_expanded_images_are_written_as_to_l2() -> None:
    """Alone, the same product would ask for its outputs, or its panels take turns."""
    shapes = (1, 112, 112, 16), (16, 96), (3, 3, 96), (96, 24)
    block = InvertedResidualGeometry.of(*shapes, padding="same")
    parts = tuple((np.zeros(part.w_shape, np.float32), None, Activation()) for part in block.parts)
    for kernel in (k for k in dispatch.kernels("float32") if (k.op, k.label) == ("inverted_residual", "fused")):
        plan = kernel.prepare(block, parts).expand.plan
        assert not plan["asks_out"][0] and not plan["across"][0]


@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
@pytest.mark.parametrize(("size", "in_l2"), [(48, True), (128, False)])
def test_products_with_pixels_as_lanes_that_ask_for_inputs(
    size: int, in_l2: bool, core: str, rng: np.random.Generator, request: pytest.FixtureRequest
) -> None:
    """Large cores do not for what L2 holds; within a separable convolution nobody does; bits are the same."""
    request.getfixturevalue(core)
    geometry = ConvGeometry("pointwise", 1, size, size, 50, 1)
    x, w = rng.standard_normal((1, size, size, 50), np.float32), rng.standard_normal((1, 1, 50, 1), np.float32)
    for kernel in (k for k in dispatch.kernels("float32") if (k.op, k.backend) == ("pointwise", "cython")):
        prepared, found = kernel.prepare(geometry, w), []
        assert prepared.plan["asks_in"][0] == (core == "eight_ways" or not in_l2)
        for asks in (0, 1):
            prepared.plan["asks_in"] = asks
            found.append(np.empty(geometry.out_shape, np.float32))
            prepared.run(x, None, found[-1], 1)
        assert found[0].tobytes() == found[1].tobytes(), kernel.name
    block = SeparableGeometry.of(x.shape, (3, 3, 50), (50, 1), padding="same")
    parts = tuple((np.zeros(part.w_shape, np.float32), None, Activation()) for part in block.parts)
    for kernel in (k for k in dispatch.kernels("float32") if (k.op, k.label) == ("separable", "fused")):
        assert not kernel.prepare(block, parts).pointwise.plan["asks_in"][0]


@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
def test_tiles_of_colours_that_ask_for_lines_of_outputs(core: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(core)
    for kernel in (k for k in dispatch.kernels("float32") if k.op == "conv"):
        asked = []
        for size, outputs in ((224, 32), (224, 16), (64, 32)):
            geometry = ConvGeometry.conv((1, size, size, 3), (3, 3, 3, outputs), stride=2, padding=1)
            plan = kernel.prepare(geometry, np.zeros(geometry.w_shape, np.float32)).plan
            asked.append(bool(plan["asks_out"][0]))
        wide = kernel.lanes == 16 and kernel.backend == "cython" and core == "twelve_ways"
        assert asked == [wide, False, False]


@pytest.mark.parametrize(
    ("size", "channels", "window", "stride", "asks"),
    [
        (112, 128, 3, 1, True),
        (56, 128, 3, 1, False),  # less than one and a half of L2
        (112, 160, 3, 2, False),
        (112, 100, 5, 1, False),  # outputs lie across lines
        (112, 112, 5, 1, True),
        (56, 360, 3, 2, False),
    ],
)
@pytest.mark.parametrize("core", ["eight_ways", "twelve_ways"])
def test_windows_that_ask_for_lines_of_outputs(
    size: int, channels: int, window: int, stride: int, asks: bool, core: str, request: pytest.FixtureRequest
) -> None:
    """On large cores, with vectors of a line, for results that L2 does not hold."""
    request.getfixturevalue(core)
    geometry = ConvGeometry.depthwise(
        (1, size, size, channels), (window, window, channels), stride=stride, padding=window // 2
    )
    for kernel in (k for k in dispatch.kernels("float32") if k.op == "depthwise" and k.copies and k.supports(geometry)):
        prepared = kernel.prepare(geometry, np.zeros((window, window, channels, 1), np.float32))
        assert prepared.plan["asks_out"][0] == (asks and core == "twelve_ways" and kernel.lanes == 16)
