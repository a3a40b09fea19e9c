"""One candidate: its tokens, its text, and when it ends."""

from __future__ import annotations

from decoding.engine.logits_processors import Processing
from decoding.engine.logprobs import OffsetCounter, TokenScore, token_logprob
from decoding.engine.outputs import Choice, Delta, Logprobs
from decoding.engine.request import Request
from decoding.engine.transcript import NO_PREFIX, Prefix, Transcript
from decoding.errors import DecodingError
from decoding.text.detokenizer import Detokenizer
from decoding.text.stop_strings import StopMatch, StopMatcher
from decoding.text.tokenizer import Tokenizer
from decoding.types import FinishReason


class Sequence:
    """A candidate from its first token to its finished `Choice`; the engine gives it tokens, it says when it ends.

    A stream (`delta`) and the finished choice are made of the same released pieces, so they cannot differ.

    drawing_state: what the sampler draws with. is_special: whether something is to be done to its rows first, or
    somebody watches. is_reported: whether anything is wanted of a token but the token itself.
    """

    def __init__(self, request: Request, choice: int, tokenizer: Tokenizer | None, prompt: Prefix) -> None:
        """Candidate number `choice` of `request`; `prompt` is how results show the prompt."""
        params = request.params
        self.request = request
        self.choice = choice
        self.state = request.new_state(choice)
        self.processing = Processing(request.processors, request.sampling, self.state) if request.processors else None
        self.drawing_state = self.state if self.processing is None else self.processing.state
        self.is_special = bool(request.processors or request.forced is not None or request.on_sample is not None)
        self.is_reported = params.logprobs is not None or params.ranks_candidates
        self.num_output_tokens = request.num_tokens_of(choice)
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.error: DecodingError | None = None
        self._raw_logprob_sum = 0.0
        self._tokenizer = tokenizer
        self._detokenizer = None
        if tokenizer is not None:
            self._detokenizer = Detokenizer(
                tokenizer, request.token_ids, params.skip_special_tokens, at_start=params.suffix is None
            )
        self._has_logprobs = params.logprobs is not None
        self._matcher = StopMatcher(request.stops)
        self._has_stops = bool(params.stop)
        self._may_cut = self._has_stops and not params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._ending_ids = frozenset((*params.stop_token_ids, *(() if params.ignore_eos else request.eos_token_ids)))
        self._offsets = OffsetCounter(prompt.data)
        self._transcript = Transcript(prompt if params.echo else NO_PREFIX, may_cut=self._may_cut)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    def append(self, token_id: int, score: TokenScore | None, raw_logprob: float) -> None:
        """Take the token that was drawn; `score` with logprobs, `raw_logprob` counts where best_of ranks."""
        self.num_tokens += 1
        self._raw_logprob_sum += raw_logprob  # float64, in token order
        ends = token_id in self._ending_ids
        data = b"" if ends or self._detokenizer is None else self._detokenizer.append(token_id)
        entry = None
        if score is not None:
            entry = token_logprob(self._tokenizer, token_id, data, self._offsets.add(data), score)
        match, num_held = self._look_for_stop(data) if self._has_stops and not ends else (None, 0)
        self._transcript.add(token_id, data, entry, num_held)
        if ends:
            self._finish("stop", token_id)
        elif match is not None:  # it wins over a length that is reached by the same token
            self._finish("stop", match.stop, self._transcript.num_bytes - num_held)
        elif self.num_tokens >= self.num_output_tokens:
            self._finish("length")

    def finish_empty(self) -> None:
        """End before the first token, because none was asked for."""
        self._finish("length")

    def fail(self, error: DecodingError) -> None:
        """End because no next token can be drawn; what was generated so far stays."""
        self.error = error
        self._finish("error")

    def delta(self, index: int) -> Delta:
        """What was released since the last call, as choice number `index`."""
        text, token_ids, entries = self._transcript.take()
        return Delta(
            index=index,
            text=text,
            token_ids=token_ids,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=Logprobs.from_tokens(entries) if self._has_logprobs else None,
            seed=self.state.seed,
            error=self.error,
            num_sampled=self.num_tokens,
        )

    def finished_choice(self) -> Choice:
        """The whole candidate, numbered by its candidate index."""
        text, token_ids, entries = self._transcript.whole()
        return Choice(
            index=self.choice,
            text=text,
            token_ids=token_ids,
            finish_reason=self.finish_reason or "error",
            stop_reason=self.stop_reason,
            logprobs=Logprobs.from_tokens(entries) if self._has_logprobs else None,
            seed=self.state.seed,
            mean_logprob=self._raw_logprob_sum / max(1, self.num_tokens)
            if self.request.params.ranks_candidates
            else None,
            error=self.error,
            candidate=self.state.choice,
        )

    def _look_for_stop(self, data: bytes) -> tuple[StopMatch | None, int]:
        """What a token's bytes bring to an end, and how many bytes of the text must not be shown: yet, or ever."""
        matcher = self._matcher
        match = matcher.feed(data, ignore=self.num_tokens < self._min_tokens)
        if match is None:
            return None, matcher.held if self._may_cut else 0
        return match, self._transcript.num_bytes + len(data) - (match.start if self._may_cut else match.end)

    def _finish(self, reason: FinishReason, stop_reason: str | int | None = None, cut: int | None = None) -> None:
        self.finish_reason = reason
        self.stop_reason = stop_reason
        self._transcript.close(cut)
