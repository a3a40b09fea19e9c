"""Replay capsules: a request and its outcome in a file, to be run again and compared to the bit."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from decoding.engine.outputs import Choice, CompletionResult
from decoding.engine.request import (
    Request,
    Shape,
    checked_token_ids,
    grammar_of,
    rng_stream_of,
    stop_automaton,
    with_token_ids,
    without_remainder,
)
from decoding.errors import ContextLengthError, DecodingError, ParameterError
from decoding.file_output import write_whole
from decoding.json_file import read_json_object
from decoding.params import SamplingParams
from decoding.sampling.fit import Fit
from decoding.sampling.kernel import STREAM_VERSION
from decoding.sampling.stages import PROFILES, Profile
from decoding.text.stop_strings import StopAutomaton
from decoding.text.tokenizer import Tokenizer

FORMAT = "decoding replay 1"


@dataclass(frozen=True, slots=True)
class CapsuleChoice:
    """The outcome of one choice.

    token_ids: those of the output, without an echoed prompt.
    logprobs: one per token, as `float.hex` writes it; None where they were not asked for.
    """

    candidate: int
    token_ids: list[int]
    finish_reason: str
    text: str
    logprobs: list[str] | None


@dataclass(frozen=True, slots=True)
class Capsule:
    """A request, ready to be run again, and its choices.

        llm.capsule(llm.complete("def add(a, b):")).save("add.json")
        print(llm.replay("add.json"))

    prefix: start and end, in prompt_token_ids, of the caller's own part.
    params: the parameters that differ from SamplingParams(), and the seed.
    profile: the sampler's profile; its stages' names and rules where it has no name of ours.

    Custom processors are no part of it.
    """

    model: str
    system_fingerprint: str
    stream_version: int
    prompt_token_ids: list[int]
    prefix: list[int]
    eos_token_ids: list[int]
    params: dict[str, Any]
    choices: list[CapsuleChoice]
    profile: str = "openai"

    @classmethod
    def of(cls, result: CompletionResult, fingerprint: str) -> Capsule:
        """Return the capsule of a result; raise ParameterError for one with processors."""
        request = result.origin
        if request is None or request.processors:
            value = "one without its request" if request is None else "one with processors"
            raise ParameterError.single("result", value, "must be of a request that can be written down")
        num_shown = len(request.prefix_token_ids) if request.params.echo else 0
        taken = request.remainder.token_ids if request.remainder is not None else ()
        return cls(
            model=result.model,
            system_fingerprint=fingerprint,
            stream_version=STREAM_VERSION,
            prompt_token_ids=[*request.token_ids, *taken],
            prefix=[request.prefix.start, request.prefix.stop + len(taken)],
            eos_token_ids=list(request.eos_token_ids),
            params=_changed(request.params),
            choices=[_capsule_choice(choice, num_shown) for choice in result.choices],
            profile=profile_text(request.profile),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the capsule as JSON; an existing file is replaced as a whole, or not at all (see `write_whole`)."""
        write_whole(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Capsule:
        """Read a capsule; raise ParameterError if the file is not a capsule."""
        try:
            values = read_json_object(Path(path))
            if values.pop("format", None) != FORMAT:
                raise ValueError(f"must have the format {FORMAT!r}")
            choices = [CapsuleChoice(**choice) for choice in values.pop("choices")]
            capsule = cls(**values, choices=choices)
            capsule._check()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, DecodingError):
                raise
            raise ParameterError.single("capsule", os.fspath(path), f"must be a replay capsule ({error})") from None
        return capsule

    def _check(self) -> None:
        """Raise ValueError or TypeError for a field that breaks its rule."""
        start, end = self.prefix
        if not self.choices or not 0 <= start <= end <= len(self.prompt_token_ids):
            raise ValueError("prefix must lie in the prompt, and there must be choices")
        for choice in self.choices:
            for logprob in choice.logprobs or []:
                float.fromhex(logprob)
            if not isinstance(choice.candidate, int) or not isinstance(choice.text, str):
                raise TypeError("candidate must be an integer, text a string")
        if not isinstance(self.params, dict) or not isinstance(self.profile, str):
            raise TypeError("params must be an object, profile a string")
        self.sampling_params()

    def sampling_params(self) -> SamplingParams:
        """Return the request's parameters."""
        values = dict(self.params)
        if "logit_bias" in values:
            values["logit_bias"] = [tuple(pair) for pair in values["logit_bias"]]
        return SamplingParams(**values)

    def request(self, shape: Shape, tokenizer: Tokenizer | None, profile: Profile, *, force: bool) -> Request:
        """Return the request for a model; force: with the capsule's tokens in place of sampled ones.

        profile: the model's own. If the capsule has a profile of the user's, it must be this one.
        Raises PromptError, ContextLengthError or ParameterError if the model cannot run it.
        """
        if self.profile in PROFILES:
            profile = PROFILES[self.profile]
        elif not force and self.profile != profile_text(profile):
            rule = f"must be the capsule's profile, {self.profile!r}"
            raise ParameterError.single("profile", profile_text(profile), rule)
        params = self.sampling_params()
        if force and params.banned_strings and params.logprobs_modes != ("raw",):
            rule = (
                "must be False for banned_strings with this logprobs_mode: tokens do not determine the masks of redraws"
            )
            raise ParameterError.single("force", True, rule)
        token_ids = checked_token_ids(self.prompt_token_ids, shape.vocab_size, "prompt_token_ids")
        room = shape.max_position_embeddings - len(token_ids) + 1
        forced = tuple(tuple(choice.token_ids) for choice in self.choices) if force else None
        if room < max(1, *map(len, forced or ((),))):
            error = ContextLengthError(len(token_ids), shape.max_position_embeddings)
            error.limit = shape.limit
            raise error
        if forced is not None:
            for choice in filter(None, forced):
                checked_token_ids(choice, shape.vocab_size, "token_ids")
            logprobs = params.logprobs or 0
            params = replace(params, n=len(forced), best_of=None, logprobs=logprobs)
            params = replace(params, min_tokens=0, max_tokens=None, stop=())  # the tokens themselves are the end
        request = Request(
            params=params,
            token_ids=token_ids,
            prefix=slice(*self.prefix),
            eos_token_ids=tuple(self.eos_token_ids),
            rng_stream=rng_stream_of(token_ids),
            stops=StopAutomaton(params.stop),
            max_output_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            sampling=with_token_ids(params, tokenizer),
            forced=forced,
            candidates=tuple(choice.candidate for choice in self.choices) if force else None,
            profile=profile,
            grammar=grammar_of(params, token_ids, shape.vocab_size, tokenizer),
            vocab_size=shape.vocab_size,
            banned=stop_automaton(params.banned_strings) if params.banned_strings and not force else None,
        )
        request = without_remainder(request, shape, tokenizer)
        request.new_state(0).check_fit(Fit(shape.vocab_size))
        return request


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of running a capsule again: the result, and the first difference of each choice that has one."""

    result: CompletionResult
    differences: list[str]

    @property
    def is_same(self) -> bool:
        """True if every token and every log-probability bit is that of the capsule."""
        return not self.differences

    def __str__(self) -> str:
        return "\n".join(self.differences) or "the same, to the bit"


def compare(capsule: Capsule, result: CompletionResult, fingerprint: str) -> Replay:
    """Compare a new result with a capsule."""
    request = result.origin
    if request is None:
        raise ParameterError.single("result", "one without its request", "must come from `LLM.replay`")
    num_shown = len(request.prefix_token_ids) if request.params.echo else 0
    differences = []
    if len(result.choices) != len(capsule.choices):
        differences.append(f"{len(result.choices)} choices were {len(capsule.choices)}")
    for number, (old, choice) in enumerate(zip(capsule.choices, result.choices, strict=False)):
        found = _first_difference(old, _capsule_choice(choice, num_shown), request.forced is not None)
        if found is not None:
            differences.append(f"choice {number}: {found}")
    if differences and fingerprint != capsule.system_fingerprint:
        differences.insert(0, f"another system: fingerprint {fingerprint} was {capsule.system_fingerprint}")
    return Replay(result, differences)


def _first_difference(old: CapsuleChoice, new: CapsuleChoice, forced: bool) -> str | None:
    for position, (token_id, was) in enumerate(zip(new.token_ids, old.token_ids, strict=False)):
        if token_id != was:
            return f"token {position} is {token_id}, was {was}"
        if old.logprobs and new.logprobs and new.logprobs[position] != old.logprobs[position]:
            is_now, then = (float.fromhex(one.logprobs[position]) for one in (new, old))  # type: ignore[index]
            return f"token {position} ({token_id}): logprob is {is_now!r}, was {then!r}"
    for name in ("token_ids",) if forced else ("token_ids", "finish_reason", "text"):
        if getattr(new, name) != getattr(old, name):
            return f"{name} is {getattr(new, name)!r}, was {getattr(old, name)!r}"
    return None


def _capsule_choice(choice: Choice, num_shown: int) -> CapsuleChoice:
    logprobs = None
    if choice.logprobs is not None:
        of_output: Sequence[float | None] = choice.logprobs.token_logprobs[num_shown:]
        logprobs = [(math.nan if value is None else value).hex() for value in of_output]
    return CapsuleChoice(choice.candidate, choice.token_ids[num_shown:], choice.finish_reason, choice.text, logprobs)


def profile_text(profile: Profile) -> str:
    """Return the name of a profile; for a profile of the user's, a text with its stages and rules."""
    if PROFILES.get(profile.name) == profile:
        return profile.name
    return f"{profile.name}: {' '.join(stage.name for stage in profile.stages)}; rules {int(profile.rules)}"


def _changed(params: SamplingParams) -> dict[str, Any]:
    given = ((field.name, getattr(params, field.name), field.default) for field in fields(params))
    return {name: value for name, value, default in given if value != default}
