"""Request: one prompt and its parameters, checked and ready for the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from decoding.engine.grammar import Grammar, compiled_grammar
from decoding.engine.healing import Remainder, num_taken_back
from decoding.engine.logits_processors import Processor
from decoding.engine.token_index import token_index
from decoding.engine.token_sequences import Check, always_wanted, bad_word_sequences, breaker_sequences
from decoding.errors import (
    MODEL_CONTEXT,
    ContextLengthError,
    FimTemplateError,
    ParameterError,
    PromptError,
    TokenizerError,
    shown,
)
from decoding.models.batch import Logits, ModelShape
from decoding.params import SamplingParams, to_float32, with_seed
from decoding.sampling.fit import Fit
from decoding.sampling.sampler import Sampler
from decoding.sampling.stages import GREEDY_TEMPERATURE, PROFILES, Profile
from decoding.sampling.state import SamplingState, random_seed
from decoding.text.detokenizer import Detokenizer, pieces_are_settled
from decoding.text.fim import FimFormat
from decoding.text.stop_strings import StopAutomaton
from decoding.text.tokenizer import Tokenizer
from decoding.validation import PART, elements_of, is_unicode, plain_token_ids, token_id_rule

NO_TOKENIZER = (
    "this model has no tokenizer: without a tokenizer.json in its folder it takes and gives token ids only,"
    " as in LLM(path).complete([1, 2, 3])"
)
_MAX_SEED = 2**53 - 1  # JavaScript and jq round larger numbers, and a rounded seed replays another text

OnSample: TypeAlias = Callable[[Sampler, Logits, Sequence[SamplingState]], None]
"""Called before each draw with the sampler, the logits [1, vocab] and a list with the state of that row."""


class Shape(NamedTuple):
    """A model's shape, its context bounded by the KV cache.

    limit: the name of the limit that bounds the context, for error messages.
    """

    vocab_size: int
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    limit: str = MODEL_CONTEXT

    @classmethod
    def bounded(cls, shape: ModelShape, max_tokens: int, limit: str) -> Shape:
        """Return a model's shape with a context of at most `max_tokens`, which `limit` names."""
        is_less = max_tokens < shape.max_position_embeddings
        context, name = (max_tokens, limit) if is_less else (shape.max_position_embeddings, MODEL_CONTEXT)
        return cls(shape.vocab_size, context, shape.bos_token_id, shape.eos_token_ids, name)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt with its parameters; immutable, shared by all of its candidates.

    params: the caller's, with a seed filled in.
    token_ids: the tokens to compute.
    prefix: the part of `token_ids` that is the caller's prompt, without fill-in-the-middle markers and suffix. Echo
        shows it, and penalties count it as prompt.
    eos_token_ids: ids that end a sequence unless ignore_eos.
    rng_stream: the 64-bit number that separates this prompt's random numbers from those of others (`rng_stream_of`).
    stops: the automaton of the stop strings.
    max_output_tokens: params.max_tokens, or less where the context ends first.
    sampling: `params` with breakers and bad words as token ids, as the sampler takes them.
    processors: callables that edit the logits of each sequence (decoding.engine.logits_processors).
    forced: per choice, the tokens that it gets instead of sampled ones (replay).
    candidates: per choice, the number of its candidate; None: 0, 1, 2 ...
    on_sample: called before every draw.
    profile: the order and the rules of the sampler's stages.
    grammar: the grammar of the text; None for any text.
    vocab_size: the model's.
    banned: the automaton of the banned strings; None if there are none, or tokens are forced.
    remainder: the tokens at the prompt's end that were taken back, which are not in token_ids; None if there are none.
    num_continued: number of last tokens of `token_ids` that are output: computed as a prompt, recorded as generated.
    """

    params: SamplingParams
    token_ids: list[int]
    prefix: slice
    eos_token_ids: tuple[int, ...]
    rng_stream: int
    stops: StopAutomaton
    max_output_tokens: int
    sampling: SamplingParams
    processors: tuple[Processor, ...] = ()
    forced: tuple[tuple[int, ...], ...] | None = None
    candidates: tuple[int, ...] | None = None
    on_sample: OnSample | None = None
    profile: Profile = PROFILES["openai"]
    grammar: Grammar | None = None
    vocab_size: int = 0
    banned: StopAutomaton | None = None
    remainder: Remainder | None = None
    num_continued: int = 0

    @property
    def rope_length(self) -> int:
        """The length that chooses the rotary factors of the prompt, with the tokens that were taken back."""
        return len(self.token_ids) + (len(self.remainder.data) if self.remainder is not None else 0)

    @property
    def continued_token_ids(self) -> list[int]:
        """The output tokens that a candidate begins with."""
        return self.token_ids[len(self.token_ids) - self.num_continued :]

    @property
    def prefix_token_ids(self) -> list[int]:
        """The caller's own part of the prompt."""
        return self.token_ids[self.prefix]

    @property
    def is_greedy(self) -> bool:
        """True if all candidates come out alike, so that one is enough."""
        is_cold = to_float32(self.params.temperature) < GREEDY_TEMPERATURE
        return is_cold and not self.params.dynatemp_range and self.forced is None

    @property
    def detects_repetition(self) -> bool:
        """True if a loop ends the text. Forced tokens end with the last of them instead."""
        return self.params.repetition_detection is not None and self.forced is None

    def num_tokens_of(self, choice: int) -> int:
        """Return the maximum number of tokens of a candidate."""
        return self.max_output_tokens if self.forced is None else len(self.forced[choice])

    def new_state(self, choice: int) -> SamplingState:
        """Return the sampler's state of candidate number `choice` before the first token that is sampled."""
        state = SamplingState(
            self.sampling,
            self.prefix_token_ids,
            choice=choice if self.candidates is None else self.candidates[choice],
            stream=self.rng_stream,
            eos_token_ids=self.eos_token_ids,
            host_parameters=True,
        )
        for token_id in self.continued_token_ids:
            state.append(token_id)
        return state


