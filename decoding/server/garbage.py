"""Rules for Python's full garbage collections, which stop all threads.

`python -m benchmarks.collector` prints for how long. Requests leave no cyclic garbage, but asyncio leaves some per
connection.
"""

from __future__ import annotations

import gc

_FULL_COLLECTION = 100
"""Collections of the middle generation per full collection at any time (Python's own: 10)."""
_IDLE_COLLECTION = 20
"""Collections of the middle generation after which an idle server runs a full one."""


def spare_pauses() -> None:
    """Exempt all objects so far from garbage collection, and make full collections rarer."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION)


def collect_if_due() -> None:
    """Run a full collection if enough others have passed. Call it only if no request is open."""
    if gc.get_count()[2] >= _IDLE_COLLECTION:
        gc.collect()
