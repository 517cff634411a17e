"""`autotune`: it measures what runs, keeps what wins clearly, and nothing changes for those who did not ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import choices, dispatch, runtime, tuning
from dwcpu.fused_geometry import SeparableGeometry
from dwcpu.geometry import ConvGeometry
from dwcpu.models import architectures, network

GEOMETRY = ConvGeometry.depthwise((1, 9, 9, 32), (3, 3, 32), padding=1)
F32 = np.dtype(np.float32)


def layer() -> dwcpu.DepthwiseConv2d:
    return dwcpu.DepthwiseConv2d(np.ones((3, 3, 32), np.float32), padding=1)


def small_network() -> network.Network:
    architecture = architectures.mobilenet_v1(0.25, 10)
    weights = architectures.random_weights(architecture, 0)
    return network.build(architecture, weights, backend="auto", origin="random")


def other_than(geometry: Any, kernel: dispatch.Kernel) -> dispatch.Kernel:
    return next(each for each in dispatch.kernels(F32) if each.supports(geometry) and each is not kernel)


def races(monkeypatch: pytest.MonkeyPatch, name_of_winner: str) -> list[list[str]]:
    """Let a kernel win every race that it is in; the names of the contenders of each."""
    seen: list[list[str]] = []

    def race(runs: list[Any]) -> list[float]:
        kernels = [run.__defaults__[0].kernel.name for run in runs]
        for run in runs:
            run()
        seen.append(kernels)
        return [0.5 if name == name_of_winner else 1.0 for name in kernels]

    monkeypatch.setattr(tuning, "race", race)
    return seen


def test_every_kernel_that_supports_the_geometry_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = races(monkeypatch, "")
    tuned = dwcpu.autotune(layer(), (9, 9, 32), num_threads=1)
    supporting = [kernel.name for kernel in dispatch.kernels(F32) if kernel.supports(GEOMETRY)]
    assert [sorted(names) for names in seen] == [sorted(supporting)]
    assert tuned.rows[0].measured == len(supporting) > 1


def test_fused_and_split_of_all_families_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = races(monkeypatch, "")
    separable = dwcpu.SeparableConv2d(np.ones((3, 3, 16), np.float32), np.ones((16, 8), np.float32))
    dwcpu.autotune(separable, (1, 9, 9, 16), num_threads=1)
    ways = {name.split("_")[2] for name in seen[0]}
    assert ways == {"fused", "split"}
    assert {name.rpartition("__")[2] for name in seen[0]} == {kernel.backend for kernel in dispatch.kernels(F32)}


def test_the_winner_runs_at_once_and_later(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    usual = dispatch.choose(GEOMETRY, F32, 1)
    best = other_than(GEOMETRY, usual)
    races(monkeypatch, best.name)
    tuned, x = layer(), rng.standard_normal((9, 9, 32), np.float32)
    expected = tuned(x, num_threads=1)
    row = dwcpu.autotune(tuned, x.shape, num_threads=1).rows[0]
    assert (row.before, row.now) == (usual.name, best.name)
    (ran,) = tuned.nodes(GEOMETRY.x_shape, 1)
    assert ran.operation.kernel is best  # type: ignore[union-attr]
    assert np.array_equal(tuned(x, num_threads=1), expected)
    assert dispatch.choose(GEOMETRY, F32, 1) is best
    made_later = layer().explain(x.shape, num_threads=1)
    assert (made_later.kernel, made_later.reason) == (best.name, "measured by autotune")
    # for this number of threads, this dtype, this shape and "auto" alone
    assert dispatch.choose(GEOMETRY, F32, 2) is usual
    assert dispatch.choose(GEOMETRY, F32, 1, usual.backend) is usual
    assert dispatch.choose(GEOMETRY, F32, 1, usual.name) is usual
    assert dispatch.choose(ConvGeometry.depthwise((2, 9, 9, 32), (3, 3, 32), padding=1), F32, 1) is usual


def test_who_wins_once_must_win_again(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [[1.0, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9], [1.0, 0.99]]
    monkeypatch.setattr(tuning, "race", lambda runs: results.pop(0)[: len(runs)])
    row = dwcpu.autotune(layer(), (9, 9, 32), num_threads=1).rows[0]
    assert results == []
    assert row.now == row.before
    assert row.now_us == row.before_us == 1e6


def test_functions_forget_what_they_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = SimpleNamespace(free={"kind": []})
    monkeypatch.setattr("dwcpu.calls._pool", pool)
    races(monkeypatch, "")
    dwcpu.autotune(layer(), (9, 9, 32))
    assert pool.free == {}


def test_a_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_network()
    shape = (1, 32, 32, 3)
    net.warmup(shape, num_threads=1)
    used = {row.kernel for row in net.explain(shape, 1).rows}
    loser = next(name for name in used if name.startswith("separable_f32_fused"))
    best = loser.replace("fused", "split")
    seen = races(monkeypatch, best)
    told: list[tuple[int, int, str]] = []
    tuned = dwcpu.autotune(net, shape, num_threads=1, progress=lambda *step: told.append(step))
    assert len(seen) > len(tuned.rows) == len({(row.geometry, row.dtype) for row in tuned.rows})
    assert [done for done, _, _ in told] == list(range(len(tuned.rows) + 1))
    assert not net._plans
    ran = [row.kernel for row in net.explain(shape, 1).rows]
    assert best in ran and loser not in ran


def test_sequential_and_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = races(monkeypatch, "")
    own = dwcpu.PointwiseConv2d(np.ones((32, 8), np.float32), backend="numba")
    plain = dwcpu.PointwiseConv2d(np.ones((8, 8), np.float32), backend="reference")
    inner = dwcpu.Sequential(layer(), own)
    tuned = dwcpu.autotune(dwcpu.Sequential(inner, plain), (9, 9, 32))
    assert [row.geometry for row in tuned.rows] == [GEOMETRY]  # the others were told what to use
    assert len(seen) == 1
    whole = dwcpu.Sequential(inner, plain)
    whole(np.zeros((9, 9, 32), np.float32))
    assert all(piece.known for piece in whole._pieces)
    dwcpu.autotune(whole, (9, 9, 32))
    assert not any(piece.known for piece in whole._pieces)
    assert dwcpu.autotune(dwcpu.Sequential(), (9, 9, 32)).rows == ()
    assert dwcpu.autotune(layer(), (0, 9, 9, 32)).rows == ()


def test_images_of_a_batch_that_may_go_one_by_one_are_measured_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "large_core", lambda: True)
    races(monkeypatch, "")
    point = dwcpu.PointwiseConv2d(np.ones((32, 8), np.float32))
    for thing, batch, measured in (
        (dwcpu.Sequential(layer(), point), 4, [4, 1, 4, 1]),
        (dwcpu.Sequential(layer(), point), 3, [3, 3]),  # not for two threads
        (layer(), 4, [4]),
    ):
        rows = dwcpu.autotune(thing, (batch, 9, 9, 32), num_threads=2).rows
        alone = runtime.images_kernel() != 0
        assert [row.geometry.batch for row in rows] == [each for each in measured if alone or each > 1]


def test_images_with_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    races(monkeypatch, "")
    turned = dwcpu.DepthwiseConv2d(np.ones((3, 3, 32), np.float32), padding=1, layout="NCHW")
    assert dwcpu.autotune(turned, (1, 32, 9, 9)).rows[0].geometry == GEOMETRY


def test_what_cannot_be_tuned() -> None:
    with pytest.raises(TypeError, match="autotune: layer_or_model is of type function"):
        dwcpu.autotune(dwcpu.conv2d, (1, 2, 3, 4))
    with pytest.raises(TypeError, match="Sequential: layer 0 is of type ufunc; autotune needs"):
        dwcpu.autotune(dwcpu.Sequential(np.tanh), (1, 2, 3, 4))
    with pytest.raises(ValueError, match="DepthwiseConv2d: w has 32 channels but x has 31"):
        dwcpu.autotune(layer(), (9, 9, 31))
    with pytest.raises(ValueError, match="num_threads"):
        dwcpu.autotune(layer(), (9, 9, 32), num_threads=0)
    with pytest.raises(ValueError, match="add the batch axis"):
        dwcpu.autotune(small_network(), (32, 32, 3))


@pytest.mark.parametrize(
    ("seconds", "best"), [([1.0], 0), ([1.0, 0.98, 0.99], 0), ([1.0, 0.96, 0.95], 2), ([1.0, 2.0], 0)]
)
def test_only_a_clear_winner_is_taken(seconds: list[float], best: int) -> None:
    assert tuning.winner(seconds) == best


def test_a_race_runs_everybody_and_hopeless_ones_less() -> None:
    counts = [0, 0, 0]

    def runner(number: int, size: int) -> Any:
        data = np.ones(size)

        def run() -> None:
            counts[number] += 1
            data.sum()

        return run

    seconds = tuning.race([runner(0, 1 << 12), runner(1, 1 << 12), runner(2, 1 << 21)])
    assert all(0 < each < 10 for each in seconds)
    assert counts[2] < min(counts[:2])


def test_it_prints_as_a_table() -> None:
    tuned = dwcpu.autotune(layer(), (9, 9, 32), num_threads=1)
    lines = str(tuned).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("autotune, 1 thread; choices in ") and str(tuned.file) in lines[0]
    assert "depthwise 3x3 1x9x9x32 1x9x9x32" in lines[2] and tuned.rows[0].before in lines[2]
    assert lines[3].startswith("all")


# --- the file ---------------------------------------------------------------------------------------------------------


def kept() -> dispatch.Kernel:
    """Keep a choice that the rules would not make; the process then begins anew."""
    best = other_than(GEOMETRY, dispatch.choose(GEOMETRY, F32, 1))
    choices.keep(GEOMETRY, F32, 1, best.name)
    assert dispatch.choose(GEOMETRY, F32, 1) is best
    choices.reset()
    return best


def path() -> Path:
    found = choices.file()
    assert found is not None
    return found


def test_the_file_counts_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, best = dispatch.choose(GEOMETRY, F32, 1), kept()
    assert dispatch.choose(GEOMETRY, F32, 1) is usual
    monkeypatch.setenv("DWCPU_AUTOTUNE", "1")
    assert dispatch.choose(GEOMETRY, F32, 1) is usual  # read at first use, once
    choices.reset()
    assert dispatch.choose(GEOMETRY, F32, 1) is best
    choices.reset()
    monkeypatch.setenv("DWCPU_AUTOTUNE", "0")
    assert dispatch.choose(GEOMETRY, F32, 1) is usual
    choices.reset()
    monkeypatch.setenv("DWCPU_AUTOTUNE", "yes")
    choices._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="DWCPU_AUTOTUNE is 'yes'; it must be 0 or 1"):
        assert dispatch.choose(GEOMETRY, F32, 1) is usual


def test_autotune_begins_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    best = kept()
    races(monkeypatch, "")
    row = dwcpu.autotune(layer(), (9, 9, 32), num_threads=1).rows[0]
    assert (row.before, row.now) == (best.name, best.name)


def test_the_file_is_json_of_this_user_alone() -> None:
    best = kept()
    content = json.loads(path().read_text("utf-8"))
    assert list(content["choices"].values()) == [best.name]
    assert content["dwcpu"] == dwcpu.__version__
    assert content["cpu"] and content["isa"]
    if os.name == "posix":
        assert path().stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: "[" * 100_000,
        lambda text: "[]",
        lambda text: "\x00",
        lambda text: text.replace('"dwcpu": "', '"dwcpu": "9'),
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda text: text.replace('"cpu": "', '"cpu": "other '),
        lambda text: json.dumps({**json.loads(text), "choices": ["a"]}),
        lambda text: json.dumps({**json.loads(text), "choices": dict.fromkeys(json.loads(text)["choices"], 7)}),
        lambda text: text.replace("depthwise_f32", "depthwise_f64"),
        lambda text: text.replace("__numba", "__nonsense").replace("__cython", "__nonsense"),
        lambda text: json.dumps(
            {
                **json.loads(text),
                "choices": dict.fromkeys(
                    json.loads(text)["choices"],
                    next(kernel.name for kernel in dispatch.kernels(F32) if kernel.op == "pointwise"),
                ),
            }
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_or_of_others_is_not_there(damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, best = dispatch.choose(GEOMETRY, F32, 1), kept()
    monkeypatch.setenv("DWCPU_AUTOTUNE", "1")
    text = path().read_text("utf-8")
    assert damage(text) != text
    path().write_text(damage(text), "utf-8")
    assert dispatch.choose(GEOMETRY, F32, 1) is usual
    choices.keep(GEOMETRY, F32, 1, best.name)  # and it is replaced
    choices.reset()
    assert dispatch.choose(GEOMETRY, F32, 1) is best


def test_without_a_place_for_the_file_choices_count_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise PermissionError("no place")

    monkeypatch.setattr(choices, "cache_directory", nowhere)
    choices._warn_once.cache_clear()
    best = other_than(GEOMETRY, dispatch.choose(GEOMETRY, F32, 1))
    with pytest.warns(RuntimeWarning, match=r"not kept in a file \(no place\)"):
        choices.keep(GEOMETRY, F32, 1, best.name)
    assert dispatch.choose(GEOMETRY, F32, 1) is best


def test_a_full_disk_costs_the_file_alone(own_choices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError("disk full")

    choices._warn_once.cache_clear()
    monkeypatch.setattr("pathlib.Path.replace", full)
    best = other_than(GEOMETRY, dispatch.choose(GEOMETRY, F32, 1))
    with pytest.warns(RuntimeWarning, match="disk full"):
        choices.keep(GEOMETRY, F32, 1, best.name)
    assert dispatch.choose(GEOMETRY, F32, 1) is best
    assert list(own_choices.iterdir()) == []


def separate(code: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A process of its own, with its caches in `folder`."""
    root = str(Path(dwcpu.__file__).parent.parent)
    kept_environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    variables = {**kept_environment, "PYTHONPATH": root, "XDG_CACHE_HOME": str(folder), **environment}
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=variables, stdout=subprocess.PIPE, text=True)


