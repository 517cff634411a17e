"""Plans: what lies where, what passes may fold, and what happens at the edges of types, sizes and shapes."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import pixels, runtime
from dwcpu.graph.advice import advice
from dwcpu.graph.ir import Spec
from dwcpu.graph.planner import Planner

onnx = pytest.importorskip("onnx")
parser = pytest.importorskip("onnx.parser")
onnxruntime = pytest.importorskip("onnxruntime")


def model(text: str, opset: int = 18, **constants: Any) -> bytes:
    """A model in ONNX's textual form; constants are added as initializers."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> ' + text)
    for name, array in constants.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return made.SerializeToString()


def random(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def compare(content: bytes, *inputs: np.ndarray, tolerance: float = 2e-5) -> Any:
    """Compare every output with onnxruntime's, and with those of a pickled copy; gives our model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    wanted = session.run(None, dict(zip((each.name for each in session.get_inputs()), inputs, strict=True)))
    ours = dwcpu.load_onnx(content)
    for each in (ours, pickle.loads(pickle.dumps(ours))):
        found = each(*inputs)
        for result, expected in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
            assert result.dtype == expected.dtype
            assert result.shape == expected.shape
            if result.dtype.kind == "f":
                scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
                np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * scale)
            else:
                np.testing.assert_array_equal(result, expected)
    return ours


# --- nothing at all, and types that kernels do not have ---------------------------------------------------------------


def test_tensors_without_elements_meet_kernels_nowhere() -> None:
    content = model(
        "g (float[64,3] x) => (float[64,3] y, float[64,0] s) {"
        "a = Slice(x, zero, zero, one) b = Slice(x, zero, one, one) e = Mul(a, b) y = Concat<axis=1>(x, e)"
        "s = Softmax(e) }",
        zero=np.array([0]), one=np.array([1]),
    )  # fmt: skip
    compare(content, random(64, 3))


def test_the_mean_of_no_pixels_is_nan() -> None:
    content = model(
        "g (float[2,3,4,4] x) => (float[2,3,1,1] y) { a = Slice(x, zero, zero, two) b = Slice(x, zero, one, two)"
        "e = Mul(a, b) y = GlobalAveragePool(e) }",
        zero=np.array([0]), one=np.array([1]), two=np.array([2]),
    )  # fmt: skip
    assert np.isnan(dwcpu.load_onnx(content)(random(2, 3, 4, 4))).all()


def test_strings_within_a_graph_are_no_bytes_of_an_arena() -> None:
    text = "g (float[3] x) => (float[6] y) { s = Cast<to=8>(x) t = Concat<axis=0>(s, s) y = Cast<to=1>(t) }"
    np.testing.assert_array_equal(dwcpu.load_onnx(model(text))(np.arange(3, dtype=np.float32)), [0, 1, 2, 0, 1, 2])


def test_half_precision_networks_run() -> None:
    content = model(
        "g (float16[1,8,6,6] x) => (float16[1,4,6,6] y) {"
        "a = Conv<group=8, pads=[1,1,1,1]>(x, w) b = Relu(a) c = Conv(b, v) y = Relu(c) }",
        w=random(8, 1, 3, 3, dtype=np.float16), v=random(4, 8, 1, 1, dtype=np.float16),
    )  # fmt: skip
    compare(content, random(1, 8, 6, 6, dtype=np.float16), tolerance=5e-3)


def test_three_axes_of_pixels_keep_their_activation_and_residual() -> None:
    content = model(
        "g (float[1,2,4,5,6] x) => (float[1,2,3,4,5] y, float[1,2,4,5,6] z) { a = Conv(x, w) y = Relu(a)"
        "b = Conv<pads=[0,0,0,0,0,0]>(x, v) z = Add(b, x) }",
        w=random(2, 2, 2, 2, 2), v=random(2, 2, 1, 1, 1),
    )  # fmt: skip
    compare(content, random(1, 2, 4, 5, 6))


def test_weights_that_are_inputs_are_taken_from_each_call() -> None:
    text = (
        "g (float[1,3,6,6] x, float[4,3,3,3] w) => (float[1,4,4,4] y, float[1,4,4,4] z)"
        "{ y = Conv(x, w) a = Conv(x, w) z = Relu(a) }"
    )
    ours = compare(model(text), random(1, 3, 6, 6), random(4, 3, 3, 3))
    other = ours(random(1, 3, 6, 6), 2 * random(4, 3, 3, 3))[0]
    np.testing.assert_allclose(other, 2 * ours(random(1, 3, 6, 6), random(4, 3, 3, 3))[0], atol=1e-4)


def test_weights_that_depend_on_shapes_belong_to_one_plan() -> None:
    content = model(
        "g (float[1,2,H,W] x) => (float[1,2,A,B] y) { s = Shape(x) f = Cast<to=1>(s) t = ReduceSum<keepdims=0>(f)"
        "b = Expand(t, two) y = Conv(x, w, b) }",
        two=np.array([2]), w=random(2, 2, 3, 3),
    )  # fmt: skip
    ours = compare(content, random(1, 2, 5, 6))
    first = ours(random(1, 2, 5, 6))
    options = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(ours(random(1, 2, 7, 8)), options.run(None, {"x": random(1, 2, 7, 8)})[0], atol=1e-4)
    np.testing.assert_array_equal(ours(random(1, 2, 5, 6)), first)


# --- what must not be folded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (4,), (1,), (), (4, 4)])
def test_the_third_matrix_of_a_gemm_broadcasts_as_it_says(shape) -> None:
    text = "g (float[4,3] x) => (float[4,4] y) { y = Gemm<alpha=0.5, beta=2.0>(x, w, c) }"
    compare(model(text, w=random(3, 4), c=random(*shape)), random(4, 3))


def test_normalised_products_of_three_axes_have_their_channels_in_the_middle() -> None:
    norm = {name: np.abs(random(4)) + 1 for name in "abcd"}
    text = "g (float[2,4,3] x) => (float[2,4,4] y) { p = MatMul(x, w) y = BatchNormalization(p, a, b, c, d) }"
    compare(model(text, w=random(3, 4), **norm), random(2, 4, 3))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 4), (1,), ()])
def test_what_is_added_to_a_product_may_give_it_axes(shape) -> None:
    text = "g (float[3] x) => (float[A] y) { p = MatMul(x, w) y = Add(p, b) }"
    made = onnx.load_from_string(model(text, w=random(3, 4), b=random(*shape)))
    made.graph.output[0].type.tensor_type.ClearField("shape")
    compare(made.SerializeToString(), random(3))


def test_integers_are_no_activations() -> None:
    content = model(
        "g (int64[5] x, int32[5] z) => (int64[5] y, int32[5] q) { y = Clip(x, low, high)"
        "a = Add(z, three) b = Clip(a, none, six) q = Div(b, six) }",
        low=np.array(2**53 + 1), high=np.array(2**63 - 1), three=np.array(3, np.int32), six=np.array(6, np.int32),
        none=np.array(0, np.int32),
    )  # fmt: skip
    compare(content, np.array([0, 2**53, 2**53 + 1, 2**60, -5]), np.array([-9, 0, 2, 3, 9], np.int32))


def test_an_output_that_is_left_out_is_nobodys_input() -> None:
    text = "g (float[1] h) => (float[4] y) { u, a = Split<axis=0>(c) y = Clip(a, , h) }"
    made = onnx.load_from_string(
        model(text.replace(",a = Split", "u, a = Split"), opset=11, c=np.arange(8.0, dtype=np.float32))
    )
    made.graph.node[0].output[0] = ""
    result = dwcpu.load_onnx(made.SerializeToString())(np.array(5, np.float32).reshape(1))
    np.testing.assert_array_equal(result, [4, 5, 5, 5])


@pytest.mark.parametrize("number", [3.0, 1e-40, 0.0, -0.0, np.inf])
def test_division_by_numbers_is_what_ieee_says(number) -> None:
    text = "g (float[16] x) => (float[16] y, float[16] z) { y = Div(x, c) z = Mul(x, c) }"
    x = np.array([0, -0.0, 1e-30, 1, -1, 1e30, np.inf, -np.inf] * 2, np.float32)
    y, z = dwcpu.load_onnx(model(text, c=np.float32(number)))(x)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, x / np.float32(number), rtol=3e-7)
        np.testing.assert_array_equal(z, x * np.float32(number))
        np.testing.assert_array_equal(np.signbit(z), np.signbit(x * np.float32(number)))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_results_are_the_callers_own() -> None:
    outputs = "(float[4] a, float[N] b, float[3] c)"
    text = f"g (float[4] x, int64[1] s) => {outputs} {{ a = Identity(x) b = Reshape(x, s) c = Identity(k) }}"
    ours = dwcpu.load_onnx(model(text, k=np.ones(3, np.float32)))
    x = np.arange(4, dtype=np.float32)
    results = ours(x, np.array([4]))
    for result in results:
        assert not np.may_share_memory(result, x)
        result[...] = -1
    assert x.tolist() == [0, 1, 2, 3]
    assert ours(x, np.array([4]))[2].tolist() == [1, 1, 1]


def test_scalars_keep_having_no_axes_when_they_are_saved(tmp_path) -> None:
    content = model(
        "g (float[N,3] x) => (float[A,B] y) { s = Shape(x) n = Gather<axis=0>(s, zero) m = Unsqueeze(n, axes)"
        "t = Concat<axis=0>(m, minus) y = Reshape(x, t) }",
        zero=np.array(0), axes=np.array([0]), minus=np.array([-1]),
    )  # fmt: skip
    ours = compare(content, random(5, 3))
    ours.save(tmp_path / "model.dwcpu")
    np.testing.assert_array_equal(dwcpu.load_model(tmp_path / "model.dwcpu")(random(5, 3)), random(5, 3))


def test_sums_of_a_million_pixels_keep_their_digits() -> None:
    x = np.full((1, 8, 1024, 1024), 0.1, np.float32)
    text = "g (float[1,8,H,W] x) => (float[1,8,1,1] y) { a = Relu(x) y = GlobalAveragePool(a) }"
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(dwcpu.load_onnx(model(text))(turned, layout="NHWC"), 0.1, rtol=1e-4)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_while_a_plan_runs_name_the_node() -> None:
    text = "g (float[3] x, int64[1] i) => (float[1] y) { y = Gather<axis=0>(x, i) }"
    made = onnx.load_from_string(model(text))
    made.graph.node[0].name = "pick"
    with pytest.raises(ValueError, match=r"pick.*Gather.*out of bounds"):
        dwcpu.load_onnx(made.SerializeToString())(random(3), np.array([9]))


HOSTILE = {
    "LRN": "g (float[1,8,4,4] x) => (float[1,8,4,4] y) { y = LRN<size=1000000000000>(x) }",
    "Split": "g (float[8] x) => (float[8] y) { y = Split<axis=0, num_outputs=100000000000>(x) }",
    "MaxPool": "g (float[1,1,4,4] x) => (float[1,1,4,4] y) { y = MaxPool<kernel_shape=[1000000000,1], "
    "pads=[999999999,0,0,0]>(x) }",
    "AveragePool": "g (float[1,1,4,4] x) => (float[1,1,1,1] y) { y = AveragePool<kernel_shape=[4,4], "
    "strides=[9223372036854775807,1]>(x) }",
    "ReduceSum": "g (float[2,2] x) => (float[2] y) { y = ReduceSum(x, axis) }",
    "Expand": "g (float[1] x) => (float[N] y) { y = Expand(x, huge) }",
    "Exp": "g (float[1] x) => (float[N] y) { e = Expand(x, huge) y = Exp(e) }",
    "Tile": "g (float[1] x) => (float[N] y) { y = Tile(x, huge) }",
    "Pad": "g (float[1] x) => (float[N] y) { y = Pad(x, sides) }",
    "ConstantOfShape": "g () => (float[N] y) { y = ConstantOfShape(huge) }",
}


@pytest.mark.parametrize(
    ("shape", "options", "advice"),
    [
        ((1, 6, 5, 3), {}, "pass layout='NHWC'"),
        ((1, 3, 6, 5), {"layout": "NHWC"}, "x is as the file declares it: leave layout out$"),
        ((1, 2, 6, 5), {}, r"given: x \(1, 2, 6, 5\); the file declares: .*; x has 2 channels, not 3: give 3$"),
        ((1, 4, 6, 5), {}, r"x has 4 channels, not 3: leave the others out, x\[:, :3\]$"),
        ((1, 6, 5, 4), {"layout": "NHWC"}, r"x has 4 channels, not 3: leave the others out, x\[\.\.\., :3\]$"),
        ((3, 6, 5), {}, r"x\[None\]"),
        ((1, 1, 3, 6, 5), {}, r"has 5 axes, not 4: give it as x: float32 \(N, 3, H, W\)$"),
        ((3,), {}, "has 1 axis, not 4"),
    ],
)
def test_wrong_shapes_come_with_advice(shape, options, advice) -> None:
    text = "g (float[N,3,H,W] x) => (float[N,4,A,B] y) { y = Conv(x, w) }"
    with pytest.raises(ValueError, match=advice):
        dwcpu.load_onnx(model(text, w=random(4, 3, 3, 3)))(random(*shape), **options)


@pytest.mark.parametrize(
    "words",
    [
        r"2, 6, 5\); the file declares: .*; node .* \(Conv\) cannot run on tensors of shapes [^:]*: images of ",
        r"have 2 channels, but weights of shape \(4, 3, 3, 3\) with group 1 take 3",
    ],
)
def test_shapes_that_are_not_declared_come_with_the_node(words) -> None:
    text = "g (float[N,C,H,W] x) => (float[N,4,A,B] y) { y = Conv(x, w) }"
    with pytest.raises(ValueError, match=words):
        dwcpu.load_onnx(model(text, w=random(4, 3, 3, 3)))(random(1, 2, 6, 5))


@pytest.mark.parametrize(
    ("element", "given", "words"),
    [
        (
            "uint8",
            np.zeros((1, 3), np.float32),
            r"cuts off fractions; pixels from 0 to 1 become bytes by np\.round\(255 \* x\)\.astype",
        ),
        ("float", np.zeros((1, 3), np.uint8), r"np\.asarray\(x, np\.float32\), and if these are pixels, scale them"),
        ("float", np.zeros((1, 3), np.complex64), "give real numbers$"),
        ("float", np.zeros((1, 3)), r"convert it with np\.asarray\(x, np\.float32\)$"),
        ("float", 3, r"x is 3; it must be an array, x: float32 \(N, 3\); give one$"),
        ("float", 2.5, r"x is 2\.5; it must be an array"),
        (
            "float",
            (1, 3),
            r"x is \(1, 3\); it must be an array, x: float32 \(N, 3\); if this is a shape, give np\.zeros\(\(1, 3\),",
        ),
        ("float", [[1.0], [1.0, 2.0]], r"x of type list is no array .*; stack arrays of one shape"),
        ("float", None, "files and pictures are not opened here$"),
    ],
)
def test_inputs_of_another_type(element, given, words) -> None:
    """None is converted, and no advice would make other numbers of them."""
    with pytest.raises(TypeError, match=words):
        dwcpu.load_onnx(model(f"g ({element}[N,3] x) => ({element}[N,3] y) {{ y = Identity(x) }}"))(given)


@pytest.mark.parametrize(("shape", "turn"), [((2, 3, 6, 6), True), ((2, 3, 7, 5), True), ((2, 6, 6, 4), False)])
def test_channels_first_for_a_file_that_has_them_last(shape, turn) -> None:
    text = "g (float[N,6,6,3] x) => (float[N,4,A,B] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }"
    network = dwcpu.load_onnx(model(text, w=random(4, 3, 3, 3)))
    with pytest.raises(ValueError) as caught:
        network(random(*shape))
    assert ("the file has its channels last: give x.transpose(0, 2, 3, 1)" in str(caught.value)) == turn
    if turn:
        assert network(random(*shape).transpose(0, 2, 3, 1)).shape == (2, 4, shape[2] - 2, shape[3] - 2)


@pytest.mark.parametrize(
    ("declared", "given"), [((64, 32, 32), (32, 32, 64)), ((3, 2, 2), (2, 2, 3)), ((3, 5, 6), (4, 9, 3))]
)
def test_channels_last_for_a_file_that_has_them_first(declared, given) -> None:
    channels, height, width = declared
    text = f"g (float[N,{channels},{height},{width}] x) => (float[N,4,A,B] y) {{ y = Conv(x, w) }}"
    with pytest.raises(ValueError, match=r"pass layout='NHWC', or x\.transpose\(0, 3, 1, 2\)"):
        dwcpu.load_onnx(model(text, w=random(4, channels, 1, 1)))(random(2, *given))


@pytest.mark.parametrize("axis", [6, -6])
def test_axes_that_are_not_there_are_not_padded(axis) -> None:
    text = "g (float[1,3,6,6] x) => (float[N,4,A,B] y) { p = Pad(x, amounts, , axes) y = Conv(p, w) }"
    with pytest.raises(ValueError, match=f"axis {axis} is not there"):
        dwcpu.load_onnx(model(text, amounts=[1, 1], axes=[axis], w=random(4, 3, 3, 3)))(random(1, 3, 6, 6))


def test_attributes_of_ours_are_refused_in_files() -> None:
    text = "g (float[2] x) => (float[2] y) { y = Mul<before=[1, 1]>(x, x) }"
    with pytest.raises(ValueError, match="attribute 'before', of which it has none"):
        dwcpu.load_onnx(model(text))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_pictures_are_read_as_they_are_given(stride, threads, monkeypatch) -> None:
    """The first layer of most networks, of stride 2, reads planes of colours; other ones have them turned before."""
    if runtime.cython_kernels() is None:
        pytest.skip("Numba's kernels read channel-last images alone")
    text = f"""g (float[N,3,H,W] x) => (float[N,20,A,B] y) {{
        a = Conv<strides=[{stride},{stride}], pads=[1,1,1,1]>(x, w) b = Sigmoid(a) y = Mul(a, b)
    }}"""
    network = dwcpu.load_onnx(model(text, w=random(20, 3, 3, 3)), threads=threads)
    moves, move = [], Planner.move
    monkeypatch.setattr(Planner, "move", lambda *arguments: moves.append(1) or move(*arguments))
    for size in ((1, 3, 7, 9), (2, 3, 40, 62), (3, 3, 1, 70)):
        x = random(*size)
        moves.clear()
        network(x)
        wide = size[3] > 30  # narrow ones gain nothing
        assert len(moves) == (1 if stride == 2 and wide else 2)  # the result is turned
        turned = network(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), layout="NHWC")
        assert network(x).tobytes() == np.ascontiguousarray(turned.transpose(0, 3, 1, 2)).tobytes()


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("threads", [1, 2])
def test_maps_that_grow_at_the_end_are_made_as_planes(mode, threads, monkeypatch) -> None:
    """As segmentation ends: what is small is turned, not what is large; unless somebody else reads it."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    turned, matrix = [], Planner.matrix
    monkeypatch.setattr(Planner, "matrix", lambda *arguments: turned.append(1) or matrix(*arguments))
    for scales, more, planes in (
        ((1, 1, 3, 2.5), "", True),
        ((1, 1, 1, 4), "", True),
        ((1, 1, 0.5, 1.5), "", False),  # less comes out than went in
        ((1, 1, 3, 2.5), "z = Conv(y, v)", False),
    ):
        results = ", float[N,7,C,D] z" if more else ""
        text = f"""g (float[N,5,H,W] x) => (float[N,7,A,B] y{results}) {{
            a = Conv(x, w) y = Resize<mode="{mode}">(a, none, scales) {more}
        }}"""
        given = {"w": random(7, 5, 2, 1), "none": np.zeros(0, np.float32), "scales": np.float32(scales)}
        given |= {"v": random(7, 7, 1, 1)} if more else {}
        network = dwcpu.load_onnx(model(text, **given), threads=threads)
        for size in ((1, 5, 7, 6), (3, 5, 3, 11), (2, 5, 9, 1)):
            x = random(*size)
            turned.clear()
            first = network(x)[0] if more else network(x)
            assert len(turned) == planes
            last = network(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), layout="NHWC")
            last = last[0] if more else last
            assert first.tobytes() == np.ascontiguousarray(last.transpose(0, 3, 1, 2)).tobytes()
            assert len(turned) == planes  # channels last are as they are


