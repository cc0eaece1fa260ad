"""The limit of echo: what comes goes back as it came, in the shortest loop there is in Python.

    python -m benchmarks.peers.reflector echo

Its handshake is WebSocket's; after it there are no frames for it, only bytes. Spoken to in the dialect
`REFLECTED`, whose request is the answer that is wanted.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import select
import socket
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

__all__ = ["serve"]

_SECRET: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3.
_KEY: Final = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)
_MOST: Final = 1 << 16


def serve(receivers: Callable[[int, dict[int, socket.socket]], Iterable[int]]) -> NoReturn:
    """Send what comes on one connection to those that ``receivers`` names, until killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=65535)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    greeted: dict[int, socket.socket] = {}
    connected: dict[int, socket.socket] = {}
    print(f"listening on ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    poll, read, write = epoll.poll, os.read, os.write
    while True:
        for fd, _ in poll():
            if fd in connected:
                try:
                    data = read(fd, _MOST)
                except ConnectionResetError:
                    data = b""
                if not data:
                    connected.pop(fd).close()
                    continue
                for receiver in receivers(fd, connected):
                    if write(receiver, data) != len(data):
                        raise BufferError("a client does not read")
            elif fd == listener.fileno():
                connection, _address = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                greeted[connection.fileno()] = connection
                epoll.register(connection.fileno(), select.EPOLLIN)
            else:
                connection = greeted.pop(fd)
                # A request as the generator sends it is small enough to come whole.
                key = _KEY.search(read(fd, _MOST))
                if key is None:
                    connection.close()
                    continue
                accept = base64.b64encode(hashlib.sha1(key[1] + _SECRET).digest())  # noqa: S324 (RFC 6455)
                write(
                    fd,
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept,
                )
                connected[fd] = connection


if __name__ == "__main__":
    serve(lambda fd, _: (fd,))
