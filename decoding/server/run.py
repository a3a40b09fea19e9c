"""Run the server: models, a socket, signals, exit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from prometheus_client import disable_created_metrics
from starlette.types import ASGIApp

from decoding.llm import LLM
from decoding.server import log
from decoding.server.app import create_app
from decoding.server.log import LOGGER
from decoding.server.protocol import protocol_with
from decoding.server.service import Service
from decoding.server.settings import ServerSettings

_BACKLOG = 2048
_LOOK_SECONDS = 0.1
_LAST_SECONDS = 0.5
"""After the grace, for the last bytes of answers to be read."""
_ACCEPTED_AT_ONCE = 16
_FULL_COLLECTION = 100
"""Collections of the middle generation for one of everything (Python's own: 10)."""
_SWITCH_INTERVAL = 0.001
"""Seconds for which the engine's thread may hold the GIL before the event loop gets it (Python's own: 0.005)."""


def serve(models: Mapping[str, LLM], listener: socket.socket, settings: ServerSettings) -> None:
    """Serve until SIGTERM or Ctrl-C: then no new work, what runs gets its grace, and the call returns."""
    log.set_up(settings.log_level)
    _allow_many_files()
    disable_created_metrics()  # type: ignore[no-untyped-call]
    sys.setswitchinterval(_SWITCH_INTERVAL)
    app, service = create_app(models, settings)
    _spare_pauses()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)  # uvicorn raises the signal once more when it is done
    _Server(_config(app, settings), service).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which ends the engines' work while it waits for the last connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. What uvicorn calls the backlog is how many connections a turn of the loop takes, too: it is small."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, then wait; both at once, because a connection closes when its stream has ended."""
        for server in self.servers:
            server.close()
        drained = asyncio.ensure_future(self._service.drain())
        while not drained.done() and not self.force_exit:  # a second Ctrl-C ends the grace
            await asyncio.wait({drained}, timeout=_LOOK_SECONDS)
        await self._service.end()
        await drained
        if tasks := set(self.server_state.tasks):
            _, waiting = await asyncio.wait(tasks, timeout=_LAST_SECONDS)
            if waiting:  # for a body that does not come, or a reader that does not read
                log.silence_uvicorn()
                LOGGER.warning("cut off at the end: %d", len(waiting))
            for task in waiting:
                task.cancel()
        await super().shutdown(sockets)


def _config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_with(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=2 * settings.max_header_bytes + (1 << 13),
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raise OSError if the address cannot be bound. Port 0 is any free port."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _spare_pauses() -> None:
    """Exempt all objects so far from garbage collection, and make full collections ten times rarer.

    A full collection stops all threads: for 50 ms after the imports alone, for 0.1 s with 1,000 streams open.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION)


def _allow_many_files() -> None:
    """Each connection is an open file; the usual soft limit of 1,024 is below the streams that we serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ignore(number: int, frame: Any) -> None:
    """Ignore a signal that has been handled."""
