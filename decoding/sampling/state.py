"""SamplingState: parameters, tokens and random stream of one sequence, as the sampler needs them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.sampling.history import TokenContext, TokenHistory
from decoding.sampling.kernel import KernelRow, num_mask_words
from decoding.sampling.kernel.row import NUMBERS
from decoding.sampling.output import SamplerOutput
from decoding.types import TokenSequence
from decoding.validation import checked_token_id, checked_token_ids, is_integer, is_real, to_float32

_SEQUENCES = ("dry_sequence_breakers", "bad_words")


def random_seed() -> int:
    """Return 64 bits from the operating system as a signed integer, the seed of a request that has none."""
    return int.from_bytes(secrets.token_bytes(8), "little", signed=True)


class SamplingState:
    """The sampler's state of one sequence: parameters, tokens, position in the random stream.

    Parameters
        params: the request's parameters; breakers and bad words as token ids.
        prompt_token_ids: the tokens that count as prompt for the penalties.
        choice: 0 .. 2**64 - 1; the number of this candidate among the n (or best_of) of its prompt.
        stream: 0 .. 2**64 - 1; separates the random numbers of different prompts under one seed.
        eos_token_ids: banned, with params.stop_token_ids, until params.min_tokens tokens exist (unless ignore_eos).

    The draw for a token depends only on (seed, stream, choice, number of tokens before it), so a state may be copied,
    pickled, truncated and resumed anywhere. Attributes, to be read only: `params`, `seed` (signed 64-bit; chosen by
    the operating system if params.seed is None), `choice`, `stream`, `prompt_token_ids`, `eos_token_ids`,
    `output_token_ids`.

    For decoding.sampling and the engine only: `kernel_row`, what C reads of this state; `check_vocab`, which comes
    before C reads it; `commit`, which records what C drew.
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
        self.prompt_token_ids = checked_token_ids("prompt_token_ids", prompt_token_ids)
        self.eos_token_ids = checked_token_ids("eos_token_ids", eos_token_ids)
        self.output_token_ids: list[int] = []
        self._bitmask: NDArray[np.uint32] | None = None
        self._fits = 0  # the vocabulary size that all ids are known to fit; 0 if none is known
        self._mus = [] if params.mirostat_tau is None else [2.0 * to_float32(params.mirostat_tau)]  # one per position
        self._trackers = _new_trackers(params, self.prompt_token_ids)
        self._is_followed = bool(self._trackers or self._mus or params.min_tokens)
        self.kernel_row = KernelRow()
        self._fill_row()

    def __repr__(self) -> str:
        lengths = f"{len(self.prompt_token_ids)} prompt and {self.position} output tokens"
        return f"<SamplingState {lengths}, seed={self.seed}, choice={self.choice}, stream={self.stream}, {self.params}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Save everything for copy and pickle. The restored state shares nothing with this one."""
        saved = (self.params, self.seed, self.prompt_token_ids, self.choice, self.stream, self.eos_token_ids)
        return _restored, (*saved, tuple(self.output_token_ids), tuple(self._mus), self._bitmask)

    def with_params(self, params: SamplingParams) -> SamplingState:
        """Return another state with the same tokens and position in the random stream, and these parameters."""
        restore, (_, *saved) = self.__reduce__()
        state: SamplingState = restore(params, *saved)
        return state

    @property
    def position(self) -> int:
        """Number of generated tokens; the number of the next draw."""
        return len(self.output_token_ids)

    @property
    def mirostat_mu(self) -> float | None:
        """Mirostat's bound on the surprise of the next token, in bits; None without params.mirostat_tau.

        It may be set to a finite number, or to None for the bound of the first token, 2 * tau.
        """
        return self._mus[-1] if self._mus else None

    @mirostat_mu.setter
    def mirostat_mu(self, mu: float | None) -> None:
        if mu is None and self.params.mirostat_tau is not None:
            mu = 2.0 * to_float32(self.params.mirostat_tau)
        if mu is not None:
            if not self._mus or not is_real(mu) or not math.isfinite(mu):
                rule = "must be a finite number, or None for the first bound; only with mirostat_tau"
                raise ParameterError.single("mirostat_mu", mu, rule)
            self._mus[-1] = float(mu)
            self._update_row()

    @property
    def bitmask(self) -> NDArray[np.uint32] | None:
        """Grammar mask of the next row: uint32 or int32 [ceil(vocab / 32)], or None.

        Bit i % 32 of word i // 32 is token i; 1 is allowed. The mask stays until it is replaced. The array is read
        when `sample` runs.
        """
        return self._bitmask

    @bitmask.setter
    def bitmask(self, words: NDArray[np.uint32] | NDArray[np.int32] | None) -> None:
        if words is not None and not _is_mask(words):
            rule = "must be a contiguous one-dimensional uint32 or int32 array, or None"
            raise ParameterError.single("bitmask", words, rule)
        self._bitmask = None if words is None else words.view(np.uint32)
        self.kernel_row.point("bitmask", self._bitmask)

    def append(self, token_id: int, surprise: float | None = None) -> None:
        """Record a generated token.

        surprise: -log2 of the probability that it was drawn with (`SamplerOutput.surprises`), finite and >= 0;
            required with mirostat, refused without.
        """
        token_id = checked_token_id("token_id", token_id)
        self._append(token_id, self._checked_surprise(surprise))

    def _append(self, token_id: int, surprise: float | None = None) -> None:
        self.output_token_ids.append(token_id)
        self.kernel_row.struct.position = len(self.output_token_ids)
        if token_id >= self._fits:
            self._fits = 0
        if self._is_followed:
            for tracker in self._trackers:
                if tracker.append(token_id):
                    self._point_to(tracker)
            if surprise is not None:
                self._follow(surprise)
            self._update_row()

    def commit(self, token_id: int, output: SamplerOutput, row: int) -> None:
        """Record the token that the kernel drew for a row of this output: `append` without the checks."""
        self._append(token_id, None if not self._mus else float(output.surprises[row]))

    def force(self, token_id: int) -> None:
        """Report on this token instead of drawing one, from now on and until another one is forced."""
        token_id = checked_token_id("token_id", token_id)
        self._fits = 0
        self.kernel_row.force_token(token_id)

    def use_stream(self, stream: int) -> None:
        """Draw with the random numbers of another stream from now on."""
        self.stream = _unsigned_64("stream", stream)
        self.kernel_row.set(stream=self.stream)

    def truncate(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` generated tokens and undo the later ones."""
        if not is_integer(num_tokens) or not 0 <= num_tokens <= self.position:
            rule = f"must be an integer from 0 to {self.position}, the number of generated tokens"
            raise ParameterError.single("num_tokens", num_tokens, rule)
        for _ in range(self.position - num_tokens):
            self.output_token_ids.pop()
            for tracker in self._trackers:
                tracker.pop()
        del self._mus[num_tokens + 1 :]
        self.kernel_row.struct.position = num_tokens
        self._update_row()

    def _follow(self, surprise: float) -> None:
        """Move mirostat's bound: mu -= eta * (surprise - tau), in float64 (version 2, Basu et al. 2021)."""
        eta, tau = to_float32(self.params.mirostat_eta), to_float32(cast(float, self.params.mirostat_tau))
        self._mus.append(self._mus[-1] - eta * (surprise - tau))

    def _checked_surprise(self, surprise: float | None) -> float | None:
        if not self._mus:
            if surprise is not None:
                raise ParameterError.single("surprise", surprise, "must be None without mirostat_tau")
            return None
        if surprise is None or not is_real(surprise) or not 0.0 <= surprise < math.inf:
            rule = "must be a finite number >= 0 with mirostat_tau (see SamplerOutput.surprises)"
            raise ParameterError.single("surprise", surprise, rule)
        return float(surprise)

    def _fill_row(self) -> None:
        p, row = self.params, self.kernel_row
        row.set(seed=self.seed & (2**64 - 1), stream=self.stream, choice=self.choice)  # a seed as two's complement
        row.set(**{name: getattr(p, name) for name in NUMBERS})
        modes = () if p.logprobs is None else p.logprobs_modes
        row.set_report(modes, p.logprobs or 0, want_raw=p.ranks_candidates)
        if self._mus:
            row.use_mirostat()
        row.set_bias(self._bias())
        # The stop ids come last, so that dropping them at min_tokens is only a smaller count.
        row.set_ids("banned", [*p.banned_token_ids, *self._ending_ids()])
        if p.allowed_token_ids is not None:
            row.set_ids("allowed", p.allowed_token_ids)
        row.set_sequences("dry_breakers", _of_ids("dry_sequence_breakers", p.dry_sequence_breakers))
        row.set_sequences("bad_words", _of_ids("bad_words", p.bad_words))
        for tracker in self._trackers:
            self._point_to(tracker)
        self._update_row()

    def _update_row(self) -> None:
        """Write the fields that change from token to token, but for the position."""
        struct = self.kernel_row.struct
        for tracker in self._trackers:
            setattr(struct, tracker.num_field, len(tracker))
        if self._mus:
            struct.mirostat_mu = max(0.0, self._mus[-1])  # a bound below 0 keeps one token, as 0 does
        if self.params.min_tokens:
            ending = len(self._ending_ids()) if self.position < self.params.min_tokens else 0
            struct.num_banned = len(self.params.banned_token_ids) + ending

    def _point_to(self, tracker: TokenContext | TokenHistory) -> None:
        for field, array in tracker.arrays.items():
            self.kernel_row.point(field, array)

    def _bias(self) -> tuple[tuple[int, float], ...]:
        return cast(tuple[tuple[int, float], ...], self.params.logit_bias)

    def _ending_ids(self) -> tuple[int, ...]:
        """Ids that end the sequence, banned until min_tokens."""
        if self.params.min_tokens == 0:
            return ()
        return (*self.params.stop_token_ids, *(() if self.params.ignore_eos else self.eos_token_ids))

    def _named_ids(self) -> dict[str, Sequence[int]]:
        """Return all token ids of this state by the name that an error message uses."""
        p = self.params
        return {
            "prompt_token_ids": self.prompt_token_ids,
            "output_token_ids": self.output_token_ids,
            "logit_bias": [token_id for token_id, _ in self._bias()],
            "allowed_token_ids": p.allowed_token_ids or (),
            "banned_token_ids": p.banned_token_ids,
            "stop_token_ids": p.stop_token_ids,
            "logprob_token_ids": p.logprob_token_ids,
            "eos_token_ids": self.eos_token_ids,
            **{name: [*chain(*_of_ids(name, getattr(p, name)))] for name in _SEQUENCES},
        }

    def check_vocab(self, vocab_size: int) -> None:
        """Raise ParameterError if a token id of this state, or its bitmask, does not fit a vocabulary of this size."""
        if self._fits != vocab_size:
            self._check_ids(vocab_size)
            self._fits = vocab_size
        if self._bitmask is not None and len(self._bitmask) != num_mask_words(vocab_size):
            rule = f"must have {num_mask_words(vocab_size)} words for vocab_size={vocab_size}"
            raise ParameterError.single("bitmask", self._bitmask, rule)

    def _check_ids(self, vocab_size: int) -> None:
        for name, ids in self._named_ids().items():
            if max(ids, default=-1) >= vocab_size:
                wrong = next(token_id for token_id in ids if token_id >= vocab_size)
                raise ParameterError.single(name, wrong, f"must be below vocab_size={vocab_size}")
        if self.params.logprobs is not None and self.params.logprobs > vocab_size:
            raise ParameterError.single("logprobs", self.params.logprobs, f"must be at most vocab_size={vocab_size}")


def _new_trackers(params: SamplingParams, prompt: Sequence[int]) -> tuple[TokenContext | TokenHistory, ...]:
    """Return trackers of the token history, only those that a parameter needs."""
    p = params
    penalized = p.frequency_penalty or p.presence_penalty or p.context_frequency_penalty or p.repetition_penalty != 1.0
    trackers: list[TokenContext | TokenHistory] = []
    if penalized:
        trackers.append(TokenHistory(prompt, p.repetition_penalty_scope))
    if p.dry_multiplier or p.no_repeat_ngram_size or p.bad_words:
        trackers.append(TokenContext(prompt))
    return tuple(trackers)


def _of_ids(name: str, sequences: Sequence[TokenSequence]) -> Sequence[Sequence[int]]:
    for sequence in sequences:
        if isinstance(sequence, str):
            rule = "must be token ids: a sampler has no tokenizer for text"
            raise ParameterError.single(name, sequence, rule)
    return cast(Sequence[Sequence[int]], sequences)


def _restored(
    params: SamplingParams,
    seed: int,
    prompt_token_ids: tuple[int, ...],
    choice: int,
    stream: int,
    eos_token_ids: tuple[int, ...],
    output_token_ids: tuple[int, ...],
    mus: tuple[float, ...],
    bitmask: NDArray[np.uint32] | None,
) -> SamplingState:
    """Return the state that `SamplingState.__reduce__` saved; a seed that was chosen for it is kept."""
    state = SamplingState(
        replace(params, seed=seed), prompt_token_ids, choice=choice, stream=stream, eos_token_ids=eos_token_ids
    )
    state.params = params
    if state._mus:
        state._mus = list(mus) or state._mus
    for token_id in output_token_ids:
        state._append(token_id)
    state.bitmask = None if bitmask is None else bitmask.copy()
    return state


def _unsigned_64(name: str, value: int) -> int:
    if not is_integer(value) or not 0 <= value < 2**64:
        raise ParameterError.single(name, value, "must be an integer from 0 to 2**64 - 1")
    return int(value)


def _is_mask(words: object) -> bool:
    return (
        isinstance(words, np.ndarray)
        and words.dtype in (np.uint32, np.int32)
        and words.ndim == 1
        and words.flags.c_contiguous
    )
