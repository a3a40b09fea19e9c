"""The microarchitecture of a processor, from fields of /proc/cpuinfo as real machines have them."""

import pytest

from decoding.cli.processor import UNKNOWN, microarchitecture, parse_cpuinfo, processor

X86 = "processor\t: 0\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: some: name\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nCPU implementer\t: {}\nCPU part\t: {}\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format("AuthenticAMD", 23, 1), "Zen"),
        (X86.format("AuthenticAMD", 23, 49), "Zen 2"),
        (X86.format("AuthenticAMD", 25, 1), "Zen 3"),
        (X86.format("AuthenticAMD", 25, 17), "Zen 4"),
        (X86.format("AuthenticAMD", 26, 2), "Zen 5"),
        (X86.format("AuthenticAMD", 99, 2), UNKNOWN),
        (X86.format("GenuineIntel", 6, 85), "Skylake (server)"),
        (X86.format("GenuineIntel", 6, 143), "Sapphire Rapids"),
        (X86.format("GenuineIntel", 6, 255), UNKNOWN),
        (X86.format("GenuineIntel", 15, 143), UNKNOWN),
        (X86.format("OtherVendor", 6, 143), UNKNOWN),
        (X86.format("AuthenticAMD", "?", 1), UNKNOWN),
        (ARM.format("0x41", "0xd4f"), "Neoverse V2"),
        (ARM.format("0x41", "0xfff"), UNKNOWN),
        (ARM.format("0x61", "0xd4f"), UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_microarchitecture(text, expected):
    """Vendor, family and model decide; a processor outside the tables is unknown, never an error."""
    assert microarchitecture(parse_cpuinfo(text)) == expected


def test_only_the_first_processor_counts():
    """A field is read from the first processor, with colons in its value kept."""
    facts = parse_cpuinfo(X86.format("AuthenticAMD", 25, 1) + "model name\t: another\n")
    assert facts["model name"] == "some: name"


def test_this_processor_has_a_name():
    """Every system gives some name, and a microarchitecture or "unknown"."""
    name, kind = processor()
    assert name
    assert kind
