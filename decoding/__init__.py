"""Sampling and decoding for language models: reproducible to the bit, exact, fast, on the CPU.

    from decoding import LLM, SamplingParams
    LLM().complete("def add(a, b):", SamplingParams(max_tokens=32, temperature=0.8, seed=7)).choices[0].text

    from decoding import Sampler, SamplingState        # no model needed: logits in, tokens out
    Sampler(vocab_size).sample(logits, [SamplingState(SamplingParams(top_p=0.95))]).token_ids
"""
from decoding.params import SamplingParams
from decoding.sampler import Sampler, SamplerOutput, SamplingState
