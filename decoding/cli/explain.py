"""`decoding explain`: for each generated token, a table of what the stages of the pipeline did."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from decoding.cli.console import add_prompt, read_escapes, read_prompt, show_all_characters
from decoding.cli.flags import add_sampling_flags, given_parameters, integer, token_ids
from decoding.cli.model_flags import add_model, add_profile, load_llm
from decoding.errors import ParameterError, TokenizerError
from decoding.params import SamplingParams

if TYPE_CHECKING:
    from decoding.llm import LLM
    from decoding.sampling.explain import Explanation
    from decoding.sampling.sampler import Sampler
    from decoding.sampling.state import SamplingState
    from decoding.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 8


def add_explain(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "explain",
        help="show what each stage of sampling does",
        description="Complete a prompt and print a table for each token: the tokens that each stage of the pipeline"
        " keeps, the mass that it removes, the entropy after it, and the most likely tokens.",
    )
    add_prompt(command)
    add_model(command)
    add_profile(command)
    command.add_argument("--top", type=integer, default=5, metavar="N", help="most likely tokens to show (default: 5)")
    command.add_argument(
        "--why-not", type=token_ids, default=[], metavar="ID,...", help="print why these tokens could not be drawn"
    )
    command.set_defaults(run=_explain)
    add_sampling_flags(command, max_tokens=DEFAULT_MAX_TOKENS)


def _explain(options: argparse.Namespace, _: list[str]) -> None:
    show_all_characters()
    read_escapes(options)
    params = SamplingParams(**{"max_tokens": DEFAULT_MAX_TOKENS, **given_parameters(options)})
    prompt = read_prompt(options)
    for lines in explained(load_llm(options.model, options), prompt, params, options.top, options.why_not):
        print(lines, flush=True)


def explained(llm: LLM, prompt: str, params: SamplingParams, num_top: int, token_ids: Sequence[int]) -> Iterator[str]:
    """Yield a text for each token while it is generated; `token_ids`: explain why these could not be drawn."""
    if params.num_candidates > 1:
        raise ParameterError.single("n", params.num_candidates, "must be 1, and best_of too: one text is explained")
    explanations: list[Explanation] = []

    def listen(sampler: Sampler, logits: Any, states: Sequence[SamplingState]) -> None:
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
    from decoding.engine.logprobs import token_text

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
