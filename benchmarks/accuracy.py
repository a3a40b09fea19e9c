"""Errors of results against float64: `python -m benchmarks.accuracy`.

Without arguments: the sampler's exp and log-probabilities. With `--model PATH`: the logits of a model, ours and those
of transformers, or of llama.cpp for a GGUF file (benchmarks/forward_accuracy.py).

In the sampler the weight of a token is read back from `Sampler.probabilities`: for a row whose maximum is 0,
W_i / W_max is exactly the kernel's exp(l_i / T), and float64 division of two integers below 2^63 adds at most 1.1e-16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks import forward_accuracy
from decoding import Sampler, SamplingParams, SamplingState

BLOCK = 1 << 18


def weight_errors(temperature: float, low: float, num_rows: int) -> tuple[float, float]:
    """Largest and root-mean-square relative error of exp(l / T), l / T uniform in [low, 0]."""
    sampler = Sampler(BLOCK)
    rng = np.random.Generator(np.random.Philox(key=2))
    squares, worst = 0.0, 0.0
    for _ in range(num_rows):
        row = (rng.uniform(low, 0.0, BLOCK) * temperature).astype(np.float32)
        row[0] = 0.0
        state = SamplingState(SamplingParams(temperature=temperature, seed=0))
        weights = sampler.probabilities(row, [state])[0]
        exact = np.exp(row.astype(np.float64) / np.float64(np.float32(temperature)))
        error = weights / weights[0] / exact - 1.0
        worst = max(worst, float(np.abs(error).max()))
        squares += float(np.square(error).mean()) / num_rows
    return worst, squares**0.5


def logprob_error(scale: float, vocab_size: int, num_rows: int) -> float:
    """Largest error of raw log-probabilities, beyond one float32 ulp, on normal logits of this scale."""
    sampler = Sampler(vocab_size)
    rng = np.random.Generator(np.random.Philox(key=3))
    worst = 0.0
    for _ in range(num_rows):
        row = (rng.standard_normal(vocab_size) * scale).astype(np.float32)
        output = sampler.score(row, [0], num_top=1000)
        exact = row.astype(np.float64) - row.max()
        exact -= np.log(np.exp(exact).sum())
        listed = exact[output.top_token_ids[0]]
        worst = max(worst, float(np.abs(output.top_logprobs[0] - listed).max()))
    return worst


def main() -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a checkpoint folder or a .gguf file")
    parser.add_argument("--tokens", type=int, default=512, help="length of the sequence")
    parser.add_argument("--quantization", help="also compare a checkpoint that is quantised at load: q8_0 or q4_0")
    parser.add_argument("--ids", type=Path, help="a JSON file with a list of token ids")
    options = parser.parse_args()
    if options.model is None:
        report_sampler()
    else:
        forward_accuracy.report(options.model, options.tokens, options.ids, options.quantization)


def report_sampler() -> None:
    """Print one table for exp, one for log-probabilities."""
    print("exp(l / T), relative error           largest        rms     (float32 ulp: 1.2e-7)")
    for temperature in (1.0, 0.7, 2.0, 100.0):
        worst, rms = weight_errors(temperature, -13.0, 40)
        print(f"  T = {temperature:<6} l / T in [-13, 0]      {worst:9.2e}  {rms:9.2e}")
    print("raw log-probabilities, first 1,000 of the row, absolute error")
    for scale in (0.01, 1.0, 4.0, 10.0):
        print(f"  151,936 logits, N(0, {scale:g}^2)        {logprob_error(scale, 151_936, 8):9.2e}")


if __name__ == "__main__":
    main()
