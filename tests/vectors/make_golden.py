"""Golden hashes of drawn tokens and log-probability bits, on logits made by Philox.

    python tests/vectors/make_golden.py          # writes golden.json beside this file

A hash changes only with the stream version: any other change of these bits breaks the promise of docs/semantics.md,
section 2. Logits are made from integers alone, so that no version of numpy and no libm can move them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decoding.kernel import STREAM_VERSION, active_isa
from decoding.params import SamplingParams
from decoding.sampler import Sampler, SamplingState

GOLDEN = Path(__file__).with_name("golden.json")
COMMAND = "python tests/vectors/make_golden.py"
NUM_STEPS = 3


@dataclass(frozen=True)
class Recipe:
    """One case: `num_rows` sequences over `vocab_size` tokens, NUM_STEPS tokens each, all with the same parameters.

    bits: how many bits a logit has. Logits are multiples of 2**(5 - bits) from -16 up to 16: the fewer, the more ties.
    """

    name: str
    vocab_size: int
    num_rows: int = 16
    bits: int = 24
    dtype: str = "float32"
    params: dict[str, Any] = field(default_factory=dict)


def recipes() -> list[Recipe]:
    """Every stage by itself, all together, every dtype, sizes around lanes, words and blocks."""
    usual = {"temperature": 0.8, "top_p": 0.95, "logprobs": 5}
    penalties = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3}
    stages = {
        "neutral": {},
        "greedy": {"temperature": 0.0},
        "cold": {"temperature": 0.05},
        "hot": {"temperature": 1e30},
        "top_k": {"top_k": 7},
        "top_p": {"top_p": 0.7},
        "min_p": {"min_p": 0.02},
        "penalties": penalties,
        "context_frequency": {"context_frequency_penalty": 0.7},
        "bias": {"logit_bias": {0: 9.0, 17: -3.5, 255: 12.0}},
        "masks": {"banned_token_ids": [3, 5], "allowed_token_ids": list(range(1, 250, 2))},
        "all": usual | penalties | {"top_k": 50, "min_p": 0.001, "logit_bias": {1: 2.0}},
    }
    modes = {mode: usual | {"logprobs_mode": mode} for mode in ("raw", "penalized", "scaled", "final")}
    return [
        *(Recipe(f"stage-{name}", 300, params={"logprobs": 5} | p) for name, p in stages.items()),
        *(Recipe(f"ties-{name}", 300, bits=4, params={"logprobs": 5} | p) for name, p in stages.items()),
        *(Recipe(f"mode-{name}", 1000, params=p) for name, p in modes.items()),
        *(Recipe(f"size-{n}", n, params=usual | {"logprobs": 1}) for n in (1, 2, 15, 16, 17, 31, 33, 255, 256, 257)),
        *(Recipe(f"dtype-{d}", 4097, 4, bits=8, dtype=d, params=usual) for d in ("float32", "float16", "bfloat16")),
        Recipe("real-size", 128_256, 4, params=usual),
    ]


def make_logits(recipe: Recipe, step: int) -> np.ndarray:
    """Logits [num_rows, vocab_size] from the raw words of Philox, keyed by the recipe's name and the step."""
    key = int.from_bytes(hashlib.blake2b(recipe.name.encode(), digest_size=8).digest(), "little")
    words = np.random.Philox(key=[key, step]).random_raw(recipe.num_rows * recipe.vocab_size)
    integers = (words >> np.uint64(64 - recipe.bits)).astype(np.int64) - 2 ** (recipe.bits - 1)
    logits = (integers.astype(np.float64) * 2.0 ** (5 - recipe.bits)).astype(np.float32)  # exact
    logits = logits.reshape(recipe.num_rows, recipe.vocab_size)
    if recipe.dtype == "bfloat16":
        return (logits.view(np.uint32) >> 16).astype(np.uint16)  # 8 bits: exact
    return logits.astype(recipe.dtype)


def digest(recipe: Recipe, make: Callable[[Recipe, int], np.ndarray] = make_logits) -> str:
    """BLAKE2b over everything that `sample` reports in NUM_STEPS steps, little-endian."""
    prompt = [row % recipe.vocab_size for row in (0, 1, 1, 2)]
    params = SamplingParams(seed=-7, **recipe.params)
    states = [SamplingState(params, prompt, choice=row, stream=row * 2**40) for row in range(recipe.num_rows)]
    sampler = Sampler(recipe.vocab_size)
    bits = hashlib.blake2b(digest_size=16)
    for step in range(NUM_STEPS):
        output = sampler.sample(make(recipe, step), states)
        for array in (output.token_ids, output.ranks, output.top_token_ids):
            bits.update(array.astype("<i4").tobytes())
        for array in (output.logprobs, output.top_logprobs):
            bits.update(array.astype("<f4").view("<u4").tobytes())
    return bits.hexdigest()


def main() -> None:
    """Write golden.json."""
    digests = {recipe.name: digest(recipe) for recipe in recipes()}
    content = {"command": COMMAND, "stream_version": STREAM_VERSION, "digests": digests}
    GOLDEN.write_text(json.dumps(content, indent=2) + "\n")
    print(f"{len(digests)} hashes, made on {active_isa()}: {GOLDEN}")


if __name__ == "__main__":
    main()
