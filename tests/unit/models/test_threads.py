"""The default number of threads: CPU affinity and the quotas of both versions of cgroups."""

from __future__ import annotations

import math
import os

import pytest

from decoding.models import threads


@pytest.fixture
def write(tmp_path):
    """Return a function that writes the files of a cgroup folder, by name."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_quota_of_version_2(write):
    """cpu.max contains quota and period; "max" means no limit."""
    assert threads.cpu_quota(write(cpu_dot_max="150000 100000\n")) == 1.5
    assert threads.cpu_quota(write(cpu_dot_max="max 100000\n")) == math.inf


def test_quota_of_version_1(write):
    """Quota and period are read from two files; -1 means no limit."""
    folder = write(cpu__cpu_dot_cfs_quota_us="50000\n", cpu__cpu_dot_cfs_period_us="100000\n")
    assert threads.cpu_quota(folder) == 0.5
    assert threads.cpu_quota(write(cpu__cpu_dot_cfs_quota_us="-1\n")) == math.inf


@pytest.mark.parametrize("text", ["", "junk", "1", "1 2 3", "0 100000", "100000 0", "-5 100000"])
def test_strange_quotas(write, text):
    """A quota file with invalid content means no limit."""
    assert threads.cpu_quota(write(cpu_dot_max=text)) == math.inf


def test_no_cgroup(tmp_path):
    """Without a cgroup folder there is no limit."""
    assert threads.cpu_quota(tmp_path / "absent") == math.inf


@pytest.mark.parametrize(("cpus", "quota", "expected"), [(8, math.inf, 8), (8, 2.5, 3), (2, 7.0, 2), (4, 0.1, 1)])
def test_number_of_threads(monkeypatch, cpus, quota, expected):
    """The default is the smaller of affinity and quota, rounded up, and at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.default_num_threads() == expected


def test_a_system_without_affinity(monkeypatch):
    """Without affinity the default is the number of CPUs, or one if that is unknown."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: math.inf)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.default_num_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.default_num_threads() == 1
