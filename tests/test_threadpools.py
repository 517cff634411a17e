"""threadpoolctl lists dwcpu, and its limits are obeyed."""

from __future__ import annotations

import numpy as np
import pytest

import dwcpu
from dwcpu import cython_kernels, runtime

threadpoolctl = pytest.importorskip("threadpoolctl")
pytestmark = pytest.mark.skipif(runtime.compiled_calls() is None, reason="there is no compiled library to list")


def listed() -> list[dict]:
    return [entry for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "dwcpu"]


def test_dwcpu_is_listed_once() -> None:
    (entry,) = listed()
    assert entry["internal_api"] == "dwcpu"
    assert entry["num_threads"] == dwcpu.get_num_threads()
    assert entry["version"] == dwcpu.__version__
    assert entry["filepath"] == cython_kernels._driver.__file__


@pytest.mark.parametrize(("limit", "threads"), [(0, 1), (5000, runtime.MAX_THREADS)])
def test_limits_that_cannot_be_are_the_nearest_that_can(limit: int, threads: int) -> None:
    """An error would leave other libraries limited: threadpoolctl sets one after the other."""
    before = threadpoolctl.threadpool_info()
    with threadpoolctl.threadpool_limits(limit, user_api="dwcpu"):
        assert dwcpu.get_num_threads() == threads
    assert threadpoolctl.threadpool_info() == before


def test_limits_are_obeyed_and_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    teams: list[int] = []
    run = cython_kernels.run

    def noted(*arguments: int) -> None:
        teams.append(arguments[-2])
        run(*arguments)

    monkeypatch.setattr(runtime, "driver", lambda threads: noted)
    before = dwcpu.get_num_threads()
    x, w = np.ones((1, 64, 64, 64), np.float32), np.ones((64, 64), np.float32)
    with dwcpu.num_threads(2):
        assert listed()[0]["num_threads"] == before, "a context of one thread is no setting of the process"
    dwcpu.set_num_threads(4)
    try:
        with threadpoolctl.threadpool_limits(3):
            assert dwcpu.get_num_threads() == 3
            with threadpoolctl.threadpool_limits(1, user_api="dwcpu"):
                assert dwcpu.get_num_threads() == 1
                assert listed()[0]["num_threads"] == 1
                dwcpu.pointwise_conv2d(x, w)
                dwcpu.pointwise_conv2d(x, w, num_threads=2)
            assert dwcpu.get_num_threads() == 3
            with threadpoolctl.threadpool_limits(1, user_api="blas"):
                assert dwcpu.get_num_threads() == 3
        assert dwcpu.get_num_threads() == 4
    finally:
        dwcpu.set_num_threads(before)
    assert teams in ([1, 2], [2]), "one thread may not even need the driver; a number that a call names counts"
