"""The common part of the models of all backends: config, digest, and lengths that rotary factors depend on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from decoding.models.checkpoint import digest_files
from decoding.models.config import ModelConfig
from decoding.models.model_file import Signature, check_unchanged
from decoding.models.rotary import Compute, RotaryTables


class ModelBase:
    """A model without its weights. files: config.json and the weight files, for the digest."""

    def __init__(self, config: ModelConfig, compute_table: Compute, files: Sequence[Path]) -> None:
        self.config = config
        self._files = {path: Signature.of(path) for path in files}
        self._rotary = RotaryTables(config, compute_table)

    @cached_property
    def digest(self) -> str:
        """Hex digest of config.json and the weight files, read on first use.

        Raises CheckpointError if the files have changed since they were loaded.
        """
        self._check_files()
        digest = digest_files(self._files)
        self._check_files()
        return digest

    def _check_files(self) -> None:
        for path, signature in self._files.items():
            check_unchanged(path, signature)

    @property
    def rope_border(self) -> int | None:
        """The length beyond which a sequence must be computed again from its first token; None if never."""
        return self._rotary.border

    def rope_regime(self, length: int) -> int:
        """Return a number that is equal for two lengths if and only if they have the same rotary factors.

        0 is for the factors of short sequences. Two sequences may share keys and values if the numbers of their
        `rope_lengths` are equal.
        """
        return self._rotary.regime(length)
