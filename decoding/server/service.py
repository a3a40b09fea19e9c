"""What all requests of one server share: its models, settings, metrics, and whether it still takes work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from decoding.api.errors import ApiError, api_error, unknown_model
from decoding.errors import DecodingError
from decoding.server.bridge import AsyncEngine, EngineClosedError, OverloadedError
from decoding.server.log import LOGGER
from decoding.server.metrics import Metrics
from decoding.server.settings import ServerSettings


class Service:
    """One server, seen from a request."""

    def __init__(self, engines: Mapping[str, AsyncEngine], settings: ServerSettings) -> None:
        self.engines = dict(engines)
        self.settings = settings
        self.metrics = Metrics(self.engines)
        self.created = int(time.time())
        self.num_open = 0
        self.is_draining = False
        self._hinted: set[str] = set()

    def engine(self, model: str) -> AsyncEngine:
        """The engine of a model; ApiError 404 where there is none of that name."""
        try:
            return self.engines[model]
        except KeyError:
            raise unknown_model(model, list(self.engines)) from None

    def hint(self, texts: tuple[str, ...]) -> None:
        """Log each of these once in the server's life."""
        for text in texts:
            if text not in self._hinted:
                self._hinted.add(text)
                LOGGER.warning(text)

    async def drain(self) -> None:
        """Take no new work; give what runs its grace, then end it with an error."""
        self.is_draining = True
        grace = self.settings.shutdown_grace
        await asyncio.gather(*(engine.close(grace=grace) for engine in self.engines.values()))


def wire_error(error: BaseException, given: frozenset[str] = frozenset()) -> ApiError:
    """An error of a request, of the engine or of our own, as the client may see it; the last kind is logged."""
    if isinstance(error, OverloadedError):
        seconds = max(1, round(error.retry_after))
        return ApiError(429, "the queue is full: try again later", code="queue_full", retry_after=seconds)
    if isinstance(error, EngineClosedError):
        return ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
    if not isinstance(error, DecodingError):
        LOGGER.error("a request failed", exc_info=error)
    return api_error(error, given)