def make_request(
    prompt: str | Sequence[int],
    params: SamplingParams,
    shape: ModelShape,
    tokenizer: Tokenizer | None,
    name: str = "prompt",
    fim: FimFormat | None = None,
    processors: Sequence[Processor] = (),
    on_sample: OnSample | None = None,
    profile: Profile = PROFILES["openai"],
    sampling: SamplingParams | None = None,
) -> Request:
    """Check one prompt (text or token ids) against the model, and encode it.

    sampling: `with_token_ids` of the parameters, where it is known already.
    fim: how a suffix is put into the prompt; None looks for the markers of the known families in the tokenizer.

    Raises PromptError or ContextLengthError for the prompt, called `name` in messages; ParameterError for a
    token id in `params` that the model does not have; TokenizerError where text needs a tokenizer and there
    is none.
    """
    _check_text(prompt, params, tokenizer, name)
    try:
        token_ids, prefix, end_token_ids = _encode(prompt, params, shape, tokenizer, name, fim)
        room = shape.max_position_embeddings - len(token_ids) + 1  # the last sampled token is never computed
        if room < 1:
            raise ContextLengthError(len(token_ids), shape.max_position_embeddings)
    except ContextLengthError as error:
        error.parameter = name  # the tokenizer knows neither
        error.limit = shape.limit if isinstance(shape, Shape) else MODEL_CONTEXT
        raise
    if sampling is None:
        sampling = with_token_ids(params, tokenizer)
    if params.seed is None:
        seed = new_seed()
        params, sampling = with_seed(params, seed), with_seed(sampling, seed)
    request = Request(
        params=params,
        token_ids=token_ids,
        prefix=prefix,
        eos_token_ids=(*end_token_ids_of(shape, tokenizer), *end_token_ids),
        rng_stream=rng_stream_of(token_ids),
        stops=stop_automaton(params.stop),
        max_output_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
        sampling=sampling,
        processors=checked_processors(processors),
        on_sample=on_sample,
        profile=profile,
        grammar=grammar_of(params, token_ids, shape.vocab_size, tokenizer),
        vocab_size=shape.vocab_size,
        banned=stop_automaton(params.banned_strings) if params.banned_strings else None,
    )
    request = without_remainder(request, shape, tokenizer)
    request.new_state(0).check_fit(Fit(shape.vocab_size, profile.lacking))
    return request


def new_seed() -> int:
    """Return a random seed that every JSON parser keeps exactly."""
    return random_seed() & _MAX_SEED


