"""The protocol bounds the work per connection and turn of the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`")

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_body_of_tiny_chunks_does_not_block_the_loop():
    """40,000 chunks of one byte that arrive at once are read over many turns of the loop, and none is lost."""
    import uvicorn

    from decoding.server.protocol import protocol_with
    from decoding.server.settings import ServerSettings

    bodies = []

    async def app(scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def serve():
        config = uvicorn.Config(app, http=protocol_with(ServerSettings()), lifespan="off", log_config=None, ws="none")
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        await asyncio.sleep(0.05)
        (protocol,) = state.connections
        protocol.data_received(HEAD + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n")
        num_turns = 0
        while not bodies:
            num_turns += 1
            await asyncio.sleep(0)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        server.close()
        return num_turns

    assert asyncio.run(serve()) > 20
    assert bodies == [b"x" * 40_000]


class Connection:
    """A connection with a number of pieces to parse, each of which takes longer than a turn."""

    transport = None

    def __init__(self, name, parsed, num_pieces=1, *, is_short=False):
        self.name, self.parsed, self.num_pieces = name, parsed, num_pieces
        self.begins_short_request = is_short
        self.loop = asyncio.get_running_loop()

    def parse_piece(self):
        """Record the connection; return True if there is more."""
        time.sleep(0.0015)
        self.parsed.append(self.name)
        self.num_pieces -= 1
        return self.num_pieces > 0


def test_short_requests_come_first(monkeypatch):
    """The first short request does not wait; the next ones and the others take turns, a piece each."""
    from decoding.server import protocol

    monkeypatch.setattr(protocol, "_SHORT_REQUEST_SECONDS", 60.0)
    parsed = []

    async def serve():
        turns = protocol._Turns()
        for number in range(3):
            turns.join(Connection(number, parsed, 2))
        turns.join(Connection("first", parsed, is_short=True))
        turns.join(Connection("second", parsed, 2, is_short=True))
        turns.join(Connection("third", parsed, is_short=True))
        while len(parsed) < 10:
            await asyncio.sleep(0)

    asyncio.run(serve())
    assert parsed[:5] == ["first", "second", 0, "third", 1]
    assert sorted(map(str, parsed)) == ["0", "0", "1", "1", "2", "2", "first", "second", "second", "third"]


def test_a_short_request_has_no_body():
    """Only the beginning of a GET request is one; bytes of a body that look like it are not."""
    import uvicorn

    from decoding.server.protocol import protocol_with
    from decoding.server.settings import ServerSettings

    async def app(scope, receive, send):
        """Is never called."""

    async def answers():
        config = uvicorn.Config(app, http=protocol_with(ServerSettings()), lifespan="off", log_config=None, ws="none")
        config.load()
        protocol = config.http_protocol_class(config, uvicorn.server.ServerState(), {})
        found = []
        for data in (b"GET /health HTTP/1.1\r\n", b"POST /tokenize HTTP/1.1\r\n", b"GE"):
            protocol._arrived = bytearray(data)
            found.append(protocol.begins_short_request)
        protocol.conn.receive_data(HEAD)
        protocol.conn.next_event()
        protocol._arrived = bytearray(b"GET ")
        return [*found, protocol.begins_short_request]

    assert asyncio.run(answers()) == [True, False, False, False]
