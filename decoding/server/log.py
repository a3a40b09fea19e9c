"""Structured logs: one JSON object per line on stderr. The text of requests is in them only on demand.

A thread of its own writes them, so that a reader of stderr that does not read, or a full disk, never stops the server.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from datetime import UTC, datetime

LOGGER = logging.getLogger("decoding.server")

_STDERR = 2
_LAST_SECONDS = 1.0


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


class LogWriter(logging.Handler):
    """Hands lines to a thread that writes them; those that do not fit into its queue are dropped and counted."""

    def __init__(self, max_lines: int, descriptor: int = _STDERR) -> None:
        """max_lines: lines that may wait."""
        super().__init__()
        self.setFormatter(JsonLines())
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(max_lines)
        self._num_dropped = 0
        threading.Thread(target=self._run, name="decoding log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line. Never waits."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._num_dropped += 1

    def finish(self) -> None:
        """Wait a moment for the lines that are queued."""
        deadline = time.monotonic() + _LAST_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            self._write(self._lines.get())
            dropped, self._num_dropped = self._num_dropped, 0
            if dropped:
                text = f"{dropped} lines of the log were dropped: stderr was not read (--max-log-lines)"
                self._write(self.format(logging.makeLogRecord({"levelname": "WARNING", "msg": text})))
            self._lines.task_done()

    def _write(self, line: str) -> None:
        """Write past sys.stderr, whose lock would stop the end of the process while a write waits."""
        data = (line + "\n").encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # stderr cannot take the line, and there is no other log
            pass


def set_up(level: str, max_lines: int) -> LogWriter:
    """Send our logs, warnings and uvicorn's errors to stderr; called once by the command, never on import."""
    handler = LogWriter(max_lines)
    logging.captureWarnings(True)
    names = {"decoding": level, "uvicorn.error": "error", "asyncio": "error", "py.warnings": "warning"}
    for name, its_level in names.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(its_level.upper())
    return handler


def silence_uvicorn() -> None:
    """It would write a traceback for each request that we cancel."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
