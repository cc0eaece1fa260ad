"""The peer picows, on uvloop if that is installed, else on the loop that asyncio has.

``python -m benchmarks.peers.picows_server echo|fanout [rooms]`` serves until killed. With ``rooms`` it has
what people write first who want rooms: a dictionary of them by path, each with its members and a number.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

_everybody: set[WSTransport] = set()


class Echo(WSListener):
    """One connection; it is told of frames, and all frames here are whole messages."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send a message back; end where a client ends."""
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


class Fanout(Echo):
    """The same, to everybody."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Count it in."""
        _everybody.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Count it out."""
        _everybody.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send a message to all; end where a client ends."""
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            kind, message = frame.msg_type, frame.get_payload_as_bytes()
            for receiver in _everybody:
                receiver.send(kind, message)
        else:
            super().on_ws_frame(transport, frame)


class Room:
    """Some connections, and what is known of all of them."""

    def __init__(self) -> None:
        self.members: set[WSTransport] = set()
        self.heard = 0


_rooms: dict[bytes, Room] = {}


class InRoom(Echo):
    """One connection in a room."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._room = _rooms.setdefault(path, Room())

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Count it in."""
        self._room.members.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Count it out; a room in which nobody is left is forgotten."""
        self._room.members.discard(transport)
        if not self._room.members and _rooms.get(self._path) is self._room:
            del _rooms[self._path]

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send a message back; end where a client ends."""
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._room.heard += 1
        super().on_ws_frame(transport, frame)


class FanoutInRoom(InRoom):
    """The same, to everybody in the room."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Send a message to all; end where a client ends."""
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._room.heard += 1
            kind, message = frame.msg_type, frame.get_payload_as_bytes()
            for receiver in self._room.members:
                receiver.send(kind, message)
        else:
            super().on_ws_frame(transport, frame)


async def main(role: str, rooms: bool) -> None:
    """Serve on a free port."""

    def accept(request: WSUpgradeRequest) -> WSListener:
        if rooms:
            return InRoom(request.path) if role == "echo" else FanoutInRoom(request.path)
        return Echo() if role == "echo" else Fanout()

    server = await ws_create_server(accept, "127.0.0.1", 0, backlog=65535)
    print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run = importlib.import_module("uvloop").run if importlib.util.find_spec("uvloop") else asyncio.run
    run(main(sys.argv[1], "rooms" in sys.argv[2:]))
