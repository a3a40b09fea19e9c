"""Run the server: socket, models, signals, exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uvicorn
from prometheus_client import disable_created_metrics

from decoding.llm import LLM
from decoding.server import log
from decoding.server.accept import Acceptor, max_connections
from decoding.server.app import create_app
from decoding.server.edge import Edge
from decoding.server.garbage import collect_if_due, spare_pauses
from decoding.server.log import LOGGER
from decoding.server.protocol import protocol_with
from decoding.server.service import Service
from decoding.server.settings import ServerSettings
from decoding.server.watchdog import Watchdog

_BACKLOG = 2048
_LOOK_SECONDS = 0.1
_MARGIN = 5.0
"""Seconds that the end may take besides the grace."""
_LAST_SECONDS = 0.5
"""After the grace, for the last bytes of answers to be read."""
_SWITCH_INTERVAL = 0.001
"""Seconds for which the engine's thread may hold the GIL before the event loop gets it (Python's own: 0.005)."""


def serve(
    names: Sequence[str],
    load: Callable[[], Mapping[str, LLM]],
    listener: socket.socket,
    settings: ServerSettings,
    on_ready: Callable[[], None],
) -> int:
    """Serve until SIGTERM or Ctrl-C. Then refuse new work, give running requests their grace period, and return the
    exit code.

    names: names of the models. load: returns the models; called in a thread, while requests are answered with 503.
    on_ready: called when the models are loaded. Raises the errors of `load`. The exit code is 1 if an engine has died,
    otherwise 0.
    """
    limit = max_connections(settings.max_connections)
    writer = log.set_up(settings.log_level, settings.max_log_lines)
    watchdog = Watchdog(settings.shutdown_grace + _MARGIN, writer)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    sys.setswitchinterval(_SWITCH_INTERVAL)
    service = Service(names, settings)
    edge = Edge(service)
    loader = _Loader(load, service, edge)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)  # uvicorn raises the signal once more when it is done
    server = _Server(_config(edge, settings), service, limit, watchdog)
    loader.start(server.on_loaded, on_ready)
    server.run(sockets=[listener])
    writer.finish()
    if loader.is_alive:  # nothing can stop it, and the interpreter would wait for its threads
        os._exit(0)
    if loader.error is not None:
        raise loader.error
    return server.exit_code


class _Loader:
    """Load the models in a separate thread."""

    def __init__(self, load: Callable[[], Mapping[str, LLM]], service: Service, edge: Edge) -> None:
        self._load = load
        self._service = service
        self._edge = edge
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    @property
    def is_alive(self) -> bool:
        """True while the models are loading."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, on_end: Callable[[BaseException | None], None], on_ready: Callable[[], None]) -> None:
        """Load, and call `on_end` with None or the error. on_ready: called before `on_end` if there is no error."""

        def run() -> None:
            try:
                self._service.open(self._load())
                self._edge.app = create_app(self._service)
                spare_pauses()
                self._service.is_loading = False
                on_ready()
            except BaseException as error:
                self.error = error
            on_end(self.error)

        self._thread = threading.Thread(target=run, name="decoding loader", daemon=True)
        self._thread.start()


class _Server(uvicorn.Server):
    """uvicorn's server, which also ends the engines' work while it waits for the last connections."""

    def __init__(self, config: uvicorn.Config, service: Service, limit: int, watchdog: Watchdog) -> None:
        """Set up the server. limit: maximum number of open connections."""
        super().__init__(config)
        self._service = service
        self._limit = limit
        self._watchdog = watchdog
        self._accepting: asyncio.Task[None] | None = None
        self.exit_code = 0

    def on_loaded(self, error: BaseException | None) -> None:
        """End the server if loading has failed. May be called from any thread."""
        if error is not None:
            self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with our own accept loop: asyncio's fills the log if file descriptors run out."""
        await self.lifespan.startup()
        self.servers = []
        assert sockets is not None
        acceptor = Acceptor(sockets[0], self._new_protocol, self.server_state.connections, self._limit)
        self._accepting = asyncio.ensure_future(acceptor.run())
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Run uvicorn's periodic work, ten times per second, and end if an engine or the accept loop has died."""
        if not self._service.num_open:
            collect_if_due()
        if not self.should_exit:
            dead = self._accepting is not None and self._accepting.done()
            if dead or self._service.has_failed:
                LOGGER.error(
                    "the accept loop has died: the server ends" if dead else "an engine has died: the server ends"
                )
                self.exit_code = 1
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and wait for connections and engines together, because a connection closes when its stream
        ends.
        """
        self._watchdog.arm()
        if self._accepting is not None:
            self._accepting.cancel()
        for listener in sockets or ():
            listener.close()
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

    def _new_protocol(self) -> asyncio.Protocol:
        state = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        return self.config.http_protocol_class(**state)


def _config(app: Any, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_with(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
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


def _ignore(number: int, frame: Any) -> None:
    """Ignore a signal that has been handled already."""
