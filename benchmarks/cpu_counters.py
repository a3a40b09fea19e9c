"""Measure how busy the CPUs are, other programs included, by Linux's /proc/stat."""

from __future__ import annotations

import os
import weakref
from functools import cached_property
from pathlib import Path

STAT = Path("/proc/stat")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_IDLE = (3, 4)  # columns: idle, and waiting for a disk
_COUNTED = 8  # the rest is counted in these already
_MOST_BYTES = 1 << 17  # a line per CPU, of some hundred bytes


def available_cpus() -> set[int]:
    """Return the CPUs that this process may use; empty if the system does not report them."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


class CpuCounters:
    """Busy time of CPUs by /proc/stat; always 0 if there is no such file."""

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat

    @cached_property
    def _file(self) -> int | None:
        try:
            file = os.open(self._stat, os.O_RDONLY)
        except OSError:
            return None
        weakref.finalize(self, os.close, file)
        return file

    def busy_seconds(self, cpus: set[int]) -> float:
        """Return the busy seconds of these CPUs together, counted from an arbitrary time in the past."""
        if self._file is None:
            return 0.0
        names, busy = {b"cpu%d" % number for number in cpus}, 0
        for line in os.pread(self._file, _MOST_BYTES, 0).splitlines():
            if not line.startswith(b"cpu"):
                break
            name, *ticks = line.split()
            if name in names:
                busy += sum(int(tick) for column, tick in enumerate(ticks[:_COUNTED]) if column not in _IDLE)
        return busy / TICKS
