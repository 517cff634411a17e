"""What comes behind a shape that depends on values is planned in stretches, for the shapes that it meets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu.graph import stretches
from dwcpu.graph.plans import Plans
from dwcpu.layers import PointwiseConv2d

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx_passes import expected, ints, node, random, write  # noqa: E402


def rows(x: str, result: str) -> list[Any]:
    """Nodes that take those rows of `x` whose first number is positive."""
    return [
        node("Gather", [x, "zero"], [f"{result}.first"], axis=1), node("Greater", [f"{result}.first", "nought"],
        [f"{result}.some"]), node("NonZero", [f"{result}.some"], [f"{result}.numbers"]),
        node("Squeeze", [f"{result}.numbers", "axis"], [f"{result}.at"]), node("Gather", [x, f"{result}.at"], [result]),
    ]  # fmt: skip


CONSTANTS: dict[str, Any] = {
    "zero": np.array(0, np.int64), "nought": np.array(0, np.float32), "axis": ints(0),
    "w1": random(6, 16), "b1": random(16), "w2": random(16, 5), "b2": random(5),
    "conv": random(4, 2, 3, 3), "image": ints(-1, 2, 4, 4),
}  # fmt: skip


def loaded(nodes: list[Any], results: list[str], x: np.ndarray) -> tuple[Any, bytes]:
    used = {name: array for name, array in CONSTANTS.items() if any(name in each.input for each in nodes)}
    content = write(nodes, {"x": x}, used, results, 18)
    return dwcpu.load_onnx(content), content


def check(model: Any, content: bytes, x: np.ndarray, **options: Any) -> None:
    found = model(x, **options)
    for each, wanted in zip(
        found if isinstance(found, tuple) else (found,), expected(content, {"x": x}, 18), strict=True
    ):
        assert (each.shape, each.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(each, wanted, rtol=0, atol=1e-5 * max(np.abs(wanted).max(initial=1), 1))


def parts(model: Any) -> list[tuple[str, list[str]]]:
    """Names of nodes behind the first shape that depends on values, and operators within each."""
    late = model._divided._parts._late.graph.nodes
    return [
        (each.op, [part.op for part in each.get("run").graph.nodes] if each.get("run") is not None else [])
        for each in late
    ]  # fmt: skip


def some(count: int, positive: int, *shape: int) -> np.ndarray:
    x = np.abs(random(count, *shape, seed=positive))
    x[positive:, 0] *= -1
    return x


HEAD = [
    *rows("x", "r"), node("Gemm", ["r", "w1", "b1"], ["h"]), node("Relu", ["h"], ["a"]),
    node("Gemm", ["a", "w2", "b2"], ["y"]), node("Softmax", ["y"], ["p"]),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_rows_as_there_are_are_computed(threads) -> None:
    model, content = loaded(HEAD, ["p", "h"], some(9, 4, 6))
    for positive in (4, 9, 1, 4, 0, 7, *range(9)):
        check(model, content, some(9, positive, 6), num_threads=threads)
    stretch = ["Gemm", "Activation", "Gemm"]
    assert [inner for _, inner in parts(model) if inner] == [stretch]
    assert [op for op, inner in parts(model) if not inner][-1] == "Softmax"  # too little for a plan


def test_weights_are_packed_once(monkeypatch) -> None:
    made, before = [], PointwiseConv2d.__init__

    def counted(self: Any, *args: Any, **options: Any) -> None:
        made.append(self)
        before(self, *args, **options)

    monkeypatch.setattr(PointwiseConv2d, "__init__", counted)
    model, content = loaded(HEAD, ["p"], some(9, 4, 6))
    for positive in range(1, 9):
        check(model, content, some(9, positive, 6))
    assert len(made) == 2


def test_plans_of_a_stretch_are_forgotten_at_last() -> None:
    most, x = stretches._MOST_PLANS, some(200, 4, 6)
    model, _ = loaded(HEAD, ["p"], x)
    for positive in range(1, most + 1):
        model(some(200, positive, 6))
    [stretch] = [each.get("run") for each in model._divided._parts._late.graph.nodes if each.get("run") is not None]
    assert len(stretch._plans.known) == most
    first, second = list(stretch._plans.known.values())[:2]
    model(some(200, 1, 6))
    assert first in stretch._plans.known.values()
    for positive in (most + 1, 1, most + 2):  # those that were not used for longest go
        model(some(200, positive, 6))
        assert len(stretch._plans.known) == most
    assert any(first is plan for plan in stretch._plans.known.values())
    assert not any(second is plan for plan in stretch._plans.known.values())


def test_stretches_take_turns_with_what_depends_on_values() -> None:
    nodes = [
        *HEAD[:-1], node("Gemm", ["r", "w1"], ["side"]), *rows("y", "again"),
        node("Transpose", ["w2"], ["turned"], perm=[1, 0]), node("MatMul", ["again", "turned"], ["back"]),
        node("Tanh", ["back"], ["z"]), node("Add", ["side", "b1"], ["s"]),
    ]  # fmt: skip
    model, content = loaded(nodes, ["z", "s", "again"], some(9, 4, 6))
    for positive in (4, 9, 0, 6):
        check(model, content, some(9, positive, 6))
    inner = [[op for op in inner if op in ("Gemm", "MatMul")] for _, inner in parts(model) if inner]
    assert sorted(inner) in ([["Gemm"] * 3, ["MatMul"]], [["Gemm"], ["Gemm"] * 2, ["MatMul"]])


def test_what_is_read_within_and_behind_a_stretch_is_given() -> None:
    nodes = [*HEAD, node("Add", ["a", "a"], ["twice"]), node("Concat", ["twice", "h"], ["c"], axis=1)]
    model, content = loaded(nodes, ["c", "a", "p"], some(9, 4, 6))
    check(model, content, some(9, 4, 6))
    check(model, content, some(9, 8, 6))


def test_images_lie_as_kernels_want_them() -> None:
    nodes = [
        *rows("x", "r"), node("Reshape", ["r", "image"], ["i"]), node("Conv", ["i", "conv"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"]), node("MaxPool", ["d"], ["m"], kernel_shape=[2, 2]),
        node("Conv", ["c", "conv2"], ["e"], group=2), node("Flatten", ["m"], ["y"]),
    ]  # fmt: skip
    x = some(9, 4, 32)
    content = write(nodes, {"x": x}, {**CONSTANTS, "conv2": random(6, 2, 1, 1)}, ["y", "d", "e"], 18)
    model = dwcpu.load_onnx(content)
    for positive in (4, 9, 0, 1):
        check(model, content, some(9, positive, 32))
        check(model, content, np.asfortranarray(some(9, positive, 32)))


def test_what_does_not_fit_is_said_with_the_node_and_the_input() -> None:
    nodes = [*rows("x", "r"), node("Gemm", ["r", "w1"], ["h"], name="head"), node("Relu", ["h"], ["y"])]
    model, content = loaded(nodes, ["y"], some(9, 4, 6))
    check(model, content, some(9, 4, 6))
    for call in (model, model.profile):
        with pytest.raises(ValueError, match=r"given: x \(9, 7\); .*node 'head' \(Gemm\) cannot run .*matrices of sh"):
            call(some(9, 4, 7))


def test_reports_have_a_row_for_a_stretch_and_its_work() -> None:
    model, _ = loaded(HEAD, ["p"], some(9, 4, 6))
    report = model.profile(some(9, 4, 6), runs=2)
    [row] = [row for row in report.rows if row.out_shape == (4, 5) and row.flops > 1000]
    assert row.kernel == "values"
    assert 2 * 4 * (6 * 16 + 16 * 5) <= row.flops <= 2.5 * 4 * (6 * 16 + 16 * 5)
    assert len(model.explain((9, 6)).rows) == len(report.rows)


def test_models_with_stretches_are_saved_and_copied(tmp_path) -> None:
    import copy
    import pickle

    x = some(9, 4, 6)
    model, _ = loaded(HEAD, ["p"], x)
    wanted = model(x)
    model.save(tmp_path / "head.dwcpu")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), dwcpu.load_model(tmp_path / "head.dwcpu")):
        np.testing.assert_array_equal(other(x), wanted)


def test_no_file_has_stretches() -> None:
    assert "Stretch" not in stretches.OPERATORS
    with pytest.raises(dwcpu.UnsupportedOperator, match="Stretch"):
        dwcpu.load_onnx(write([node("Stretch", ["x"], ["y"])], {"x": random(2)}, {}, ["y"], 18))


def graph(nodes: list[Any], results: list[str], own: tuple[Any, ...] = ()) -> Any:
    return onnx.helper.make_graph(nodes, "within", list(own), [onnx.ValueInfoProto(name=name) for name in results])


def ways(model: Any) -> list[Any]:
    return [way for each in model._divided._parts._late.graph.nodes for way in each.get("ways", {}).values()]


@pytest.mark.parametrize("threads", [1, 2])
def test_branches_with_heavy_nodes_are_planned(threads) -> None:
    dense = [node("Gemm", ["x", "w1", "b1"], ["h"]), node("Relu", ["h"], ["a"]), node("Gemm", ["a", "w2"], ["y1"])]
    few = [*rows("x", "r"), node("MatMul", ["r", "w1"], ["m"]), node("MatMul", ["m", "w2"], ["y2"])]
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "nought"], ["much"]),
        node("If", ["much"], ["y"], then_branch=graph(dense, ["y1"]), else_branch=graph(few, ["y2"])),
    ]  # fmt: skip
    used = {name: CONSTANTS[name] for name in ("zero", "nought", "axis", "w1", "b1", "w2")}
    x = some(9, 4, 6)
    content = write(nodes, {"x": x}, used, ["y"], 18)
    model = dwcpu.load_onnx(content)
    for each in (x, -x, x[:3], -x[:3], x, 0 * x, -np.abs(x)):
        check(model, content, each, num_threads=threads)
    first, second = ways(model)
    assert [type(way).__name__ for way in (first, second)] == ["Branch", "Branch"]
    assert len([plan for plan in first._plans.known.values() if plan is not None]) == 2  # one for each shape
    plan = next(plan for plan in first._plans.known.values() if plan is not None)
    kernels = [entry.kernel for entry in plan.entries if entry.layers]
    assert len(kernels) == 2  # of weights that both branches read from around them
    assert set(second._plans.known.values()) == {None}
    late = second._divided._parts._late.graph.nodes
    assert [part.op for each in late if each.op == "Stretch" for part in each.get("run").graph.nodes] == ["MatMul"] * 2


def test_a_branch_that_cannot_run_does_no_harm_until_it_is_taken() -> None:
    good = [node("MatMul", ["x", "w1"], ["y1"])]
    broken = [node("Reshape", ["b2", "image"], ["k"], name="odd"), node("MatMul", ["k", "w1"], ["y2"])]
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "nought"], ["much"]),
        node("If", ["much"], ["y"], then_branch=graph(good, ["y1"]), else_branch=graph(broken, ["y2"])),
    ]  # fmt: skip
    x, used = np.abs(random(4, 6)), {name: CONSTANTS[name] for name in ("nought", "w1", "b2", "image")}
    model = dwcpu.load_onnx(write(nodes, {"x": x}, used, ["y"], 18))
    np.testing.assert_allclose(model(x), x @ CONSTANTS["w1"], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="odd"):
        model(-x)
    np.testing.assert_allclose(model(x), x @ CONSTANTS["w1"], rtol=0, atol=1e-4)


def test_long_chains_are_gathered() -> None:
    count = 1500
    nodes = [*rows("x", "r"), node("Gemm", ["r", "w"], ["h0"])]
    for at in range(count):
        nodes.append(node("Add", [f"h{at}", "r"], [f"h{at + 1}"]))
    nodes.append(node("Gemm", [f"h{count}", "w"], ["y"]))
    x = some(9, 4, 6)
    content = write(nodes, {"x": x}, {**CONSTANTS, "w": random(6, 6)}, ["y"], 18)
    model = dwcpu.load_onnx(content)
    check(model, content, x)
    assert [len(inner) for _, inner in parts(model) if inner] == [count + 2]


def test_light_branches_are_not() -> None:
    light = graph([node("Add", ["x", "x"], ["y1"])], ["y1"]), graph([node("Neg", ["x"], ["y2"])], ["y2"])
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "nought"], ["much"]),
        node("If", ["much"], ["y"], then_branch=light[0], else_branch=light[1]),
    ]  # fmt: skip
    model, content = loaded(nodes, ["y"], some(9, 4, 6))
    for each in (some(9, 4, 6), -np.abs(some(9, 4, 6))):
        check(model, content, each)
    assert [type(way).__name__ for way in ways(model)] == ["Runner", "Runner"]


def test_bodies_of_loops_run_node_by_node() -> None:
    shapes = {
        "i": (onnx.TensorProto.INT64, []),
        "on": (onnx.TensorProto.BOOL, []),
        "h": (onnx.TensorProto.FLOAT, ["n", 6]),
    }
    own = tuple(onnx.helper.make_tensor_value_info(name, *each) for name, each in shapes.items())
    turn = [
        node("Identity", ["on"], ["again"]), node("MatMul", ["h", "w"], ["m"]), node("Tanh", ["m"], ["t"]),
        node("Concat", ["t", "one"], ["longer"], axis=0),
    ]  # fmt: skip
    nodes = [node("Loop", ["most", "", "x"], ["y"], body=graph(turn, ["again", "longer"], own))]
    x, most = random(2, 6), np.array(25, np.int64)
    content = write(nodes, {"x": x}, {"most": most, "w": random(6, 6), "one": random(1, 6)}, ["y"], 18)
    model = dwcpu.load_onnx(content)
    for each in (x, -x, random(4, 6)):
        check(model, content, each)
    [body] = ways(model)
    assert [each.op for each in body.graph.nodes] == ["Identity", "MatMul", "Tanh", "Concat"]


@pytest.mark.parametrize("name", ["run", "ways"])
def test_no_file_says_how_its_nodes_are_run(name) -> None:
    content = write([node("Relu", ["x"], ["y"], **{name: 1})], {"x": random(2)}, {}, ["y"], 18)
    with pytest.raises(ValueError, match="of which it has none"):
        dwcpu.load_onnx(content)


def test_types_of_one_size_have_plans_of_their_own() -> None:
    types = pytest.importorskip("ml_dtypes")
    keys = {Plans.key([np.zeros(4, kind)], False, 1) for kind in (types.float8_e4m3fn, types.int4, np.int8)}
    assert len(keys) == 3


def test_shapes_that_cannot_run_are_not_remembered() -> None:
    content = write([node("MatMul", ["x", "w"], ["y"])], {"x": random(2, 6)}, {"w": random(6, 3)}, ["y"], 18)
    model = dwcpu.load_onnx(content)
    for columns in range(7, 40):
        with pytest.raises(ValueError, match="cannot be multiplied"):
            model(random(2, columns))
    model(random(2, 6))
    assert len(model._plans._used) == len(model._plans.known) == 1
    with pytest.raises(ValueError, match="cannot be multiplied"):
        model(random(2, 7))
    assert len(model._plans._used) == 1
