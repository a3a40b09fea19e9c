"""Threads of matrix products: as many as are free, and as before afterwards."""

from __future__ import annotations

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from decoding.models import blas
from decoding.models.blas import BlasThreads, CpuCounters


class Machine:
    """Four CPUs, of which other programs take some; a library with four threads."""

    def __init__(self, stat: Path) -> None:
        self.stat, self.clock, self.own, self.others, self.threads = stat, 100.0, 3.0, 50.0, 4
        self.loop = 1.0

    def pass_time(self, seconds: float, *, own: float, others: float, loop: float = 0.0) -> None:
        """So many seconds, in which so many CPUs were taken; of our own an event loop took so many."""
        self.clock += seconds
        self.own += seconds * own
        self.loop += seconds * loop
        self.others += seconds * others
        ticks = round((self.own + self.others) * 100)
        lines = [
            f"cpu  {9 * ticks} 0 0 0",
            f"cpu0 {ticks // 2} 0 {ticks - ticks // 2} 777 88 0 0 0 5 5",
            "cpu9 9999999 0 0 0",
        ]
        self.stat.write_text("\n".join([*lines, "intr 5", ""]))

    def get(self) -> int:
        """The library's number of threads."""
        return self.threads

    def set(self, threads: int) -> None:
        """Change it."""
        self.threads = threads


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that stands still until it is told."""
    machine = Machine(tmp_path / "stat")
    machine.pass_time(0, own=0, others=0)
    clock = SimpleNamespace(monotonic=lambda: machine.clock, process_time=lambda: machine.own)
    monkeypatch.setattr(blas, "time", clock)
    monkeypatch.setattr(blas, "_event_loop_seconds", lambda: machine.loop)
    monkeypatch.setattr(blas, "available_cpus", lambda: {0, 1, 2, 3})
    busy_seconds = CpuCounters.busy_seconds
    monkeypatch.setattr(CpuCounters, "busy_seconds", lambda self, _: busy_seconds(self, {0}))
    monkeypatch.setattr(blas, "_find_functions", lambda: blas._Functions(machine.get, machine.set))
    monkeypatch.setattr(blas, "multiplies_in_place", lambda: False)
    monkeypatch.setattr(blas, "cpu_quota", lambda: math.inf)
    return machine


def _threads(threads: BlasThreads, size: int = 1 << 30) -> int:
    with threads.adjusted(size) as number:
        return number


@pytest.mark.parametrize(("others", "expected"), [(0.0, 4), (0.4, 4), (0.6, 3), (1.0, 3), (2.2, 2), (3.9, 1), (9.0, 1)])
def test_as_many_threads_as_cpus_that_nobody_else_takes(computer: Machine, others: float, expected: int) -> None:
    """What this process takes itself does not count, and one thread is always left."""
    threads = BlasThreads(computer.stat)
    assert _threads(threads) == 4
    computer.pass_time(0.5, own=1.7, others=others)
    assert _threads(threads) == expected
    computer.pass_time(0.5, own=1.0, others=0)
    assert _threads(threads) == 4


@pytest.mark.parametrize(("loop", "expected"), [(0.05, 4), (0.2, 3), (0.9, 3)])
def test_an_event_loop_that_has_something_to_do_is_left_a_cpu(computer: Machine, loop: float, expected: int) -> None:
    """A whole one, although it is our own and needs a part of it: whoever it writes to would wait."""
    threads = BlasThreads(computer.stat)
    _threads(threads)
    computer.pass_time(0.5, own=2.0, others=0.2, loop=loop)
    assert _threads(threads) == expected


def test_small_products_are_not_divided(computer: Machine) -> None:
    """Below two million multiplications the library has one thread, on the idlest machine."""
    threads = BlasThreads(computer.stat)
    for size, expected in ((0, 1), ((1 << 21) - 1, 1), (1 << 21, 4)):
        with threads.adjusted(size):
            assert computer.threads == expected


def test_the_event_loop_is_the_main_thread_seen_from_another() -> None:
    """Its CPU time, and nothing where the main thread itself computes."""
    with ThreadPoolExecutor() as pool:
        before = pool.submit(blas._event_loop_seconds).result()
        sum(range(1_000_000))
        after = pool.submit(blas._event_loop_seconds).result()
    assert 0 < after - before <= after <= time.process_time()
    assert blas._event_loop_seconds() == 0.0


def test_what_others_did_long_ago_does_not_count(computer: Machine) -> None:
    """After a pause the last look says nothing of now: all threads, until the next look a little later."""
    threads = BlasThreads(computer.stat)
    _threads(threads)
    computer.pass_time(5.0, own=0, others=4)
    assert _threads(threads) == 4
    computer.pass_time(0.2, own=1, others=3)
    assert _threads(threads) == 1


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 4)])
def test_no_more_threads_than_a_container_may_use(
    computer: Machine, monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    """A part of a CPU is one more thread; what others leave is less, and afterwards the library has all again."""
    monkeypatch.setattr(blas, "cpu_quota", lambda: quota)
    threads = BlasThreads(computer.stat)
    with threads.adjusted(1 << 30) as number:
        assert number == computer.threads == expected
    assert computer.threads == 4
    computer.pass_time(0.5, own=0.1, others=2.2)
    assert _threads(threads) == min(expected, 2)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "200000\n"}, math.inf),
    ],
)
def test_what_a_container_may_use_is_read(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    """Of cgroups of both versions; where there is no limit, or nothing that is one, it is infinite."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert blas.cpu_quota(tmp_path) == expected


