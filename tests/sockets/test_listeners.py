"""Which of a host's addresses are listened on."""

from __future__ import annotations

import errno
import socket
from typing import Any

import attrs
import pytest
import trio

from trio_rooms import CannotListen, RoomsError
from trio_rooms._sockets.listeners import open_listeners

ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737)."""


@attrs.define(eq=False)
class Names(trio.abc.HostnameResolver):
    """Says that every name stands for the same addresses."""

    addresses: list[str] = attrs.field(factory=list)

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
async def names() -> Names:
    """What names stand for, in one run of Trio."""
    names = Names()
    trio.socket.set_custom_hostname_resolver(names)
    return names


@pytest.mark.parametrize("addresses", [("127.0.0.1", ELSEWHERE), (ELSEWHERE, "127.0.0.1", "127.0.0.1")])
async def test_an_address_that_is_not_there_is_left_out(
    names: Names, addresses: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """As ::1 of localhost where there is no IPv6: it listens on the others, and says so."""
    names.addresses = list(addresses)
    caplog.set_level("INFO")
    (listener,) = await open_listeners("name", 0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    assert ELSEWHERE in caplog.text


async def test_nothing_is_listened_on_where_no_address_is_there(names: Names) -> None:
    """The error is one of this library and one of the system's."""
    names.addresses = [ELSEWHERE]
    with pytest.raises(CannotListen, match="this machine has no address name") as caught:
        await open_listeners("name", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert isinstance(caught.value, RoomsError)
    assert isinstance(caught.value, OSError)


async def test_an_address_that_is_taken_is_not_left_out(names: Names) -> None:
    """Whoever comes to that address would find somebody else; and nothing stays open."""
    names.addresses = ["127.0.0.2", "127.0.0.1"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=f"port {port} of name is in use"):
            await open_listeners("name", port)
        socket.create_server(("127.0.0.2", port)).close()
