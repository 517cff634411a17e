"""CPUs that a process may use, and which of the settings says how many threads a call gets."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dwcpu import cpus

V2 = "0::/user/job\n"
V1 = "9:memory:/user\n8:cpu,cpuacct:/user/job\n1:name=systemd:/\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_counts() -> None:
    code = """
    import os, dwcpu
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(dwcpu.get_num_threads())
    """
    environment = {name: value for name, value in os.environ.items() if name != "DWCPU_NUM_THREADS"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("membership", "files", "quotas"),
    [
        (V2, {"user/job/cpu.max": "300000 100000\n"}, [3]),
        (V2, {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "250000 100000\n"}, [2]),
        (V2, {"user/job/cpu.max": "400000 100000", "user/cpu.max": "150000 100000", "cpu.max": "max 100000"}, [4, 1]),
        (V2, {"cpu.max": "200000 100000"}, [2]),  # a container that sees its own group as the root
        ("0::/\n", {"cpu.max": "200000 100000"}, [2]),
        (V2, {"user/job/cpu.max": "50000 100000"}, [0]),
        (V2, {"user/job/cpu.max": "nonsense"}, []),
        (V2, {"user/job/cpu.max": "100000 0"}, []),
        (V2, {}, []),
        (
            V1,
            {"cpu,cpuacct/user/job/cpu.cfs_quota_us": "300000", "cpu,cpuacct/user/job/cpu.cfs_period_us": "100000"},
            [3],
        ),
        (V1, {"cpu/user/cpu.cfs_quota_us": "300000", "cpu/user/cpu.cfs_period_us": "100000"}, [3]),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        (V1, {"memory/user/cpu.max": "100000 100000"}, []),
        (V1 + "0::/\n", {"cpu/user/job/cpu.cfs_quota_us": "200000", "cpu/user/job/cpu.cfs_period_us": "100000"}, [2]),
        ("", {"cpu.max": "200000 100000"}, []),
        ("rubbish", {"cpu.max": "200000 100000"}, [2]),  # no tree is named: the root's own, if it has one
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, membership: str, files: dict[str, str], quotas: list[int]) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(cpus._quotas(tmp_path / "membership", tmp_path / "tree")) == quotas


def test_systems_without_control_groups(tmp_path: Path) -> None:
    assert list(cpus._quotas(tmp_path / "missing", tmp_path)) == []


@pytest.mark.parametrize(("quotas", "usable"), [([], 4), ([9], 4), ([3, 2], 2), ([0], 1)])
def test_the_smallest_counts_and_one_is_left(monkeypatch: pytest.MonkeyPatch, quotas: list[int], usable: int) -> None:
    monkeypatch.setattr(cpus, "_quotas", lambda *_: quotas)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 6}, raising=False)
    assert cpus.usable_cpus() == usable


PRECEDENCE = """
    import numpy as np
    import dwcpu
    from dwcpu import calls, prepared

    teams = []
    real = prepared.Prepared.grid

    def noted(self, threads):
        teams.append(threads)
        return real(self, threads)

    prepared.Prepared.grid = noted
    x, dw, pw = (np.ones(shape, np.float32) for shape in ((1, 96, 96, 64), (3, 3, 64), (64, 64)))

    def counts(**options):
        calls.forget()  # what was called before asks for no grid
        layer, found = dwcpu.SeparableConv2d(dw, pw), []
        layers = dwcpu.Sequential(dwcpu.SeparableConv2d(dw, pw))
        for call in (lambda x, **given: dwcpu.separable_conv2d(x, dw, pw, **given), layer, layers):
            teams.clear()
            call(x, **options)
            found.append(max(teams))
        return found

    print(counts())  # the environment
    dwcpu.set_num_threads(4)
    print(counts())
    with dwcpu.num_threads(3):
        print(counts())
        print(counts(num_threads=2))
        with dwcpu.num_threads(5):
            print(counts())
    print(counts())
"""


def test_argument_context_setting_environment_in_this_order() -> None:
    environment = {**os.environ, "DWCPU_NUM_THREADS": "6"}
    command = [sys.executable, "-c", textwrap.dedent(PRECEDENCE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([n] * 3) for n in (6, 4, 3, 2, 5, 4)]
