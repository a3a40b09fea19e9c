"""SharedEngine: one engine that several callers share, from several threads and at any time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakSet

from decoding.engine.candidate import Candidate
from decoding.engine.engine import Engine
from decoding.engine.replay import Capsule
from decoding.engine.request import (
    NO_TOKENIZER,
    OnSample,
    Request,
    Shape,
    checked_token_ids,
    end_token_ids_of,
    make_request,
    split_prompts,
    with_token_ids,
)
from decoding.engine.settings import EngineSettings, checked_profile
from decoding.engine.share import Share
from decoding.engine.speculation import Drafter
from decoding.engine.stats import EngineStats
from decoding.engine.tasks.completion import CompletionTask, Listener
from decoding.engine.tasks.scoring import ScoringTask
from decoding.engine.token_sequences import Check, always_wanted
from decoding.errors import ParameterError, TokenizerError, shown
from decoding.models.batch import Model
from decoding.params import SamplingParams
from decoding.sampling.stages import PROFILES, Profile
from decoding.text.fim import FimFormat
from decoding.text.tokenizer import Tokenizer
from decoding.types import Prompt

_LOGGER = logging.getLogger("decoding")
_LOGGER.addHandler(logging.NullHandler())  # silent, unless the application configures logging


class SharedEngine:
    """A model, its tokenizer, and an engine that is created on first use.

    A caller that waits for a result steps the engine until the result exists; a step serves all callers. All methods
    may be called from any thread: one thread steps at a time.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        settings: EngineSettings,
        *,
        name: str,
        fim: FimFormat | None = None,
        drafter: Drafter | None = None,
        profile: Profile = PROFILES["openai"],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.settings = settings
        self.fim = fim
        self.profile = profile
        self._drafter = drafter
        self._make_locks()
        _ENGINES.add(self)
        self._log_end_tokens()

    def _make_locks(self) -> None:
        """Make the lock of the engine, and the door in which the next thread waits for it."""
        self._lock, self._door = threading.RLock(), threading.RLock()  # a generator may be closed anywhere
        self._owner: int | None = None

    def _log_end_tokens(self) -> None:
        ids = end_token_ids_of(self.model.config, self.tokenizer)
        own = self.model.config.eos_token_ids
        if own and ids != own:
            _LOGGER.warning(
                "%s: a text ends by the configs at ids %s and by the tokenizer at id %s; all of them end it",
                self.name,
                list(own),
                ids[-1],
            )

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, self.tokenizer, self.settings, self._drafter, self.profile)

    @property
    def stats(self) -> EngineStats:
        """The engine's counts."""
        with self._turn():
            return self._engine.stats

    @property
    def max_model_len(self) -> int:
        """The context in tokens: the model's, or less where the KV cache is smaller."""
        return self._shape.max_position_embeddings

    @contextmanager
    def exclusive(self) -> Iterator[Model]:
        """Hold the engine lock and yield the model."""
        with self._turn():
            yield self.model

    def requests(
        self,
        prompt: Any,
        params: Any,
        processors: Any = (),
        on_sample: OnSample | None = None,
        profile: str | Profile | None = None,
        *,
        check: Check = always_wanted,
    ) -> tuple[list[Request], bool]:
        """Return the checked requests of one call, and True if a list of prompts was given.

        profile: that of the sampler; None is the engine's own.
        check: called before each prompt, and before each text in the parameters; an exception from it ends the work.

        Raises PromptError, ContextLengthError, ParameterError or TokenizerError. Takes about 1 s per MB of text, and
        does not wait for a step.
        """
        prompts, is_list = split_prompts(prompt)
        names = [f"prompt[{index}]" for index in range(len(prompts))] if is_list else ["prompt"]
        stages = self.profile if profile is None else checked_profile(profile)
        made: list[Request] = []
        compiled: tuple[SamplingParams, SamplingParams] | None = None  # the last parameters, and with token ids
        for one, its, name in zip(prompts, params_list(params, len(prompts)), names, strict=True):
            check()
            if compiled is None or compiled[0] is not its:
                compiled = its, with_token_ids(its, self.tokenizer, check)
            made.append(
                make_request(
                    one,
                    its,
                    self._shape,
                    self.tokenizer,
                    name,
                    self.fim,
                    processors,
                    on_sample,
                    stages,
                    compiled[1],
                )
            )
        return made, is_list

    @cached_property
    def _shape(self) -> Shape:
        with self._turn():
            return Shape.bounded(self.model.config, self._engine.max_tokens, self._engine.context_limit)

    def replayed(self, capsule: Capsule, *, force: bool) -> Request:
        """Return the request of a capsule; raise if this model cannot run it."""
        return capsule.request(self._shape, self.tokenizer, self.profile, force=force)

    def add(
        self, requests: Iterable[Request], listener: Listener | None = None, *, is_streamed: bool = False
    ) -> list[CompletionTask]:
        """Queue the requests of one call; `listener` is called within a step, in the thread that runs the step.

        is_streamed: as of `Engine.add_request`.
        """
        share = Share()
        with self._turn(interrupts=True):
            return [self._engine.add_request(request, listener, share, is_streamed=is_streamed) for request in requests]

    def add_scoring(self, prompt: list[int], continuations: list[list[int]]) -> ScoringTask:
        """Queue the scoring of continuations of one prompt."""
        with self._turn(interrupts=True):
            return self._engine.add_scoring(prompt, continuations)

    def encode(self, text: Prompt, name: str, *, at_start: bool) -> list[int]:
        """Return the token ids of a prompt, or of a text that continues another; ids are checked."""
        if isinstance(text, str) and not at_start:
            if self.tokenizer is None:
                raise TokenizerError(f"{name}={shown(text)}: {NO_TOKENIZER}", name)
            text = self.tokenizer.encode(text, add_special_tokens=False, at_start=False)
        if not isinstance(text, str):
            return checked_token_ids(text, self._shape.vocab_size, name)
        return make_request(text, SamplingParams(max_tokens=0), self._shape, self.tokenizer, name).token_ids

    def interrupt(self) -> None:
        """End a step that decodes several tokens early, because a request is to be added or aborted."""
        engine = self.__dict__.get("_engine")
        if engine is not None:
            engine.interrupt()

    @contextmanager
    def _turn(self, *, interrupts: bool = False) -> Iterator[None]:
        """Hold the lock, in turn: a thread that steps would otherwise take it again at once, before those that wait.

        interrupts: end a step that decodes several tokens early.
        """
        if self._owner == threading.get_ident():  # it has the lock already, for instance in a step
            yield
            return
        is_held = False
        try:
            with self._door:  # the next thread waits in it
                if interrupts:
                    self.interrupt()
                is_held = self._lock.acquire()
            self._owner = threading.get_ident()
            yield
        finally:
            if is_held:
                self._owner = None
                self._lock.release()

    def step(self) -> bool:
        """Run one step if there is anything to do; return True if there was."""
        with self._turn():
            has_work = self._engine.has_work
            if has_work:
                self._engine.step()
            return has_work

    def abort(self, tasks: Iterable[CompletionTask | ScoringTask]) -> list[tuple[CompletionTask, Candidate]]:
        """Free all resources of these tasks; finished tasks have none.

        Returns the candidates that had begun, each with its task.
        """
        begun = []
        with self._turn(interrupts=True):
            for task in tasks:
                if not task.is_done:
                    candidates = self._engine.abort(task)
                    if isinstance(task, CompletionTask):
                        begun += [(task, candidate) for candidate in candidates]
        return begun

    def _reset_after_fork(self) -> None:
        """Start anew in a forked child: a thread of the parent may have held the lock in the middle of a step."""
        self._make_locks()
        self.__dict__.pop("_engine", None)


_ENGINES: WeakSet[SharedEngine] = WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_ENGINES):
        engine._reset_after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def params_list(params: Any, num_prompts: int) -> list[SamplingParams]:
    """Return parameters for each prompt; raise ParameterError unless there is one, or one per prompt."""
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * num_prompts
    rule = "must be a SamplingParams, or a list of them, one per prompt"
    if not isinstance(params, (list, tuple)) or not all(isinstance(one, SamplingParams) for one in params):
        raise ParameterError.single("params", params, rule)
    if len(params) != num_prompts:
        raise ParameterError.single("params", f"{len(params)} of them", f"{rule} (there are {num_prompts})")
    return list(params)


def check_streamable(requests: Iterable[Request]) -> None:
    """Raise ParameterError where best_of ranks: the best candidates are not known before the end."""
    for request in requests:
        if request.params.ranks_candidates:
            rule = f"must be None or n={request.params.n} when streaming: a ranking needs finished candidates"
            raise ParameterError.single("best_of", request.params.best_of, rule)
