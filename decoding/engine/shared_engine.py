"""Host: one engine that several callers share, from several threads and at any time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from decoding.engine.engine import Engine, EngineSettings, EngineStats
from decoding.engine.group import Listener, SequenceGroup
from decoding.engine.replay import Capsule
from decoding.engine.request import (
    NO_TOKENIZER,
    OnSample,
    Request,
    Shape,
    checked_token_ids,
    make_request,
    split_prompts,
)
from decoding.engine.runner import Model
from decoding.engine.scoring import ScoringGroup
from decoding.engine.speculation import Drafter
from decoding.errors import ParameterError, TokenizerError, shown
from decoding.params import SamplingParams
from decoding.text.fim import FimFormat
from decoding.text.tokenizer import Tokenizer
from decoding.types import Prompt


class Host:
    """A model, its tokenizer, and an engine that is made when it is first needed.

    Whoever wants a result steps the engine until it is there; a step serves everybody. All methods may be called from
    any thread: one steps at a time.
    """

    def __init__(
        self,
        model: Model[Any],
        tokenizer: Tokenizer | None,
        settings: EngineSettings,
        *,
        name: str,
        fim: FimFormat | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.settings = settings
        self.fim = fim
        self._drafter = drafter
        self._lock = threading.RLock()

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, self.tokenizer, self.settings, self._drafter)

    @property
    def stats(self) -> EngineStats:
        """The engine's counts."""
        with self._lock:
            return self._engine.stats

    @property
    def max_model_len(self) -> int:
        """The context: the model's, or less where the memory for keys and values ends first."""
        return self._shape.max_position_embeddings

    @contextmanager
    def exclusive(self) -> Iterator[Model[Any]]:
        """The model, for oneself."""
        with self._lock:
            yield self.model

    def requests(
        self, prompt: Any, params: Any, processors: Any = (), on_sample: OnSample | None = None
    ) -> tuple[list[Request], bool]:
        """The checked requests of one call, and whether a list of prompts was given.

        Raises PromptError, ContextLengthError, ParameterError or TokenizerError. Takes about 1 s for each MB of text,
        and does not wait for a step.
        """
        prompts, is_list = split_prompts(prompt)
        names = [f"prompt[{index}]" for index in range(len(prompts))] if is_list else ["prompt"]
        each = zip(prompts, params_list(params, len(prompts)), names, strict=True)
        return [
            make_request(one, its_params, self._shape, self.tokenizer, name, self.fim, processors, on_sample)
            for one, its_params, name in each
        ], is_list

    @cached_property
    def _shape(self) -> Shape:
        with self._lock:
            return Shape.bounded(self.model.config, self._engine.max_tokens)

    def replayed(self, capsule: Capsule, *, force: bool) -> Request:
        """The request of a capsule; raises where this model cannot run it."""
        return capsule.request(self._shape, self.tokenizer, force=force)

    def add(self, requests: Iterable[Request], listener: Listener | None = None) -> list[SequenceGroup]:
        """Queue requests; `listener` is called within somebody's step."""
        with self._lock:
            return [self._engine.add_request(request, listener) for request in requests]

    def add_scoring(self, prompt: list[int], continuations: list[list[int]]) -> ScoringGroup:
        """Queue the scoring of continuations of one prompt."""
        with self._lock:
            return self._engine.add_scoring(prompt, continuations)

    def encode(self, text: Prompt, name: str, *, at_start: bool) -> list[int]:
        """Token ids of a prompt, or of what goes on in the middle of a text; ids are checked and taken as they are."""
        if isinstance(text, str) and not at_start:
            if self.tokenizer is None:
                raise TokenizerError(f"{name}={shown(text)}: {NO_TOKENIZER}", name)
            text = self.tokenizer.encode(text, add_special_tokens=False, at_start=False)
        if not isinstance(text, str):
            return checked_token_ids(text, self._shape.vocab_size, name)
        return make_request(text, SamplingParams(max_tokens=0), self._shape, self.tokenizer, name).token_ids

    def step(self) -> bool:
        """One step, if there is anything to do; whether there was."""
        with self._lock:
            has_work = self._engine.has_work
            if has_work:
                self._engine.step()
            return has_work

    def abort(self, groups: Iterable[SequenceGroup | ScoringGroup]) -> None:
        """Free everything that these hold; those that are done hold nothing."""
        with self._lock:
            for group in groups:
                if not group.is_done:
                    self._engine.abort(group)


def params_list(params: Any, num_prompts: int) -> list[SamplingParams]:
    """Parameters for each prompt."""
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * num_prompts
    rule = "must be a SamplingParams, or a list of them, one for each prompt"
    if not isinstance(params, (list, tuple)) or not all(isinstance(one, SamplingParams) for one in params):
        raise ParameterError.single("params", params, rule)
    if len(params) != num_prompts:
        raise ParameterError.single("params", f"{len(params)} of them", f"{rule} (there are {num_prompts})")
    return list(params)


def check_streamable(requests: Iterable[Request]) -> None:
    """ParameterError where best_of ranks: what is best is not known before the end."""
    for request in requests:
        if request.params.ranks_candidates:
            rule = f"must be None or n={request.params.n} when streaming: a ranking needs finished candidates"
            raise ParameterError.single("best_of", request.params.best_of, rule)
