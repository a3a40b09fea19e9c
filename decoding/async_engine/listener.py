"""Listener: the news of one request's tasks, made in the engine's thread."""

from __future__ import annotations

from collections.abc import Callable

from decoding.async_engine.handle import News, RequestHandle
from decoding.engine.candidate import Candidate
from decoding.engine.request import Request
from decoding.engine.tasks.completion import CompletionTask


class Listener:
    """Makes `News` of the steps of one request's tasks, and posts them to its handle.

    post: takes the news. fail: takes the handle and the error of news that could not be made or posted.
    """

    def __init__(
        self,
        handle: RequestHandle,
        model_name: str,
        post: Callable[[News], None],
        fail: Callable[[RequestHandle, Exception], None],
    ) -> None:
        self._handle = handle
        self._model_name = model_name
        self._post, self._fail = post, fail
        self._indices = {request: index for index, request in enumerate(handle.requests)}
        self._started: set[Request] = set()

    def listen(self, task: CompletionTask, candidate: Candidate) -> None:
        """Post the news of a candidate. If that fails, the request fails and the step goes on."""
        try:
            self._post_news(task, candidate)
        except Exception as error:
            self._fail(self._handle, error)

    def _post_news(self, task: CompletionTask, candidate: Candidate) -> None:
        handle = self._handle
        index, is_first = self._indices[task.request], task.request not in self._started
        self._started.add(task.request)
        deltas = task.deltas(candidate, handle.first_index[index]) if handle.is_streamed else []
        result = task.result(self._model_name) if task.is_done else None
        if deltas or result is not None or is_first:
            self._post(News(handle, index, deltas, result, is_first))
