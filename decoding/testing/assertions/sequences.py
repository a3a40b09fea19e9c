"""Exact distributions of short sequences, by enumeration, and a comparison of sampled texts with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from decoding import reference
from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.sampling.stages import PROFILES
from decoding.testing.assertions.distribution import ALPHA, assert_distribution
from decoding.testing.statistics import Array

NextLogits: TypeAlias = Callable[[Sequence[int]], Any]
"""All token ids of a sequence so far -> logits of the next token [vocab]."""

TokenIds: TypeAlias = tuple[int, ...]
Outcome = TypeVar("Outcome", bound=Hashable)


def sequence_distribution(
    next_logits: NextLogits,
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    *,
    num_tokens: int,
    eos_token_ids: Sequence[int] = (),
    profile: str = "openai",
    max_sequences: int = 100_000,
) -> dict[TokenIds, float]:
    """Return the exact probability of every sequence of up to `num_tokens` tokens, by the float64 reference.

        logits = lambda token_ids: llm.logits(token_ids)[-1]
        sequence_distribution(logits, [1], SamplingParams(top_k=4), num_tokens=3)     # 4 ** 3 sequences

    A sequence ends with one of `eos_token_ids` or of params.stop_token_ids, or with its last token. `next_logits` is
    called once per unfinished sequence, so keep the tree small by a truncation or a small vocabulary.

    Raises ParameterError if there are more than `max_sequences`.
    """
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
    growing: dict[TokenIds, float] = {(): 1.0}
    finished: dict[TokenIds, float] = {}
    for _ in range(num_tokens):
        longer: dict[TokenIds, float] = {}
        for token_ids, probability in growing.items():
            row = _row(next_logits, prompt_token_ids, token_ids, params, eos_token_ids, profile)
            for token_id in np.flatnonzero(row).tolist():
                target = finished if token_id in ends else longer
                target[(*token_ids, token_id)] = probability * float(row[token_id])
        if len(finished) + len(longer) > max_sequences:
            rule = f"must be fewer: there are more than max_sequences={max_sequences} of this length"
            raise ParameterError.single("num_tokens", num_tokens, rule)
        growing = longer
    return finished | growing


def _row(
    next_logits: NextLogits,
    prompt: Sequence[int],
    output: TokenIds,
    params: SamplingParams,
    eos_token_ids: Sequence[int],
    profile: str,
) -> Array:
    """Return the distribution of the token after `output`: float64 [vocab]."""
    row = reference.Row(
        logits=np.asarray(next_logits([*prompt, *output]), dtype=np.float32),
        params=params,
        seed=0,
        profile=PROFILES[profile],
        prompt_token_ids=tuple(prompt),
        output_token_ids=output,
        eos_token_ids=tuple(eos_token_ids),
    )
    return reference.sample_row(row).probabilities


def text_distribution(
    sequences: Mapping[TokenIds, float], decode: Callable[[TokenIds], Outcome]
) -> dict[Outcome, float]:
    """Return the probability of every text that `decode` makes of the sequences, summed over those of equal text."""
    texts: dict[Outcome, float] = defaultdict(float)
    for token_ids, probability in sequences.items():
        texts[decode(token_ids)] += probability
    return dict(texts)


def assert_sequences(
    samples: Iterable[Outcome], distribution: Mapping[Outcome, float], *, alpha: float = ALPHA
) -> None:
    """Raise AssertionError unless the samples (token ids as tuples, or texts) can be draws from `distribution`.

    A sample of probability 0 fails at once; all others are tested by `assert_distribution`.
    """
    numbers = {outcome: number for number, outcome in enumerate(distribution)}
    samples = list(samples)
    impossible = [sample for sample in samples if sample not in numbers]
    if impossible:
        raise AssertionError(f"{len(impossible)} samples cannot occur, the first is {impossible[0]!r}")
    draws = [numbers[sample] for sample in samples]
    try:
        assert_distribution(draws, list(distribution.values()), alpha=alpha)
    except AssertionError as error:
        raise AssertionError(f"outcomes are numbered as in `distribution`: {error}") from None
