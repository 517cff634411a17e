"""How many CPUs this process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cpus"]


def usable_cpus() -> int:
    """As many as its affinity has, and as the control groups that it is in leave it time for; at least one."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    return max(1, min([cpus, *_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]))


def _quotas(membership: Path, mounted: Path) -> Iterator[int]:
    """Whole CPUs that each control group with a quota leaves: the process's own, and all those above it.

    Containers may have their own group mounted as the root while `membership` names it as the machine does: what is not
    there has no quota. Version 2 has one tree, version 1 one for each controller (cgroups(7)).
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots, names = [mounted, mounted / "unified"], ["cpu.max"]
        elif "cpu" in controllers.split(","):
            roots, names = [mounted / controllers, mounted / "cpu"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for root in roots:
            for group in [root / inner, *(root / above for above in inner.parents)]:
                with contextlib.suppress(OSError, ValueError):  # without a number ("max") there is no quota
                    quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
                    if quota > 0 and period > 0:
                        yield quota // period
