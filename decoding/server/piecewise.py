"""PiecewiseResponse: an answer that is sent piece by piece until it ends or its client goes."""

from __future__ import annotations

import asyncio

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class PiecewiseResponse(StreamingResponse):
    """A StreamingResponse without a task group.

    When the client goes, a task group of anyio leaves a circle of references through the traceback of its cancelled
    task. The circle holds the whole answer and waits for the garbage collector.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces. Return early if the client goes."""
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
