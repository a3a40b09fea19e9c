"""ModelBase: what all backends have in common: config, digest, and the lengths that rotary factors depend on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from decoding.models.checkpoint import digest_files
from decoding.models.config import ModelConfig
from decoding.models.rotary import Compute, RotaryTables


class ModelBase:
    """A model without its weights. files: config.json and the weight files, for the digest."""

    def __init__(self, config: ModelConfig, compute_table: Compute, files: Sequence[Path]) -> None:
        self.config = config
        self._files = tuple(files)
        self._rotary = RotaryTables(config, compute_table)

    @cached_property
    def digest(self) -> str:
        """Hex digest of config.json and the weight files as they are on disk, read on first use."""
        return digest_files(self._files)

    @property
    def rope_border(self) -> int | None:
        """The length beyond which a sequence must be computed again from its first token; None if never."""
        return self._rotary.border

    def rope_regime(self, length: int) -> int:
        """Return a number that is equal for two lengths if and only if they have the same rotary factors.

        0: the factors of short sequences. Two sequences may share keys and values if the numbers of their
        `rope_lengths` are equal.
        """
        return self._rotary.regime(length)
