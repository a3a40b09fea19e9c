"""The prompt in a result: its text, and with echo its tokens and their log-probabilities."""

from __future__ import annotations

from decoding.engine.logprobs import OffsetCounter, TokenScore, token_logprob
from decoding.engine.outputs import TokenLogprob
from decoding.engine.request import Request
from decoding.engine.transcript import NO_PREFIX, Prefix
from decoding.text.detokenizer import Detokenizer
from decoding.text.tokenizer import Tokenizer


def shown_prompt(request: Request, tokenizer: Tokenizer | None, scores: list[TokenScore]) -> Prefix:
    """Return the text, tokens and scores that precede the output of a request's candidates.

    scores: of the prompt's tokens except the first, as far as they are computed.
    """
    params = request.params
    if not params.echo and params.logprobs is None:
        return NO_PREFIX  # nobody sees the text or counts its characters
    pieces = _pieces(request, tokenizer)
    entries = [] if params.logprobs is None else _entries(request, tokenizer, pieces, scores)
    return Prefix(b"".join(pieces), request.prefix_token_ids, entries)


def _pieces(request: Request, tokenizer: Tokenizer | None) -> list[bytes]:
    """Return the bytes of the caller's own part of the prompt, token by token."""
    if tokenizer is None:
        return [b""] * len(request.prefix_token_ids)
    detokenizer = Detokenizer(tokenizer, (), request.params.skip_special_tokens)
    return [detokenizer.append(token_id) for token_id in request.prefix_token_ids]


def _entries(
    request: Request, tokenizer: Tokenizer | None, pieces: list[bytes], scores: list[TokenScore]
) -> list[TokenLogprob]:
    """Return the entries of the caller's own part of the prompt.

    By contract the first entry has no log-probability, even behind a marker; nor do tokens that were not scored.
    """
    offsets = OffsetCounter()
    first = request.prefix.start
    skips = request.params.skip_special_tokens and tokenizer is not None
    entries = []
    for index, (token_id, data) in enumerate(zip(request.prefix_token_ids, pieces, strict=True), first):
        score = scores[index - 1] if index > first and index - 1 < len(scores) else None
        is_hidden = not data and skips and tokenizer is not None and tokenizer.is_special(token_id)
        entries.append(token_logprob(tokenizer, token_id, None if is_hidden else data, offsets.add(data), score))
    return entries
