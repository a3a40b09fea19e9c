"""A few threads that help with the rows of one call, started when they are first needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class Threads:
    """Runs tasks side by side, the first of them on the caller's thread.

    Several callers may share one object. The threads end when it is dropped. A forked child has none of its parent's
    threads, so it starts its own.
    """

    def __init__(self, num_helpers: int) -> None:
        self._num_helpers = num_helpers
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, tasks: Sequence[Callable[[], bool]]) -> bool:
        """Run all tasks; return True if each returned True. Exceptions of tasks are raised here.

        The caller itself runs the tasks that no helper has begun, such as when the other CPUs are busy.
        """
        pool = self._helpers()
        others = [(task, pool.submit(task)) for task in tasks[1:]]
        results = [tasks[0]()]
        for task, future in reversed(others):
            results.append(task() if future.cancel() else future.result())
        return all(results)

    def _helpers(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():
            from concurrent.futures import ThreadPoolExecutor  # most programs never need it

            self._pool = ThreadPoolExecutor(self._num_helpers, thread_name_prefix="decoding")
            self._process = os.getpid()
        return self._pool
