"""The logits of the native forward pass have the hashes of forward.json on every instruction set.

If a change of the bits is intended, run make_forward.py beside this file, and add a line to the changelog.
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
    """The file has one hash per network and storage type, and all differ."""
    assert list(GOLDEN) == ["made by", *MAKER["names"]()]
    assert len(set(GOLDEN.values())) == len(GOLDEN)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", MAKER["names"]())
def test_the_bits(name: str, isa: str) -> None:
    """The logits of each network have the file's bits on each instruction set."""
    with forced_isa(isa):
        assert active_isa() == isa
        assert MAKER["digest"](name) == GOLDEN[name]
