"""The peer FastAPI, which is Starlette, on uvicorn with the package websockets, as `pip install` leaves them.

``python -m benchmarks.peers.fastapi_server echo|fanout`` serves until killed.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

_everybody: set[WebSocket] = set()


async def _echo(connection: WebSocket) -> None:
    """Send each message back."""
    await connection.accept()
    try:
        while True:
            await connection.send_text(await connection.receive_text())
    except WebSocketDisconnect:
        pass


async def _fanout(connection: WebSocket) -> None:
    """Send each message to all."""
    await connection.accept()
    _everybody.add(connection)
    try:
        while True:
            message = await connection.receive_text()
            for receiver in list(_everybody):
                try:
                    await receiver.send_text(message)
                except (WebSocketDisconnect, RuntimeError):
                    _everybody.discard(receiver)  # It has gone meanwhile, and its own task goes after it.
    except WebSocketDisconnect:
        pass
    finally:
        _everybody.discard(connection)


class _Server(uvicorn.Server):
    """It says where it listens, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        print(f"listening on ws://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def main(role: str) -> None:
    """Serve on a free port."""
    application = FastAPI()
    application.add_api_websocket_route("/", _echo if role == "echo" else _fanout)
    config = uvicorn.Config(
        application,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="critical",
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=65535)
    _Server(config).run([listener])


if __name__ == "__main__":
    main(sys.argv[1])
