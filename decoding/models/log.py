"""The log of warnings about a model's files: `decoding.models`, silent unless logging is configured."""

from __future__ import annotations

import logging
from functools import lru_cache

_LOGGER = logging.getLogger("decoding.models")
_LOGGER.addHandler(logging.NullHandler())


@lru_cache(maxsize=1024)
def warn_once(message: str) -> None:
    """Log a warning, the first time in this process."""
    _LOGGER.warning(message)
