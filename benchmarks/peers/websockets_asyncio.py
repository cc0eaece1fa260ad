"""The peer websockets on asyncio, with the loop that asyncio has.

``python -m benchmarks.peers.websockets_asyncio echo|fanout`` serves until killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed


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
                broadcast(everybody, message)
        except ConnectionClosed:
            pass
        finally:
            everybody.discard(connection)

    async with serve(
        echo if role == "echo" else fanout,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        backlog=65535,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"listening on ws://127.0.0.1:{port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
