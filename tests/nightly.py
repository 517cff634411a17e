"""What the test run may cost: `pytest --nightly` asks for everything, hours of it; a run without takes a part.

And the settings that tests of other machines than this one share.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

#: Set where Numba compiles for another CPU than this one: `test_kernels` then compiles each kernel as its first case
#: needs it, and leaves out cases that need more.
COMPILE_ONCE = "DWCPU_TEST_COMPILE_ONCE"

#: What Numba calls a CPU that has an instruction set and no more.
CPUS = {"x86-64-v2": "nehalem", "x86-64-v3": "haswell"}

#: Set by `pytest --nightly` (`conftest`), for this process and for those that tests start.
VARIABLE = "DWCPU_TEST_NIGHTLY"


def is_nightly() -> bool:
    """Whether everything was asked for."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def reduced(everything: T, part: T) -> T:
    """`everything` at night, else `part`."""
    return everything if is_nightly() else part
