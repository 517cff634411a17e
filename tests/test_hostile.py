"""Every known crash of the field: a right result or an error that helps, and the process lives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import CALLS

#: Calls that have a result.
RIGHT = re.compile(
    "stride beyond|dilation beyond|no images|stride .* of axis|one channel, spread|backwards|the same pixel|"
    "beyond 32 bits|among the data|lies about its shape"
)
#: Calls for which NumPy finds no memory.
TOO_LARGE = re.compile("beyond memory|more memory than there is")


@pytest.fixture(scope="module", params=["auto", "numba"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """What came of each call, in a process that ran them all; a call that it died of has only begun."""
    program = [sys.executable, str(Path(__file__).with_name("hostile.py")), request.param]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {name: what for name, *what in lines}
    assert done.returncode == 0, f"{done.returncode} in {lines[-1:]}: {done.stderr[-2000:]}"
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_crashed_somebody(outcomes: dict[str, list[str]], name: str) -> None:
    kind, text = outcomes[name]
    if RIGHT.search(name):
        assert kind == "right", text
    elif TOO_LARGE.search(name):
        assert kind in ("MemoryError", "ValueError"), text
    else:
        assert kind in ("ValueError", "TypeError"), text
        operation, rest = text.split(": ", 1)
        assert operation.endswith(("conv2d", "inverted_residual"))
        assert rest.count("; ") >= 2, f"{text}: what was got; the rule; the fix"
