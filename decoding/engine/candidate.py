"""Candidate: what one sequence generates, from its first token to its finished `Choice`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from decoding.engine.banned_strings import MAX_REDRAWS, BannedStrings, Drawn, redraw_stream
from decoding.engine.healing import Healing
from decoding.engine.logits_processors import ProcessorChain
from decoding.engine.logprobs import OffsetCounter, TokenScore, token_logprob
from decoding.engine.masks import TokenMasks
from decoding.engine.outputs import Choice, Delta, Logprobs, TokenLogprob
from decoding.engine.repetition import RepetitionDetector
from decoding.engine.request import Request
from decoding.engine.transcript import NO_PREFIX, Prefix, Transcript
from decoding.errors import DecodingError, ParameterError
from decoding.text.detokenizer import NOTHING_KNOWN, Detokenizer
from decoding.text.stop_strings import StopMatch, StopMatcher
from decoding.text.tokenizer import Tokenizer
from decoding.types import FinishReason

REPETITION_DETECTED = "repetition_detected"
"""The stop_reason of a text that a loop ended, as vLLM spells it."""


class Candidate:
    """The sampling state and the transcript of one candidate, and the rules by which it ends.

    Pieces of a stream (`delta`) and the finished choice are made of the same transcript, so they cannot differ.

    state: the sequence's sampling state. drawing_state: the one that the sampler draws with; another one where there
        are processors.
    is_scored: True if log-probabilities of its tokens are needed. is_ranked: True if best_of ranks it.
    logprobs_modes: those of `drawing_state`.
    is_special: True if there is anything to do before its draws: a mask, or `prepares_rows`.
    is_plain: True if nothing is done between two draws but to record the token.
    healing: the conditioned rows, until the text has all of the prompt's bytes that were taken back.
    num_healed: how many of these bytes it has.
    is_rewound: True once tokens were taken back, until the engine has taken them out of the sequence, too.
    masks: the bitmask of its next token, where the text so far forbids tokens; None where it does not.
    """

    __slots__ = (
        "_banned",
        "_begins_no_stop",
        "_detokenizer",
        "_ending_ids",
        "_has_logprobs",
        "_has_stops",
        "_healing",
        "_is_observed",
        "_is_text",
        "_known_bytes",
        "_matcher",
        "_may_cut",
        "_min_tokens",
        "_offsets",
        "_prompt_data",
        "_raw_logprob_sum",
        "_repetition",
        "_tokenizer",
        "_transcript",
        "choice",
        "drawing_state",
        "error",
        "finish_reason",
        "healing",
        "is_plain",
        "is_ranked",
        "is_rewound",
        "is_scored",
        "is_special",
        "logprobs_modes",
        "masks",
        "num_healed",
        "num_output_tokens",
        "num_tokens",
        "processors",
        "request",
        "state",
        "stop_reason",
    )

    def __init__(
        self,
        request: Request,
        choice: int,
        tokenizer: Tokenizer | None,
        prompt: Prefix,
        healing: Healing | None = None,
    ) -> None:
        """Candidate number `choice` of `request`; prompt: how results show the prompt; healing: of the request."""
        params = request.params
        self.request = request
        self.choice = choice
        self.state = self.drawing_state = request.new_state(choice)
        self.processors: ProcessorChain | None = None
        if request.processors:
            self.processors = ProcessorChain(request.processors, request.sampling, self.state, request.profile)
            self.drawing_state = self.processors.state
        self._healing = self.healing = healing
        self.num_healed = 0
        self.is_ranked = params.ranks_candidates
        self.is_scored = params.logprobs is not None or self.is_ranked
        self.logprobs_modes = self.drawing_state.params.logprobs_modes
        self.num_output_tokens = request.num_tokens_of(choice)
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.error: DecodingError | None = None
        self._raw_logprob_sum = 0.0
        self._tokenizer = tokenizer
        self._detokenizer = self._new_detokenizer()
        self._known_bytes: Mapping[int, bytes] = NOTHING_KNOWN  # by token id, where the text alone decides
        self._has_logprobs = params.logprobs is not None
        self._matcher = StopMatcher(request.stops)
        self._begins_no_stop = request.stops.first_bytes.isdisjoint
        self._has_stops = bool(params.stop)
        self._may_cut = self._has_stops and not params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._ending_ids = frozenset((*params.stop_token_ids, *(() if params.ignore_eos else request.eos_token_ids)))
        self._banned = None if request.banned is None else BannedStrings(request.banned)
        self.is_rewound = False
        self.masks: TokenMasks | None = None
        if request.grammar is not None or self._banned is not None:
            self.masks = TokenMasks(request.vocab_size, request.grammar, self._ending_ids)
            for token_id in request.continued_token_ids:
                self.masks.append(token_id)
        self._repetition: RepetitionDetector | None = None
        if request.detects_repetition:
            self._repetition = RepetitionDetector(*cast(tuple[int, int, int], params.repetition_detection))
        self._is_observed = bool(request.processors or request.forced is not None or request.on_sample is not None)
        self.is_special = self.prepares_rows or self.masks is not None
        followers = (self.masks, self._repetition, healing)
        self.is_plain = not self.is_special and self.state.is_recorded_in_c
        self._is_text = followers == (None, None, None) and not self.is_ranked
        self._prompt_data = prompt.data
        self._offsets = OffsetCounter(prompt.data)
        if healing is not None:
            prompt = prompt._replace(data=prompt.data + healing.remainder.data)
        self._transcript = Transcript(prompt if params.echo else NO_PREFIX, may_cut=self._may_cut)

    @property
    def ending_ids(self) -> frozenset[int]:
        """Ids that end the text, where the sampler draws one."""
        return self._ending_ids

    @property
    def prepares_rows(self) -> bool:
        """True if its rows are changed or observed before the draw."""
        return self._is_observed or self.healing is not None

    @property
    def is_finished(self) -> bool:
        """True if nothing more will be generated."""
        return self.finish_reason is not None

    def append(self, token_id: int, score: TokenScore | None = None, raw_logprob: float = 0.0) -> None:
        """Append a sampled token. score: its log-probabilities, if requested. raw_logprob: used if best_of ranks."""
        self.num_tokens += 1
        data = self._known_bytes.get(token_id)
        if not data or self._matcher.held or not self._begins_no_stop(data) or token_id in self._ending_ids:
            self._append_any(token_id, score, raw_logprob)
            return
        entry = None if score is None else self._entry(token_id, data, score)  # most tokens by far
        self._transcript.add_released(token_id, entry, data)
        if self.num_tokens >= self.num_output_tokens:
            self._finish("length")

    def _append_any(self, token_id: int, score: TokenScore | None, raw_logprob: float) -> None:
        """Append a token in the general case, such as one that ends the text or may be part of a stop string."""
        ends = token_id in self._ending_ids
        data = b"" if ends or self._detokenizer is None else self._detokenizer.append(token_id)
        if self._is_text and self._detokenizer is not None:
            self._known_bytes = self._detokenizer.known_bytes
        self._raw_logprob_sum += raw_logprob  # float64, in token order
        shown = data
        is_hidden = not data and (ends or self._is_skipped(token_id))
        entry = None if score is None else self._entry(token_id, None if is_hidden else data, score)
        if self.healing is not None:
            shown = self._healed(self.healing, data)
        generated, match, num_held = shown, None, 0
        if self._has_stops and not ends:
            if is_hidden and self._tokenizer is not None:
                generated = self._tokenizer.token_bytes(token_id, skip_special_tokens=False)
            match, num_held = self._find_stop(generated)
        if self._banned is not None:
            limit = len(shown) - (0 if match is None else num_held)
            began = self._banned.append(shown, Drawn(data, generated, raw_logprob), limit)
            if began is not None:
                self._take_back(self._banned, began)
                return
            if match is None and self._banned.first_held is not None:
                held = self._banned.drawn[self._banned.first_held :]
                num_held = max(num_held, sum(len(drawn.generated) for drawn in held))
        self._transcript.add(token_id, entry, generated, shown, num_held)
        if ends:
            self._finish("stop", token_id)
        elif match is not None:  # it wins over a length that is reached by the same token
            self._finish("stop", match.stop, self._transcript.num_bytes - num_held)
        elif self.masks is not None and self._completes(self.masks, token_id):
            self._finish("stop")
        elif self.error is None and self._repeats(token_id):
            self._finish("stop", REPETITION_DETECTED)
        elif self.num_tokens >= self.num_output_tokens and self.error is None:
            self._finish("length")

    def finish_empty(self) -> None:
        """End before the first token, because max_tokens is 0."""
        self._finish("length")

    def fail(self, error: DecodingError) -> None:
        """End with an error, because no next token can be drawn. The tokens so far stay."""
        self.error = error
        self._finish("error")

    def release(self) -> None:
        """Release the text that was held back, because nothing more will be generated."""
        self._transcript.close()

    def delta(self, index: int) -> Delta:
        """Return the text and tokens released since the last call, as choice number `index`."""
        text, token_ids, entries = self._transcript.take()
        return Delta(
            index,
            text,
            token_ids,
            self.finish_reason,
            self.stop_reason,
            Logprobs.from_tokens(entries) if self._has_logprobs else None,
            self.state.seed,
            self.error,
            self.num_tokens,
        )

    def finished_choice(self, beam_score: float | None = None) -> Choice:
        """Return the whole candidate, numbered by its candidate index. beam_score: of a hypothesis of a beam search."""
        text, token_ids, entries = self._transcript.whole()
        return Choice(
            index=self.choice,
            text=text,
            token_ids=token_ids,
            finish_reason=self.finish_reason or "error",
            stop_reason=self.stop_reason,
            logprobs=Logprobs.from_tokens(entries) if self._has_logprobs else None,
            seed=self.state.seed,
            mean_logprob=self._raw_logprob_sum / max(1, self.num_tokens) if self.is_ranked else None,
            error=self.error,
            candidate=self.state.choice,
            beam_score=beam_score,
        )

    def _take_back(self, banned: BannedStrings, num_tokens: int) -> None:
        """Keep the first tokens, and mask the token that followed them, so that its position is drawn again.

        The newest token is in the states and in `banned`, but not in the transcript yet.
        """
        num_held, token_id = self.num_tokens - 1 - num_tokens, self.state.output_token_ids[num_tokens]
        banned.take_back(num_tokens)
        for state in {id(one): one for one in (self.state, self.drawing_state)}.values():
            state.truncate(num_tokens)
            state.use_stream(redraw_stream(self.request.rng_stream, banned.num_redraws))
        if self.masks is not None:
            self.masks.take_back(num_tokens, token_id)
        self.num_tokens, self.is_rewound = num_tokens, True
        self._read_again(banned.drawn)
        self._transcript.take_back(num_held, sum(len(drawn.generated) for drawn in banned.drawn))
        if banned.num_redraws == MAX_REDRAWS:
            strings = self.request.params.banned_strings
            self.fail(ParameterError.single("banned_strings", strings, f"takes more than {MAX_REDRAWS:,} redraws"))

    def _read_again(self, drawn: list[Drawn]) -> None:
        """Rebuild all state that depends on the tokens."""
        self._raw_logprob_sum = sum((one.raw_logprob for one in drawn), 0.0)
        self._detokenizer = self._new_detokenizer()
        self._known_bytes = NOTHING_KNOWN
        for token_id in self.state.output_token_ids:
            if self._detokenizer is None or self._detokenizer.is_settled:
                break
            self._detokenizer.append(token_id)
        data = b"".join(one.data for one in drawn)
        self._offsets = OffsetCounter(self._prompt_data + data)
        self._matcher = StopMatcher(self.request.stops)
        self._matcher.feed(b"".join(one.generated for one in drawn), ignore=True)
        if self._repetition is not None:
            self._repetition.take_back(len(drawn))
        if self._healing is not None:
            self.num_healed = min(len(data), len(self._healing.remainder.data))
            self.healing = self._healing if self.num_healed < len(self._healing.remainder.data) else None

    def _new_detokenizer(self) -> Detokenizer | None:
        if self._tokenizer is None:
            return None
        params = self.request.params
        return Detokenizer(
            self._tokenizer, self.request.token_ids, params.skip_special_tokens, at_start=params.suffix is None
        )

    def _healed(self, healing: Healing, data: bytes) -> bytes:
        """Return the bytes of a token that the prompt does not have already, and count the others."""
        before = self.num_healed
        self.num_healed = min(before + len(data), len(healing.remainder.data))
        if self.num_healed == len(healing.remainder.data):
            self.healing = None
        return data[self.num_healed - before :]

    def _completes(self, masks: TokenMasks, token_id: int) -> bool:
        """Return True if the text is a complete sentence of the grammar; fail if it cannot become one."""
        try:
            masks.append(token_id)
        except ParameterError as error:
            self.fail(error)
            return False
        return masks.is_complete and self.num_tokens >= self._min_tokens

    def _repeats(self, token_id: int) -> bool:
        """Return True if the output ends with a repetition that stops it."""
        repeats = self._repetition is not None and self._repetition.append(token_id)
        return repeats and self.num_tokens >= self._min_tokens

    def _is_skipped(self, token_id: int) -> bool:
        """Return True for a special token that the text does not show."""
        skips = self.request.params.skip_special_tokens
        return skips and self._tokenizer is not None and self._tokenizer.is_special(token_id)

    def _entry(self, token_id: int, shown: bytes | None, score: TokenScore) -> TokenLogprob:
        return token_logprob(self._tokenizer, token_id, shown, self._offsets.add(shown or b""), score)

    def _find_stop(self, generated: bytes) -> tuple[StopMatch | None, int]:
        """Return the stop string that these bytes complete, and the number of bytes that must be held back."""
        matcher = self._matcher
        matcher.num_bytes = self._transcript.num_bytes  # some of them were not fed, because they begin no stop string
        match = matcher.feed(generated, ignore=self.num_tokens < self._min_tokens)
        if match is None:
            return None, matcher.held if self._may_cut else 0
        end = match.start if self._may_cut else match.end
        return match, self._transcript.num_bytes + len(generated) - end

    def _finish(self, reason: FinishReason, stop_reason: str | int | None = None, cut: int | None = None) -> None:
        self.finish_reason = reason
        self.stop_reason = stop_reason
        self._transcript.close(cut)