def test_processes_that_write_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    code = """if True:
        import sys, numpy as np
        from dwcpu import choices
        from dwcpu.geometry import ConvGeometry
        for size in range({start}, {start} + 60):
            choices.keep(ConvGeometry.pointwise((1, 1, 1, size), (size, 8)), np.dtype("f4"), 1, "kernel" * 50)
        print(choices.file())
        """
    running = [separate(code.format(start=start), tmp_path) for start in (1, 1001, 2001)]
    (name,) = {process.communicate(timeout=100)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    content = json.loads(Path(name).read_text("utf-8"))
    # the last to write knew all of its own, and no other file is left
    assert len(content["choices"]) >= 60
    assert [file.name for file in Path(name).parent.iterdir()] == [Path(name).name]


def test_a_later_process_needs_the_environment_and_no_numba_for_compiled_kernels(tmp_path: Path) -> None:
    geometry = SeparableGeometry.of((1, 8, 8, 32), (3, 3, 32), (32, 8))
    usual = dispatch.choose(geometry, F32, 1)
    if usual.backend != "cython":
        pytest.skip("there are no compiled kernels")
    best = next(k for k in dispatch.kernels(F32, "cython") if k.supports(geometry) and k is not usual)
    setting = """if True:
        import sys, numpy as np
        from dwcpu import choices, dispatch
        from dwcpu.fused_geometry import SeparableGeometry
        geometry, kind = SeparableGeometry.of((1, 8, 8, 32), (3, 3, 32), (32, 8)), np.dtype("f4")
        {}
        print(dispatch.choose(geometry, kind, 1).name, "numba" in sys.modules)
        """
    keep = setting.format(f"choices.keep(geometry, kind, 1, {best.name!r})")
    assert separate(keep, tmp_path).communicate(timeout=100)[0].split() == [best.name, "False"]
    for variables, name in (({}, usual.name), ({"DWCPU_AUTOTUNE": "1"}, best.name)):
        assert separate(setting.format(""), tmp_path, **variables).communicate(timeout=100)[0].split() == [
            name,
            "False",
        ]
