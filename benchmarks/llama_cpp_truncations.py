"""Compare the profile llama_cpp with llama.cpp itself: `python -m benchmarks.llama_cpp_truncations`.

Needs llama-cpp-python. Each line asks both for the tokens that truncations keep of rows of normal logits, and counts
the rows whose sets differ. llama.cpp sums and divides in float32. `mass` is the largest distance, over all rows,
between the cumulative mass at llama.cpp's last token and the threshold in float64.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding import Sampler, SamplingParams, SamplingState

Row = NDArray[np.float32]
SCALES = (1.0, 2.0, 4.0)
ASKED: tuple[dict[str, Any], ...] = (
    {"top_k": 40},
    {"min_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 0.95},
    {"typical_p": 0.9},
    {"top_n_sigma": 1.0},
    {"top_n_sigma": 1.0, "top_p": 0.95},
    {"top_n_sigma": 1.0, "typical_p": 0.9},
)


class Difference(NamedTuple):
    """The rows compared, the rows with another set, the rows where llama.cpp returns NaN; and `mass`, or None."""

    num_rows: int
    num_different: int
    num_nan: int
    mass: float | None


class LlamaCpp:
    """llama.cpp's samplers, in the order of its default chain, without a model."""

    def __init__(self) -> None:
        self._lib: Any = importlib.import_module("llama_cpp")
        self.version: str = self._lib.__version__

    def kept(self, row: Row, params: dict[str, Any]) -> tuple[NDArray[np.int64], bool]:
        """Return the kept ids in ascending order, and True if a probability of the result is NaN."""
        lib = self._lib
        array = (lib.llama_token_data * len(row))(*((index, logit, 0.0) for index, logit in enumerate(row.tolist())))
        candidates = lib.llama_token_data_array(array, len(row), -1, False)
        for sampler in (*self._chain(params), lib.llama_sampler_init_dist(1)):
            lib.llama_sampler_apply(sampler, ctypes.byref(candidates))
            lib.llama_sampler_free(sampler)
        left = candidates.data[: candidates.size]
        has_nan = any(token.p != token.p for token in left)
        return np.sort([token.id for token in left if token.logit > -np.inf]), has_nan

    def _chain(self, params: dict[str, Any]) -> list[Any]:
        lib = self._lib
        return [
            lib.llama_sampler_init_top_n_sigma(params.get("top_n_sigma", -1.0)),
            lib.llama_sampler_init_top_k(params.get("top_k", 0)),
            lib.llama_sampler_init_typical(params.get("typical_p", 1.0), 1),
            lib.llama_sampler_init_top_p(params.get("top_p", 1.0), 1),
            lib.llama_sampler_init_min_p(params.get("min_p", 0.0), 1),
        ]


def rows(vocab_size: int, num_rows: int) -> list[Row]:
    """Return rows of normal logits; scales take turns."""
    rng = np.random.Generator(np.random.Philox(key=4))
    scales = [SCALES[index % len(SCALES)] for index in range(num_rows)]
    return [(rng.standard_normal(vocab_size) * scale).astype(np.float32) for scale in scales]


def ours(sampler: Sampler, row: Row, params: dict[str, Any]) -> NDArray[np.int64]:
    """Return the ids that our sampler keeps, in ascending order."""
    return np.flatnonzero(sampler.probabilities(row, [SamplingState(SamplingParams(seed=0, **params))])[0])


def compare(peer: LlamaCpp, asked: Sequence[Row], params: dict[str, Any]) -> Difference:
    """Return the differences over all rows."""
    sampler = Sampler(len(asked[0]), profile="llama_cpp")
    num_different = num_nan = 0
    distances = []
    for row in asked:
        kept, has_nan = peer.kept(row, params)
        num_nan += has_nan
        if not np.array_equal(kept, ours(sampler, row, params)):
            num_different += 1
        if params.keys() == {"top_p"}:
            distances.append(_distance(row, len(kept), params["top_p"]))
    return Difference(len(asked), num_different, num_nan, max(distances, default=None))


def _distance(row: Row, num_kept: int, top_p: float) -> float:
    """Return how far p is from the interval of thresholds that keep exactly so many tokens, in float64."""
    exact = np.sort(row.astype(np.float64))[::-1]
    mass = np.cumsum(np.exp(exact - exact[0]))
    mass /= mass[-1]
    before = mass[num_kept - 2] if num_kept > 1 else 0.0
    return float(max(0.0, before - top_p, top_p - mass[num_kept - 1]))


def main() -> None:
    """Print one line per set of parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=49_152, help="logits per row")
    parser.add_argument("--rows", type=int, default=24, help="rows to ask about")
    options = parser.parse_args()
    peer, asked = LlamaCpp(), rows(options.vocab, options.rows)
    print(f"llama.cpp of llama-cpp-python {peer.version}; rows of {options.vocab:,} normal logits")
    print(f"  {'':40} {'rows':>5} {'differ':>7} {'NaN':>5} {'mass':>9}")
    for params in ASKED:
        found = compare(peer, asked, params)
        name = ", ".join(f"{key}={value}" for key, value in params.items())
        mass = "" if found.mass is None else f"{found.mass:.1e}"
        print(f"  {name:40} {found.num_rows:5} {found.num_different:7} {found.num_nan:5} {mass:>9}", flush=True)


if __name__ == "__main__":
    main()
