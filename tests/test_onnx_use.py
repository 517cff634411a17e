"""Models in use: the same bits on any number of threads, in copies and saved files; tables; memory.

Nothing that a model needs is allocated by its calls, but for their results.
"""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from allocations import allocated

import dwcpu
from dwcpu import background, runtime

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402
from onnx_graphs import (  # noqa: E402
    assert_same_bits,
    network_input,
    node,
    random,
    write,
)
from onnx_networks import NETWORKS  # noqa: E402

A = random(2, 3)


@pytest.fixture(scope="module")
def models() -> dict[str, dwcpu.graph.Model]:
    return {name: dwcpu.load_onnx(make()) for name, (make, _) in NETWORKS.items()}


# --- threads ----------------------------------------------------------------------------------------------------------


def threads_of(model: dwcpu.graph.Model, **options: Any) -> str:
    title = model.profile(random(1, 3, 32, 32), runs=1, **options).title
    return next(part for part in title.split(", ") if "thread" in part)


def test_threads_of_a_call_go_before_those_of_the_model_and_these_before_the_setting() -> None:
    content = NETWORKS["pp_lcnet"][0]()
    before = dwcpu.get_num_threads()
    try:
        dwcpu.set_num_threads(3)
        assert threads_of(dwcpu.load_onnx(content)) == "3 threads"
        model = dwcpu.load_onnx(content, threads=2)
        for each in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert threads_of(each) == "2 threads"
            assert threads_of(each, num_threads=1) == "1 thread"
    finally:
        dwcpu.set_num_threads(before)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (10**6, ValueError), (1.5, TypeError), ("2", TypeError),
                         (True, TypeError)],
)  # fmt: skip
def test_numbers_of_threads_are_checked(models, value, error) -> None:
    with pytest.raises(error, match="load_onnx: threads is"):
        dwcpu.load_onnx(NETWORKS["audio"][0](), threads=value)
    with pytest.raises(error, match="audio: num_threads is"):
        models["audio"](network_input("audio"), num_threads=value)
    with pytest.raises(error, match="num_threads is"):
        models["audio"].explain((1, 40, 50), value)


@pytest.mark.parametrize("name", NETWORKS)
def test_bits_do_not_depend_on_threads(models, name) -> None:
    for at in range(len(NETWORKS[name][1])):
        x = network_input(name, at)
        wanted = models[name](x, num_threads=1)
        for threads in (2, 3):
            assert_same_bits(models[name](x, num_threads=threads), wanted)


