"""EngineStats: the engine's counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts of the engine now; totals count from its creation.

    Blocks are of `block_size` tokens.
    num_blocks_used: blocks of sequences, and cached ones. num_blocks_live: those of sequences alone.
    num_prompt_tokens: computed tokens of prompts and of scored texts. num_cached_tokens: those that came from the
        prefix cache instead.
    """

    num_running: int
    num_waiting: int
    block_size: int
    num_blocks: int
    num_blocks_used: int
    num_blocks_live: int
    kv_cache_bytes: int
    num_steps: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_sampled_tokens: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_preemptions: int
