"""SamplingState: what the sampler knows of one sequence, from its first token to its last."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.history import TokenHistory
from decoding.kernel import Row, num_mask_words
from decoding.params import INT32_MAX, SamplingParams


def random_seed() -> int:
    """64 bits from the operating system, as a signed integer: a seed for a request that has none."""
    return int.from_bytes(secrets.token_bytes(8), "little", signed=True)


class SamplingState:
    """What the sampler knows of one sequence: its parameters, its tokens, its place in the random stream.

    Parameters
        params: the request's parameters.
        prompt_token_ids: what counts as prompt for the penalties.
        choice: 0 .. 2**64 - 1; which of the n (or best_of) candidates this is.
        stream: 0 .. 2**64 - 1; separates the noise of different prompts under one seed.
        eos_token_ids: banned, with params.stop_token_ids, until params.min_tokens tokens exist (unless ignore_eos).

    The draw for a token depends on (seed, stream, choice, number of tokens before it) and on nothing else, so a state
    may be copied, pickled, truncated and resumed anywhere. Attributes, to be read only: `params`, `seed` (signed
    64-bit, taken from the operating system where params.seed is None), `choice`, `stream`, `prompt_token_ids`,
    `eos_token_ids`, `output_token_ids`.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int] = (),
        *,
        choice: int = 0,
        stream: int = 0,
        eos_token_ids: Sequence[int] = (),
    ) -> None:
        if not isinstance(params, SamplingParams):
            raise ParameterError.single("params", params, "must be a SamplingParams")
        self.params = params
        self.seed = random_seed() if params.seed is None else params.seed
        self.choice = _unsigned_64("choice", choice)
        self.stream = _unsigned_64("stream", stream)
        self.prompt_token_ids = checked_ids("prompt_token_ids", prompt_token_ids)
        self.eos_token_ids = checked_ids("eos_token_ids", eos_token_ids)
        self.output_token_ids: list[int] = []
        self._bitmask: NDArray[np.uint32] | None = None
        self._history = self._make_history()
        self._row = Row()
        self._fill_row()
        self._largest_id = max((token_id for _, ids in self._named_ids() for token_id in ids), default=-1)

    def __repr__(self) -> str:
        lengths = f"{len(self.prompt_token_ids)} prompt and {self.position} output tokens"
        return f"<SamplingState {lengths}, seed={self.seed}, choice={self.choice}, stream={self.stream}, {self.params}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy and pickle: a state of its own with nothing shared, so that either may go on without the other."""
        saved = (self.params, self.seed, self.prompt_token_ids, self.choice, self.stream, self.eos_token_ids)
        return _restored, (*saved, tuple(self.output_token_ids), self._bitmask)

    @property
    def position(self) -> int:
        """Number of generated tokens; the draw of the next one has this number."""
        return len(self.output_token_ids)

    @property
    def bitmask(self) -> NDArray[np.uint32] | None:
        """Grammar mask of the next row: uint32 or int32 [ceil(vocab / 32)], bit i % 32 of word i // 32 is token i.

        1 is allowed. It stays until it is replaced; None is no mask. The array is read when `sample` runs.
        """
        return self._bitmask

    @bitmask.setter
    def bitmask(self, words: NDArray[np.uint32] | NDArray[np.int32] | None) -> None:
        if words is not None and not _is_mask(words):
            rule = "must be a contiguous one-dimensional uint32 or int32 array, or None"
            raise ParameterError.single("bitmask", words, rule)
        self._bitmask = None if words is None else words.view(np.uint32)
        self._row.set_bitmask(self._bitmask)

    def append(self, token_id: int) -> None:
        """Record a generated token."""
        (token_id,) = checked_ids("token_id", [token_id])
        self._append(token_id)

    def _append(self, token_id: int) -> None:
        self.output_token_ids.append(token_id)
        self._largest_id = max(self._largest_id, token_id)
        if self._history is not None:
            version = self._history.version
            self._history.append(token_id)
            if self._history.version != version:
                self._point_to_history(self._history)
        self._update_row()

    def truncate(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` generated tokens and take the later ones back."""
        if not is_integer(num_tokens) or not 0 <= num_tokens <= self.position:
            rule = f"must be an integer from 0 to the {self.position} generated tokens (it is how many to keep)"
            raise ParameterError.single("num_tokens", num_tokens, rule)
        while len(self.output_token_ids) > num_tokens:
            if self.output_token_ids.pop() == self._largest_id:
                self._largest_id = INT32_MAX  # no longer known: the next check looks at all ids
            if self._history is not None:
                self._history.pop()
        self._update_row()

    def _make_history(self) -> TokenHistory | None:
        """Counts are kept only where a penalty reads them."""
        p = self.params
        penalized = p.frequency_penalty or p.presence_penalty or p.context_frequency_penalty
        if not penalized and p.repetition_penalty == 1.0:
            return None
        return TokenHistory(self.prompt_token_ids, p.repetition_penalty_scope)

    def _fill_row(self) -> None:
        p, row = self.params, self._row
        row.set_draw(seed=self.seed, stream=self.stream, choice=self.choice)
        row.set_distribution(temperature=p.temperature, top_k=p.top_k, top_p=p.top_p, min_p=p.min_p)
        row.set_penalties(
            repetition=p.repetition_penalty,
            frequency=p.frequency_penalty,
            presence=p.presence_penalty,
            context_frequency=p.context_frequency_penalty,
        )
        mode = None if p.logprobs is None else p.logprobs_mode
        row.set_report(mode=mode, num_top=p.logprobs or 0, want_raw=p.ranks_candidates)
        bias = self._bias()
        row.set_bias(
            np.array([token_id for token_id, _ in bias], np.int32),
            np.array([value for _, value in bias], np.float32),
        )
        # The stop ids come last, so that dropping them at min_tokens is only a smaller count.
        row.set_banned(np.array([*p.banned_token_ids, *self._ending_ids()], np.int32))
        if p.allowed_token_ids is not None:
            row.set_allowed(np.array(p.allowed_token_ids, np.int32))
        if self._history is not None:
            self._point_to_history(self._history)
        self._update_row()

    def _update_row(self) -> None:
        struct, p = self._row.struct, self.params
        struct.position = self.position
        banned_now = len(self._ending_ids()) if self.position < p.min_tokens else 0
        struct.num_banned = len(p.banned_token_ids) + banned_now
        struct.num_history = 0 if self._history is None else self._history.num_distinct

    def _point_to_history(self, history: TokenHistory) -> None:
        self._row.set_history(history.token_ids, history.scope_counts, history.output_counts, history.total_counts)

    def _bias(self) -> tuple[tuple[int, float], ...]:
        return cast(tuple[tuple[int, float], ...], self.params.logit_bias)

    def _ending_ids(self) -> tuple[int, ...]:
        """Ids that end the sequence, banned until min_tokens."""
        if self.params.min_tokens == 0:
            return ()
        return (*self.params.stop_token_ids, *(() if self.params.ignore_eos else self.eos_token_ids))

    def _named_ids(self) -> list[tuple[str, Sequence[int]]]:
        """Every token id that this state holds, under the name that an error message should use."""
        p = self.params
        return [
            ("prompt_token_ids", self.prompt_token_ids),
            ("output_token_ids", self.output_token_ids),
            ("logit_bias", [token_id for token_id, _ in self._bias()]),
            ("allowed_token_ids", p.allowed_token_ids or ()),
            ("banned_token_ids", p.banned_token_ids),
            ("stop_token_ids", p.stop_token_ids),
            ("eos_token_ids", self.eos_token_ids),
        ]

    def check_vocab(self, vocab_size: int) -> None:
        """ParameterError where an id of this state, or its bitmask, does not fit a vocabulary of this size."""
        if self._largest_id >= vocab_size:
            self._largest_id = -1
            for name, ids in self._named_ids():
                for token_id in ids:
                    self._largest_id = max(self._largest_id, token_id)
                    if token_id >= vocab_size:
                        raise ParameterError.single(name, token_id, f"must be below vocab_size={vocab_size}")
        if self.params.logprobs is not None and self.params.logprobs > vocab_size:
            raise ParameterError.single("logprobs", self.params.logprobs, f"must be at most vocab_size={vocab_size}")
        if self._bitmask is not None and len(self._bitmask) != num_mask_words(vocab_size):
            rule = f"must have {num_mask_words(vocab_size)} words for vocab_size={vocab_size}"
            raise ParameterError.single("bitmask", self._bitmask, rule)


def _restored(
    params: SamplingParams,
    seed: int,
    prompt_token_ids: tuple[int, ...],
    choice: int,
    stream: int,
    eos_token_ids: tuple[int, ...],
    output_token_ids: tuple[int, ...],
    bitmask: NDArray[np.uint32] | None,
) -> SamplingState:
    """The state that `SamplingState.__reduce__` saved; a seed from the operating system stays the one it was."""
    state = SamplingState(
        replace(params, seed=seed), prompt_token_ids, choice=choice, stream=stream, eos_token_ids=eos_token_ids
    )
    state.params = params
    for token_id in output_token_ids:
        state._append(token_id)
    state.bitmask = None if bitmask is None else bitmask.copy()
    return state


def _unsigned_64(name: str, value: int) -> int:
    if not is_integer(value) or not 0 <= value < 2**64:
        raise ParameterError.single(name, value, "must be an integer from 0 to 2**64 - 1")
    return int(value)


def checked_ids(name: str, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Token ids as plain ints; ParameterError naming the first that is none."""
    try:
        ids = tuple(token_ids)
    except TypeError:
        raise ParameterError.single(name, token_ids, "must be a sequence of token ids") from None
    for token_id in ids:
        if not is_integer(token_id) or not 0 <= token_id <= INT32_MAX:
            raise ParameterError.single(name, token_id, "must be a token id: an integer from 0 to 2,147,483,647")
    return tuple(int(token_id) for token_id in ids)


def is_integer(value: object) -> bool:
    """An int, or one of numpy's; no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_mask(words: object) -> bool:
    return (
        isinstance(words, np.ndarray)
        and words.dtype in (np.uint32, np.int32)
        and words.ndim == 1
        and words.flags.c_contiguous
    )