def grammar_of(
    params: SamplingParams, token_ids: Sequence[int], vocab_size: int, tokenizer: Tokenizer | None
) -> Grammar | None:
    """Return the compiled grammar of a request; raise ParameterError if the tokens cannot spell it, or it is wrong."""
    if params.structured is None or tokenizer is None:
        return None
    grammar = compiled_grammar(cast(tuple[str, Any], params.structured), vocab_size, tokenizer)
    detokenizer = Detokenizer(tokenizer, token_ids, at_start=params.suffix is None)
    if not detokenizer.is_settled and not pieces_are_settled(tokenizer):
        raise grammar.error("the prompt has no text, and tokens have other bytes at the start of a text")
    return grammar


def without_remainder(request: Request, shape: ModelShape, tokenizer: Tokenizer | None) -> Request:
    """Return the request with the last tokens of its prompt taken back, where it asks for token healing."""
    if not request.params.token_healing or tokenizer is None or not request.max_output_tokens:
        return request
    token_ids, index = request.token_ids, token_index(tokenizer, shape.vocab_size)
    pieces = [tokenizer.token_bytes(token_id) for token_id in token_ids]
    count = num_taken_back(token_ids, pieces, index)
    while count and not (pieces_are_settled(tokenizer) or Detokenizer(tokenizer, token_ids[:-count]).is_settled):
        count -= 1
    if not count:
        return request
    kept, taken, data = token_ids[:-count], tuple(token_ids[-count:]), b"".join(pieces[-count:])
    if len(kept) + len(data) > shape.max_position_embeddings:
        raise ContextLengthError(len(kept) + len(data), shape.max_position_embeddings)
    params = request.params
    ending_ids = frozenset((*request.eos_token_ids, *params.stop_token_ids))
    remainder = Remainder(taken, data, index, ending_ids, shape.vocab_size)
    num_tokens = request.max_output_tokens + (count if params.max_tokens is None else 0)
    return replace(
        request, token_ids=kept, prefix=slice(0, len(kept)), remainder=remainder, max_output_tokens=num_tokens
    )


@lru_cache(maxsize=8)
def stop_automaton(stops: str | Sequence[str]) -> StopAutomaton:
    """Return the automaton of stop strings; cached, because that of long ones takes 10 ms."""
    return StopAutomaton(stops)


def checked_processors(processors: Any) -> tuple[Processor, ...]:
    """Return processors as a tuple; raise ParameterError if one is not callable."""
    several = () if processors is None else processors
    if not isinstance(several, (list, tuple)) or not all(map(callable, several)):
        raise ParameterError.single("processors", processors, "must be a list of callables (token_ids, logits)")
    return tuple(several)


def with_token_ids(params: SamplingParams, tokenizer: Tokenizer | None, check: Check = always_wanted) -> SamplingParams:
    """Return params with token ids for breakers and bad words that are text (decoding.engine.token_sequences)."""
    if tokenizer is None or not any(isinstance(one, str) for one in (*params.dry_sequence_breakers, *params.bad_words)):
        return params
    return replace(
        params,
        dry_sequence_breakers=breaker_sequences(tokenizer, params.dry_sequence_breakers, check),
        bad_words=bad_word_sequences(tokenizer, params.bad_words, check),
    )


