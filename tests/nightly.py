"""What the test run may cost: `pytest --nightly` asks for everything, hours of it; a run without takes a part."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

#: Set by `pytest --nightly` (`conftest`), for this process and for those that tests start.
VARIABLE = "DWCPU_TEST_NIGHTLY"


def is_nightly() -> bool:
    """Whether everything was asked for."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def reduced(everything: T, part: T) -> T:
    """`everything` at night, else `part`."""
    return everything if is_nightly() else part
