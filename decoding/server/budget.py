"""Budget: a limit on bytes that all requests of the server share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """The bytes in use, and their limit."""

    limit: int
    num_bytes: int = 0

    @property
    def is_exceeded(self) -> bool:
        """True if more bytes than the limit are in use."""
        return self.num_bytes > self.limit
