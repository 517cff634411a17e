"""Standard convolutions that compiled kernels compute in ways of their own, with the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import Case, make_data
from test_kernels import ENDS, KERNELS, check_gaps, compute, expected

import dwcpu
from dwcpu import abi, caches, grid, runtime, taps
from dwcpu import prepared as prepared_module
from dwcpu.dispatch import Kernel
from dwcpu.geometry import ConvGeometry
from dwcpu.prepared import PreparedSingle

pytestmark = pytest.mark.usefixtures("guarded_scratch", "share_even_the_smallest_work")

#: Products and convolutions with vectors of 64 bytes.
WIDE = {("pointwise", 64), ("conv", 64)}

EVERY_KERNEL = pytest.mark.parametrize(
    "kernel",
    [kernel for kernel in KERNELS if (kernel.op, kernel.backend) == ("conv", "cython")],
    ids=lambda kernel: kernel.name,
)


@EVERY_KERNEL
def test_pixels_that_strides_leave_are_gathered(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows of them at a time, across images too; not where some lie outside, or channels are few."""
    line = 64 // kernel.dtype.itemsize
    for l2, rows in (256, 1), (3 << 10, 3), (1 << 20, 24):
        monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(2048, l2, 1 << 22))
        for channels, stride, activation in (line, (2, 2), "silu"), (line + 1, (2, 2), "relu"), (line, (1, 3), "gelu"):
            case = Case("conv", (3, 15, 13, channels), 65, (1, 1), stride, padding=((0, 0), (0, 0)))
            prepared = kernel.prepare(case.geometry, *make_data(case, kernel.dtype.type, "normal").kernel_weights())
            assert prepared.plan["gathers"]
            assert min(prepared.plan["block_rows"][0], 24) == rows or stride != (2, 2)
            for threads, end in zip((1, 2), ENDS, strict=True):
                result = compute(kernel, case, "normal", activation, True, True, threads, end)
                with monkeypatch.context() as patch:
                    patch.setattr(PreparedSingle, "_gathers", False)
                    right = compute(kernel, case, "normal", activation, True, True, 1, end)
                assert result.tobytes() == right.tobytes(), f"{case} on {threads}"
    line *= 2
    for channels, outputs, groups, sizes, padding in (
        (line // 2 - 1, 64, 1, (9, 9), ((0, 0), (0, 0))),
        (line, 63, 1, (9, 9), ((0, 0), (0, 0))),
        (line, 64, 2, (9, 9), ((0, 0), (0, 0))),
        (line, 64, 1, (8, 9), ((0, 1), (0, 0))),  # the last row lies outside
        (line, 64, 1, (9, 8), ((0, 0), (0, 1))),
        (line, 64, 1, (8, 9), ((1, 0), (0, 0))),  # the first one
        (line, 64, 1, (9, 8), ((0, 0), (1, 0))),
    ):
        case = Case("conv", (1, *sizes, channels), outputs, (1, 1), (2, 2), padding=padding, groups=groups)
        prepared = kernel.prepare(case.geometry, *make_data(case, kernel.dtype.type, "normal").kernel_weights())
        assert not prepared.plan["gathers"], str(case)
        result = compute(kernel, case, "integers", "relu", True, True)
        np.testing.assert_array_equal(result, expected(case, kernel.dtype, "integers", "relu", True, True), str(case))


@EVERY_KERNEL
@pytest.mark.parametrize("outputs", range(1, 7))
def test_few_outputs_with_pixels_as_lanes(kernel: Kernel, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as with outputs as lanes, for rows of any length, of which tiles take more or less."""
    lanes = kernel.lanes
    for width in [2 * lanes, 2 * lanes + 3, 4 * lanes, *range(5 * lanes - 1, 11 * lanes, lanes // 2 + 1)]:
        number = width + outputs
        activation = (None, "hardswish", "relu6", "silu", "gelu")[number % 5]
        case = Case(
            "conv", (1 + number % 2, 5, width, 3 + number % 4), outputs, (3, 1 + number % 3), (1 + number % 2, 1),
            padding=((1, number % 3), (number % 2, 0)),
        )  # fmt: skip
        if case.geometry.width - case.geometry.kernel_w + 1 < 2 * lanes:
            continue
        threads, end = 1 + number % 2, ENDS[number % 2]
        found = []
        for few in True, False:
            with monkeypatch.context() as patch:
                patch.setattr(PreparedSingle, "_few_outputs", few)
                found.append(compute(kernel, case, "normal", activation, True, number % 3 > 0, threads, end).tobytes())
        assert found[0] == found[1], f"{case} {activation}"


@EVERY_KERNEL
def test_where_few_outputs_have_pixels_as_lanes(kernel: Kernel) -> None:
    """Where many taps pay for turning the rows that they read, and nothing stands against it."""
    lanes = kernel.lanes

    def ring(
        width: int, *taps: int, channels: int = 64, outputs: int = 1, stride: tuple[int, int] = (1, 1), groups: int = 1
    ) -> int:
        case = Case("conv", (1, 9, width, channels), outputs, taps, stride, groups=groups)
        data = make_data(case, kernel.dtype.type, "normal")
        return int(kernel.prepare(case.geometry, *data.kernel_weights()).plan["ring_rows"][0])

    assert ring(64, 3, 3) == ring(64, 3, 3, outputs=2) == 3
    assert ring(64, 9, 9, outputs=6) == 9
    assert ring(64, 9, 9, channels=2) == 9
    assert ring(64, 1, 5) == 1
    assert ring(64, 3, 3, outputs=7) == 0
    assert ring(64, 3, 1, outputs=4, stride=(4, 1)) == 0  # rows that no tap reads would be turned, too
    assert ring(64, 3, 1, channels=1, outputs=6) == 0  # little work for each output
    assert ring(64, 3, 3, stride=(1, 2)) == 0
    assert ring(2 * lanes + 2, 3, 3) == 3
    assert ring(2 * lanes + 1, 3, 3) == 0
    assert ring(64, 3, 3, channels=6, outputs=6, groups=3) == 0
    assert ring(64, 3, 3, channels=10_000) == 0  # not within L2


@pytest.mark.parametrize("outputs", range(1, 6))
@pytest.mark.parametrize(
    "kernel",
    [each for each in KERNELS if (each.op, each.backend) == ("pointwise", "cython")],
    ids=lambda kernel: kernel.name,
)
def test_matrix_products_with_few_outputs(kernel: Kernel, outputs: int) -> None:
    """Pixels as lanes, where there are vectors of them: the bits of outputs as lanes, which more of them are."""
    lanes, dtype = kernel.lanes, kernel.dtype
    for number, channels in enumerate((lanes, lanes + 1, 2 * lanes - 1, 5 * lanes + 3, 130)):
        for at, pixels in enumerate((lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes - 1, 6 * lanes + 5)):
            activation = (None, "hardswish", "relu6", "silu", "gelu")[(number + at) % 5]
            case = Case("pointwise", (1 + at % 2, 1, pixels, channels), outputs, (1, 1))
            found = compute(kernel, case, "integers", activation, True, number % 2 > 0, 1 + at % 2, ENDS[number % 2])
            right = expected(case, dtype, "integers", activation, True, number % 2 > 0)
            np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-5, err_msg=f"{case} {activation}")
            check_gaps(kernel, case, 1 + number, ENDS[at % 2], activation)
            rng = np.random.default_rng([outputs, channels, pixels])
            x, w, bias, residual = (
                rng.standard_normal(shape).astype(dtype)
                for shape in (case.x_shape, (channels, outputs + 9), (outputs + 9,), (*case.x_shape[:3], outputs + 9))
            )
            few, many = (
                dwcpu.pointwise_conv2d(
                    x, w[:, :some], bias[:some], residual=residual[..., :some], activation=activation, backend="cython",
                    num_threads=1 + at % 2,
                )
                for some in (outputs, outputs + 9)
            )  # fmt: skip
            assert few.tobytes() == np.ascontiguousarray(many[..., :outputs]).tobytes(), f"{case} {activation}"


@pytest.mark.parametrize(
    "kernel",
    [each for each in KERNELS if (each.op, each.backend) == ("pointwise", "cython")],
    ids=lambda kernel: kernel.name,
)
def test_products_whose_panels_take_turns(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each tile of pixels: the same bits, whatever the last panel and tile lack, and of more panels than turn."""
    lanes, dtype = kernel.lanes, kernel.dtype
    for number, outputs in enumerate((2 * lanes, 4 * lanes, 5 * lanes, 7 * lanes + 1, 4 * lanes + lanes // 2, 1033)):
        for at, pixels in enumerate((1, 13, 14, 29, 61)):
            activation = (None, "hardswish", "relu6", "silu", "gelu")[(number + at) % 5]
            residual, threads, end = at % 2 > 0, 1 + (number + at) % 2, ENDS[at % 2]
            case = Case("pointwise", (1 + at % 2, 1, pixels, (3, 16, 21)[at % 3]), outputs, (1, 1))
            found = []
            for turns in (True, False):
                monkeypatch.setattr(caches, "across", lambda *_, turns=turns: turns)
                data = make_data(case, dtype.type, "normal").kernel_weights()
                assert kernel.prepare(case.geometry, *data).plan["across"][0] == turns
                found.append(compute(kernel, case, "normal", activation, True, residual, threads, end).tobytes())
            assert found[0] == found[1], f"{case} {activation}"
            monkeypatch.setattr(caches, "across", lambda *_: True)
            check_gaps(kernel, case, 1 + number, end, activation)


@pytest.mark.parametrize(
    "kernel",
    [each for each in KERNELS if (each.op, each.backend) == ("pointwise", "cython")],
    ids=lambda kernel: kernel.name,
)
def test_deep_sums_are_added_up_in_stretches(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of sums that are added up at once, whatever the last stretch, panel and block of pixels lack."""
    lanes, l2 = kernel.lanes, runtime.cache_sizes().l2 // kernel.dtype.itemsize
    for number, outputs in enumerate((1, 3, lanes // 2, 2 * lanes, 4 * lanes, 5 * lanes, 7 * lanes + 1)):
        for at, pixels in enumerate((28, 29, 43, 61, 85)):
            activation = (None, "hardswish", "relu6", "silu", "gelu")[(number + at) % 5]
            residual, threads, end = at % 2 > 0, 1 + (number + at) % 2, ENDS[at % 2]
            case = Case("pointwise", (1 + at % 2, 1, pixels, (64, 51, 93)[at % 3]), outputs, (1, 1))
            data = make_data(case, kernel.dtype.type, "normal").kernel_weights()
            found = []
            for most in (20, case.x_shape[3]):
                with monkeypatch.context() as patch:
                    share = (most + 0.5) * kernel.tile_columns * lanes / l2
                    patch.setattr(prepared_module, "_L2_SHARE_PANEL", share)
                    patch.setattr(caches, "L2_SHARE", 30 * case.x_shape[3] / l2)  # blocks of few pixels
                    plan = kernel.prepare(case.geometry, *data).plan
                    assert plan["block_channels"][0] == ({64: 16, 51: 32, 93: 32}[case.x_shape[3]] if most == 20 else 0)
                    found.append(compute(kernel, case, "normal", activation, True, residual, threads, end).tobytes())
                    if most == 20:
                        check_gaps(kernel, case, 1 + number, end, activation)
            assert found[0] == found[1], f"{case} {activation}"


@pytest.mark.parametrize(
    "kernel",
    [each for each in KERNELS if each.backend == "cython" and (each.op, each.lanes * each.dtype.itemsize) in WIDE],
    ids=lambda kernel: kernel.name,
)
def test_tiles_of_cpus_that_compute_wide_vectors_in_two_turns(kernel: Kernel) -> None:
    """Short tiles, and halves of vectors: the bits of tall tiles, which other CPUs take."""
    lanes, pixels = kernel.lanes, (1, 3, 6, 7, 8, 13, 14, 15, 29)
    for number, outputs in enumerate((1, 5, lanes // 2, lanes // 2 + 1, lanes + 3, 3 * lanes // 2, 5 * lanes // 2, 83)):
        for at, columns in enumerate(pixels if kernel.op == "pointwise" else pixels[1::2]):
            channels = (3, 16, 37)[(number + at) % 3]
            window, stride = ((3, 3), (1 + at % 2, 2)) if kernel.op == "conv" else ((1, 1), (1, 1))
            case = Case(kernel.op, (1, 3, 2 * columns, channels), outputs, window, stride)
            activation, residual = (None, "hardswish", "relu6", "silu")[(number + at) % 4], at % 2 > 0
            short, tall = (
                compute(
                    replace(kernel, tile_rows=rows, tile_columns=vectors), case, "normal", activation, True, residual
                )
                for rows, vectors in ((abi.TWO_TURN_ROWS, 2), (9, 3))
            )
            assert short.tobytes() == tall.tobytes(), f"{case} {activation}"


@EVERY_KERNEL
def test_small_images_tap_by_tap(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of sums of whole windows, whatever a border cuts off, in rows and columns, whatever a vector lacks."""
    lanes, images = kernel.lanes, ((1, 1), (2, 3), (5, 5), (3, 17), (16, 2), (7, 16))
    windows = ((3, 3), (1, 1), (1, 1)), ((5, 2), (2, 1), (1, 1)), ((2, 5), (1, 2), (3, 1)), ((3, 3), (3, 2), (2, 2))
    padding = ((1, 1), (1, 1)), ((2, 3), (0, 1)), ((2, 1), (6, 6)), ((4, 0), (1, 7))
    for number, outputs in enumerate((1, lanes // 2, lanes, lanes + 1, 3 * lanes, 5 * lanes // 2)):
        for at, image in enumerate(images):
            window, stride, dilation = windows[(number + at) % 4]
            groups = 1 + (number + at) % 3 % 2
            case = Case(
                "conv", (1 + at % 2, *image, groups * (8, 9, 17)[at % 3]), groups * outputs, window, stride, dilation,
                padding[(number + at) % 4], groups,
            )  # fmt: skip
            activation, residual, end = (
                (None, "hardswish", "relu6", "silu")[(number + at) % 4],
                at % 2 > 0,
                ENDS[at % 2],
            )
            found = []
            monkeypatch.setattr(prepared_module, "joined_groups", lambda *_: None)
            for tapwise in (True, False):
                monkeypatch.setattr(prepared_module, "by_taps", lambda *_, tapwise=tapwise: tapwise)
                data = make_data(case, kernel.dtype.type, "normal").kernel_weights()
                few = kernel.prepare(case.geometry, *data)._few_outputs
                assert kernel.prepare(case.geometry, *data).plan["by_taps"][0] == (tapwise and not few), str(case)
                threads = 1 + number % 2
                found.append(compute(kernel, case, "normal", activation, True, residual, threads, end).tobytes())
            assert found[0] == found[1], f"{case} {activation}"
            monkeypatch.setattr(prepared_module, "by_taps", lambda *_: True)
            check_gaps(kernel, case, 1 + number, end, activation)


@pytest.mark.parametrize(
    ("image", "inputs", "outputs", "window", "chosen"),
    [
        ((3, 3), 128, 256, 3, True),
        ((7, 7), 34, 168, 5, True),
        ((5, 5), 160, 96, 7, True),
        ((1, 1), 128, 256, 3, False),  # a single tap lies inside
        ((28, 28), 32, 32, 3, False),
        ((7, 7), 16, 32, 1, False),
        ((1_000_000, 8), 8, 8, 3, False),  # which nobody counts
        ((5, 5), 3, 32, 3, False),  # short sums of a tap
    ],
)
@EVERY_KERNEL
def test_where_small_images_go_tap_by_tap(
    kernel: Kernel, image: tuple[int, int], inputs: int, outputs: int, window: int, chosen: bool
) -> None:
    geometry = ConvGeometry.conv((1, *image, inputs), (window, window, inputs, outputs), padding="same")
    assert taps.by_taps(kernel, geometry) == chosen


@EVERY_KERNEL
def test_groups_that_share_a_vector(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as with vectors of their own, whatever the last vector lacks and however many rows a block has."""
    lanes = kernel.lanes
    monkeypatch.setattr(grid, "_RUN", 1e6)  # where groups can share one at all, they do
    seen = set()
    counts = [
        (inputs, outputs, groups)
        for outputs in sorted({1, 2, 3, lanes // 2 - 1, lanes // 2} - {0})
        for inputs in sorted({2, 3, outputs + 1, 2 * outputs, lanes})
        for groups in (2, 3, lanes // outputs, lanes // outputs + 1, 3 * lanes // outputs - 1)
        if groups > 1
    ]
    for number, (inputs, outputs, groups) in enumerate(counts):
        case = Case(
            "conv", (1 + number % 2, 7, 13 + number % 9, groups * inputs), groups * outputs,
            ((3, 3), (1, 1), (2, 5), (1, 4), (3, 1))[number % 5], ((1, 1), (2, 1), (1, 2), (3, 2))[number % 4],
            ((1, 1), (1, 1), (2, 1), (1, 3))[number // 2 % 4],
            (((1, 0), (2, 3)), ((0, 0), (0, 0)), ((4, 1), (0, 1)))[number % 3], groups,
        )  # fmt: skip
        monkeypatch.setattr(grid, "_SPREAD_BYTES", (256, 16 << 10, 1 << 20)[number % 3])
        activation = (None, "hardswish", "relu6", "silu", "gelu")[number % 5]
        threads, end = 1 + number % 2, ENDS[number // 2 % 2]
        plan = kernel.prepare(case.geometry, *make_data(case, kernel.dtype.type, "normal").kernel_weights()).plan
        joined, rows = int(plan["joined"][0]), int(plan["block_rows"][0])
        most = min(lanes // outputs, 2 * lanes // inputs, groups)
        assert joined == (most if most > 1 else 0), str(case)
        seen.add((joined * inputs > lanes, 0 < rows < case.geometry.out_height, joined > 0 and groups % joined > 0))
        found = compute(kernel, case, "normal", activation, True, number % 3 > 0, threads, end)
        with monkeypatch.context() as patch:
            patch.setattr(grid, "_RUN", -1e6)
            right = compute(kernel, case, "normal", activation, True, number % 3 > 0, 1, end)
        assert found.tobytes() == right.tobytes(), f"{case} {activation} {threads}"
    assert lanes == 2 or all(len(set(each)) == 2 for each in zip(*seen, strict=True))


@EVERY_KERNEL
def test_where_groups_share_vectors(kernel: Kernel) -> None:
    """Where that computes much less than vectors that are mostly empty."""
    lanes = kernel.lanes

    def joined(
        inputs: int, outputs: int, groups: int, window: tuple[int, int] = (3, 3), width: int = 28, apart: int = 1
    ) -> int:
        image = (1, 28, width, groups * inputs)
        case = Case("conv", image, groups * outputs, window, dilation=(apart, 1), groups=groups)
        found = grid.joined_groups(kernel, case.geometry)
        return 0 if found is None else found.groups

    assert joined(lanes, lanes, 8) == joined(1, lanes // 2 + 1, 8) == joined(lanes + 1, 1, 8) == 0
    assert joined(lanes // 2, lanes // 2, 1, (5, 5)) == 0
    quarter = max(1, lanes // 4)
    assert joined(quarter, quarter, 8, (5, 5)) == min(lanes // quarter, 8)
    # blocks whose windows span so many rows that they would spread most of them again, or that need much memory for it
    assert joined(quarter, quarter, 8, (3, 3), width=10**5, apart=8) == 0
    assert joined(quarter, quarter, 8, (1, 3), width=10**6) == 0
    # half a vector takes half the time of a whole one, or as long
    if lanes == 16:
        geometry = Case("conv", (1, 28, 28, 64), 64, (3, 3), groups=8).geometry
        found = [grid.joined_groups(replace(kernel, tile_rows=rows), geometry) for rows in (7, 9)]
        assert [each and each.groups for each in found] == [None, 2]


@pytest.mark.parametrize("kernel", [each for each in KERNELS if each.op == "conv"], ids=lambda kernel: kernel.name)
def test_long_signals_are_shared_in_stretches(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a tile; neighbours that see the same taps together, wherever stretches and the signal end."""
    stretch, asked = kernel.tile_rows, set()
    for number, (width, size, stride, dilation, ends) in enumerate(
        (
            (131, 3, 1, 1, (1, 1)),
            (7 * stretch + 128, 2, 1, 2 * stretch + 3, (2 * stretch + 3, 0)),  # causal
            (8 * stretch + 128, 3, 1, stretch // 2, (stretch, 7)),
            (20 * stretch + 259, 4, 2, 3, (0, 11)),
            (140, 2, 1, 200, (180, 180)),  # outputs that see one tap, or none
        )
    ):
        case = Case("conv", (2, 1, width, 7 + number), 33, (1, size), (1, stride), (1, dilation), ((0, 0), ends))
        made = kernel.prepare(case.geometry, *make_data(case, kernel.dtype.type, "normal").kernel_weights())
        cuts = -(-case.geometry.out_width // stretch)
        assert made.plan["segment"] == stretch and made.grid(2).rows == 2 * cuts and made.grid(2).row_parts == 2
        asked |= grid.run_lengths(case.geometry, stretch)
        right = expected(case, kernel.dtype, "integers", "silu", True, True)
        bits = set()
        for l2 in 4 << 10, 1 << 20:  # a stretch at a time, and several
            monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(2048, l2, 1 << 22))
            for threads, end in zip((1, 2, 3), (*ENDS, ENDS[0]), strict=True):
                found = compute(kernel, case, "integers", "silu", True, True, threads, end)
                np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-5, err_msg=f"{case} on {threads}")
                bits.add(compute(kernel, case, "normal", "silu", True, True, threads, end).tobytes())
        assert len(bits) == 1, str(case)
        check_gaps(kernel, case, 1 + number, ENDS[number % 2], "silu")
    assert {1, stretch, stretch // 2} <= asked


def test_runs_of_the_same_taps() -> None:
    def runs(width: int, taps: int, segment: int, **options: object) -> set[int]:
        geometry = ConvGeometry.conv((1, 1, width, 8), (1, taps, 8, 8), **options)
        return grid.run_lengths(geometry, segment)

    assert runs(100, 3, 0, padding=((0, 0), (1, 1))) == {1, 98}
    assert runs(100, 2, 0, dilation=(1, 30), padding=((0, 0), (30, 0))) == {30, 70}
    assert runs(100, 2, 40, dilation=(1, 30), padding=((0, 0), (30, 0))) == {30, 10, 40, 20}
    assert runs(5, 3, 0, dilation=(1, 9), padding=((0, 0), (9, 9))) == {5}
    assert runs(9, 2, 0, padding=((0, 0), (20, 0))) == {1, 8, 19}  # outputs that see no tap at all
    assert runs(10**6, 2, 0, dilation=(1, 4 * 10**5), padding=((0, 0), (4 * 10**5, 0))) == {4 * 10**5, 6 * 10**5}
