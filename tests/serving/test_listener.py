"""Properties of listening sockets that a client can measure."""

import asyncio
import socket

from mondrian.serving.http.listener import open_listeners


def test_small_packets_of_an_answer_are_sent_at_once() -> None:
    options: list[int] = []

    async def answer_one_client() -> None:
        def on_connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        [listener] = open_listeners("127.0.0.1", 0)
        async with await asyncio.start_server(on_connect, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            await writer.wait_closed()

    asyncio.run(answer_one_client())
    assert options == [1]
