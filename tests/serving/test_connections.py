"""Connections that are silent, slow, unread or too many are closed, and cost others nothing."""

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mondrian.core.errors import MondrianError
from mondrian.serving.http import connections
from mondrian.serving.http.connections import (
    ConnectionLimits,
    ConnectionTable,
    limit_protocol,
)
from mondrian.serving.http.listener import open_listeners, raise_file_limit
from tests.waiting import PATIENCE, wait_for

SWEEP_SECONDS = 0.05
LARGE = 1 << 26  # bytes, more than a connection buffers
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(autouse=True)
def sweep_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", SWEEP_SECONDS)


async def answer(request: Request) -> PlainTextResponse:
    body = await request.body()
    return PlainTextResponse("x" * LARGE if body == b"large" else body.decode())


@dataclass
class LimitedServer:
    port: int
    table: ConnectionTable
    refused: list[None] = field(default_factory=list)

    def connect(self, content: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(content)
        return connection

    def request(self) -> int:
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as client:
            return client.post(f"http://127.0.0.1:{self.port}/", content=b"hello").status_code


@contextmanager
def run_server(exempt: Any = lambda _: False, **limits: Any) -> Iterator[LimitedServer]:
    """Run a small application behind connections with these limits, in a thread."""
    limits = {
        "header_seconds": PATIENCE,
        "keep_alive_seconds": 600,
        "write_seconds": PATIENCE,
    } | limits
    refused: list[None] = []
    table = ConnectionTable(ConnectionLimits(**limits), exempt, lambda: refused.append(None))
    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
    config = uvicorn.Config(
        app, http=limit_protocol(table), log_config=None, lifespan="off", timeout_keep_alive=600
    )
    server, sockets = uvicorn.Server(config), open_listeners("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets)))
    thread.start()
    try:
        yield LimitedServer(sockets[0].getsockname()[1], table, refused)
    finally:
        server.should_exit = True
        thread.join()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def count_received(connection: socket.socket) -> int:
    """Read until the connection ends or is reset; return the number of bytes."""
    num_bytes = 0
    with suppress(ConnectionError):
        while content := connection.recv(1 << 20):
            num_bytes += len(content)
    return num_bytes


def test_a_connection_without_a_whole_head_is_closed() -> None:
    with run_server(header_seconds=0.1) as server, ExitStack() as stack:
        silent = stack.enter_context(server.connect())
        slow = stack.enter_context(server.connect(HEAD[:20]))
        receiving = stack.enter_context(server.connect(HEAD))  # its body has its own limit
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
        assert not is_closed(receiving)
        assert len(server.refused) == 2


def test_a_connection_is_closed_after_a_pause_between_requests_and_not_counted() -> None:
    with run_server(keep_alive_seconds=0) as server:
        with server.connect(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET / HT") as connection:
            while chunk := connection.recv(1000):
                assert not chunk.startswith(b"HTTP/1.1 4")
        assert not server.refused


@pytest.mark.parametrize("content", [b"", HEAD])
def test_a_new_connection_is_served_and_the_longest_waiting_one_closed(content: bytes) -> None:
    with run_server(per_address=5) as server, ExitStack() as stack:
        waiting = [stack.enter_context(server.connect(content)) for _ in range(20)]
        assert server.request() == 200
        wait_for(lambda: len(server.table) <= 5)
        assert all(map(is_closed, waiting[:14]))
        assert not is_closed(waiting[-1])
        assert server.request() == 200
        assert len(server.refused) >= 15


def test_a_trusted_proxy_may_have_many_connections() -> None:
    with run_server(lambda address: address == "127.0.0.1", per_address=1) as server:
        with ExitStack() as stack:
            waiting = [stack.enter_context(server.connect()) for _ in range(5)]
            assert server.request() == 200
            time.sleep(10 * SWEEP_SECONDS)
            assert not any(map(is_closed, waiting))


def test_beyond_the_total_a_connection_gets_503() -> None:
    with run_server(total=8, per_address=8) as server, ExitStack() as stack:
        for _ in range(4):  # half of all: the rest is for other addresses
            stack.enter_context(server.connect(HEAD))
        wait_for(lambda: len(server.table) == 4)
        with server.connect() as refused:
            assert refused.recv(100).startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after")
        assert len(server.refused) == 1


def test_a_client_that_does_not_read_its_response_is_disconnected() -> None:
    with run_server(write_seconds=0.1) as server:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nlarge"
        with server.connect(head) as connection:
            wait_for(lambda: len(server.table) == 1)
            wait_for(lambda: len(server.table) == 0)
            assert count_received(connection) < LARGE


def test_a_taken_port_is_one_line() -> None:
    (taken,) = open_listeners("127.0.0.1", 0)
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(MondrianError) as error:
            open_listeners("127.0.0.1", port)
    message = f"cannot listen on 127.0.0.1 port {port}: Address already in use; give another --port"
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_one_line(host: str) -> None:
    with pytest.raises(MondrianError, match=f"cannot listen on {host} port 5100: ") as error:
        open_listeners(host, 5100)
    assert "\n" not in str(error.value)


def test_localhost_is_heard_on_each_of_its_addresses() -> None:
    sockets = open_listeners("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in sockets}) == 1
        assert "127.0.0.1" in [listener.getsockname()[0] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def test_the_limit_of_open_files_is_raised_and_bounded() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 400:
        pytest.skip(f"the hard limit of open files is {hard}")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        limit = raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit
        assert 256 < limit <= 10_240
        assert ConnectionLimits.for_files(limit).total <= limit // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
