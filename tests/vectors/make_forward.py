"""Write forward.json, hashes of native logits of tiny networks: `python tests/vectors/make_forward.py`.

The weights are made of Philox words by integer arithmetic (tests/unit/forward/conftest.py), so they are the same on
every machine, and so must be the bits of the logits. A changed hash means that the results of every request change.
"""

from __future__ import annotations

import hashlib
import json
import runpy
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
GOLDEN = HERE / "forward.json"
KIT = runpy.run_path(str(HERE.parent / "unit" / "forward" / "conftest.py"))
WEIGHT_TYPES = ("float32", "float16", "bfloat16")
LENGTH = 150
"""Number of tokens: two pieces of attention, ten blocks of the cache."""


def names() -> list[str]:
    """Return every kind of network in every storage type."""
    shapes = [shape for shape in KIT["SHAPES"] if shape not in (*WEIGHT_TYPES, "bfloat16_coded")]
    return [f"{shape}, {weight_type}" for shape in shapes for weight_type in WEIGHT_TYPES]


def digest(name: str) -> str:
    """Return the SHA-256 of a network's logits, float32 in little-endian order, for one sequence."""
    shape, _, weight_type = name.rpartition(", ")
    network = KIT["Network"](replace(KIT["SHAPES"][shape], weight_type=weight_type))
    tokens = [(7 * i + i * i) % network.shape.vocab_size for i in range(LENGTH)]
    return hashlib.sha256(KIT["alone"](network, tokens).astype("<f4").tobytes()).hexdigest()


def main() -> None:
    """Write the file."""
    lines = {"made by": "python tests/vectors/make_forward.py"} | {name: digest(name) for name in names()}
    GOLDEN.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
