"""Numbers: activations within the units in the last place that are stated, and a floating-point unit left as it was.

What `help(dwcpu.epilogue)` states is read from there, so that it cannot say anything else than what is measured. The
truth about float32 is computed in float64, that about float64 with mpmath.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from nightly import is_nightly, reduced

from dwcpu import epilogue, reference, runtime
from dwcpu.abi import ACTIVATION_CODES
from dwcpu.epilogue import parse_activation
from dwcpu.numba_kernels import activations as numba_activations

SLOPE = 0.1
EVERY_ACTIVATION = pytest.mark.parametrize("name", ACTIVATION_CODES)
SECOND_PASS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_double)


# --- activations ------------------------------------------------------------------------------------------------------


@cache
def stated() -> dict[str, dict[str, int]]:
    """The bounds that the documentation states: name of the activation -> dtype -> units in the last place."""
    lines = (epilogue.__doc__ or "").splitlines()
    begin, _, end = (number for number, line in enumerate(lines) if line.startswith("==="))
    heads = lines[begin + 1].split()[-2:]
    rows = (line.split() for line in lines[begin + 3 : end] if line.strip())
    rows = ((line[0].strip('"(,'), line[-2:]) for line in rows)
    return {name: dict(zip(heads, map(int, bounds), strict=True)) for name, bounds in rows}


def families(dtype: type, name: str) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """The activation of each kernel family, as a function of arrays."""
    kind, code = np.dtype(dtype), ACTIVATION_CODES[name]
    family = runtime.cython_kernels()
    compiled = [] if family is None else [family.activations(kind.name)[code]]
    for address in (*compiled, numba_activations.address(kind, code)):

        def apply(values: np.ndarray, address: int = address) -> np.ndarray:
            out = values.copy()
            SECOND_PASS(address)(out.ctypes.data, 1, out.size, out.size, SLOPE)
            return out

        yield apply


def besides(name: str, dtype: type) -> float:
    """What a result may be off besides the units, as a multiple of the argument."""
    return float({"silu": np.finfo(dtype).smallest_subnormal, "gelu": np.finfo(dtype).smallest_normal}.get(name, 0.0))


def units(right: np.ndarray) -> np.ndarray:
    """The unit in the last place of numbers of a type."""
    top = np.array(2.0 ** (np.finfo(right.dtype).maxexp - 1), right.dtype)  # the largest number's unit is its own, too
    return np.spacing(np.minimum(np.abs(right), top)).astype(np.float64)


def every_float32() -> Iterator[np.ndarray]:
    """All numbers at night; else every 50,000th, and those around where something changes."""
    size = 1 << 24
    for first in range(0, 1 << 32, size) if is_nightly() else ():
        yield np.arange(first, first + size, dtype=np.uint64).astype(np.uint32).view(np.float32)
    if not is_nightly():
        special = [0, 2**-126, 3.4e38, 1, 3, 6, 9, 12.95, 13, 16.6, 64, 86, 87.3, 88.7, 103.3, 104]
        special += [k * np.log(2) / 2 for k in range(1, 40)]
        around = np.array(special, np.float32).view(np.int32)[:, None] + np.arange(-50, 51)
        around = around[(around >= 0) & (around < 0x7F800000)].astype(np.uint32)
        stride = np.arange(0, 1 << 32, 49_999, dtype=np.uint64).astype(np.uint32)
        yield np.concatenate([stride, around, around | 1 << 31]).view(np.float32)


@EVERY_ACTIVATION
def test_float32_activations_are_as_near_as_stated(name: str) -> None:
    activation = parse_activation((name, SLOPE) if name == "leaky_relu" else name, "test")
    bound, most = stated()[name]["float32"], 0.0
    for values in every_float32():
        values = values[np.isfinite(values)]
        right = reference.activate(values.astype(np.float64), activation)
        for apply in families(np.float32, name):
            result = apply(values)
            assert np.isfinite(result).all()
            off = np.abs(result.astype(np.float64) - right) - np.abs(values) * besides(name, np.float32)
            off /= units(right.astype(np.float32))
            worst = off.argmax()
            assert off[worst] <= bound, f"{values[worst]!r} gives {result[worst]!r}, not {right[worst]!r}"
            most = max(most, off[worst])
    assert bound <= 2 * most + 1, f"{bound} is stated but no more than {most:.2f} was met"


def exact(name: str, v: float) -> Any:
    """The activation of one number, to 50 digits."""
    import mpmath

    x = mpmath.mpf(v)
    if name in ("hardswish", "hardsigmoid"):
        factor = max(mpmath.mpf(0), min(mpmath.mpf(6), x + 3)) / 6
        return factor * x if name == "hardswish" else factor
    if name == "leaky_relu":
        return x * mpmath.mpf(SLOPE) if x < 0 else x
    if abs(v) > 800:  # exp(-800) is below every float64
        return mpmath.mpf(0) if v < 0 else mpmath.mpf(1) if name == "sigmoid" else x
    if name == "gelu":
        return x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2
    return (1 if name == "sigmoid" else x) / (1 + mpmath.exp(-x))


@EVERY_ACTIVATION
def test_float64_activations_are_as_near_as_stated(name: str, rng: np.random.Generator) -> None:
    mpmath = pytest.importorskip("mpmath")
    n = reduced(200_000, 250)
    sizes = np.ldexp(rng.uniform(1, 2, n), rng.integers(-1074, 1024, n))
    values = np.concatenate([rng.normal(0, 4, 2 * n), rng.uniform(-40, 40, n), rng.uniform(-760, 0, n), sizes, -sizes])
    special = np.array([5e-324, 2.0**-1022, 1, 3, 6, 9, 27, 37.5, 37.52, 64, 707, 708, 709, 745, 746, 1e308])
    values = np.concatenate([values, special, -special, np.nextafter(special, 0), np.nextafter(-special, 0)])
    with mpmath.workdps(50):
        truth = [exact(name, v) for v in values.tolist()]
        unit = units(np.array([float(each) for each in truth])).tolist()
        allowed = mpmath.mpf(besides(name, np.float64))
        bound, most = stated()[name]["float64"], 0.0
        for apply in families(np.float64, name):
            result = apply(values)
            assert np.isfinite(result).all()
            rows = zip(values.tolist(), result.tolist(), truth, unit, strict=True)
            off = [float((abs(got - right) - abs(v) * allowed) / one) for v, got, right, one in rows]
            worst = int(np.argmax(off))
            assert off[worst] <= bound, f"{values[worst]!r} gives {result[worst]!r}, not {truth[worst]}"
            most = max(most, off[worst])
    assert bound <= 2 * most + 1, f"{bound} is stated but no more than {most:.2f} was met"


def test_every_activation_has_a_bound() -> None:
    clamps = {"None", "relu", "relu6", "clip"}
    assert set(stated()) == clamps | set(ACTIVATION_CODES)
    assert all(bounds == {"float32": 0, "float64": 0} for name, bounds in stated().items() if name in clamps)


@pytest.mark.parametrize("activation", [None, "relu", "relu6", ("clip", -0.5, 0.25), "hardswish"], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_what_kernels_do_in_registers_is_the_same(activation: object, dtype: type) -> None:
    """Clamps lose nothing, and hardswish in a register is the one of the second pass."""
    from test_activations import any_window_kernels, applied

    tiny, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    values = np.concatenate([np.linspace(-7, 7, 1001), [tiny, -tiny, largest, -largest, 0.25, -0.5, 6]]).astype(dtype)
    if activation == "hardswish":
        right = next(families(dtype, "hardswish"))(values)
    else:
        right = reference.activate(values.astype(np.float64), parse_activation(activation, "test")).astype(dtype)
    for kernel in any_window_kernels(dtype):
        np.testing.assert_array_equal(applied(values, activation, kernel), right, err_msg=kernel.name)


# --- the floating-point unit ------------------------------------------------------------------------------------------

#: Drivers: the compiled one, and Numba's on each of its threading layers.
DRIVERS = {
    "compiled": {},
    "numba-omp": {"DWCPU_ISA": "none", "NUMBA_THREADING_LAYER": "omp"},
    "numba-workqueue": {"DWCPU_ISA": "none", "NUMBA_THREADING_LAYER": "workqueue"},
}

needs_mxcsr = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="reads the control register of x86-64"
)

#: A program that makes calls of every kind, watching the control register of its thread, and says what failed.
PROGRAM = """
    import ctypes, json, traceback
    import numpy as np
    import numba, threadpoolctl
    import dwcpu
    from numba.np.ufunc.parallel import _launch_threads

    libm = ctypes.CDLL("libm.so.6")
    STANDARD, FLAGS = 0x1F80, 0x3F
    FLUSHING = STANDARD | 0x8040  # denormal results and operands are zero
    UPWARD = 0x800  # in fenv.h
    ROUNDING = {"down": 0x2000, "up": 0x4000, "to zero": 0x6000}

    def mode():
        state = (ctypes.c_uint32 * 8)()
        libm.fegetenv(state)
        return state[7]

    def set_mode(value):
        state = (ctypes.c_uint32 * 8)()
        libm.fegetenv(state)
        state[7] = value
        libm.fesetenv(state)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 64, 64), dtype=np.float32)
    small = np.array(x * np.float32(2.0**-126))
    w, p = rng.standard_normal((3, 3, 64), dtype=np.float32), rng.standard_normal((64, 32), dtype=np.float32)
    odd = rng.standard_normal((4, 4, 64), dtype=np.float32)
    layer = dwcpu.SeparableConv2d(w, p, padding=1, dw_activation="gelu")
    network = dwcpu.Sequential(dwcpu.DepthwiseConv2d(odd), dwcpu.Conv2d(p[None, None], activation="silu"))
    picture = rng.standard_normal((1, 64, 64, 3), dtype=np.float32)
    calls = {
        "function": lambda image, n: dwcpu.depthwise_conv2d(image, w, num_threads=n),
        "layer": lambda image, n: layer(image, num_threads=n),
        "small layer": lambda image, n: layer(image[:, :3, :3].copy(), num_threads=n),
        "layers": lambda image, n: network(image, num_threads=n),
    }
    if dwcpu.runtime.cython_kernels() is not None:  # else its pooling is NumPy's, in the mode of the caller
        mobilenet = dwcpu.models.mobilenet_v1(seed=0)
        calls["network"] = lambda image, n: mobilenet(picture, n)
    images = {"normal": x, "subnormal": small}

    def mode_does_not_count():
        '''The threads start while the caller flushes denormals, which on Linux they would inherit.'''
        set_mode(FLUSHING)
        early = {(name, kind): call(image, 2) for name, call in calls.items() for kind, image in images.items()}
        assert mode() & ~FLAGS == FLUSHING
        for other in (0, *ROUNDING.values()):
            set_mode(STANDARD | other)
            for (name, kind), seen in early.items():
                for n in (1, 2):
                    assert np.array_equal(calls[name](images[kind], n), seen), (name, kind, n, hex(other))
            assert mode() & ~FLAGS == STANDARD | other

    def mode_and_flags_stay():
        '''Flags in calls whose like was seen before: making them ready may compute something in Python.'''
        for name, call in calls.items():
            for image in (x, small):
                for n in (1, 2):
                    set_mode(STANDARD)
                    call(image, n)
                    for flags in (0, 1, 16, FLAGS):
                        set_mode(STANDARD | ROUNDING["up"] | flags)
                        call(image, n)
                        assert mode() == STANDARD | ROUNDING["up"] | flags, (name, n, hex(mode()))
                    libm.fesetround(UPWARD)
                    call(image, n)
                    assert libm.fegetround() == UPWARD
                    libm.fesetround(0)

    def settings():
        pools = {each["filepath"]: each["num_threads"] for each in threadpoolctl.threadpool_info()}
        openmp = {}
        for path in pools:
            if "gomp" in path or "iomp" in path or "libomp" in path:
                library = ctypes.CDLL(path)
                names = "omp_get_max_threads", "omp_get_dynamic", "omp_get_max_active_levels"
                kind, chunk = ctypes.c_int(), ctypes.c_int()
                library.omp_get_schedule(ctypes.byref(kind), ctypes.byref(chunk))
                openmp[path] = [getattr(library, name)() for name in names] + [kind.value, chunk.value]
        return pools, openmp, numba.get_num_threads(), np.geterr()

    def settings_stay():
        '''As they are once Numba's own threads are there, which it starts as it likes.'''
        _launch_threads()
        numba.set_num_threads(1)
        for call in calls.values():
            call(x, 1)  # libraries that are loaded later are nobody's settings
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            before = settings()
            for n in (1, 2, 3):
                for name, call in calls.items():
                    call(x, n)
                    assert settings() == before, (name, n)

    failed = {}
    for check in (mode_does_not_count, mode_and_flags_stay, settings_stay):
        try:
            check()
        except Exception:
            failed[check.__name__] = traceback.format_exc()
        set_mode(STANDARD)
    print(json.dumps(failed))
"""


@pytest.fixture(scope="module", params=DRIVERS)
def failed(request: pytest.FixtureRequest) -> dict[str, str]:
    """What failed on a driver, without kernels that stand in for others."""
    pytest.importorskip("threadpoolctl")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, **DRIVERS[request.param], "DWCPU_BACKGROUND_COMPILE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_mxcsr
def test_results_do_not_depend_on_the_mode_of_the_caller_or_of_who_started_threads(failed: dict[str, str]) -> None:
    assert "mode_does_not_count" not in failed, failed["mode_does_not_count"]


@needs_mxcsr
def test_rounding_mode_and_flags_are_left_as_they_were(failed: dict[str, str]) -> None:
    assert "mode_and_flags_stay" not in failed, failed["mode_and_flags_stay"]


@needs_mxcsr
def test_settings_of_numba_blas_and_openmp_are_left_as_they_were(failed: dict[str, str]) -> None:
    assert "settings_stay" not in failed, failed["settings_stay"]
