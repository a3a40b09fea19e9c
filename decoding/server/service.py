"""Service: the models, settings and metrics that all requests of one server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

from decoding.async_engine import AsyncEngine
from decoding.completions_api.errors import ApiError, api_error, unknown_model
from decoding.errors import DecodingError, EngineClosedError, EngineError, OverloadedError, shown
from decoding.llm import LLM
from decoding.server.budget import Budget
from decoding.server.log import LOGGER
from decoding.server.metrics import Metrics
from decoding.server.settings import ServerSettings


class Served(NamedTuple):
    """A model, and the engine that runs it."""

    llm: LLM
    engine: AsyncEngine


class Service:
    """The models, settings and metrics of one server."""

    def __init__(self, models: Mapping[str, LLM], settings: ServerSettings) -> None:
        self.models = {
            name: Served(llm, AsyncEngine(llm, max_waiting=settings.max_waiting)) for name, llm in models.items()
        }
        self.settings = settings
        self.metrics = Metrics({name: model.engine for name, model in self.models.items()})
        self.created = int(time.time())
        self.num_open = 0
        self.unread = Budget(settings.max_total_unread_bytes)
        self.is_draining = False
        self._hinted: set[str] = set()

    @property
    def is_ready(self) -> bool:
        """Return True if it takes work."""
        return not self.is_draining and all(model.engine.is_open for model in self.models.values())

    def model(self, name: str) -> Served:
        """Return the model of this name. Raise ApiError 404 if there is none."""
        try:
            return self.models[name]
        except KeyError:
            raise unknown_model(shown(name)[1:-1], list(self.models)) from None

    def hint(self, texts: tuple[str, ...]) -> None:
        """Log each of these texts once."""
        for text in texts:
            if text not in self._hinted:
                self._hinted.add(text)
                LOGGER.warning(text)

    async def drain(self) -> None:
        """Take no new work, and end running requests with an error after the grace period."""
        self.is_draining = True
        grace = self.settings.shutdown_grace
        await asyncio.gather(*(model.engine.close(grace=grace) for model in self.models.values()))

    async def end(self) -> None:
        """End all running requests with an error."""
        await asyncio.gather(*(model.engine.close() for model in self.models.values()))


def wire_error(error: BaseException, given: frozenset[str] = frozenset()) -> ApiError:
    """Return an error as the client may see it. Errors of the engine and of the server itself are logged."""
    if isinstance(error, OverloadedError):
        seconds = max(1, round(error.retry_after))
        return ApiError(429, "the queue is full: try again later", code="queue_full", retry_after=seconds)
    if isinstance(error, EngineClosedError):
        return ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
    if isinstance(error, EngineError) or not isinstance(error, DecodingError):
        LOGGER.error("a request failed", exc_info=error)
    return api_error(error, given)
