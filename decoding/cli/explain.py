"""`decoding explain`: for each generated token, a table of what the stages of the pipeline did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from decoding.engine.logprobs import token_text
from decoding.engine.model_types import Logits
from decoding.errors import ParameterError, TokenizerError
from decoding.llm import LLM
from decoding.params import SamplingParams
from decoding.sampling.explain import Explanation
from decoding.sampling.sampler import Sampler
from decoding.sampling.state import SamplingState
from decoding.text.tokenizer import Tokenizer


def explained(llm: LLM, prompt: str, params: SamplingParams, num_top: int, token_ids: Sequence[int]) -> Iterator[str]:
    """A text for each token, while it is generated; `token_ids`: say why these could not be drawn."""
    if params.num_candidates > 1:
        raise ParameterError.single("n", params.num_candidates, "must be 1, and best_of too: one text is explained")
    explanations: list[Explanation] = []

    def listen(sampler: Sampler, logits: Logits, states: Sequence[SamplingState]) -> None:
        explanations.append(sampler.explain(logits[0], states[0]))

    tokenizer, num_shown = _tokenizer_of(llm), 0
    for delta in llm.stream(prompt, params, on_error="status", on_sample=listen):
        for explanation in explanations[num_shown:]:
            num_shown += 1
            yield _section(num_shown, explanation, tokenizer, num_top, token_ids)
        if delta.error is not None:
            raise delta.error


def _section(
    number: int, explanation: Explanation, tokenizer: Tokenizer | None, num_top: int, token_ids: Sequence[int]
) -> str:
    def text_of(token_id: int) -> str:
        return repr(token_text(tokenizer, token_id))

    reasons = ((token_id, explanation.why_not(token_id)) for token_id in token_ids)
    lines = [f"{token_id} {text_of(token_id)}: {reason or 'could be drawn'}" for token_id, reason in reasons]
    return "\n".join([f"--- token {number} ---", explanation.table(text_of, num_top), *lines])


def _tokenizer_of(llm: LLM) -> Tokenizer | None:
    try:
        return llm.tokenizer
    except TokenizerError:
        return None
