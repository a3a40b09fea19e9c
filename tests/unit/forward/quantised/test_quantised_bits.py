"""Quantised matmuls have the same bits on every instruction set, in every tile, batch and chunk, on any threads."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from decoding.models.native_names import BLOCKS
from decoding.models.native_plan import enable_amx
from decoding.sampling.kernel import active_isa, available_isas, forced_isa

HERE = Path(__file__).parent
CSRC = HERE.parents[3] / "csrc"

GOLDEN = {
    "q8_0": "4b679966f7d08cba",
    "q4_0": "6e1657d8f4898ea1",
    "q4_1": "2d21b30fb5f068c7",
    "q5_0": "c2daad8338cd98d4",
    "q5_1": "9dff279a492f2e50",
    "q4_k": "911c6803ae86597c",
    "q5_k": "db0e0dfd8ac67c2a",
    "q6_k": "01fb9a0d376a3917",
}
"""Output of quantised_bits.c beside this file; a change of a hash is a change of the logits of all such models."""

FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx2_vnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
    "avx512_vnni": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma", "-mf16c"],
}
FLAGS["avx512_amx"] = [*FLAGS["avx512_vnni"], "-mamx-tile", "-mamx-int8"]
EMULATED = [*FLAGS["avx2"], "-include", str(HERE / "emulated_avx512.h")]
NEON_FLAGS = {"neon": [], "neon_dot": ["-march=armv8.2-a+dotprod"]}


def compile_bits(folder, compiler, sets, fast_build, *options):
    """Build quantised_bits.c with the files of the given sets and their flags. Return the program.

    It is neither optimised nor inlined, which takes a hundredth of the time.
    """
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    common = [compiler, "-w", "-std=c11", *fast_build, "-ffp-contract=off", f"-I{CSRC}", *options]
    sources = {HERE / "quantised_bits.c": [], CSRC / "forward" / "quantised_pack.c": []}
    sources |= {CSRC / "forward" / f"quantised_{name}.c": flags for name, flags in sets.items()}
    objects = []
    for source, flags in sources.items():
        objects.append(folder / f"{source.stem}.o")
        subprocess.run([*common, *flags, "-c", source, "-o", objects[-1]], check=True)
    subprocess.run([*common, *objects, "-lm", "-o", folder / "bits"], check=True)
    return folder / "bits"


def hashes(*command):
    """Return the hashes that the program prints, by type."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def cpu_flags():
    """Return the processor's features as Linux lists them; other systems have none here."""
    return Path("/proc/cpuinfo").read_text().split() if os.path.exists("/proc/cpuinfo") else []


@pytest.fixture(scope="module")
def x86_bits(tmp_path_factory, fast_build):
    """Return the program with the x86 instruction sets, with AVX-512 and AVX-VNNI emulated."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs x86-64")
    sets = {"portable": [], "avx2": FLAGS["avx2"], "avx512": EMULATED, "avx512_vnni": EMULATED}
    sets["avx2_vnni"] = [*FLAGS["avx2"], "-include", str(HERE / "emulated_avx_vnni.h")]
    sets["avx512_amx"] = [*EMULATED, "-include", str(HERE / "emulated_tiles.h")]
    have = ("-DDK_HAVE_X86", "-DDK_HAVE_AVX_VNNI", "-DDK_HAVE_AMX")
    return compile_bits(tmp_path_factory.mktemp("bits"), "cc", sets, fast_build, *have)


@pytest.mark.parametrize("step", ["1", "3", "16", "35"])
@pytest.mark.parametrize("name", list(FLAGS))
def test_golden_hashes(x86_bits, name, step):
    """Every set of x86, alone and with VNNI or AMX, has the golden bits for any number of rows."""
    assert hashes(x86_bits, name, step) == GOLDEN


@pytest.mark.parametrize(
    ("name", "flag"), [("avx2_vnni", "avx_vnni"), ("avx512", "avx512f"), ("avx512_vnni", "avx512_vnni")]
)  # the library itself tests AMX, see test_amx
def test_golden_hashes_on_the_processor(tmp_path, fast_build, name, flag):
    """The processor's own AVX-512 and VNNI have the golden bits."""
    if flag not in cpu_flags():
        pytest.skip(f"needs a processor with {flag}")
    sets = {key: value for key, value in FLAGS.items() if key != "avx512_amx"}
    program = compile_bits(tmp_path, "cc", sets, fast_build, "-DDK_HAVE_X86", "-DDK_HAVE_AVX_VNNI")
    assert hashes(program, name) == GOLDEN


