"""What is known of numpy's matrix products, and how many threads they take: as many as CPUs that nobody else uses.

OpenBLAS divides a product evenly among its threads and waits for the slowest. If another program has one of the CPUs,
that wait is a time slice of the scheduler, longer than most products: on two CPUs of which one was busy, decoding with
two threads was three to five times as slow as with one. Our own threads (crew.py), which take the place of OpenBLAS's
where it multiplies small matrices as they lie, wait in the same way. An event loop beside the engine is such a program,
too, and a step of a tiny model has nothing to divide: one product of a million multiplications made two threads of it,
which saved 10 us, and cost 4 ms in one step of ten. The results do not depend on the number.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

STAT, CGROUP = Path("/proc/stat"), Path("/sys/fs/cgroup")
_INTERVAL = 0.1  # seconds between two looks: ten of the ticks in which the kernel counts
_STALE = 1.0  # seconds after which a look says nothing any more of how busy the machine is now
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_LIVELY = 0.1  # of a CPU: an event loop that takes more is left one, because somebody waits whenever it has to wait
_LARGE = 1 << 21  # multiplications of a product from which dividing it saves more than meeting another thread costs
_IDLE = (3, 4)  # columns: idle, and waiting for a disk
_COUNTED = 8  # the rest is counted in these already
_MOST_BYTES = 1 << 17  # a line for each CPU, of a hundred bytes or so; what comes after them is of no interest
_IN_PLACE = ("SkylakeX", "Cooperlake", "SapphireRapids")  # processors for which OpenBLAS has kernels for small matrices


class _Look(NamedTuple):
    """Seconds since some time in the past."""

    clock: float
    busy: float  # of all CPUs that this process may use
    own: float  # of this process
    loop: float  # of its event loop, where another thread computes


class _Functions(NamedTuple):
    """OpenBLAS's."""

    get: Callable[[], int]
    set: Callable[[int], None]
    core: str = ""  # the processor that it takes this one for


class BlasThreads:
    """The threads of the OpenBLAS that numpy has brought; with any other library nothing is done."""

    def __init__(self, stat: Path = STAT) -> None:
        self._functions = _find_functions()
        self._counters = CpuCounters(stat)
        self._all = 1 if self._functions is None else self._functions.get()
        self._now = self._all
        self._last: _Look | None = None

    @cached_property
    def _most(self) -> int:
        """No more than a container may use: what waits awake uses them up."""
        return math.ceil(min(self._all, cpu_quota()))

    @contextmanager
    def adjusted(self, size: int) -> Iterator[int]:
        """As many threads as are worth it: OpenBLAS's, or for a crew while OpenBLAS has one; afterwards as before.

        size: multiplications of the largest product, below which OpenBLAS has one.
        """
        if self._functions is None or self._all == 1:
            yield self._all
            return
        self._look()
        self._functions.set(1 if multiplies_in_place() or size < _LARGE else self._now)
        try:
            yield self._now
        finally:
            self._functions.set(self._all)

    def _look(self) -> None:
        """Now and then, see how busy others have been since the last time."""
        clock = time.monotonic()
        if self._last is not None and clock - self._last.clock < _INTERVAL:
            return
        cpus = available_cpus()
        look = _Look(clock, self._counters.busy_seconds(cpus), time.process_time(), _event_loop_seconds())
        if self._last is None or clock - self._last.clock > _STALE:
            self._now = self._most
        else:
            _, busy, own, loop = np.subtract(look, self._last) / (clock - self._last.clock)
            self._now = _worthwhile(self._most, len(cpus) or self._most, busy - own + (loop > _LIVELY))
        self._last = look


def _worthwhile(most: int, num_cpus: int, taken: float) -> int:
    """Threads, of at most `most`, where others take so many of the CPUs on average."""
    return max(1, min(most, num_cpus - round(taken)))


def _event_loop_seconds() -> float:
    """What the main thread has taken, where it is not the one that asks; 0 where nobody knows."""
    main = threading.main_thread().ident
    if main is None or main == threading.get_ident() or not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(main))


def available_cpus() -> set[int]:
    """The CPUs that this process may use; none where nobody knows."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def cpu_quota(cgroup: Path = CGROUP) -> float:
    """CPUs that a container may use on average, by Linux's cgroups (version 2 or 1); infinite where nothing says so."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = (int(word) for name in names for word in (cgroup / name).read_text().split())
        except (OSError, ValueError):  # "max" is no number
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


class CpuCounters:
    """How long CPUs have been busy, by /proc/stat; nobody knows where there is none.

    The file stays open: each call of the system gives the interpreter's lock away, and an event loop that takes it
    keeps it for a millisecond.
    """

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
        """Of these CPUs together, since some time in the past; 0 where nobody knows."""
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


@cache
def multiplies_in_place() -> bool:
    """Whether products of small matrices leave out the copies that other products begin with."""
    functions = _find_functions()
    return functions is not None and functions.core in _IN_PLACE


def _find_functions() -> _Functions | None:
    """In the library that numpy's own module is linked with, under the names of numpy's wheels and of others."""
    module = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get("numpy.core._multiarray_umath")
    try:
        library = ctypes.CDLL(str(getattr(module, "__file__", None)))
    except OSError:
        return None
    for name in ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}"):
        try:
            get, set_, core = (
                library[name.format(word)] for word in ("get_num_threads", "set_num_threads", "get_corename")
            )
        except AttributeError:
            continue
        core.restype = ctypes.c_char_p
        return _Functions(get, set_, core().decode("ascii", "replace"))
    return None
