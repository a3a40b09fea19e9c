"""A new parameter in a copy of the tree needs a row of the table, its reference and its C, and no other edit."""

import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROW = """
    toy_heat: float = parameter(
        0.0, Number(0, 9), "add this to the temperature", stage="temperature", source="a toy", api=Number(0, 5)
    )
"""

FACTS = """
import argparse
import numpy as np
from hypothesis import find, given, settings
from hypothesis import strategies as st

from decoding import ParameterError, Sampler, SamplingParams, SamplingState
from decoding.cli.flags import add_sampling_flags, given_parameters
from decoding.completions_api.fields import BY_NAME
from decoding.completions_api.request import parse_completion
from decoding.params import PARAMETERS
from decoding.sampling.stages import PIPELINE
from decoding.testing import INVALID_VALUES, assert_matches_reference, logits_batches, sampling_params

# the class, its checks and its text
assert SamplingParams().toy_heat == 0.0
assert repr(SamplingParams(toy_heat=2)) == "SamplingParams(toy_heat=2.0)"
assert "toy_heat: a number from 0 to 9. Add this to the temperature." in SamplingParams.__doc__
try:
    SamplingParams(toy_heat=10)
except ParameterError as error:
    assert str(error) == "toy_heat=10: must be a number from 0 to 9"

# the command line
parser = argparse.ArgumentParser()
add_sampling_flags(parser, max_tokens=1)
assert given_parameters(parser.parse_args(["--toy-heat", "0.5"])) == {"toy_heat": 0.5}
assert "add this to the temperature (default: 0.0)" in parser.format_help()

# the HTTP API
assert BY_NAME["toy_heat"].schema == {"type": "number", "minimum": 0, "maximum": 5, "default": 0.0}
assert BY_NAME["toy_heat"].description == "Add this to the temperature."
assert parse_completion({"model": "m", "prompt": "p", "toy_heat": 4}).params.toy_heat == 4.0
try:
    parse_completion({"model": "m", "prompt": "p", "toy_heat": 6})
except Exception as error:
    assert str(error) == "toy_heat=6: must be a number from 0 to 5"

# the stages, the strategies, the invalid values
(stage,) = [stage for stage in PIPELINE if stage.name == "temperature"]
assert "toy_heat" in stage.parameters
assert -1.0 in INVALID_VALUES["toy_heat"]
many = settings(derandomize=True, database=None, max_examples=3000)
hot = find(sampling_params(8), lambda params: params.toy_heat > 0, settings=many)
assert 0 < hot.toy_heat <= 9

# the kernel does what the reference does, and the parameter matters
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(logits_batches(33, 1), st.floats(0.0, 9.0), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.25]))
def check(logits, heat, temperature, spread):
    params = SamplingParams(toy_heat=heat, temperature=temperature, dynatemp_range=spread, seed=1)
    assert_matches_reference(Sampler(33), logits, [SamplingState(params)])

check()
logits = np.arange(4, dtype=np.float32)
flat, sharp = (Sampler(4).probabilities(logits, [SamplingState(SamplingParams(toy_heat=t))]) for t in (8.0, 0.0))
assert flat.max() < 0.4 < sharp.max()
assert "toy_heat=8.0" in str(Sampler(4).explain(logits, SamplingState(SamplingParams(toy_heat=8.0))))
print("all found", len(PARAMETERS))
"""


def replace(path, pattern, new):
    """Replace every match of a pattern. Fail if there is none."""
    text, number = re.subn(pattern, new, path.read_text())
    assert number, f"{path.name} has no {pattern}"
    path.write_text(text)


def add_the_toy(tree):
    """Add the parameter's row, its reference and its C."""
    replace(tree / "decoding" / "params.py", r"\n    dynatemp_range: float = ", ROW + r"    dynatemp_range: float = ")
    sum_of_both = "to_float32(params.temperature) + to_float32(params.toy_heat)"
    temperature = tree / "decoding" / "reference" / "temperature.py"
    replace(temperature, r"to_float32\(params\.temperature\)", f"({sum_of_both})")
    for header in (tree / "csrc" / "decoding.h", tree / "csrc" / "python" / "ffi.cdef.txt"):
        if header.exists():
            replace(header, r"(  float dynatemp_range;)", r"  float toy_heat;\n\1")
    in_c = "((double)d->row->temperature + (double)d->row->toy_heat)"
    replace(tree / "csrc" / "sampling" / "temperature.c", r"\(double\)d->row->temperature", in_c)


def build(tree, fast_build):
    """Compile the Python module with the portable instruction set."""
    csrc, source = tree / "csrc", tree / "_kernel.c"
    cdef = csrc / "python" / "ffi.cdef.txt"
    if not cdef.exists():
        make = csrc / "python" / "make_cdef.py"
        run(sys.executable, make, csrc / "python" / "ffi.csrc.c", csrc, cdef)
    glue = csrc / "python" / "ffi.csrc.c"
    run(sys.executable, "-m", "cffi.gen_src", "read-sources", "decoding._kernel", cdef, glue, source)
    files = [csrc / line for line in (csrc / "sources.txt").read_text().split()]
    files += (csrc / "python").glob("*.c")
    files.remove(glue)
    options = [*fast_build, "-std=c11", "-ffp-contract=off", "-fPIC", "-shared", "-w", f"-I{csrc}"]
    python = ["-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_path('include')}"]
    target = tree / "decoding" / "_kernel.abi3.so"
    run("cc", *options, *python, source, *files, "-o", target, "-lm", "-pthread")


def run(*command):
    """Run a command and return its output. Fail with the output if the command fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix linker")
def test_a_new_parameter_needs_three_edits(root, fast_build, tmp_path):
    """With these three edits class, flags, API, docs, stages, strategies and kernel have the parameter."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("decoding", "csrc"):
        shutil.copytree(root / name, tmp_path / name, ignore=ignore)
    (tmp_path / "tests" / "tools").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for tool in ("docs_tables.py", "profile_tables.py"):
        shutil.copy(root / "tests" / "tools" / tool, tmp_path / "tests" / "tools")
    for page in ("semantics.md", "profiles.md"):
        shutil.copy(root / "docs" / page, tmp_path / "docs")
    add_the_toy(tmp_path)
    build(tmp_path, fast_build)
    # without site's .pth files, an editable installation cannot hide the copy
    paths = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; sys.path.append({sysconfig.get_path('purelib')!r})"
    assert "all found" in run(sys.executable, "-S", "-c", f"{paths}\n{FACTS}")
    tool = tmp_path / "tests" / "tools" / "docs_tables.py"
    run(sys.executable, "-S", "-c", f"{paths}\nimport runpy\nrunpy.run_path({str(tool)!r})['main']([])")
    line = "| `toy_heat` | 0.0 | a number from 0 to 9 | 0 to 5 | temperature |"
    assert line in (tmp_path / "docs" / "semantics.md").read_text()
