"""LLM: the front door. A model folder in, completions out."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from decoding.engine.engine import EngineSettings, EngineStats
from decoding.engine.group import SequenceGroup
from decoding.engine.logits_processors import Processor
from decoding.engine.outputs import CompletionResult, Delta, Score
from decoding.engine.replay import Capsule, Replay, compare
from decoding.engine.request import NO_TOKENIZER, OnSample, Request, checked_token_ids, split_prompts
from decoding.engine.runner import Logits, Model, Row, Runner
from decoding.engine.sequence import Sequence as Candidate
from decoding.engine.shared_engine import Host, check_streamable
from decoding.engine.speculation import Drafter, DraftModel, PromptLookup
from decoding.errors import (
    ContextLengthError,
    ModelNotFoundError,
    ParameterError,
    PromptError,
    TokenizerError,
    shown,
)
from decoding.models.generation_config import generation_defaults
from decoding.models.registry import load_model
from decoding.params import SamplingParams
from decoding.sampling.kernel import STREAM_VERSION
from decoding.text.fim import FimFormat
from decoding.text.tokenizer import Tokenizer
from decoding.types import Prompt
from decoding.version import __version__

OnError: TypeAlias = Literal["raise", "status"]
Speculation: TypeAlias = 'Literal["prompt_lookup"] | LLM | None'

BUNDLED_NAME = "bundled"


class LLM:
    """A model with its tokenizer.

        llm = LLM()                       # the bundled model; LLM("path/to/checkpoint") for another
        llm.complete("def add(a, b):", SamplingParams(max_tokens=32, seed=7)).choices[0].text

    Calls may be made from several threads, and several streams may be open at once: they share one engine, and each
    gets what it would have got alone.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        fim_template: str | None = None,
        max_num_seqs: int = 32,
        max_batched_tokens: int = 512,
        kv_cache_bytes: int | None = None,
        prefix_cache: bool = True,
        speculation: Speculation = None,
        num_draft_tokens: int = 4,
    ) -> None:
        """Load a checkpoint folder in Hugging Face's layout; None is the bundled model.

        fim_template: how a prompt and its suffix are put together to fill in the middle, such as
            "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>". None looks for the tokens of the known
            families in the tokenizer (docs/text.md).
        max_num_seqs: sequences that run at the same time, >= 1; further ones wait.
        max_batched_tokens: tokens that one step feeds, >= 1; a longer prompt is fed in several steps.
        kv_cache_bytes: memory for keys and values, >= 1; never exceeded. None is enough for max_num_seqs sequences
            of full length, and at most 2 GiB. Where it holds less than the model's context, that is the context.
        prefix_cache: whether what prompts leave in that memory is found again by prompts that begin alike.
        speculation: None; "prompt_lookup", which guesses that a text goes on as it did before; or an LLM of the same
            vocabulary, smaller, that guesses what this one will say. It changes how fast a text comes, not the text.
        num_draft_tokens: tokens that are guessed at once, >= 1.

        A folder without tokenizer.json takes and gives token ids only: what needs text raises TokenizerError,
        and the text of results is empty. Raises ModelError (see decoding.errors) for a folder that cannot be
        used.
        """
        settings = EngineSettings(
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
            kv_cache_bytes=kv_cache_bytes,
            prefix_cache=prefix_cache,
            num_draft_tokens=num_draft_tokens,
        )
        folder = bundled_model_folder() if model is None else _folder(model)
        loaded = load_model(folder)
        tokenizer: Tokenizer | None = None
        if os.path.lexists(folder / "tokenizer.json"):  # a link to nowhere is a broken tokenizer, not a missing one
            tokenizer = Tokenizer.from_folder(folder, loaded.config.vocab_size)
        self._folder: Path | None = folder
        self._open(
            loaded,
            tokenizer,
            BUNDLED_NAME if model is None else folder.resolve().name,
            fim_template,
            speculation,
            settings,
        )

    @classmethod
    def from_parts(
        cls,
        model: Model[Any],
        tokenizer: Tokenizer | None = None,
        *,
        name: str = "custom",
        fim_template: str | None = None,
        speculation: Speculation = None,
        **settings: Any,
    ) -> LLM:
        """An LLM around any object that stands where our models stand (`decoding.engine.runner.Model`).

        settings: max_num_seqs, max_batched_tokens, kv_cache_bytes, prefix_cache, num_draft_tokens, as of LLM itself.
        """
        llm = cls.__new__(cls)
        llm._folder = None
        llm._open(model, tokenizer, name, fim_template, speculation, EngineSettings(**settings))
        return llm

    def _open(
        self,
        model: Model[Any],
        tokenizer: Tokenizer | None,
        name: str,
        fim_template: str | None,
        speculation: Speculation,
        settings: EngineSettings,
    ) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        fim = None if fim_template is None else FimFormat.from_template(self.tokenizer, fim_template)
        drafter = _drafter(speculation, model.config.vocab_size, settings.max_num_seqs)
        self.host = Host(model, tokenizer, settings, name=name, fim=fim, drafter=drafter)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; TokenizerError where it has none."""
        if self._tokenizer is None:
            raise TokenizerError(f"{self.name}: {NO_TOKENIZER}")
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of logits in a row; token ids are below it."""
        return self._model.config.vocab_size

    @property
    def max_model_len(self) -> int:
        """The context: the most tokens that prompt and output have together, the last sampled one not counted."""
        return self.host.max_model_len

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
        """A digest of what decides the output besides the request: library, weights, tokenizer, settings.

        Settings of the engine are part of it: the shapes in which a model computes may show in its logits' last bits.
        """
        fim = self.host.fim
        settings = (self.host.settings, fim and (fim.before, fim.between, fim.after, fim.suffix_first))
        parts = (__version__, STREAM_VERSION, getattr(self._model, "digest", self.name), "float32", settings)
        tokenizer = "" if self._tokenizer is None else self._tokenizer.digest
        return "fp_" + hashlib.blake2b(repr((*parts, tokenizer)).encode(), digest_size=8).hexdigest()

    @overload
    def complete(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        processors: Sequence[Processor] = (),
        on_error: OnError = "raise",
    ) -> CompletionResult: ...
    @overload
    def complete(
        self,
        prompt: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        processors: Sequence[Processor] = (),
        on_error: OnError = "raise",
    ) -> list[CompletionResult]: ...
    def complete(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        processors: Sequence[Processor] = (),
        on_error: OnError = "raise",
    ) -> CompletionResult | list[CompletionResult]:
        """Complete one prompt, or several at once: a list in, a list out.

        prompt: text, or token ids taken as they are (no start token is added); or a list of prompts.
        params: for all prompts, or a list with those of each; None is SamplingParams().
        processors: callables(token_ids, logits) that edit every row before anything is masked (docs/engine.md), for all
            prompts; each gets the tokens so far and a float32 row of its own, and returns a row, or None for that one.
        on_error: what becomes of a choice whose logits nothing can be drawn from (NaN, everything banned): its error
            is raised once all other work is done ("raise"), or it is returned with finish_reason "error" ("status").
            Candidates that best_of does not return raise nothing.

        Raises PromptError, ContextLengthError, ParameterError or TokenizerError before anything is computed.
        """
        _check_on_error(on_error)
        requests, is_list = self.host.requests(prompt, params, processors)
        results = self._run(requests)
        if on_error == "raise":
            _raise_first_error(results)
        return results if is_list else results[0]

    def stream(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        processors: Sequence[Processor] = (),
        on_error: OnError = "raise",
        on_sample: OnSample | None = None,
    ) -> Iterator[Delta]:
        """The same completions piece by piece, as they are generated; the pieces add up to what `complete` gives.

        on_sample: called before each draw with the sampler, the logits [1, vocab] and a list with the state of that
            row, to look at them (`sampler.explain(logits[0], states[0])`).

        Choices are numbered prompt by prompt. Closing the iterator frees everything. Raises as `complete`
        does, at once for bad arguments; ParameterError also for best_of > n, which is not known before the
        end.
        """
        _check_on_error(on_error)
        requests, _ = self.host.requests(prompt, params, processors, on_sample)
        check_streamable(requests)
        return self._stream(requests, on_error)

    def score(self, prompt: Prompt, continuations: Prompt | Sequence[Prompt]) -> list[Score]:
        """How likely given continuations of a prompt are; the prompt is computed once for all of them.

        prompt: text, or token ids taken as they are. continuations: one, or several; each is tokenised by itself, as
        what goes on in the middle of a text (`tokenizer.encode(text, False, at_start=False)`), or is given as ids.
        Raises as `complete` does; LogitsError where the logits are not finite.
        """
        prompt_ids = self.host.encode(prompt, "prompt", at_start=True)
        several, is_list = split_prompts(continuations, "continuations")
        names = [f"continuations[{index}]" for index in range(len(several))] if is_list else ["continuations"]
        ids = [self.host.encode(one, name, at_start=False) for one, name in zip(several, names, strict=True)]
        group = self.host.add_scoring(prompt_ids, ids)
        try:
            while not group.is_done:
                self.host.step()
        finally:
            self.host.abort([group])
        return group.result()

    def perplexity(self, text: Prompt) -> float:
        """Exp of the mean negative log-likelihood of a text's tokens, each given all before it; the first is given.

        A start token that the tokenizer adds is that first one. PromptError for a text of one token.
        """
        token_ids = self.host.encode(text, "text", at_start=True)
        if len(token_ids) < 2:
            raise PromptError(f"text={shown(text)}: must have at least two tokens")
        (score,) = self.score(token_ids[:1], [token_ids[1:]])
        return math.exp(-score.total / len(score.token_ids))

    def capsule(self, result: CompletionResult) -> Capsule:
        """What it takes to run a request again and compare: save it with `.save(path)`."""
        return Capsule.of(result, self.system_fingerprint)

    def replay(self, capsule: Capsule | str | os.PathLike[str], *, force: bool = False) -> Replay:
        """Run a capsule's request again and say where the outcome first differs, to the bit.

        capsule: one, or the path of its file. force: do not draw; take the capsule's tokens, and report their
            log-probabilities here (`replay.result`), for which the request need not have asked.
        """
        given = capsule if isinstance(capsule, Capsule) else Capsule.load(capsule)
        (result,) = self._run([self.host.replayed(given, force=force)])
        return compare(given, result, self.system_fingerprint)

    def _run(self, requests: Sequence[Request]) -> list[CompletionResult]:
        groups = self.host.add(requests)
        try:
            for group in groups:
                while not group.is_done:
                    self.host.step()
        finally:
            self.host.abort(groups)
        return [group.result(self.name) for group in groups]

    @property
    def stats(self) -> EngineStats:
        """What the engine is doing, and what it has done since it was made, in plain numbers."""
        return self.host.stats

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """The forward pass, bare: logits float32 [num_tokens, vocab]; row i predicts the token after token_ids[i]."""
        config = self._model.config
        ids = checked_token_ids(token_ids, config.vocab_size, "token_ids")
        if len(ids) > config.max_position_embeddings:
            raise ContextLengthError(len(ids), config.max_position_embeddings)
        with self.host.exclusive() as model:
            return Runner(model, 1).forward([Row(0, 0, ids)], all_logits=True)

    def _stream(self, requests: Sequence[Request], on_error: OnError) -> Iterator[Delta]:
        first_index: dict[Request, int] = {}
        num_choices = 0
        for request in requests:
            first_index[request] = num_choices
            num_choices += request.params.n
        news: deque[Delta] = deque()

        def listen(group: SequenceGroup, candidate: Candidate) -> None:
            news.extend(group.deltas(candidate, first_index[group.request]))

        groups = self.host.add(requests, listen)
        try:
            while news or not all(group.is_done for group in groups):
                while news:
                    delta = news.popleft()
                    if delta.error is not None and on_error == "raise":
                        raise delta.error
                    yield delta
                self.host.step()
        finally:
            self.host.abort(groups)


