"""Engine: the decoding loop. Schedule, forward pass, sample, postprocess.

Every step computes the newest token of every running sequence, and as much of waiting prompts as the step's budget
allows, in one forward pass, and samples all next tokens in one call of the sampler. Nothing depends on which sequences
share a step, on chunks, cached prefixes or preemptions: a request gets what it would have got alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable
from operator import attrgetter

from decoding.engine.block_manager import BlockManager
from decoding.engine.candidate import Candidate
from decoding.engine.healing import Healing
from decoding.engine.model_runner import ModelRunner
from decoding.engine.multi_step import MultiStep, append_drawn
from decoding.engine.request import Request
from decoding.engine.sampling_step import sampling_step
from decoding.engine.scheduler import Scheduler
from decoding.engine.sequence import NO_ROW, Sequence
from decoding.engine.settings import DEFAULT_CACHE_BYTES, EngineSettings
from decoding.engine.share import Share
from decoding.engine.speculation import Drafter
from decoding.engine.stats import EngineStats
from decoding.engine.tasks.completion import CompletionTask, Listener
from decoding.engine.tasks.protocol import Task
from decoding.engine.tasks.scoring import ScoringTask
from decoding.errors import (
    MODEL_CONTEXT,
    ContextLengthError,
    DecodingError,
    EngineError,
    EngineMemoryError,
    LogitsError,
    ParameterError,
    drop_frames,
)
from decoding.models.batch import BLOCK_SIZE, Logits, Model
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import PROFILES, Profile
from decoding.text.tokenizer import Tokenizer

_CANDIDATE, _IS_SPECIAL, _PROFILE = map(attrgetter, ("candidate", "candidate.is_special", "request.profile"))
"""Getters of a sequence's candidate and its `is_special`, and of a candidate's profile."""


class Engine:
    """Runs requests on one model.

        engine = Engine(model, tokenizer, EngineSettings(max_num_seqs=8))
        tasks = [engine.add_request(request) for request in requests]
        while engine.has_work:
            engine.step()
        results = [task.result(name) for task in tasks]

    Not for several threads at once. Requests may be added and aborted between any two steps.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        settings: EngineSettings,
        drafter: Drafter | None = None,
        profile: Profile = PROFILES["openai"],
    ) -> None:
        """drafter: proposes draft tokens; None decodes one token per step. profile: of scores; requests have theirs."""
        config = model.config
        self._model = model
        self._tokenizer = tokenizer
        self._drafter = drafter
        self._num_draft_tokens = settings.num_draft_tokens
        self._num_valid = config.vocab_size if tokenizer is None else min(config.vocab_size, tokenizer.vocab_size)
        self._samplers: dict[Profile, Sampler] = {}
        self._sampler = self._sampler_of(profile)
        self._block_bytes = model.new_cache(1).block_bytes
        num_blocks = settings.num_blocks(config.max_position_embeddings, BLOCK_SIZE, self._block_bytes)
        cache = model.new_cache(num_blocks)
        self._blocks = BlockManager(num_blocks, BLOCK_SIZE, cache.copy_block, prefix_cache=settings.prefix_cache)
        self._scheduler = Scheduler(
            self._blocks,
            max_num_seqs=settings.max_num_seqs,
            max_batched_tokens=settings.max_batched_tokens,
            max_per_request=settings.max_num_seqs_per_request,
            rope_border=model.rope_border,
            rope_regime=model.rope_regime,
        )
        self._runner = ModelRunner(model, cache, self._scheduler.max_num_seqs)
        self._multi_step = MultiStep(model, self._scheduler, self._runner, settings.num_scheduler_steps)
        self.max_tokens = min(config.max_position_embeddings, self._scheduler.max_tokens)
        """The longest sequence, in tokens; `context_limit` names what bounds it."""
        self.context_limit = MODEL_CONTEXT
        if self.max_tokens < config.max_position_embeddings:
            self.context_limit = f"the KV cache (kv_cache_bytes={settings.kv_cache_bytes or DEFAULT_CACHE_BYTES:,})"
        self._instant: list[CompletionTask] = []
        self._streams_singly = settings.num_scheduler_steps is None
        self._is_stepping = False
        self._num_requests = self._num_steps = self._num_prompt_tokens = self._num_sampled = 0
        self._num_drafted = self._num_accepted = 0

    @property
    def has_work(self) -> bool:
        """True if `step` has work to do."""
        return bool(self._instant) or self._scheduler.has_work

    @property
    def stats(self) -> EngineStats:
        """The current counts."""
        scheduler, blocks = self._scheduler, self._blocks
        tasks = {sequence.task for sequence in (*scheduler.running, *scheduler.waiting)}
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting) + sum(task.num_unstarted for task in tasks),
            block_size=BLOCK_SIZE,
            num_blocks=blocks.num_blocks,
            num_blocks_used=blocks.num_used,
            num_blocks_live=blocks.num_live,
            kv_cache_bytes=blocks.num_blocks * self._block_bytes,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=scheduler.num_cached_tokens,
            num_sampled_tokens=self._num_sampled,
            num_draft_tokens=self._num_drafted,
            num_accepted_tokens=self._num_accepted,
            num_preemptions=scheduler.num_preemptions,
        )

    def add_request(
        self,
        request: Request,
        listener: Listener | None = None,
        share: Share | None = None,
        *,
        is_streamed: bool = False,
    ) -> CompletionTask:
        """Queue a request. Raises ContextLengthError for a prompt that can never fit the KV cache.

        listener: called within `step` for each candidate that has got a token or has ended. It may add and abort
            requests; if it raises, the step fails.
        share: that of several prompts which are one request to the engine's other users; None is one of its own.
        is_streamed: call the listener for each token as soon as it is drawn, unless num_scheduler_steps is set.
        """
        length = len(request.token_ids)
        self._check_length(length, length)
        regime = self._model.rope_regime(request.rope_length)
        vocab_size = self._model.config.vocab_size
        task = CompletionTask(
            request,
            self._num_requests,
            self._tokenizer,
            vocab_size,
            regime,
            listener,
            share,
            is_streamed=is_streamed and self._streams_singly,
        )
        self._num_requests += 1
        if task.is_instant:
            self._instant.append(task)
        else:
            self._scheduler.add(task.next_sequence())
        return task

    def add_scoring(self, prompt: list[int], continuations: list[list[int]]) -> ScoringTask:
        """Queue the scoring of continuations, at least one token each, of a prompt of at least one token.

        Raises ContextLengthError if they can never fit the KV cache together.
        """
        length = len(prompt) + max(map(len, continuations))
        self._check_length(length - 1, length)  # the last token is predicted, never computed
        vocab_size = self._model.config.vocab_size
        task = ScoringTask(prompt, continuations, self._num_requests, vocab_size, self._model.rope_regime)
        self._num_requests += 1
        self._scheduler.add(task.next_sequence())
        return task

    def abort(self, task: CompletionTask | ScoringTask) -> list[Candidate]:
        """Free all resources of a task, and return those of its candidates that had begun."""
        if isinstance(task, CompletionTask):
            task.listener = None
            if task in self._instant:
                self._instant.remove(task)
        return [sequence.candidate for sequence in self._scheduler.remove(task) if sequence.candidate is not None]

    def interrupt(self) -> None:
        """End a step that decodes several tokens after the current one; from any thread, to add or abort a request."""
        self._multi_step.interrupt()

    def step(self) -> int:
        """Run one step for everything that fits; return the number of sequences in it.

        Where all sequences decode and need nothing else, the step may be several decoding steps in a row.

        A row of logits that nothing can be drawn from ends its own candidate. A forward pass that raises ends the
        requests of its step, with an EngineError that has the cause. Raises EngineError for a call from within a step,
        by a logits processor for example.
        """
        if self._is_stepping:
            raise EngineError("the engine is in the middle of a step, and cannot begin another")
        self._is_stepping = True
        try:
            return self._step()
        finally:
            self._is_stepping = False

    def _step(self) -> int:
        self._num_steps += 1
        while self._instant:
            self._instant.pop(0).finish_empty()
        batch: list[Sequence] = []
        try:
            if self._drafter is not None:
                self._propose_drafts(self._drafter)
            batch = self._scheduler.schedule()
            if self._drafter is not None:
                self._scheduler.schedule_drafts(batch)
            if not self._decode_several(batch):
                logits = self._runner.forward(batch, only_decodes=self._scheduler.only_decodes)
                self._scheduler.commit(batch)
                self._sample(logits, self._healed(self._ready(batch, logits), logits))
        except BaseException as error:  # an interrupt, too, must not leave a step that is half done
            self._fail(batch, error)
            if not batch or not isinstance(error, Exception):
                raise
            drop_frames(error)  # they refer to what the results of the step's requests refer to, and these to the error
        if not self._scheduler.has_work:
            self._runner.forget()
        self._multi_step.clear_interrupt()
        return len(batch)

    def _decode_several(self, batch: list[Sequence]) -> bool:
        """Run several decoding steps in a row; return False if the sequences need the engine after each of them."""
        drawn = None if self._drafter is not None else self._multi_step.run(batch, self._sampler_of)
        if drawn is None:
            return False
        self._num_steps += drawn.num_steps - 1
        for sequence, candidate, tokens in drawn.tokens:
            if not sequence.is_running:  # aborted by a listener, just now
                continue
            append_drawn(sequence, candidate, tokens)
            self._num_sampled += sequence.num_scheduled
            self._scheduler.commit((sequence,))
            self._report(sequence, candidate)
        return True

    def _ready(self, batch: list[Sequence], logits: Logits) -> list[Sequence]:
        """Return the sequences to sample for, after prompts have been scored and candidates begun."""
        if self._scheduler.only_decodes and all(map(_CANDIDATE, batch)):
            return batch
        for sequence in batch:
            if sequence.candidate is None and sequence.is_running:
                self._on_prompt(sequence, logits)
        return [
            sequence
            for sequence in batch
            if sequence.num_computed == len(sequence.token_ids) and sequence.is_running  # else: a part of a prompt
        ]

    def _on_prompt(self, sequence: Sequence, logits: Logits) -> None:
        """Score the requested rows of a prompt, and begin the candidate at its end."""
        task = sequence.task
        self._num_prompt_tokens += sequence.num_scheduled
        rows = logits[sequence.first_row : sequence.first_row + sequence.num_rows]
        if sequence.score_from is not None and len(rows):
            try:
                task.on_logits(sequence, sequence.num_computed - len(rows), rows, self._sampler)
            except LogitsError as error:
                task.fail(self._scheduler.remove(task), error)
                return
        if not sequence.num_pending:
            sequence.candidate = task.on_prompt_computed(sequence, rows[-1] if len(rows) else None)
            if sequence.candidate is None and sequence.is_running:
                self._scheduler.finish(sequence)

    def _healed(self, sequences: list[Sequence], logits: Logits) -> list[Sequence]:
        """Search the ends of prompts with token healing; return the sequences that can be sampled for afterwards."""
        if not any(map(_IS_SPECIAL, sequences)):
            return sequences
        for sequence in sequences:
            candidate = sequence.candidate
            if candidate is not None and candidate.healing is not None and not candidate.healing.is_searched:
                self._heal(sequence, candidate.healing, logits)
        return [sequence for sequence in sequences if sequence.is_running]

    def _heal(self, sequence: Sequence, healing: Healing, logits: Logits) -> None:
        """Search the end of one prompt in the sequence's own blocks, for all candidates of its task."""
        if not sequence.is_running or not self._scheduler.reserve_behind(sequence, len(healing.remainder.data)):
            return  # it is computed again, and searched then
        first = logits[sequence.row] if sequence.row != NO_ROW else sequence.task.first_logits
        try:
            healing.search(first.copy(), self._sampler, lambda path: self._runner.row_behind(sequence, path))
        except (LogitsError, ParameterError) as error:
            sequence.task.fail(self._scheduler.remove(sequence.task), error)
            return
        self._scheduler.release_behind(sequence)

    def _sample(self, logits: Logits, sequences: list[Sequence]) -> None:
        """Sample one token per sequence, and go on with those whose draft tokens are right."""
        while sequences:
            candidates = [candidate for candidate in map(_CANDIDATE, sequences) if candidate is not None]
            errors = self._draw(logits, sequences, candidates)
            self._num_sampled += len(sequences) - len(errors)
            drafting = [] if self._drafter is None else self._accept_drafts(sequences, errors)
            for sequence, candidate in zip(sequences, candidates, strict=True):
                if not sequence.is_running:  # aborted by a listener, just now
                    continue
                if errors and sequence in errors:
                    candidate.fail(errors[sequence])
                if sequence.num_draft and sequence not in drafting:
                    self._settle_drafts(sequence)
                if candidate.is_rewound:
                    self._take_back(sequence, candidate)
                self._report(sequence, candidate)
            sequences = [sequence for sequence in drafting if sequence.is_running]

    def _report(self, sequence: Sequence, candidate: Candidate) -> None:
        """Remove a sequence that has ended, and report its new tokens."""
        if candidate.finish_reason is not None:  # what a bad row left in the cache may be as bad
            self._scheduler.finish(sequence, forget=candidate.error is not None)
        sequence.task.on_sampled(candidate)

    def _draw(
        self, logits: Logits, sequences: list[Sequence], candidates: list[Candidate]
    ) -> dict[Sequence, DecodingError]:
        """Draw a token per sequence, in one call of the sampler per profile; return the errors of rows that failed."""
        profiles = list(map(_PROFILE, candidates))
        if profiles.count(profiles[0]) == len(profiles):
            return sampling_step(self._sampler_of(profiles[0]), logits, sequences, candidates)
        errors: dict[Sequence, DecodingError] = {}
        for profile in dict.fromkeys(profiles):
            chosen = [index for index, other in enumerate(profiles) if other == profile]
            part = [sequences[index] for index in chosen], [candidates[index] for index in chosen]
            errors |= sampling_step(self._sampler_of(profile), logits, *part)
        return errors

    def _sampler_of(self, profile: Profile) -> Sampler:
        if profile not in self._samplers:
            vocab_size, threads = self._model.config.vocab_size, getattr(self._model, "threads", None)
            self._samplers[profile] = Sampler(vocab_size, num_valid_tokens=self._num_valid, profile=profile)
            if threads is not None:  # the native model's, which are idle between two forward passes
                self._samplers[profile].use_threads(threads)
        return self._samplers[profile]

    def _accept_drafts(self, sequences: list[Sequence], errors: Container[Sequence]) -> list[Sequence]:
        """Accept the draft tokens that have just been sampled; return the sequences with another row to sample."""
        going_on = []
        for sequence in sequences:
            index = sequence.num_accepted
            if sequence in errors or index == sequence.num_draft or sequence.token_ids[-1] != sequence.draft[index]:
                continue
            sequence.num_accepted += 1
            sequence.row += 1
            candidate = sequence.candidate
            if candidate is not None and candidate.finish_reason is None and not candidate.is_rewound:
                going_on.append(sequence)
        return going_on

    def _take_back(self, sequence: Sequence, candidate: Candidate) -> None:
        """Remove from a sequence the tokens that its candidate has taken back."""
        candidate.is_rewound = False
        self._scheduler.take_back(sequence, sequence.num_shared + candidate.num_tokens)
        self._runner.forget()

    def _settle_drafts(self, sequence: Sequence) -> None:
        """Keep the accepted draft tokens of a sequence, and count them."""
        if sequence.candidate is not None and sequence.candidate.finish_reason is None:
            self._scheduler.accept_drafts(sequence)
        sequence.task.metrics.num_draft_tokens += sequence.num_draft
        sequence.task.metrics.num_accepted_tokens += sequence.num_accepted
        self._num_drafted += sequence.num_draft
        self._num_accepted += sequence.num_accepted

    def _propose_drafts(self, drafter: Drafter) -> None:
        """Request draft tokens for each sequence that has only its newest token to compute."""
        proposals = []
        for sequence in self._scheduler.running:
            sequence.draft, sequence.num_draft, sequence.num_accepted = [], 0, 0
            room = self._draft_room(sequence)
            if room > 0:
                proposals.append((sequence, room))
        try:
            drafter.propose(proposals)
        except Exception as error:  # without drafts the texts are the same
            self._drafter = None
            for sequence, _ in proposals:
                sequence.draft = []
            problem = f"{type(error).__name__}: {error}"
            warnings.warn(f"speculation is off from now on: the drafter raised {problem}", RuntimeWarning, stacklevel=2)
        for sequence, _ in proposals:
            if sequence.candidate is not None and sequence.candidate.masks is not None:
                sequence.draft = sequence.candidate.masks.valid_part(sequence.draft)

    def _draft_room(self, sequence: Sequence) -> int:
        """Return how many draft tokens to propose: none behind the border where a sequence is computed again."""
        candidate, length = sequence.candidate, len(sequence.token_ids)
        if candidate is None or sequence.num_pending != 1:
            return 0
        room = min(candidate.num_output_tokens - candidate.num_tokens - 1, self.max_tokens - length)
        border = self._model.rope_border
        if border is not None and sequence.rope_length <= border:
            room = min(room, border - length)
        return min(room, self._num_draft_tokens)

    def _fail(self, batch: Iterable[Sequence], cause: BaseException) -> None:
        """End every request of a step that raised, and free its resources."""
        kind = EngineMemoryError if isinstance(cause, MemoryError) else EngineError
        error = kind(f"the engine's step failed: {type(cause).__name__}")
        error.__cause__ = cause
        tasks: dict[Task, None] = dict.fromkeys(sequence.task for sequence in batch)
        for task in tasks:
            task.fail(self._scheduler.remove(task), error)

    def _check_length(self, num_computed: int, num_tokens: int) -> None:
        if num_computed > self.max_tokens:
            error = ContextLengthError(num_tokens, self.max_tokens)
            error.limit = self.context_limit
            raise error
