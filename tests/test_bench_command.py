"""``python -m dwcpu bench``: a small run that writes everything it can, and one line for what a user got wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import peers
import pytest
from report import markdown
from results import Results, Row, scaling
from timing import Times

from dwcpu.cli import main

SMALL = ["bench", "--suite", "depthwise", "--group", "small", "--rounds", "1"]
PEERS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert", "ncnn": "ncnn"}


def run(arguments, capfd) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capfd.readouterr()
    return status, captured.out, captured.err


def test_a_run_writes_tables_and_figures(tmp_path, capfd):
    pytest.importorskip("matplotlib", reason="in the extra [bench]")
    files = ["--json", "r.json", "--markdown", "r.md", "--plot", "r.png"]
    named = [str(tmp_path / text) if text.startswith("r.") else text for text in files]
    names = [name for name, module in PEERS.items() if find_spec(module) is not None and find_spec("onnx") is not None]
    suites = ["--suite", "depthwise", "separable", "regret", "overhead"]
    options = [*SMALL, *suites, "--peers", *names, "--threads", "1", "2", *named]
    status, out, err = run(options, capfd)
    assert status == 0
    assert "4x4x64_3x3" in out
    assert "1/3" in err  # progress
    found = json.loads((tmp_path / "r.json").read_text())
    assert {(row["suite"], row["threads"]) for row in found["rows"]} == {
        (suite, threads) for suite in ("depthwise", "separable") for threads in (1, 2)
    }
    for row in found["rows"]:
        assert list(row["times"]) == ["dwcpu", *names]
        assert row["bound"] > 0
        assert row["beside"]["median"] >= row["beside"]["best"] > 0
        assert row["share_beside"] > 0
        assert (row["ratio"] is None) == (not names)
    assert all(regret["ratio"] >= 1 for regret in found["regrets"])
    assert {each["threads"] for each in found["limits"]} == {1, 2}
    page = (tmp_path / "r.md").read_text()
    for text in ("## Limits", "## depthwise, 2 threads", "## Regret", "| 4x4x64_3x3 |", "--rounds", "## Overhead"):
        assert text in page
    drawn = ["r-roofline.png", *(["r-speedup.png", "r-speedup-2-threads.png"] if names else [])]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(drawn)
    assert all(f"![{name}]({name})" in page for name in drawn)


def test_scaling_compares_several_threads_with_one():
    def row(name, threads, **microseconds):
        times = {contender: Times(best, best) for contender, best in microseconds.items()}
        return Row("conv", threads, name, 1, 1, 1.0, "", times)

    found = Results("", {})
    found.rows = [row("a", 1, dwcpu=400, peer=600), row("b", 1, dwcpu=900, peer=800), row("c", 1, dwcpu=5, peer=5)]
    found.rows += [row("a", 2, dwcpu=200, peer=300), row("b", 2, dwcpu=1800, peer=400), row("c", 2, dwcpu=6, peer=5)]
    (gains,) = scaling(found)
    assert (gains.suite, gains.threads, gains.rows, gains.slower) == ("conv", 2, 2, ["b", "c"])
    assert gains.gains == pytest.approx({"dwcpu": 1, "peer": 2})
    assert "| conv | 2 | 2 | 1.00 | 2.00 | b, c |" in markdown(found)


def test_shares_beside_are_of_multiply_adds_in_the_same_rounds():
    row = Row("pointwise", 1, "a", 1, 1, 40.0, "", {"dwcpu": Times(60, 100)}, Times(45, 80))
    assert (row.share, row.share_beside) == pytest.approx((2 / 3, 0.8))
    memory = replace(row, bound=90.0)  # bytes take longer
    assert memory.share_beside == pytest.approx(0.9)
    found = Results("", {}, rows=[row, memory])
    assert "| a | 60.0 | - | 40.0 | 67% | 80% |  |" in markdown(found)
    assert "| 85% | 85% |" in markdown(found)


def test_batch_and_nobody_to_race(capfd):
    status, out, _ = run([*SMALL, "--filter", "4x4", "--peers", "--batch", "3", "--backend", "numba"], capfd)
    assert status == 0
    assert "n3_4x4x64_3x3" in out
    assert "dwcpu-numba" in out
    assert "geometric mean" not in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "deepwise"], "--suite: deepwise is not known; there are depthwise, pointwise"),
        (["--peers", "mkl"], "--peers: mkl is not known; there are onnxruntime"),
        (
            ["--filter", "no such shape"],
            "--filter: no shape of group small in depthwise has 'no such shape' in its name",
        ),
        (["--suite", "onnx", "--group", "small"], "--filter: no shape of group small in onnx has '' in its name"),
        (["--group", "mobilenetv2"], "--group: mobilenetv2 is not known; there are audio"),
        (["--backend", "numpy"], "--backend: numpy is not known; there are auto"),
        (["--patience", "-1"], "--patience: -1.0 seconds"),
        (["--markdown", "."], ".: this is a directory"),
        (["--plot", "f.gif"], "must end in .png"),
        (["--json", "none/f.json"], "there is no directory none"),
        (["--threads", "0"], "--threads: '0'"),
        (["--threads", "1", "1025"], "--threads: '1025' is not a whole number from 1 to 1024"),
    ],
)
def test_errors_are_one_line(options, words, capfd):
    status, out, err = run([*SMALL, "--peers", *options], capfd)
    assert (status, out) == (2, "")
    assert err.startswith("dwcpu: ")
    assert err.count("\n") == 1
    assert words in err


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capfd):
    monkeypatch.setitem(peers.PEERS, "absent", (("no_such_module",), "peer_absent"))
    status, _, err = run([*SMALL, "--peers", "absent"], capfd)
    assert status == 2
    assert "absent cannot be imported: pip install 'dwcpu[bench]'" in err


def small_model(path, inputs=1, dtype="float32", operator="Conv"):
    """A convolution of images of any size, or another operator."""
    onnx = pytest.importorskip("onnx", reason="in the extra [onnx]")
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given = [onnx.helper.make_tensor_value_info(f"x{at}", kind, ["n", 3, None, 9]) for at in range(inputs)]
    made = onnx.ValueInfoProto(name="y")
    weights = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), dtype), "w")
    node = onnx.helper.make_node(operator, ["x0", "w"][: 2 if operator == "Conv" else 1], ["y"])
    graph = onnx.helper.make_graph([node], "g", given, [made], [weights])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


def test_models_of_ones_own_are_raced(tmp_path, capfd):
    file, names = small_model(tmp_path / "mine.onnx"), [name for name in ("onnxruntime", "openvino") if find_spec(name)]
    options = ["--batch", "2", "--rounds", "1", "--peers", *names, "--json", str(tmp_path / "r.json")]
    status, out, _ = run(["bench", "--models", file, file, *options], capfd)
    assert status == 0
    assert "mine" in out
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [(row["suite"], row["id"]) for row in rows] == [("models", "mine")] * 2
    assert rows[0]["flops"] == 2 * 2 * 224 * 9 * 3 * 4
    assert list(rows[0]["times"]) == ["dwcpu", *names]


def test_models_whose_results_depend_on_values_are_raced(tmp_path, capfd):
    names = ["onnxruntime"] if find_spec("onnxruntime") else []
    file = small_model(tmp_path / "found.onnx", operator="NonZero")
    status, out, _ = run(["bench", "--models", file, "--rounds", "1", "--peers", *names], capfd)
    assert status == 0
    assert "found" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": 2}, "has 2 inputs and 1 outputs"),
        ({"dtype": "float64"}, "is not of float32"),
        ({"operator": "Det"}, "cannot be raced: load_onnx: mine.onnx needs what dwcpu does not have"),
        (None, "cannot be read"),
    ],
)
def test_models_that_nobody_can_race_are_refused(options, words, tmp_path, capfd):
    pytest.importorskip("onnx", reason="in the extra [onnx]")
    path = tmp_path / "mine.onnx"
    if options is None:
        path.write_bytes(b"\xff\xff nothing")
    else:
        small_model(path, **options)
    status, out, err = run(["bench", "--models", str(path), "--peers"], capfd)
    assert (status, out) == (2, "")
    assert f"--models: {path} " in err or f"of {path} " in err
    assert words in err
    status, _, err = run(["bench", "--models", str(tmp_path / "absent.onnx"), "--peers"], capfd)
    assert status == 2
    assert "absent.onnx cannot be read as ONNX" in err


def test_models_from_files_are_not_raced_without_onnx(monkeypatch, capfd):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = run([*SMALL, "--suite", "onnx", "--peers"], capfd)
    assert status == 2
    assert "--suite onnx: onnx cannot be imported: pip install 'dwcpu[bench]'" in err


def test_without_the_benchmarks_it_says_where_they_should_be(monkeypatch, tmp_path, capfd):
    from dwcpu import bench_command

    monkeypatch.setattr(bench_command, "__file__", str(tmp_path / "dwcpu" / "bench_command.py"))
    status, _, err = run(SMALL, capfd)
    assert status == 2
    assert "no folder benchmarks" in err


def test_as_a_program(tmp_path):
    """A process of its own: nothing but the command brings the benchmarks onto its path."""
    code = "import sys; from dwcpu.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *SMALL, "--filter", "4x4", "--peers"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4x4x64_3x3" in done.stdout
