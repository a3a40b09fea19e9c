"""Our sampler in llama-cpp-python, in place of llama.cpp's sampler chain (the extra `llama-cpp`).

    llama = llama_cpp.Llama("model.gguf", n_ctx=2048)
    for token_id in generate(llama, llama.tokenize(b"Once upon a time"), SamplingParams(max_tokens=64, seed=7)):
        ...

`generate` reads the logits of the low-level context in place. For the library's own
`create_completion` there is a logits processor, which leaves only the drawn token possible:

    processors = LogitsProcessorList([SamplerProcessor(llama, params)])
    llama.create_completion(text, temperature=0, logits_processor=processors)
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from weakref import WeakKeyDictionary

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from decoding.adapters.rows import OF_OUR_LOOP, RowSampler, check_params, new_state
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import Profile
from decoding.sampling.state import SamplingState


def generate(
    llama: llama_cpp.Llama,
    token_ids: Sequence[int],
    params: SamplingParams,
    *,
    choice: int = 0,
    profile: str | Profile = "openai",
) -> Iterator[int]:
    """Yield the token ids that follow a prompt, without the one that ends the text.

    max_tokens None goes on to the end of the context. Ends at an end-of-generation token unless ignore_eos, and at
    stop_token_ids. Raises ParameterError for parameters that need text or several sequences.
    """
    check_params(params, OF_OUR_LOOP)
    eos = eos_token_ids(llama)
    state = new_state(params, token_ids, choice=choice, eos_token_ids=eos)
    sampler = Sampler(llama.n_vocab(), profile=profile)
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else eos)}
    room = llama.n_ctx() - len(token_ids)
    return _generate(llama, sampler, state, ends, room if params.max_tokens is None else min(room, params.max_tokens))


def _generate(
    llama: llama_cpp.Llama, sampler: Sampler, state: SamplingState, ends: Container[int], num_tokens: int
) -> Iterator[int]:
    llama.reset()
    new = list(state.prompt_token_ids)
    while state.position < num_tokens:
        llama.eval(new)
        pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, (sampler.vocab_size,))
        (token_id,) = sampler.sample(logits, [state]).token_ids.tolist()
        if token_id in ends:
            return
        yield token_id
        new = [token_id]


class SamplerProcessor:
    """Logits processor for the high-level methods of `llama_cpp.Llama` with temperature=0. It serves one call."""

    def __init__(self, llama: llama_cpp.Llama, params: SamplingParams, *, profile: str | Profile = "openai") -> None:
        self._rows = RowSampler(llama.n_vocab(), params, eos_token_ids=eos_token_ids(llama), profile=profile)

    def __call__(self, input_ids: NDArray[np.intc], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores [vocab] in which the drawn token is 0, and all others are -inf."""
        (token_id,) = self._rows.draw([input_ids.tolist()], np.ascontiguousarray(scores, np.float32))
        forced = np.full_like(scores, -np.inf)
        forced[token_id] = 0.0
        return forced


def eos_token_ids(llama: llama_cpp.Llama) -> tuple[int, ...]:
    """Return the tokens that llama.cpp takes for the end of a text; looked up once per model."""
    if llama not in _ends:
        vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
        _ends[llama] = tuple(i for i in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, i))
    return _ends[llama]


_ends: WeakKeyDictionary[llama_cpp.Llama, tuple[int, ...]] = WeakKeyDictionary()
