"""ThreadPool: the threads that share the matrices of a forward pass, or the rows of a sampler's call."""

from __future__ import annotations

import weakref
from threading import Lock

from decoding.errors import ParameterError
from decoding.sampling.kernel.library import ffi, lib


class ThreadPool:
    """Threads of the compiled module, the calling one among them. They start with the first work.

    pool: the `dk_thread_pool`, which works for one caller at a time.
    lock: held while the pool works, if several threads may call.
    A forked child has none of its parent's threads, so the pool starts its own.
    """

    def __init__(self, num_threads: int) -> None:
        """num_threads: at least 1."""
        if num_threads < 1:
            raise ParameterError.single("num_threads", num_threads, "must be at least 1")
        self.num_threads = num_threads
        self.lock = Lock()
        self.pool = lib.dk_thread_pool_new(num_threads)
        if self.pool == ffi.NULL:
            raise MemoryError("no memory for a pool of threads")
        weakref.finalize(self, lib.dk_thread_pool_free, self.pool).atexit = False  # another thread may still compute

    @property
    def num_running(self) -> int:
        """Threads that run now, the calling one among them."""
        return int(lib.dk_thread_pool_running(self.pool))
