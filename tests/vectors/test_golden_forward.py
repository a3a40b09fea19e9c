"""The native forward pass's bits are what they were: forward.json, computed again on every instruction set.

Where a change of the bits is meant, run make_forward.py beside this file, and say so in the changelog.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from decoding.sampling.kernel import active_isa, available_isas, forced_isa

MAKER = runpy.run_path(str(Path(__file__).parent / "make_forward.py"))
GOLDEN = json.loads(MAKER["GOLDEN"].read_text())


def test_the_names() -> None:
    """The file has one hash for each network and storage type, all different."""
    assert list(GOLDEN) == ["made by", *MAKER["names"]()]
    assert len(set(GOLDEN.values())) == len(GOLDEN)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", MAKER["names"]())
def test_the_bits(name: str, isa: str) -> None:
    """Each network's logits have the file's bits, on each instruction set."""
    with forced_isa(isa):
        assert active_isa() == isa
        assert MAKER["digest"](name) == GOLDEN[name]
