"""Structured logs: one JSON object a line on stderr. What requests say is in them only on demand."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

LOGGER = logging.getLogger("decoding.server")


class JsonLines(logging.Formatter):
    """A record as a line of JSON; `extra={"fields": {...}}` adds its own names."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message, further fields, and the traceback where there is one."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(level: str) -> None:
    """Send our logs and uvicorn's errors to stderr; called once by the command, never on import."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, its_level in (("decoding.server", level), ("uvicorn.error", "error"), ("asyncio", "error")):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(its_level.upper())


def silence_uvicorn() -> None:
    """It would write a traceback for each request that we cancel."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
