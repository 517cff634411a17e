"""Options of the benchmarks and the shapes they run on."""

from __future__ import annotations

import os

import pytest
import shapes

os.environ["DWCPU_BACKGROUND_COMPILE"] = "0"  # the kernels that are chosen, not those that stand in for them


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what can be chosen: which shapes, how many threads, against whom."""
    parser.addoption("--smoke", action="store_true", help="only the smallest shape of each group")
    parser.addoption("--group", default=None, help="only shapes of this group, for example mobilenet_v1")
    parser.addoption("--threads", type=int, default=1, help="threads for us and for the peers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark called test_SUITE the shapes of that suite, and any other test with a `shape` those of all."""
    if "shape" not in metafunc.fixturenames:
        return
    own = metafunc.function.__name__.removeprefix("test_")
    options = metafunc.config.option
    chosen = [
        shape
        for suite in ([own] if own in shapes.SUITES else shapes.SUITES)
        for shape in shapes.select(suite, options.group, smoke=options.smoke)
    ]
    metafunc.parametrize("shape", chosen, ids=[shape.id for shape in chosen])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a smoke run Numba, which compiles for every shape, gets one of each suite."""
    seen: set[str] = set()
    for item in items:
        suite, parameters = item.name.partition("[")[0], getattr(item, "callspec", None)
        if config.option.smoke and parameters is not None and parameters.params.get("contender") == "numba":
            if suite in seen:
                item.add_marker(pytest.mark.skip(reason="a smoke run compiles for one shape of each suite"))
            seen.add(suite)
