"""Check a SamplingState: its arguments, its token ids against a vocabulary, its parameters against stages."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.sampling.stages import ignored_parameter
from decoding.sequence_table import SequenceTable
from decoding.types import TokenSequence
from decoding.validation import is_integer, is_real

if TYPE_CHECKING:
    from decoding.sampling.state import SamplingState

_SEQUENCES = ("dry_sequence_breakers", "bad_words")


class Fit(NamedTuple):
    """The vocabulary and the stages of a sampler, which a state must fit.

    vocab_size: the vocabulary size that token ids and the bitmask must fit.
    lacking: names of the stages that the sampler's profile leaves out, whose parameters would be ignored.
    """

    vocab_size: int
    lacking: Collection[str] = ()


def check_ids(state: SamplingState, vocab_size: int) -> None:
    """Raise ParameterError naming the first id that is outside a vocabulary of this size."""
    if state.kernel_row.reads_history:
        _check_history("prompt_token_ids", state.prompt_ids, vocab_size)
        _check_history("output_token_ids", np.asarray(state.output_token_ids, np.int32), vocab_size)
    for name, ids in _named_ids(state).items():
        if max(ids, default=-1) >= vocab_size:
            wrong = next(token_id for token_id in ids if token_id >= vocab_size)
            raise ParameterError.single(name, wrong, f"must be below vocab_size={vocab_size}")
    logprobs = state.params.logprobs
    if logprobs is not None and logprobs > vocab_size:
        raise ParameterError.single("logprobs", logprobs, f"must be at most vocab_size={vocab_size}")


def check_stages(state: SamplingState, lacking: Collection[str]) -> None:
    """Raise ParameterError for a parameter that is set and that only one of these stages would read."""
    name = ignored_parameter(state.params, lacking)
    if name is not None:
        rule = "must be at its default: the sampler's profile has no stage that reads it"
        raise ParameterError.single(name, getattr(state.params, name), rule)
    if state.bitmask is not None and "hard_masks" in lacking:
        rule = "must be None: the sampler's profile has no stage hard_masks"
        raise ParameterError.single("bitmask", state.bitmask, rule)


def sequences_of_ids(name: str, sequences: Sequence[TokenSequence]) -> Sequence[Sequence[int]]:
    """Return sequences of token ids. Raise ParameterError if one is text."""
    for sequence in () if isinstance(sequences, SequenceTable) else sequences:
        if isinstance(sequence, str):
            rule = "must be token ids: a sampler has no tokenizer for text"
            raise ParameterError.single(name, sequence, rule)
    return cast(Sequence[Sequence[int]], sequences)


def checked_surprise(surprise: float | None, *, is_needed: bool) -> float | None:
    """Return the surprise of a token as a plain float; None if none is needed."""
    if not is_needed:
        if surprise is not None:
            rule = "must be None without mirostat_tau and adaptive_p_target"
            raise ParameterError.single("surprise", surprise, rule)
        return None
    if surprise is None or not is_real(surprise) or not 0.0 <= surprise < math.inf:
        rule = "must be a finite number >= 0 with mirostat_tau or adaptive_p_target (see SamplerOutput.surprises)"
        raise ParameterError.single("surprise", surprise, rule)
    return float(surprise)


def unsigned_64(name: str, value: int) -> int:
    """Return an integer of 64 bits without a sign."""
    if not is_integer(value) or not 0 <= value < 2**64:
        raise ParameterError.single(name, value, "must be an integer from 0 to 2**64 - 1")
    return int(value)


def _check_history(name: str, ids: NDArray[np.int32], vocab_size: int) -> None:
    """Raise ParameterError for the first id without a logit."""
    if len(ids) and int(ids.max()) >= vocab_size:
        rule = f"must be below vocab_size={vocab_size}, or left out: it has no logit that a penalty could change"
        raise ParameterError.single(name, int(ids[ids >= vocab_size][0]), rule)


def _named_ids(state: SamplingState) -> dict[str, Sequence[int]]:
    """Return the token ids in a state's parameters by the name that an error message uses."""
    p = state.params
    return {
        "logit_bias": [token_id for token_id, _ in cast(tuple[tuple[int, float], ...], p.logit_bias)],
        "allowed_token_ids": p.allowed_token_ids or (),
        "banned_token_ids": p.banned_token_ids,
        "stop_token_ids": p.stop_token_ids,
        "logprob_token_ids": p.logprob_token_ids,
        "eos_token_ids": state.eos_token_ids,
        **{name: _ids_in(name, getattr(p, name)) for name in _SEQUENCES},
    }


def _ids_in(name: str, sequences: Sequence[TokenSequence]) -> Sequence[int]:
    """Return all ids of the sequences; of a table only the largest."""
    if isinstance(sequences, SequenceTable):
        return (sequences.max_id,)
    return [*chain(*sequences_of_ids(name, sequences))]
