"""Coverage-guided fuzzing of the front door and of every reader of files: `fuzz.py`, for a bounded time.

A failure shows the input that did it, in Base64, and where it was kept; ``python tests/fuzz.py TARGET FOLDER FILE``
tries it again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from nightly import reduced

from dwcpu import runtime

# Not imported: it is a fuzzer as soon as it is.
pytestmark = pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris, of the extra [test], is for Linux on x86-64 only"
)

PROGRAM = Path(__file__).with_name("fuzz.py")
#: Inputs of each target, one or two seconds' worth; at night as many as five minutes take.
RUNS = {"calls": 250, "weights": 250, "onnx": 200, "saved": 60}


def fuzz(name: str, folder: Path, *options: str) -> tuple[int, str]:
    """Exit status and text of a run."""
    # The same inputs in every run, as far as we can tell.
    same = {"DWCPU_BACKGROUND_COMPILE": "0", "PYTHONHASHSEED": "0", "PYTHONPATH": str(PROGRAM.parent)}
    command = [sys.executable, str(PROGRAM), name, str(folder), "-seed=1", *options]
    environment = {**os.environ, **same}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", RUNS)
def test_no_input_is_found_that_does_harm(name: str, tmp_path: Path) -> None:
    if name == "calls" and runtime.cython_kernels() is None:
        pytest.skip("every window would be compiled")
    status, text = fuzz(name, tmp_path, reduced("-max_total_time=300", f"-runs={RUNS[name]}"))
    assert status == 0, text[-5000:]
    first, last = re.search(r"INITED cov: (\d+)", text), re.search(r"DONE +cov: (\d+)", text)
    assert first is not None and last is not None, text[-5000:]
    assert int(last[1]) > int(first[1]) > 50, "coverage did not guide anything"


def test_a_fault_that_only_some_inputs_meet_is_found(tmp_path: Path) -> None:
    """One that takes three bytes to be right, for which chance would need 2**24 inputs."""
    status, text = fuzz("fault", tmp_path, "-runs=1000000")
    assert status != 0
    assert "AssertionError: found" in text
    (kept,) = tmp_path.glob("fault-crash-*")
    status, text = fuzz("fault", tmp_path, str(kept))
    assert status != 0
    assert "AssertionError: found" in text