@pytest.mark.parametrize("threads", [1, 2])
def test_patches_take_two_steps(threads, monkeypatch) -> None:
    """As networks of convolutions and attention take images apart: few neighbours here, others there."""
    text = """g (float[N,16,H,W] x) => (float[A,B,C] y, float[D,E,F] z) {
        a = Relu(x) b = Reshape(a, apart) c = Transpose<perm=[2, 1, 0]>(b) y = Relu(c)
        d = Transpose<perm=[2, 1, 0]>(y) z = Relu(d)
    }"""
    file = model(text, apart=np.int64([16, -1, 4]))
    x, moves, move = random(2, 16, 6, 10), [], Planner.move
    monkeypatch.setattr(Planner, "move", lambda *arguments: moves.append(1) or move(*arguments))
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "order_between", lambda *arguments: None)
        once = dwcpu.load_onnx(file, threads=threads)(x)
    few = len(moves)
    y, z = dwcpu.load_onnx(file, threads=threads)(x)
    if runtime.cython_kernels() is not None:
        assert len(moves) - few > few
    assert [each.tobytes() for each in (y, z)] == [each.tobytes() for each in once]
    np.testing.assert_array_equal(y, np.maximum(x.reshape(16, -1, 4), 0).transpose(2, 1, 0))
    np.testing.assert_array_equal(z, y.transpose(2, 1, 0))


