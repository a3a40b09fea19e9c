"""Compiler options that change results are refused at compile time or found by the self-test."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

HOST = """
#include <stdlib.h>
#include "decoding.h"
int main(void) {
  size_t size = decoding_workspace_size(1000, 0);
  return decoding_self_test(malloc(size), size);
}
"""

WRONG_BUILD = 10


@pytest.mark.parametrize("option", ["-Ofast", "-ffast-math", "-ffinite-math-only"])
@pytest.mark.parametrize("source", ["sampling/api.c", "sampling/kernels_portable.c", "forward/kernels_portable.c"])
def test_fast_arithmetic_does_not_compile(csrc: Path, option: str, source: str) -> None:
    """A wrong option is a compile error with the right options; a later option can undo it."""
    command = ["cc", "-std=c11", "-fsyntax-only", f"-I{csrc}", str(csrc / source), option]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "-O3 -ffp-contract=off is right" in done.stderr
    subprocess.run([*command, "-O1", "-fno-fast-math", "-fno-finite-math-only"], check=True, capture_output=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks for the FMA of x86-64")
@pytest.mark.skipif("fma" not in Path("/proc/cpuinfo").read_text(), reason="this CPU has no FMA")
@pytest.mark.parametrize(("contract", "status"), [("off", 0), ("fast", WRONG_BUILD)])
def test_the_self_test_finds_contraction(
    csrc: Path, objects: list[Path], run: Callable[..., str], tmp_path: Path, contract: str, status: int
) -> None:
    """The self-test finds fused multiply-adds of the compiler, for which there is no macro."""
    (tmp_path / "host.c").write_text(HOST)
    others = [path for path in objects if "self_test" not in path.name]
    flags = ["-O2", "-mfma", f"-ffp-contract={contract}", f"-I{csrc}"]
    run("cc", *flags, tmp_path / "host.c", csrc / "sampling" / "self_test.c", *others, "-lm", "-o", tmp_path / "host")
    assert subprocess.run([tmp_path / "host"], check=False).returncode == status
