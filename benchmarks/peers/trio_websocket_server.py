"""The peer trio-websocket: one task for each connection, which receives and sends.

``python trio_websocket_server.py echo|fanout`` serves until killed.
"""

from __future__ import annotations

import contextlib
import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket


async def main(role: str) -> None:
    """Serve on a free port."""
    everybody: set[WebSocketConnection] = set()

    async def echo(request: WebSocketRequest) -> None:
        connection = await request.accept()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.send_message(await connection.get_message())

    async def fanout(request: WebSocketRequest) -> None:
        connection = await request.accept()
        everybody.add(connection)
        try:
            while True:
                message = await connection.get_message()
                for receiver in list(everybody):
                    with contextlib.suppress(ConnectionClosed):
                        await receiver.send_message(message)
        except ConnectionClosed:
            pass
        finally:
            everybody.discard(connection)

    async with trio.open_nursery() as nursery:
        handler = echo if role == "echo" else fanout
        server = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, None)
        print(f"listening on ws://127.0.0.1:{server.port}", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
