"""The README tells the truth: its Python blocks run, and the files and commands that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[tuple[int, str]]:
    """Fenced blocks of a language, each with the line it starts on."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return [(TEXT.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]


@pytest.mark.parametrize(("line", "code"), [pytest.param(*block, id=f"line{block[0]}") for block in blocks("python")])
def test_python_blocks_run(line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Empty lines in front: a traceback then names the line of the README.
    exec(compile("\n" * (line - 1) + code, "README.md", "exec"), {"__name__": "readme"})


def test_commands_on_the_model_that_a_block_writes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    code = next(code for _, code in blocks("python") if '"classifier.onnx"' in code)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    pillow.new("RGB", (300, 200), (200, 120, 40)).save("photo.jpg")
    commands = [line for _, code in blocks("bash") for line in code.splitlines() if "classifier.onnx" in line]
    assert len(commands) == 2
    for command in commands:
        python, *arguments = command.split()
        assert python == ".venv/bin/python"
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_there_are_python_blocks_and_two_commands() -> None:
    assert len(blocks("python")) >= 2
    commands = [code for _, code in blocks("bash")]
    assert sum("classify" in code for code in commands) >= 1
    assert sum("pytest" in code for code in commands) >= 1


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:dwcpu|tests|benchmarks)/[\w/.]*)`", TEXT))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_environment_variables_that_are_named_are_read() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dwcpu").rglob("*.py"))
    sources += (ROOT / "setup.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`(DWCPU_\w+)`", TEXT))
    assert [name for name in sorted(named) if name not in sources] == []