PRINT_BYTE_PRODUCTS = """
#include <stdio.h>
#include "simd/dispatch.h"
int main(void) { printf("%d %d", dk_has_byte_products(DK_AVX2), dk_has_byte_products(DK_AVX512)); }
"""


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo") or platform.machine() != "x86_64", reason="needs x86-64 Linux")
def test_vnni_is_found(tmp_path):
    """The library finds VNNI of AVX2 and of AVX-512 exactly where Linux lists it."""
    flags = cpu_flags()
    program, source = tmp_path / "program", tmp_path / "program.c"
    source.write_text(PRINT_BYTE_PRODUCTS)
    sources = [source, CSRC / "simd" / "dispatch.c"]
    subprocess.run(["cc", "-std=c11", "-DDK_HAVE_X86", f"-I{CSRC}", *sources, "-o", program], check=True)
    found = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert found == f"{int('avx_vnni' in flags)} {int('avx512_vnni' in flags)}"


def test_amx():
    """AMX stays off on a processor without it; on others the tests of networks below run with it."""
    flags = cpu_flags()
    assert enable_amx() == enable_amx()
    assert "amx_int8" in flags or not enable_amx()


@pytest.fixture(scope="module")
def neon_bits(tmp_path_factory, fast_build):
    """Return the command that runs the program with the ARM instruction sets, emulated on other processors."""
    folder, sets = tmp_path_factory.mktemp("neon"), {"portable": [], **NEON_FLAGS}
    if platform.machine() in ("aarch64", "arm64"):
        return [compile_bits(folder, "cc", sets, fast_build, "-DDK_HAVE_NEON", "-O1")]
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("needs qemu-aarch64")
    return [qemu, compile_bits(folder, "aarch64-linux-gnu-gcc", sets, fast_build, "-DDK_HAVE_NEON", "-O1", "-static")]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["1", "2", "35"])
@pytest.mark.parametrize("name", list(NEON_FLAGS))
def test_golden_hashes_on_neon(neon_bits, name, step):
    """NEON, with and without dot products, has the golden bits for any number of rows."""
    assert hashes(*neon_bits, name, step) == GOLDEN


def inputs_for(weight_type, num_rows):
    """Return rows of inputs of different scales, one of them with a NaN."""
    generator = np.random.default_rng(5)
    inputs = generator.standard_normal((num_rows, 3 * BLOCKS[weight_type][0])) * generator.uniform(0, 4, (num_rows, 1))
    inputs[num_rows // 2, 7] = np.nan
    return inputs.astype(np.float32)


@pytest.mark.parametrize("isa", available_isas())
def test_batches(blocks, weight_type, isa):
    """A row has the same bits alone and in batches of 2 to 64, with 1 to 8 threads, on each instruction set."""
    inputs = inputs_for(weight_type, 64)
    matrix = blocks.packed(weight_type, blocks.random_blocks(weight_type, 150, inputs.shape[1]))
    expected = blocks.native_matmul(inputs, matrix).view(np.uint32)
    with forced_isa(isa):
        assert active_isa() == isa
        for threads, num_rows in ((None, 1), (2, 64), (8, 33), (3, 7), (None, 2), (2, 3), (1, 4)):
            for first in (0, 31, 64 - num_rows):
                rows = slice(first, first + num_rows)
                actual = blocks.native_matmul(inputs[rows].copy(), matrix, threads)
                assert (actual.view(np.uint32) == expected[rows]).all()


@pytest.fixture
def network(kit, blocks, weight_type):
    """Return a network whose weights are all of one type."""
    return blocks.quantised_network(kit, weight_type)


TOKENS = [(5 * i + i * i) % 37 for i in range(40)]


@pytest.fixture
def logits(kit, network):
    """Return the logits computed in one call with the widest instruction set."""
    return kit.alone(network, TOKENS)


@pytest.mark.parametrize("isa", available_isas())
def test_networks_on_each_set(kit, network, logits, isa):
    """Every instruction set computes the same bits as the widest."""
    with forced_isa(isa):
        assert active_isa() == isa
        assert (kit.alone(network, TOKENS).view(np.uint32) == logits.view(np.uint32)).all()


@pytest.mark.parametrize(("threads", "chunk"), [(1, 40), (2, 40), (8, 40), (None, 1), (2, 7), (3, 16)])
def test_networks_in_chunks(kit, network, logits, threads, chunk):
    """A sequence in chunks, with any number of threads, has the same bits as in one call."""
    runner = kit.Runner(network, num_blocks=4, threads=threads)
    runner.add(0, [2, 0, 3])
    parts = [runner.step({0: TOKENS[i : i + chunk]}) for i in range(0, len(TOKENS), chunk)]
    assert (np.concatenate(parts).view(np.uint32) == logits.view(np.uint32)).all()
