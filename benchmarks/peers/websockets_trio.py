"""The peer websockets on Trio.

``python -m benchmarks.peers.websockets_trio echo|fanout`` serves until killed.
"""

from __future__ import annotations

import contextlib
import functools
import sys

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import ServerConnection, broadcast, serve


async def main(role: str) -> None:
    """Serve on a free port."""
    everybody: set[ServerConnection] = set()

    async def echo(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async def fanout(connection: ServerConnection) -> None:
        everybody.add(connection)
        try:
            async for message in connection:
                await broadcast(list(everybody), message)
        except ConnectionClosed:
            pass
        finally:
            everybody.discard(connection)

    handler = echo if role == "echo" else fanout
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            functools.partial(serve, handler, 0, host="127.0.0.1", compression=None, ping_interval=None)
        )
        port = server.listeners[0].socket.getsockname()[1]
        print(f"listening on ws://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
