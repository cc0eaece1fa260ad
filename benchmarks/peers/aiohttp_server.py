"""The peer aiohttp, with the loop that asyncio has.

``python -m benchmarks.peers.aiohttp_server echo|fanout`` serves until killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from aiohttp import ClientConnectionResetError, WSMsgType, web


async def main(role: str) -> None:
    """Serve on a free port."""
    everybody: set[web.WebSocketResponse] = set()

    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False)
        await connection.prepare(request)
        async for message in connection:
            if message.type is WSMsgType.TEXT:
                await connection.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await connection.send_bytes(message.data)
        return connection

    async def fanout(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False)
        await connection.prepare(request)
        everybody.add(connection)
        try:
            async for message in connection:
                for receiver in list(everybody):
                    with contextlib.suppress(ClientConnectionResetError):
                        if message.type is WSMsgType.TEXT:
                            await receiver.send_str(message.data)
                        elif message.type is WSMsgType.BINARY:
                            await receiver.send_bytes(message.data)
        finally:
            everybody.discard(connection)
        return connection

    application = web.Application()
    application.router.add_get("/", echo if role == "echo" else fanout)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=65535)
    await site.start()
    print(f"listening on ws://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