def bundled_model_folder() -> Path:
    """Where the bundled model lies: package data, or in a development checkout the folder beside the package."""
    package = Path(__file__).parent
    checkout = package.parent
    folders = [package / "bundled_model"]
    if (checkout / "pyproject.toml").is_file():
        folders.append(checkout / "bundled_model")
    for folder in folders:
        if (folder / "model.safetensors").is_file():
            return folder
    raise ModelNotFoundError(f"{folders[0]}: the bundled model is missing from this installation")


def _folder(model: str | os.PathLike[str]) -> Path:
    try:
        return Path(model)
    except TypeError:
        raise ParameterError.single("model", model, "must be a path (a string or PathLike), or None") from None


def _drafter(speculation: Speculation, vocab_size: int, max_num_seqs: int) -> Drafter | None:
    host = getattr(speculation, "host", None)
    if isinstance(host, Host):
        return DraftModel(host.model, vocab_size, max_num_seqs, host.exclusive)
    if speculation not in (None, "prompt_lookup"):
        raise ParameterError.single("speculation", speculation, "must be None, 'prompt_lookup' or an LLM")
    return None if speculation is None else PromptLookup()


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "status"):
        raise ParameterError.single("on_error", on_error, "must be 'raise' or 'status'")


def _raise_first_error(results: Sequence[CompletionResult]) -> None:
    for result in results:
        for choice in result.choices:
            if choice.error is not None:
                raise choice.error
