"""LLM: a model in, completions out."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias, overload

from decoding.backends.model import Batching
from decoding.chat.format import ChatFormat, ChatPrompt
from decoding.engine.beam_params import BeamSearchParams
from decoding.engine.beam_search import BeamSearch
from decoding.engine.candidate import Candidate
from decoding.engine.logits_processors import Processor
from decoding.engine.model_runner import all_logits
from decoding.engine.outputs import CompletionResult, Delta, Score
from decoding.engine.replay import Capsule, Replay, compare, profile_text
from decoding.engine.request import NO_TOKENIZER, OnSample, Request, checked_token_ids, split_prompts
from decoding.engine.settings import EngineSettings, checked_profile
from decoding.engine.shared_engine import SharedEngine, check_streamable
from decoding.engine.speculation import Drafter, DraftModel, PromptLookup
from decoding.engine.stats import EngineStats
from decoding.engine.tasks.completion import CompletionTask
from decoding.errors import (
    ContextLengthError,
    ParameterError,
    PromptError,
    TokenizerError,
    raisable,
    shown,
)
from decoding.model_loading import Backend, Quantization, load
from decoding.models.batch import Logits, Model
from decoding.models.packing import Progress
from decoding.params import SamplingParams
from decoding.sampling.kernel import STREAM_VERSION
from decoding.sampling.stages import Profile
from decoding.text.fim import FimFormat
from decoding.text.tokenizer import Tokenizer
from decoding.types import Prompt
from decoding.version import __version__

OnError: TypeAlias = Literal["raise", "status"]
Speculation: TypeAlias = 'Literal["prompt_lookup"] | LLM | None'


class LLM:
    """A model with its tokenizer.

        llm = LLM()                       # the bundled model; LLM("checkpoint") or LLM("model.gguf") for another
        llm.complete("def add(a, b):", SamplingParams(max_tokens=32, seed=7)).choices[0].text

    Calls may be made from several threads, and several streams may be open at once: they share one engine, and no call
    changes the result of another.

    engine: the engine that all calls share.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        num_threads: int | None = None,
        backend: Backend = "native",
        batching: Batching = "exact",
        quantization: Quantization | None = None,
        fim_template: str | None = None,
        profile: str | Profile = "openai",
        max_num_seqs: int = 32,
        max_num_seqs_per_request: int | None = None,
        max_batched_tokens: int = 512,
        kv_cache_bytes: int | None = None,
        prefix_cache: bool = True,
        num_scheduler_steps: int | None = None,
        speculation: Speculation = None,
        num_draft_tokens: int = 4,
        progress: Progress | None = None,
    ) -> None:
        """Load a checkpoint folder in Hugging Face's layout, or a .gguf file; None is the bundled model.

        num_threads: threads of the forward pass and of large draws; None: all CPUs that this process may use. Texts do
            not depend on it.
        backend: "native" runs the network in C; "numpy" in the readable reference, which is slow; "llama-cpp",
            "transformers" and "onnxruntime" run it in these libraries (docs/backends.md).
        batching: with such a library, "exact" makes logits independent of other requests; "shared" is faster.
        quantization: "q8_0" or "q4_0" quantises a checkpoint as it is loaded; None keeps the types of the file.
        fim_template: how a prompt and its suffix become one text, such as "<fim_prefix>{prefix}<fim_suffix>{suffix}
            <fim_middle>" in one line; None looks for the tokens of the known families (docs/text.md).
        profile: the order and the rules of the sampler's stages: "openai", "transformers", "llama_cpp", "vllm",
            "mlx_lm", "sglang", "exllamav2", one of them + "+temperature_last", or a Profile (docs/profiles.md).
        max_num_seqs: sequences that run at the same time, >= 1; further ones wait.
        max_num_seqs_per_request: sequences of one call that run at the same time, >= 1; None is max_num_seqs.
        max_batched_tokens: tokens to compute per step, >= 1, and so of sequences that run; a longer prompt is cut.
        kv_cache_bytes: memory for keys and values, at least one block of 16 tokens; the context is no more than it
            holds. None is enough for max_num_seqs sequences of full length, and at most 2 GiB.
        prefix_cache: keep the keys and values of prompts and outputs, for prompts that begin alike.
        num_scheduler_steps: decoding steps in a row, >= 1; None is as many as take little time (docs/engine.md).
        speculation: None; "prompt_lookup", which proposes tokens that followed the same words before; or a smaller LLM
            of the same vocabulary. It proposes num_draft_tokens, >= 1, per step, and never changes the text.
        progress: called with (parts done, parts in all) while weights are loaded.

        A model without a tokenizer takes and returns token ids only: arguments that need text raise TokenizerError, and
        the text of results is empty. Raises ModelError (see decoding.errors) for a model that cannot be used.
        """
        settings = EngineSettings(
            max_num_seqs=max_num_seqs,
            max_num_seqs_per_request=max_num_seqs_per_request,
            max_batched_tokens=max_batched_tokens,
            kv_cache_bytes=kv_cache_bytes,
            prefix_cache=prefix_cache,
            num_scheduler_steps=num_scheduler_steps,
            num_draft_tokens=num_draft_tokens,
        )
        loaded = load(model, backend, batching, quantization, num_threads, settings, progress)
        self._backend: str = backend
        self._quantization: str | None = quantization
        self._files = loaded.files
        self._open(loaded.model, loaded.tokenizer, loaded.name, fim_template, speculation, profile, settings)

    @classmethod
    def from_parts(
        cls,
        model: Model,
        tokenizer: Tokenizer | None = None,
        *,
        name: str = "custom",
        fim_template: str | None = None,
        speculation: Speculation = None,
        profile: str | Profile = "openai",
        **settings: Any,
    ) -> LLM:
        """Return an LLM around any object with the interface of our models (`decoding.models.batch.Model`).

        settings: max_num_seqs, max_num_seqs_per_request, max_batched_tokens, kv_cache_bytes, prefix_cache,
            num_scheduler_steps, num_draft_tokens, as of LLM itself.
        """
        llm = cls.__new__(cls)
        llm._files = None
        llm._backend = "custom"
        llm._quantization = None
        llm._open(model, tokenizer, name, fim_template, speculation, profile, EngineSettings(**settings))
        return llm

    def _open(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        name: str,
        fim_template: str | None,
        speculation: Speculation,
        profile: str | Profile,
        settings: EngineSettings,
    ) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        fim = None if fim_template is None else FimFormat.from_template(self.tokenizer, fim_template)
        stages = checked_profile(profile)
        drafter = _drafter(speculation, model.config.vocab_size, settings.max_num_seqs, stages)
        self.engine = SharedEngine(model, tokenizer, settings, name=name, fim=fim, drafter=drafter, profile=stages)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; TokenizerError if it has none."""
        if self._tokenizer is None:
            raise TokenizerError(f"{self.name}: {NO_TOKENIZER}")
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of logits in a row; token ids are below it."""
        return self._model.config.vocab_size

    @property
    def max_model_len(self) -> int:
        """The context in tokens: prompt and output together, the last sampled token not counted."""
        return self.engine.max_model_len

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """The recommendations of the model's generation_config.json, as arguments of SamplingParams.

            SamplingParams(**llm.generation_defaults | {"max_tokens": 64})

        They are never applied by themselves: SamplingParams() means the same for every model. CheckpointError if the
        file is broken.
        """
        return {} if self._files is None else self._files.generation_defaults()

    @property
    def system_fingerprint(self) -> str:
        """A digest of everything besides the request that decides the output: library, weights, tokenizer, profile.

        Settings of the engine, threads and the processor are no part of it: no bit of the output depends on them.
        """
        return self.fingerprint()

    def fingerprint(self, profile: str | Profile | None = None) -> str:
        """Return `system_fingerprint` as it is for calls with this profile; None is the LLM's own."""
        fim = self.engine.fim
        template = fim and (fim.before, fim.between, fim.after, fim.suffix_first)
        weights = getattr(self._model, "digest", self.name)
        tokenizer = "" if self._tokenizer is None else self._tokenizer.digest
        stages = profile_text(self.engine.profile if profile is None else checked_profile(profile))
        computed = self._backend if self._quantization is None else (self._backend, self._quantization)
        parts = (__version__, STREAM_VERSION, weights, computed, tokenizer, template, stages)
        return "fp_" + hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    @overload
    def complete(  # type: ignore[overload-overlap]  # a str is also a sequence of str
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        processors: Sequence[Processor] = (),
        profile: str | Profile | None = None,
        on_error: OnError = "raise",
    ) -> CompletionResult: ...
    @overload
    def complete(
        self,
        prompt: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        processors: Sequence[Processor] = (),
        profile: str | Profile | None = None,
        on_error: OnError = "raise",
    ) -> list[CompletionResult]: ...
    def complete(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        processors: Sequence[Processor] = (),
        profile: str | Profile | None = None,
        on_error: OnError = "raise",
    ) -> CompletionResult | list[CompletionResult]:
        """Complete one prompt, or several at once: a list in, a list out.

        prompt: text, or token ids taken as they are (no start token is added); or a list of prompts.
        params: one for all prompts, or a list with one per prompt; None is SamplingParams().
        processors: callables(token_ids, logits) that edit every row before masks (docs/engine.md), for all prompts;
            each gets the tokens so far and a float32 row of its own, and returns a row, or None if it edited that one.
        profile: the order and the rules of the sampler's stages for this call; None is the LLM's own.
        on_error: if no token can be sampled for a choice (NaN, everything banned), its error is raised once all other
            work is done ("raise"), or the choice is returned with finish_reason "error" ("status"). Candidates that
            best_of does not return raise nothing.

        Raises PromptError, ContextLengthError, ParameterError or TokenizerError before anything is computed.
        """
        _check_on_error(on_error)
        requests, is_list = self.engine.requests(prompt, params, processors, profile=profile)
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
        profile: str | Profile | None = None,
        on_error: OnError = "raise",
        on_sample: OnSample | None = None,
    ) -> Iterator[Delta]:
        """Return an iterator of the pieces of completions as they are generated; joined, they are those of `complete`.

        on_sample: called before each draw with the sampler, the logits [1, vocab] and a list with the state of that
            row, for inspection (`sampler.explain(logits[0], states[0])`).

        Choices are numbered prompt by prompt. Closing the iterator frees everything. Raises as `complete` does, at once
        for bad arguments; ParameterError also for best_of > n, whose best candidates are not known before the end.
        """
        _check_on_error(on_error)
        requests, _ = self.engine.requests(prompt, params, processors, on_sample, profile)
        check_streamable(requests)
        return self._stream(requests, on_error)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        processors: Sequence[Processor] = (),
        on_error: OnError = "raise",
        **options: Any,
    ) -> CompletionResult:
        """Return replies to a conversation: `complete` of its `chat_prompt`, whose `options` these are.

        messages: mappings with role and content, the oldest first.
        params: None is SamplingParams(max_tokens=None), so that the model ends its reply itself.
        """
        prompt = self.chat_prompt(messages, **options).token_ids
        given = SamplingParams(max_tokens=None) if params is None else params
        return self.complete(prompt, given, processors=processors, on_error=on_error)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> ChatPrompt:
        """Return the prompt that the model's chat template makes of messages; needs the extra `chat`.

        Its token ids go to `complete`, `stream` or `beam_search`.
        options: tools, add_generation_prompt, continue_final_message, chat_template and chat_template_kwargs, as of
            `ChatFormat.prompt`, which has the errors, too.
        """
        return self.chat_format.prompt(messages, max_tokens=self.max_model_len, **options)

    @cached_property
    def chat_format(self) -> ChatFormat:
        """The chat templates of the tokenizer; TokenizerError if there is none."""
        return ChatFormat(self.tokenizer)

    def beam_search(self, prompt: Prompt, params: BeamSearchParams | None = None) -> CompletionResult:
        """Return the hypotheses that a beam search finds, the best first, with their scores in `choice.beam_score`.

        prompt: text, or token ids taken as they are. params: None is BeamSearchParams().
        Nothing is drawn: equal logits give equal hypotheses. Raises as `complete` does, and LogitsError.
        """
        search = self.start_beam_search(prompt, params)
        while not search.is_done:
            search.step()
        return search.result(self.name)

    def start_beam_search(self, prompt: Prompt, params: BeamSearchParams | None = None) -> BeamSearch:
        """Return the beam search of a prompt before its first step, for a caller that runs the steps itself."""
        given = BeamSearchParams() if params is None else params
        if not isinstance(given, BeamSearchParams):
            raise ParameterError.single("params", params, "must be BeamSearchParams, or None")
        requests, is_list = self.engine.requests(prompt, given.sampling)
        if is_list:
            raise ParameterError.single("prompt", prompt, "must be one prompt for a beam search")
        return BeamSearch(self.engine, requests[0], given)

    def score(self, prompt: Prompt, continuations: Prompt | Sequence[Prompt]) -> list[Score]:
        """Return the log-probabilities of given continuations of a prompt, which is computed once for all of them.

        prompt: text, or token ids taken as they are.
        continuations: one, or several; each is token ids, or text that is tokenised by itself, as the middle of a text
            (`tokenizer.encode(text, False, at_start=False)`).

        The scores of a continuation are those of one pass over prompt and continuation. Raises as `complete` does;
        LogitsError if the logits are not finite.
        """
        prompt_ids = self.engine.encode(prompt, "prompt", at_start=True)
        several, is_list = split_prompts(continuations, "continuations")
        names = [f"continuations[{index}]" for index in range(len(several))] if is_list else ["continuations"]
        ids = [self.engine.encode(one, name, at_start=False) for one, name in zip(several, names, strict=True)]
        task = self.engine.add_scoring(prompt_ids, ids)
        try:
            while not task.is_done:
                self.engine.step()
        finally:
            self.engine.abort([task])
        return task.result()

    def perplexity(self, text: Prompt) -> float:
        """Return exp of the mean negative log-likelihood of a text's tokens, each given all before it.

        The first token is given: the start token, if the tokenizer adds one. PromptError for a text of one token.
        """
        token_ids = self.engine.encode(text, "text", at_start=True)
        if len(token_ids) < 2:
            raise PromptError(f"text={shown(text)}: must have at least two tokens")
        (score,) = self.score(token_ids[:1], [token_ids[1:]])
        return math.exp(-score.total / len(score.token_ids))

    def capsule(self, result: CompletionResult) -> Capsule:
        """Return the capsule of a result, to run its request again and compare; `.save(path)` writes it."""
        return Capsule.of(result, self.fingerprint(None if result.origin is None else result.origin.profile))

    def replay(self, capsule: Capsule | str | os.PathLike[str], *, force: bool = False) -> Replay:
        """Run a capsule's request again and report where the outcome first differs, to the bit.

        capsule: a capsule, or the path of its file.
        force: do not sample; take the capsule's tokens, and report their log-probabilities here (`replay.result`),
            for which the request need not have asked.
        """
        given = capsule if isinstance(capsule, Capsule) else Capsule.load(capsule)
        request = self.engine.replayed(given, force=force)
        (result,) = self._run([request])
        return compare(given, result, self.fingerprint(request.profile))

    def _run(self, requests: Sequence[Request]) -> list[CompletionResult]:
        tasks = self.engine.add(requests)
        try:
            for task in tasks:
                while not task.is_done:
                    self.engine.step()
        finally:
            self.engine.abort(tasks)
        return [task.result(self.name) for task in tasks]

    @property
    def stats(self) -> EngineStats:
        """The engine's counts: current ones, and totals since it was made."""
        return self.engine.stats

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """Return the logits of one forward pass, float32 [num_tokens, vocab]: row i predicts token i + 1."""
        config = self._model.config
        ids = checked_token_ids(token_ids, config.vocab_size, "token_ids")
        if len(ids) > config.max_position_embeddings:
            raise ContextLengthError(len(ids), config.max_position_embeddings)
        with self.engine.exclusive() as model:
            return all_logits(model, ids)

    def _stream(self, requests: Sequence[Request], on_error: OnError) -> Iterator[Delta]:
        first_index: dict[Request, int] = {}
        num_choices = 0
        for request in requests:
            first_index[request] = num_choices
            num_choices += request.params.n
        news: deque[Delta] = deque()

        def listen(task: CompletionTask, candidate: Candidate) -> None:
            news.extend(task.deltas(candidate, first_index[task.request]))

        tasks = self.engine.add(requests, listen, is_streamed=True)
        try:
            while news or not all(task.is_done for task in tasks):
                while news:
                    delta = news.popleft()
                    if delta.error is not None and on_error == "raise":
                        raise raisable(delta.error)
                    yield delta
                self.engine.step()
        finally:
            self.engine.abort(tasks)


def _drafter(speculation: Speculation, vocab_size: int, max_num_seqs: int, profile: Profile) -> Drafter | None:
    engine = getattr(speculation, "engine", None)
    if isinstance(engine, SharedEngine):
        return DraftModel(engine.model, vocab_size, max_num_seqs, engine.exclusive, profile)
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
                raise raisable(choice.error)