def test_advice_on_signals_and_on_a_missing_channel() -> None:
    signal = dwcpu.load_onnx(model("g (float[N,1,T] x) => (float[N,4,S] y) { y = Conv(x, w) }", w=random(4, 1, 3)))
    with pytest.raises(ValueError, match=r"channels and time are exchanged: give x\.transpose\(0, 2, 1\)"):
        signal(random(2, 9, 1))
    with pytest.raises(ValueError, match=r"add that of its one channel, x\[:, None\]"):
        signal(random(8, 9))
    steps = dwcpu.load_onnx(model("g (float[T,B,4] x) => (float[T,B,3] y) { y = MatMul(x, w) }", w=random(4, 3)))
    with pytest.raises(ValueError, match=r"add it, x\[None\] if it is the first one, x\[:, None\] if the second"):
        steps(random(5, 5))
    fixed = dwcpu.load_onnx(model("g (float[5,2,4] x) => (float[5,2,3] y) { y = MatMul(x, w) }", w=random(4, 3)))
    with pytest.raises(ValueError, match="shapes") as caught:
        fixed(random(2, 4, 5))
    assert "exchanged" not in str(caught.value)
    last = "g (float[N,6,6,3] x) => (float[N,4,A,B] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w) }"
    with pytest.raises(ValueError, match=r"leave layout out and give x\.transpose\(0, 2, 3, 1\)"):
        dwcpu.load_onnx(model(last, w=random(4, 3, 3, 3)))(random(1, 3, 6, 7), layout="NHWC")


