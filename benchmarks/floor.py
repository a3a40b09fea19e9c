"""The floors: passes over a row, compiled from floor.c with the kernel's flags; numpy's without a compiler."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.sampling.kernel import active_isa

HERE = Path(__file__).parent
FLAGS = "-std=c11 -O3 -ffp-contract=off -fno-fast-math"
ISA_FLAGS = {
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512",
    "avx2": "-mavx2 -mfma -mf16c",
    "portable": "",
}
"""As in csrc/CMakeLists.txt; a test compares them."""


class CompiledFloor:
    """floor.c for one instruction set."""

    def __init__(self, isa: str, compiler: str) -> None:
        self.name = f"one {isa} max pass, compiled by {_first_line(compiler)}"
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "floor.so"
            flags = f"{FLAGS} {ISA_FLAGS[isa]} -DDK_ISA_{isa.upper()} -shared -fPIC".split()
            sources = ["-I", str(HERE.parent / "csrc"), str(HERE / "floor.c")]
            subprocess.run([compiler, *flags, *sources, "-o", str(library), "-lm"], check=True)
            self._library = ctypes.CDLL(str(library))

    def max(self, rows: NDArray[np.float32]) -> Callable[[], object]:
        """A call that takes the maximum of each row of rows [num_rows, vocab]."""
        return self._call("floor_max", rows, np.empty(len(rows), np.float32))

    def exp_sum(self, rows: NDArray[np.float32]) -> Callable[[], object]:
        """A call that sums exp(l - max) over each row, with the kernel's exp."""
        return self._call("floor_exp_sum", rows, rows.max(axis=1))

    def _call(self, name: str, rows: NDArray[np.float32], out: NDArray[np.float32]) -> Callable[[], object]:
        function, stride = getattr(self._library, name), rows.strides[0] // rows.itemsize
        sizes = [ctypes.c_int64(size) for size in (len(rows), stride, rows.shape[1])]
        arguments: list[Any] = [ctypes.c_void_p(rows.ctypes.data), *sizes, ctypes.c_void_p(out.ctypes.data)]
        kept = (rows, out)
        return lambda: (function(*arguments), kept)


class NumpyFloor:
    """What there is without a compiler: numpy.max, which reads as fast where the row comes from memory only."""

    name = "numpy.max (no C compiler found: ratios are smaller than those to a compiled pass)"

    def max(self, rows: NDArray[np.float32]) -> Callable[[], object]:
        """A call that takes the maximum of each row of rows [num_rows, vocab]."""
        return lambda: [np.max(row) for row in rows]

    def exp_sum(self, rows: NDArray[np.float32]) -> Callable[[], object]:
        """A call that sums exp(l - max) over each row, as numpy does it."""
        return lambda: [np.exp(row - row.max()).sum() for row in rows]


def make_floor(isa: str) -> CompiledFloor | NumpyFloor:
    """The floor of an instruction set."""
    compiler = shutil.which("cc") if platform.system() != "Windows" else None
    return CompiledFloor(isa, compiler) if compiler else NumpyFloor()


def reader(num_bytes: int, threads: int) -> Callable[[], object]:
    """Return a call that reads so many bytes, by so many threads."""
    rows = np.ones((threads, num_bytes // 4 // threads), np.float32)
    floor, executor = make_floor(active_isa()), ThreadPoolExecutor(threads)
    calls = [floor.max(rows[thread : thread + 1]) for thread in range(threads)]
    return lambda: [future.result() for future in [executor.submit(call) for call in calls]]


def _first_line(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