def test_the_setting_holds_for_the_block_only(computer: Machine) -> None:
    """Inside the library is set, afterwards, and after an error, it is as it was."""
    threads = BlasThreads(computer.stat)
    _threads(threads)
    computer.pass_time(0.5, own=1, others=3)
    with threads.adjusted(1 << 30) as number:
        assert computer.threads == number == 1
    assert computer.threads == 4
    with pytest.raises(ZeroDivisionError), threads.adjusted(1 << 30):
        raise ZeroDivisionError
    assert computer.threads == 4


def test_the_library_has_one_thread_where_a_crew_has_the_others(
    computer: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where small matrices are multiplied in place, the number is for our own threads."""
    monkeypatch.setattr(blas, "multiplies_in_place", lambda: True)
    with BlasThreads(computer.stat).adjusted(1 << 30) as number:
        assert (number, computer.threads) == (4, 1)
    assert computer.threads == 4


@pytest.mark.parametrize(("core", "expected"), [("SkylakeX", True), ("Haswell", False), ("", False)])
def test_small_matrices_are_multiplied_in_place_by_some_kernels(
    monkeypatch: pytest.MonkeyPatch, core: str, expected: bool
) -> None:
    """Those for AVX-512."""
    monkeypatch.setattr(blas, "_find_functions", lambda: blas._Functions(lambda: 1, lambda _: None, core))
    assert blas.multiplies_in_place.__wrapped__() is expected


def test_it_looks_now_and_then(computer: Machine) -> None:
    """Between two looks less than a tenth of a second apart nothing changes."""
    threads = BlasThreads(computer.stat)
    _threads(threads)
    computer.pass_time(0.05, own=1, others=3)
    assert _threads(threads) == 4
    computer.pass_time(0.06, own=1, others=3)
    assert _threads(threads) == 1


@pytest.mark.parametrize("cpus", [set(), {0, 1, 2, 3}])
def test_a_system_that_does_not_tell_keeps_all_threads(
    computer: Machine, monkeypatch: pytest.MonkeyPatch, cpus: set[int]
) -> None:
    """Without /proc/stat nobody else seems to be there; nor does it say which CPUs there are, but on Linux."""
    monkeypatch.setattr(blas, "available_cpus", lambda: cpus)
    threads = BlasThreads(computer.stat.with_name("absent"))
    _threads(threads)
    computer.pass_time(0.5, own=1, others=3)
    assert _threads(threads) == 4


def test_the_counters_let_go_of_their_file(tmp_path: Path) -> None:
    """With the model that they belong to."""
    stat = tmp_path / "stat"
    stat.write_text("cpu0 300 0 0 5\n")
    counters = CpuCounters(stat)
    assert counters.busy_seconds({0}) == 300 / blas.TICKS
    file = counters._file
    assert file is not None
    del counters
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the functions are not found, there is one thread as far as we know, and nothing to set."""
    monkeypatch.setattr(blas, "_find_functions", lambda: None)
    assert _threads(BlasThreads()) == 1


def test_numpys_own_library_obeys() -> None:
    """The functions that are found, if any, are the ones that numpy uses."""
    functions: Any = blas._find_functions()
    if functions is None:
        pytest.skip("this numpy has no OpenBLAS of its own")
    before = functions.get()
    functions.set(1)
    assert functions.get() == 1
    functions.set(before)
    assert functions.get() == before
