"""PiecewiseResponse: an answer that is sent piece by piece until it ends or its client leaves."""

from __future__ import annotations

import asyncio

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class PiecewiseResponse(StreamingResponse):
    """A StreamingResponse without a task group.

    When the client leaves, anyio's task group keeps a reference cycle through the traceback of its cancelled task. The
    cycle holds the whole answer until the garbage collector runs.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces. Return early if the client leaves."""
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.wait({sending, leaving})
            del sending, leaving  # an error's traceback refers to this frame, and the task to the error