def test_shapes_and_profiles_in_the_layout_of_a_call() -> None:
    text = "g (float[N,3,H,W] x) => (float[N,4,A,B] y) { y = Conv(x, w) }"
    network = dwcpu.load_onnx(model(text, w=random(4, 3, 3, 3)))
    assert network.out_shape((2, 9, 8, 3), layout="NHWC") == (2, 7, 6, 4)
    assert network.out_shape((2, 3, 9, 8)) == (2, 4, 7, 6)
    assert network.out_shape((0, 9, 8, 3), layout="NHWC") == (0, 7, 6, 4)
    assert network.profile(x=random(1, 9, 8, 3), layout="NHWC", runs=1).rows


def test_some_channels_of_a_picture_are_no_planes_of_their_own() -> None:
    text = """g (float[N,5,H,W] x) => (float[N,20,A,B] y) {
        part = Slice(x, one, four, one) y = Conv<strides=[2,2]>(part, w)
    }"""
    for size in ((3, 5, 9, 70), (1, 5, 9, 70)):
        compare(model(text, one=[1], four=[4], w=random(20, 3, 3, 3)), random(*size))


def test_layouts_are_for_images() -> None:
    """Signals would be taken as the file says, whatever `layout` says."""
    network = dwcpu.load_onnx(model("g (float[N,3,T] x) => (float[N,4,S] y) { y = Conv(x, w) }", w=random(4, 3, 3)))
    x = random(2, 3, 9)
    with pytest.raises(
        ValueError, match=r"for arrays with four axes, and the file declares: x: float32 \(N, 3, T\); y"
    ):
        network(x, layout="NHWC")
    np.testing.assert_array_equal(network(x, layout="NCHW"), network(x))


