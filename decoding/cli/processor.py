"""Name this machine's processor and its microarchitecture, so that measurements of two machines can be compared."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

UNKNOWN = "unknown"

AMD = {
    0x17: (
        ("Zen", ((0x00, 0x2F), (0x50, 0x5F))),
        ("Zen 2", ((0x30, 0x4F), (0x60, 0x7F), (0x90, 0x91), (0xA0, 0xAF))),
    ),
    0x19: (("Zen 3", ((0x00, 0x0F), (0x20, 0x5F))), ("Zen 4", ((0x10, 0x1F), (0x60, 0xAF)))),
    0x1A: (
        ("Zen 5", ((0x00, 0x2F), (0x40, 0x4F), (0x60, 0x7F))),
        ("Zen 6", ((0x50, 0x5F), (0x80, 0xAF), (0xC0, 0xCF))),
    ),
}
"""Family to microarchitectures, with ranges of models. From Linux: arch/x86/kernel/cpu/amd.c."""

INTEL = {
    "Haswell": (0x3C, 0x3F, 0x45, 0x46),
    "Broadwell": (0x3D, 0x47, 0x4F, 0x56),
    "Skylake": (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6),
    "Skylake (server)": (0x55,),
    "Ice Lake": (0x6A, 0x6C, 0x7D, 0x7E),
    "Tiger Lake": (0x8C, 0x8D),
    "Rocket Lake": (0xA7,),
    "Alder Lake": (0x97, 0x9A),
    "Raptor Lake": (0xB7, 0xBA, 0xBF),
    "Meteor Lake": (0xAA, 0xAC),
    "Arrow Lake": (0xB5, 0xC5, 0xC6),
    "Lunar Lake": (0xBD,),
    "Sapphire Rapids": (0x8F,),
    "Emerald Rapids": (0xCF,),
    "Granite Rapids": (0xAD, 0xAE),
    "Sierra Forest": (0xAF,),
}
"""Models of family 6. From Linux: arch/x86/include/asm/intel-family.h. Kaby, Coffee and Comet Lake are Skylake cores;
Cascade and Cooper Lake share a model with the Skylake server."""

ARM = {
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse N1",
    0xD40: "Neoverse V1",
    0xD49: "Neoverse N2",
    0xD4F: "Neoverse V2",
    0xD84: "Neoverse V3",
    0xD8E: "Neoverse N3",
}
"""Part numbers of implementer 0x41. From Linux: arch/arm64/include/asm/cputype.h."""


def processor() -> tuple[str, str]:
    """Return the processor's own name and its microarchitecture, "unknown" if it is not in the tables."""
    facts = parse_cpuinfo(_cpuinfo())
    name = facts.get("model name") or _apple_name() or platform.processor() or platform.machine()
    return name, microarchitecture(facts)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """Return the first processor's fields of /proc/cpuinfo."""
    first = text.partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def microarchitecture(facts: dict[str, str]) -> str:
    """Return the microarchitecture by vendor, family and model (x86), or implementer and part (ARM)."""
    vendor = facts.get("vendor_id")
    if vendor == "AuthenticAMD":
        return _of_amd(_number(facts, "cpu family"), _number(facts, "model"))
    if vendor == "GenuineIntel" and _number(facts, "cpu family") == 6:
        model = _number(facts, "model")
        return next((name for name, models in INTEL.items() if model in models), UNKNOWN)
    if _number(facts, "CPU implementer") == 0x41:
        return ARM.get(_number(facts, "CPU part"), UNKNOWN)
    return UNKNOWN


def _of_amd(family: int, model: int) -> str:
    for name, ranges in AMD.get(family, ()):
        if any(low <= model <= high for low, high in ranges):
            return name
    return UNKNOWN


def _number(facts: dict[str, str], name: str) -> int:
    """Return a field as a number, -1 if it is absent or none."""
    try:
        return int(facts.get(name, ""), 0)
    except ValueError:
        return -1


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def _apple_name() -> str:
    """Return the name that macOS has for its processor, empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
