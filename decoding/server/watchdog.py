"""Watchdog: the end of the process, should its own end take too long."""

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
    """Ends the process with exit code 1 if it is still there some time after a signal, or after `arm`.

    Its thread is made at the start, because later there may be no memory for one. The system tells it of a signal
    whatever the main thread is doing.
    """

    def __init__(self, seconds: float, log: LogWriter) -> None:
        """seconds: from the signal to the end."""
        self._seconds = seconds
        self._log = log
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="decoding watchdog", daemon=True).start()

    def arm(self) -> None:
        """Count from now on, unless a signal has come already."""
        with suppress(BlockingIOError):  # full of signals
            self._writer.send(bytes([signal.SIGTERM]))

    def _run(self) -> None:
        while self._reader.recv(1)[0] not in _NUMBERS:
            pass
        time.sleep(self._seconds)
        LOGGER.error(f"the end took more than {self._seconds:g} s: the process ends now")
        self._log.finish()
        os._exit(1)
