"""Write a plan of every tiny network to a folder, to test a build of csrc/example_forward.c on another machine.

    python forward_plans.py FOLDER

The folder gets a file NAME.plan per network, and NAME.expected, the output of `example_forward NAME.plan 20 1 2 3`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np

from decoding.models.native_file import write_plan

KIT = runpy.run_path(str(Path(__file__).resolve().parents[1] / "unit" / "forward" / "conftest.py"))
PROMPT, COUNT = [1, 2, 3], 20


def greedy(network: Any, prompt: list[int], count: int) -> str:
    """Return the output of csrc/example_forward.c: tokens, and a hash of all bits of their logits."""
    runner = KIT["Runner"](network)
    runner.add(0, range(8))
    tokens, hashed = list(prompt), 0xCBF29CE484222325
    for _ in range(count):
        new = tokens[runner.lengths[0] :]
        (row,) = runner.step({0: new}, [len(new) - 1])
        for bits in row.view(np.uint32).tolist():
            hashed = (hashed ^ bits) * 0x100000001B3 % 2**64
        tokens.append(int(row.argmax()))
    return "".join(f"{token} " for token in tokens[len(prompt) :]) + f"\n{hashed:016x}\n"


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for name, shape in KIT["SHAPES"].items():
        network, stem = KIT["Network"](shape), name.replace(" ", "-")
        with (folder / f"{stem}.plan").open("wb") as file:
            write_plan(file, network.plan, network.frequencies, [1.0] * len(network.frequencies))
        (folder / f"{stem}.expected").write_text(greedy(network, PROMPT, COUNT))


if __name__ == "__main__":
    main()
