"""SamplingState: parameters, tokens and rng stream of one sequence."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decoding.errors import ParameterError
from decoding.params import SamplingParams
from decoding.sampling import saved
from decoding.sampling.adaptive_p import Average, center_of, first_average, next_average
from decoding.sampling.fit import Fit, check_ids, check_stages, checked_surprise, sequences_of_ids, unsigned_64
from decoding.sampling.host_parameters import check_host_parameters
from decoding.sampling.kernel import KernelRow, TokenHistory, num_mask_words
from decoding.sampling.kernel.row import NUMBERS
from decoding.sampling.kernel.sequences import KernelSequence
from decoding.sampling.output import SamplerOutput
from decoding.sampling.token_input import checked_prompt, mask_of
from decoding.validation import checked_token_id, checked_token_ids, is_integer, is_real, to_float32


def random_seed() -> int:
    """Return 64 bits from the operating system as a signed integer, the seed of a request that has none."""
    return int.from_bytes(secrets.token_bytes(8), "little", signed=True)


class SamplingState:
    """The sampler's state of one sequence: parameters, tokens, position in the rng stream.

    Parameters
        params: the request's parameters; breakers and bad words as token ids. A parameter that a sampler cannot
            honour, such as `stop` or a `max_tokens` of 50, is refused.
        prompt_token_ids: the tokens that count as prompt for the penalties.
        choice: 0 .. 2**64 - 1; the number of this candidate among the n (or best_of) of its prompt.
        stream: 0 .. 2**64 - 1; separates the random numbers of different prompts under one seed.
        eos_token_ids: banned, with params.stop_token_ids, until params.min_tokens tokens exist (unless ignore_eos).
        host_parameters: True if the caller honours the parameters that are not the sampler's (length, stops, echo).

    The draw for a token depends only on (seed, stream, choice, number of tokens before it), so a state may be copied,
    pickled, truncated and resumed anywhere. Attributes are read-only: `params`, `seed` (signed 64-bit; chosen by the
    operating system if params.seed is None), `choice`, `stream`, `prompt_token_ids`, `eos_token_ids`,
    `output_token_ids`, a list that `append` and `truncate` change. `fork` and `with_params` make other states.

    For decoding.sampling and the engine only: `kernel_row`, the row that C reads; `check_fit`, called before C reads
    it; `fit`, that of the last check, None after a change; `commit` and `commit_outside_history`, which record the
    token that C drew.
    """

    __slots__ = (
        "__weakref__",
        "_averages",
        "_bitmask",
        "_choice",
        "_eos",
        "_fits",
        "_history",
        "_host_parameters",
        "_is_followed",
        "_mus",
        "_params",
        "_prompt",
        "_prompt_ids",
        "_seed",
        "_stream",
        "fit",
        "kernel_row",
        "output_token_ids",
    )

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int] = (),
        *,
        choice: int = 0,
        stream: int = 0,
        eos_token_ids: Sequence[int] = (),
        host_parameters: bool = False,
    ) -> None:
        if not isinstance(params, SamplingParams):
            raise ParameterError.single("params", params, "must be a SamplingParams")
        if not host_parameters:
            check_host_parameters(params)
        self._host_parameters = bool(host_parameters)
        self._params = params
        self._seed = random_seed() if params.seed is None else params.seed
        self._choice = unsigned_64("choice", choice)
        self._stream = unsigned_64("stream", stream)
        self._prompt, self._prompt_ids = checked_prompt("prompt_token_ids", prompt_token_ids)
        self._eos = checked_token_ids("eos_token_ids", eos_token_ids)
        self.output_token_ids: list[int] = []
        self._bitmask: NDArray[np.uint32] | None = None
        self._fits = 0  # the vocabulary size that all ids are known to fit; 0 if none is known
        self.fit: Fit | None = None
        self._mus = [] if params.mirostat_tau is None else [2.0 * to_float32(params.mirostat_tau)]  # one per position
        self._averages = [] if params.adaptive_p_target is None else [first_average(params)]  # one per position
        self.kernel_row = KernelRow()
        self._fill_row()
        self._history = self._new_history() if self.kernel_row.reads_history else None
        if self._history is not None:
            self._history.use(self.kernel_row)
        self._is_followed = bool(self.needs_surprise or params.min_tokens)
        self._update_row()

    @property
    def params(self) -> SamplingParams:
        """Parameters of the sequence."""
        return self._params

    @property
    def seed(self) -> int:
        """Seed as a signed 64-bit integer."""
        return self._seed

    @property
    def choice(self) -> int:
        """Number of the candidate; `fork` gives a state with another one."""
        return self._choice

    @property
    def stream(self) -> int:
        """The rng stream of the prompt."""
        return self._stream

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Tokens of the prompt."""
        return self._prompt

    @property
    def prompt_ids(self) -> NDArray[np.int32]:
        """Tokens of the prompt as an array, which must not be changed."""
        return self._prompt_ids

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end the sequence."""
        return self._eos

    def __repr__(self) -> str:
        lengths = f"{len(self._prompt)} prompt and {self.position} output tokens"
        place = f"seed={self._seed}, choice={self._choice}, stream={self._stream}"
        return f"<SamplingState {lengths}, {place}, {self._params}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Save everything for copy and pickle. The restored state shares nothing with this one."""
        return saved.restored, (type(self), saved.saved(self))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dict for JSON; `from_dict` makes the same state from it on any machine."""
        return saved.to_json(saved.saved(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingState:
        """Return the state that `to_dict` saved.

        Raise ParameterError if the values are not those of a state, or were saved with another
        `stream_version`, whose random numbers would give other tokens.
        """
        return saved.restored(cls, saved.from_json(values))

    def with_params(self, params: SamplingParams, *, host_parameters: bool | None = None) -> SamplingState:
        """Return another state with these parameters, and the same tokens and position in the rng stream.

        host_parameters: None keeps this state's value.
        """
        host = self._host_parameters if host_parameters is None else host_parameters
        return saved.restored(type(self), saved.saved(self) | {"params": params, "host_parameters": host})

    def fork(self, *, choice: int) -> SamplingState:
        """Return another state with the same seed, stream and tokens, for candidate number `choice`.

        It shares nothing with this one, and draws the tokens of a state of that choice with the same tokens so far.
        """
        return saved.restored(type(self), saved.saved(self) | {"choice": choice})

    @property
    def position(self) -> int:
        """Number of generated tokens; the number of the next draw."""
        return len(self.output_token_ids)

    @property
    def needs_surprise(self) -> bool:
        """Return True if `append` needs the surprise of a token: with mirostat and with adaptive-p."""
        return bool(self._mus or self._averages)

    @property
    def adaptive_p_center(self) -> float | None:
        """The probability that adaptive-p prefers for the next token; None without params.adaptive_p_target."""
        return center_of(self._params, self._averages[-1]) if self._averages else None

    @property
    def mirostat_mu(self) -> float | None:
        """Mirostat's bound on the surprise of the next token, in bits; None without params.mirostat_tau.

        It may be set to a finite number, or to None for the bound of the first token, 2 * tau.
        """
        return self._mus[-1] if self._mus else None

    @mirostat_mu.setter
    def mirostat_mu(self, mu: float | None) -> None:
        if mu is None and self._params.mirostat_tau is not None:
            mu = 2.0 * to_float32(self._params.mirostat_tau)
        if mu is not None:
            if not self._mus or not is_real(mu) or not math.isfinite(mu):
                rule = "must be a finite number, or None for the first bound; only with mirostat_tau"
                raise ParameterError.single("mirostat_mu", mu, rule)
            self._mus[-1] = float(mu)
            self._update_row()

    @property
    def bitmask(self) -> NDArray[np.uint32] | None:
        """Grammar mask of the next row: uint32 or int32 [ceil(vocab / 32)], or None.

        Bit i % 32 of word i // 32 is token i; 1 is allowed. A numpy array or a torch tensor. The mask stays until it is
        replaced. Its memory is read when `sample` runs.
        """
        return self._bitmask

    @bitmask.setter
    def bitmask(self, words: Any) -> None:
        self._bitmask = None if words is None else mask_of("bitmask", words, 1)
        self.kernel_row.point("bitmask", self._bitmask)
        self.fit = None

    def append(self, token_id: int, surprise: float | None = None) -> None:
        """Record a generated token.

        surprise: -log2 of its probability before adaptive_p and skew (`SamplerOutput.surprises`), finite and >= 0;
            required with mirostat and adaptive-p, refused without.
        """
        token_id = checked_token_id("token_id", token_id)
        self._append(token_id, checked_surprise(surprise, is_needed=self.needs_surprise))

    def _append(self, token_id: int, surprise: float | None = None) -> None:
        self._record(token_id, surprise)
        if self._history is not None:
            self._history.append(token_id)
            self._history.use(self.kernel_row)

    def _record(self, token_id: int, surprise: float | None) -> None:
        """Record a token in everything but the history."""
        self.output_token_ids.append(token_id)
        self.kernel_row.struct.position = len(self.output_token_ids)
        if token_id >= self._fits:
            self._forget_fit()
        if self._is_followed:
            if surprise is not None:
                self._follow(surprise)
            self._update_row()

    def commit(self, token_id: int, output: SamplerOutput, row: int) -> None:
        """Record the token that the kernel drew for a row of this output: `append` without the checks."""
        self._append(token_id, float(output.surprises[row]) if self.needs_surprise else None)

    def commit_outside_history(self, token_id: int, output: SamplerOutput, row: int) -> TokenHistory | None:
        """Do what `commit` does, except for the token history, which is returned for the caller to append to."""
        if self._is_followed:
            self._record(token_id, float(output.surprises[row]) if self.needs_surprise else None)
        else:  # as _record does, but the token fits: the sampler that drew it has checked the state
            self.output_token_ids.append(token_id)
            self.kernel_row.struct.position = len(self.output_token_ids)
        return self._history

    def force(self, token_id: int) -> None:
        """Report on this token instead of drawing one, from now on and until another one is forced."""
        token_id = checked_token_id("token_id", token_id)
        self._forget_fit()
        self.kernel_row.force_token(token_id)

    def use_stream(self, stream: int) -> None:
        """Draw with the random numbers of another rng stream from now on."""
        self._stream = unsigned_64("stream", stream)
        self.kernel_row.set(stream=self._stream)

    def truncate(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` generated tokens and undo the later ones."""
        if not is_integer(num_tokens) or not 0 <= num_tokens <= self.position:
            rule = f"must be an integer from 0 to {self.position}, the number of generated tokens"
            raise ParameterError.single("num_tokens", num_tokens, rule)
        del self.output_token_ids[num_tokens:]
        if self._history is not None:
            self._history.truncate(num_tokens)
            self._history.use(self.kernel_row)
        del self._mus[num_tokens + 1 :]
        del self._averages[num_tokens + 1 :]
        self.kernel_row.struct.position = num_tokens
        self._update_row()

    def to_sequence(self) -> KernelSequence:
        """Return a copy of this state as a sequence that C updates."""
        p, row = self._params, self.kernel_row.copy()
        history = self._history.copy() if self._history is not None else self._new_history()
        sequence = KernelSequence(row, history, self._mus)
        ending = len(self._ending_ids())
        sequence.set_ending(p.min_tokens, ending, len(p.banned_token_ids) + ending)
        if p.mirostat_tau is not None:
            row.struct.mirostat_mu = self._mus[-1]
            sequence.set_mirostat(to_float32(p.mirostat_tau), to_float32(p.mirostat_eta))
        return sequence

    def after(self, sequence: KernelSequence) -> SamplingState:
        """Return a copy of this state with the tokens that C has recorded since `to_sequence`."""
        output = tuple(sequence.history.output.tolist())
        taken = {"output_token_ids": output, "mirostat_mus": tuple(sequence.mus[: len(output) + 1].tolist())}
        return saved.restored(type(self), saved.saved(self) | taken)

    @property
    def is_recorded_in_c(self) -> bool:
        """Return True if C can record drawn tokens, because only the position and the history depend on them."""
        return not self._is_followed

    @property
    def history(self) -> TokenHistory | None:
        """The token history that the row points to; None if no parameter reads one."""
        return self._history

    @property
    def is_followed_in_c(self) -> bool:
        """Return True if C can update this state, which it cannot with adaptive-p."""
        return not self._averages

    def _restore(
        self, output_token_ids: Sequence[int], mus: Sequence[float], averages: Sequence[Sequence[float]]
    ) -> None:
        """Copy tokens and bounds from another state."""
        self.output_token_ids = list(checked_token_ids("output_token_ids", output_token_ids))
        if self._mus and mus:
            self._mus = [float(mu) for mu in mus]
        elif self._mus:
            self._mus *= len(self.output_token_ids) + 1
        if self._averages:
            count = len(self.output_token_ids) + 1
            self._averages = [Average(*average) for average in averages] or self._averages * count
        if self._history is not None:
            self._history = self._new_history()
            self._history.use(self.kernel_row)
        self.kernel_row.struct.position = len(self.output_token_ids)
        self._update_row()

    def _new_history(self) -> TokenHistory:
        output = np.array(self.output_token_ids, np.int32)
        return TokenHistory(self._prompt_ids, self._params.repetition_penalty_scope, output)

    def _follow(self, surprise: float) -> None:
        """Update mirostat's bound, mu -= eta * (surprise - tau), in float64 (Basu et al.), and adaptive-p's average."""
        if self._mus:
            eta, tau = to_float32(self._params.mirostat_eta), to_float32(cast(float, self._params.mirostat_tau))
            self._mus.append(self._mus[-1] - eta * (surprise - tau))
        if self._averages:
            self._averages.append(next_average(self._params, self._averages[-1], surprise))

    def _fill_row(self) -> None:
        p, row = self._params, self.kernel_row
        row.set(seed=self._seed & (2**64 - 1), stream=self._stream, choice=self._choice)  # as two's complement
        row.set(**{name: getattr(p, name) for name in NUMBERS})
        modes = () if p.logprobs is None else p.logprobs_modes
        row.set_report(modes, p.logprobs or 0, chosen=p.logprob_token_ids, want_raw=p.ranks_candidates)
        if self._mus:
            row.use_mirostat()
            if p.mirostat_version == 1:
                row.use_first_mirostat()
        if self._averages:
            row.use_adaptive_p()
        if p.p_less is not None:
            row.use_p_less(p.p_less)
        row.set_bias(cast(tuple[tuple[int, float], ...], p.logit_bias))
        # The stop ids come last, so that dropping them at min_tokens is only a smaller count.
        row.set_ids("banned", [*p.banned_token_ids, *self._ending_ids()])
        if p.allowed_token_ids is not None:
            row.set_ids("allowed", p.allowed_token_ids)
        row.set_sequences("dry_breakers", sequences_of_ids("dry_sequence_breakers", p.dry_sequence_breakers))
        row.set_sequences("bad_words", sequences_of_ids("bad_words", p.bad_words))

    def _update_row(self) -> None:
        """Write the fields that change from token to token, except the position and the history."""
        struct = self.kernel_row.struct
        if self._mus:
            struct.mirostat_mu = max(0.0, self._mus[-1])  # a bound below 0 keeps one token, as 0 does
        if self._averages:
            struct.adaptive_p_center = center_of(self._params, self._averages[-1])
        if self._params.min_tokens:
            ending = len(self._ending_ids()) if self.position < self._params.min_tokens else 0
            struct.num_banned = len(self._params.banned_token_ids) + ending

    def _ending_ids(self) -> tuple[int, ...]:
        """Ids that end the sequence, banned until min_tokens."""
        if self._params.min_tokens == 0:
            return ()
        return (*self._params.stop_token_ids, *(() if self._params.ignore_eos else self._eos))

    def check_fit(self, fit: Fit) -> None:
        """Raise ParameterError if this state does not fit a sampler; otherwise set the attribute `fit`."""
        if self._fits != fit.vocab_size:
            check_ids(self, fit.vocab_size)
            self._fits = fit.vocab_size
        if self._bitmask is not None and len(self._bitmask) != num_mask_words(fit.vocab_size):
            rule = f"must have {num_mask_words(fit.vocab_size)} words for vocab_size={fit.vocab_size}"
            raise ParameterError.single("bitmask", self._bitmask, rule)
        if fit.lacking:
            check_stages(self, fit.lacking)
        self.fit = fit

    def _forget_fit(self) -> None:
        self._fits, self.fit = 0, None
