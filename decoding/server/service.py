"""Service: the models, settings and metrics that all requests of one server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

from decoding.async_engine import AsyncEngine
from decoding.completions_api.errors import ApiError, api_error, unknown_model
from decoding.errors import DecodingError, EngineClosedError, EngineError, OverloadedError, shown
from decoding.llm import LLM
from decoding.server.budget import Budget
from decoding.server.log import LOGGER
from decoding.server.metrics import Metrics
from decoding.server.settings import ServerSettings

_T = TypeVar("_T")

_MEMORY_SECONDS = 10
_PARSING_PAUSE = 0.01
"""Seconds between two long bodies that are parsed."""


class Served(NamedTuple):
    """A model, the engine that runs it, and its fingerprint."""

    llm: LLM
    engine: AsyncEngine
    fingerprint: str


class Service:
    """The models, settings and metrics of one server.

    names: names of the models; the models themselves are available after `open`.
    """

    def __init__(self, names: Sequence[str], settings: ServerSettings) -> None:
        self.names = list(names)
        self.models: dict[str, Served] = {}
        self.settings = settings
        self._engines: dict[str, AsyncEngine] = {}
        self.metrics = Metrics(self._engines)
        self.created = int(time.time())
        self.num_open = 0
        self.unread = Budget(settings.max_total_unread_bytes)
        self.bodies = Budget(settings.total_body_bytes)
        self._parser = ThreadPoolExecutor(1, "decoding parser")
        self._parsing = asyncio.Lock()
        self._has_ended = False
        self.is_loading = True
        self.is_draining = False
        self._hinted: set[str] = set()

    def open(self, models: Mapping[str, LLM]) -> None:
        """Set the loaded models. `is_loading` does not change."""
        for name, llm in models.items():
            self._engines[name] = AsyncEngine(llm, max_waiting=self.settings.max_waiting)
            self.models[name] = Served(llm, self._engines[name], llm.system_fingerprint)

    @property
    def has_failed(self) -> bool:
        """Return True if an engine has ended unexpectedly."""
        return not self.is_draining and not all(engine.is_open for engine in list(self._engines.values()))

    @property
    def status(self) -> Literal["loading", "ready", "draining", "failed"]:
        """Return the server's state. It accepts work in state "ready"."""
        if self.is_draining:
            return "draining"
        if self.is_loading:
            return "loading"
        return "failed" if self.has_failed else "ready"

    @property
    def default_model(self) -> str | None:
        """The model of a request that names none: the only model, or None if there are several."""
        return self.names[0] if len(self.names) == 1 else None

    def model(self, name: str) -> Served:
        """Return the model of this name. Raise ApiError 404 if there is none."""
        try:
            return self.models[name]
        except KeyError:
            raise unknown_model(shown(name)[1:-1], list(self.models)) from None

    def require_room(self) -> None:
        """Raise the error of a request to generate, if it would be refused whichever model it names."""
        error: Exception | None = None
        for engine in self._engines.values():
            try:
                engine.require_room()
                return
            except EngineError as refusal:
                error = refusal
        if error is not None:
            raise error

    @property
    def is_full(self) -> bool:
        """Return True if no model takes another prompt now."""
        try:
            self.require_room()
        except EngineError:
            return True
        return False

    def hint(self, texts: tuple[str, ...]) -> None:
        """Log each of these texts once."""
        for text in texts:
            if text not in self._hinted:
                self._hinted.add(text)
                LOGGER.warning(text)

    async def drain(self) -> None:
        """Refuse new work, and end running requests with an error after the grace period."""
        self.is_draining = True
        grace = self.settings.shutdown_grace
        await asyncio.gather(*(model.engine.close(grace=grace) for model in self.models.values()))

    async def parsed(self, work: Callable[[], _T]) -> _T:
        """Parse a long body in the thread for parsing. Raise EngineClosedError once the server has ended.

        There is one such thread, and a pause between two bodies: json.loads keeps the GIL, which delays the event loop,
        and a health check takes several turns of it.
        """
        loop = asyncio.get_running_loop()
        await self._parsing.acquire()
        try:
            if self._has_ended:
                raise EngineClosedError("the server is shutting down")
            return await loop.run_in_executor(self._parser, work)
        finally:
            loop.call_later(_PARSING_PAUSE, self._parsing.release)

    async def end(self) -> None:
        """End all running requests with an error."""
        self._has_ended = True
        self._parser.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(model.engine.close() for model in self.models.values()))


def wire_error(error: BaseException, given: frozenset[str] = frozenset()) -> ApiError:
    """Return an error in the form that the client sees. Errors of the engine and the server are logged."""
    if isinstance(error, OverloadedError):
        seconds = max(1, round(error.retry_after))
        return ApiError(429, "the queue is full: try again later", code="queue_full", retry_after=seconds)
    if isinstance(error, EngineClosedError):
        return ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)
    if _is_for_memory(error) or _is_for_memory(error.__cause__):
        LOGGER.error("a request failed: there was no memory", exc_info=error)
        rule = "there is not enough memory for this request now"
        return ApiError(503, rule, code="out_of_memory", retry_after=_MEMORY_SECONDS)
    if isinstance(error, EngineError) or not isinstance(error, DecodingError):
        LOGGER.error("a request failed", exc_info=error)
    return api_error(error, given)


def _is_for_memory(error: BaseException | None) -> bool:
    """Return True if the error means that memory is exhausted, such as a thread that cannot be started."""
    return isinstance(error, MemoryError) or (type(error) is RuntimeError and "can't start new thread" in str(error))
