"""Watchdog: ends the process if its shutdown takes too long."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress

from decoding.server.log import LOGGER, LogWriter

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Watchdog:
    """End the process with exit code 1 if it still runs some time after a signal, or after `arm`.

    Its thread is started at once, because later there may be no memory for one. The system wakes it on a signal,
    whatever the main thread is doing.
    """

    def __init__(self, seconds: float, log: LogWriter) -> None:
        """Start the thread. seconds: time from the signal to the end."""
        self._seconds = seconds
        self._log = log
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="decoding watchdog", daemon=True).start()

    def arm(self) -> None:
        """Start the countdown, unless a signal has started it already."""
        with suppress(BlockingIOError):  # full of signals
            self._writer.send(bytes([signal.SIGTERM]))

    def _run(self) -> None:
        while self._reader.recv(1)[0] not in _NUMBERS:
            pass
        time.sleep(self._seconds)
        LOGGER.error(f"the end took more than {self._seconds:g} s: the process ends now")
        self._log.finish()
        os._exit(1)