def end_token_ids_of(shape: ModelShape, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """Return the ids that end a sequence: those of the model's configs and the tokenizer's eos_token."""
    eos = None if tokenizer is None else tokenizer.eos_token_id
    if eos is None or eos in shape.eos_token_ids or eos >= shape.vocab_size:
        return shape.eos_token_ids
    return (*shape.eos_token_ids, eos)


def rng_stream_of(token_ids: Sequence[int]) -> int:
    """Return the 64-bit BLAKE2b digest (little-endian) of token ids as little-endian 32-bit integers.

    With one seed, each prompt has its own random numbers, and the same prompt always the same.
    """
    digest = hashlib.blake2b(digest_size=8)
    for first in range(0, len(token_ids), PART):
        digest.update(np.asarray(token_ids[first : first + PART], "<i4").tobytes())
    return int.from_bytes(digest.digest(), "little")


def split_prompts(prompts: Any, name: str = "prompt") -> tuple[list[Any], bool]:
    """Return the prompts in the caller's argument, and True if it was a list of prompts.

    A string or a sequence of integers is one prompt; a sequence that begins with a string or a sequence is a list.
    """
    if isinstance(prompts, np.ndarray):
        prompts = prompts.tolist()
    if isinstance(prompts, str):
        return [prompts], False
    if not _is_sequence(prompts):
        raise _prompt_error(name, prompts, "must be a string, a sequence of token ids, or a list of these")
    if len(prompts) and (isinstance(prompts[0], str) or _is_sequence(prompts[0])):
        return list(prompts), True
    return [prompts], False


def _is_sequence(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _prompt_error(name: str, value: object, rule: str) -> PromptError:
    return PromptError(f"{name}={shown(value)}: {rule}", name)


def _check_text(prompt: object, params: SamplingParams, tokenizer: Tokenizer | None, name: str) -> None:
    """Raise TokenizerError for text without a tokenizer, PromptError for text that cannot be encoded."""
    texts = {
        name: prompt if isinstance(prompt, str) else None,
        "stop": params.stop or None,
        "banned_strings": params.banned_strings or None,
        "suffix": params.suffix,
        "token_healing": "True" if params.token_healing else None,
        "structured": None if params.structured is None else str(params.structured[0]),  # type: ignore[index]
        "bad_words": next((word for word in params.bad_words if isinstance(word, str)), None),
        "dry_sequence_breakers": next((one for one in params.dry_sequence_breakers if isinstance(one, str)), None),
    }
    for parameter, text in texts.items():
        if tokenizer is None and text is not None:
            raise TokenizerError(f"{parameter}={shown(text)}: {NO_TOKENIZER}", parameter)
    if isinstance(prompt, str) and not is_unicode(prompt):
        raise _prompt_error(name, prompt, "must be valid Unicode (no lone surrogates)")


def _encode(
    prompt: str | Sequence[int],
    params: SamplingParams,
    shape: ModelShape,
    tokenizer: Tokenizer | None,
    name: str,
    fim: FimFormat | None,
) -> tuple[list[int], slice, tuple[int, ...]]:
    """Return the token ids to compute, the part of them that is the caller's, and further ids that end a sequence."""
    given = prompt if isinstance(prompt, str) else checked_token_ids(prompt, shape.vocab_size, name)
    suffix, parse_special = params.suffix, params.parse_special
    if suffix is not None and tokenizer is not None:
        fim = fim or FimFormat.find(tokenizer)
        if fim is None:
            raise FimTemplateError(suffix)
        filled = fim.prompt(given, suffix, shape.max_position_embeddings, parse_special=parse_special)
        return filled._replace(token_ids=checked_token_ids(filled.token_ids, shape.vocab_size, name))
    token_ids = _encode_text(given, shape, tokenizer, name, parse_special) if isinstance(given, str) else given
    return token_ids, slice(0, len(token_ids)), ()


def _encode_text(
    text: str, shape: ModelShape, tokenizer: Tokenizer | None, name: str, parse_special: bool = True
) -> list[int]:
    max_tokens = shape.max_position_embeddings
    token_ids: list[int] = []
    if tokenizer is not None:
        token_ids = tokenizer.encode(text, max_tokens=max_tokens, parse_special=parse_special)
    if token_ids:
        return checked_token_ids(token_ids, shape.vocab_size, name)
    bos = shape.bos_token_id if tokenizer is None or tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise _prompt_error(name, text, "must not be empty: this model has no start token")
    return [bos]


def checked_token_ids(token_ids: object, vocab_size: int, name: str) -> list[int]:
    """Return the ids as plain ints; raise PromptError unless there is one, and each is below the vocabulary's size."""
    if not _is_sequence(token_ids):
        raise _prompt_error(name, token_ids, "must be a sequence of token ids")
    ids = elements_of(token_ids) or []
    if not ids:
        raise _prompt_error(name, ids, "must have at least one token id")
    plain = plain_token_ids(ids, vocab_size)
    if len(plain) < len(ids):
        raise _prompt_error(f"{name}[{len(plain)}]", ids[len(plain)], token_id_rule(vocab_size))
    return plain
