"""The accept loop: accepts a few connections per turn of the event loop, and pauses while too many are open."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress

from decoding.errors import ParameterError
from decoding.server.log import LOGGER

DEFAULT_CONNECTIONS = 4096
"""Connections that may be open, where the system lets the process open files enough."""

_ACCEPTED_AT_ONCE = 128
"""Maximum number of sockets accepted per turn, which takes about a millisecond."""
_OPENED_AT_ONCE = 12
"""Maximum number of connections opened per turn, which takes about a millisecond."""
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
    """Accepts connections while fewer than `limit` are in `connections`.

    Opening a connection costs ten times as much as accepting its socket. So a burst is accepted first, and clients
    that have sent a GET are opened before others: a health check behind a thousand completions would otherwise wait
    for all of them.
    """

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
        self._short: deque[socket.socket] = deque()
        self._others: deque[socket.socket] = deque()
        self._opening: set[socket.socket] = set()  # those that no transport has yet
        self._said = -_SAY_SECONDS

    async def run(self) -> None:
        """Accept connections until cancelled. Failures are retried, and logged at most once per minute."""
        self._listener.setblocking(False)
        try:
            while True:
                while not self._num_accepted:
                    await self._accept_one()
                self._accept_more()
                opening = self._next()
                self._opening = set(opening)
                await asyncio.gather(*map(self._open, opening))
        finally:
            for connection in (*self._short, *self._others, *self._opening):
                connection.close()

    @property
    def _num_accepted(self) -> int:
        """Return the number of accepted connections that are not open yet."""
        return len(self._short) + len(self._others)

    async def _accept_one(self) -> None:
        """Wait until there is room, and for a connection. A failure is logged."""
        while len(self._connections) >= self._limit:
            self._say(f"all {self._limit} connections are in use (--max-connections): others wait")
            await asyncio.sleep(_LOOK_SECONDS)
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self._add(connection)
        except ConnectionAbortedError:
            return
        except (OSError, MemoryError) as error:
            self._say(f"no connection can be accepted: {error}")
            await asyncio.sleep(_PAUSE_SECONDS)

    def _accept_more(self) -> None:
        """Accept further connections that are waiting. Errors are left to the next turn."""
        room = self._limit - len(self._connections) - self._num_accepted
        with suppress(OSError, MemoryError):
            for _ in range(min(_ACCEPTED_AT_ONCE, room)):
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._add(connection)

    def _add(self, connection: socket.socket) -> None:
        (self._short if _begins_with_get(connection) else self._others).append(connection)

    def _next(self) -> list[socket.socket]:
        """Return the connections to be opened in this turn: of each kind at least one, so that neither starves."""
        chosen = [queue.popleft() for queue in (self._short, self._others) if queue]
        while self._num_accepted and len(chosen) < _OPENED_AT_ONCE:
            chosen.append((self._short or self._others).popleft())
        return chosen

    async def _open(self, connection: socket.socket) -> None:
        self._opening.discard(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except (OSError, MemoryError):  # it has gone already, or there is no memory for it
            connection.close()

    def _say(self, text: str) -> None:
        if time.monotonic() >= self._said + _SAY_SECONDS:
            self._said = time.monotonic()
            LOGGER.warning(text)


def _begins_with_get(connection: socket.socket) -> bool:
    """Return True if the first bytes of a GET request have arrived. They stay unread."""
    try:
        return connection.recv(4, socket.MSG_PEEK) == b"GET "
    except OSError:  # nothing has arrived, or the client has gone already
        return False
