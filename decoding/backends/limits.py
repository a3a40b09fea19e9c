"""Limits: how many sequences a backend keeps, and how long they may get."""

from __future__ import annotations

from typing import NamedTuple

from decoding.errors import ParameterError

DEFAULT_CACHE_BYTES = 2**31


class Limits(NamedTuple):
    """Bounds of a backend.

    num_sequences: sequences that are kept at the same time.
    kv_cache_bytes: memory for the keys and values of all sequences.
    num_threads: None leaves the choice to the backend.
    """

    num_sequences: int = 32
    kv_cache_bytes: int = DEFAULT_CACHE_BYTES
    num_threads: int | None = None

    def context(self, model_tokens: int, token_bytes: int, step: int = 1) -> int:
        """Return the longest sequence: the model's context, or what fits the memory, then a multiple of `step`.

        Each sequence has memory of its own. Raises ParameterError if not even one step fits.
        """
        room = self.kv_cache_bytes // (self.num_sequences * token_bytes)
        if room >= model_tokens:
            return model_tokens
        if room < step:
            rule = f"must be at least {step * self.num_sequences * token_bytes:,} for {self.num_sequences} sequences"
            raise ParameterError.single("kv_cache_bytes", self.kv_cache_bytes, rule)
        return room // step * step


DEFAULT_LIMITS = Limits()