def test_tables_say_what_small_kernels_do() -> None:
    text = """g (float[N,4,H,W] x) => (float[N,2,A,B] y) {
        a = Conv<group=4>(x, taps) b = Conv(a, w) c = Relu(b) d = Round(c)
        first, y = Split<axis=1, num_outputs=2>(d)
    }"""
    table = str(dwcpu.load_onnx(model(text, taps=random(4, 1, 3, 3), w=random(4, 4, 1, 1))).explain((1, 4, 6, 5)))
    below = table.partition("memory between layers")[2].splitlines()[1:]
    assert [line.partition(":")[0] for line in below] == ["a+b", "view", "numpy"], table


def test_files_of_the_other_kind_are_told_apart(tmp_path) -> None:
    content = model("g (float[3] x) => (float[3] y) { y = Relu(x) }")
    ours = dwcpu.load_onnx(content)
    with pytest.raises(ValueError, match=r"call it net\.dwcpu"):
        ours.save(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError, match="no directory"):
        ours.save(tmp_path / "nowhere" / "net.dwcpu")
    ours.save(tmp_path / "net.dwcpu")
    with pytest.raises(ValueError, match="load_model reads"):
        dwcpu.load_onnx(tmp_path / "net.dwcpu")
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="load_onnx reads"):
        dwcpu.load_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_sizes_end_soon(text) -> None:
    """With a result or a ValueError, but neither with a hang nor with all memory gone."""
    constants = {"huge": np.array([2**45]), "sides": np.array([2**45, 0]), "axis": np.array([9])}
    used = {name: array for name, array in constants.items() if name in text}
    with contextlib.suppress(ValueError):
        ours = dwcpu.load_onnx(model(text, **used))
        ours(*(np.ones([int(size) for size in spec.shape], np.float32) for spec in ours.inputs))


