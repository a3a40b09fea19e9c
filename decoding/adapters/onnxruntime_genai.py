"""Our sampler in onnxruntime-genai's generator loop (the extra `onnxruntime-genai`).

    model = onnxruntime_genai.Model("folder")
    for token_ids in generate(model, [tokens], SamplingParams(max_tokens=64, seed=7)):
        ...

The library computes logits and keeps keys and values; in place of its `generate_next_token`, the sampler draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime_genai

from decoding.adapters.rows import OF_OUR_LOOP, check_params, new_state
from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import Profile


def generate(
    model: onnxruntime_genai.Model,
    token_ids: Sequence[int],
    params: SamplingParams,
    *,
    max_length: int,
    eos_token_ids: Sequence[int] = (),
    choice: int = 0,
    profile: str | Profile = "openai",
) -> Iterator[int]:
    """Yield the token ids that follow a prompt, without the one that ends the text.

    max_length: tokens of prompt and output together; the library reserves memory for all of them.
    eos_token_ids: the model's end tokens.
    Raises ParameterError for parameters that need text or several candidates.
    """
    check_params(params, OF_OUR_LOOP)
    if not 1 <= len(token_ids) < max_length:
        raise ParameterError.single("token_ids", f"{len(token_ids)} of them", f"must be 1 to {max_length - 1:,}")
    settings = onnxruntime_genai.GeneratorParams(model)
    settings.set_search_options(max_length=max_length, batch_size=1)
    generator = onnxruntime_genai.Generator(model, settings)
    state = _Row(params, token_ids, choice, eos_token_ids, profile)
    return state.run(generator, max_length - len(token_ids))


class _Row:
    """One sequence: its state, its end tokens, and the sampler, made once logits show the vocabulary's size."""

    def __init__(
        self,
        params: SamplingParams,
        token_ids: Sequence[int],
        choice: int,
        eos_token_ids: Sequence[int],
        profile: str | Profile,
    ) -> None:
        self.state = new_state(params, token_ids, choice=choice, eos_token_ids=eos_token_ids)
        self.ends = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
        self.profile = profile

    def run(self, generator: onnxruntime_genai.Generator, room: int) -> Iterator[int]:
        """Yield drawn token ids until one ends the sequence, or until there are `room` or max_tokens of them."""
        limit = self.state.params.max_tokens
        num_tokens = room if limit is None else min(room, limit)
        new = np.array(self.state.prompt_token_ids, np.int32)
        sampler = None
        while self.state.position < num_tokens:
            generator.append_tokens(new[None])
            logits = np.ascontiguousarray(generator.get_logits()[0, -1:], np.float32)  # [1, vocab]
            sampler = sampler or Sampler(logits.shape[1], profile=self.profile)
            (token_id,) = sampler.sample(logits, [self.state]).token_ids.tolist()
            if token_id in self.ends:
                return
            yield token_id
            new = np.array([token_id], np.int32)
