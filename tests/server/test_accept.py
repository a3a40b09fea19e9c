"""The accept loop continues after any exception from accept()."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket

import pytest

accept = pytest.importorskip("decoding.server.accept", reason="needs the extra `server`")


def test_a_failed_accept_is_retried_and_logged_once(monkeypatch, caplog):
    """If accept() lacks file descriptors or memory, the loop retries, serves the next client and logs one line."""
    failures = [OSError(errno.EMFILE, "Too many open files"), MemoryError(), OSError(errno.ENFILE, "files")]
    monkeypatch.setattr(accept, "_PAUSE_SECONDS", 0.01)

    class Greeting(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"served")
            transport.close()

    async def serve():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            real = loop.sock_accept

            async def failing(one):
                if failures:
                    raise failures.pop()
                return await real(one)

            loop.sock_accept = failing
            task = asyncio.ensure_future(accept.Acceptor(listener, Greeting, set(), 10).run())
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            answer = await reader.read()
            writer.close()
            task.cancel()
            return answer

    with caplog.at_level(logging.WARNING, "decoding.server"):
        assert asyncio.run(serve()) == b"served"
    assert failures == []
    assert len([one for one in caplog.records if "no connection can be accepted" in one.getMessage()]) == 1


def test_the_default_is_below_the_limit_of_open_files(monkeypatch):
    """The default of max_connections leaves spare file descriptors; a value above the system's limit is an error."""
    monkeypatch.setattr(accept.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(accept.resource, "getrlimit", lambda _: (100, 100))
    allowed = accept.max_connections(None)
    assert 0 < allowed < 100 - accept._SPARE_FILES
    assert accept.max_connections(allowed) == allowed
    with pytest.raises(accept.ParameterError, match="ulimit -n"):
        accept.max_connections(allowed + 20)
    monkeypatch.setattr(accept.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert accept.max_connections(None) == accept.DEFAULT_CONNECTIONS
    assert accept.max_connections(10**6) == 10**6


def test_a_get_does_not_wait_for_a_burst():
    """Of a hundred clients that wait at once, one that has sent a GET is opened with the first dozen."""
    first_bytes = []

    class Reader(asyncio.Protocol):
        def data_received(self, data):
            first_bytes.append(data[:4])

    async def serve():
        with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
            clients = [socket.create_connection(listener.getsockname()) for _ in range(100)]
            for client in clients[:-1]:
                client.sendall(b"POST /v1/completions HTTP/1.1")
            clients[-1].sendall(b"GET /health HTTP/1.1")
            task = asyncio.ensure_future(accept.Acceptor(listener, Reader, set(), 1000).run())
            while len(first_bytes) < 100:
                await asyncio.sleep(0)
            task.cancel()
            for client in clients:
                client.close()

    asyncio.run(asyncio.wait_for(serve(), 60))
    assert first_bytes.index(b"GET ") < 12


def test_the_end_closes_accepted_connections():
    """Clients that are accepted and not opened when the server ends do not wait for an answer."""

    async def serve():
        with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
            clients = [socket.create_connection(listener.getsockname()) for _ in range(100)]
            acceptor = accept.Acceptor(listener, asyncio.Protocol, set(), 1000)
            task = asyncio.ensure_future(acceptor.run())
            while not acceptor._num_accepted:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.1)  # asyncio closes those that were being opened
            for client in clients[50:]:
                client.settimeout(10)
                assert client.recv(1) == b""
            for client in clients:
                client.close()

    asyncio.run(asyncio.wait_for(serve(), 60))


def test_neither_kind_starves():
    """Among more GETs than fit in a turn, another client is opened, and the other way round."""
    for number_of_gets in (1, 50):
        acceptor = accept.Acceptor(None, asyncio.Protocol, set(), 1000)
        acceptor._short.extend(f"get {i}" for i in range(number_of_gets))
        acceptor._others.extend(f"post {i}" for i in range(51 - number_of_gets))
        chosen = acceptor._next()
        assert len(chosen) == 12
        assert {"get 0", "post 0"} <= set(chosen)


def test_open_connections_outlive_the_acceptor():
    """When the acceptor ends, connections that it has opened go on."""
    transports = []

    class Member(asyncio.Protocol):
        def connection_made(self, transport):
            transports.append(transport)

    async def serve():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            task = asyncio.ensure_future(accept.Acceptor(listener, Member, set(), 10).run())
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            while not transports:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            transports[0].write(b"served")
            transports[0].close()
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(asyncio.wait_for(serve(), 60)) == b"served"


def test_a_burst_does_not_exceed_the_limit():
    """Of ten clients that wait at once, only as many are accepted as the limit allows; the others follow later."""
    connections, maximum = set(), 0

    class Member(asyncio.Protocol):
        def connection_made(self, transport):
            nonlocal maximum
            connections.add(transport)
            maximum = max(maximum, len(connections))

    async def serve():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            clients = [socket.create_connection(listener.getsockname()) for _ in range(10)]
            task = asyncio.ensure_future(accept.Acceptor(listener, Member, connections, 3).run())
            num_served = 0
            while num_served < 10:
                await asyncio.sleep(0)
                while connections:
                    num_served += 1
                    connections.pop().close()
            task.cancel()
            for client in clients:
                client.close()

    asyncio.run(asyncio.wait_for(serve(), 60))
    assert maximum == 3
