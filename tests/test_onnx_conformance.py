"""ONNX's own test data: every case whose operators dwcpu knows gives what the onnx package says it gives.

Cases that cannot pass are listed in ``onnx_cases_not_run.txt`` with the reason, and are expected to fail: one that
starts to pass is noticed.
"""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu.graph.operators import OPERATORS

onnx = pytest.importorskip("onnx")

from onnx.backend.test.case.node import collect_testcases  # noqa: E402
from onnx_backend import DwcpuBackend, DwcpuBackendRep, as_array  # noqa: E402

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
LISTED_IN = Path(__file__).with_name("onnx_cases_not_run.txt")
#: What networks for images are made of.
COMMON = {
    "Conv", "ConvTranspose", "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid",
    "HardSwish", "Tanh", "Erf", "Gelu", "Softmax", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Min", "Max",
    "GlobalAveragePool", "AveragePool", "MaxPool", "ReduceMean", "ReduceSum", "Gemm", "MatMul", "Flatten", "Reshape",
    "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Split", "Gather", "Pad", "Resize", "Upsample", "Shape",
    "Cast", "Constant", "ConstantOfShape", "Identity", "Dropout", "LayerNormalization", "InstanceNormalization",
    "DepthToSpace", "SpaceToDepth", "Where", "Equal", "Expand", "Tile",
}  # fmt: skip
#: Upsample becomes Resize while a file is read.
KNOWN = {*OPERATORS, "Constant", "Upsample"}


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that it must give."""

    name: str
    model: Any
    data_sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


def operators(model: Any) -> set[str]:
    """Names of a model's operators; those of domains other than ONNX's own with their domain."""
    nodes = model.graph.node
    return {node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}" for node in nodes}


def is_known(model: Any) -> bool:
    """Whether dwcpu knows all operators of a model; what it does with their attributes and types is another matter."""
    return operators(model) <= KNOWN


def node_cases() -> list[Case]:
    """Cases for single operators, also written out as what ONNX defines them by; only those that dwcpu knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is expected is computed then, and divides by zero here and there
        collected = collect_testcases(None)
    return [Case(c.name, c.model, c.data_sets, c.rtol, c.atol) for c in collected if is_known(c.model)]


def file_cases(kind: str, *, only_known: bool = False) -> list[Case]:
    """Cases that are folders, with a model and values in files."""
    cases = []
    for folder in sorted((DATA / kind).iterdir()):
        model = onnx.load(folder / "model.onnx")
        if not only_known or is_known(model):
            folders = sorted(folder.glob("test_data_set_*"))
            sets = [(tensors(each, "input"), tensors(each, "output")) for each in folders]
            cases.append(Case(folder.name, model, sets, rtol=1e-3, atol=1e-5))
    return cases


def tensors(folder: Path, what: str) -> list[Any]:
    """Inputs or outputs, in the order of their numbers."""
    return [onnx.load_tensor(folder / f"{what}_{at}.pb") for at in range(len(list(folder.glob(f"{what}_*.pb"))))]


