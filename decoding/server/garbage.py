"""When Python's garbage collector looks at all objects, which stops all threads: when no request is open, if possible.

`python -m benchmarks.collector` prints for how long. Requests leave no cyclic garbage, but asyncio leaves some for each
connection.
"""

from __future__ import annotations

import gc

_FULL_COLLECTION = 100
"""Collections of the middle generation for one of everything, requests or not (Python's own: 10)."""
_IDLE_COLLECTION = 20
"""The same, when there is no request."""


def spare_pauses() -> None:
    """Exempt all objects so far from garbage collection, and make full collections rarer."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION)


def collect_if_due() -> None:
    """Collect everything if there may be something: to be called when no request is open."""
    if gc.get_count()[2] >= _IDLE_COLLECTION:
        gc.collect()
