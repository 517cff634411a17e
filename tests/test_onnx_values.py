"""Networks whose shapes depend on values: those that find objects, and graphs within graphs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import pixels
from dwcpu.graph import store

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_passes import expected, ints, node, number, random, simplified, write  # noqa: E402


def boxes(count: int, seed: int = 0, size: float = 0.3) -> np.ndarray:
    """Some of whose corners are given in the other order."""
    rng = np.random.default_rng(seed)
    corner = rng.random((count, 2))
    found = np.concatenate([corner, corner + rng.random((count, 2)) * size], 1).astype(np.float32)
    return np.where(rng.random((count, 1)) < 0.2, found[:, [2, 1, 0, 3]], found)


def suppressed(given: np.ndarray, scores: np.ndarray, *more: Any, **attributes: Any) -> np.ndarray:
    """What stays, as onnxruntime has it too."""
    names = ("most", "overlap", "score")
    constants = {name: np.asarray(value) for name, value in zip(names, more, strict=False) if value is not None}
    inputs = ["b", "s", *(name if name in constants else "" for name in names[: len(more)])]
    nodes = [node("NonMaxSuppression", inputs, ["y"], **attributes)]
    feeds = {"b": given, "s": scores}
    simplified(nodes, constants, feeds=feeds)
    return np.asarray(dwcpu.load_onnx(write(nodes, feeds, constants, ["y"], 18))(feeds))


@pytest.mark.parametrize("count", [1, 50, 128, 129, 700])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_boxes_that_overlap_better_ones_go(count, share) -> None:
    given = np.stack([boxes(count, at) for at in range(2)])
    scores = np.random.default_rng(1).random((2, 3, count)).astype(np.float32).round(2)  # some are equal
    kept = suppressed(given, scores, 1000, np.float32(share))
    assert 6 <= len(kept) <= 6 * count
    best = suppressed(given, scores, 4, np.float32(share), np.float32(0.4))
    assert len(best) <= 24
    assert (scores[tuple(best.T)] > 0.4).all()


def test_boxes_far_from_each_other_are_not_compared() -> None:
    apart = boxes(900, 3, 0.2) + np.repeat(np.arange(90, dtype=np.float32) * 3, 10)[:, None]
    mixed = np.random.default_rng(2).permutation(apart)
    scores = np.random.default_rng(3).random((1, 1, 900)).astype(np.float32)
    assert 200 < len(suppressed(mixed[None], scores, 900, np.float32(0.2))) < 900


def test_numpy_suppresses_the_same_boxes(monkeypatch) -> None:
    given, scores = boxes(500, 5)[None], np.random.default_rng(6).random((1, 3, 500)).astype(np.float32)
    compiled = suppressed(given, scores, 500, np.float32(0.3))
    monkeypatch.setattr(pixels, "boxes", lambda *_: None)
    np.testing.assert_array_equal(suppressed(given, scores, 500, np.float32(0.3)), compiled)


def test_boxes_by_their_centres_and_no_limits() -> None:
    given = np.random.default_rng(0).random((1, 60, 4)).astype(np.float32)
    scores = np.random.default_rng(1).standard_normal((1, 2, 60)).astype(np.float32)
    assert len(suppressed(given, scores, 60, np.float32(0.2), center_point_box=1))
    assert len(suppressed(given - 0.5, scores, 60, np.float32(0.2), center_point_box=1))  # of sizes below zero, too
    assert len(suppressed(given, scores)) == 0  # at most none is the default
    assert len(suppressed(given, scores, 60)) > 1


@pytest.mark.parametrize(
    ("shapes", "constants", "words"),
    [
        (((1, 5, 4), (1, 2, 6)), {}, "5 boxes and 6 scores"),
        (((1, 5, 3), (1, 2, 5)), {}, "boxes are (1, 5, 3) and scores (1, 2, 5); they must be (images, boxes, 4) and"),
        (((2, 5, 4), (1, 2, 5)), {}, "boxes are (2, 5, 4) and scores (1, 2, 5); they must be (images, boxes, 4) and"),
        (((1, 5, 4), (1, 2, 5)), {"o": number(1.5)}, "iou_threshold is 1.5; it must be from 0 to 1"),
        (((1, 5, 4), (1, 2, 5)), {"o": number(0.5, 2)}, "iou_threshold is of shape (2,)"),
    ],
)
def test_boxes_and_scores_must_fit(shapes, constants, words) -> None:
    feeds = {name: random(*shape) for name, shape in zip("bs", shapes, strict=True)}
    nodes = [node("NonMaxSuppression", ["b", "s", "most", *constants], ["y"])]
    with pytest.raises(ValueError, match="NonMaxSuppression") as raised:
        dwcpu.load_onnx(write(nodes, feeds, {"most": ints(3), **constants}, ["y"], 18))(feeds)
    assert words in str(raised.value)


def test_elements_that_are_not_zero_are_found() -> None:
    for shape in ((4, 3, 2), (7,), (0, 3)):
        simplified([node("NonZero", ["x"], ["y"])], feeds={"x": random(*shape).round()})
    simplified([node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["y"])], feeds={"x": random(5, 5)})
    model = dwcpu.load_onnx(write([node("NonZero", ["x"], ["y"])], {"x": random(1)}, {}, ["y"], 18))
    assert model(np.array(2, np.float32)).shape == (0, 1)
    assert model(np.array(0, np.float32)).shape == (0, 0)


@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("samples", [0, 2, 3])
def test_regions_are_cut_out(mode, samples) -> None:
    x, rng = random(2, 5, 9, 14), np.random.default_rng(4)
    corner = rng.random((12, 2)) * [30, 18] - 4
    regions = np.concatenate([corner, corner + rng.random((12, 2)) * 16], 1).astype(np.float32)
    regions[3:5] = [[200, 200, 260, 220], [4, 4, 4, 4]]  # outside, and nothing
    for opset in (13, 18) if mode == "output_half_pixel" else (18,):
        attributes = {"coordinate_transformation_mode": mode} if opset > 13 else {}
        cut = node(
            "RoiAlign", ["x", "r", "i"], ["y"], output_height=3, output_width=4, sampling_ratio=samples,
            spatial_scale=0.5, **attributes,
        )  # fmt: skip
        simplified([cut], {"i": ints(*[0, 1] * 6)}, feeds={"x": x, "r": regions}, opset=opset)


def test_regions_that_nobody_can_cut_out_are_refused() -> None:
    feeds = {"x": random(2, 5, 9, 9), "r": random(3, 4)}
    of_two, whole = (
        "batch_indices are 0 to 2; of 2 images they must be 0 to 1",
        r"and batch_indices \(1,\); they must be",
    )
    for images, words in ((ints(0, 1, 2), of_two), (ints(0), whole)):
        model = dwcpu.load_onnx(write([node("RoiAlign", ["x", "r", "i"], ["y"])], feeds, {"i": images}, ["y"], 18))
        with pytest.raises(ValueError, match=words):
            model(feeds)
    for option, name in (("mode", "max"), ("coordinate_transformation_mode", "odd")):
        cut = node("RoiAlign", ["x", "r", "i"], ["y"], **{option: name})
        with pytest.raises(dwcpu.UnsupportedOperator, match=f"RoiAlign with {option}={name}"):
            dwcpu.load_onnx(write([cut], feeds, {"i": ints(0)}, ["y"], 18))
    model = dwcpu.load_onnx(write([node("RoiAlign", ["x", "r", "i"], ["y"])], feeds, {"i": ints(0, 0, 1)}, ["y"], 18))
    for end, words in ((1e10, "a region of 10000000000 pixels"), (np.nan, "regions have NaN or infinities")):
        with pytest.raises(ValueError, match=words):
            model({"x": feeds["x"], "r": np.full((3, 4), [0, 0, end, end], np.float32)})


def test_regions_of_float64_are_cut_out_with_all_digits() -> None:
    feeds = {"x": random(1, 2, 7, 12).astype(np.float64), "r": np.array([[4.0, -3.0, 21.0, 4.0], [1, 2, 3, 4]])}
    cut = node("RoiAlign", ["x", "r", "i"], ["y"], output_height=3, output_width=3, sampling_ratio=1)
    simplified([cut], {"i": ints(0, 0)}, feeds=feeds)


# --- graphs within graphs ---------------------------------------------------------------------------------------------


def graph(nodes: list[Any], results: list[str], constants: dict[str, Any] | None = None, own: tuple = ()) -> Any:
    made = [onnx.ValueInfoProto(name=name) for name in results]
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    return helper.make_graph(nodes, "within", list(own), made, arrays)


def either(condition: str = "c") -> Any:
    """Twice x plus w, or what is not zero of x."""
    twice = graph([node("Mul", ["x", "two"], ["t"]), node("Add", ["t", "w"], ["a"])], ["a"], {"two": number(2)})
    found = [node("NonZero", ["x"], ["n"]), node("Transpose", ["n"], ["i"]), node("GatherND", ["x", "i"], ["b"])]
    return node("If", [condition], ["v"], then_branch=twice, else_branch=graph(found, ["b"]))


AROUND = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "none"], ["c"])]


@pytest.mark.parametrize("sign", [1, -1])
def test_one_of_two_graphs_runs(sign) -> None:
    feeds = {"x": sign * np.abs(random(3, 4).round())}
    constants = {"none": number(0), "w": random(4)}
    nodes = [*AROUND, either(), node("Neg", ["v"], ["y"])]
    simplified(nodes, constants, feeds=feeds)
    left = simplified(nodes[2:], {**constants, "c": np.array(sign > 0)}, feeds=feeds)
    assert "If" not in [each.op for each in left]
    assert all(each.name != "c" for each in left)


@pytest.mark.parametrize("height", [1, 3])
def test_what_shapes_decide_is_planned(height) -> None:
    """As exporters write what may or may not be squeezed."""
    squeezed = graph(
        [node("Conv", ["x", "k"], ["v"], kernel_shape=[1, 1]), node("Squeeze", ["v", "axis"], ["s"])], ["s"]
    )
    means = [
        node("Conv", ["x", "w"], ["v"]),
        node("Relu", ["v"], ["a"]),
        node("ReduceMean", ["a", "axis"], ["m"], keepdims=0),
    ]
    nodes = [
        node("Shape", ["x"], ["sizes"], start=2, end=3), node("Equal", ["sizes", "one"], ["c"]),
        node("If", ["c"], ["u"], then_branch=squeezed, else_branch=graph(means, ["m"])), node("Relu", ["u"], ["y"]),
    ]  # fmt: skip
    constants = {"one": ints(1), "axis": ints(2), "k": random(8, 6, 1, 1), "w": random(8, 6, 2, 1)}
    x = random(1, 6, height, 5)
    simplified(nodes, constants, feeds={"x": x})
    model = dwcpu.load_onnx(write(nodes, {"x": x}, constants, ["y"], 18))
    kernels = " ".join(row.kernel for row in model.explain(x.shape).rows)
    assert "values" not in kernels
    assert ("pointwise" if height == 1 else "conv") in kernels


def test_branches_whose_values_are_called_alike_are_apart() -> None:
    """Two of them, of one plan, whose first results nobody wants; and values without elements in one."""

    def branching(result: str, weights: np.ndarray) -> Any:
        nodes = [node("Conv", ["x", "k"], ["v"]), node("Slice", ["v", "end", "end", "axis"], ["s"])]
        nodes += [node("Softmax", ["s"], ["n"], axis=1), node("Concat", ["v", "n"], ["m"], axis=2)]
        within = graph(nodes, ["n", "m"], {"k": weights})
        return node("If", ["c"], ["", result], then_branch=within, else_branch=graph([], ["x", "x"]))

    made = [node("Shape", ["x"], ["sizes"], start=2, end=3), node("Equal", ["sizes", "end"], ["c"])]
    made += [branching("p", random(4, 6, 1, 1)), branching("q", random(4, 6, 1, 1, seed=2))]
    made += [node("Sub", ["p", "q"], ["y"])]
    feeds, constants = {"x": random(1, 6, 3, 5)}, {"end": ints(3), "axis": ints(2)}
    found = dwcpu.load_onnx(write(made, feeds, constants, ["y"], 18))(feeds)
    difference = random(4, 6, 1, 1)[:, :, 0, 0] - random(4, 6, 1, 1, seed=2)[:, :, 0, 0]
    np.testing.assert_allclose(found, np.einsum("oc,nchw->nohw", difference, feeds["x"]), atol=1e-5)


def test_graphs_within_graphs_within_graphs() -> None:
    inner = node("If", ["c"], ["p"], then_branch=graph([either("d")], ["v"]), else_branch=graph([], ["x"]))
    outer = node("If", ["c"], ["y"], then_branch=graph([inner], ["p"]), else_branch=graph([], ["w"]))
    feeds = {"x": random(2, 3), "w": random(3), "c": np.array(True), "d": np.array(False)}
    content = write([outer], feeds, {}, ["y"], 18)
    model = dwcpu.load_onnx(content)
    for c, d in ((True, True), (True, False), (False, True)):
        given = {**feeds, "c": np.array(c), "d": np.array(d)}
        wanted = feeds["w"] if not c else 2 * feeds["x"] + feeds["w"] if d else feeds["x"][feeds["x"] != 0]
        np.testing.assert_allclose(model(given), wanted, rtol=1e-6)


def test_a_graph_runs_in_turns() -> None:
    """What each turn hands on, what it gives besides, and what it reads from outside."""
    number_of = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    goes_on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
    nodes = [
        node("Add", ["state", "x"], ["next"]),
        node("ReduceSum", ["next"], ["sum"], keepdims=0),
        node("Less", ["sum", "end"], ["still"]),
        node("Cast", ["turn"], ["place"], to=TensorProto.FLOAT),
    ]
    body = graph(nodes, ["still", "next", "place"], own=(number_of, goes_on, state))
    feeds = {"x": np.abs(random(3)), "from": random(3), "end": number(12), "most": ints(100)}
    for most, condition in (("most", ""), ("", ""), ("most", "go")):
        turns = node("Loop", [most, condition, "from"], ["last", "places"], body=body)
        used = {name: each for name, each in feeds.items() if name != "most" or most}
        simplified([turns], {"go": np.array(True)}, ["last", "places"], feeds=used)
    never = node("Loop", ["most", "", "from"], ["last", "places"], body=body)
    last, places = dwcpu.load_onnx(write([never], feeds, {}, ["last", "places"], 18))({**feeds, "most": ints(0)})
    np.testing.assert_array_equal(last, feeds["from"])
    assert places.shape == (0,)


def test_a_loop_may_have_no_inputs_but_its_graph() -> None:
    own = (
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
    )
    nodes = [node("Less", ["turn", "end"], ["still"]), node("Add", ["turn", "end"], ["place"])]
    for outer in ([], ["x"]):
        inside = [*nodes, *(node("Add", ["place", each], ["moved"]) for each in outer)]
        body = graph(inside, ["still", "moved" if outer else "place"], {"end": np.array(3)}, own)
        for given in ([], [""], ["", ""], ["most"], ["most", ""]):
            feeds = {"x": ints(1, 2), "most": ints(2)}
            content = write([node("Loop", given, ["y"], body=body)], feeds, {}, ["y"], 18)
            turns = 2 if "most" in given else 4
            wanted = np.arange(turns) + 3 if not outer else np.arange(turns)[:, None] + 3 + feeds["x"]
            np.testing.assert_array_equal(dwcpu.load_onnx(content)(feeds), wanted)


def test_what_turns_give_must_be_alike() -> None:
    own = (
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
    )
    body = graph([node("Identity", ["on"], ["still"]), node("Range", ["none", "turn", "one"], ["r"])], ["still", "r"],
                 {"none": np.array(0), "one": np.array(1)}, own)  # fmt: skip
    model = dwcpu.load_onnx(write([node("Loop", ["most", ""], ["y"], body=body)], {"most": ints(3)}, {}, ["y"], 18))
    with pytest.raises(ValueError, match=r"turns give 'r' of shapes \(0,\) and \(2,\); all must be alike"):
        model(ints(3))


def test_names_that_are_made_up_hide_none_from_outside() -> None:
    """What a branch reads may be called as an attribute that becomes an input is."""
    feeds = {"x": random(2, 3), "c": np.array(True), "u.axes": number(5, 1)}
    first = graph([node("Unsqueeze", ["x"], ["q"], name="u", axes=[0]), node("Add", ["q", "u.axes"], ["t"])], ["t"])
    nodes = [node("If", ["c"], ["y"], then_branch=first, else_branch=graph([node("Neg", ["x"], ["t"])], ["t"]))]
    np.testing.assert_array_equal(dwcpu.load_onnx(write(nodes, feeds, {}, ["y"], 11))(feeds)[0], feeds["x"] + 5)
    named = [node("Unsqueeze", ["x"], ["q"], name="u", axes=[0]), node("Neg", ["q"], ["u.axes"])]
    np.testing.assert_array_equal(
        dwcpu.load_onnx(write(named, {"x": feeds["x"]}, {}, ["u.axes"], 11))(feeds["x"])[0], -feeds["x"]
    )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (node("If", ["c"], ["y"], then_branch=graph([], ["x"])), "If with a branch or body that is no graph"),
        (node("If", ["c", "x"], ["y"], **dict.fromkeys(("then_branch", "else_branch"), graph([], ["x"]))), "2 inputs"),
        (node("Loop", ["", "c", "x"], ["y"], body=graph([], ["c", "x"])), "Loop with 3 inputs and a body of 2 results"),
        (node("If", ["c"], ["y"], then_branch=graph([node("Det", ["x"], ["d"])], ["d"]), else_branch=graph([], ["x"])),
         "operator Det: 'd'"),
        (node("Relu", ["x"], ["y"], body=graph([], ["x"])), "attribute body of type GRAPH"),
    ],
)  # fmt: skip
def test_graphs_that_do_not_fit_are_refused(bad, words) -> None:
    feeds = {"x": random(2), "c": np.array(True)}
    with pytest.raises(dwcpu.UnsupportedOperator) as raised:
        dwcpu.load_onnx(write([bad], feeds, {}, ["y"], 18))
    assert words in str(raised.value)


def test_graphs_that_cannot_run_are_refused() -> None:
    feeds = {"x": random(2), "c": np.array(True)}
    unknown = node(
        "If", ["c"], ["y"], then_branch=graph([node("Abs", ["q"], ["d"])], ["d"]), else_branch=graph([], ["x"])
    )
    with pytest.raises(ValueError, match="reads 'q', which nothing makes"):
        dwcpu.load_onnx(write([unknown], feeds, {}, ["y"], 18))
    few = node("If", ["c"], ["y", "z"], then_branch=graph([], ["x"]), else_branch=graph([], ["x"]))
    for constants, left in (({}, feeds), ({"c": np.array(True)}, {"x": feeds["x"]})):
        with pytest.raises(ValueError, match="it has 2 results, and a branch 1"):
            dwcpu.load_onnx(write([few], left, constants, ["y", "z"], 18))(left)
    many = node("If", ["c"], ["y"], then_branch=graph([], ["x"]), else_branch=graph([], ["x"]))
    model = dwcpu.load_onnx(write([many], feeds, {}, ["y"], 18))
    with pytest.raises(ValueError, match=r"the condition is of shape \(2,\)"):
        model(feeds["x"], np.array([True, False]))


# --- two parts --------------------------------------------------------------------------------------------------------


WEIGHTS = {"w": random(8, 3, 3, 3), "k": random(8, 1, 3, 3), "none": number(0), "one": ints(1), "many": ints(5)}


def detector() -> list[Any]:
    """Convolutions, then the places of their largest results."""
    return [
        node("Conv", ["x", "w"], ["a"], strides=[2, 2], name="first"),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "k"], ["c"], group=8, name="second"),
        node("Greater", ["c", "none"], ["g"]),
        node("NonZero", ["g"], ["n"]),
        node("Transpose", ["n"], ["i"]),
        node("GatherND", ["c", "i"], ["v"]),
        node("TopK", ["v", "many"], ["y", "z"], name="best"),
    ]


def test_what_comes_before_is_planned() -> None:
    x = random(1, 3, 14, 12)
    content = write(detector(), {"x": x}, WEIGHTS, ["y", "z"], 18)
    simplified(detector(), WEIGHTS, ["y", "z"], feeds={"x": x})
    model = dwcpu.load_onnx(content)
    report = model.explain(x.shape)
    assert [row.kernel for row in report.rows[:2]] == [
        dwcpu.Conv2d(WEIGHTS["w"].transpose(2, 3, 1, 0), stride=2).explain((1, 14, 12, 3)).kernel,
        dwcpu.DepthwiseConv2d(WEIGHTS["k"][:, 0].transpose(1, 2, 0)).explain((1, 6, 5, 8)).kernel,
    ]
    assert [row.kernel for row in report.rows[-4:]] == ["values"] * 4
    assert report.rows[-1].name == "best"
    assert "values: shapes depend on values" in str(report)
    timed = model.profile(x, runs=2)
    assert [row.name for row in timed.rows] == [row.name for row in report.rows]
    assert timed.rows[-1].out_shape == (5,)
    assert all(row.microseconds is not None for row in timed.rows)
    with pytest.raises(ValueError, match="the shape of its results depends on the values of its inputs"):
        model.out_shape(x.shape)
    model.warmup(x.shape)


def test_images_with_channels_last_and_of_several_sizes() -> None:
    x = random(1, 3, 14, 12)
    content = write(detector(), {"x": x}, WEIGHTS, ["y", "z"], 18)
    model = dwcpu.load_onnx(content, threads=2)
    for shape in ((1, 3, 14, 12), (2, 3, 9, 9)):
        x = random(*shape)
        wanted = expected(content, {"x": x}, 18)
        for array, layout in ((x, "NCHW"), (np.ascontiguousarray(x.transpose(0, 2, 3, 1)), "NHWC")):
            for found, each in zip(model(array, layout=layout), wanted, strict=True):
                np.testing.assert_allclose(found, each, rtol=1e-5)
        turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(model(turned)[1], wanted[1])


def test_such_networks_are_saved_and_copied(tmp_path) -> None:
    feeds = {"x": np.abs(random(3, 4).round())}
    nodes = [*AROUND, either(), node("Neg", ["v"], ["y"])]
    model = dwcpu.load_onnx(write(nodes, feeds, {"none": number(0), "w": random(4)}, ["y"], 18))
    model.save(tmp_path / "model.dwcpu")
    for other in (dwcpu.load_model(tmp_path / "model.dwcpu"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        for sign in (1, -1):
            np.testing.assert_array_equal(other(sign * feeds["x"]), model(sign * feeds["x"]))


@pytest.mark.parametrize("change", [{"then_branch": 3}, {"own": 1}, {"own": None}, {"else_branch": None}], ids=str)
def test_saved_networks_whose_graphs_do_not_fit_are_refused(change) -> None:
    feeds = {"x": np.abs(random(3, 4).round())}
    nodes = [*AROUND, either(), node("Neg", ["v"], ["y"])]
    damaged = dwcpu.load_onnx(write(nodes, feeds, {"none": number(0), "w": random(4)}, ["y"], 18)).graph.copy()
    [branching] = [each for each in damaged.nodes if each.op == "If"]
    branching.attributes |= change
    with pytest.raises(ValueError, match="it has If with"):
        store.parse(store.dump(damaged))


def test_results_and_inputs_may_be_left_out() -> None:
    """Of one node before the first shape that depends on values, and of one behind it."""
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
    inside = [node("Identity", ["on"], ["still"]), node("Add", ["state", "state"], ["next"])]
    body = graph(inside, ["still", "next"], own=(turn, on, state))
    nodes = [node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=4), node("Loop", ["m", "", "h"], ["y"], body=body)]
    simplified(nodes, {"w": random(1, 16, 4), "r": random(1, 16, 4), "m": np.array(2)}, feeds={"x": random(5, 2, 4)})


def test_errors_name_the_node_once() -> None:
    model = dwcpu.load_onnx(write(detector(), {"x": random(1, 3, 14, 12)}, WEIGHTS, ["y", "z"], 18))
    with pytest.raises(ValueError, match="best") as raised:
        model(np.zeros((1, 3, 14, 12), np.float32))
    assert "k is 5; of an axis of 0" in str(raised.value)
    assert str(raised.value).count("given: ") == 1
    with pytest.raises(ValueError, match="4 channels") as raised:
        model(random(1, 4, 14, 12))
    assert str(raised.value).count("given: ") == 1


def test_nothing_is_planned_where_nothing_can_be() -> None:
    model = dwcpu.load_onnx(write([node("NonZero", ["x"], ["y"])], {"x": random(2)}, {}, ["y"], 18))
    for report in (model.explain((2,)), model.profile(random(2), runs=1)):
        assert [(row.name, row.kernel) for row in report.rows] == [("y", "values")]
    np.testing.assert_array_equal(model(np.zeros((0, 4), np.float32)), np.zeros((2, 0)))
