"""Sampling and decoding for language models: reproducible to the bit, exact, fast, on the CPU.

    from decoding import LLM, SamplingParams
    LLM().complete("def add(a, b):", SamplingParams(max_tokens=32, temperature=0.8, seed=7)).choices[0].text

    from decoding import Sampler, SamplingState        # no model needed: logits in, tokens out
    Sampler(vocab_size).sample(logits, [SamplingState(SamplingParams(top_p=0.95))]).token_ids

Every error raised on purpose is a DecodingError; decoding.errors draws the tree. The documents that docstrings name,
such as docs/semantics.md, are installed in the folder of the package, os.path.dirname(decoding.__file__).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from decoding.version import __version__

if TYPE_CHECKING:
    from decoding.async_engine import AsyncEngine
    from decoding.engine.beam_params import BeamSearchParams
    from decoding.engine.outputs import Choice, CompletionResult, Delta, Logprobs, Usage
    from decoding.errors import DecodingError, LogitsError, ModelError, ParameterError, PromptError
    from decoding.llm import LLM
    from decoding.params import SamplingParams
    from decoding.sampling.batch_sampler import BatchSampler
    from decoding.sampling.sampler import Sampler, SamplerOutput
    from decoding.sampling.state import SamplingState

__all__ = [
    "LLM",
    "AsyncEngine",
    "BatchSampler",
    "BeamSearchParams",
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

_HOMES = {
    "decoding.async_engine": {"AsyncEngine"},
    "decoding.engine.beam_params": {"BeamSearchParams"},
    "decoding.engine.outputs": {"Choice", "CompletionResult", "Delta", "Logprobs", "Usage"},
    "decoding.errors": {"DecodingError", "LogitsError", "ModelError", "ParameterError", "PromptError"},
    "decoding.llm": {"LLM"},
    "decoding.params": {"SamplingParams"},
    "decoding.sampling.batch_sampler": {"BatchSampler"},
    "decoding.sampling.sampler": {"Sampler", "SamplerOutput"},
    "decoding.sampling.state": {"SamplingState"},
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used.

    So `import decoding` and `decoding --help` are fast, and an installation that cannot work (no compiled module, an
    unknown DECODING_ISA) raises its own error on first use.
    """
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'decoding' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