@pytest.mark.parametrize("name", ["mobilenet_v3", "unet", "blazeface"])
def test_many_python_threads_may_call_one_model_with_different_shapes(name) -> None:
    model = dwcpu.load_onnx(NETWORKS[name][0]())
    images = [random(1 + at % 2, 3, 32 + 16 * (at // 2), 64) for at in range(5)]
    wanted = [dwcpu.load_onnx(NETWORKS[name][0]())(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda at: model(images[at % 5], num_threads=1 + at % 2), range(64)))
    for at, result in enumerate(results):
        assert_same_bits(result, wanted[at % 5])


# --- copies and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy", "save"])
def test_copies_give_the_same_bits(models, name, way, tmp_path) -> None:
    model, x = models[name], network_input(name)
    wanted = model(x)
    if way == "save":
        model.save(tmp_path / "net.dwcpu")
        other = dwcpu.load_model(tmp_path / "net.dwcpu", threads=2)
        assert [path.name for path in tmp_path.iterdir()] == ["net.dwcpu"]
    else:
        ways = {
            "pickle": lambda: pickle.loads(pickle.dumps(model)),
            "deepcopy": lambda: copy.deepcopy(model),
            "copy": lambda: copy.copy(model),
        }
        other = ways[way]()
    assert other is not model
    assert (other.name, other.inputs, other.outputs) == (model.name, model.inputs, model.outputs)
    assert repr(other) == repr(model)
    assert_same_bits(other(x), wanted)


def test_constants_keep_their_shapes_when_saved(tmp_path) -> None:
    constants = {"i": np.array(1), "e": np.empty((0, 2), np.int64), "o": random(1, 1)}
    nodes = [node("Gather", ["x", "i"], ["a"], axis=1), node("Identity", ["e"], ["b"]), node("Identity", ["o"], ["c"])]
    model = dwcpu.load_onnx(write(nodes, {"x": A}, constants, ["a", "b", "c"]))
    model.save(tmp_path / "net")
    for other in (pickle.loads(pickle.dumps(model)), dwcpu.load_model(tmp_path / "net")):
        assert_same_bits(other(A), model(A))


@pytest.mark.parametrize(
    "dtype",
    [
        np.float16, np.float64, np.int8, np.int16, np.uint16, np.uint64, np.bool_, "bfloat16", "float8_e4m3fn", "int4",
    ],
)  # fmt: skip
def test_constants_of_every_dtype_survive_saving(dtype, tmp_path) -> None:
    if isinstance(dtype, str):
        dtype = getattr(pytest.importorskip("ml_dtypes"), dtype)
    value = np.array([[1, 0, 2]]).astype(dtype)
    graph = helper.make_graph(
        [node("Identity", ["k"], ["y"])],
        "g",
        [],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(value, "k")],
    )
    model = dwcpu.load_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )
    np.testing.assert_array_equal(model(), value, strict=True)
    model.save(tmp_path / "net")
    np.testing.assert_array_equal(dwcpu.load_model(tmp_path / "net")(), value, strict=True)


def test_complex_constants_are_unsupported() -> None:
    content = write([node("Identity", ["k"], ["y"])], {}, {"k": np.ones(2, np.complex64)})
    with pytest.raises(dwcpu.UnsupportedOperator, match="'k'"):
        dwcpu.load_onnx(content)


def test_saving_replaces_a_file_as_a_whole_or_leaves_it(models, tmp_path) -> None:
    path = tmp_path / "net"
    path.write_bytes(b"before")
    models["audio"].save(str(path))
    models["audio"].save(path)
    assert_same_bits(dwcpu.load_model(str(path))(network_input("audio")), models["audio"](network_input("audio")))
    with pytest.raises(FileNotFoundError):
        models["audio"].save(tmp_path / "none" / "net")
    with pytest.raises(OSError, match=tmp_path.name):
        models["audio"].save(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["net"]


def test_saved_models_are_read_where_the_onnx_package_is_not(models, tmp_path) -> None:
    for name in NETWORKS:
        models[name].save(tmp_path / f"{name}.dwcpu")
        np.save(tmp_path / f"{name}.npy", network_input(name))
    program = """
import sys
sys.modules["onnx"] = None
import numpy as np, dwcpu, pathlib
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.dwcpu")):
    results = dwcpu.load_model(path)(np.load(path.with_suffix(".npy")))
    np.savez(path.with_suffix(".npz"), *(results if isinstance(results, tuple) else (results,)))
try:
    dwcpu.load_onnx(b"")
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "load_onnx needs the onnx package" in done.stdout
    assert "pip install" in done.stdout
    for name in NETWORKS:
        with np.load(tmp_path / f"{name}.npz") as results:
            assert_same_bits(tuple(results.values()), models[name](network_input(name)))


def test_the_source_may_be_a_path_or_anything_of_bytes(tmp_path) -> None:
    content = write([node("Neg", ["x"], ["y"])], {"x": A})
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    for source in (content, bytearray(content), memoryview(content), path, str(path)):
        np.testing.assert_array_equal(dwcpu.load_onnx(source)(A), -A)
    for source in (None, 3, [content], onnx.load_from_string(content)):
        with pytest.raises(TypeError, match=r"must be a path or bytes; give model\.SerializeToString"):
            dwcpu.load_onnx(source)


# --- tables and memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_have_a_row_for_every_node_and_say_where_memory_goes(models, name) -> None:
    model, x = models[name], network_input(name)
    table = model.explain(x.shape)
    assert [row.name for row in table.rows] == [each.name for each in model.simplified.nodes]
    assert all(row.kernel for row in table.rows)
    assert table.total.flops > 0
    arena, values = table.memory
    assert 0 < arena < values / 2
    assert all(row.name in str(table) for row in table.rows)
    timed = model.profile(x, num_threads=1, runs=2)
    assert [row.name for row in timed.rows] == [row.name for row in table.rows]
    assert all(row.microseconds is not None for row in timed.rows)
    assert "x".join(map(str, x.shape)) in str(timed).splitlines()[0]
    with pytest.raises(ValueError, match="runs is 0"):
        model.profile(x, runs=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_of_results_are_known_without_running(models, name) -> None:
    for at, shape in enumerate(NETWORKS[name][1]):
        results = models[name](network_input(name, at))
        wanted = tuple(y.shape for y in results) if isinstance(results, tuple) else results.shape
        assert models[name].out_shape(shape) == wanted
        assert models[name].out_shape({"x": list(shape)}) == wanted


def test_shapes_that_are_asked_about_are_checked(models) -> None:
    difference = dwcpu.load_onnx(write([node("Sub", ["a", "b"], ["y"])], {"a": A, "b": A}))
    assert difference.out_shape({"a": (2, 1), "b": (3,)}) == (2, 3)
    for ask in (difference.out_shape, difference.explain, difference.warmup):
        with pytest.raises(TypeError, match=r"2 inputs .a, b.; give .name: shape. for all"):
            ask((2, 3))
        with pytest.raises(TypeError, match="the shape of 'b' is missing"):
            ask({"a": (2, 3)})
        with pytest.raises(TypeError, match="give a tuple of integers"):
            ask({"a": (2, 3), "b": 3})
        with pytest.raises(ValueError, match=r"shape.1. is -3"):
            ask({"a": (2, -3), "b": (3,)})
        with pytest.raises(TypeError, match=r"shape.0. is 2.5"):
            ask({"a": (2.5, 3), "b": (3,)})
    with pytest.raises(ValueError, match="x has 4 channels, not 3"):
        models["mnasnet"].out_shape((1, 4, 64, 64))


def test_warming_up_reports_every_node_and_leaves_nothing_to_plan() -> None:
    model, calls = dwcpu.load_onnx(NETWORKS["mnasnet"][0]()), []
    model.warmup((1, 3, 40, 40), num_threads=2, progress=lambda *report: calls.append(report))
    names = [each.name for each in model.simplified.nodes]
    assert calls == [(at, len(names), name) for at, name in enumerate([*names, ""])]
    plans = dict(model._plans.known)
    model(random(1, 3, 40, 40), num_threads=2)
    assert model._plans.known == plans
    model.warmup({"x": (1, 3, 40, 40)}, layout="NCHW")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["mobilenet_v3", "pp_lcnet", "efficientnet_b0", "mnasnet"])
def test_calls_allocate_their_results_and_nothing_else(models, name, threads) -> None:
    model, x = models[name], random(2, 3, 64, 64)
    small = 6000  # numbers and tuples of Python
    assert allocated(lambda: model(x, num_threads=threads)) <= model(x).nbytes + small


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_read_that_the_same_run_did_not_write(name) -> None:
    model, x = dwcpu.load_onnx(NETWORKS[name][0]()), network_input(name)
    wanted = model(x)
    for threads in (1, 2, 3):
        assert len(model._plans._arenas._free) == 1
        for memory, _ in model._plans._arenas._free:
            memory[: memory.size // 4 * 4].view(np.float32)[:] = np.nan
        assert_same_bits(model._run((x,), {}, "NCHW", threads), wanted)


# --- the short way ----------------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned_scratch(monkeypatch) -> None:
    """Memory between kernels that is not a number anywhere."""
    scratch = runtime.scratch

    def poisoned(size: int) -> tuple[int, np.ndarray]:
        address, held = scratch(size)
        held[: held.size // 4 * 4].view(np.float32)[:] = np.nan
        return address, held

    monkeypatch.setattr(runtime, "scratch", poisoned)


@pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")
@pytest.mark.usefixtures("poisoned_scratch")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "blazeface"])
def test_calls_of_known_shapes_go_the_short_way(name, layout, threads, monkeypatch) -> None:
    """With the same bits, in arrays of their own; what kernels cannot take as it is goes the long way."""
    model = dwcpu.load_onnx(NETWORKS[name][0](), threads=threads)
    if layout == "NHWC" and name == "audio":
        pytest.skip("layouts are for images")
    inputs = [network_input(name, at) for at in (0, -1)]
    inputs = [np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NHWC" else x for x in inputs]
    with background.waiting():
        wanted = [model(x, layout=layout) for x in inputs]
    long_way = model._run
    with monkeypatch.context() as patch:
        patch.setattr(model, "_run", lambda *arguments: pytest.fail("not the short way"))
        for x, right in zip(inputs, wanted, strict=True):
            before = x.copy()
            results = [model(x, layout=layout) for _ in range(2)]
            for result in results:
                assert result.flags.c_contiguous
                assert_same_bits(result, right)
            assert not np.shares_memory(*results)
            assert x.tobytes() == before.tobytes()
    calls = []
    monkeypatch.setattr(model, "_run", lambda *arguments: calls.append(arguments) or long_way(*arguments))
    x, right = inputs[0], wanted[0]
    wide = np.zeros((*x.shape[:-1], x.shape[-1] + 1), np.float32)
    wide[..., :-1] = x
    for other in (wide[..., :-1], np.asfortranarray(x), x.astype(">f4"), {model.inputs[0].name: x}):
        assert_same_bits(model(other, layout=layout), right)
    assert_same_bits(model(x, layout=layout, num_threads=3), right)
    assert len(calls) == 5
    with pytest.raises(TypeError, match="has dtype float64"):
        model(x.astype(np.float64), layout=layout)


def test_the_short_way_follows_the_number_of_threads() -> None:
    model, x, before = dwcpu.load_onnx(NETWORKS["pp_lcnet"][0]()), network_input("pp_lcnet"), dwcpu.get_num_threads()
    try:
        for threads in (1, 2, 1):
            dwcpu.set_num_threads(threads)
            model(x)
    finally:
        dwcpu.set_num_threads(before)
    assert [key[1] for key in model._plans.known] == [1, 2]
    for number in range(20):
        model(random(1, 3, 32, 32 + number))
    assert len(model._short["NCHW"]._calls) <= len(model._plans.known) == 16


def test_memory_of_another_order_has_a_plan_of_its_own() -> None:
    """What was planned for channels that lie last in memory is not run on images whose channels lie first."""
    model, x = dwcpu.load_onnx(NETWORKS["pp_lcnet"][0]()), network_input("pp_lcnet")
    turned = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    wanted = model(turned)
    for image in (x, x, turned, x):
        assert_same_bits(model(image), wanted)


@pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")
def test_arenas_that_are_too_large_for_scratch_are_taken_as_before(monkeypatch) -> None:
    monkeypatch.setattr(runtime, "MOST_SCRATCH", 0)
    monkeypatch.setattr(runtime, "scratch", lambda size: pytest.fail("no arena is taken from there"))
    model, x = dwcpu.load_onnx(NETWORKS["mnasnet"][0](), threads=1), network_input("mnasnet")
    wanted = model(x)
    assert_same_bits(model(x), wanted)
    assert len(model._short["NCHW"]._calls) == 1


def test_plans_of_kernels_that_stand_in_are_not_kept() -> None:
    model, x = dwcpu.load_onnx(NETWORKS["mnasnet"][0]()), network_input("mnasnet")
    model(x)
    model._short["NCHW"]._calls = {}
    [plan] = model._plans.known.values()
    plan.jobs.append(background.Job("a key", lambda: None))
    model(x)
    assert model._short["NCHW"]._calls == {}


def test_a_model_that_nobody_has_is_gone_at_once() -> None:
    """And its weights with it, though its calls know how to call it."""
    gc.collect()
    gc.disable()
    try:
        model = dwcpu.load_onnx(NETWORKS["pp_lcnet"][0]())
        model(network_input("pp_lcnet"))
        alive = weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()


def test_what_has_no_short_way() -> None:
    """Several results or inputs, known results, integers, and steps that only NumPy knows."""
    graphs = (
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])], ["y", "z"]),
        ([node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["y"], to=1)], ["y"]),
        ([node("Sin", ["x"], ["y"])], ["y"]),
        ([node("Neg", ["x"], ["y"])], ["y"]),
    )
    for nodes, outputs in graphs:
        x = A.astype(np.int64) if nodes[0].op_type == "Neg" else A
        model = dwcpu.load_onnx(write(nodes, {"x": x}, None, outputs))
        first, second = model(x), model(x)
        assert_same_bits(first, second)
        assert model._short["NCHW"]._calls == {}


def test_operators_that_share_their_work_do_so_with_the_threads_of_the_call(monkeypatch) -> None:
    from onnx_passes import node, write

    from dwcpu.graph.operators import detecting

    asked, chain = [], detecting.chain

    def counted(nodes, shape, dtype, threads):
        asked.append(threads)
        return chain(nodes, shape, dtype, threads)

    monkeypatch.setattr(detecting, "chain", counted)
    x, regions, images = np.ones((1, 3, 8, 8), np.float32), np.array([[0, 0, 4, 4]], np.float32), np.zeros(1, np.int64)
    feeds = {"x": x, "r": regions, "b": images}
    model = dwcpu.load_onnx(write([node("RoiAlign", ["x", "r", "b"], ["y"])], feeds, {}, ["y"], 17))
    with dwcpu.num_threads(3):
        model(*feeds.values(), num_threads=1)
        assert asked[-1] == 1
        model(*feeds.values())
        assert asked[-1] == 3