def test_constants_that_would_be_huge_are_not_folded() -> None:
    text = "g (float[1] x) => (float[1] y) { h = Add(a, b) s = ReduceMax<keepdims=0>(h) y = Mul(x, s) }"
    ours = dwcpu.load_onnx(model(text, a=random(30000, 1), b=random(1, 30000)))
    assert sum(array.nbytes for array in ours.simplified.constants.values()) < 1 << 20


def test_advice_does_not_guess() -> None:
    """One size that happens to fit says nothing; nor do channels that would fit either way."""
    guesses = (("n", "c", 6, "w"), (1, 8, 6, 3)), (("n", 3, "h", "w"), (1, 3, 6, 3)), ((None, 3, 6, 5), (1, 3, 6, 7))
    for shape, given in guesses:
        told = advice(Spec("x", np.dtype(np.float32), shape), np.zeros(given, np.float32), True)
        assert "as the file declares it" not in told, shape
    text = "g (float[N,3,H,W] a, float[N,4] b) => (float[N,4,A,B] y) { y = Conv(a, w) }"
    network = dwcpu.load_onnx(model(text, w=random(4, 3, 3, 3)))
    with pytest.raises(ValueError, match=r"add the batch axis, b\[None\]; node .* \(Conv\) cannot run"):
        network(random(1, 2, 6, 5), random(4))


