"""Every public name is documented, and every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dwcpu
from dwcpu import cython_kernels
from dwcpu.runtime import MAX_THREADS

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

NAMED = {name: getattr(dwcpu, name) for name in dwcpu.__all__}
PUBLIC = {name: thing for name, thing in NAMED.items() if not isinstance(thing, (str, ModuleType))}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isroutine(thing)}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}


def named(things: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("thing", list(things.values()), ids=list(things))


def runs_here(module: str) -> bool:
    """Whether this CPU has what the module was compiled for: its first instruction may be one of those."""
    found = re.fullmatch(r"dwcpu\.cython_kernels\._(\w+)_f(32|64)", module)
    return found is None or found[1].replace("_", "-") in cython_kernels.compiled()


def module_names() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(dwcpu.__path__, "dwcpu.")]
    return ["dwcpu", *(name for name in found if name != "dwcpu.__main__" and runs_here(name))]


def run_examples(tests: list[doctest.DocTest]) -> int:
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    shown: list[str] = []
    for test in tests:
        runner.run(test, out=shown.append, clear_globs=False)
    assert runner.failures == 0, "".join(shown)
    return runner.tries


@pytest.mark.parametrize("name", module_names())
def test_examples_of_every_module_run(name: str) -> None:
    module = importlib.import_module(name)
    globs = {**vars(module), "np": np, "dwcpu": dwcpu}
    run_examples(doctest.DocTestFinder(exclude_empty=True).find(module, name, module, globs))


@named(PUBLIC)
def test_every_public_function_and_class_has_a_docstring_with_an_example(thing: Any) -> None:
    text = inspect.getdoc(thing) or ""
    assert text.strip(), f"{thing.__name__} has no docstring"
    assert ">>>" in text, f"{thing.__name__} has no example"


@named(FUNCTIONS)
def test_public_functions_document_every_parameter_and_the_result(thing: Any) -> None:
    text = inspect.getdoc(thing) or ""
    signature = inspect.signature(thing)
    names = [name for name, p in signature.parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not names:
        return
    assert "\nParameters\n---" in text, f"{thing.__name__} has no section Parameters"
    section = re.split(r"\n\w[\w ]*\n-{3,}\n", text.partition("\nParameters\n")[2].partition("\n")[2])[0]
    heads = " ".join(line for line in section.splitlines() if line and not line.startswith(" "))
    assert [name for name in names if not re.search(rf"\b{name}\b", heads)] == []
    assert signature.return_annotation is not inspect.Signature.empty, f"{thing.__name__} does not say what it returns"


@pytest.mark.parametrize("function", [dwcpu.set_num_threads, dwcpu.num_threads], ids=lambda each: each.__name__)
def test_the_largest_number_of_threads_is_documented(function: Any) -> None:
    assert f"1 to {MAX_THREADS}." in inspect.getdoc(function)


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_import_what_they_use(name: str) -> None:
    """What somebody copies must run alone, without what the module of the function has at hand."""
    [example] = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    run_examples([example])


def test_all_names_exist_once_and_are_listed_by_dir() -> None:
    assert len(set(dwcpu.__all__)) == len(dwcpu.__all__)
    assert set(dwcpu.__all__) <= set(dir(dwcpu))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", dwcpu.__version__)