def listed_cases() -> dict[str, str]:
    """Cases that cannot pass, with the reason."""
    lines = [line for line in LISTED_IN.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


LISTED = listed_cases()
NODE_CASES = node_cases()
FILE_CASES = {
    "pytorch-converted": file_cases("pytorch-converted"),
    "pytorch-operator": file_cases("pytorch-operator"),
    "simple": file_cases("simple", only_known=True),
}
ALL_CASES = [*NODE_CASES, *(case for cases in FILE_CASES.values() for case in cases)]
#: Node cases that run a second time, pickled and revived.
PICKLED = set(random.Random(0).sample(sorted({case.name for case in NODE_CASES} - set(LISTED)), 40))


def parametrised(cases: list[Case]) -> Any:
    """A test for each case; those that are listed must fail."""

    def parameter(case: Case) -> Any:
        reason = LISTED.get(case.name)
        marks = () if reason is None else pytest.mark.xfail(strict=True, reason=reason)
        return pytest.param(case, id=case.name, marks=marks)

    return pytest.mark.parametrize("case", [parameter(case) for case in cases])


def assert_conforms(results: Sequence[np.ndarray], expected: Sequence[Any], rtol: float, atol: float) -> None:
    """Types and shapes are the same, floating-point numbers close, everything else equal."""
    assert len(results) == len(expected)
    for result, wanted in zip(results, map(as_array, expected), strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        if wanted.dtype.kind in "fc":
            np.testing.assert_allclose(result, wanted, rtol=rtol, atol=atol)
        elif wanted.dtype.isbuiltin == 2:  # of ml_dtypes
            np.testing.assert_array_equal(result.astype(np.float32), wanted.astype(np.float32))
        else:
            np.testing.assert_array_equal(result, wanted)


@parametrised(NODE_CASES)
def test_operators_give_what_the_onnx_package_gives(case) -> None:
    rep = DwcpuBackend.prepare(case.model)
    for inputs, outputs in case.data_sets:
        results = rep.run(inputs)
        assert_conforms(results, outputs, case.rtol, case.atol)
        if case.name in PICKLED:
            revived = DwcpuBackendRep(pickle.loads(pickle.dumps(rep.model)))
            assert_conforms(revived.run(inputs), results, rtol=0, atol=0)


@parametrised([case for cases in FILE_CASES.values() for case in cases])
def test_models_in_files_give_what_lies_beside_them(case) -> None:
    rep = DwcpuBackend.prepare(case.model)
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        assert_conforms(rep.run(inputs), outputs, case.rtol, case.atol)


def with_random_weights(model: Any) -> Any:
    """The network with random weights, each of which is else one number throughout, and without the softmax at its end.

    With equal weights every class is as likely as every other; with random ones one has all the likelihood.
    """
    rng, made = np.random.default_rng(0), onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    shapes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        shape = shapes[node.input[0]]
        # One axis: of a bias or of a normalisation, whose variance must be positive.
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        array = rng.uniform(0.5, 1.5, shape) if len(shape) == 1 else rng.standard_normal(shape) * deviation
        graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), node.output[0]))
        graph.node.remove(node)
    softmax = graph.node.pop()
    assert softmax.op_type == "Softmax"
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, None))
    return made


@pytest.mark.parametrize("weights", ["constant", "random"])
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50"])
def test_networks_give_what_onnxruntime_gives(name, weights, rng) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = onnx.load(DATA / "light" / f"light_{name}.onnx")
    if weights == "random":
        network = with_random_weights(network)
    rep = DwcpuBackend.prepare(network)
    (spec,) = rep.model.inputs
    x = rng.standard_normal(spec.shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, ["CPUExecutionProvider"])
    (wanted,) = session.run(None, {spec.name: x})
    assert weights == "constant" or wanted.std() > 0.01 * np.abs(wanted).max()
    assert_conforms(rep.run([x], num_threads=1), [wanted], rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_the_list_names_cases_that_exist_once_each_in_order() -> None:
    names = [case.name for case in ALL_CASES]
    assert len(names) == len(set(names))
    assert set(LISTED) <= set(names)
    assert list(LISTED) == sorted(LISTED)
    assert all(LISTED.values())


@pytest.mark.parametrize("cases", [NODE_CASES, ALL_CASES], ids=["operators", "all"])
def test_at_least_95_percent_of_the_cases_of_common_operators_pass(cases) -> None:
    common = [case.name for case in cases if operators(case.model) <= COMMON]
    assert len(common) > 500
    assert sum(name not in LISTED for name in common) >= 0.95 * len(common)


def test_the_backend_runs_single_nodes() -> None:
    x, low = np.float32([[-1, 2], [3, -4]]), np.float32(0)
    (y,) = DwcpuBackend.run_node(onnx.helper.make_node("Clip", ["x", "low", ""], ["y"]), [x, low])
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    old = onnx.helper.make_node("Squeeze", ["x"], ["y"], axes=[0])
    (y,) = DwcpuBackend.run_node(old, [onnx.numpy_helper.from_array(x[None])], opset_version=11)
    np.testing.assert_array_equal(y, x)


def test_the_backend_says_what_it_can_run() -> None:
    assert DwcpuBackend.is_compatible(onnx.load(DATA / "simple" / "test_sign_model" / "model.onnx"))
    foreign = onnx.load(DATA / "simple" / "test_shrink" / "model.onnx")
    assert not DwcpuBackend.is_compatible(foreign)
    assert DwcpuBackend.supports_device("CPU")
    assert not DwcpuBackend.supports_device("CUDA:0")
    with pytest.raises(ValueError, match="CPUs only"):
        DwcpuBackend.prepare(foreign, "CUDA")
    with pytest.raises(dwcpu.UnsupportedOperator, match="Shrink"):
        DwcpuBackend.run_model(foreign, [])
