"""The thread pool of the native module: every task once, concurrent pools, forks, and shutdown."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from decoding.errors import ParameterError
from decoding.sampling.kernel.library import ffi, lib
from decoding.sampling.kernel.threads import ThreadPool

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6] * 5


def run(pool, num_tasks):
    """Run tasks that record (index, worker). The GIL serialises them."""
    done = []

    @ffi.callback("void(void *, int32_t, int32_t)")
    def task(argument, index, worker):
        done.append((index, worker))

    lib.dk_thread_pool_run(pool.pool, num_tasks, task, ffi.NULL)
    return done


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_every_task_runs_once(num_threads):
    """Each index runs once, on workers numbered from 0, for any number of tasks."""
    pool = ThreadPool(num_threads)
    for num_tasks in (0, 1, 2, 7, 100):
        done = run(pool, num_tasks)
        assert sorted(index for index, _ in done) == list(range(num_tasks))
        assert {worker for _, worker in done} <= set(range(num_threads))


def test_a_worker_does_one_task_at_a_time():
    """Tasks that run at the same time have different workers."""
    pool, busy, seen = ThreadPool(4), set(), []

    @ffi.callback("void(void *, int32_t, int32_t)")
    def task(argument, index, worker):
        seen.append(worker in busy)
        busy.add(worker)
        time.sleep(0.001)
        busy.discard(worker)

    lib.dk_thread_pool_run(pool.pool, 40, task, ffi.NULL)
    assert seen == [False] * 40


def test_threads_that_sleep_wake_up():
    """Sleeping threads wake up and share later work."""
    pool = ThreadPool(2)
    for _ in range(3):
        assert len(run(pool, 20)) == 20
        time.sleep(0.05)
    deadline = time.monotonic() + 120
    workers = set()
    while len(workers) < 2 and time.monotonic() < deadline:
        workers |= {worker for _, worker in run(pool, 50)}
    assert workers == {0, 1}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_an_idle_pool_sleeps():
    """All threads of an idle pool go to sleep."""
    before = set(os.listdir("/proc/self/task"))
    pool = ThreadPool(3)
    run(pool, 10)
    started = set(os.listdir("/proc/self/task")) - before
    assert len(started) == 2
    deadline = time.monotonic() + 120
    while {state_of(thread) for thread in started} != {"S"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state_of(thread):
    """Return Linux's letter for the state of a thread: R for running, S for sleeping."""
    return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_threads_end_with_their_pool():
    """Threads start with the first work and end with their pool."""

    def count():
        return len(os.listdir("/proc/self/task"))

    before, pool = count(), ThreadPool(4)
    assert (pool.num_running, count()) == (1, before)
    run(pool, 4)
    assert (pool.num_running, count()) == (4, before + 3)
    del pool
    gc.collect()
    assert count() == before


def test_a_pool_needs_a_thread():
    """A pool of no threads raises a ParameterError."""
    with pytest.raises(ParameterError, match="num_threads=0"):
        ThreadPool(0)


def test_several_models_at_once(kit):
    """Models that run at the same time in different Python threads give the same bits as alone."""
    networks = [kit.Network(kit.replace(kit.BASE, seed=seed)) for seed in range(3)]
    expected = [kit.alone(network, TOKENS) for network in networks]
    results = {}

    def work(index):
        results[index] = all(
            (kit.alone(networks[index], TOKENS, threads=2) == expected[index]).all() for _ in range(10)
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: True, 1: True, 2: True}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_computes(kit):
    """After a fork, child and parent compute the same bits with their own threads."""
    network = kit.Network(kit.BASE)
    runner = kit.Runner(network, num_blocks=8, threads=3)
    runner.add(0, range(4))
    runner.add(1, range(4, 8))
    expected = runner.step({0: TOKENS})
    child = os.fork()
    if child == 0:
        same = (runner.step({1: TOKENS}) == expected).all() and runner.threads == 3
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (runner.step({1: TOKENS}) == expected).all()


def test_the_interpreter_ends_in_the_middle():
    """A process exits at once while a daemon thread computes and other pools sleep."""
    program = """
import threading, time
from decoding import LLM, SamplingParams
idle, busy = LLM(num_threads=3), LLM(num_threads=3)
idle.complete("def", SamplingParams(max_tokens=1))
computes = threading.Event()
def work():
    while True:
        busy.complete("def", SamplingParams(max_tokens=8))
        computes.set()
threading.Thread(target=work, daemon=True).start()
assert computes.wait(60)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "done\n"
    assert done.returncode == 0