#: Rows of x to begin and end with; what is beyond a whole number of strides of two depends on its height.
SAME = """
    size = Shape <start = 2, end = 4> (x)
    odd = Mod (size, two)
    after = Sub (two, odd)
    both = Concat <axis = 0> (none, ones, nothing, after, after)
    amounts, rest = Split (both, eight)
    padded = Pad (x, amounts)
"""


@pytest.mark.parametrize("reads", ["", "z = Neg (padded)"])
def test_padding_that_depends_on_shapes_goes_into_convolutions(reads) -> None:
    outputs = "float[n, c, h, w] y, int64[m] t" + (", float[n, c, h, w] z" if reads else "")
    body = f"{SAME} d = Conv <group = 6, strides = [2, 2]> (padded, w) r = Relu (d) y = Conv (r, k)"
    body += f" {reads} t = Identity (rest)"
    constants = {
        "two": np.array([2, 2]), "eight": np.array([8, 2]), "none": np.array([0, 0]), "ones": np.array([1, 1]),
        "nothing": np.array([0, 0]), "w": random(6, 1, 3, 3), "k": random(4, 6, 1, 1),
    }  # fmt: skip
    content = model(f"g (float[n, c, h, w] x) => ({outputs}) {{ {body} }}", **constants)
    for shape in ((1, 6, 8, 9), (2, 6, 8, 10), (1, 6, 11, 7), (1, 6, 8, 9), (1, 6, 20, 21)):
        made = compare(content, random(*shape))
        rows = made.explain(shape).rows
        assert ("padded" in [row.name for row in rows]) == bool(reads), shape
        assert any("separable" in str(row.kernel) for row in rows)
    left = dwcpu.load_onnx(content, without=("pads",))
    assert "padded" in [row.name for row in left.explain(shape).rows]


