from __future__ import annotations

import contextlib
import socket
import sys

import pytest

from tests.raw import soon
from trio_rooms._sockets.tcp import _is_silent, has_vanished, unacknowledged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def info(*, probes: int = 0, next_try: float = 0.2, heard: float = 0) -> bytes:
    """What the kernel tells of a connection; times in seconds."""
    told = bytearray(60)
    told[3] = probes
    told[8:12] = round(next_try * 1e6).to_bytes(4, sys.byteorder)
    told[56:60] = round(heard * 1e3).to_bytes(4, sys.byteorder)
    return bytes(told)


@pytest.mark.parametrize(
    ("told", "silent"),
    [
        (info(heard=3600), False),  # An hour without a word from either side, and now one.
        (info(heard=3600, next_try=12.8), False),  # The same, in a tunnel.
        (info(heard=120.5, probes=1), False),  # Reads nothing, and is asked just now.
        (info(heard=100, next_try=102.4), False),
        (info(heard=140, next_try=102.4), True),
        (info(heard=140, probes=2), True),
    ],
)
def test_who_counts_as_vanished(told: bytes, silent: bool) -> None:
    """Who has not been heard for more than two minutes though there was reason to answer."""
    assert _is_silent(told) is silent


async def test_who_is_there_has_not_vanished() -> None:
    """Whether it has read all or reads nothing at all; nor has a socket that is no TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    with client, server:
        assert server.send(b"x") == 1
        await soon(lambda: unacknowledged(server.fileno()) == 0)
        assert not has_vanished(server.fileno())
        with contextlib.suppress(BlockingIOError):
            while True:
                server.send(bytes(100_000))
        assert unacknowledged(server.fileno()) > 0
        assert not has_vanished(server.fileno())
        told = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        assert len(told) == 60
        assert int.from_bytes(told[8:12], sys.byteorder) < 10e6  # What is taken for the next try is one.
        assert int.from_bytes(told[56:60], sys.byteorder) < 60_000
    one, two = socket.socketpair()
    with one, two:
        one.send(b"x")
        assert unacknowledged(one.fileno()) > 0
        assert not has_vanished(one.fileno())
