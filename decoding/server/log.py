"""Structured logs: one JSON object per line on stderr. The text of requests is logged only on demand.

A separate thread writes the lines, so that a full disk, or a reader of stderr that stops reading, never blocks the
server.
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
    """Format a record as a line of JSON; `extra={"fields": {...}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, message, further fields, and the traceback if there is one."""
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
    """Queue lines for a thread that writes them. Lines that do not fit into the queue are dropped and counted."""

    def __init__(self, max_lines: int, descriptor: int = _STDERR) -> None:
        """Start the thread. max_lines: limit on queued lines."""
        super().__init__()
        self.setFormatter(JsonLines())
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(max_lines)
        self._num_dropped = 0
        threading.Thread(target=self._run, name="decoding log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line without waiting."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._num_dropped += 1

    def finish(self) -> None:
        """Wait briefly until the queued lines are written."""
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
        """Write to the file descriptor, because a blocked write would hold the lock of sys.stderr at the end of the
        process.
        """
        data = (line + "\n").encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # stderr cannot take the line, and there is no other log
            pass


def set_up(level: str, max_lines: int) -> LogWriter:
    """Send our logs, warnings and uvicorn's errors to stderr. Called by the command only, never on import."""
    handler = LogWriter(max_lines)
    logging.captureWarnings(True)
    names = {"decoding": level, "uvicorn.error": "error", "asyncio": "error", "py.warnings": "warning"}
    for name, its_level in names.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(its_level.upper())
    return handler


def silence_uvicorn() -> None:
    """Silence uvicorn's error log, which would have a traceback for each request that we cancel."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
