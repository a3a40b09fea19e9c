"""Micro-operations of the AVX-512 kernel per port, on processors that are not here: `python -m benchmarks.port_counts`.

Compiles port_counts.c with the kernel's own flags to assembly, all loops over a block unrolled, and lets llvm-mca (LLVM
16 or later) simulate it. docs/adr/0013-port-counts.md says how to read the table.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.floor import FLAGS, HERE, ISA_FLAGS

UNROLLED = "--param max-completely-peeled-insns=100000 --param max-completely-peel-times=64"
ITERATIONS = 100
VECTORS = {"scan_16_blocks": 256, "mass_4_blocks": 64, "split_quarter": 4}
"""Vectors of sixteen logits per region, where it is not one block of 16 vectors."""


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor's name for llvm-mca, and the ports that execute operations on whole vectors."""

    name: str
    vector_ports: Mapping[str, tuple[str, ...]]


PROCESSORS = (
    Processor("sapphirerapids", {"p0": ("SPRPort00",), "p5": ("SPRPort05",)}),
    Processor("znver4", {"FP0/1": ("Zn4FP0", "Zn4FP1"), "FP2/3": ("Zn4FP2", "Zn4FP3")}),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Figures of one region, per sixteen logits."""

    region: str
    uops: float
    busy: tuple[float, ...]
    """Cycles that the operations keep each group of vector ports busy, as llvm-mca distributes them."""
    cycles: float

    @property
    def least_cycles(self) -> float:
        """Cycles if the operations were spread evenly over the ports."""
        return sum(self.busy) / len(self.busy)


def assembly(compiler: str) -> str:
    """Return port_counts.c as assembly."""
    flags = f"{FLAGS.replace('c11', 'gnu11')} {ISA_FLAGS['avx512']} {UNROLLED} -DDK_ISA_AVX512 -DDK_TABLE=dk_counted"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "port_counts.s"
        sources = ["-I", str(HERE.parent / "csrc"), "-S", str(HERE / "port_counts.c"), "-o", str(out)]
        subprocess.run([compiler, *flags.split(), "-fno-asynchronous-unwind-tables", *sources], check=True)
        return out.read_text()


def simulate(tool: str, source: str, processor: Processor) -> list[Counts]:
    """Run llvm-mca over all regions."""
    command = [tool, f"-mcpu={processor.name}", f"--iterations={ITERATIONS}", "--json", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    resources = [name.partition(".")[0] for name in found["TargetInfo"]["Resources"]]
    return [counts_of(region, resources, processor) for region in found["CodeRegions"]]


def counts_of(region: Mapping[str, Any], resources: Sequence[str], processor: Processor) -> Counts:
    """Read one region of llvm-mca's report. The entries behind its last instruction are sums over all of them."""
    name, summary = region["Name"], region["SummaryView"]
    vectors, busy = VECTORS.get(name, 16), Counter[str]()
    for entry in region["ResourcePressureView"]["ResourcePressureInfo"]:
        if entry["InstructionIndex"] == len(region["Instructions"]):
            busy[resources[entry["ResourceIndex"]]] += entry["ResourceUsage"]
    groups = (sum(busy[port] for port in ports) / len(ports) for ports in processor.vector_ports.values())
    per_vector = 1 / vectors / ITERATIONS
    uops, cycles = summary["TotaluOps"] * per_vector, summary["TotalCycles"] * per_vector
    return Counts(name, uops, tuple(group / vectors for group in groups), cycles)


def table(processor: Processor, counts: Sequence[Counts]) -> str:
    """One line per region."""
    names = "".join(f"{name:>8}" for name in processor.vector_ports)
    head = f"{processor.name + ', per 16 logits':32}{'uops':>8}{names}{'even':>8}{'cycles':>8}"
    lines = (
        f"  {one.region:30}{one.uops:8.1f}{''.join(f'{busy:8.1f}' for busy in one.busy)}"
        f"{one.least_cycles:8.1f}{one.cycles:8.1f}"
        for one in counts
    )
    return "\n".join([head, *lines])


def newest_tool() -> str | None:
    """Return the llvm-mca of the highest version on the path."""
    names = ("llvm-mca", *(f"llvm-mca-{version}" for version in range(16, 40)))
    found = [path for name in names if (path := shutil.which(name))]
    return max(found, key=_version, default=None)


def _version(tool: str) -> int:
    text = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"LLVM version (\d+)", text)
    return int(found[1]) if found else 0


def main() -> int:
    """Print a table for each processor."""
    compiler, tool = shutil.which("gcc"), newest_tool()
    if compiler is None or tool is None or _version(tool) < 16:
        print("needs gcc and llvm-mca of LLVM 16 or later (Debian: apt-get install gcc llvm-19)", file=sys.stderr)
        return 1
    source = assembly(compiler)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"{version}; llvm-mca of LLVM {_version(tool)}")
    for processor in PROCESSORS:
        print(f"\n{table(processor, simulate(tool, source, processor))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
