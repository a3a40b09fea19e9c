"""`decoding explain`: for each generated token, a table of what the stages of the pipeline did."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from decoding.cli.console import add_prompt, read_escapes, read_prompt, show_all_characters
from decoding.cli.explanation_page import ExplanationPage, reasons
from decoding.cli.flags import add_sampling_flags, given_parameters, integer, token_ids
from decoding.cli.model_flags import add_model, add_profile, load_llm
from decoding.errors import ParameterError, TokenizerError
from decoding.params import SamplingParams

if TYPE_CHECKING:
    from decoding.llm import LLM
    from decoding.sampling.explain import Explanation
    from decoding.sampling.sampler import Sampler
    from decoding.sampling.state import SamplingState

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
    command.add_argument("--html", metavar="FILE", help="write the tables as one HTML page, too")
    command.set_defaults(run=_explain)
    add_sampling_flags(command, max_tokens=DEFAULT_MAX_TOKENS)


def _explain(options: argparse.Namespace, _: list[str]) -> None:
    show_all_characters()
    read_escapes(options)
    params = SamplingParams(**{"max_tokens": DEFAULT_MAX_TOKENS, **given_parameters(options)})
    prompt = read_prompt(options)
    llm = load_llm(options.model, options)
    text_of = _text_of(llm)
    page = None if options.html is None else ExplanationPage(prompt, text_of, options.top, options.why_not)
    try:
        for number, explanation in enumerate(explanations(llm, prompt, params), 1):
            print(_section(number, explanation, text_of, options.top, options.why_not), flush=True)
            if page is not None:
                page.add(explanation)
    finally:
        if page is not None and page.num_tokens:  # an error comes after the rows that were explained
            page.write(options.html)


def explanations(llm: LLM, prompt: str, params: SamplingParams) -> Iterator[Explanation]:
    """Yield the explanation of each token while the text is generated; then raise the error of a row that failed."""
    if params.num_candidates > 1:
        raise ParameterError.single("n", params.num_candidates, "must be 1, and best_of too: one text is explained")
    explained: deque[Explanation] = deque()

    def listen(sampler: Sampler, logits: Any, states: Sequence[SamplingState]) -> None:
        explained.append(sampler.explain(logits[0], states[0]))

    for delta in llm.stream(prompt, params, on_error="status", on_sample=listen):
        while explained:
            yield explained.popleft()
        if delta.error is not None:
            raise delta.error


def _section(
    number: int,
    explanation: Explanation,
    text_of: Callable[[int], str],
    num_top: int,
    token_ids: Sequence[int],
) -> str:
    lines = reasons(explanation, text_of, token_ids)
    return "\n".join([f"--- token {number} ---", explanation.table(text_of, num_top), *lines])


def _text_of(llm: LLM) -> Callable[[int], str]:
    """Return a function that returns a token's text in quotes, or its id if the model has no tokenizer."""
    from decoding.engine.logprobs import token_text

    try:
        tokenizer = llm.tokenizer
    except TokenizerError:
        return lambda token_id: repr(token_text(None, token_id))
    return lambda token_id: repr(token_text(tokenizer, token_id))