def test_padding_that_depends_on_values_stays_apart() -> None:
    body = "n = Cast <to = 7> (p) padded = Pad (x, n) y = Conv (padded, w)"
    content = model(f"g (float[n, c, h, w] x, float[8] p) => (float[n, c, h, w] y) {{ {body} }}", w=random(4, 3, 2, 2))
    compare(content, random(1, 3, 5, 6), np.array([0, 0, 1, 0, 0, 0, 2, 1], np.float32))


@pytest.mark.parametrize("expand", ["", "x = Conv (given, e)"])
def test_chains_of_types_that_no_layer_has_run_one_by_one(expand) -> None:
    first = "given" if expand else "x"
    body = f"{expand} d = Conv <group = 6> (x, w) y = Conv (d, k)"
    constants = {"e": random(6, 6, 1, 1), "w": random(6, 1, 3, 3), "k": random(4, 6, 1, 1)}
    used = {name: array.astype(np.float16) for name, array in constants.items() if name != "e" or expand}
    content = model(f"g (float16[n, c, h, w] {first}) => (float16[n, c, h, w] y) {{ {body} }}", **used)
    compare(content, random(1, 6, 5, 7, dtype=np.float16), tolerance=1e-2)


def test_there_may_be_four_axes_of_pixels() -> None:
    x, w, b = random(1, 2, 4, 3, 5, 4), random(3, 2, 2, 1, 3, 2), random(3)
    content = model("g (float[n, 2, a, b, c, d] x) => (float[n, e, f, g, h, i] y) { y = Conv (x, w, b) }", w=w, b=b)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], w.shape[2:], (1, 2, 3, 4))
    wanted = np.einsum("cabdeijkl,ocijkl->oabde", windows, w) + b.reshape(-1, 1, 1, 1, 1)
    made = dwcpu.load_onnx(content)
    np.testing.assert_allclose(made(x)[0], wanted, atol=1e-5)
    assert made.explain(x.shape).rows[0].flops == 2 * wanted.size * w[0].size


@pytest.mark.parametrize("flat", [0, 1, 2])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_windows_of_volumes_that_are_flat_along_an_axis_run_on_kernels(flat, groups) -> None:
    kernel, strides, begins, ends, sizes = [3, 2, 3], [2, 1, 1], [1, 0, 2], [0, 1, 1], [5, 6, 4]
    kernel[flat], strides[flat], begins[flat], ends[flat] = 1, 1, 0, 0
    outputs = [
        (size + before + after - taps) // step + 1
        for size, before, after, taps, step in zip(sizes, begins, ends, kernel, strides, strict=True)
    ]
    weights = {"w": random(12, 6 // groups, *kernel), "b": random(12)}
    conv = f"c = Conv <group = {groups}, strides = {strides}, pads = {begins + ends}> (x, w, b)"
    alone = model(f"g (float[n, 6, a, b, c] x) => (float[n, d, e, f, g] y) {{ {conv} y = Neg (c) }}", **weights)
    made = compare(alone, random(2, 6, *sizes))
    assert made.explain((2, 6, *sizes)).rows[0].kernel in dwcpu.list_kernels()
    shapes = "float[n, 6, a, b, c] x, float[n, 12, e, f, g] r"
    added = f"g ({shapes}) => (float[n, d, e, f, g] y) {{ {conv} s = Add (c, r) y = Relu (s) }}"
    compare(model(added, **weights), random(2, 6, *sizes), random(2, 12, *outputs))
