"""LLM: the front door. A model folder in, completions out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from decoding.engine.engine import Engine, OnSample
from decoding.engine.group import SequenceGroup
from decoding.engine.outputs import CompletionResult, Delta
from decoding.engine.request import NO_TOKENIZER, Request, checked_token_ids, make_request, split_prompts
from decoding.engine.runner import Logits, Model, Row, Runner
from decoding.errors import ContextLengthError, ModelNotFoundError, ParameterError, TokenizerError
from decoding.kernel import STREAM_VERSION
from decoding.models.generation import generation_defaults
from decoding.models.registry import load_model
from decoding.params import SamplingParams
from decoding.text.fim import FimFormat
from decoding.text.tokenizer import Tokenizer
from decoding.types import Prompt
from decoding.version import __version__

OnError: TypeAlias = Literal["raise", "status"]

BUNDLED_NAME = "bundled"


class LLM:
    """A model with its tokenizer.

        llm = LLM()                       # the bundled model; LLM("path/to/checkpoint") for another
        llm.complete("def add(a, b):", SamplingParams(max_tokens=32, seed=7)).choices[0].text

    One thread at a time; several streams may be open at once.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        max_num_seqs: int = 32,
        fim_template: str | None = None,
    ) -> None:
        """Load a checkpoint folder in Hugging Face's layout; None is the bundled model.

        max_num_seqs: sequences that run at the same time, >= 1; further ones wait. It bounds the cache's
            memory.
        fim_template: how a prompt and its suffix are put together to fill in the middle, such as
            "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>". None looks for the tokens of the known
            families in the tokenizer (docs/text.md).

        A folder without tokenizer.json takes and gives token ids only: what needs text raises TokenizerError,
        and the text of results is empty. Raises ModelError (see decoding.errors) for a folder that cannot be
        used.
        """
        self._max_num_seqs = _checked_max_num_seqs(max_num_seqs)
        folder = bundled_model_folder() if model is None else _folder(model)
        loaded = load_model(folder)
        self._model: Model[Any] = loaded
        self._tokenizer: Tokenizer | None = None
        if os.path.lexists(folder / "tokenizer.json"):  # a link to nowhere is a broken tokenizer, not a missing one
            self._tokenizer = Tokenizer.from_folder(folder, loaded.config.vocab_size)
        self.name = BUNDLED_NAME if model is None else folder.resolve().name
        self._folder: Path | None = folder
        self._fim = self._fim_format(fim_template)

    @classmethod
    def from_parts(
        cls,
        model: Model[Any],
        tokenizer: Tokenizer | None = None,
        *,
        name: str = "custom",
        max_num_seqs: int = 32,
        fim_template: str | None = None,
    ) -> LLM:
        """An LLM around any object that stands where our models stand (`decoding.engine.runner.Model`)."""
        llm = cls.__new__(cls)
        llm._max_num_seqs = _checked_max_num_seqs(max_num_seqs)
        llm._model = model
        llm._tokenizer = tokenizer
        llm.name = name
        llm._folder = None
        llm._fim = llm._fim_format(fim_template)
        return llm

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; TokenizerError where it has none."""
        if self._tokenizer is None:
            raise TokenizerError(f"{self.name}: {NO_TOKENIZER}")
        return self._tokenizer

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """What the model's generation_config.json recommends, as arguments of SamplingParams.

            SamplingParams(**llm.generation_defaults | {"max_tokens": 64})

        It is never applied by itself: SamplingParams() means the same for every model. CheckpointError where the file
        is broken.
        """
        return {} if self._folder is None else generation_defaults(self._folder)

    @property
    def system_fingerprint(self) -> str:
        """A digest of what decides the output besides the request: library, stream version, weights, tokenizer."""
        parts = (__version__, STREAM_VERSION, getattr(self._model, "digest", self.name), "float32")
        tokenizer = "" if self._tokenizer is None else self._tokenizer.digest
        return "fp_" + hashlib.blake2b(repr((*parts, tokenizer)).encode(), digest_size=8).hexdigest()

    @overload
    def complete(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self, prompt: Prompt, params: SamplingParams | None = None, *, on_error: OnError = "raise"
    ) -> CompletionResult: ...
    @overload
    def complete(
        self,
        prompt: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> list[CompletionResult]: ...
    def complete(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> CompletionResult | list[CompletionResult]:
        """Complete one prompt, or several at once: a list in, a list out.

        prompt: text, or token ids taken as they are (no start token is added); or a list of prompts.
        params: for all prompts, or a list with those of each; None is SamplingParams().
        on_error: what becomes of a choice whose logits nothing can be drawn from (NaN, everything banned): its error
            is raised once all other work is done ("raise"), or it is returned with finish_reason "error" ("status").
            Candidates that best_of does not return raise nothing.

        Raises PromptError, ContextLengthError, ParameterError or TokenizerError before anything is computed.
        """
        requests, is_list = self._requests(prompt, params, on_error)
        engine = self._engine(requests)
        groups = [engine.add_request(request) for request in requests]
        while engine.has_work:
            engine.step()
        results = [group.result(self.name) for group in groups]
        if on_error == "raise":
            _raise_first_error(results)
        return results if is_list else results[0]

    def stream(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_error: OnError = "raise",
        on_sample: OnSample | None = None,
    ) -> Iterator[Delta]:
        """The same completions piece by piece, as they are generated; the pieces add up to what `complete` gives.

        on_sample: called before each draw with the sampler, the logits [rows, vocab] and the state of each row, to look
            at them (`sampler.explain(logits[0], states[0])`).

        Choices are numbered prompt by prompt. Closing the iterator frees everything. Raises as `complete`
        does, at once for bad arguments; ParameterError also for best_of > n, which is not known before the
        end.
        """
        requests, _ = self._requests(prompt, params, on_error)
        for request in requests:
            if request.params.ranks_candidates:
                rule = f"must be None or n={request.params.n} when streaming: a ranking needs finished candidates"
                raise ParameterError.single("best_of", request.params.best_of, rule)
        return self._stream(requests, on_error, on_sample)

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """The forward pass, bare: logits float32 [num_tokens, vocab]; row i predicts the token after token_ids[i]."""
        config = self._model.config
        ids = checked_token_ids(token_ids, config.vocab_size, "token_ids")
        if len(ids) > config.max_position_embeddings:
            raise ContextLengthError(len(ids), config.max_position_embeddings)
        return Runner(self._model, 1).forward([Row(0, 0, ids)], all_logits=True)

    def _requests(self, prompt: Any, params: Any, on_error: str) -> tuple[list[Request], bool]:
        if on_error not in ("raise", "status"):
            raise ParameterError.single("on_error", on_error, "must be 'raise' or 'status'")
        prompts, is_list = split_prompts(prompt)
        names = [f"prompt[{index}]" for index in range(len(prompts))] if is_list else ["prompt"]
        config, tokenizer = self._model.config, self._tokenizer
        requests = [
            make_request(one, its_params, config, tokenizer, name, self._fim)
            for one, its_params, name in zip(prompts, _params_list(params, len(prompts)), names, strict=True)
        ]
        return requests, is_list

    def _fim_format(self, template: str | None) -> FimFormat | None:
        return None if template is None else FimFormat.from_template(self.tokenizer, template)

    def _engine(self, requests: Sequence[Request], on_sample: OnSample | None = None) -> Engine:
        """An engine of its own for each call: nothing is left behind, whatever happens to the call."""
        candidates = sum(1 if r.is_greedy else r.params.num_candidates for r in requests)
        max_num_seqs = min(self._max_num_seqs, candidates)
        return Engine(self._model, self._tokenizer, max_num_seqs=max_num_seqs, on_sample=on_sample)

    def _stream(self, requests: Sequence[Request], on_error: OnError, on_sample: OnSample | None) -> Iterator[Delta]:
        engine = self._engine(requests, on_sample)
        first_index: dict[SequenceGroup, int] = {}
        num_choices = 0
        for request in requests:
            first_index[engine.add_request(request)] = num_choices
            num_choices += request.params.n
        while engine.has_work:
            for running in engine.step():
                for delta in running.group.deltas(running.sequence, first_index[running.group]):
                    if delta.error is not None and on_error == "raise":
                        raise delta.error
                    yield delta


def bundled_model_folder() -> Path:
    """Where the bundled model lies: package data, or in a development checkout the folder beside the package."""
    package = Path(__file__).parent
    checkout = package.parent
    folders = [package / "weights", *([checkout / "weights"] if (checkout / "pyproject.toml").is_file() else [])]
    for folder in folders:
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelNotFoundError(f"{folders[0]}: the bundled model is missing from this installation")


def _folder(model: str | os.PathLike[str]) -> Path:
    try:
        return Path(model)
    except TypeError:
        raise ParameterError.single("model", model, "must be a path (a string or PathLike), or None") from None


def _checked_max_num_seqs(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ParameterError.single("max_num_seqs", value, "must be an integer >= 1")
    return int(value)


def _params_list(params: Any, num_prompts: int) -> list[SamplingParams]:
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


def _raise_first_error(results: Sequence[CompletionResult]) -> None:
    for result in results:
        for choice in result.choices:
            if choice.error is not None:
                raise choice.error
