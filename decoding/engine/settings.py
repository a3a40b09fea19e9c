"""EngineSettings: the bounds of an engine."""

from __future__ import annotations

from dataclasses import dataclass, fields

from decoding.domains import Boolean, Domain, Integer, OrNone
from decoding.errors import ParameterError, Problem, shown
from decoding.sampling.stages import PROFILES, Profile
from decoding.validation import RuleError

DEFAULT_CACHE_BYTES = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The limits of an engine. They change its speed, never a text. ParameterError names all wrong ones.

    max_num_seqs: >= 1; sequences that run at the same time; further ones wait.
    max_num_seqs_per_request: >= 1; sequences of one call (or request of a server) that run at the same time, all
        of its prompts and candidates together; None is max_num_seqs.
    max_batched_tokens: >= 1; tokens to compute per step. A longer prompt is computed in chunks. It also limits the
        sequences that run at the same time.
    kv_cache_bytes: memory for keys and values; None is what max_num_seqs sequences of full length need, at most 2 GiB.
    prefix_cache: keep the keys and values of prompts and outputs in that memory, for prompts that begin alike.
    num_scheduler_steps: >= 1; decoding steps to run in a row at most, without the engine's work between them; None is
        one where a sequence is streamed, and otherwise as many as take little time.
    num_draft_tokens: >= 1; tokens to propose per step, where there is speculation.
    """

    max_num_seqs: int = 32
    max_num_seqs_per_request: int | None = None
    max_batched_tokens: int = 512
    kv_cache_bytes: int | None = None
    prefix_cache: bool = True
    num_scheduler_steps: int | None = None
    num_draft_tokens: int = 4

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, _DOMAINS[field.name](value))
            except RuleError as error:
                problems.append(Problem(field.name, shown(value), str(error)))
        if problems:
            raise ParameterError(problems)

    def num_blocks(self, max_tokens: int, block_size: int, block_bytes: int) -> int:
        """Return the number of blocks of the KV cache, given the model's context and the size of a block."""
        wanted = self.max_num_seqs * -(-max_tokens // block_size)
        if self.kv_cache_bytes is None:
            return max(1, min(wanted, DEFAULT_CACHE_BYTES // block_bytes))
        if self.kv_cache_bytes < block_bytes:
            rule = f"must be at least {block_bytes:,}, one block of {block_size} tokens"
            raise ParameterError.single("kv_cache_bytes", self.kv_cache_bytes, rule)
        return self.kv_cache_bytes // block_bytes


def checked_profile(profile: str | Profile) -> Profile:
    """Return the profile of this name, or a Profile as it is; raise ParameterError for anything else."""
    if isinstance(profile, Profile):
        return profile
    if not isinstance(profile, str) or profile not in PROFILES:
        rule = f"must be one of {', '.join(map(repr, PROFILES))}, or a Profile"
        raise ParameterError.single("profile", profile, rule)
    return PROFILES[profile]


_DOMAINS: dict[str, Domain] = {
    "max_num_seqs": Integer(1),
    "max_num_seqs_per_request": OrNone(Integer(1)),
    "max_batched_tokens": Integer(1),
    "kv_cache_bytes": OrNone(Integer(1, 2**63 - 1)),
    "prefix_cache": Boolean(),
    "num_scheduler_steps": OrNone(Integer(1)),
    "num_draft_tokens": Integer(1),
}
