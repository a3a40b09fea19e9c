"""A decoding loop for onnxruntime with our sampler (the extra `onnxruntime`).

    backend = OnnxBackend("folder-with-model.onnx")
    for row, token_id in generate(backend, [[1, 2, 3], [4, 5]], SamplingParams(max_tokens=64, seed=7)):
        ...

The session and its keys and values are those of `decoding.backends.onnxruntime`; this is the loop of a host that wants
neither our engine nor text. One forward pass per sequence, one call of the sampler per step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from decoding.adapters.rows import OF_OUR_LOOP, check_params, new_state
from decoding.backends.protocol import Backend, Chunk
from decoding.errors import ContextLengthError, ParameterError
from decoding.params import SamplingParams
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import Profile


def generate(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    profile: str | Profile = "openai",
) -> Iterator[tuple[int, int]]:
    """Yield (number of the prompt, token id) as tokens are drawn, without those that end a text.

    A text ends at max_tokens, the context, an end token (unless ignore_eos) or stop_token_ids. Raises ParameterError
    for parameters that need text or several candidates, or for more prompts than the backend keeps sequences.
    """
    check_params(params, OF_OUR_LOOP)
    if not 1 <= len(prompts) <= backend.num_sequences:
        raise ParameterError.single("prompts", f"{len(prompts)} of them", f"must be 1 to {backend.num_sequences}")
    for prompt in prompts:
        if not 1 <= len(prompt) <= backend.max_tokens:
            raise ContextLengthError(len(prompt), backend.max_tokens)
    return _generate(backend, prompts, params, Sampler(backend.vocab_size, profile=profile))


def _generate(
    backend: Backend, prompts: Sequence[Sequence[int]], params: SamplingParams, sampler: Sampler
) -> Iterator[tuple[int, int]]:
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else backend.eos_token_ids)}
    states = [new_state(params, prompt, eos_token_ids=backend.eos_token_ids) for prompt in prompts]
    for row in range(len(prompts)):
        backend.truncate(row, 0)
    chunks = [Chunk(row, 0, list(prompt), 1) for row, prompt in enumerate(prompts)]
    while chunks:
        rows = [chunk.sequence for chunk in chunks]
        output = sampler.sample(backend.forward(chunks), [states[row] for row in rows])
        going_on = []
        for chunk, token_id in zip(chunks, output.token_ids.tolist(), strict=True):
            row, start = chunk.sequence, chunk.start + len(chunk.token_ids)
            if token_id in ends:
                continue
            yield row, token_id
            if start < backend.max_tokens and (params.max_tokens is None or states[row].position < params.max_tokens):
                going_on.append(Chunk(row, start, [token_id], 1))
        chunks = going_on
