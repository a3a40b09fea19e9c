"""Memory that runs out in a library which would end the process."""

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="needs limits of address space")

SCRIPT = """
import re, resource
from pathlib import Path
from decoding.model_loading import bundled_model_folder
from decoding.text.tokenizer import Tokenizer
tokenizer = Tokenizer.from_folder(bundled_model_folder())
text = "a b" * 400_000
assert len(tokenizer.encode(text[:3000])) > 10  # its threads are there
size = int(re.search(r"^VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text(), flags=re.M)[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (100 << 20),) * 2)
for parse_special in (True, False):
    try:
        tokenizer.encode(text, parse_special=parse_special)
    except MemoryError as error:
        print("no memory:", error)
assert len(tokenizer.encode("a b", parse_special=False)) > 1
print("goes on")
"""


def test_a_text_without_memory_to_tokenise_it():
    """MemoryError, and the process goes on; the library itself would abort it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bytes to tokenise a text") == 2
    assert done.stdout.endswith("goes on\n")
