"""Stage hard_masks: bans tokens, whatever their logits. It is the last edit, so that no edit revives a banned token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from decoding.reference.logits import require_support
from decoding.reference.row import Array, Row, total_order


def apply_hard_masks(row: Row) -> None:
    """Set each banned token to -inf, and put the others in the total order."""
    row.logits = np.where(_allowed(row), row.logits, np.float32(-np.inf))
    require_support(row, "hard_masks")
    row.ranked, row.order = row.logits, total_order(row.logits)
    row.whole = np.subtract(row.logits, row.logits.max(), dtype=np.float64)


def _allowed(row: Row) -> Array:
    params, vocab_size = row.params, len(row.logits)
    allowed = np.ones(vocab_size, dtype=bool)
    if params.allowed_token_ids is not None:
        allowed[:] = False
        allowed[list(params.allowed_token_ids)] = True
    allowed[list(params.banned_token_ids)] = False
    allowed[list(completed_ngrams(row.context, params.no_repeat_ngram_size))] = False
    allowed[list(completed_words(row.context, params.bad_words))] = False
    if len(row.output_token_ids) < params.min_tokens:
        allowed[list(params.stop_token_ids)] = False
        allowed[[] if params.ignore_eos else list(row.eos_token_ids)] = False
    if row.bitmask is not None:
        allowed &= unpack_bitmask(row.bitmask, vocab_size)
    if row.num_valid_tokens is not None:
        allowed[row.num_valid_tokens :] = False
    return allowed


def completed_ngrams(context: Sequence[int], size: int | None) -> set[int]:
    """Return the tokens that would complete an n-gram of `size` tokens that the context has already.

    Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", 2.5; transformers'
    NoRepeatNGramLogitsProcessor. Size 1 bans every token of the context.
    """
    if size is None or len(context) < size:
        return set()
    start = context[len(context) - size + 1 :]
    return {context[i + size - 1] for i in range(len(context) - size + 1) if context[i : i + size - 1] == start}


def completed_words(context: Sequence[int], words: Iterable[Sequence[int | str]]) -> set[int]:
    """Return the last token of each word whose other tokens end the context (transformers' bad words)."""
    ends = ((list(word[:-1]), word[-1]) for word in words)
    return {int(last) for start, last in ends if context[len(context) - len(start) :] == start}


def unpack_bitmask(bitmask: Array, vocab_size: int) -> Array:
    """Unpack uint32 [ceil(vocab_size / 32)] to bool [vocab_size]: token i is bit i % 32 of word i // 32."""
    token_ids = np.arange(vocab_size)
    bits = bitmask.astype(np.uint32)[token_ids // 32] >> (token_ids % 32).astype(np.uint32)  # [vocab_size]
    return np.asarray(bits & 1 == 1)
