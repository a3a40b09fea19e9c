"""The accept loop: accepts a few connections per turn of the event loop, and pauses while too many are open."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from decoding.errors import ParameterError
from decoding.server.log import LOGGER

DEFAULT_CONNECTIONS = 4096
"""Connections that may be open, where the system lets the process open files enough."""

_AT_ONCE = 12
"""Maximum number of connections accepted per turn, which takes about a millisecond. A health check waits in the same
queue: if a turn accepted only one, it would wait for a turn per client of a burst."""
_SPARE_FILES = 16
"""Open files that are left for everything but connections."""
_LOOK_SECONDS = 0.05
_PAUSE_SECONDS = 0.5
_SAY_SECONDS = 60.0


def max_connections(wanted: int | None) -> int:
    """Return the limit on open connections; None selects the default, or less if the limit of open files is low.

    Raises the soft limit of open files to the hard one. Raises ParameterError if even that is too low for `wanted`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = DEFAULT_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - _num_open_files() - _SPARE_FILES
    if soft != resource.RLIM_INFINITY and allowed < (wanted or 1):
        rule = f"must be at most {max(0, allowed)}, as the system lets the process open {soft} files (ulimit -n)"
        raise ParameterError.single("max_connections", wanted, rule)
    return min(DEFAULT_CONNECTIONS, allowed) if wanted is None else wanted


def _num_open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # a system without /proc
        return _SPARE_FILES


class Acceptor:
    """Accepts connections while fewer than `limit` are in `connections`."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connections: Collection[object],
        limit: int,
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._connections = connections
        self._limit = limit
        self._said = -_SAY_SECONDS

    async def run(self) -> None:
        """Accept connections until cancelled. Failures are retried, and logged at most once per minute."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            while len(self._connections) >= self._limit:
                self._say(f"all {self._limit} connections are in use (--max-connections): others wait")
                await asyncio.sleep(_LOOK_SECONDS)
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except ConnectionAbortedError:
                continue
            except (OSError, MemoryError) as error:
                self._say(f"no connection can be accepted: {error}")
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            await asyncio.gather(*map(self._connect, (connection, *self._accept_more())))

    def _accept_more(self) -> list[socket.socket]:
        """Accept further connections that are waiting, and return them. Errors are left to the next turn."""
        accepted: list[socket.socket] = []
        with suppress(OSError, MemoryError):
            while len(accepted) < min(_AT_ONCE, self._limit - len(self._connections)) - 1:
                accepted.append(self._listener.accept()[0])
                accepted[-1].setblocking(False)
        return accepted

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except (OSError, MemoryError):  # it has gone already, or there is no memory for it
            connection.close()

    def _say(self, text: str) -> None:
        if time.monotonic() >= self._said + _SAY_SECONDS:
            self._said = time.monotonic()
            LOGGER.warning(text)
