"""Budget: bytes that all requests of the server hold together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """Bytes that are held, and the limit that their holders keep."""

    limit: int
    num_bytes: int = 0

    @property
    def is_exceeded(self) -> bool:
        """True if more is held than the limit."""
        return self.num_bytes > self.limit
