"""Hashes of the native forward pass's logits, for the recipes of make_golden.py and WIDE, in every storage type.

    python tests/models/make_hashes.py

writes hashes.json beside this file. The hashes are equal for every instruction set, number of threads, batch and
chunking; they change only with the order of operations, which docs/adr/0010-forward-order.md defines.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.models import load_model

HERE = Path(__file__).parent
COMMAND = "python tests/models/make_hashes.py"
DTYPES = ("F32", "F16", "BF16")
WIDE = {
    "model_type": "mistral",
    "vocab_size": 101,
    "hidden_size": 272,
    "intermediate_size": 528,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "sliding_window": 270,
}
"""A network whose matrices have more than one piece of 256 inputs, and tiles that are not full."""

WIDE_TOKENS = 300  # more than two pieces of attention, and more than the window


def recipes(maker: Any) -> list[Any]:
    """Return the recipes of make_golden.py, then WIDE."""
    return [*maker.recipes(), maker.Recipe("wide", WIDE, num_tokens=WIDE_TOKENS)]


def hash_of(logits: NDArray[np.float32]) -> str:
    """Return a hash of the bits of logits."""
    return hashlib.blake2b(logits.astype("<f4").tobytes(), digest_size=8).hexdigest()


def main() -> None:
    """Write hashes.json."""
    maker, runs = (SimpleNamespace(**runpy.run_path(str(HERE / name))) for name in ("make_golden.py", "runs.py"))
    hashes: dict[str, Any] = {}
    for recipe in recipes(maker):
        hashes[recipe.name] = {}
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder:
                runs.write_recipe(Path(folder), maker, recipe, dtype)
                logits = runs.logits(load_model(folder), recipe.token_ids)
                hashes[recipe.name][dtype] = hash_of(logits)
    (HERE / "hashes.json").write_text(json.dumps({"command": COMMAND, "hashes": hashes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
