"""Sampling and decoding for language models: reproducible to the bit, exact, fast, on the CPU.

    from decoding import LLM, SamplingParams
    LLM().complete("def add(a, b):", SamplingParams(max_tokens=32, temperature=0.8, seed=7)).choices[0].text

    from decoding import Sampler, SamplingState        # no model needed: logits in, tokens out
    Sampler(vocab_size).sample(logits, [SamplingState(SamplingParams(top_p=0.95))]).token_ids

Every error raised on purpose is a DecodingError; decoding.errors draws the tree.
"""

from decoding.engine.outputs import Choice, CompletionResult, Delta, Logprobs, Usage
from decoding.errors import DecodingError, LogitsError, ModelError, ParameterError, PromptError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.sampler import Sampler, SamplerOutput, SamplingState
from decoding.version import __version__

__all__ = [
    "LLM",
    "Choice",
    "CompletionResult",
    "DecodingError",
    "Delta",
    "LogitsError",
    "Logprobs",
    "ModelError",
    "ParameterError",
    "PromptError",
    "Sampler",
    "SamplerOutput",
    "SamplingParams",
    "SamplingState",
    "Usage",
    "__version__",
]
