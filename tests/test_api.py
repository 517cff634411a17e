"""The public names, their signatures and the command line's options are what `test_api.txt` says.

A change of them is a change of that file, which shows in review; `.github/CONTRIBUTING.md` says what may change when.
``python tests/test_api.py > tests/test_api.txt`` writes it anew.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dwcpu
from dwcpu.cli import _parser

PINNED = Path(__file__).with_suffix(".txt")

#: What layers have for pipelines and for `calls`, and promise nobody.
INTERNAL = ("known", "nodes", "threads")


def described(name: str, thing: Any) -> Iterator[str]:
    """A line for a name, and one for each public attribute of a class."""
    if isinstance(thing, (str, ModuleType)):
        yield name
    elif not inspect.isclass(thing):
        yield f"{name}{inspect.signature(thing)}"
    else:
        yield f"class {name}{inspect.signature(thing)}".replace(" -> 'None'", "").replace(" -> None", "")
        members: dict[str, Any] = {}
        for base in reversed(thing.__mro__):
            members.update({} if base.__module__ == "builtins" else vars(base))
        for key in sorted(members):
            if key.startswith("_") or key in INTERNAL:
                continue
            function = getattr(members[key], "__func__", members[key])
            yield f"    {name}.{key}" + (str(inspect.signature(function)) if inspect.isfunction(function) else "")


def options(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    """A line for each command, with its arguments."""
    words = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, inner in action.choices.items():
                yield from options(inner, f"{name} {command}")
        else:
            words.append("/".join(action.option_strings) or action.dest)
    yield f"{name}: {' '.join(words)}"


def text() -> str:
    """All of it."""
    lines = [line for name in dwcpu.__all__ for line in described(f"dwcpu.{name}", getattr(dwcpu, name))]
    models = dwcpu.models
    lines += [line for name in models.__all__ for line in described(f"dwcpu.models.{name}", getattr(models, name))]
    lines += options(_parser(), "python -m dwcpu")
    return "\n".join(lines) + "\n"


def test_public_names_are_pinned() -> None:
    assert text().splitlines() == PINNED.read_text(encoding="utf-8").splitlines()


def test_what_is_public_is_what_imports_give() -> None:
    names: dict[str, Any] = {}
    exec("from dwcpu import *", names)
    assert set(dwcpu.__all__) <= set(names)


if __name__ == "__main__":
    print(text(), end="")
