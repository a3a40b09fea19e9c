"""The NEON instruction set, emulated: neon.sh beside this file, in the slow tier."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = (("cmake",), ("aarch64-linux-gnu-gcc",), ("qemu-aarch64", "qemu-aarch64-static"))


@pytest.mark.slow
@pytest.mark.skipif(
    not all(any(map(shutil.which, names)) for names in TOOLS),
    reason="needs cmake, aarch64-linux-gnu-gcc and qemu-aarch64",
)
def test_neon_has_the_same_bits():
    """Emulated NEON draws all rows of the golden file and computes the logits of all kinds of networks."""
    command = [Path(__file__).with_name("neon.sh")]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("neon: 0 of ")
    assert "networks have the same logits" in done.stdout
