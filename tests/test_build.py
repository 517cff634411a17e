"""What setup.py promises: it says what it could not build, builds the rest, and always lets the package install.

These tests build in a copy of the source tree, with compilers that fail on demand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from building import ROOT, copied_tree, source_archive

from dwcpu import abi
from dwcpu import cython_kernels as kernels

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython", minversion="3.1")


@pytest.fixture
def setup_module() -> ModuleType:
    """setup.py, imported and not run."""
    spec = spec_from_file_location("setup_of_dwcpu", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copied_tree(tmp_path / "tree")


def build(tree: Path, compiler: str, refused: str = "") -> tuple[str, dict]:
    """Build in place; what was printed and noted."""
    environment = {**os.environ, "CC": compiler, "DWCPU_TEST_REFUSED": refused, "DWCPU_TEST_FLAGS": "-O0"}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, json.loads((tree / "dwcpu/cython_kernels/build_info.json").read_text())


def ask(tree: Path, expression: str) -> str:
    """Value of an expression about `kernels`, the compiled family of the tree, in a process of its own."""
    code = f"from dwcpu import cython_kernels as kernels; print({expression})"
    environment = {name: value for name, value in os.environ.items() if name != "DWCPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**environment, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_no_compiler_installs_and_says_so(tree: Path) -> None:
    printed, info = build(tree, "/nowhere/cc")
    assert "NO COMPILED KERNELS" in printed
    assert info["modules"] == []
    assert ask(tree, "kernels.status()").startswith("none: when it was built: no C compiler that works: /nowhere/cc")
    assert ask(tree, "kernels.available(), kernels.rows('float32')") == "False []"
    with pytest.raises(subprocess.CalledProcessError) as error:
        ask(tree, "kernels.run()")
    assert "there is no compiled driver" in error.value.stderr


def test_modules_of_another_version_are_not_used(tree: Path) -> None:
    """They would take one field of a plan for another. Sources that changed below an installation in place do that."""
    found = Path(kernels.__file__).parent.glob("*.so")
    copied = [shutil.copy(path, tree / "dwcpu/cython_kernels") for path in found]
    if not copied:
        pytest.skip("there are no compiled modules")
    assert ask(tree, "kernels.available(), kernels.calls is not None") == "True True"
    source = tree / "dwcpu/abi.py"
    text = source.read_text()
    assert '    "low": "d",\n' in text
    source.write_text(text.replace('    "low": "d",\n', '    "lower": "i",\n    "low": "d",\n'))
    assert ask(tree, "kernels.available(), kernels.calls is not None") == "False False"
    assert ask(tree, "kernels.status()").startswith("none: not used, since compiled from another version of dwcpu: _")


def test_failing_modules_are_named(tree: Path) -> None:
    """The driver is built all the same. Modules without kernels fail as well, and are translated in no time."""
    (tree / "dwcpu/cython_kernels/kernels.pxi").write_text("")
    printed, info = build(tree, str(tree / "compiler"), "-DDWCPU_VECTOR_BYTES")
    assert info["modules"] == ["_driver", "_calls"]
    assert "did not compile: _" in printed
    assert ask(tree, "kernels.available()") == "False"
    assert "did not compile" in ask(tree, "kernels.status()")


def test_without_numpy_the_short_calls_are_left_out(setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Path(setup_module.numpy_include()) / "numpy" / "arrayobject.h").exists()
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert setup_module.numpy_include() is None


def test_an_unknown_instruction_set_is_left_out(setup_module: ModuleType, tree: Path) -> None:
    names = [isa.name for isa in setup_module.instruction_sets("x86_64")]
    assert names == ["x86_64_v2", "x86_64_v3", "x86_64_v4"]
    assert [isa.name for isa in setup_module.instruction_sets("arm64")] == ["neon"]
    assert [isa.name for isa in setup_module.instruction_sets("riscv64")] == ["baseline"]
    probe = setup_module.Probe(["cc"], ["cc"])
    assert probe.first([["--no-such-flag-at-all"], []]) == []
    assert probe.first([["--no-such-flag-at-all"]]) is None
    assert "no-such-flag" in probe.error


def test_plan_is_declared_from_abi(setup_module: ModuleType) -> None:
    header, declaration = setup_module.abi_declarations(setup_module.abi())
    structure = header[header.index("{") + 1 : header.index("}")].replace("*", " * ")
    fields = [line.split()[-1] for line in structure.split(";") if line.strip()]
    assert fields == list(abi.FIELDS)
    assert all(f" {field}\n" in declaration.replace("*", " ") for field in fields)


def test_source_distribution_has_all_sources(tree: Path) -> None:
    shutil.unpack_archive(source_archive(tree), tree / "unpacked")
    (root,) = (tree / "unpacked").iterdir()
    for source in [*ROOT.glob("dwcpu/**/*.px?"), *ROOT.glob("dwcpu/**/*.py*"), *ROOT.glob("dwcpu/**/*.h")]:
        if source.suffix != ".pyc":
            assert (root / source.relative_to(ROOT)).exists(), source
    assert (root / "setup.py").exists()


def test_an_installation_in_place_compiles_only_what_changed(
    setup_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `pip install -e` finds from the last time is used again, unless something that it was made from changed."""
    from setuptools import Distribution

    sources = tmp_path / "sources"
    shutil.copytree(setup_module.KERNELS, sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    monkeypatch.setattr(setup_module, "KERNELS", sources)
    names = sorted(setup_module.short(extension) for extension in setup_module.declared())

    def build(where: str, editable: bool = True) -> Any:
        command = setup_module.BuildKernels(Distribution({"ext_modules": setup_module.declared()}))
        command.build_lib = str(tmp_path / where)
        command.ensure_finalized()
        command.editable_mode = editable
        return command

    def reused(where: str, editable: bool = True) -> list[str]:
        command = build(where, editable)
        found = command.reused({"made_from": command.made_from()})
        copied = sorted(path.read_text() for path in (tmp_path / where).rglob("*.so"))
        assert found == bool(copied)
        return copied

    last_time = build("last time")
    for name in names:
        (sources / Path(last_time.get_ext_filename(name)).name).write_text(name)
    note = {"made_from": last_time.made_from(), "modules": names, "problems": []}
    (sources / "build_info.json").write_text(json.dumps(note))

    assert reused("again") == names
    assert reused("a wheel", editable=False) == []
    monkeypatch.setenv("CFLAGS", "-O0")
    assert reused("other flags") == []
    monkeypatch.delenv("CFLAGS")
    assert reused("once more") == names
    with (sources / "gemm.pxi").open("a") as file:
        file.write("# changed\n")
    assert reused("other sources") == []
