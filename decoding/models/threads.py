"""The default number of threads: the CPUs that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def default_num_threads() -> int:
    """Return the number of CPUs that affinity and a container's quota leave to this process."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, cpu_quota())))


def cpu_quota(cgroup: Path = CGROUP) -> float:
    """Return the number of CPUs of a container's quota, by Linux's cgroups (version 2 or 1); infinity if unlimited."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for name in names for word in (cgroup / name).read_text().split())
        except (OSError, ValueError):  # "max" is no number
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf
