"""The cache folder is this user's alone: what lies there decides which code runs."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

from dwcpu import folders

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `NUMBA_CACHE_DIR` says: not there yet, with a folder above it that is not there either."""
    path = tmp_path / "above" / "base"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(path))
    return path


def test_private_whatever_the_umask(base: Path) -> None:
    before = os.umask(0)
    try:
        for _ in range(2):
            assert folders.cache_directory() == base / "dwcpu"
    finally:
        os.umask(before)
    assert {each.stat().st_mode & 0o777 for each in (base / "dwcpu", base, base.parent)} == {0o700}


def test_places_in_order(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folders.cache_directory() == base / "dwcpu"
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    assert folders.cache_directory() == tmp_path / "xdg" / "dwcpu"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    assert folders.cache_directory() == tmp_path / "home" / ".cache" / "dwcpu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folders.cache_directory() == tmp_path / "home" / ".cache" / "dwcpu"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_one_that_others_may_write_to(base: Path, mode: int) -> None:
    folders.cache_directory().chmod(mode)
    with pytest.raises(PermissionError, match="not this user's alone"):
        folders.cache_directory()


def test_one_of_another_user(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.cache_directory()
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="not this user's alone"):
        folders.cache_directory()


def test_a_file_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"code")
    assert folders.private_bytes(tmp_path / "file") == b"code"
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="not this user's alone"):
        folders.private_bytes(tmp_path / "file")


@pytest.mark.parametrize("above", [".", ".."])
def test_one_that_anybody_may_replace(base: Path, above: str) -> None:
    folders.cache_directory()
    (base / above).resolve().chmod(0o777)
    with pytest.raises(PermissionError, match="anybody may replace"):
        folders.cache_directory()
    (base / above).resolve().chmod(0o1777)  # as /tmp: each removes only their own
    folders.cache_directory()


def test_one_behind_a_link_that_anybody_may_replace(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.cache_directory()
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    (public / "link").symlink_to(base)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(public / "link"))
    with pytest.raises(PermissionError, match="anybody may replace"):
        folders.cache_directory()


def test_a_file_in_its_place(base: Path) -> None:
    base.parent.mkdir()
    base.write_text("")
    with pytest.raises(OSError):
        folders.cache_directory()


def test_without_a_home_kernels_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    target = import_module("dwcpu.numba_kernels.target")
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    target._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="not cached"):
        assert target.cache_directory() is None
